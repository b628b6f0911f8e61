"""Ledger: takes the records of finished requests, and sees to it that they reach the file.

Rules:
* ``put`` is an append to a queue: it never waits, never raises, and wakes nobody who is awake.
* One thread owns the file. It gathers records for BATCH_SECONDS and writes up to BATCH_RECORDS in one transaction:
  what a killed process loses is younger than a quarter of a second.
* Whatever is wrong with the file is said once, in words, and once more when it is well again. Meanwhile records
  wait, up to MAX_WAITING; those after them are lost, and counted.
* The thread keeps no process alive.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from gateway.ledger.record import UsageRecord

if TYPE_CHECKING:
    from gateway.ledger.database import Database, Total

DEFAULT_NAME = "usage.db"
MAX_WAITING = 10_000
"""Records that wait while the file cannot be written."""
BATCH_RECORDS = 200
BATCH_SECONDS = 0.1
"""How long a record waits for others."""
OPEN_AFTER_SECONDS = 1.0
"""When the file is opened, if no record comes before: the start has better things to do."""
RETRY_SECONDS = 5.0
"""Pause after trouble with the file."""
ASIDE_SECONDS = 3600.0
"""A broken file is moved aside so often at most: more would be a broken disk."""
SWEEP_SECONDS = 86400.0
_DAY = 86400.0

log = logging.getLogger(__name__)


def ledger_path(written: str | None, directory: Path) -> Path:
    """Where the ledger is: ``server.ledger.file``, or else usage.db, seen from the directory of providers.yaml."""
    return directory / Path(written or DEFAULT_NAME).expanduser()


class Ledger:
    """The records of one process on their way to the file; several processes may share the file."""

    def __init__(self, path: Path, retention_days: int = 400, clock: Callable[[], float] = time.time) -> None:
        """Does nothing yet; ``clock`` gives seconds since the epoch."""
        self.path = path
        self._retention = retention_days * _DAY
        self._clock = clock
        self._queue: deque[UsageRecord] = deque()
        self._batch: list[UsageRecord] = []
        """Taken from the queue, and not yet in the file."""
        self._refused = 0
        """Lost for want of room; counted by ``put``."""
        self._spoiled = 0
        """Lost because the file does not take them; counted by the thread."""
        self._told_lost = 0
        self._awake = threading.Event()
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="ledger", daemon=True)
        self._database: Database | None = None
        self._next_sweep = 0.0
        self._may_set_aside = 0.0
        self._unreadable: str | None = None
        """Why totals cannot be read, once that was said."""
        self.trouble: str | None = None
        """What keeps records from the file at the moment, in words."""

    def start(self) -> None:
        """Begins to write. Not before a fork."""
        self._thread.start()

    def put(self, record: UsageRecord) -> None:
        """Takes a record; from any thread. One whose id the file has already is not counted again."""
        if len(self._queue) < MAX_WAITING:
            self._queue.append(record)
        else:
            self._refused += 1
        if not self._awake.is_set():
            self._awake.set()

    @property
    def lost(self) -> int:
        """How many records did not, and will not, reach the file."""
        return self._refused + self._spoiled

    @property
    def waiting(self) -> int:
        """How many records are on their way."""
        return len(self._queue) + len(self._batch)

    def totals(self, now: float) -> list[Total]:
        """What was spent so far in the periods of ``now``; empty without a file, or with one that cannot be read.

        Reads the file: not for the event loop.
        """
        try:
            from gateway.ledger import database
        except ImportError:
            return []
        try:
            totals = database.read_totals(self.path, now)
        except FileNotFoundError:
            return []
        except Exception as error:
            reason = database.words(error)
            if self._unreadable != reason:
                self._unreadable = reason
                log.warning("%s cannot be read: %s; budgets count what this process spends", self.path, reason)
            return []
        self._unreadable = None
        return totals

    def close(self, seconds: float) -> None:
        """Writes what waits, for so long at most. What comes later is not written."""
        self._closing.set()
        self._awake.set()
        if self._thread.is_alive():
            self._thread.join(seconds)
        if self.waiting:
            log.warning("%d records did not reach %s: %s", self.waiting, self.path, self.trouble or "it took too long")

    # -- the thread -----------------------------------------------------------------------------------

    def _run(self) -> None:
        self._awake.wait(OPEN_AFTER_SECONDS)
        try:
            import gateway.ledger.database  # noqa: F401
        except ImportError as error:
            self.trouble = f"this Python lacks {error.name}"
            log.error("%s cannot be written: %s", self.path, self.trouble)
            return
        while not self._closing.is_set():
            # Cleared before the queue is emptied: a record that comes in between is not overlooked.
            self._awake.clear()
            if self._queue:
                self._closing.wait(BATCH_SECONDS)
            pause = self._work()
            if pause is None:
                self._awake.wait(max(0.0, self._next_sweep - time.monotonic()))
            else:
                self._closing.wait(pause)
        for _ in range(3):
            if self._work() != 0.0:  # it is, after a broken file was moved aside
                break
        if self._database is not None:
            self._database.close()

    def _work(self) -> float | None:
        """Writes what waits, and deletes some of what is too old; seconds to pause, None: until there is more."""
        from gateway.ledger.database import Database

        try:
            if self._database is not None and self._database.is_gone():
                self._forget_database()
            if self._database is None:
                self._database = Database(self.path)
            self._write(self._database)
            pause = self._sweep(self._database)
            self._tell_well()
            return pause
        except Exception as error:
            return self._handle(error)

    def _write(self, database: Database) -> None:
        for _ in range(MAX_WAITING // BATCH_RECORDS + 1):
            while self._queue and len(self._batch) < BATCH_RECORDS:
                # In this order no record is nowhere for a moment, seen from ``waiting``.
                self._batch.append(self._queue[0])
                self._queue.popleft()
            if not self._batch:
                return
            self._spoiled += database.add(self._batch)
            self._batch.clear()

    def _sweep(self, database: Database) -> float | None:
        if time.monotonic() < self._next_sweep or self._closing.is_set():
            return 0.0 if self._queue else None
        now = self._clock()
        if database.sweep(now, now - self._retention):
            return BATCH_SECONDS
        self._next_sweep = time.monotonic() + SWEEP_SECONDS
        return None

    def _handle(self, error: Exception) -> float:
        """Says what is wrong, and mends what can be mended; seconds to pause."""
        from gateway.ledger import database

        reason = database.words(error)
        broken = self._database.identity if self._database is not None else database.identity(self.path)
        self._forget_database()
        if database.is_broken(error) and time.monotonic() >= self._may_set_aside:
            now = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(self._clock()))
            try:
                aside = database.set_aside(self.path, broken, now)
            except OSError as refusal:
                reason += f"; it cannot be moved aside: {database.words(refusal)}"
            else:
                self._may_set_aside = time.monotonic() + ASIDE_SECONDS
                if aside is not None:
                    log.error("%s: %s; moved to %s, a new one begins", self.path, reason, aside.name)
                return 0.0
        if self.trouble != reason:
            self.trouble = reason
            log.error(
                "%s cannot be written: %s; up to %d records wait (server.ledger.file says where it is)",
                self.path, reason, MAX_WAITING,
            )  # fmt: skip
        return RETRY_SECONDS

    def _tell_well(self) -> None:
        lost, self._told_lost = self.lost - self._told_lost, self.lost
        if self.trouble is not None:
            self.trouble = None
            log.warning("%s is written again; %d records were lost", self.path, lost)
        elif lost:
            log.warning("%d records are lost: %s did not take them, or not fast enough", lost, self.path)

    def _forget_database(self) -> None:
        if self._database is not None:
            self._database.close()
            self._database = None
