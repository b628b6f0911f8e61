"""The limiter: who may begin, what a refusal says, and that nothing is lost or counted twice."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.access.counters import OwnCounters
from gateway.access.gcra import LONGEST_DEBT
from gateway.access.limiter import MAX_HOLDERS, PLACE_RETRY_AFTER, Grant, Holder, Kind, Limiter, Moment
from gateway.access.limits import Budget, Limits
from gateway.config.amounts import budgets
from gateway.errors import BudgetSpent, LimitReached
from gateway.resilience.failure import meaning_of
from gateway.server.shared_counters import SharedCounters

NOON = datetime(2026, 11, 22, 12, tzinfo=UTC).timestamp()
"""A Sunday."""
USD = 10**9


@pytest.fixture(autouse=True, params=["of one process", "shared"])
def _counters(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every test with the numbers of one process, and with those that workers share."""
    if request.param == "shared":
        monkeypatch.setattr("gateway.access.limiter.OwnCounters", lambda: SharedCounters(3).of(1))


def at(seconds: float = 0.0, wall: float | str | None = None) -> Moment:
    """``seconds`` after noon; ``wall`` where the two clocks differ, or as a date."""
    if isinstance(wall, str):
        wall = datetime.fromisoformat(wall).replace(tzinfo=UTC).timestamp()
    return Moment(1000.0 + seconds, NOON + seconds if wall is None else wall)


def key(name: str = "anna", kind: Kind = "key", budget: Sequence[str] = (), **limits: Any) -> Holder:
    return Holder(kind, name, Limits(**limits, budget=budgets(budget)))


def admitted(limiter: Limiter, holder: Holder, now: Moment, tokens: int = 0, most: int = 1000) -> list[Grant]:
    """As many requests as may begin."""
    grants: list[Grant] = []
    while len(grants) < most:
        try:
            grants.append(limiter.admit([holder], tokens, now))
        except LimitReached:
            break
    return grants


def spend(limiter: Limiter, holder: Holder, nanodollars: int, now: Moment, tokens: int = 0) -> None:
    limiter.admit([holder], 0, now).settle(tokens, nanodollars, now)


def refused(limiter: Limiter, holders: list[Holder], now: Moment, tokens: int = 0) -> LimitReached | BudgetSpent:
    with pytest.raises((LimitReached, BudgetSpent)) as caught:
        limiter.admit(holders, tokens, now)
    assert isinstance(caught.value, LimitReached | BudgetSpent)
    return caught.value


# -- the words -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("holder", "tokens", "words", "retry_after"),
    [
        (key(rpm=60), 0, "the limit of key anna, 60 requests a minute, is reached; try again in 1 second", 1),
        (key(rpm=1), 0, "the limit of key anna, 1 request a minute, is reached; try again in 60 seconds", 60),
        (
            key("dev", "group", rpm=20),
            0,
            "the limit of group dev (all its keys together), 20 requests a minute, is reached; try again in 3 seconds",
            3,
        ),
        (
            key("lab", "provider", tpm=400_000),
            100_000,
            "the limit of provider lab, 400,000 tokens a minute, is reached; try again in 15 seconds",
            15,
        ),
        (
            key(concurrency=8),
            0,
            "the limit of key anna, 8 requests at a time, is reached; try again when one of them has ended",
            PLACE_RETRY_AFTER,
        ),
    ],
    ids=["rpm", "one", "group", "provider", "concurrency"],
)
def test_a_limit_that_is_reached(holder: Holder, tokens: int, words: str, retry_after: int) -> None:
    limiter = Limiter()
    assert admitted(limiter, holder, at(), tokens)
    error = refused(limiter, [holder], at(), tokens)
    assert (error.message, error.status, error.error_type) == (words, 429, "rate_limit_error")
    assert error.headers() == {"retry-after": str(retry_after)}
    limiter.admit([replace_limits(holder, concurrency=None)], tokens, at(retry_after))


