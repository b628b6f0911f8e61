"""Changes: the record of what a translation dropped or altered, and why.

Rule: nothing vanishes silently. Whoever drops, renames, moves or replaces something writes it here,
once for each field and reason. ``gateway explain`` and the debug log show the record.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple


class Change(NamedTuple):
    """One thing that goes up otherwise than it came."""

    action: str
    """``dropped``, ``renamed``, ``moved``, ``replaced``, ``lowered`` or ``added``."""
    path: str
    """Where, in the client's request: ``messages[3].content[0]``, ``thinking``."""
    reason: str
    """Why, in one clause."""


class Changes:
    """The changes of one request, in the order in which they were made, each once."""

    __slots__ = ("_record",)

    def __init__(self) -> None:
        self._record: dict[Change | tuple[str, str, str], None] = {}

    def add(self, action: str, path: str, reason: str) -> None:
        self._record[action, path, reason] = None

    def update(self, others: Iterable[Change]) -> None:
        for change in others:
            self._record[change] = None

    def __iter__(self) -> Iterator[Change]:
        return (Change(*change) for change in self._record)

    def __len__(self) -> int:
        return len(self._record)
