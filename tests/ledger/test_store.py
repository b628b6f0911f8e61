"""What is put into the ledger is in the file, once; and what is wrong with the file is the ledger's problem alone."""

from __future__ import annotations

import os
import resource
import sqlite3
import stat
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from gateway.ledger import database
from gateway.ledger.database import MAX_NUMBER, MAX_TEXT, Database
from gateway.ledger.record import UsageRecord
from gateway.ledger.store import BATCH_RECORDS, MAX_WAITING, Ledger, ledger_path
from tests.ledger.records import NOON, SECONDS, Listener, record, rows

Begin = Callable[..., Ledger]

FULL = UsageRecord(
    time=NOON + 0.25,
    request_id="req_full",
    outcome="client_closed",
    status=499,
    error_type="api_error",
    key="laptop",
    user="änna",
    group="dev",
    session="0b9f",
    asked="claude-sonnet-5",
    target="lab/qwen3:8b",
    provider="lab",
    wire="openai-chat",
    streamed=True,
    input_tokens=1,
    output_tokens=2,
    cache_read_tokens=3,
    cache_write_tokens=4,
    reasoning_tokens=5,
    estimated=True,
    cost=6,
    first_token_seconds=0.5,
    duration_seconds=1.5,
    attempts=2,
    tried="lab/other: 503",
    stop_reason="end_turn",
    dropped="thinking",
)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "usage.db"


# -- what is written --------------------------------------------------------------------------------------


def test_a_record_is_kept_whole(begin: Begin, path: Path) -> None:
    ledger = begin()
    ledger.put(FULL)
    ledger.put(record(request_id="req_bare"))
    ledger.close(SECONDS)
    names = ", ".join(f'"{name}"' for name in UsageRecord._fields)
    assert rows(path, names) == [tuple(FULL), tuple(record(request_id="req_bare"))]
    assert (ledger.lost, ledger.waiting, ledger.trouble) == (0, 0, None)


def test_only_its_owner_reads_the_file(begin: Begin, path: Path) -> None:
    before = os.umask(0)
    try:
        ledger = begin()
        ledger.put(record())
        ledger.close(SECONDS)
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_the_other_files_of_the_database_are_as_private(path: Path) -> None:
    with closing(Database(path)) as opened:
        opened.add([record()])
        modes = {each.name: stat.S_IMODE(each.stat().st_mode) for each in path.parent.iterdir()}
    assert modes == dict.fromkeys(("usage.db", "usage.db-wal", "usage.db-shm"), 0o600)


def test_what_comes_one_by_one_arrives_without_being_asked_for(begin: Begin, path: Path) -> None:
    ledger = begin()
    for number in range(3):
        ledger.put(record(request_id=f"req_{number}"))
        wait_until_written(ledger)
        assert len(rows(path)) == number + 1


def test_a_request_is_counted_once(begin: Begin, path: Path) -> None:
    """Also by another process, and after a restart."""
    once = record(key="laptop", output_tokens=5)
    for _ in range(2):
        ledger = begin()
        ledger.put(once)
        ledger.put(once)
        ledger.close(SECONDS)
    assert rows(path) == [once.request_id]
    assert {total.tokens for total in ledger.totals(NOON)} == {5}


def test_what_clients_and_upstreams_name_is_bounded(begin: Begin, path: Path) -> None:
    ledger = begin()
    ledger.put(record(asked="m" * 5000, session="a\ud800b", output_tokens=1 << 80, cost=1 << 80, key="k"))
    ledger.close(SECONDS)
    assert rows(path, "asked, session, output_tokens, cost") == [("m" * MAX_TEXT, "a?b", MAX_NUMBER, MAX_NUMBER)]
    assert {(total.tokens, total.nanodollars) for total in ledger.totals(NOON)} == {(MAX_NUMBER, MAX_NUMBER)}


def test_one_record_that_cannot_be_stored_keeps_no_other_out(begin: Begin, path: Path, listener: Listener) -> None:
    ledger = begin()
    good = record()
    ledger.put(record(asked=object()))
    ledger.put(good)
    ledger.close(SECONDS)
    assert rows(path) == [good.request_id]
    assert ledger.lost == 1
    assert listener.said == [f"1 records are lost: {path} did not take them, or not fast enough"]


def test_more_than_a_batch_is_written(begin: Begin, path: Path) -> None:
    ledger = begin()
    for _ in range(BATCH_RECORDS * 3 + 1):
        ledger.put(record())
    ledger.close(SECONDS)
    assert len(rows(path)) == BATCH_RECORDS * 3 + 1


def test_the_queue_is_bounded_and_what_is_lost_is_counted(path: Path, listener: Listener) -> None:
    ledger = Ledger(path)
    each = record()
    for _ in range(MAX_WAITING + 7):
        ledger.put(each)
    assert (ledger.waiting, ledger.lost) == (MAX_WAITING, 7)
    ledger.close(SECONDS)
    assert listener.said == [f"{MAX_WAITING} records did not reach {path}: it took too long"]


