"""Usage and prices as tables for a terminal, and as values for other programs.

Rules:
* What has no price says so; it never looks like something that cost nothing.
* A table takes the width it is given: first the digits go, then the bars, the caches, and the middle of names.
* Names come from clients and upstreams: what is not printable is not printed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from gateway.ledger.prices import PriceRow
from gateway.ledger.report import UsageRow

BAR_WIDTHS = (11, 30)
"""The least and the most columns of a bar."""
SHORTEST_NAME = 8
"""Columns that are left of a name."""
_EIGHTHS = " ▏▎▍▌▋▊▉█"
_GAP = "  "


def usage_table(by: Sequence[str], rows: Sequence[UsageRow], total: UsageRow, width: int | None, plain: bool) -> str:
    """Rows, their sum, and a bar for each: of its cost, or of its tokens where not all have a price.

    ``rows`` are not empty. ``width`` in columns, None: as wide as it gets. ``plain``: ASCII only.
    """
    bar, none = BAR_WIDTHS[0], -len(_GAP)
    layouts = ((_exact, True, bar), (_short, True, bar), (_short, True, none), (_short, False, none))
    for number, caches, least in layouts:
        cells = _cells(by, rows, total, number, caches)
        wide = _widths(cells)
        left = BAR_WIDTHS[1] if width is None else width - _sum(wide) - len(_GAP)
        if left >= least:
            break
    if width is not None:
        wide = _narrowed(wide, len(by), width)
    lines = [_line(line, wide, len(by), plain) for line in cells]
    if left >= BAR_WIDTHS[0]:
        _add_bars(lines, rows, min(left, BAR_WIDTHS[1]), plain)
    rule = ("-" if plain else "─") * _sum(wide)
    return "\n".join([*lines[:-1], rule, lines[-1]])


def usage_values(by: Sequence[str], row: UsageRow) -> dict[str, Any]:
    """One row by name, with all its digits; ``cost_usd`` is decimal text, None where nothing has a price."""
    return {
        **dict(zip(by, row.by, strict=False)),
        "requests": row.requests,
        "input_tokens": row.input_tokens,
        "output_tokens": row.output_tokens,
        "cache_read_tokens": row.cache_read_tokens,
        "cache_write_tokens": row.cache_write_tokens,
        "cost_usd": None if row.cost is None else f"{row.cost // 10**9}.{row.cost % 10**9:09}",
        "unpriced_requests": row.unpriced,
        "estimated_requests": row.estimated,
    }


def price_values(row: PriceRow) -> dict[str, Any]:
    """One row of the price table by name; amounts are decimal text, None: as input."""
    price = row.price
    amounts = {
        "input": price.input,
        "output": price.output,
        "cache_read": price.cache_read,
        "cache_write": price.cache_write,
    }
    return {
        "provider": row.provider,
        "model": row.match,
        "above_tokens": row.above,
        **{name: None if amount is None else _dollars(amount) for name, amount in amounts.items()},
        "seen": row.seen,
        "source": row.source,
    }


def price_table_text(rows: Iterable[PriceRow]) -> str:
    """The price table in columns, without its sources."""
    heads = ("provider", "model", "above", "input", "output", "cache read", "cache write", "seen")
    keys = ("provider", "model", "above_tokens", "input", "output", "cache_read", "cache_write", "seen")
    found = list(map(price_values, rows))
    cells = [list(heads), *([_cell(values[key]) for key in keys] for values in found)]
    wide = _widths(cells)
    return "\n".join(_line(line, wide, 2, True) for line in cells)


def money(nanodollars: int) -> str:
    """Rounded for people: cents from a dollar on, else hundredths of a cent."""
    if 0 < nanodollars < 50_000:
        return "<$0.0001"
    if nanodollars < 10**9:
        return f"${(nanodollars + 50_000) // 100_000 / 10**4:.4f}" if nanodollars else "$0"
    cents = (nanodollars + 5_000_000) // 10_000_000
    return f"${cents // 100:,}.{cents % 100:02}"


def cost_text(row: UsageRow) -> str:
    """``$1.23``, ``unpriced``, ``$1.23 + 12 unpriced``; ``-`` where nothing was consumed."""
    if row.cost is None:
        return "unpriced" if row.unpriced else "-"
    return f"{money(row.cost)} + {row.unpriced:,} unpriced" if row.unpriced else money(row.cost)


def printable(text: str) -> str:
    """``text`` on one line, without what would move a cursor or turn the direction of writing."""
    return text if text.isprintable() else "".join(each if each.isprintable() else "?" for each in text)


# -- inside ----------------------------------------------------------------------------------------------


def _cells(
    by: Sequence[str], rows: Sequence[UsageRow], total: UsageRow, number: Callable[[int], str], caches: bool
) -> list[list[str]]:
    """Head, rows and totals, in columns."""
    columns: dict[str, Callable[[UsageRow], int]] = {
        "requests": lambda row: row.requests,
        "input": lambda row: row.input_tokens,
        "output": lambda row: row.output_tokens,
    }
    if caches:
        columns["cache read"] = lambda row: row.cache_read_tokens
    if caches and total.cache_write_tokens:
        columns["cache write"] = lambda row: row.cache_write_tokens
    cells = [[*by, *columns, "cost"]]
    for row in (*rows, total):
        names = row.by or ("total", *[""] * (len(by) - 1))
        shown = [printable(name) or "-" for name in names] if row.by else list(names)
        cells.append([*shown, *(number(value(row)) for value in columns.values()), cost_text(row)])
    return cells


def _add_bars(lines: list[str], rows: Sequence[UsageRow], most: int, plain: bool) -> None:
    """To the head and the rows, not to the totals."""
    priced = not any(row.unpriced for row in rows) and any(row.cost for row in rows)
    values = [row.cost or 0 if priced else row.tokens for row in rows]
    largest = max(values) or 1
    longest = max(map(len, lines))
    lines[0] = f"{lines[0]:<{longest}}{_GAP}{'cost share' if priced else 'token share'}"
    for number, value in enumerate(values, 1):
        lines[number] = f"{lines[number]:<{longest}}{_GAP}{_bar(value / largest, most, plain)}".rstrip()


def _bar(share: float, most: int, plain: bool) -> str:
    if plain:
        return "#" * max(round(share * most), 1 if share else 0)
    eighths = max(round(share * most * 8), 1 if share else 0)
    return "█" * (eighths // 8) + _EIGHTHS[eighths % 8].strip()


def _exact(value: int) -> str:
    return f"{value:,}"


def _short(value: int) -> str:
    """Three digits or four."""
    for unit, size in (("T", 10**12), ("G", 10**9), ("M", 10**6), ("k", 10**3)):
        if value >= size:
            return f"{value / size:.3g}{unit}" if value < 999.5 * size else f"{value / size:.0f}{unit}"
    return str(value)


def _dollars(amount: int) -> str:
    whole, rest = divmod(amount, 10**6)
    return f"{whole}.{rest:06}".rstrip("0").rstrip(".")


def _cell(value: Any) -> str:
    return "" if value in (None, 0) else str(value)


def _widths(cells: Sequence[Sequence[str]]) -> list[int]:
    return [max(map(len, column)) for column in zip(*cells, strict=True)]


def _sum(wide: Sequence[int]) -> int:
    return sum(wide) + len(_GAP) * (len(wide) - 1)


def _narrowed(wide: list[int], names: int, width: int) -> list[int]:
    """The widest names give way, down to SHORTEST_NAME."""
    wide = list(wide)
    while _sum(wide) > width and max(wide[:names]) > SHORTEST_NAME:
        wide[wide.index(max(wide[:names]))] -= 1
    return wide


def _line(cells: Sequence[str], wide: Sequence[int], names: int, plain: bool) -> str:
    shown = [
        _cut(cell, width, plain).ljust(width) if number < names else cell.rjust(width)
        for number, (cell, width) in enumerate(zip(cells, wide, strict=True))
    ]
    return _GAP.join(shown).rstrip()


def _cut(text: str, width: int, plain: bool) -> str:
    """The begin and, because there models differ, rather more of the end."""
    if len(text) <= width:
        return text
    head = (width - 1) // 3
    return text[:head] + ("~" if plain else "…") + text[len(text) - (width - 1 - head) :]
