"""Several processes write to one file, and some of them are killed."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

from gateway.ledger.database import read_totals
from gateway.ledger.store import Ledger
from tests.cli.gateway_command import ROOT, environment
from tests.ledger.records import NOON, SECONDS, record, rows

LOST_SECONDS = 0.25
"""The promise: what a killed process loses is no older."""


def start(path: Path, *arguments: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "tests.ledger.writing_process", str(path), *map(str, arguments)]
    return subprocess.Popen(
        command, cwd=ROOT, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def check(path: Path) -> None:
    """The file is whole, and its totals are the sums of its rows."""
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    number = len(rows(path))
    found = {(each.tokens, each.nanodollars) for each in read_totals(path, NOON) if each.name == "k"}
    assert found == {(number, 2 * number)}


def test_processes_share_a_file(tmp_path: Path) -> None:
    """Nothing is lost, and what two of them bring is counted once."""
    path = tmp_path / "usage.db"
    processes = [start(path, name, 1500, "flush") for name in ("a", "b", "c")]
    for process in processes:
        out, err = process.communicate(timeout=SECONDS)
        assert (out, err, process.returncode) == ("0 0\n", "", 0)
    shared = [f"shared-{each}" for each in range(0, 1500, 10)]
    own = [f"{name}-{each}" for name in "abc" for each in range(1500) if each % 10]
    assert sorted(rows(path)) == sorted([*shared, *own])
    check(path)


def test_processes_that_find_it_broken_begin_one_anew(tmp_path: Path) -> None:
    path = tmp_path / "usage.db"
    path.write_bytes(b"no database" * 1000)
    processes = [start(path, name, 20, "flush") for name in ("a", "b", "c")]
    for process in processes:
        out, _ = process.communicate(timeout=SECONDS)
        assert (out, process.returncode) == ("0 0\n", 0)
    assert len(list(tmp_path.glob("usage.db.broken-*"))) == 1
    assert len(rows(path)) == 3 * 18 + 2
    check(path)


def test_a_killed_process_loses_a_quarter_of_a_second_at_most(tmp_path: Path) -> None:
    """P5: the file is whole, and the next process goes on with it."""
    path = tmp_path / "usage.db"
    for generation in ("first", "second"):
        process = start(path, generation, 10**6, "kill")
        assert process.stdout is not None
        put: list[tuple[str, float]] = []
        while not put or put[-1][1] < put[0][1] + 1.0:
            request_id, moment = process.stdout.readline().split()
            put.append((request_id, float(moment)))
        process.kill()
        killed = time.monotonic()
        process.communicate(timeout=SECONDS)
        stored = set(rows(path))
        assert [each for each, moment in put if moment < killed - LOST_SECONDS and each not in stored] == []
        assert stored & {each for each, _ in put}
        check(path)
    last = Ledger(path)
    last.start()
    last.put(record(key="k", output_tokens=1, cost=2))
    last.close(SECONDS)
    check(path)


def test_the_thread_keeps_no_process_alive(tmp_path: Path) -> None:
    process = start(tmp_path / "not there" / "usage.db", "a", 5, "end")
    process.communicate(timeout=SECONDS)
    assert process.returncode == 0
