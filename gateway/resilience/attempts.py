"""Attempts: which target one request asks next, after how long a wait, and which error its client sees at last.

    attempt = attempts.first(now)
    while the answer does not begin:
        attempt = attempts.failed(error, now)      # None: raise attempts.last_word(error)
    attempts.succeeded()

Rules:
* Only until the first content: whoever drives this never calls ``failed`` after it.
* After a failure: another key or address of the provider, if that may help; the same one after a wait, if
  that may; then the next target. What an error allows stands in failure.py.
* At most ``max_attempts`` on one endpoint, and MAX_FAILURES of one scope in all (R8). A second attempt is left
  out where the targets that were not asked yet need the place, and where the budget is spent (R7).
* Waits are ``backoff.expo`` with full jitter. A Retry-After up to ``max_retry_after`` is waited on top; a longer
  one goes to the client at once, unless another target can take over (R9).
* A target that is known to fail, or to rest, is passed over; when no other is left it is asked all the same,
  once: a refusal of ours would help nobody. The failure that opens a breaker ends the attempts on that target.
* A full context goes to the route's ``on_overflow`` targets with a larger window, and nowhere else.
* No attempt and no wait begins when ``seconds_left`` is 0 (R13).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from gateway.errors import GatewayError, ProviderNotReady, Scope
from gateway.resilience.endpoint_pool import LONGEST_REST, REFUSED_SECONDS, THROTTLED_SECONDS, preferred
from gateway.resilience.failure import Meaning, meaning_of, reason
from gateway.resilience.health import Health, TargetHealth
from gateway.resilience.policy import RetryPolicy
from gateway.routing import Endpoint, Route, Target

MAX_FAILURES = 3
"""Of one scope, over all targets."""
FIRST_WAIT = 0.5
"""Seconds; the longest wait before the second attempt, doubled for each one after it."""
LONGEST_WAIT = 4.0

Jitter = Callable[[float], float]
"""The longest wait in seconds -> the wait."""


class Attempt(NamedTuple):
    """What to ask now."""

    target: Target
    """With the key and the address to use."""
    endpoint: Endpoint | None = None
    """Where the provider has several."""
    wait_seconds: float = 0.0
    """To be waited before."""
    ready: bool = True
    """False: it is known to fail, or to rest, and only asked because nobody else is left."""

    @property
    def name(self) -> str:
        """``provider/model``, and ``#`` with the endpoint's name where there are several; for logs."""
        return self.target.name if self.endpoint is None else f"{self.target.name}#{self.endpoint.name}"