def replace_limits(holder: Holder, **limits: Any) -> Holder:
    return holder._replace(limits=replace(holder.limits, **limits))


@pytest.mark.parametrize(
    ("holder", "spent", "words"),
    [
        (
            key(budget="20usd/month"),
            (0, 20_034_999_999),
            "the budget of key anna, 20 USD a month, is spent (20.03 USD); it begins anew on 1 December (UTC). "
            "Ask whoever runs this gateway for more",
        ),
        (
            key("dev", "group", budget="2M tokens/day"),
            (2_000_000, 0),
            "the budget of group dev (all its keys together), 2,000,000 tokens a day, is spent (2,000,000 tokens); "
            "it begins anew on 23 November (UTC). Ask whoever runs this gateway for more",
        ),
        (
            key("lab", "provider", budget="$0.005/week"),
            (7, 5_000_001),
            "the budget of provider lab, 0.005 USD a week, is spent (0.005000001 USD); "
            "it begins anew on 23 November (UTC). Ask whoever runs this gateway for more",
        ),
        (
            # Of two that are spent the one that begins anew last: before that, nothing begins.
            key(budget=["1usd/day", "1.50usd/month", "9usd/week"]),
            (7, 1_500_000_000),
            "the budget of key anna, 1.50 USD a month, is spent (1.50 USD); it begins anew on 1 December (UTC). "
            "Ask whoever runs this gateway for more",
        ),
    ],
    ids=["money", "tokens", "small", "two"],
)
def test_a_budget_that_is_spent(holder: Holder, spent: tuple[int, int], words: str) -> None:
    limiter = Limiter()
    limiter.admit([holder], 0, at()).settle(*spent, at(1))
    error = refused(limiter, [holder], at(2))
    assert (error.message, error.status, error.error_type) == (words, 402, "billing_error")
    assert error.headers() == {"x-should-retry": "false"}


@pytest.mark.parametrize(("kind", "scope"), [("key", "request"), ("group", "request"), ("provider", "room")])
def test_what_a_provider_may_not_take_another_target_may(kind: Kind, scope: str) -> None:
    limiter = Limiter()
    holder = key(kind=kind, rpm=1, budget="1usd/day")
    limiter.admit([holder], 0, at()).settle(0, 1, at())
    limit = refused(limiter, [holder], at())
    limiter.admit([holder], 0, at(60)).settle(0, USD, at(60))
    budget = refused(limiter, [holder], at(200))
    assert [type(limit), type(budget)] == [LimitReached, BudgetSpent]
    assert [limit.scope, budget.scope] == [scope, scope]
    for error in (limit, budget):
        meaning = meaning_of(error)
        assert meaning.target is (kind == "provider")
        assert not any((meaning.same, meaning.endpoint, meaning.sick, meaning.rests))


def test_of_several_refusals_the_one_that_lasts_longest_is_told() -> None:
    limiter = Limiter()
    quick, slow = key("quick", rpm=60), key("slow", "group", rpm=2)
    poor = key("poor", "provider", budget="1usd/day")
    for holder in (quick, slow):
        admitted(limiter, holder, at())
    spend(limiter, poor, USD, at())
    assert "group slow" in refused(limiter, [quick, slow], at()).message
    assert "group slow" in refused(limiter, [slow, quick], at()).message
    assert "provider poor" in refused(limiter, [slow, quick, poor], at()).message


# -- rates ---------------------------------------------------------------------------------------------

GAPS = st.lists(st.floats(0, 30), min_size=1, max_size=30)
property_test = settings(max_examples=60, deadline=None)


@property_test
@given(st.integers(1, 20), GAPS)
def test_never_more_requests_than_the_rate_and_one_burst(rpm: int, gaps: list[float]) -> None:
    limiter, now = Limiter(), 0.0
    times: list[float] = []
    for gap in gaps:
        now += gap
        times += [now] * len(admitted(limiter, key(rpm=rpm), at(now)))
    for first, begin in enumerate(times):
        for last, end in enumerate(times[first:], 1):
            assert last <= rpm * (end - begin) / 60 + rpm + 1e-3


