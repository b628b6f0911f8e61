"""What upstreams can really do: every probe of live_probes.py on every target, and a report of each.

Rules:
* Requests to one target go one after the other; of all targets, at most ``AT_ONCE`` are asked together.
* A fact is a field of the profile that the upstream's own answers contradict. What a model merely did not
  do this time is no fact.
* Without a key that opens it and an answer that streams, nothing more is asked of a target: that would be
  the reason of every other failure.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from gateway.routing import Target
from gateway.server.live_asker import NO, NOT_ASKED, NOT_SHOWN, OK, Asker, Cell
from gateway.server.live_probes import PROBES, Probe
from gateway.server.upstream import new_session

AT_ONCE = 4
"""Targets that are asked at the same time."""

@dataclass(slots=True)
class Report:
    """What was found out about one target."""

    target: Target
    """As configured."""
    names: tuple[str, ...]
    """The names under ``models`` that lead to it."""
    cells: dict[str, Cell] = field(default_factory=dict)
    """Probe -> outcome, in the order of the probes."""
    facts: dict[str, Any] = field(default_factory=dict)
    """Profile field -> value, where the upstream differs from the profile."""
    requests: int = 0
    """How many were sent."""

    @property
    def usable(self) -> bool:
        """The key opens it, and answers stream."""
        return all(self.cells.get(name, Cell(NOT_ASKED)).mark == OK for name in ("auth", "streaming"))


Progress = Callable[[str, str], None]
"""Called with (target, probe) when a probe is through."""


def check_live(
    targets: Sequence[tuple[Target, tuple[str, ...]]],
    *,
    timeout: float,
    progress: Progress = lambda target, probe: None,
) -> list[Report]:
    """Asks each of (target, the names that lead to it). ``timeout``: seconds for one answer."""
    return asyncio.run(check_targets(targets, timeout, progress))


async def check_targets(
    targets: Sequence[tuple[Target, tuple[str, ...]]],
    seconds: float,
    progress: Progress,
    pause: Callable[[float], Awaitable[None]] = asyncio.sleep,
) -> list[Report]:
    """As ``check_live``, inside a running loop; ``seconds`` is its ``timeout``."""
    slots = asyncio.Semaphore(AT_ONCE)

    async def one(target: Target, names: tuple[str, ...]) -> Report:
        async with slots:
            return await check_target(Asker(target, session, seconds, pause), names, progress)

    async with new_session() as session, asyncio.TaskGroup() as group:
        tasks = [group.create_task(one(target, names)) for target, names in targets]
    return [task.result() for task in tasks]


async def check_target(asker: Asker, names: tuple[str, ...], progress: Progress) -> Report:
    """Runs every probe on one target."""
    report = Report(asker.configured, names)
    missing = asker.configured.provider.missing_key
    if missing is not None:
        report.cells["auth"] = Cell(NO, f"no key: set {missing}")
    for probe in PROBES:
        if probe.name not in report.cells:
            report.cells[probe.name] = await _cell(probe, asker) if _worth_asking(report) else Cell(NOT_ASKED)
        progress(asker.configured.name, probe.name)
    report.facts = asker.facts
    report.requests = asker.requests
    return report


def _worth_asking(report: Report) -> bool:
    return all(report.cells[name].mark == OK for name in ("auth", "streaming") if name in report.cells)


async def _cell(probe: Probe, asker: Asker) -> Cell:
    before = asker.target
    try:
        return await probe.run(asker)
    except Exception as error:  # a third party's adapter may raise anything; the other probes go on
        asker.target = before
        return Cell(NOT_SHOWN, f"the gateway's adapter failed on the answer ({type(error).__name__})")
