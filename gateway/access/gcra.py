"""Bucket: so much a minute, by the generic cell rate algorithm (GCRA).

Rules:
* A full bucket holds one minute's worth; it fills steadily, and never above that.
* The state is one number, the time at which the bucket is full again. It is kept in seconds, so that after a
  change of the limit the same share of the bucket is left.
* What is larger than the whole bucket is let through when the bucket is full, and leaves a debt; debts are at
  most LONGEST_DEBT.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gateway.access.counters import Row

MINUTE = 60.0
LONGEST_DEBT = 300.0
"""Seconds; whoever took more is let off the rest."""

_ROUNDING = 1e-6
"""Seconds; what floats may be wrong by."""


class Bucket:
    """One bucket; every method is given the limit, per minute, and the time, in monotonic seconds."""

    __slots__ = ("_at", "_row")

    def __init__(self, row: Row, at: int) -> None:
        """Its number is ``row[at]``; 0: full."""
        self._row = row
        self._at = at

    def wait(self, amount: int, limit: int, now: float) -> float:
        """Seconds until ``amount`` may be taken; 0: now."""
        missing = self._row[self._at] - now
        if missing <= _ROUNDING:
            return 0.0
        cost = amount * MINUTE / limit
        wait = missing + cost - MINUTE if cost < MINUTE else missing
        return wait if wait > _ROUNDING else 0.0

    def take(self, amount: float, limit: int, now: float) -> float:
        """Takes ``amount``, whether or not it is there. The seconds that it cost."""
        full_at = max(self._row[self._at], now)
        cost = amount * MINUTE / limit
        if full_at + cost > now + MINUTE + LONGEST_DEBT:
            cost = max(0.0, now + MINUTE + LONGEST_DEBT - full_at)
        self._row[self._at] = full_at + cost
        return cost

    def correct(self, seconds: float, amount: int, limit: int, now: float) -> None:
        """What was taken before, and cost ``seconds``, was ``amount``: gives back, or takes the rest."""
        missing = amount * MINUTE / limit - seconds
        if missing > 0:
            self.take(missing * limit / MINUTE, limit, now)
        else:
            self._row[self._at] += missing
