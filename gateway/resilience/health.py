"""Health: what all requests of the process found out about the targets.

Rules:
* Bounded: the MAX_TARGETS targets used last. A target at another address is another target, so that a reload
  needs no word: what is gone is forgotten when its turn comes.
* It holds no request, no error and no routing table.
"""

from __future__ import annotations

from gateway.resilience.circuit_breaker import CircuitBreaker
from gateway.resilience.endpoint_pool import EndpointPool
from gateway.resilience.retry_budget import RetryBudget
from gateway.routing import Target

MAX_TARGETS = 1000


class TargetHealth:
    """What is known about one model at one address."""

    __slots__ = ("breaker", "budget")

    def __init__(self) -> None:
        self.breaker = CircuitBreaker()
        self.budget = RetryBudget()


class Health:
    """One per process."""

    def __init__(self) -> None:
        self.pool = EndpointPool()
        self._targets: dict[tuple[str, str], TargetHealth] = {}

    def of(self, target: Target) -> TargetHealth:
        """What is known about ``target``, as used last."""
        key = (target.name, target.base_url)
        health = self._targets.pop(key, None)
        if health is None:
            health = TargetHealth()
            if len(self._targets) >= MAX_TARGETS:
                del self._targets[next(iter(self._targets))]
        self._targets[key] = health
        return health

    @property
    def size(self) -> int:
        """How many targets are known."""
        return len(self._targets)
