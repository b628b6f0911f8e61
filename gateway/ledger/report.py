"""What `gateway usage` asks of the ledger: sums over requests, by what the reader wants to tell apart."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from gateway.ledger.database import Unusable, reading, words

DIMENSIONS: Mapping[str, str] = {
    "user": '"user"',
    "key": '"key"',
    "group": '"group"',
    "model": "target",
    "provider": "provider",
    "asked": "asked",
    "day": "strftime('%Y-%m-%d', time, 'unixepoch')",
    "hour": "strftime('%Y-%m-%d %H:00', time, 'unixepoch')",
    "outcome": "outcome",
    "session": "session",
}
"""What requests can be told apart by -> the expression for it. Days and hours are those of UTC."""

_TIMES = ("day", "hour")
_TOKENS = "input_tokens + output_tokens + cache_read_tokens + cache_write_tokens"
_SUMS = f"""
count(*), sum(input_tokens), sum(output_tokens), sum(cache_read_tokens), sum(cache_write_tokens),
sum(cost), sum(cost IS NULL AND {_TOKENS} > 0), sum(estimated)
"""


class NoReport(Exception):
    """Why there is nothing to report, in words for the user."""


@dataclass(frozen=True, slots=True)
class UsageRow:
    """The sum over some requests."""

    by: tuple[str, ...]
    """The values that they have in common; empty text: not known, or none."""
    requests: int = 0
    input_tokens: int = 0
    """Neither read from a cache nor written to one."""
    output_tokens: int = 0
    cache_read_tokens: int = 0
    cache_write_tokens: int = 0
    cost: int | None = None
    """Nano-dollars, of those that have a price; None: none has."""
    unpriced: int = 0
    """Requests that took tokens and have no price."""
    estimated: int = 0
    """Requests whose tokens were estimated."""

    @property
    def tokens(self) -> int:
        """All of them."""
        return self.input_tokens + self.output_tokens + self.cache_read_tokens + self.cache_write_tokens


def usage(path: Path, by: Sequence[str], since: float, until: float) -> list[UsageRow]:
    """One row for each combination of ``by`` (of DIMENSIONS), for requests from ``since`` to before ``until``.

    Times ascend; otherwise what costs most comes first. Seconds since the epoch. Raises NoReport.
    """
    names = ", ".join(DIMENSIONS[each] for each in by)
    order = [DIMENSIONS[each] for each in by if each in _TIMES]
    order += ["sum(cost) DESC", f"sum({_TOKENS}) DESC", "count(*) DESC", names]
    query = (
        f"SELECT {names}, {_SUMS} FROM requests WHERE time >= ? AND time < ? "
        f"GROUP BY {names} ORDER BY {', '.join(order)}"
    )
    try:
        with reading(path) as connection:
            rows = connection.execute(query, (since, until)).fetchall()
    except FileNotFoundError:
        raise NoReport(f"there is no ledger yet: {path}; the gateway begins it with the first request") from None
    except (OSError, sqlite3.Error, Unusable) as error:
        raise NoReport(f"{path} cannot be read: {words(error)}") from None
    return [UsageRow(tuple(map(str, row[: len(by)])), *row[len(by) :]) for row in rows]


def total(rows: Sequence[UsageRow]) -> UsageRow:
    """The sum of all rows."""
    costs = [row.cost for row in rows if row.cost is not None]
    return UsageRow(
        (),
        sum(row.requests for row in rows),
        sum(row.input_tokens for row in rows),
        sum(row.output_tokens for row in rows),
        sum(row.cache_read_tokens for row in rows),
        sum(row.cache_write_tokens for row in rows),
        sum(costs) if costs else None,
        sum(row.unpriced for row in rows),
        sum(row.estimated for row in rows),
    )
