"""Attempts: who is asked next, after how long, and what the client sees. Cases: tests/cases/attempts.yaml."""

from __future__ import annotations

import inspect
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from gateway import errors
from gateway.errors import (
    BillingRefused,
    GatewayError,
    InvalidRequest,
    NotFound,
    Overloaded,
    PermissionDenied,
    PromptTooLong,
    ProviderNotReady,
    RateLimited,
    RequestTooLarge,
    UpstreamFailed,
    UpstreamProtocolError,
    UpstreamTimeout,
)
from gateway.profile import Profile
from gateway.resilience import failure
from gateway.resilience.admission import busy
from gateway.resilience.attempts import Attempt, Attempts
from gateway.resilience.circuit_breaker import FAILURES as OPENING
from gateway.resilience.circuit_breaker import SECONDS
from gateway.resilience.endpoint_pool import LONGEST_REST
from gateway.resilience.health import MAX_TARGETS, Health
from gateway.resilience.policy import RetryPolicy
from gateway.routing import Endpoint, Provider, Route, Target

ROOT = Path(__file__).parents[2]
CASES: list[dict[str, Any]] = yaml.safe_load((ROOT / "tests" / "cases" / "attempts.yaml").read_text("utf-8"))
NOW = 1000.0
POLICY = RetryPolicy()

FAILURES: dict[str, Callable[[int | None], GatewayError]] = {
    "400": lambda after: InvalidRequest("no"),
    "long": lambda after: PromptTooLong(2, 1),
    "401": lambda after: ProviderNotReady("bad key"),
    "402": lambda after: BillingRefused("no money"),
    "403": lambda after: PermissionDenied("no"),
    "404": lambda after: NotFound("no such model"),
    "408": lambda after: UpstreamTimeout("slow"),
    "413": lambda after: RequestTooLarge("large"),
    "429": lambda after: RateLimited("later", retry_after=after),
    "502": lambda after: UpstreamFailed("sick"),
    "503": lambda after: Overloaded("sick", retry_after=after),
    "refused": lambda after: UpstreamFailed("could not reach a: connection refused"),
    "broken": lambda after: UpstreamProtocolError("not JSON"),
    "no-retry": lambda after: Overloaded("sick for long", should_retry=False),
    "busy": lambda after: busy(target("a/x")),
}


def target(name: str, keys: str = "", addresses: str = "", no_key: bool = False, **profile: Any) -> Target:
    """``keys`` and ``addresses`` name its endpoints; sessions prefer them in this order: see ``weight``."""
    provider, _, model = name.partition("/")
    weights = [10**9, 10**6, 1]
    listed = [Endpoint(key, f"http://{provider}", key, weight=w) for key, w in zip(keys.split(), weights, strict=False)]
    listed += [Endpoint(at, f"http://{at}", "key", weight=w) for at, w in zip(addresses.split(), weights, strict=False)]
    if "window" in profile:
        profile["context_window"] = profile.pop("window")
    made = Provider(provider, "openai-chat", "", missing_key="THE_KEY" if no_key else None)
    return Target(made, model, Profile(**profile), f"http://{provider}", endpoints=tuple(listed))


def targets(written: list[Any]) -> tuple[Target, ...]:
    return tuple(target(each) if isinstance(each, str) else target(**each) for each in written)


def error_of(word: object) -> GatewayError:
    kind, _, after = str(word).partition("+")
    error = FAILURES[kind](int(after) if after else None)
    error.add_note(str(word))
    return error


def shown(attempt: Attempt) -> str:
    return attempt.name + (f" ~{attempt.wait_seconds:g}" if attempt.wait_seconds else "")


def attempts_for(
    route: Route, health: Health | None = None, now: float = NOW, policy: RetryPolicy = POLICY
) -> Attempts:
    return Attempts(route, policy, health or Health(), "session", now, jitter=lambda longest: longest)


def open_breaker(health: Health, one: Target, now: float) -> None:
    for _ in range(OPENING):
        health.of(one).breaker.failed(now)


def rest(health: Health, route: Route, names: list[str]) -> None:
    """Each a little longer than the one before."""
    for number, name in enumerate(names):
        for one in route.targets:
            if one.name == name:
                open_breaker(health, one, NOW - 1)
            for endpoint in one.endpoints:
                if name == f"{one.name}#{endpoint.name}":
                    health.pool.rest(endpoint, NOW, 60 + number)
                elif name == endpoint.name:
                    open_breaker(health, one.at(endpoint), NOW - 1)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["name"])
