"""Metrics: what the process counts, as plain numbers. exposition.py makes text of them when somebody asks.

Rules:
* ``observe`` is called once for each request, finished or refused; ``attempt`` once for each that went up. They cost
  some microseconds, take no lock and raise nothing. All of it on the event loop's thread.
* Every label value is one of a set that somebody configured. A model's name that a client made up counts under the
  entry of ``models`` that took it; what no entry names is ``other`` (O3).
* All series together fit into a page of the board (metrics_board.py); what comes beyond that is ``other``.
* A worker goes on with the numbers of the one before it (``share``), and a scrape asks only for what is on the board:
  no counter ever falls because a worker died.
"""

from __future__ import annotations

import os
from bisect import bisect_left
from collections.abc import Callable, Iterable
from operator import add
from typing import TYPE_CHECKING

from gateway.config import Config
from gateway.errors import GatewayError
from gateway.server.metric_families import (
    ATTEMPTS,
    COST,
    DISCONNECTS,
    DURATION,
    FAMILIES,
    FIRST_TOKEN,
    KEY_COST,
    KEY_REQUESTS,
    KEY_TOKENS,
    LOOP_STALL,
    PER_TOKEN,
    REQUESTS,
    TOKENS,
    Family,
)

if TYPE_CHECKING:
    from gateway.ledger.record import UsageRecord
    from gateway.server.metrics_board import Page

OTHER = "other"
MAX_BYTES = 1_000_000
"""What all series may take on a page: some 5,000 sets of labels."""
_PER_NUMBER, _PER_TEXT, _PER_SERIES = 11, 8, 32
"""Bytes that a pickle takes at most, beside the text itself."""

Labels = tuple[str, ...]
Snapshot = dict[str, dict[Labels, list[float]]]
"""Family name -> label values -> numbers (Family.size of them)."""

_BY_NAME = {family.name: family for family in FAMILIES}


class _Answers:
    """The series that each answer of one target touches, at hand."""

    __slots__ = ("duration", "each", "first", "tokens")

    def __init__(self, numbers: Callable[[Family, Labels], list[float]], target: Labels) -> None:
        self.duration = numbers(DURATION, (*target, ""))
        self.first = numbers(FIRST_TOKEN, target)
        self.each = numbers(PER_TOKEN, target)
        self.tokens = {kind: numbers(TOKENS, (*target, kind)) for kind in ("input", "output")}


