"""Totals are what budgets begin with after a start: what was spent in the day, the week and the month, in UTC."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from gateway.access import periods
from gateway.ledger.database import Database, Total, period_starts, read_totals
from gateway.ledger.store import Ledger
from tests.ledger.records import NOON, SECONDS, Listener, record


@settings(deadline=None)
@given(st.floats(0, 4_102_444_800))
@example(0)
@example(NOON)
@example(2_051_222_399.9999995)
@example(1_709_164_800)
def test_periods_are_those_of_the_calendar(moment: float) -> None:
    """And those by which limits are kept."""
    now = datetime.fromtimestamp(int(moment), UTC)
    day = now.replace(hour=0, minute=0, second=0)
    wanted = {"day": day, "week": day - timedelta(days=day.weekday()), "month": day.replace(day=1)}
    assert period_starts(moment) == {name: begin.timestamp() for name, begin in wanted.items()}
    assert period_starts(moment) == {name: periods.start(name, moment) for name in period_starts(moment)}


DAY = 86400
SATURDAY = {"day": 1_795_219_200, "week": 1_794_787_200, "month": 1_793_491_200}
"""2026-11-21, the Monday before, and the first of November."""

CASES: dict[str, tuple[list[dict[str, Any]], dict[tuple[str, str], dict[str, tuple[int, int]]]]] = {
    "who and where": (
        [{"key": "k", "group": "g", "provider": "p", "output_tokens": 5, "cost": 7}],
        {(kind, kind[0]): dict.fromkeys(SATURDAY, (5, 7)) for kind in ("key", "group", "provider")},
    ),
    "what counts as tokens": (
        [
            {
                **{"key": "k", "input_tokens": 1, "output_tokens": 20, "cache_write_tokens": 300},
                **{"cache_read_tokens": 4000, "reasoning_tokens": 10},
            }
        ],
        {("key", "k"): dict.fromkeys(SATURDAY, (321, 0))},
    ),
    "without a price": (
        [{"key": "k", "output_tokens": 1, "cost": None}, {"key": "k", "output_tokens": 2, "cost": 9}],
        {("key", "k"): dict.fromkeys(SATURDAY, (3, 9))},
    ),
    "earlier days": (
        [{"key": "k", "time": NOON - days * DAY, "output_tokens": 1 << days} for days in (0, 1, 5, 6, 20, 21, 40)],
        {("key", "k"): {"day": (1, 0), "week": (0b100011, 0), "month": ((1 << 20) + 0b1100011, 0)}},
    ),
    "a request counts when it ends": (
        [{"key": "k", "time": SATURDAY["day"] - 10, "duration_seconds": 11, "output_tokens": 3}],
        {("key", "k"): dict.fromkeys(SATURDAY, (3, 0))},
    ),
    "what took nothing": ([{"key": "k", "outcome": "denied"}], {}),
    "nobody": ([{"output_tokens": 3}], {}),
}

def by_name(totals: list[Total]) -> dict[tuple[str, str], dict[str, tuple[int, int]]]:
    found: dict[tuple[str, str], dict[str, tuple[int, int]]] = {}
    for each in totals:
        assert each.start == SATURDAY[each.period]
        found.setdefault((each.kind, each.name), {})[each.period] = (each.tokens, each.nanodollars)
    return found


@pytest.mark.parametrize("case", CASES)
def test_totals(tmp_path: Path, case: str) -> None:
    records, wanted = CASES[case]
    with closing(Database(tmp_path / "usage.db")) as opened:
        for each in records:
            opened.add([record(**each)])
        assert by_name(read_totals(tmp_path / "usage.db", NOON)) == wanted


def test_totals_are_there_for_the_next_process(tmp_path: Path, begin: Callable[..., Ledger]) -> None:
    ledger = begin()
    for _ in range(3):
        ledger.put(record(key="k", output_tokens=2))
    ledger.close(SECONDS)
    assert by_name(Ledger(ledger.path).totals(NOON)) == {("key", "k"): dict.fromkeys(SATURDAY, (6, 0))}
    assert Ledger(ledger.path).totals(NOON + 31 * DAY) == []


def test_a_file_that_was_only_just_made_has_none(tmp_path: Path, listener: Listener) -> None:
    path = tmp_path / "usage.db"
    path.touch()
    assert Ledger(path).totals(NOON) == []
    assert listener.said == []


def test_a_file_that_cannot_be_read_gives_none_and_says_so(tmp_path: Path, listener: Listener) -> None:
    path = tmp_path / "usage.db"
    path.write_bytes(b"no database" * 1000)
    ledger = Ledger(path)
    assert [ledger.totals(NOON) for _ in range(3)] == [[]] * 3
    (said,) = listener.said
    assert said.startswith(f"{path} cannot be read: it is no database")
    assert said.endswith("budgets count what this process spends")
    path.unlink()
    Database(path).close()
    ledger.totals(NOON)
    path.write_bytes(b"no database" * 1000)
    ledger.totals(NOON)
    assert len(listener.said) == 2
