"""Days, weeks and months, against the standard library's calendar."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.access.limits import Period
from gateway.access.periods import date_in_words, end, start

TIMES = st.datetimes(datetime(1970, 1, 8), datetime(2400, 1, 1), timezones=st.just(UTC))


def in_calendar(period: Period, time: datetime) -> tuple[datetime, datetime]:
    first = time.replace(hour=0, minute=0, second=0, microsecond=0)
    if period == "day":
        return first, first + timedelta(days=1)
    if period == "week":
        first -= timedelta(days=first.weekday())
        return first, first + timedelta(days=7)
    first = first.replace(day=1)
    return first, (first + timedelta(days=31)).replace(day=1)


def check(period: Period, time: datetime) -> None:
    first, after = in_calendar(period, time)
    assert (start(period, time.timestamp()), end(period, time.timestamp())) == (first.timestamp(), after.timestamp())


@given(st.sampled_from(("day", "week", "month")), TIMES)
def test_any_time(period: Period, time: datetime) -> None:
    check(period, time)


@pytest.mark.parametrize("year", [1970, 1972, 1999, 2000, 2024, 2026, 2028, 2100, 2399])
@pytest.mark.parametrize("period", ["day", "week", "month"])
def test_every_edge_of_a_year(period: Period, year: int) -> None:
    day = datetime(year, 1, 8, tzinfo=UTC)
    while day.year == year:
        check(period, day)
        check(period, day + timedelta(days=1, microseconds=-1))
        assert date_in_words(day.timestamp()) == f"{day.day} {day:%B}"
        day += timedelta(days=1)