@property_test
@given(st.integers(1, 200), st.lists(st.tuples(st.floats(0, 30), st.floats(0, 1)), min_size=1, max_size=30))
def test_never_more_tokens_than_the_rate_and_one_burst(tpm: int, steps: list[tuple[float, float]]) -> None:
    """In any time before a request that may begin; it may itself be larger than the whole limit."""
    limiter, now, largest = Limiter(), 0.0, tpm * LONGEST_DEBT / 60
    taken: list[tuple[float, int]] = []
    for gap, share in steps:
        now, size = now + gap, round(largest * share**4)
        for grant in admitted(limiter, key(tpm=tpm), at(now), size, most=3):
            grant.settle(size, 0, at(now))
            taken.append((now, size))
    for first, (begin, _) in enumerate(taken):
        total = 0
        for end, size in taken[first:]:
            assert total <= tpm * (end - begin) / 60 + tpm + 1e-3
            total += size


@property_test
@given(
    st.integers(10_000, 1_000_000),
    st.lists(st.tuples(st.integers(0, 3_000), st.integers(0, 3_000)), min_size=1, max_size=12),
    st.randoms(use_true_random=False),
)
def test_what_requests_really_took_is_what_is_missing(tpm: int, requests: list[tuple[int, int]], random: Any) -> None:
    """Whatever was estimated, and in whatever order they end: at one moment nothing flows in."""
    limiter, holder = Limiter(), key(tpm=tpm)
    grants: list[tuple[Grant, int]] = []
    for estimate, real in requests:
        try:
            grants.append((limiter.admit([holder], estimate, at()), real))
        except LimitReached:
            assert sum(estimate for estimate, _ in requests) > tpm
    random.shuffle(grants)
    for grant, real in grants:
        grant.settle(real, 0, at())
    left = tpm - sum(real for _, real in grants)
    if left > 0:
        limiter.admit([holder], left, at())
    assert refused(limiter, [holder], at(), max(1, round(tpm * 1e-3)))


@property_test
@given(st.integers(1, 5_000), st.lists(st.integers(1, 20_000), min_size=2, max_size=6))
def test_after_the_time_that_it_names_the_request_may_begin_and_not_before(tpm: int, sizes: list[int]) -> None:
    limiter, holder = Limiter(), key(tpm=tpm)
    size = next((size for size in sizes if wait(limiter, holder, size, at())), None)
    if size is None:
        return
    seconds = wait(limiter, holder, size, at())
    assert wait(limiter, holder, size, at(seconds - 1)) == 1
    assert wait(limiter, holder, size, at(seconds)) == 0


def wait(limiter: Limiter, holder: Holder, tokens: int, now: Moment) -> int:
    """``retry_after``; 0: the request begins."""
    try:
        limiter.admit([holder], tokens, now)
    except LimitReached as error:
        return error.retry_after or 0
    return 0


def test_a_request_larger_than_the_whole_limit_waits_for_a_full_bucket() -> None:
    limiter, holder = Limiter(), key(tpm=1000)
    limiter.admit([holder], 500, at()).settle(500, 0, at())
    assert refused(limiter, [holder], at(), 5000).retry_after == 30
    limiter.admit([holder], 5000, at(30)).settle(5000, 0, at(30))
    assert refused(limiter, [holder], at(31), 1).retry_after == 240  # 5000 tokens are five minutes' worth
    limiter.admit([holder], 1, at(271))


def test_a_debt_is_bounded() -> None:
    limiter, holder = Limiter(), key(tpm=1000)
    grant = limiter.admit([holder], 10, at())
    grant.settle(10**9, 0, at())
    assert refused(limiter, [holder], at(), 1000).retry_after == 60 + LONGEST_DEBT
    limiter.admit([holder], 1000, at(60 + LONGEST_DEBT))