class Metrics:
    """One per process."""

    def __init__(self, config: Callable[[], Config]) -> None:
        """``config`` gives the one in force."""
        self._config = config
        self._known: Config | None = None
        """The configuration whose names are among those below."""
        self._names: set[str] = set()
        self._targets: dict[str, Labels] = {}
        """``provider/model`` -> both."""
        self._answers: dict[Labels, _Answers] = {}
        self._series: Snapshot = {family.name: {} for family in FAMILIES}
        self._bytes = 0
        self._read: dict[Family, Callable[[], float]] = {}
        self._before: dict[Family, float] = {}
        """What the worker before us had counted of what we read elsewhere."""
        self._page: Page | None = None
        self._disconnects = self._numbers(DISCONNECTS, ())
        self._stalls = self._numbers(LOOP_STALL, ())

    # -- what is counted ---------------------------------------------------------------------------------

    def observe(self, record: UsageRecord) -> None:
        """One request is over."""
        config = self._config()
        if config is not self._known:
            self._learn(config)
        outcome = record.outcome
        self._numbers(REQUESTS, (outcome, record.error_type, self._name(record)))[0] += 1
        if outcome == "client_closed":
            self._disconnects[0] += 1
        if record.provider and outcome not in ("limited", "denied"):
            self._observe_answer(record)
        if record.key and config.server.admin is not None and config.server.admin.key_names:
            self._count_key(record)

    def attempt(self, provider: str, outcome: str) -> None:
        """One request went to an upstream. ``provider`` is configured; ``outcome`` is ``ok`` or one of few words."""
        self._numbers(ATTEMPTS, (provider, outcome))[0] += 1

    def stalled(self, seconds: float) -> None:
        """A timer came so late (loop_stall.py)."""
        _put(self._stalls, LOOP_STALL, seconds)

    def watch(self, family: Family, read: Callable[[], float]) -> None:
        """Asks ``read`` whenever somebody wants to know; for numbers that are kept elsewhere, without labels."""
        self._read[family] = read

    def _observe_answer(self, record: UsageRecord) -> None:
        target = self._targets.get(record.target) or self._target(record)
        answers = self._answers.get(target)
        if answers is None:
            answers = self._answers[target] = _Answers(self._numbers, target)
        error = record.error_type or ("" if record.outcome == "ok" else record.outcome)
        seconds, first, output = record.duration_seconds, record.first_token_seconds, record.output_tokens
        _put(self._numbers(DURATION, (*target, error)) if error else answers.duration, DURATION, seconds)
        if first is not None:
            _put(answers.first, FIRST_TOKEN, first)
            if output > 1:
                _put(answers.each, PER_TOKEN, (seconds - first) / (output - 1))
        tokens = answers.tokens
        for kind, amount in _tokens(record):
            if amount:
                _put(tokens.get(kind) or self._numbers(TOKENS, (*target, kind)), TOKENS, amount)
        if record.cost is not None:
            self._numbers(COST, target)[0] += record.cost

    def _count_key(self, record: UsageRecord) -> None:
        self._numbers(KEY_REQUESTS, (record.key, record.outcome))[0] += 1
        for kind, amount in _tokens(record):
            if amount:
                self._numbers(KEY_TOKENS, (record.key, kind))[0] += amount
        if record.cost is not None:
            self._numbers(KEY_COST, (record.key,))[0] += record.cost

    def _numbers(self, family: Family, labels: Labels) -> list[float]:
        """Those of a set of labels, from now on; those of ``other`` when there is no room for more."""
        return self._series[family.name].get(labels) or self._new(family, labels)

    def _new(self, family: Family, labels: Labels) -> list[float]:
        cost = _PER_SERIES + _PER_NUMBER * family.size + sum(_PER_TEXT + len(label.encode()) for label in labels)
        if self._bytes + cost > MAX_BYTES:
            labels = (OTHER,) * len(labels)
        else:
            self._bytes += cost
        return self._series[family.name].setdefault(labels, [0] * family.size)

    # -- names -------------------------------------------------------------------------------------------

    def _learn(self, config: Config) -> None:
        # Those of before stay: requests that began with them are still to come.
        self._names.update(name for table in config.tables for name in table.names())
        self._targets.update(
            (target.name, (target.provider.name, target.model))
            for table in config.tables
            for _, route in table.entries()
            for target in (*route.targets, *route.on_overflow)
        )
        self._known = config

    def _name(self, record: UsageRecord) -> str:
        """The entry of ``models`` that takes the asked name, or the configured target that it spells."""
        asked = record.asked
        if asked in self._names or not asked:
            return asked
        assert self._known is not None
        group = self._known.groups.get(record.group)
        table = self._known.table if group is None else group.table
        try:
            name = table.resolve(asked).name
        except GatewayError:
            return OTHER
        return name if name in self._names or name in self._targets else OTHER

    def _target(self, record: UsageRecord) -> Labels:
        """Of one that several keys make ``provider/model#key``, or whose model the client named itself."""
        target = self._targets.get(record.target.rpartition("#")[0])
        if target is not None:
            return target
        assert self._known is not None
        return (record.provider if record.provider in self._known.providers else OTHER, OTHER)

    # -- what is shown -----------------------------------------------------------------------------------

    def share(self, page: Page) -> None:
        """Goes on where the worker before us on ``page`` stopped, and publishes there."""
        self._page = page
        page.sign(os.getpid())
        for name, series in page.read().items():
            family = _BY_NAME[name]
            if family.kind == "gauge":
                continue
            for labels, numbers in series.items():
                self._numbers(family, labels)[:] = numbers
                if not labels:
                    self._before[family] = numbers[0]
        self.publish()

    def publish(self) -> None:
        """Writes the numbers of now to the board, if there is one."""
        if self._page is not None:
            self._page.publish(dict(self._now()))

    def collect(self) -> Iterable[tuple[Snapshot, bool]]:
        """For ``merged``, in a thread: our numbers as of now, those of other workers as of about a second ago."""
        if self._page is None:
            return [({name: {labels: list(of) for labels, of in series.items()} for name, series in self._now()}, True)]
        # Ours go out first: what was once told may not be taken back when we die.
        self.publish()
        return self._page.everyone()

    @property
    def processes(self) -> dict[str, int]:
        """Name -> id of the processes whose memory is ours; one without a name where we are alone."""
        return {} if self._page is None else self._page.processes()

    def _now(self) -> Iterable[tuple[str, dict[Labels, list[float]]]]:
        for family, read in self._read.items():
            self._series[family.name][()] = [self._before.get(family, 0) + read()]
        return self._series.items()


def merged(snapshots: Iterable[tuple[Snapshot, bool]]) -> Snapshot:
    """One of all of them. The flag says whether the worker lives: the gauges of a dead one count no more."""
    result: Snapshot = {family.name: {} for family in FAMILIES}
    for snapshot, lives in snapshots:
        for name, series in snapshot.items():
            family, into = _BY_NAME[name], result[name]
            if family.kind == "gauge" and not lives:
                continue
            together = max if family.merge == "max" else add
            for labels, numbers in series.items():
                before = into.get(labels)
                into[labels] = numbers if before is None else list(map(together, before, numbers))
    return result


def _put(numbers: list[float], family: Family, amount: float) -> None:
    """Into a histogram."""
    numbers[bisect_left(family.bounds, amount)] += 1
    numbers[-1] += amount


def _tokens(record: UsageRecord) -> tuple[tuple[str, int], ...]:
    return (
        ("input", record.input_tokens),
        ("output", record.output_tokens),
        ("cache_read", record.cache_read_tokens),
        ("cache_creation", record.cache_write_tokens),
    )
