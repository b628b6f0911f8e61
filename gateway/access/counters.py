"""Counters: the numbers by which limits are kept, a row for each holder.

| place                | number                                                              |
|----------------------|---------------------------------------------------------------------|
| REQUESTS, TOKENS     | when the bucket is full again, monotonic seconds                     |
| TALLIES, three each  | for day, week and month: its start, tokens and nanodollars spent     |
| RUNNING and beyond   | requests under way, a number for each process                        |

Rules:
* All are floats, and begin at 0. They are exact up to 2**53: nine million dollars in nanodollars.
* Who changes a row, or reads what it decides by, holds the counters: ``with counters: …``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    Row = list[float] | memoryview[float]

REQUESTS, TOKENS, TALLIES = 0, 1, 2
TALLY_WIDTH = 3
RUNNING = TALLIES + 3 * TALLY_WIDTH


class Counters(Protocol):
    """Where the rows are."""

    @property
    def own(self) -> int:
        """The place in a row of the requests that this process has under way."""

    def row(self, kind: str, name: str) -> Row:
        """That of one holder; the same numbers each time."""

    def __enter__(self) -> object: ...
    def __exit__(self, *exc: object) -> None: ...


class OwnCounters:
    """Those of one process, which has no threads that ask."""

    own = RUNNING

    def row(self, kind: str, name: str) -> Row:
        """A new one: whoever asks keeps it."""
        return [0.0] * (RUNNING + 1)

    def __enter__(self) -> None:
        pass

    def __exit__(self, *exc: object) -> None:
        pass