def test_a_correction_of_a_debt_that_was_let_off_gives_nothing_away() -> None:
    limiter, holder = Limiter(), key(tpm=1000)
    grant = limiter.admit([holder], 10**9, at())
    grant.settle(6000, 0, at())
    assert refused(limiter, [holder], at(), 1000).retry_after == 360


def test_an_estimate_that_was_too_high_is_given_back() -> None:
    limiter, holder = Limiter(), key(tpm=1000)
    grant = limiter.admit([holder], 1000, at())
    assert refused(limiter, [holder], at(), 900)
    grant.settle(100, 0, at())
    limiter.admit([holder], 900, at())


def test_quiet_fills_no_more_than_one_minutes_worth() -> None:
    limiter, holder = Limiter(), key(rpm=5)
    assert len(admitted(limiter, holder, at())) == 5
    assert len(admitted(limiter, holder, at(86_400))) == 5


# -- places --------------------------------------------------------------------------------------------


def test_a_place_is_free_again_once() -> None:
    limiter, holder = Limiter(), key(concurrency=2)
    first, _ = admitted(limiter, holder, at())
    for _ in range(3):
        first.settle(5, 5, at())
    assert len(admitted(limiter, holder, at())) == 1


def test_a_refusal_charges_nobody() -> None:
    limiter = Limiter()
    full = key("full", "group", concurrency=1)
    limiter.admit([full], 0, at())
    for limits in ({"rpm": 1}, {"tpm": 10}, {"concurrency": 1}):
        free = key(f"free-{limits}", **limits)
        for holders in ([free, full], [full, free]):
            refused(limiter, holders, at(), 10)
        limiter.admit([free], 10, at())


def test_one_holders_requests_do_not_count_for_another() -> None:
    limiter = Limiter()
    for kind in ("key", "group", "provider"):
        for name in ("anna", "bert"):
            assert len(admitted(limiter, key(name, kind, rpm=3), at())) == 3


def test_all_limits_of_a_request_are_charged() -> None:
    limiter = Limiter()
    anna, dev = key("anna", rpm=2), key("dev", "group", rpm=3)
    limiter.admit([anna, dev], 0, at())
    limiter.admit([anna, dev], 0, at())
    assert "key anna" in refused(limiter, [anna, dev], at()).message
    bert = key("bert", rpm=2)
    limiter.admit([bert, dev], 0, at())
    assert "group dev" in refused(limiter, [bert, dev], at()).message


# -- budgets -------------------------------------------------------------------------------------------


@property_test
@given(
    st.integers(1, 5),
    st.integers(1, 1_000),
    st.lists(st.tuples(st.integers(0, 100), st.integers(0, 7)), min_size=1, max_size=80),
)
def test_a_budget_is_overshot_by_at_most_one_request_for_each_place(
    places: int, amount: int, steps: list[tuple[int, int]]
) -> None:
    holder = Holder("key", "anna", Limits(concurrency=places, budget=(Budget(amount, "nanodollars", "day"),)))
    limiter, spent = Limiter(), 0
    running: list[Grant] = []
    for cost, ending in steps:
        try:
            running.append(limiter.admit([holder], 0, at()))
            assert spent < amount
        except BudgetSpent:
            assert spent >= amount
        except LimitReached:
            assert len(running) == places
        if running and ending < 6:
            running.pop(ending % len(running)).settle(1, cost, at())
            spent += cost
    for grant in running:
        grant.settle(1, 100, at())
        spent += 100
    assert spent < amount + places * 100


