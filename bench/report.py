"""The table of a run: medians over the rounds, their spread, ratios, and the goals.

Rules:
* Spread is (largest - smallest) / median over the rounds.
* A ratio or a difference is formed within each round, of figures taken seconds apart, and then its median
  taken: a machine that grew slower meanwhile does not change it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from statistics import median

from bench.sections import SECTIONS, Record

Rounds = dict[int, float]
"""A figure by round."""

BASE, FLOOR, OURS = "direct", "nginx", "translated"


@dataclass(frozen=True, slots=True)
class Column:
    title: str
    compare: str = ""
    """"added": minus that of ``direct``; "ratio": by that of nginx, and by ours."""


COLUMNS = {
    "first_token_p50_us": Column("first token p50 us", "added"),
    "first_token_p99_us": Column("p99 us", "added"),
    "cpu_us_per_request": Column("CPU us/request", "ratio"),
    "requests_per_s": Column("requests/s"),
    "cpu_us_per_event": Column("CPU us/event", "ratio"),
    "events_per_s": Column("events/s"),
    "event_latency_p50_us": Column("event latency p50 us", "added"),
    "event_latency_p99_us": Column("p99 us", "added"),
    "failed": Column("failed"),
    "idle_mb": Column("idle MB"),
    "open_mb": Column("open MB"),
    "kb_per_stream": Column("KB/stream"),
    "rested_mb": Column("rested MB"),
}


class Results:
    """All records of a run, by what they say."""

    def __init__(self, records: Iterable[Record]) -> None:
        self.records = list(records)

    def rounds(self, section: str, gateway: str, figure: str) -> Rounds:
        """The figure in each round that has it."""
        return {
            record.round: record.figures[figure]
            for record in self.records
            if (record.section, record.gateway) == (section, gateway) and figure in record.figures
        }

    def gateways(self, section: str) -> list[str]:
        return list(dict.fromkeys(record.gateway for record in self.records if record.section == section))

    def figures(self, section: str) -> list[str]:
        present = {name for record in self.records if record.section == section for name in record.figures}
        return [name for name in COLUMNS if name in present]

    def failures(self, section: str) -> dict[str, Counter[str]]:
        """Gateway -> the faults of its streams, where there are any."""
        found: dict[str, Counter[str]] = {}
        for record in self.records:
            if record.section == section and record.failed:
                found.setdefault(record.gateway, Counter()).update(record.faults)
        return found


def paired(first: Rounds, second: Rounds, combine: Callable[[float, float], float]) -> float | None:
    """The median of what ``combine`` makes of two figures of one round; None: no round has both."""
    both = [combine(first[number], second[number]) for number in first if number in second]
    return median(both) if both else None


def added(results: Results, section: str, gateway: str, figure: str) -> float | None:
    """What a gateway adds to the same load without it."""
    ours, base = results.rounds(section, gateway, figure), results.rounds(section, BASE, figure)
    return paired(ours, base, lambda one, other: one - other)


def ratio(results: Results, section: str, gateway: str, other: str, figure: str) -> float | None:
    mine, theirs = results.rounds(section, gateway, figure), results.rounds(section, other, figure)
    return paired(mine, theirs, lambda one, two: one / two if two else float("inf"))


def shown(number: float) -> str:
    """Three digits that count."""
    if abs(number) >= 100:
        return f"{number:,.0f}"
    return f"{number:.1f}" if abs(number) >= 10 else f"{number:.2f}"


def sections(results: Results, bodies: dict[str, int]) -> Iterator[str]:
    """The table of each section; ``bodies``: bytes by name."""
    for name, section in SECTIONS.items():
        gateways, figures = results.gateways(name), results.figures(name)
        if not gateways:
            continue
        sizes = [f"{size / 1000:.1f} KB {body}" for body, size in bodies.items() if body in section.title]
        yield f"\n{name}: {section.title}{''.join(f' ({size})' for size in sizes)}"
        header = ["gateway"]
        for figure in figures:
            header += [COLUMNS[figure].title, "spread"]
            header += {"added": ["added"], "ratio": ["x nginx", "x ours"], "": []}[COLUMNS[figure].compare]
        rows = [[gateway, *_cells(results, name, gateway, figures)] for gateway in gateways]
        yield from aligned([[*header, "others busy"], *rows])
        for gateway, faults in results.failures(name).items():
            for fault, count in faults.most_common(3):
                yield f"  {gateway}: {count} streams failed: {fault}"


def _cells(results: Results, section: str, gateway: str, figures: list[str]) -> Iterator[str]:
    for figure in figures:
        values = list(results.rounds(section, gateway, figure).values())
        middle = median(values) if values else 0.0
        yield shown(middle) if values else "-"
        yield f"{(max(values) - min(values)) / middle:.0%}" if len(values) > 1 and middle else "-"
        if COLUMNS[figure].compare == "added":
            yield _or_dash(added(results, section, gateway, figure))
        elif COLUMNS[figure].compare == "ratio":
            yield _or_dash(ratio(results, section, gateway, FLOOR, figure))
            yield _or_dash(ratio(results, section, gateway, OURS, figure))
    busy = [record.others_busy for record in results.records if (record.section, record.gateway) == (section, gateway)]
    yield f"{median(busy):.0%}"


def _or_dash(number: float | None) -> str:
    return "-" if number is None else shown(number)


def aligned(rows: list[list[str]]) -> Iterator[str]:
    """Columns of equal width, numbers to the right."""
    widths = [max(len(row[place]) for row in rows) for place in range(len(rows[0]))]
    for row in rows:
        first, *others = (cell.ljust(width) if not place else cell.rjust(width) for place, (cell, width) in
                          enumerate(zip(row, widths, strict=True)))
        yield "  " + "  ".join([first, *others])
