"""RetryBudget: a sick upstream is not asked twice as often as a healthy one (promise R7).

Rule: second attempts at a target are at most ``ratio`` of its requests and FREE_RETRIES, both counted over
about the last minute: each count fades by a factor of e in a minute, so that an hour of quiet success buys
no storm afterwards. First attempts are never refused.
"""

from __future__ import annotations

from math import exp

SECONDS = 60.0
FREE_RETRIES = 10.0
"""Per minute; they keep a target with few requests from having no retry at all."""


class RetryBudget:
    """The budget of one target."""

    __slots__ = ("_at", "_requests", "_retries")

    def __init__(self) -> None:
        self._requests = 0.0
        self._retries = 0.0
        self._at = 0.0

    def request(self, now: float) -> None:
        """A request makes its first attempt."""
        self._fade(now)
        self._requests += 1.0

    def take(self, now: float, ratio: float) -> bool:
        """Whether a second attempt is within the budget; if so, it is counted."""
        self._fade(now)
        if self._retries + 1.0 > FREE_RETRIES + ratio * self._requests:
            return False
        self._retries += 1.0
        return True

    def _fade(self, now: float) -> None:
        left = exp((self._at - now) / SECONDS) if now > self._at else 1.0
        self._requests *= left
        self._retries *= left
        self._at = now
