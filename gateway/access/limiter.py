"""Limiter: whether a request may begin, by the limits of all who answer for it, and what it has cost them.

    grant = limiter.admit([Holder("key", …), Holder("group", …)], tokens, now)    # LimitReached, BudgetSpent
    …
    grant.settle(tokens, nanodollars, now)                                        # always, however it ended

Rules:
* All holders are asked before any is charged: a refusal charges nobody.
* A request and its estimated prompt are charged at once; what it really took replaces the estimate at its end.
* Budgets are charged at the end. What is under way then may go over: at most one request for each place of
  ``concurrency``.
* Rates go by the monotonic clock, budgets by the calendar (UTC). A clock that is set back by less than a day
  stays in the later period, so that nothing is forgotten.
* All that is counted stays when limits change, and the new numbers hold at once. Counted is also what has no
  limit yet.
* Bounded: of more than MAX_HOLDERS, the one that asked longest ago, and has nothing under way, is forgotten.
* A spent budget is told before a rate that is reached, and of those the one with the longest wait. What a
  provider is refused for is a matter of ``room``: nobody asked it, and the next target may help.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from math import ceil
from typing import TYPE_CHECKING, Literal, NamedTuple, get_args

from gateway.access.counters import REQUESTS, RUNNING, TALLIES, TALLY_WIDTH, TOKENS, Counters, OwnCounters
from gateway.access.gcra import Bucket
from gateway.access.limit_words import budget_spent, in_words, limit_reached
from gateway.access.limits import Limits, Period
from gateway.access.periods import DAY, date_in_words, end, start
from gateway.errors import BudgetSpent, LimitReached

if TYPE_CHECKING:
    from gateway.access.counters import Row

MAX_HOLDERS = 10_000
PLACE_RETRY_AFTER = 5
"""Seconds; when a place is free nobody knows. Claude Code asks ten times."""

Kind = Literal["key", "group", "provider"]
_PERIODS: tuple[Period, ...] = get_args(Period)


class Moment(NamedTuple):
    """The time, by both clocks, in seconds."""

    monotonic: float
    wall: float
    """Since the epoch."""


class Holder(NamedTuple):
    """Who answers for a request, and the limits in force."""

    kind: Kind
    name: str
    limits: Limits


class Grant:
    """A request that was admitted."""

    __slots__ = ("_charged", "_limiter")

    def __init__(self, limiter: Limiter, charged: list[tuple[_Account, float]]) -> None:
        self._limiter = limiter
        self._charged = charged

    def settle(self, tokens: int, nanodollars: int, now: Moment) -> None:
        """The request is over, and took so much: 0 where nothing was taken, or no price is known.

        Only the first call counts.
        """
        charged, self._charged = self._charged, []
        if charged:
            self._limiter.settle(charged, tokens, nanodollars, now)


class Limiter:
    """All holders of the process."""

    def __init__(self, max_holders: int = MAX_HOLDERS, counters: Counters | None = None) -> None:
        """``counters``: None for those of this process alone."""
        self._max_holders = max_holders
        self._counters = counters or OwnCounters()
        self._accounts: dict[tuple[str, str], _Account] = {}
        """The last one to ask stands last."""
        self._periods: dict[Period, int] = {}
        """When each current one began."""
        self._today = self._tomorrow = 0

    def admit(self, holders: Sequence[Holder], tokens: int, now: Moment) -> Grant:
        """Charges a request of about ``tokens`` to all ``holders``. Raises LimitReached or BudgetSpent."""
        periods, monotonic = self.periods_at(now.wall), now.monotonic
        with self._counters:
            accounts = [self._account(holder) for holder in holders]
            refusals: list[LimitReached | BudgetSpent] = []
            for account in accounts:
                account.turn_to(periods)
                if (refusal := account.refusal(tokens, monotonic)) is not None:
                    refusals.append(refusal)
            if refusals:
                raise max(refusals, key=_weight)
            return Grant(self, [(account, account.charge(tokens, monotonic)) for account in accounts])

    def settle(self, charged: Sequence[tuple[_Account, float]], tokens: int, nanodollars: int, now: Moment) -> None:
        """What ``admit`` charged is replaced by what it came to."""
        periods = self.periods_at(now.wall)
        with self._counters:
            for account, seconds in charged:
                account.settle(seconds, tokens, nanodollars, periods, now.monotonic)

    def restore(self, totals: Iterable[tuple[Kind, str, Period, float, int, int]]) -> None:
        """Puts in what is known of the current periods: (kind, name, period, its start, tokens, nanodollars).

        Starts are seconds since the epoch. What is counted already is not counted again: of two totals of one
        period the larger holds. Totals of other periods do nothing.
        """
        with self._counters:
            for kind, name, period, began, tokens, nanodollars in totals:
                account = self._account(Holder(kind, name, Limits()), keep_limits=True)
                account.tallies[period].raise_to(int(began), tokens, nanodollars)

    def periods_at(self, wall: float) -> dict[Period, int]:
        """When the day, the week and the month began that count now; the same object until they change."""
        if not self._today - DAY <= wall < self._tomorrow:
            self._periods = {period: start(period, wall) for period in _PERIODS}
            self._today, self._tomorrow = self._periods["day"], end("day", wall)
        return self._periods

    @property
    def size(self) -> int:
        """How many holders are known."""
        return len(self._accounts)

    def _account(self, holder: Holder, keep_limits: bool = False) -> _Account:
        key = holder.kind, holder.name
        account = self._accounts.pop(key, None)
        if account is None:
            row = self._counters.row(holder.kind, holder.name)
            account = _Account(holder.kind, holder.name, row, self._counters.own)
            if len(self._accounts) >= self._max_holders:
                self._forget_one()
        self._accounts[key] = account
        if not keep_limits:
            account.limits = holder.limits
        return account

    def _forget_one(self) -> None:
        for key, account in self._accounts.items():
            if not account.running:
                del self._accounts[key]
                return


class _Tally:
    """What was spent in one period."""

    __slots__ = ("_at", "_row")

    def __init__(self, row: Row, at: int) -> None:
        self._row = row
        self._at = at

    def begin(self, start: int) -> None:
        """Nothing is spent yet, if that is another period."""
        if self._row[self._at] != start:
            self._row[self._at], self._row[self._at + 1], self._row[self._at + 2] = start, 0, 0

    def add(self, tokens: int, nanodollars: int) -> None:
        self._row[self._at + 1] += tokens
        self._row[self._at + 2] += nanodollars

    def raise_to(self, start: int, tokens: int, nanodollars: int) -> None:
        if start < self._row[self._at]:
            return
        self.begin(start)
        self._row[self._at + 1] = max(self._row[self._at + 1], tokens)
        self._row[self._at + 2] = max(self._row[self._at + 2], nanodollars)

    def spent(self, unit: Literal["tokens", "nanodollars"]) -> int:
        return int(self._row[self._at + (1 if unit == "tokens" else 2)])


class _Account:
    """What one holder has taken."""

    __slots__ = ("_kind", "_name", "_own", "_periods", "_requests", "_row", "_tokens", "limits", "tallies")

    def __init__(self, kind: Kind, name: str, row: Row, own: int) -> None:
        """``own``: the place in ``row`` of our requests under way."""
        self._kind = kind
        self._name = name
        self._row = row
        self._own = own
        self.limits = Limits()
        self._requests = Bucket(row, REQUESTS)
        self._tokens = Bucket(row, TOKENS)
        self.tallies = {
            period: _Tally(row, TALLIES + TALLY_WIDTH * number) for number, period in enumerate(_PERIODS)
        }
        self._periods: dict[Period, int] = {}
        """Those that ``tallies`` are of."""

    @property
    def running(self) -> bool:
        """Whether this process has requests under way for it."""
        return self._row[self._own] > 0

    def turn_to(self, periods: dict[Period, int]) -> None:
        """Begins anew with each period that is over."""
        if self._periods is not periods:
            self._periods = periods
            for period, tally in self.tallies.items():
                tally.begin(periods[period])

    def refusal(self, tokens: int, now: float) -> LimitReached | BudgetSpent | None:
        """Why a request of ``tokens`` may not begin; None: it may."""
        limits = self.limits
        if limits.budget and (spent := self._budget_spent()) is not None:
            return spent
        requests_wait = self._requests.wait(1, limits.rpm, now) if limits.rpm is not None else 0.0
        tokens_wait = self._tokens.wait(tokens, limits.tpm, now) if limits.tpm is not None else 0.0
        if wait := max(requests_wait, tokens_wait):
            return self._rate_reached(
                Limits(rpm=limits.rpm) if requests_wait >= tokens_wait else Limits(tpm=limits.tpm), wait
            )
        if limits.concurrency is not None and sum(self._row[RUNNING:]) >= limits.concurrency:
            return self._rate_reached(Limits(concurrency=limits.concurrency), None)
        return None

    def charge(self, tokens: int, now: float) -> float:
        """The request begins. What its tokens cost: seconds, for ``settle``."""
        self._row[self._own] += 1
        if self.limits.rpm is not None:
            self._requests.take(1, self.limits.rpm, now)
        return self._tokens.take(tokens, self.limits.tpm, now) if self.limits.tpm is not None else 0.0

    def settle(self, charged: float, tokens: int, nanodollars: int, periods: dict[Period, int], now: float) -> None:
        """The request is over."""
        self._row[self._own] -= 1
        if self.limits.tpm is not None:
            self._tokens.correct(charged, tokens, self.limits.tpm, now)
        self.turn_to(periods)
        for tally in self.tallies.values():
            tally.add(tokens, nanodollars)

    @property
    def _whose(self) -> str:
        return f"{self._kind} {self._name}{' (all its keys together)' if self._kind == 'group' else ''}"

    def _budget_spent(self) -> BudgetSpent | None:
        """Of several the one that begins anew last."""
        spent = [each for each in self.limits.budget if self.tallies[each.period].spent(each.unit) >= each.amount]
        if not spent:
            return None
        budget = max(spent, key=lambda each: end(each.period, self._periods[each.period]))
        anew = date_in_words(end(budget.period, self._periods[budget.period]))
        spent_of_it = self.tallies[budget.period].spent(budget.unit)
        error = BudgetSpent(budget_spent(self._whose, budget, spent_of_it, anew))
        if self._kind == "provider":
            error.scope = "room"
        return error

    def _rate_reached(self, limit: Limits, wait: float | None) -> LimitReached:
        """``limit`` holds only the one that is reached; ``wait`` in seconds, None: until a request ends."""
        # What floats are wrong by is no whole second.
        seconds = None if wait is None else max(1, ceil(round(wait, 6)))
        error = LimitReached(
            limit_reached(self._whose, in_words(limit), seconds), retry_after=seconds or PLACE_RETRY_AFTER
        )
        if self._kind == "provider":
            error.scope = "room"
        return error


def _weight(refusal: LimitReached | BudgetSpent) -> tuple[bool, int]:
    return isinstance(refusal, BudgetSpent), refusal.retry_after or 0
