"""CircuitBreaker: a target that keeps failing is left alone for a while (promise R10).

Rules:
* FAILURES failures within SECONDS, and no success between them, open it for SECONDS.
* When that time is over, one request is let through to see (the probe). Its success closes the breaker; its
  failure opens it again; if nothing is heard of it, the next probe comes SECONDS later.
* What was under way when it opened, and fails then, does not keep it open.
* It only says who is worth asking; where nobody else can be asked, the target is asked all the same.
"""

from __future__ import annotations

from collections import deque

FAILURES = 5
SECONDS = 30.0


class CircuitBreaker:
    """The breaker of one target."""

    __slots__ = ("_failures", "_probing", "_until")

    def __init__(self) -> None:
        self._failures: deque[float] = deque(maxlen=FAILURES)
        self._until = 0.0
        """When the next probe may go; 0: closed."""
        self._probing = False

    def ready(self, now: float) -> bool:
        """Closed, or due for a probe."""
        return now >= self._until

    def begin(self, now: float) -> None:
        """An attempt begins; where a probe is due, this is it."""
        if self._until and now >= self._until:
            self._probing = True
            self._until = now + SECONDS

    def succeeded(self) -> None:
        """The target answered: closed."""
        self._failures.clear()
        self._until = 0.0
        self._probing = False

    def failed(self, now: float) -> None:
        """The target failed at an attempt."""
        if self._probing:
            self._open(now + SECONDS)
            return
        self._failures.append(now)
        if not self._until and len(self._failures) == FAILURES and now - self._failures[0] <= SECONDS:
            self._open(now + SECONDS)

    def rest(self, until: float) -> None:
        """The target itself named the time: open until then."""
        self._open(max(self._until, until))

    def _open(self, until: float) -> None:
        self._until = until
        self._probing = False
        self._failures.clear()