def test_case(case: dict[str, Any]) -> None:
    route, health = Route("m", targets(case["route"]), targets(case.get("on_overflow", []))), Health()
    rest(health, route, case.get("resting", []))
    attempts, now = attempts_for(route, health), NOW
    attempt: Attempt | None = attempts.first(now)
    asked, seen = [], None
    for word in case["fails"]:
        assert attempt is not None, f"nobody is asked any more before {word}"
        asked.append(shown(attempt))
        now += attempt.wait_seconds
        if word == "ok":
            attempts.succeeded()
            break
        attempt = attempts.failed(error_of(word), now)
    else:
        assert attempt is None, f"{shown(attempt)} is asked, too"
        assert attempts.error is not None
        seen = attempts.error.__notes__[0]
    assert asked == case["asked"]
    assert seen == (None if case["seen"] is None else str(case["seen"]))
    if "tried" in case:
        assert [f"{name}: {why}" for name, why in attempts.tried] == case["tried"]
    assert (attempts.error is None) == (seen is None), "a request that succeeds holds no error"


def test_names_of_cases_are_unique() -> None:
    assert len({case["name"] for case in CASES}) == len(CASES)


# -- the table of failures -----------------------------------------------------------------------------


def test_every_error_has_a_row() -> None:
    kinds = [each for _, each in inspect.getmembers(errors, inspect.isclass) if issubclass(each, GatewayError)]
    assert len(kinds) >= 16
    assert {kind.scope for kind in kinds} == set(failure.MEANINGS)
    documented = failure.__doc__ or ""
    assert [scope for scope in failure.MEANINGS if f"| `{scope}`" not in documented] == []


def test_an_error_may_know_better_than_its_class() -> None:
    """A certificate that fails will fail again; the next target may do."""
    error = UpstreamFailed("its TLS certificate failed")
    error.scope = "target"
    attempts = attempts_for(Route("m", targets(["a/x", "b/y"])))
    attempts.first(NOW)
    following = attempts.failed(error, NOW)
    assert following is not None
    assert following.name == "b/y"


# -- deadline, budget, waits ---------------------------------------------------------------------------


def test_nothing_begins_after_the_deadline() -> None:
    """R13."""
    attempts = attempts_for(Route("m", targets(["a/x", "b/y"])), policy=RetryPolicy(deadline=10))
    attempts.first(NOW)
    assert attempts.seconds_left(NOW) == 10
    assert attempts.failed(Overloaded("sick"), NOW + 10) is None
    assert attempts.seconds_left(NOW + 11) == 0


def test_a_wait_that_ends_after_the_deadline_is_not_begun() -> None:
    attempts = attempts_for(Route("m", targets(["a/x", "b/y"])), policy=RetryPolicy(deadline=5))
    attempts.first(NOW)
    following = attempts.failed(Overloaded("sick", retry_after=5), NOW)
    assert following is not None
    assert shown(following) == "b/y"


def count_asked(route: Route, requests: int, fail: Callable[[int], GatewayError | None], health: Health) -> int:
    """How often upstreams are asked by ``requests`` requests, a tenth of a second apart."""
    asked = 0
    for number in range(requests):
        now = NOW + number / 10
        attempts = attempts_for(route, health, now)
        attempt: Attempt | None = attempts.first(now)
        while attempt is not None:
            asked += 1
            error = fail(asked)
            if error is None:
                attempts.succeeded()
                break
            attempt = attempts.failed(error, now)
    return asked


@pytest.mark.parametrize("kind", ["503", "429", "refused", "broken", "408"])
def test_a_hundred_requests_on_a_sick_upstream_make_at_most_150(kind: str) -> None:
    """R7."""
    health = Health()
    assert 100 <= count_asked(Route("m", targets(["a/x"])), 100, lambda _: error_of(kind), health) <= 150


def test_the_budget_holds_where_no_breaker_does() -> None:
    """Every second attempt fails, so that no breaker ever opens."""
    asked = count_asked(Route("m", targets(["a/x"])), 100, lambda n: error_of("503") if n % 2 else None, Health())
    assert 100 < asked <= 150


