"""The numbers that workers share; what comes of it from outside: tests/faults/test_fairness.py. Limits themselves, with
these numbers too: tests/access/test_limiter.py."""

from __future__ import annotations

import os
from collections.abc import Callable

from gateway.access.counters import REQUESTS, RUNNING
from gateway.server.shared_counters import SharedCounters

TIMES = 2000


def in_process(work: Callable[[], None]) -> int:
    """Forks one that does it, and is gone; its id."""
    pid = os.fork()
    if pid == 0:
        work()
        os._exit(0)
    return pid


def test_nothing_is_lost_between_processes() -> None:
    counters = SharedCounters(2)

    def count(worker: int) -> None:
        mine = counters.of(worker)
        for _ in range(TIMES):
            with mine:
                row = mine.row("key", "anna")
                row[REQUESTS] += 1
                row[mine.own] += 1

    for pid in [in_process(lambda: count(0)), in_process(lambda: count(1))]:
        assert os.waitpid(pid, 0)[1] == 0
    row = counters.of(0).row("key", "anna")
    assert list(row[: REQUESTS + 1]) == [2 * TIMES]
    assert list(row[RUNNING:]) == [TIMES, TIMES]


def test_one_that_dies_in_the_middle_holds_nobody_up() -> None:
    counters = SharedCounters(2)
    os.waitpid(in_process(counters.of(1).__enter__), 0)
    with counters.of(0):
        assert counters.of(0).row("key", "anna")[REQUESTS] == 0


def test_what_a_dead_worker_had_under_way_is_over() -> None:
    counters = SharedCounters(3, rows=8)
    rows = [counters.of(0).row("key", name) for name in ("anna", "ben")]
    for number, row in enumerate(rows, 1):
        row[REQUESTS] = 5
        for worker in range(3):
            row[RUNNING + worker] = number
    counters.release(1)
    assert [list(row[RUNNING:]) for row in rows] == [[1, 0, 1], [2, 0, 2]]
    assert [row[REQUESTS] for row in rows] == [5, 5]


def test_a_holder_is_its_kind_and_its_name() -> None:
    counters = SharedCounters(1)
    names = [("key", "anna"), ("group", "anna"), ("key", "ann"), ("keya", "nna")]
    for number, (kind, name) in enumerate(names, 1):
        counters.of(0).row(kind, name)[REQUESTS] = number
    assert [counters.of(0).row(kind, name)[REQUESTS] for kind, name in names] == [1, 2, 3, 4]


def test_where_no_row_is_left_a_worker_counts_for_itself() -> None:
    counters = SharedCounters(2, rows=4)
    for number in range(4):
        counters.of(0).row("key", str(number))[REQUESTS] = number + 1
    mine = counters.of(1).row("key", "one too many")
    mine[counters.of(1).own] += 1
    assert sum(mine[RUNNING:]) == 1
    assert sorted(counters.of(1).row("key", str(number))[REQUESTS] for number in range(4)) == [1, 2, 3, 4]
