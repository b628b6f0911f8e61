"""The board: memory that a supervisor and its workers share, with a page for each worker's numbers.

A page is a head and two halves. The head says which half holds the newest numbers, and who writes here:

    number of the last publication: 8 bytes | process, 0: nobody: 8 bytes | half 0 | half 1
    a half: length: 4 bytes | CRC-32: 4 bytes | a pickled Snapshot

Rules:
* A worker writes only to its own page, into the half that does not count, which then counts: one that is killed in the
  middle leaves its numbers of before. Who reads checks the sum, and reads again what was written over meanwhile.
* A page outlives its worker. The next worker there goes on with what it finds; until one comes, its counters count.
* Memory that nobody wrote to takes no room.
"""

from __future__ import annotations

import mmap
import os
import pickle
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gateway.server.metrics import Snapshot

HALF_BYTES = 1 << 20
_HEAD_BYTES = 16
_WORD_BYTES = 8
_SEAL = struct.Struct("=II")
_PAGE_BYTES = _HEAD_BYTES + 2 * HALF_BYTES
_READS = 5
"""How often a page is read that its worker writes to just then; it does so once a second."""


class Board:
    """One per supervisor, made before the first worker is forked."""

    def __init__(self, pages: int) -> None:
        self.pages = pages
        self.supervisor = os.getpid()
        self.memory = mmap.mmap(-1, pages * _PAGE_BYTES)
        self.words = memoryview(self.memory).cast("Q")
        """The same; a word is written at once, and nobody ever reads half of it."""
        self._free = list(range(pages))
        """In the supervisor."""

    def take(self) -> Page | None:
        """A page for a new worker: first those whose worker is gone. None: all are in use."""
        return Page(self, self._free.pop(0)) if self._free else None

    def release(self, page: Page) -> None:
        """Its worker is gone."""
        page.sign(0)
        self._free.insert(0, page.number)


@dataclass(frozen=True, slots=True)
class Page:
    """A worker's place on the board."""

    board: Board
    number: int

    def sign(self, process: int) -> None:
        """Says who writes here from now on; 0: nobody."""
        self.board.words[self._head + 1] = process

    def publish(self, snapshot: Snapshot) -> None:
        """Makes ``snapshot`` what others read here. Raises ValueError when it does not fit; metrics.MAX_BYTES does."""
        data = pickle.dumps(snapshot, pickle.HIGHEST_PROTOCOL)
        if len(data) > HALF_BYTES - _SEAL.size:
            raise ValueError(f"{len(data)} bytes are too many for a page")
        publication = self.board.words[self._head] + 1
        begin = self._half(publication)
        end = begin + _SEAL.size + len(data)
        self.board.memory[begin:end] = _SEAL.pack(len(data), zlib.crc32(data)) + data
        self.board.words[self._head] = publication

    def read(self) -> Snapshot:
        """The newest numbers; empty where nobody wrote."""
        for _ in range(_READS):
            publication = self.board.words[self._head]
            if not publication:
                break
            begin = self._half(publication) + _SEAL.size
            length, seal = _SEAL.unpack(self.board.memory[begin - _SEAL.size : begin])
            data = self.board.memory[begin : begin + length]
            if zlib.crc32(data) == seal:
                snapshot: Snapshot = pickle.loads(data)
                return snapshot
        return {}

    def everyone(self) -> Iterator[tuple[Snapshot, bool]]:
        """What each page says, and whether its worker is there."""
        for page in self._all():
            yield page.read(), page._process > 0

    def processes(self) -> dict[str, int]:
        """Name -> id of the supervisor and of all workers."""
        workers = {str(page.number): page._process for page in self._all()}
        return {"supervisor": self.board.supervisor, **{name: pid for name, pid in workers.items() if pid}}

    def _all(self) -> Iterator[Page]:
        return (Page(self.board, number) for number in range(self.board.pages))

    @property
    def _process(self) -> int:
        return self.board.words[self._head + 1]

    @property
    def _head(self) -> int:
        """The word at which the page begins."""
        return self.number * _PAGE_BYTES // _WORD_BYTES

    def _half(self, publication: int) -> int:
        return self.number * _PAGE_BYTES + _HEAD_BYTES + publication % 2 * HALF_BYTES