def test_a_small_budget_makes_few_second_attempts() -> None:
    health = Health()
    asked = 0
    for _ in range(1000):
        attempts = attempts_for(Route("m", targets(["a/x"])), health, policy=RetryPolicy(budget=0.01))
        attempts.first(NOW)
        while attempts.failed(error_of("429"), NOW):
            asked += 1
    assert asked == 20  # 10 a minute, and 1 % of 1000


def test_waits_are_jittered_by_backoff() -> None:
    """Full jitter: anything from nothing to the longest wait, which doubles."""
    waits: list[list[float]] = [[], []]
    for _ in range(200):
        attempts = Attempts(Route("m", targets([{"name": "a/x", "max_attempts": 3}])), POLICY, Health(), "s", NOW)
        attempts.first(NOW)
        for each in waits:
            following = attempts.failed(error_of("503"), NOW)
            assert following is not None
            each.append(following.wait_seconds)
    for each, longest in zip(waits, (0.5, 1.0), strict=True):
        assert min(each) < longest / 4
        assert longest * 3 / 4 < max(each) <= longest


def test_backoff_is_imported_with_the_first_wait_only() -> None:
    """Its decorators bring asyncio with them, and most processes wait for nobody."""
    program = "import sys, gateway.resilience.attempts; print(*{'backoff', 'asyncio', 'random'} & set(sys.modules))"
    ran = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert ran.stdout.split() == []


# -- what requests learn from each other ---------------------------------------------------------------


def fail_once(route: Route, health: Health, error: GatewayError, now: float) -> None:
    attempts = attempts_for(route, health, now)
    attempts.first(now)
    attempts.failed(error, now)


def first_name(route: Route, health: Health, now: float) -> str:
    return attempts_for(route, health, now).first(now).name


def test_a_breaker_opens_probes_and_closes() -> None:
    """R10."""
    route, health = Route("m", targets(["a/x", "b/y"])), Health()
    for number in range(5):
        assert first_name(route, health, NOW + number) == "a/x"
        fail_once(route, health, error_of("no-retry"), NOW + number)
    opened = NOW + 4
    assert {first_name(route, health, opened + after) for after in (0, 1, 29.9)} == {"b/y"}
    probe = attempts_for(route, health, opened + SECONDS)
    assert probe.first(opened + SECONDS).name == "a/x"
    assert first_name(route, health, opened + SECONDS) == "b/y", "one probe"
    probe.failed(error_of("no-retry"), opened + SECONDS + 1)
    assert first_name(route, health, opened + SECONDS + 30.9) == "b/y"
    again = opened + SECONDS + 31
    probe = attempts_for(route, health, again)
    assert probe.first(again).name == "a/x"
    probe.succeeded()
    assert first_name(route, health, again + 1) == "a/x"


def failing(route: Route, health: Health, now: float) -> list[str]:
    """Who is asked by one request when everybody fails."""
    attempts = attempts_for(route, health, now)
    attempt: Attempt | None = attempts.first(now)
    asked = []
    while attempt is not None:
        asked.append(attempt.name)
        attempt = attempts.failed(error_of("503"), now)
    return asked


def test_the_failure_that_opens_a_breaker_is_not_followed_by_another() -> None:
    route, health = Route("m", targets(["a/x"])), Health()
    assert [failing(route, health, NOW) for _ in range(4)] == [["a/x"] * 2, ["a/x"] * 2, ["a/x"], ["a/x"]]


def test_a_probe_that_fails_is_not_repeated() -> None:
    """R10: one probe."""
    route, health = Route("m", targets(["a/x", "b/y"])), Health()
    open_breaker(health, route.targets[0], NOW - SECONDS)
    assert failing(route, health, NOW) == ["a/x", "b/y", "b/y"]


@pytest.mark.parametrize("kind", ["400", "long", "404", "413"])
def test_a_probe_that_is_refused_with_a_reason_closes_the_breaker(kind: str) -> None:
    route, health = Route("m", targets(["a/x", "b/y"])), Health()
    open_breaker(health, route.targets[0], NOW - SECONDS)
    fail_once(route, health, error_of(kind), NOW)
    assert first_name(route, health, NOW) == "a/x"


