"""Changes: the record of what a translation dropped or altered, and why.

Rule: nothing vanishes silently. Whoever drops, renames, moves or replaces something writes it here,
once for each field and reason. ``gateway explain`` and the debug log show the record.
"""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Change:
    """One thing that goes up otherwise than it came."""

    action: str
    """``dropped``, ``renamed``, ``moved``, ``replaced``, ``lowered`` or ``added``."""
    path: str
    """Where, in the client's request: ``messages[3].content[0]``, ``thinking``."""
    reason: str
    """Why, in one clause."""


@dataclass(slots=True)
class Changes:
    """The changes of one request, in the order in which they were made, each once."""

    record: dict[tuple[str, str, str], Change] = field(default_factory=dict)

    def add(self, action: str, path: str, reason: str) -> None:
        self.record.setdefault((action, path, reason), Change(action, path, reason))

    def __iter__(self):  # type: ignore[no-untyped-def]
        return iter(self.record.values())

    def __len__(self) -> int:
        return len(self.record)
