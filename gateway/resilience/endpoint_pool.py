"""Which key or address of a provider a request uses, where it has several.

Rules:
* A client's session stays with one (the prompt cache lies there): rendezvous hashing, so that a change of the
  list moves no more sessions than it must. The weights are shares.
* A refused one (401, 402, 403) is left alone for REFUSED_SECONDS, one that said 429 until its Retry-After; its
  sessions go to their next choice meanwhile, and come back.
* Rest is a preference: when all rest, the one that is due first is asked.
"""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import blake2b
from math import log

from gateway.routing import Endpoint

REFUSED_SECONDS = 60.0
THROTTLED_SECONDS = 10.0
"""After a 429 that names no time."""
LONGEST_REST = 300.0
"""After a 429 that names a longer time: it is worth a question whether the upstream still means it."""
MAX_RESTING = 1000


class EndpointPool:
    """Who rests, of all providers."""

    def __init__(self) -> None:
        self._resting: dict[Endpoint, float] = {}

    def due_first(self, endpoints: Sequence[Endpoint]) -> Endpoint:
        """The endpoint whose rest ends first."""
        return min(endpoints, key=lambda endpoint: self._resting.get(endpoint, 0.0))

    def ready(self, endpoint: Endpoint, now: float) -> bool:
        """It does not rest."""
        return not self._resting or now >= self._resting.get(endpoint, 0.0)

    def rest(self, endpoint: Endpoint, now: float, seconds: float) -> None:
        """Leaves ``endpoint`` alone for a time."""
        if len(self._resting) >= MAX_RESTING:
            self._resting = {each: until for each, until in self._resting.items() if until > now}
        if len(self._resting) < MAX_RESTING or endpoint in self._resting:
            self._resting[endpoint] = now + seconds

    def succeeded(self, endpoint: Endpoint) -> None:
        """It answered: no rest any more."""
        self._resting.pop(endpoint, None)


def preferred(endpoints: Sequence[Endpoint], session: str) -> Endpoint | None:
    """The session's first choice; None of none."""
    if len(endpoints) < 2:
        return endpoints[0] if endpoints else None
    return max(endpoints, key=lambda endpoint: _score(endpoint, session))


def _score(endpoint: Endpoint, session: str) -> float:
    """Weighted rendezvous hashing: -weight / ln(u) for a u between 0 and 1 that depends on both.

    Over what the endpoint is, not over its name or place: a list in another order is the same list.
    """
    text = f"{session}\0{endpoint.base_url}\0{endpoint.api_key}".encode("utf-8", "replace")
    number = int.from_bytes(blake2b(text, digest_size=6).digest(), "big")
    return -endpoint.weight / log((number + 0.5) / 2**48)
