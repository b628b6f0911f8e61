"""The ledger's file: an SQLite database in WAL mode, which several processes may write to.

Rules:
* A transaction is whole or not there: a killed process leaves a file that opens.
* A request is counted once, whoever brings it, and however often: its id is unique.
* The running totals of budgets change in the transaction of the records that they sum up.
* What is not ours, or of a later version, is left as it is.
* Imported by the thread that writes: sqlite3 is not paid for by a start.
"""

from __future__ import annotations

import fcntl
import os
import sqlite3
import stat
from collections.abc import Iterator, Sequence
from contextlib import closing, suppress
from pathlib import Path
from typing import Literal, NamedTuple, get_args

from gateway.access.limits import Period
from gateway.access.periods import start
from gateway.ledger.record import UsageRecord

Kind = Literal["key", "group", "provider"]
_PERIODS: tuple[Period, ...] = get_args(Period)
"""Of the calendar, in UTC; a week begins on Monday."""

VERSION = 1
BUSY_SECONDS = 2.0
"""How long another writer is waited for."""
MAX_TEXT = 1000
"""Characters of a text; what clients and upstreams name is cut there."""
MAX_NUMBER = 1 << 53
SWEPT_AT_ONCE = 500
"""Old records that one transaction deletes."""
TOTALS_KEPT_SECONDS = 40 * 86400
"""No period is longer."""

_APPLICATION = 0x67774C31
"""Tells our files from other databases (``PRAGMA application_id``)."""
_WAL_BYTES = 16 << 20
"""What the file beside the database shrinks to after a burst."""
_COLUMNS = UsageRecord._fields

_SCHEMA = """
CREATE TABLE requests (
    id INTEGER PRIMARY KEY,
    time REAL NOT NULL,
    request_id TEXT NOT NULL UNIQUE,
    outcome TEXT NOT NULL,
    status INTEGER NOT NULL,
    error_type TEXT NOT NULL,
    "key" TEXT NOT NULL,
    "user" TEXT NOT NULL,
    "group" TEXT NOT NULL,
    session TEXT NOT NULL,
    asked TEXT NOT NULL,
    target TEXT NOT NULL,
    provider TEXT NOT NULL,
    wire TEXT NOT NULL,
    streamed INTEGER NOT NULL,
    input_tokens INTEGER NOT NULL,
    output_tokens INTEGER NOT NULL,
    cache_read_tokens INTEGER NOT NULL,
    cache_write_tokens INTEGER NOT NULL,
    reasoning_tokens INTEGER NOT NULL,
    estimated INTEGER NOT NULL,
    cost INTEGER,
    first_token_seconds REAL,
    duration_seconds REAL NOT NULL,
    attempts INTEGER NOT NULL,
    tried TEXT NOT NULL,
    stop_reason TEXT NOT NULL,
    dropped TEXT NOT NULL
);
CREATE INDEX requests_time ON requests (time);
CREATE TABLE totals (
    kind TEXT NOT NULL,
    name TEXT NOT NULL,
    period TEXT NOT NULL,
    start INTEGER NOT NULL,
    tokens INTEGER NOT NULL,
    nanodollars INTEGER NOT NULL,
    PRIMARY KEY (kind, name, period, start)
) WITHOUT ROWID;
"""
_INSERT = "INSERT OR IGNORE INTO requests ({}) VALUES ({})".format(
    ", ".join(f'"{name}"' for name in _COLUMNS), ", ".join("?" * len(_COLUMNS))
)
_ADD_TOTAL = """
INSERT INTO totals (kind, name, period, start, tokens, nanodollars) VALUES (?, ?, ?, ?, ?, ?)
ON CONFLICT DO UPDATE SET tokens = tokens + excluded.tokens, nanodollars = nanodollars + excluded.nanodollars
"""
_SWEEP = "DELETE FROM requests WHERE id IN (SELECT id FROM requests WHERE time < ? ORDER BY time LIMIT ?)"


_SPOILED = (TypeError, ValueError, OverflowError, sqlite3.InterfaceError, sqlite3.ProgrammingError)
"""What sqlite3 raises for a value that it cannot store."""


class _UnevenBatchError(Exception):
    """Not every record of a batch is new, or fits as it is."""


class Unusable(Exception):
    """The file is not for us to write to; the text says why."""


class Total(NamedTuple):
    """What was spent in one period."""

    kind: Kind
    name: str
    period: Period
    start: int
    """Seconds since the epoch."""
    tokens: int
    """Input, cache writes and output."""
    nanodollars: int
    """Of what has a price."""


def period_starts(now: float) -> dict[Period, int]:
    """When the periods began in which ``now`` lies; seconds since the epoch."""
    return {period: start(period, now) for period in _PERIODS}