class Attempts:
    """The attempts of one request."""

    __slots__ = (
        *("_attempt", "_ceilings", "_deadline", "_failures", "_health", "_jitter", "_known", "_on_endpoint"),
        *("_overflowed", "_policy", "_route", "_session", "_target", "_untried", "_used", "error", "tried"),
    )

    def __init__(
        self, route: Route, policy: RetryPolicy, health: Health, session: str, now: float, jitter: Jitter | None = None
    ) -> None:
        """``session`` is the client's session, or whatever stands for it; ``jitter`` None: backoff's full jitter."""
        self.error: GatewayError | None = None
        """Of the failures so far, the one that tells the client most."""
        self.tried: list[tuple[str, str]] = []
        """(name, why not) of every target that failed or was passed over, in order; no secret, no upstream's words."""
        self._route = route
        self._policy = policy
        self._health = health
        self._session = session
        self._deadline = now + policy.deadline
        self._jitter = jitter
        self._untried = list(route.targets)
        self._overflowed = False
        self._failures: dict[Scope, int] = {}
        self._target = route.targets[0]
        """As it stands in the route."""
        self._attempt: Attempt
        """The last one; not there before ``first``."""
        self._known: TargetHealth
        """About its target."""
        self._on_endpoint = 0
        """Attempts at the endpoint of ``_attempt``."""
        self._used: list[Endpoint] = []
        """The endpoints of ``_target`` that were asked."""
        self._ceilings: Iterator[float] | None = None

    # -- what the pipeline calls -----------------------------------------------------------------------

    def first(self, now: float) -> Attempt:
        """The first attempt. Raises ProviderNotReady when no target of the route has a key."""
        attempt = self._next_target(now)
        if attempt is None:
            target = self._route.targets[0]
            raise ProviderNotReady(
                f"{self._route.name} goes to {target.name}, and that provider has no key: "
                f"set {target.provider.missing_key} in the gateway's environment"
            )
        return attempt

    def failed(self, error: GatewayError, now: float) -> Attempt | None:
        """What to do after ``error``; None: nothing, and ``self.error`` is the client's."""
        attempt, meaning, scope = self._attempt, meaning_of(error), error.scope
        self.tried.append((attempt.name, reason(error)))
        if self.error is None or meaning.rank > meaning_of(self.error).rank:
            # Without its traceback, which would hold the caller's frames, and they the whole request.
            self.error = error.with_traceback(None)
        self._report(attempt, error, meaning, now)
        if scope != "room":  # nobody was asked
            self._failures[scope] = self._failures.get(scope, 0) + 1
        if self._failures.get(scope, 0) >= MAX_FAILURES or not self.seconds_left(now):
            return None
        if meaning.larger:
            return self._larger(attempt.target, now)
        return (
            (self._other_endpoint(attempt, error, now) if meaning.endpoint else None)
            or (self._same_again(attempt, error, now) if meaning.same else None)
            or (self._next_target(now) if meaning.target else None)
        )

    def went_stale(self) -> None:
        """A connection that was kept open had been closed: the same endpoint is asked on a new one at once.

        One of MAX_FAILURES all the same, for the upstream may have seen the request (R8); nobody's fault.
        """
        self._failures["moment"] = self._failures.get("moment", 0) + 1

    def succeeded(self) -> None:
        """The answer begins."""
        self.error = None
        self._known.breaker.succeeded()
        if self._attempt.endpoint is not None:
            self._health.pool.succeeded(self._attempt.endpoint)

    def last_word(self, error: GatewayError) -> GatewayError:
        """What the client is told when nothing is left: ``self.error``, if there is one; else ``error``."""
        told, self.error = self.error or error, None
        return told

    def seconds_left(self, now: float) -> float:
        """Until the answer must have begun; never negative."""
        return max(0.0, self._deadline - now)

    # -- what is known about the targets ---------------------------------------------------------------

    def _report(self, attempt: Attempt, error: GatewayError, meaning: Meaning, now: float) -> None:
        breaker = self._known.breaker
        if meaning.sick:
            breaker.failed(now)
        elif error.scope in ("request", "size", "target"):
            # Who refuses with a reason is alive.
            breaker.succeeded()
        if not meaning.rests:
            return
        seconds: float = REFUSED_SECONDS
        if error.scope == "quota":
            seconds = THROTTLED_SECONDS if error.retry_after is None else min(error.retry_after, LONGEST_REST)
        if attempt.endpoint is not None:
            self._health.pool.rest(attempt.endpoint, now, seconds)
        elif error.scope != "quota" or (error.retry_after or 0) > self._policy.max_retry_after:
            # A shorter one is waited for, and others may do the same.
            breaker.rest(now + seconds)

    def _ready(self, target: Target, now: float) -> bool:
        """Whether an attempt is worth while."""
        if not target.endpoints:
            return self._health.of(target).breaker.ready(now)
        return bool(self._ready_endpoints(target, now))

    def _ready_endpoints(self, target: Target, now: float) -> list[Endpoint]:
        pool, health = self._health.pool, self._health
        return [
            endpoint
            for endpoint in target.endpoints
            if pool.ready(endpoint, now) and health.of(target.at(endpoint)).breaker.ready(now)
        ]

    # -- the three ways on -----------------------------------------------------------------------------

    def _other_endpoint(self, attempt: Attempt, error: GatewayError, now: float) -> Attempt | None:
        """Another endpoint of the same target that is ready; at once."""
        last, target, meaning = attempt.endpoint, self._target, meaning_of(error)
        if last is None or not self._has_room(error.scope, now):
            return None
        others = [
            each
            for each in self._ready_endpoints(target, now)
            if each not in self._used and not (meaning.address and each.base_url == last.base_url)
        ]
        endpoint = preferred(others, self._session)
        return None if endpoint is None else self._begin(Attempt(target.at(endpoint), endpoint), now)

    def _same_again(self, attempt: Attempt, error: GatewayError, now: float) -> Attempt | None:
        """The same endpoint after a wait."""
        asked_wait = error.retry_after or 0
        if error.should_retry is False or asked_wait > self._policy.max_retry_after:
            return None
        if not attempt.ready or not self._known.breaker.ready(now):
            return None
        if self._on_endpoint >= self._target.profile.max_attempts or not self._has_room(error.scope, now):
            return None
        wait = asked_wait + self._next_wait()
        if wait >= self.seconds_left(now) or not self._known.budget.take(now, self._policy.budget):
            return None
        self._on_endpoint += 1
        self._attempt = Attempt(attempt.target, attempt.endpoint, wait)
        return self._attempt

    def _has_room(self, scope: Scope, now: float) -> bool:
        """Whether those who were not asked yet can do without one attempt."""
        waiting = sum(1 for target in self._untried if target.provider.missing_key is None and self._ready(target, now))
        return MAX_FAILURES - self._failures[scope] > waiting

    def _larger(self, small: Target, now: float) -> Attempt | None:
        """The first ``on_overflow`` target that may hold more than ``small``."""
        if not self._overflowed:
            self._overflowed = True
            self._untried = list(self._route.on_overflow)
        self._untried = [each for each in self._untried if each.is_larger_than(small)]
        return self._next_target(now)

    def _next_target(self, now: float) -> Attempt | None:
        """The next target that is ready; else the next one."""
        usable: int | None = None
        for place, target in enumerate(self._untried):
            if target.provider.missing_key is not None:
                continue
            if self._ready(target, now):
                return self._turn_to(place, now, ready=True)
            usable = place if usable is None else usable
        if usable is not None:
            return self._turn_to(usable, now, ready=False)
        self._pass_over(self._untried)
        return None

    def _turn_to(self, place: int, now: float, ready: bool) -> Attempt:
        """Begins with the target at this place of those that were not asked yet."""
        if place:
            self._pass_over(self._untried[:place])
        target = self._target = self._untried.pop(place)
        self._ceilings = None
        if not target.endpoints:
            attempt = Attempt(target, ready=ready)
        else:
            self._used = []
            endpoint = preferred(self._ready_endpoints(target, now), self._session)
            endpoint = endpoint or self._health.pool.due_first(target.endpoints)
            attempt = Attempt(target.at(endpoint), endpoint, ready=ready)
        self._begin(attempt, now)
        self._known.budget.request(now)
        return attempt

    def _pass_over(self, targets: Sequence[Target]) -> None:
        for target in targets:
            missing = target.provider.missing_key
            why = "resting" if missing is None else f"{missing} is not set"
            if (target.name, why) not in self.tried:
                self.tried.append((target.name, why))

    def _begin(self, attempt: Attempt, now: float) -> Attempt:
        """The first attempt at an endpoint."""
        if attempt.endpoint is not None:
            self._used.append(attempt.endpoint)
        self._known = self._health.of(attempt.target)
        self._known.breaker.begin(now)
        self._attempt, self._on_endpoint = attempt, 1
        return attempt

    def _next_wait(self) -> float:
        # Most requests need no second attempt, and backoff takes a while to import.
        import backoff

        if self._ceilings is None:
            self._ceilings = backoff.expo(factor=FIRST_WAIT, max_value=LONGEST_WAIT)
            next(self._ceilings)
        return (self._jitter or backoff.full_jitter)(next(self._ceilings))
