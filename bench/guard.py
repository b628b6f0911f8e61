"""Fails when the gateway's CPU time has grown by more than a third, as a multiple of a fixed program's in the same run.

    python -m bench.guard                 measures and compares with recorded.json; exit code 1 when it grew
    python -m bench.guard --record        measures longer and writes recorded.json

The yardstick is reference.py: a slow or busy machine slows both, so the ratio stays. What is measured is CPU time,
never the clock on the wall; the two alternate in each round, and the median of the rounds counts. A figure that grew
is measured once more before it fails.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import sys
import tempfile
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import orjson

from bench.gateways import OURS, ROOT, Contender, Gateway, Launch, Site, client_headers, started
from bench.load import Load, Outcome, messages_request
from bench.processes import cores, cpu_seconds, free_port, on_cores, running, settled_cpu_seconds
from bench.sections import REAL, capture, small_body

RECORDED = Path(__file__).with_name("recorded.json")
MAY_GROW = 4 / 3
ROUNDS = 5
ROUNDS_TO_RECORD = 9

Ratios = dict[str, float]


class Wrong(Exception):
    """An answer was not whole and right; what it cost means nothing."""


# -- what is measured ------------------------------------------------------------------------------------


def load(gateway: Gateway, body: str, stream: str, **how: float) -> Load:
    """``body``: ``small`` (1 KB) or ``real`` (125 KB)."""
    content = small_body() if body == "small" else capture(REAL)
    data = orjson.dumps({**content, "model": stream, "stream": True})
    return Load(gateway.port, messages_request(stream, data, headers=client_headers()), **how)  # type: ignore[arg-type]


async def each_request(gateway: Gateway, body: str, count: int) -> float:
    """CPU microseconds for one request with a short answer."""
    before = cpu(gateway)
    outcome = whole(await load(gateway, body, "short", connections=4, requests=count).run())
    return (settled_cpu_seconds(gateway.pid or 0) - before) / outcome.requests * 1e6


async def each_event_of_a_flood(gateway: Gateway) -> float:
    """CPU microseconds for one of 12,000 deltas that come as fast as they are taken; chance has a part in it: how
    many a read brings."""
    before = cpu(gateway)
    outcome = whole(await load(gateway, "small", "flood-2000", connections=2, requests=6).run())
    return (settled_cpu_seconds(gateway.pid or 0) - before) / outcome.events * 1e6


async def each_event_of_a_pace(gateway: Gateway) -> float:
    """CPU microseconds for one of 1,800 deltas, of 60 streams at 50 a second; the requests are in it."""
    before = cpu(gateway)
    outcome = whole(await load(gateway, "small", "paced-50x30", connections=60, requests=60, ramp=0.2).run())
    return (settled_cpu_seconds(gateway.pid or 0) - before) / outcome.events * 1e6


def cpu(gateway: Gateway) -> float:
    return cpu_seconds(gateway.pid or 0)


def whole(outcome: Outcome) -> Outcome:
    if outcome.failed or not outcome.requests:
        raise Wrong(f"{outcome.failed} of {outcome.requests} answers failed: {dict(outcome.faults)}")
    return outcome


Measure = Callable[[Gateway], Awaitable[float]]

MEASURES: Mapping[str, Measure] = {
    "request of 1 KB": lambda gateway: each_request(gateway, "small", 100),
    "request of 125 KB": lambda gateway: each_request(gateway, "real", 30),
    "event, flood": each_event_of_a_flood,
    "event, paced": each_event_of_a_pace,
}


# -- measuring -------------------------------------------------------------------------------------------


def _reference(site: Site) -> Launch:
    command = ["-m", "bench.reference", "--port", str(site.port), "--upstream", str(site.upstream)]
    return Launch([sys.executable, *command], {"PYTHONPATH": str(ROOT)})


REFERENCE = Contender("reference", "the yardstick", _reference)
GUARDED = tuple(contender for contender in OURS if contender.name in ("translated", "passthrough"))


@dataclass(frozen=True, slots=True)
class Run:
    """Ratios of CPU time, ``gateway: figure`` -> one for each round, and the reference's own microseconds."""

    ratios: dict[str, list[float]]
    reference: dict[str, list[float]]

    def medians(self) -> Ratios:
        return {name: statistics.median(values) for name, values in self.ratios.items()}