def test_nothing_is_done_before_it_is_begun(path: Path) -> None:
    ledger = Ledger(path)
    assert ledger.totals(NOON) == []
    assert not path.exists()


@pytest.mark.parametrize(
    ("written", "found"),
    [(None, "/etc/gateway/usage.db"), ("team.db", "/etc/gateway/team.db"), ("/var/lib/u.db", "/var/lib/u.db")],
)
def test_where_it_is(written: str | None, found: str) -> None:
    assert ledger_path(written, Path("/etc/gateway")) == Path(found)


# -- retention --------------------------------------------------------------------------------------------


def test_old_records_are_deleted_a_few_at_a_time(
    begin: Begin, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database, "SWEPT_AT_ONCE", 10)
    day = 86400
    with closing(Database(path)) as opened:
        opened.add([record(time=NOON - 31 * day) for _ in range(95)])
        opened.add([record(request_id="req_kept", time=NOON - 29 * day, key="k", output_tokens=1)])
        opened.add([record(request_id="req_old", time=NOON - 60 * day, key="k", output_tokens=1)])
    ledger = begin(retention_days=30, clock=lambda: NOON)
    wait(lambda: rows(path) == ["req_kept"])
    ledger.close(SECONDS)
    with closing(sqlite3.connect(path)) as connection:
        starts = {start for (start,) in connection.execute("SELECT start FROM totals")}
    assert min(starts) >= NOON - 41 * day


# -- trouble ----------------------------------------------------------------------------------------------


def wait(reached: Callable[[], bool]) -> None:
    end = time.monotonic() + SECONDS
    while not reached():
        assert time.monotonic() < end
        time.sleep(0.002)


def wait_until_written(ledger: Ledger) -> None:
    wait(lambda: not ledger.waiting)


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Another program has taken the file for itself."""
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        yield
        other.execute("ROLLBACK")


@contextmanager
def full_disk(path: Path) -> Iterator[None]:
    """No file grows beyond what this one has."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@contextmanager
def missing_folder(path: Path) -> Iterator[None]:
    aside = path.parent.with_name("aside")
    path.parent.rename(aside)
    yield
    aside.rename(path.parent)


@contextmanager
def replaced_by_a_folder(path: Path) -> Iterator[None]:
    aside = path.with_name("aside")
    path.rename(aside)
    path.mkdir()
    yield
    path.rmdir()
    aside.rename(path)


@pytest.mark.parametrize(
    ("trouble", "words"),
    [
        (locked, r"another program keeps it locked"),
        (full_disk, r"the disk (is full|does not take or give it)"),
        (missing_folder, r"its folder is missing"),
        (replaced_by_a_folder, r"it is not a file"),
    ],
)
def test_while_the_file_cannot_be_written_records_wait(
    begin: Begin,
    tmp_path: Path,
    listener: Listener,
    monkeypatch: pytest.MonkeyPatch,
    trouble: Callable[[Path], object],
    words: str,
) -> None:
    """It is said once, and once more when it is over; nothing is lost, and the order stays."""
    monkeypatch.setattr(database, "BUSY_SECONDS", 0.01)
    tried: list[None] = []
    work = Ledger._work
    monkeypatch.setattr(Ledger, "_work", lambda self: tried.append(None) or work(self))
    path = tmp_path / "folder" / "usage.db"
    path.parent.mkdir()
    ledger = begin(path)
    ids = [f"req_{number:04}" for number in range(1000)]
    ledger.put(record(request_id=ids[0], dropped="x" * MAX_TEXT))
    wait_until_written(ledger)
    with trouble(path):  # type: ignore[attr-defined]
        for each in ids[1:]:
            ledger.put(record(request_id=each, dropped="x" * MAX_TEXT))
        listener.wait_for(rf"usage\.db cannot be written: {words}.*; up to {MAX_WAITING} records wait")
        assert ledger.trouble is not None
        assert ledger.waiting
        so_far = len(tried)
        wait(lambda: len(tried) > so_far + 3)
    listener.wait_for(r"usage\.db is written again; 0 records were lost")
    ledger.close(SECONDS)
    assert rows(path) == ids
    assert (ledger.lost, ledger.trouble) == (0, None)
    assert len(listener.said) == 2


def test_it_is_no_trouble_to_others(begin: Begin, tmp_path: Path, listener: Listener) -> None:
    """P7: no byte can be written; every record is taken at once, and counted when there is no room."""
    path = tmp_path / "not there" / "usage.db"
    ledger = begin(path)
    for _ in range(MAX_WAITING + 300):
        ledger.put(record())
    listener.wait_for("its folder is missing")
    assert ledger.lost + ledger.waiting == MAX_WAITING + 300
    assert ledger.waiting <= MAX_WAITING + BATCH_RECORDS
    ledger.close(SECONDS)
    assert len(listener.said) == 2
    assert "did not reach" in listener.said[1]


