"""Draws what bench/scale.py measured: SVG pictures beside the figures, and the tables of docs/performance.md.

    python -m bench.plots

Plain SVG, written here: no library, the same bytes for the same figures, readable on light and dark pages.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

from bench.scale import show

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "performance.md"
FOLDER = ROOT / "docs" / "performance"
FIGURES = FOLDER / "scale.json"

WIDTH, HEIGHT = 790, 400
LEFT, RIGHT, TOP, BOTTOM = 74, 190, 60, 56
STYLE = """
  text { font: 13px system-ui, sans-serif; fill: #57606a }
  .title { font-size: 16px; font-weight: 600; fill: #1f2328 }
  .grid { stroke: #d8dee4; stroke-width: 1 }
  .line { fill: none; stroke-width: 2.5; stroke-linejoin: round; stroke-linecap: round }
  .guide { fill: none; stroke: #8c959f; stroke-width: 1.5; stroke-dasharray: 4 5 }
  .s0 { stroke: #0969da } .f0 { fill: #0969da; font-weight: 600 }
  .s1 { stroke: #bc4c00 } .f1 { fill: #bc4c00; font-weight: 600 }
  .s2 { stroke: #1a7f37 } .f2 { fill: #1a7f37; font-weight: 600 }
  @media (prefers-color-scheme: dark) {
    text { fill: #9198a1 } .title { fill: #f0f6fc } .grid { stroke: #30363d } .guide { stroke: #6e7681 }
    .s0 { stroke: #4493f8 } .f0 { fill: #4493f8 } .s1 { stroke: #f0883e } .f1 { fill: #f0883e }
    .s2 { stroke: #3fb950 } .f2 { fill: #3fb950 }
  }
"""


@dataclass(frozen=True, slots=True)
class Axis:
    """From values to places in the picture."""

    low: float
    high: float
    ticks: tuple[float, ...]
    log: bool

    def place(self, value: float, start: float, end: float) -> float:
        low, high, at = (math.log10(v) if self.log else v for v in (self.low, self.high, value))
        return start + (end - start) * (at - low) / ((high - low) or 1)


def linear_axis(values: Sequence[float]) -> Axis:
    """From zero, in four to eight round steps."""
    top = max(values) or 1.0
    step = 10 ** math.floor(math.log10(top / 4))
    step = next(step * factor for factor in (1, 2, 2.5, 5, 10) if top / (step * factor) <= 7)
    count = math.ceil(top / step - 1e-9)
    return Axis(0, count * step, tuple(number * step for number in range(count + 1)), log=False)


def log_axis(values: Sequence[float]) -> Axis:
    """Powers of ten, and three times those where there are few."""
    low, high = min(values), max(values)
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    ticks = [factor * 10.0**power for power in powers for factor in (1, 3)]
    low = max(tick for tick in ticks if tick <= low)
    high = min((tick for tick in ticks if tick >= high * 0.999), default=high)
    inside = tuple(tick for tick in ticks if low <= tick <= high)
    return Axis(low, high, inside if len(inside) < 8 else inside[:: 2], log=True)


@dataclass(frozen=True, slots=True)
class Chart:
    """One picture. ``series``: name in the legend -> name of the figure."""

    name: str
    kind: str
    title: str
    across: str
    up: str
    series: Mapping[str, str]
    log_x: bool = True
    log_y: bool = False
    guide: bool = False
    """A dashed line for what grows in proportion, through the highest of the last points."""

    def svg(self, figures: Mapping[str, Mapping[str, float]]) -> str:
        lines = {
            label: [(float(size), value) for size, value in figures[figure].items()]
            for label, figure in self.series.items()
        }
        xs = sorted({x for points in lines.values() for x, _ in points})
        ys = [y for points in lines.values() for _, y in points]
        x = Axis(xs[0], xs[-1], tuple(xs), log=True) if self.log_x else linear_axis(xs)
        y = log_axis(ys) if self.log_y else linear_axis(ys)
        at = placer(x, y)
        parts = [*self._frame(x, y)]
        if self.guide:
            parts.append(guide(max(points[-1] for points in lines.values()), x, y, at))
        labels = spread([(at(*points[-1])[1], label) for label, points in lines.items()])
        for number, (label, points) in enumerate(lines.items()):
            places = [at(*point) for point in points]
            path = " ".join(f"{px:.1f},{py:.1f}" for px, py in places)
            parts.append(f'<polyline class="line s{number}" points="{path}"/>')
            parts += [f'<circle class="f{number}" cx="{px:.1f}" cy="{py:.1f}" r="3.5"/>' for px, py in places]
            parts.append(
                f'<text class="f{number}" x="{WIDTH - RIGHT + 12}" y="{labels[label] + 4:.1f}">{escape(label)}</text>'
            )
        return (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" '
            f'height="{HEIGHT}" role="img" aria-label="{escape(self.title)}">\n<style>{STYLE}</style>\n'
            + "\n".join(parts)
            + "\n</svg>\n"
        )

    def _frame(self, x: Axis, y: Axis) -> list[str]:
        """Title, names of the axes, grid and numbers."""
        at = placer(x, y)
        parts = [
            f'<text class="title" x="{LEFT}" y="24">{escape(self.title)}</text>',
            f'<text x="{LEFT}" y="44">{escape(self.up)}</text>',
            f'<text x="{(LEFT + WIDTH - RIGHT) / 2:.0f}" y="{HEIGHT - 14}" text-anchor="middle">{escape(self.across)}'
            "</text>",
        ]
        for tick in y.ticks:
            py = at(x.high, tick)[1]
            parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{py:.1f}" y2="{py:.1f}"/>')
            parts.append(f'<text x="{LEFT - 10}" y="{py + 4:.1f}" text-anchor="end">{short(tick)}</text>')
        for tick in x.ticks:
            px = at(tick, y.low)[0]
            parts.append(f'<text x="{px:.1f}" y="{HEIGHT - BOTTOM + 20}" text-anchor="middle">{short(tick)}</text>')
        return parts


def placer(x: Axis, y: Axis) -> Callable[[float, float], tuple[float, float]]:
    return lambda across, up: (x.place(across, LEFT, WIDTH - RIGHT), y.place(up, HEIGHT - BOTTOM, TOP))


def guide(last: tuple[float, float], x: Axis, y: Axis, at: Callable[[float, float], tuple[float, float]]) -> str:
    """The way on which everything grows in proportion, up to the point ``last``."""
    last_x, last_y = last
    from_x = max(x.low, last_x * y.low / last_y)
    (x1, y1), (x2, y2) = at(from_x, last_y * from_x / last_x), at(last_x, last_y)
    return f'<line class="guide" x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"/>'


def spread(labels: Sequence[tuple[float, str]]) -> dict[str, float]:
    """Heights at which labels do not lie on each other."""
    placed: dict[str, float] = {}
    lowest = 0.0
    for height, label in sorted(labels):
        lowest = placed[label] = max(height, lowest + 17)
    return placed


def short(value: float) -> str:
    return f"{value:,.10g}"


CHARTS = (
    Chart(
        "messages", "messages", "A longer conversation", "messages in the request", "CPU per request, ms",
        {"translated": "translated, ms", "pass-through": "pass-through, ms"}, log_y=True, guide=True,
    ),
    Chart(
        "tools", "tools", "More tools", "tools in the request", "CPU per request, ms",
        {
            "translated": "translated, ms",
            "pass-through": "pass-through, ms",
            "translated, new tools": "translated, new tools, ms",
        },
        log_y=True, guide=True,
    ),
    Chart(
        "routes", "routes", "More routes", "names or patterns under models", "CPU per request, ms",
        {"names": "names, ms", "patterns": "patterns, ms"},
    ),
    Chart(
        "keys", "keys", "More keys", "keys in keys.yaml", "CPU per request, ms", {"a request": "a request, ms"},
    ),
    Chart(
        "streams-cpu", "streams", "More open streams: CPU", "open streams", "CPU per event, µs",
        {"translated": "µs/event"},
    ),
    Chart(
        "streams-memory", "streams", "More open streams: memory", "open streams", "memory of the process, MB",
        {"translated": "memory, MB"}, log_x=False,
    ),
)  # fmt: skip


def with_tables(page: str, figures: Mapping[str, Any]) -> str:
    """The page with each ``<!-- scale: NAME -->`` followed by its table."""

    def table(found: re.Match[str]) -> str:
        told = figures[found[1]]
        medians = {name: {int(size): value for size, value in row.items()} for name, row in told["figures"].items()}
        return f"<!-- scale: {found[1]} -->\n{show(told['what'], medians)}\n"

    return re.sub(r"<!-- scale: (\w+) -->\n(?:\|.*\n)*", table, page)


def main() -> None:
    figures = json.loads(FIGURES.read_text())
    for chart in CHARTS:
        (FOLDER / f"{chart.name}.svg").write_text(chart.svg(figures[chart.kind]["figures"]), encoding="utf-8")
    PAGE.write_text(with_tables(PAGE.read_text(encoding="utf-8"), figures), encoding="utf-8")


if __name__ == "__main__":
    main()