@pytest.mark.parametrize(
    ("budget", "last", "first"),
    [
        ("1usd/day", "2026-11-22T23:59:59.999", "2026-11-23"),
        ("1usd/week", "2026-11-22T23:59:59.999", "2026-11-23"),
        ("1usd/week", "2026-12-31T12:00", "2027-01-04"),
        ("1usd/month", "2026-11-30T23:59:59.999", "2026-12-01"),
        ("1usd/month", "2026-12-31T23:59:59.999", "2027-01-01"),
        ("1usd/month", "2028-02-29T23:59:59.999", "2028-03-01"),
        ("1usd/month", "2027-02-28T23:59:59.999", "2027-03-01"),
        ("1usd/month", "2100-02-28T23:59:59.999", "2100-03-01"),
    ],
)
def test_a_budget_begins_anew_with_its_period(budget: str, last: str, first: str) -> None:
    limiter, holder = Limiter(), key(budget=budget)
    spend(limiter, holder, USD, at(0, last))
    day = datetime.fromisoformat(first)
    message = refused(limiter, [holder], at(1, last)).message
    assert f"it begins anew on {day.day} {day:%B} (UTC)" in message
    spend(limiter, holder, USD, at(2, first))
    assert refused(limiter, [holder], at(3, first))


def test_what_ends_in_the_next_period_is_charged_to_that() -> None:
    limiter, holder = Limiter(), key(budget="1usd/day")
    grant = limiter.admit([holder], 0, at(0, "2026-11-22T23:59"))
    grant.settle(0, USD, at(120, "2026-11-23T00:01"))
    assert "24 November" in refused(limiter, [holder], at(121, "2026-11-23T00:02")).message