class Database:
    """The file, open for writing; for one thread."""

    def __init__(self, path: Path) -> None:
        """Opens or creates it. Raises OSError, sqlite3.Error or Unusable."""
        self._path = path
        _create(path)
        # Before it is opened: should it be replaced just then, we would rather look again than move the wrong one.
        self.identity = identity(path)
        self._connection = sqlite3.connect(path, timeout=BUSY_SECONDS, isolation_level=None)
        try:
            self._set_up()
        except BaseException:
            self._connection.close()
            raise

    def add(self, records: Sequence[UsageRecord]) -> int:
        """Takes all records in one transaction; the number of those that cannot be stored. Raises sqlite3.Error."""
        try:
            if any(map(_is_long, records)):
                raise _UnevenBatchError
            with _Transaction(self._connection) as connection:
                if connection.executemany(_INSERT, records).rowcount != len(records):
                    raise _UnevenBatchError
                sums: _Sums = {}
                for record in records:
                    _count(record, sums)
                connection.executemany(_ADD_TOTAL, _by_period(sums))
        except (_UnevenBatchError, *_SPOILED):
            return self._add_one_by_one(records)
        return 0

    def _add_one_by_one(self, records: Sequence[UsageRecord]) -> int:
        """As ``add``, where not all are new, or one cannot be stored as it is: it must not keep the others out."""
        spoiled = 0
        sums: _Sums = {}
        with _Transaction(self._connection) as connection:
            for record in records:
                try:
                    new = connection.execute(_INSERT, list(map(_stored, record))).rowcount > 0
                except _SPOILED:
                    spoiled += 1
                    continue
                if new:
                    _count(record, sums)
            connection.executemany(_ADD_TOTAL, _by_period(sums))
        return spoiled

    def sweep(self, now: float, before: float) -> bool:
        """Deletes some of the records from ``before`` that time; whether there may be more. Raises sqlite3.Error."""
        with _Transaction(self._connection) as connection:
            connection.execute("DELETE FROM totals WHERE start < ?", (int(now) - TOTALS_KEPT_SECONDS,))
            return connection.execute(_SWEEP, (before, SWEPT_AT_ONCE)).rowcount == SWEPT_AT_ONCE

    def is_gone(self) -> bool:
        """Whether the path no longer leads to this file."""
        return identity(self._path) != self.identity

    def close(self) -> None:
        """Raises nothing."""
        with suppress(sqlite3.Error):
            self._connection.close()

    def _set_up(self) -> None:
        connection = self._connection
        _is_begun(connection)
        connection.execute("PRAGMA journal_mode = WAL")
        # A commit survives the process; only a checkpoint waits for the disk.
        connection.execute("PRAGMA synchronous = NORMAL")
        connection.execute(f"PRAGMA journal_size_limit = {_WAL_BYTES}")
        with _Transaction(connection):
            if not _value(connection, "PRAGMA user_version"):
                for statement in _SCHEMA.split(";"):
                    connection.execute(statement)
                connection.execute(f"PRAGMA application_id = {_APPLICATION}")
                connection.execute(f"PRAGMA user_version = {VERSION}")


class _Transaction:
    """BEGIN IMMEDIATE to COMMIT, or to ROLLBACK after an exception."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    def __enter__(self) -> sqlite3.Connection:
        self._connection.execute("BEGIN IMMEDIATE")
        return self._connection

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            if kind is None:
                self._connection.execute("COMMIT")
        finally:
            # A COMMIT that failed leaves the transaction open; a full disk has ended it already.
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")


def reading(path: Path) -> closing[sqlite3.Connection]:
    """The file, open for reading, also beside writers, and where nothing may be written. A context manager.

    Raises FileNotFoundError, also for an empty file, sqlite3.Error or Unusable.
    """
    if not path.exists():
        raise FileNotFoundError(path)
    uri = f"{path.absolute().as_uri()}?mode=ro"
    connection = sqlite3.connect(uri, uri=True, timeout=BUSY_SECONDS)
    try:
        _value(connection, "PRAGMA schema_version")
    except sqlite3.OperationalError:
        connection.close()
        if Path(f"{path}-wal").exists():
            raise
        # WAL mode wants a file beside it, which this folder does not take. Nor does it take writers.
        connection = sqlite3.connect(f"{uri}&immutable=1", uri=True)
    try:
        if not _is_begun(connection):
            raise FileNotFoundError(path)
        return closing(connection)
    except BaseException:
        connection.close()
        raise


def read_totals(path: Path, now: float) -> list[Total]:
    """What was spent so far in the periods of ``now``. Raises as ``reading``."""
    starts = period_starts(now)
    where = " OR ".join(["(period = ? AND start = ?)"] * len(starts))
    with reading(path) as connection:
        rows = connection.execute(
            f"SELECT kind, name, period, start, tokens, nanodollars FROM totals WHERE {where}",
            [value for pair in starts.items() for value in pair],
        )
        return [Total(*row) for row in rows]


def set_aside(path: Path, broken: tuple[int, int] | None, stamp: str) -> Path | None:
    """Renames the database that was found broken; where to, or None if another process was faster. Raises OSError."""
    to = path.with_name(f"{path.name}.broken-{stamp}")
    with suppress(FileNotFoundError), path.open("rb") as file:
        # Two processes find it broken at the same time: the second must not move what the first has begun anew.
        fcntl.flock(file, fcntl.LOCK_EX)
        if identity(path) != broken:
            return None
        for suffix in ("-shm", "-wal", ""):
            with suppress(FileNotFoundError):
                os.rename(f"{path}{suffix}", f"{to}{suffix}")
        return to
    return None


def identity(path: Path) -> tuple[int, int] | None:
    """Which file the path leads to; None: to none."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