@pytest.mark.parametrize("kind", ["400", "404", "429", "busy"])
def test_what_is_no_sickness_opens_no_breaker(kind: str) -> None:
    route, health = Route("m", targets(["a/x", "b/y"])), Health()
    for _ in range(2 * OPENING):
        fail_once(route, health, error_of(kind), NOW)
    assert first_name(route, health, NOW) == "a/x"


@pytest.mark.parametrize(("kind", "opens"), [("429", True), ("busy", True), ("400", False), ("404", False)])
def test_only_a_sensible_answer_interrupts_a_series_of_failures(kind: str, opens: bool) -> None:
    route, health = Route("m", targets(["a/x", "b/y"])), Health()
    for word in ["503"] * (OPENING - 1) + [kind, "503"]:
        fail_once(route, health, error_of(word), NOW)
    assert first_name(route, health, NOW) == ("b/y" if opens else "a/x")


@pytest.mark.parametrize(
    ("kind", "seconds"),
    [("401", 60), ("402", 60), ("403", 60), ("429+6", 6), ("429+100", 100), ("429+9999", LONGEST_REST)],
)
def test_a_target_that_is_closed_to_us_is_passed_over_for_a_time(kind: str, seconds: float) -> None:
    route, health = Route("m", targets(["a/x", "b/y"])), Health()
    fail_once(route, health, error_of(kind), NOW)
    assert first_name(route, health, NOW + seconds - 0.1) == "b/y"
    assert first_name(route, health, NOW + seconds) == "a/x"


@pytest.mark.parametrize(
    ("kind", "seconds"),
    [("401", 60), ("402", 60), ("403", 60), ("429", 10), ("429+2", 2), ("429+100", 100), ("429+9999", LONGEST_REST)],
)
def test_a_key_that_is_refused_rests(kind: str, seconds: float) -> None:
    route, health = Route("m", targets([{"name": "a/x", "keys": "k1 k2"}])), Health()
    fail_once(route, health, error_of(kind), NOW)
    assert first_name(route, health, NOW + seconds - 0.1) == "a/x#k2"
    assert first_name(route, health, NOW + seconds) == "a/x#k1"


def test_a_resting_key_that_serves_rests_no_more() -> None:
    route, health = Route("m", targets([{"name": "a/x", "keys": "k1 k2"}])), Health()
    for endpoint in route.targets[0].endpoints:
        health.pool.rest(endpoint, NOW, 100 if endpoint.name == "k2" else 50)
    attempts = attempts_for(route, health)
    assert attempts.first(NOW).name == "a/x#k1"
    attempts.succeeded()
    again = attempts_for(route, health).first(NOW)
    assert (again.name, again.ready) == ("a/x#k1", True)


def test_an_error_that_is_kept_holds_no_frame() -> None:
    attempts = attempts_for(Route("m", targets(["a/x"])))
    attempts.first(NOW)
    with pytest.raises(Overloaded) as caught:
        raise Overloaded("sick")
    attempts.failed(caught.value, NOW)
    assert attempts.error is caught.value
    assert attempts.error.__traceback__ is None


def test_no_target_has_a_key() -> None:
    attempts = attempts_for(Route("m", targets([{"name": "a/x", "no_key": True}])))
    with pytest.raises(ProviderNotReady, match=r"^m goes to a/x, and that provider has no key: set THE_KEY in"):
        attempts.first(NOW)


def test_what_is_known_is_bounded() -> None:
    health = Health()
    kept = target("kept/m")
    health.of(kept).breaker.rest(NOW)
    for number in range(3 * MAX_TARGETS):
        health.of(target(f"a/{number}"))
        health.of(kept)
    assert health.size == MAX_TARGETS
    assert not health.of(kept).breaker.ready(NOW - 1), "what is used stays"


def test_nothing_that_is_shown_holds_a_key() -> None:
    route = Route("m", targets([{"name": "a/x", "keys": "SECRET-1 SECRET-2"}]))
    named = tuple(Endpoint(str(n), e.base_url, e.api_key) for n, e in enumerate(route.targets[0].endpoints))
    one = Target(route.targets[0].provider, "x", Profile(), "http://a", endpoints=named)
    attempts = attempts_for(Route("m", (one,)))
    attempt = attempts.first(NOW)
    assert attempt.target.provider.api_key is not None
    assert attempt.target.provider.api_key.startswith("SECRET")
    attempts.failed(error_of("401"), NOW)
    assert "SECRET" not in repr(attempt) + attempt.name + str(attempts.tried)
