"""CircuitBreaker, RetryBudget and EndpointPool, each by itself."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.resilience.circuit_breaker import FAILURES, SECONDS, CircuitBreaker
from gateway.resilience.endpoint_pool import MAX_RESTING, EndpointPool, preferred
from gateway.resilience.retry_budget import FREE_RETRIES, RetryBudget
from gateway.routing import Endpoint

# -- the breaker ---------------------------------------------------------------------------------------


def opened(now: float = 100.0) -> CircuitBreaker:
    breaker = CircuitBreaker()
    for _ in range(FAILURES):
        breaker.failed(now)
    return breaker


def test_five_failures_in_thirty_seconds_open_it() -> None:
    breaker = CircuitBreaker()
    for second in (0, 7, 14, 21):
        breaker.failed(100 + second)
        assert breaker.ready(100 + second)
    breaker.failed(130)
    assert not breaker.ready(130)
    assert not breaker.ready(130 + SECONDS - 0.1)
    assert breaker.ready(130 + SECONDS)


def test_slower_failures_do_not() -> None:
    breaker = CircuitBreaker()
    for number in range(50):
        breaker.failed(100 + number * (SECONDS / (FAILURES - 1) + 0.1))
        assert breaker.ready(100 + number * (SECONDS / (FAILURES - 1) + 0.1))


def test_a_success_between_them_counts_more() -> None:
    breaker = CircuitBreaker()
    for number in range(50):
        if number % FAILURES == FAILURES - 1:
            breaker.succeeded()
        breaker.failed(100)
    assert breaker.ready(100)


def test_only_one_probe_goes_until_it_is_answered() -> None:
    breaker = opened()
    breaker.begin(100 + SECONDS)
    assert not breaker.ready(100 + SECONDS)
    breaker.succeeded()
    assert breaker.ready(100 + SECONDS)


def test_a_probe_of_which_nothing_is_heard_is_followed_by_another() -> None:
    breaker = opened()
    breaker.begin(100 + SECONDS)
    assert not breaker.ready(100 + 2 * SECONDS - 0.1)
    assert breaker.ready(100 + 2 * SECONDS)


def test_a_failed_probe_opens_it_anew() -> None:
    breaker = opened()
    breaker.begin(100 + SECONDS)
    breaker.failed(100 + SECONDS + 5)
    assert not breaker.ready(100 + 2 * SECONDS + 4.9)
    assert breaker.ready(100 + 2 * SECONDS + 5)


def test_what_was_under_way_does_not_keep_it_open() -> None:
    breaker = opened()
    for second in range(20):
        breaker.failed(100 + second)
    assert breaker.ready(100 + SECONDS)


def test_a_failed_probe_is_only_one() -> None:
    breaker = opened()
    breaker.begin(100 + SECONDS)
    breaker.failed(100 + SECONDS)
    breaker.failed(100 + SECONDS + 9)
    assert breaker.ready(100 + 2 * SECONDS), "the second one was under way"


def test_after_a_good_probe_it_takes_five_failures_again() -> None:
    breaker = opened()
    breaker.begin(100 + SECONDS)
    breaker.succeeded()
    for number in range(FAILURES):
        assert breaker.ready(100 + SECONDS), number
        breaker.failed(100 + SECONDS)
    assert not breaker.ready(100 + SECONDS)


def test_who_is_asked_for_want_of_another_is_no_probe() -> None:
    breaker = opened()
    breaker.begin(110)
    breaker.failed(111)
    assert breaker.ready(100 + SECONDS)


def test_a_rest_is_kept_and_then_probed() -> None:
    breaker = CircuitBreaker()
    breaker.rest(200)
    breaker.rest(150)
    assert not breaker.ready(199.9)
    breaker.begin(200)
    assert not breaker.ready(200)


# -- the budget ----------------------------------------------------------------------------------------


def retries_of(budget: RetryBudget, now: float, ratio: float) -> int:
    taken = 0
    while budget.take(now, ratio):
        taken += 1
    return taken


@pytest.mark.parametrize(
    ("requests", "ratio", "retries"), [(0, 0.2, 10), (100, 0.2, 30), (100, 1, 110), (100, 0.01, 11)]
)
def test_a_share_of_the_requests_and_ten(requests: int, ratio: float, retries: int) -> None:
    budget = RetryBudget()
    for _ in range(requests):
        budget.request(50)
    assert retries_of(budget, 50, ratio) == retries


def test_a_quiet_hour_saves_nothing_up() -> None:
    budget = RetryBudget()
    for second in range(3600):
        budget.request(1000 + second)
    assert retries_of(budget, 4600, 0.2) <= FREE_RETRIES + 0.2 * 60 + 1
    assert FREE_RETRIES - 1 <= retries_of(budget, 4600 + 300, 0.2) <= FREE_RETRIES


def test_about_ten_a_minute_for_ever() -> None:
    budget = RetryBudget()
    taken = sum(budget.take(second, 0.2) for second in range(3600))
    assert 550 <= taken <= 600 + FREE_RETRIES


@given(st.lists(st.tuples(st.floats(0, 5), st.booleans()), max_size=200))
def test_the_budget_is_never_overdrawn(steps: list[tuple[float, bool]]) -> None:
    """Over any stretch of a minute: the free ones of it and those saved before, and the share of all requests."""
    budget, now, requests, taken = RetryBudget(), 0.0, 0, 0
    for wait, is_request in steps:
        now += wait
        if is_request:
            budget.request(now)
            requests += 1
        taken += budget.take(now, 0.2)
    assert taken <= FREE_RETRIES * (1 + now / 60) + 0.2 * requests + 1e-6


# -- keys and addresses --------------------------------------------------------------------------------


def endpoints(*weights: int) -> list[Endpoint]:
    return [Endpoint(str(n), "http://h", f"key-{n}", weight=weight) for n, weight in enumerate(weights)]


def choices(listed: list[Endpoint]) -> dict[str, Endpoint]:
    """Session -> endpoint, of 2,000 sessions."""
    found = {}
    for number in range(2000):
        chosen = preferred(listed, f"session-{number}")
        assert chosen is not None
        found[f"session-{number}"] = chosen
    return found


def test_sessions_spread_by_weight_and_stay() -> None:
    listed = endpoints(1, 1, 2)
    before = choices(listed)
    counted = Counter(endpoint.name for endpoint in before.values())
    assert 400 < counted["0"] < 600
    assert 400 < counted["1"] < 600
    assert 850 < counted["2"] < 1150
    assert choices(listed[::-1]) == before, "whatever the order, and in every process"


def test_a_heavy_endpoint_has_its_share_among_many() -> None:
    counted = Counter(endpoint.name for endpoint in choices(endpoints(8, *[1] * 8)).values())
    assert 900 < counted.pop("0") < 1100
    assert all(70 < count < 190 for count in counted.values())


def test_a_new_endpoint_takes_its_share_and_moves_nobody_else() -> None:
    listed = endpoints(1, 1, 1)
    before, after = choices(listed[:2]), choices(listed)
    moved = {session for session in before if before[session] != after[session]}
    assert 550 < len(moved) < 800
    assert {after[session].name for session in moved} == {"2"}


def test_sessions_of_a_resting_endpoint_spread_and_nobody_else_moves() -> None:
    listed = endpoints(1, 1, 1)
    before, during = choices(listed), choices(listed[1:])
    gone = {session for session in before if before[session] is listed[0]}
    assert {session for session in before if before[session] is not during[session]} == gone
    assert {during[session].name for session in gone} == {"1", "2"}


def test_a_rest_ends() -> None:
    pool, listed = EndpointPool(), endpoints(1, 1)
    pool.rest(listed[0], 100, 60)
    assert [pool.ready(listed[0], now) for now in (100, 159.9, 160)] == [False, False, True]
    assert pool.ready(listed[1], 100)
    assert pool.due_first(listed) is listed[1]


def test_none_of_none() -> None:
    assert preferred([], "s") is None


def test_a_replaced_key_does_not_rest() -> None:
    pool = EndpointPool()
    pool.rest(Endpoint("1", "http://h", "old"), 100, 60)
    assert pool.ready(Endpoint("1", "http://h", "new"), 100)


def test_rests_are_bounded_and_those_that_are_over_make_room() -> None:
    pool = EndpointPool()
    many = endpoints(*[1] * (MAX_RESTING + 1))
    for endpoint in many:
        pool.rest(endpoint, 100, 60)
    assert [endpoint.name for endpoint in many if pool.ready(endpoint, 101)] == [str(MAX_RESTING)]
    pool.rest(many[-1], 200, 60)
    assert not pool.ready(many[-1], 201)


@given(st.text(max_size=40), st.integers(1, 1000))
def test_any_session_has_an_endpoint(session: str, weight: int) -> None:
    listed = endpoints(weight, 1)
    assert preferred(listed, session) in listed