def measured(
    contenders: Sequence[Contender],
    measures: Mapping[str, Measure],
    rounds: int,
    *,
    reference: Contender = REFERENCE,
    only: Sequence[str] | None = None,
) -> Run:
    """Starts mock, reference and contenders, and measures them by turns. ``only``: names of ratios."""
    core, others = cores()
    with tempfile.TemporaryDirectory(prefix="gateway-guard-") as name, ExitStack() as stack:
        folder = Path(name)
        port = free_port()
        mock = [sys.executable, "-m", "bench.upstream", "--port", str(port)]
        stack.enter_context(running(mock, folder, "mock.log", others, {"PYTHONPATH": str(ROOT)}))
        first, *gateways = [
            stack.enter_context(started(contender, folder, port, core)) for contender in (reference, *contenders)
        ]
        with on_cores(others):
            return asyncio.run(_rounds(first, gateways, measures, rounds, only))


async def _rounds(
    reference: Gateway,
    gateways: Sequence[Gateway],
    measures: Mapping[str, Measure],
    rounds: int,
    only: Sequence[str] | None,
) -> Run:
    run = Run({}, {})
    for number in range(rounds + 1):
        for name, measure in measures.items():
            asked = [at for at in gateways if only is None or f"{at.name}: {name}" in only]
            if not asked:
                continue
            # The order turns around each time: what warms or disturbs falls on both.
            order = [reference, *asked] if number % 2 else [*asked, reference]
            costs = {at.name: await measure(at) for at in order}
            if number == 0:
                continue  # the first round warms everybody up
            run.reference.setdefault(name, []).append(costs[reference.name])
            for at in asked:
                run.ratios.setdefault(f"{at.name}: {name}", []).append(costs[at.name] / costs[reference.name])
    return run


# -- judging ---------------------------------------------------------------------------------------------


def grown(ratios: Ratios, recorded: Ratios) -> list[str]:
    """The names of ratios that grew by more than a third, and of those that nobody recorded."""
    return [name for name, ratio in ratios.items() if ratio > recorded.get(name, 0.0) * MAY_GROW]


def table(ratios: Ratios, recorded: Ratios) -> str:
    lines = [f"{'CPU time, as a multiple of the reference':44} {'now':>6} {'recorded':>9} {'limit':>6}"]
    for name, ratio in ratios.items():
        known = recorded.get(name)
        limit = "none" if known is None else f"{known * MAY_GROW:.2f}"
        lines.append(f"{name:44} {ratio:6.2f} {'none' if known is None else f'{known:.2f}':>9} {limit:>6}")
    return "\n".join(lines)


def guard(
    recorded: Ratios,
    contenders: Sequence[Contender] = GUARDED,
    measures: Mapping[str, Measure] = MEASURES,
    rounds: int = ROUNDS,
    reference: Contender = REFERENCE,
) -> list[str]:
    """Prints what was measured. The names of the ratios that grew, twice in a row."""
    ratios = measured(contenders, measures, rounds, reference=reference).medians()
    print(table(ratios, recorded))
    suspects = grown(ratios, recorded)
    if suspects:
        print(f"\nonce more: {', '.join(suspects)}")
        again = measured(contenders, measures, rounds, reference=reference, only=suspects).medians()
        print(table(again, recorded))
        suspects = grown(again, recorded)
    return suspects


def record(path: Path) -> None:
    run = measured(GUARDED, MEASURES, ROUNDS_TO_RECORD)
    ratios = {name: round(ratio, 3) for name, ratio in run.medians().items()}
    path.write_text(json.dumps({"ratios": ratios}, indent=2) + "\n")
    print(table(run.medians(), ratios))
    for name, values in run.ratios.items():
        print(f"{name}: {min(values):.2f} to {max(values):.2f} in {len(values)} rounds")
    for name, values in run.reference.items():
        print(f"the reference itself, {name}: {statistics.median(values):.1f} us")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--record", action="store_true", help="write what is measured as the ratios to keep")
    options = parser.parse_args()
    if not sys.platform.startswith("linux"):
        sys.exit("The guard reads other processes' CPU time, which only Linux tells.")
    if options.record:
        return record(RECORDED)
    suspects = guard(json.loads(RECORDED.read_text())["ratios"])
    if suspects:
        sys.exit(
            f"\nCPU time grew by more than a third: {', '.join(suspects)}. Find out why (docs/performance.md), or, "
            "if it is worth it, record the new ratios: make guard ARGS=--record"
        )
    print("\nNothing grew by more than a third.")


if __name__ == "__main__":
    main()