NOT_SQLITE = b"this was never a database\n" * 400


def damaged(path: Path) -> None:
    """A database of ours with a page that is not what it was."""
    with closing(Database(path)) as opened:
        for _ in range(20):
            opened.add([record(dropped="x" * MAX_TEXT) for _ in range(20)])
    data = bytearray(path.read_bytes())
    for page in range(1, len(data) // 4096):
        data[page * 4096 : page * 4096 + 64] = b"\xff" * 64
    path.write_bytes(data)


@pytest.mark.parametrize("how", ["not sqlite", "damaged"])
def test_a_broken_file_is_moved_aside(begin: Begin, path: Path, listener: Listener, how: str) -> None:
    if how == "damaged":
        damaged(path)
    else:
        path.write_bytes(NOT_SQLITE)
    broken = path.read_bytes()
    ledger = begin(clock=lambda: NOON)
    kept = [record(key="k", output_tokens=1) for _ in range(5)]
    for each in kept:
        ledger.put(each)
    said = listener.wait_for("usage.db: it is ")
    assert said.endswith("moved to usage.db.broken-20261121T120000Z, a new one begins")
    ledger.close(SECONDS)
    assert rows(path) == [each.request_id for each in kept]
    assert {total.tokens for total in ledger.totals(NOON)} == {5}
    assert path.with_name("usage.db.broken-20261121T120000Z").read_bytes() == broken
    assert len(listener.said) == 1


def test_it_is_found_broken_at_the_end(path: Path) -> None:
    """The records still go to a new one."""
    path.write_bytes(NOT_SQLITE)
    ledger = Ledger(path)
    each = record()
    ledger.put(each)
    ledger.start()
    ledger.close(SECONDS)
    assert rows(path) == [each.request_id]


def test_a_file_is_not_moved_aside_for_ever(begin: Begin, path: Path, listener: Listener) -> None:
    path.write_bytes(NOT_SQLITE)
    ledger = begin()
    listener.wait_for("a new one begins")
    wait(path.exists)
    ledger.put(record())
    wait_until_written(ledger)
    for suffix in ("-shm", "-wal", ""):
        path.with_name(path.name + suffix).unlink()
    path.write_bytes(NOT_SQLITE)
    while len(listener.said) < 2:
        # One that comes in the same moment still goes to the file that was deleted.
        ledger.put(record())
    assert "cannot be written: it is no database" in listener.said[1]
    assert path.read_bytes() == NOT_SQLITE
    ledger.close(SECONDS)


def test_what_another_process_has_begun_anew_is_not_moved(path: Path) -> None:
    path.write_bytes(NOT_SQLITE)
    seen = database.identity(path)
    assert database.set_aside(path, seen, "1") is not None
    assert database.set_aside(path, seen, "2") is None
    with closing(Database(path)) as opened:
        opened.add([record()])
    assert database.set_aside(path, seen, "3") is None
    assert len(rows(path)) == 1


@pytest.mark.parametrize(
    ("made", "words"),
    [
        ("CREATE TABLE songs (title); PRAGMA user_version = 3", "it is a database of another program"),
        (None, "a newer version of the gateway wrote it"),
    ],
)
def test_what_is_not_ours_stays_as_it_is(
    begin: Begin, path: Path, listener: Listener, made: str | None, words: str
) -> None:
    if made is None:
        Database(path).close()
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript(made or "PRAGMA journal_mode = DELETE; PRAGMA user_version = 99")
    before = path.read_bytes()
    ledger = begin()
    ledger.put(record())
    listener.wait_for(f"cannot be written: {words}")
    assert ledger.totals(NOON) == []
    ledger.close(SECONDS)
    assert path.read_bytes() == before
    assert [each.name for each in path.parent.iterdir()] == [path.name]


def test_who_deletes_the_file_gets_a_new_one(begin: Begin, path: Path, listener: Listener) -> None:
    ledger = begin()
    ledger.put(record())
    wait_until_written(ledger)
    path.unlink()
    while not path.exists():
        ledger.put(record())
    last = record()
    ledger.put(last)
    ledger.close(SECONDS)
    assert rows(path)[-1] == last.request_id
    assert ledger.lost == 0
    assert listener.said == []


def test_a_python_without_sqlite(begin: Begin, monkeypatch: pytest.MonkeyPatch, listener: Listener) -> None:
    monkeypatch.setitem(sys.modules, "gateway.ledger.database", None)
    ledger = begin()
    ledger.put(record())
    listener.wait_for("cannot be written: this Python lacks")
    assert ledger.totals(NOON) == []
