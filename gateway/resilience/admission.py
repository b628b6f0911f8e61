"""Admission: at most ``max_concurrency`` requests at a target, and whose turn it is when one ends.

Rules:
* Fair: clients take turns; a client that waits with sixty requests delays another by one, not by sixty.
* Bounded: MAX_WAITING at a target, of which one client has at most half.
* A ticket is anything hashable that stands for one request. Whoever was admitted, at once or by ``leave``,
  leaves exactly once; whoever gives up waiting withdraws.
* A target without requests costs nothing; its limit is that of the configuration which entered last.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable
from math import ceil
from typing import Generic, Literal, TypeVar

from gateway.errors import TargetBusy
from gateway.routing import Target

MAX_WAITING = 128
LONGEST_RETRY_AFTER = 30

Entry = Literal["admitted", "queued", "full"]
Key = tuple[str, str]
Ticket = TypeVar("Ticket", bound=Hashable)


class Admission(Generic[Ticket]):
    """All targets of the process."""

    def __init__(self) -> None:
        self._places: dict[Key, _Places[Ticket]] = {}

    def enter(self, target: Target, client: str, ticket: Ticket) -> Entry:
        """Admits ``ticket``, or lets it wait. ``client``: who takes turns with others, e.g. a session."""
        limit = target.profile.max_concurrency
        if limit is None:
            return "admitted"
        places = self._places.setdefault(_key(target), _Places())
        places.limit = limit
        return places.enter(client, ticket)

    def leave(self, target: Target) -> list[Ticket]:
        """One admitted request is over. The tickets that are admitted now; more than one if the limit has grown."""
        key = _key(target)
        places = self._places.get(key)
        if places is None or target.profile.max_concurrency is None:
            return []
        admitted = places.leave()
        if not places.taken:
            del self._places[key]
        return admitted

    def withdraw(self, target: Target, client: str, ticket: Ticket) -> bool:
        """``ticket`` waits no more. False: it does not wait; it may have just been admitted, and then must leave."""
        places = self._places.get(_key(target))
        return places is not None and places.withdraw(client, ticket)

    def waiting(self, target: Target) -> int:
        """How many requests wait."""
        places = self._places.get(_key(target))
        return 0 if places is None else places.waiting

    @property
    def size(self) -> int:
        """How many targets have requests."""
        return len(self._places)


def busy(target: Target) -> TargetBusy:
    """The error for a request that found the queue full, or waited ``queue_timeout`` in vain."""
    return TargetBusy(
        f"{target.name} is busy: it takes {target.profile.max_concurrency} requests at a time",
        retry_after=min(ceil(target.profile.queue_timeout), LONGEST_RETRY_AFTER),
    )


class _Places(Generic[Ticket]):
    """The places of one target, and the line for them."""

    __slots__ = ("_lines", "limit", "taken", "waiting")

    def __init__(self) -> None:
        self.limit = 0
        self.taken = 0
        self.waiting = 0
        self._lines: dict[str, deque[Ticket]] = {}
        """Client -> its tickets; the client whose turn it is stands first. No empty lines."""

    def enter(self, client: str, ticket: Ticket) -> Entry:
        if self.taken < self.limit and not self.waiting:
            self.taken += 1
            return "admitted"
        line = self._lines.get(client)
        if self.waiting >= MAX_WAITING or (line is not None and len(line) >= MAX_WAITING // 2):
            return "full"
        if line is None:
            line = self._lines[client] = deque()
        line.append(ticket)
        self.waiting += 1
        return "queued"

    def leave(self) -> list[Ticket]:
        self.taken -= 1
        admitted: list[Ticket] = []
        while self.taken < self.limit and self.waiting:
            admitted.append(self._next())
            self.taken += 1
        return admitted

    def withdraw(self, client: str, ticket: Ticket) -> bool:
        line = self._lines.get(client)
        if line is None or ticket not in line:
            return False
        line.remove(ticket)
        self.waiting -= 1
        if not line:
            del self._lines[client]
        return True

    def _next(self) -> Ticket:
        """The first ticket of the client whose turn it is; that client goes to the end of the round."""
        client = next(iter(self._lines))
        line = self._lines.pop(client)
        ticket = line.popleft()
        self.waiting -= 1
        if line:
            self._lines[client] = line
        return ticket


def _key(target: Target) -> Key:
    """The model, at whatever key or address: a limit is a limit of all of them together."""
    return target.provider.name, target.model