@pytest.mark.parametrize("jump", [-3600, 3600, -86_399])
def test_a_clock_that_jumps_refuses_nobody_and_forgets_nothing(jump: int) -> None:
    limiter, midnight = Limiter(), "2026-12-01"
    holder = key(rpm=2, concurrency=1, budget="1usd/day")
    start = at(0, midnight).wall + 60
    spend(limiter, holder, USD // 2, Moment(1000, start))
    spend(limiter, holder, USD // 4, Moment(1001, start + jump))
    assert refused(limiter, [holder], Moment(1002, start + jump)).retry_after == 28
    spend(limiter, holder, USD // 4, Moment(1062, start + 1))
    assert isinstance(refused(limiter, [holder], Moment(1063, start + 2)), BudgetSpent)


def test_a_clock_that_was_a_year_ahead_does_not_stay_there() -> None:
    limiter, holder = Limiter(), key(budget="1usd/month")
    spend(limiter, holder, USD, at(0, "2027-11-22"))
    limiter.admit([holder], 0, at(0, "2026-11-22"))


def test_a_budget_without_amount_left_lets_nothing_begin_but_another_unit_may_be_free() -> None:
    limiter = Limiter()
    spend(limiter, key(), USD, at(), tokens=10)
    assert isinstance(refused(limiter, [key(budget="10 tokens/week")], at()), BudgetSpent)
    limiter.admit([key(budget=["11 tokens/week", "1.000000001usd/week"])], 0, at())


# -- across reloads and restarts -----------------------------------------------------------------------


def test_other_limits_hold_at_once_and_what_was_counted_stays() -> None:
    limiter = Limiter()
    assert len(admitted(limiter, key(rpm=10, concurrency=20), at())) == 10
    assert refused(limiter, [key(rpm=600)], at()).retry_after == 1
    assert len(admitted(limiter, key(rpm=600), at(1))) == 10
    assert refused(limiter, [key(concurrency=20)], at(1))
    limiter.admit([key(concurrency=21)], 0, at(1))


def test_a_budget_that_comes_later_counts_what_was_spent_before_it() -> None:
    limiter = Limiter()
    spend(limiter, key(), 2 * USD, at())
    assert isinstance(refused(limiter, [key(budget="2usd/week")], at()), BudgetSpent)
    limiter.admit([key(budget="3usd/week")], 0, at())


def test_a_limit_that_comes_while_a_request_runs() -> None:
    limiter = Limiter()
    grant = limiter.admit([key()], 100, at())
    limiter.admit([key(tpm=1000, concurrency=2)], 0, at())
    grant.settle(900, 0, at())
    assert refused(limiter, [key(tpm=1000)], at(), 101)
    limiter.admit([key(tpm=1000)], 100, at())


MONTH = datetime(2026, 11, 1, tzinfo=UTC).timestamp()
DAY = datetime(2026, 11, 22, tzinfo=UTC).timestamp()


def test_what_the_ledger_knows_is_put_in() -> None:
    limiter, holder = Limiter(), key(budget=["1usd/month", "10 tokens/day"])
    limiter.restore([("key", "anna", "month", MONTH, 5, USD - 1), ("key", "anna", "day", DAY, 5, 5)])
    spend(limiter, holder, 1, at(), tokens=4)
    assert "1 USD a month" in refused(limiter, [holder], at()).message
    limiter.admit([key(budget="10 tokens/day")], 0, at()).settle(1, 0, at())
    assert "10 tokens a day" in refused(limiter, [key(budget="10 tokens/day")], at()).message


def test_what_is_put_in_twice_counts_once() -> None:
    limiter, holder = Limiter(), key(budget="1usd/month")
    spend(limiter, holder, USD // 2, at())
    for _ in range(3):
        limiter.restore([("key", "anna", "month", MONTH, 6, USD // 2)])
    limiter.admit([key(budget=["1usd/month", "7 tokens/month"])], 0, at())
    limiter.restore([("key", "anna", "month", MONTH, 0, USD)])
    assert refused(limiter, [holder], at())


def test_totals_of_other_periods_do_nothing() -> None:
    limiter, holder = Limiter(), key(budget=["1usd/month", "1usd/day"])
    old = [("key", "anna", "month", MONTH - 86_400 * 31, 0, USD), ("key", "anna", "day", DAY - 86_400, 0, USD)]
    limiter.restore(old)  # type: ignore[arg-type]
    limiter.admit([holder], 0, at()).settle(0, 1, at())
    limiter.restore(old)  # type: ignore[arg-type]
    limiter.admit([holder], 0, at())


def test_putting_in_leaves_the_limits_alone() -> None:
    limiter, holder = Limiter(), key(tpm=100)
    grant = limiter.admit([holder], 0, at())
    limiter.restore([("key", "anna", "month", MONTH, 0, 0)])
    grant.settle(100, 0, at())
    assert refused(limiter, [holder], at(), 1)


# -- bounds --------------------------------------------------------------------------------------------


def test_only_so_many_holders_are_known() -> None:
    limiter = Limiter()
    for number in range(MAX_HOLDERS + 500):
        spend(limiter, key(str(number), rpm=1), 1, at())
    assert limiter.size == MAX_HOLDERS == 10_000
    limiter.restore([("key", f"old-{number}", "day", DAY, 1, 1) for number in range(500)])
    assert limiter.size == MAX_HOLDERS


def test_who_asked_longest_ago_is_forgotten_unless_something_of_it_is_under_way() -> None:
    limiter = Limiter(max_holders=3, counters=OwnCounters())  # what workers share stays in its row
    running = limiter.admit([key("running", concurrency=1)], 0, at())
    for name in ("old", "new", "old", "other"):
        spend(limiter, key(name), 5, at())
    known = [name for name in ("old", "other", "new", "running") if is_known(limiter, name)]
    assert known == ["old", "other"]
    assert refused(limiter, [key("running", concurrency=1)], at())
    running.settle(0, 0, at())


def is_known(limiter: Limiter, name: str) -> bool:
    """Whether it is remembered that ``name`` spent something; asks of a limiter that cannot be asked otherwise."""
    try:
        limiter.admit([key(name, budget="0.000000001usd/day")], 0, at()).settle(0, 0, at())
    except BudgetSpent:
        return True
    return False
