"""The goals of the project, and how far a run is from them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from statistics import median

from bench.report import FLOOR, OURS, Results, added, aligned, ratio, shown

PASS = "passthrough"


@dataclass(frozen=True, slots=True)
class Goal:
    """``must`` and ``aim`` are upper bounds; lower ones where ``at_least``."""

    what: str
    section: str
    figure: str
    must: float | None
    aim: float | None = None
    kind: str = "value"
    """"added" to direct, "value", or the name of the gateway it is divided by."""
    gateway: str = OURS
    at_least: bool = False


GOALS = (
    Goal("added to first token, 1 KB, us", "latency-small", "first_token_p50_us", 350, 200, "added"),
    Goal("added to first token, 125 KB, us", "latency-real", "first_token_p50_us", 1000, 600, "added"),
    Goal("    pass-through, us", "latency-real", "first_token_p50_us", 600, 300, "added", PASS),
    Goal("CPU per request, 1 KB, us", "requests-small", "cpu_us_per_request", 280, 180),
    Goal("    by nginx's", "requests-small", "cpu_us_per_request", 4, None, FLOOR),
    Goal("    LiteLLM's by ours", "requests-small", "cpu_us_per_request", 100, None, OURS, "litellm", at_least=True),
    Goal("CPU per request, 125 KB, us", "requests-real", "cpu_us_per_request", 1100, 750),
    Goal("    by nginx's", "requests-real", "cpu_us_per_request", 8, None, FLOOR),
    Goal("    LiteLLM's by ours", "requests-real", "cpu_us_per_request", 25, None, OURS, "litellm", at_least=True),
    Goal("CPU per event, 100 streams at 50/s, us", "paced", "cpu_us_per_event", 50, 38),
    Goal("    by nginx's", "paced", "cpu_us_per_event", 2, None, FLOOR),
    Goal("    by smg's", "paced", "cpu_us_per_event", 1, None, "smg"),
    Goal("added latency of an event p50, us", "paced", "event_latency_p50_us", 120, 80, "added"),
    Goal("added latency of an event p99, us", "paced", "event_latency_p99_us", 1000, 400, "added"),
    Goal("unpaced events per second", "flood", "events_per_s", 80_000, 120_000, at_least=True),
    Goal("failed of 1,000 open streams", "open-streams", "failed", 0),
    Goal("    memory in all, MB", "open-streams", "open_mb", 140),
    Goal("    KB a stream", "open-streams", "kb_per_stream", None, 40),
    Goal("memory 60 s after load, by idle", "open-streams", "rested_by_idle", 1.5),
    Goal("start to first 200, s", "start", "first_200_s", 0.7, 0.4),
    Goal("idle memory, MB", "start", "idle_mb", 40, 30),
)


def goals(results: Results) -> Iterator[str]:
    """A table; a goal whose section did not run is left out."""
    rows = [["goal", "must", "aim", "measured", ""]]
    for goal in GOALS:
        value = _value(results, goal)
        if value is not None:
            bounds = ["" if bound is None else shown(bound) for bound in (goal.must, goal.aim)]
            rows.append([goal.what, *bounds, shown(value), verdict(goal, value)])
    if len(rows) > 1:
        yield f"\nGoals ({OURS}, where nothing else is said)"
        yield from aligned(rows)


def _value(results: Results, goal: Goal) -> float | None:
    if goal.kind == "added":
        return added(results, goal.section, goal.gateway, goal.figure)
    if goal.kind != "value":
        return ratio(results, goal.section, goal.gateway, goal.kind, goal.figure)
    values = results.rounds(goal.section, goal.gateway, goal.figure)
    return median(values.values()) if values else None


def verdict(goal: Goal, value: float) -> str:
    """"met", "aim met", or by how much it is missed."""

    def holds(bound: float | None) -> bool:
        return bound is not None and (value >= bound if goal.at_least else value <= bound)

    if holds(goal.aim) or (goal.aim is None and holds(goal.must)):
        return "aim met" if goal.aim is not None else "met"
    if holds(goal.must):
        return "met"
    bound = goal.must if goal.must is not None else goal.aim
    assert bound is not None
    missed = "missed" if goal.must is not None else "aim missed"
    if not bound or value >= 2 * bound:
        return f"{missed}: {shown(value / bound)} times that" if bound else missed
    return f"{missed} by {abs(value / bound - 1):.0%}"
