"""Counters that a supervisor and its workers share, so that a limit is one for all of them.

A table of rows in shared memory, found by a hash of the holder's name; a lock that the system takes back from a process
that dies with it.

Rules:
* Whoever dies leaves its charges: they were made. What it had under way is over (``SharedCounters.release``).
* A row is never given to another holder. Where all ROWS are in use, further holders have theirs for each worker.
* Monotonic time is the same for all processes of a machine.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import tempfile
from contextlib import suppress
from dataclasses import dataclass
from hashlib import blake2b
from typing import TYPE_CHECKING

from gateway.access.counters import RUNNING

if TYPE_CHECKING:
    from gateway.access.counters import Row

ROWS = 16_384
"""More than a limiter holds (limiter.MAX_HOLDERS); those that nobody uses take no memory."""
_BYTES = 8


class SharedCounters:
    """The table; one per supervisor, made before the first worker is forked."""

    def __init__(self, workers: int, rows: int = ROWS) -> None:
        """``workers``: how many there are at most, those that leave among them. Raises OSError."""
        self._rows = rows
        self._width = RUNNING + workers
        memory = mmap.mmap(-1, rows * (self._width + 1) * _BYTES)
        self._names = memoryview(memory)[: rows * _BYTES].cast("Q")
        """The hash of the holder of each row; 0: nobody's."""
        self._numbers = memoryview(memory)[rows * _BYTES :].cast("d")
        self._lock = _lock_file()

    def of(self, worker: int) -> WorkerCounters:
        return WorkerCounters(self, worker)

    def release(self, worker: int) -> None:
        """It is gone. Rows of nobody stay untouched, and take no memory."""
        for place, name in enumerate(self._names):
            if name:
                self._numbers[place * self._width + RUNNING + worker] = 0

    def acquire(self) -> None:
        fcntl.lockf(self._lock, fcntl.LOCK_EX)

    def free(self) -> None:
        fcntl.lockf(self._lock, fcntl.LOCK_UN)

    def find(self, kind: str, name: str) -> Row | None:
        """The row of a holder, which is taken if there is none yet; None: all are in use."""
        wanted = int.from_bytes(blake2b(f"{kind}\0{name}".encode(), digest_size=_BYTES).digest(), "little") or 1
        for step in range(self._rows):
            place = (wanted + step) % self._rows
            if self._names[place] in (0, wanted):
                self._names[place] = wanted
                return self._numbers[place * self._width : (place + 1) * self._width]
        return None


@dataclass(frozen=True, slots=True)
class WorkerCounters:
    """What one worker sees of them."""

    table: SharedCounters
    worker: int

    @property
    def own(self) -> int:
        return RUNNING + self.worker

    def row(self, kind: str, name: str) -> Row:
        """Call it while you hold the counters."""
        found = self.table.find(kind, name)
        return [0.0] * (self.own + 1) if found is None else found

    def __enter__(self) -> None:
        self.table.acquire()

    def __exit__(self, *exc: object) -> None:
        self.table.free()


def _lock_file() -> int:
    """A file without a name, also where nothing can be written."""
    if hasattr(os, "memfd_create"):
        with suppress(OSError):  # a filter of system calls may forbid it
            return os.memfd_create("limits")
    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())