def is_broken(error: BaseException) -> bool:
    """Whether the file is damaged, or is no database at all."""
    return _code(error) in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)


def words(error: BaseException) -> str:
    """Why the file cannot be used, in words for its owner."""
    known = {
        sqlite3.SQLITE_BUSY: "another program keeps it locked",
        sqlite3.SQLITE_LOCKED: "another program keeps it locked",
        sqlite3.SQLITE_FULL: "the disk is full",
        sqlite3.SQLITE_READONLY: "it may not be written to",
        sqlite3.SQLITE_CANTOPEN: "it cannot be opened, or its folder takes no file beside it",
        sqlite3.SQLITE_IOERR: "the disk does not take or give it",
        sqlite3.SQLITE_CORRUPT: "it is damaged",
        sqlite3.SQLITE_NOTADB: "it is no database",
    }
    found = known.get(_code(error) or 0)
    if found is not None:
        return f"{found} ({error})"
    if isinstance(error, FileNotFoundError):
        return "its folder is missing"
    if isinstance(error, OSError):
        return error.strerror or "it cannot be opened"
    return str(error) if isinstance(error, Unusable) else f"{type(error).__name__}: {error}"


# -- inside ----------------------------------------------------------------------------------------------


def _create(path: Path) -> None:
    """An empty file that only its owner reads, if there is none yet."""
    with suppress(FileExistsError):
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
    if not stat.S_ISREG(path.stat().st_mode):
        raise Unusable("it is not a file")


def _is_begun(connection: sqlite3.Connection) -> bool:
    """Whether anything is in it. Raises Unusable for what another program made, or a later version of this one."""
    # In this order: another process may be making it ours just now.
    if not _value(connection, "SELECT count(*) FROM sqlite_master"):
        return False
    if _value(connection, "PRAGMA application_id") != _APPLICATION:
        raise Unusable("it is a database of another program")
    if _value(connection, "PRAGMA user_version") > VERSION:
        raise Unusable("a newer version of the gateway wrote it")
    return True


def _value(connection: sqlite3.Connection, query: str) -> int:
    return int(connection.execute(query).fetchone()[0])


def _code(error: BaseException) -> int | None:
    """SQLite's primary result code; None for other errors."""
    code = getattr(error, "sqlite_errorcode", None)
    return code & 0xFF if code is not None else None


def _is_long(record: UsageRecord) -> bool:
    """Whether a text of it may have to be cut: those that clients choose."""
    texts = (record.asked, record.session, record.target, record.tried, record.dropped, record.stop_reason)
    return sum(map(len, texts)) > MAX_TEXT


def _stored(value: object) -> object:
    """``value`` as the file takes it: bounded, and without halves of surrogate pairs, which clients can send."""
    if isinstance(value, str):
        if len(value) <= MAX_TEXT and value.isascii():
            return value
        return value[:MAX_TEXT].encode("utf-8", "replace").decode()
    return MAX_NUMBER if isinstance(value, int) and value > MAX_NUMBER else value


_Sums = dict[tuple[Kind, str, int], tuple[int, int]]
"""Kind, name and day (since the epoch) -> tokens and nano-dollars."""


def _count(record: UsageRecord, sums: _Sums) -> None:
    tokens = min(record.input_tokens + record.cache_write_tokens + record.output_tokens, MAX_NUMBER)
    cost = min(record.cost or 0, MAX_NUMBER)
    if not tokens and not cost:
        return
    # Budgets are charged when a request is over.
    day = int((record.time + record.duration_seconds) // 86400)
    named: tuple[tuple[Kind, str], ...] = (
        ("key", record.key),
        ("group", record.group),
        ("provider", record.provider),
    )
    for kind, name in named:
        if name:
            before = sums.get((kind, name, day), (0, 0))
            sums[kind, name, day] = before[0] + tokens, before[1] + cost


def _by_period(sums: _Sums) -> Iterator[Total]:
    for (kind, name, day), (tokens, cost) in sums.items():
        for period, begin in period_starts(day * 86400).items():
            yield Total(kind, name, period, begin, tokens, cost)
