"""Recorder: what is said of a request when it is over: to the log, to the ledger, to the metrics.

Rules:
* One record for each request to ``/v1/messages``, whatever became of it, and one line of the access log.
* What a holder of limits is charged is what the record says.
* No content, in neither.
"""

from __future__ import annotations

import logging
import time
from typing import Any, NamedTuple

from aiohttp import web

from gateway.access.client_key import ClientKey
from gateway.access.limiter import Moment
from gateway.errors import AuthenticationFailed, BudgetSpent, GatewayError, LimitReached, PermissionDenied
from gateway.ledger.record import Outcome, UsageRecord
from gateway.server.state import STATE, GatewayState
from gateway.translate.usage import Usage

log = logging.getLogger("gateway.access")

RECORDED = web.RequestKey("RECORDED", bool)
"""Set in a request that has its record."""
CLIENT_KEY = web.RequestKey("CLIENT_KEY", ClientKey)
"""Set in a request once it is known who asks."""
ASKED = web.RequestKey("ASKED", str)
"""The name that the client asked for, in a request whose body was understood."""
_LOGGED = ("/v1/messages/", "/v1/models")
MAX_NAME = 200
"""What is kept of a name that a client chose."""
CLIENT_LEFT = 499
"""nginx's status for a client that left before the answer."""


class AccessLine:
    """One line of the access log: words for people, ``fields`` for machines."""

    __slots__ = ("_record", "_words", "client")

    def __init__(self, record: UsageRecord, words: str = "", client: str = "") -> None:
        """``words``: of an error; ``client``: its address."""
        self._record = record
        self._words = words
        self.client = client

    def __str__(self) -> str:
        record = self._record
        if not record.target:
            what = record.error_type or record.outcome
            return f"{record.request_id} {record.status} {what}: {self._words} (from {self.client})"
        first = record.duration_seconds if record.first_token_seconds is None else record.first_token_seconds
        line = (
            f"{record.request_id} {printable(record.asked)} -> {printable(record.target)} "
            f"{record.error_type or record.outcome} "
            f"stop={record.stop_reason or None} in={record.input_tokens} cached={record.cache_read_tokens} "
            f"out={record.output_tokens} first={first:.3f}s total={record.duration_seconds:.3f}s"
        )
        if record.key:
            line += f" key={record.key}"
        if record.cost:
            line += f" cost=${record.cost / 1e9:.6f}"
        return f"{line} after {record.tried}" if record.tried else line

    def fields(self) -> dict[str, Any]:
        """What JSON says, texts and numbers only; the cost in dollars."""
        fields = self._record._asdict()
        del fields["time"]
        for name in ("first_token_seconds", "duration_seconds"):
            fields[name] = None if (seconds := fields[name]) is None else round(seconds, 4)
        fields["cost_usd"] = None if (cost := fields.pop("cost")) is None else cost / 1e9
        if self._words:
            fields["error"] = self._words
        if self.client:
            fields["client"] = self.client
        return fields


class AnswerLine(NamedTuple):
    """One line of the access log, of a request that the gateway answers by itself."""

    request_id: str
    method: str
    path: str
    status: int
    key: str
    client: str

    def __str__(self) -> str:
        line = f"{self.request_id} {self.status} {self.method} {printable(self.path)}"
        return f"{line} key={self.key}" if self.key else line

    def fields(self) -> dict[str, Any]:
        """What JSON says."""
        return {name: value for name, value in self._asdict().items() if value != ""}


def record(state: GatewayState, done: UsageRecord, line: AccessLine) -> None:
    """Hands ``done`` to all who want it."""
    log.log(logging.WARNING if done.status >= 500 and not done.target else logging.INFO, line)
    if state.ledger is not None:
        state.ledger.put(done)
    state.metrics.observe(done)


def refuse(request: web.Request, request_id: str, error: GatewayError, words: str | None = None) -> None:
    """The record of a request that came to no exchange; ``words``: other ones than the error's, for the log."""
    denied = isinstance(error, AuthenticationFailed | PermissionDenied)
    outcome: Outcome = "denied" if denied else outcome_of(error)
    _record_early(request, request_id, outcome, error.status, error.error_type, words or error.logged)


def left(request: web.Request, request_id: str) -> None:
    """The client left before its request was there. Telemetry that breaks off is no news."""
    if request.path.startswith("/v1/"):
        words = "the client left before its request was whole"
        _record_early(request, request_id, "client_closed", CLIENT_LEFT, "", words)


def answered(request: web.Request, request_id: str, status: int) -> None:
    """The line of a request that asks no upstream; none for those that come by the clock or with the client's start."""
    if request.path.startswith(_LOGGED):
        key = request.get(CLIENT_KEY)
        name = key.name if key else ""
        log.info(AnswerLine(request_id, request.method, request.path, status, name, address_of(request)))


def _record_early(
    request: web.Request, request_id: str, outcome: Outcome, status: int, error_type: str, words: str
) -> None:
    key = request.get(CLIENT_KEY)
    done = UsageRecord(
        time=time.time(),
        request_id=request_id,
        outcome=outcome,
        status=status,
        error_type=error_type,
        asked=request.get(ASKED, "")[:MAX_NAME],
        key=key.name if key else "",
        user=key.user if key else "",
        group=(key.group or "") if key else "",
    )
    line = AccessLine(done, words, address_of(request))
    if request.path == "/v1/messages":
        record(request.app[STATE], done, line)
    else:
        log.log(logging.WARNING if status >= 500 else logging.INFO, line)


def address_of(request: web.Request) -> str:
    """The client's address, for the log."""
    state = request.app[STATE]
    trusted, peer = state.config.server.trusted_proxies, request.remote or ""
    return state.proxies.client(peer, request.headers.getall("x-forwarded-for", ()), trusted) if trusted else peer


def outcome_of(error: GatewayError) -> Outcome:
    """What ``error`` is for the ledger, when an upstream may have said it."""
    return "limited" if isinstance(error, LimitReached | BudgetSpent) else "error"


def counted(usage: Usage) -> int:
    """The tokens that limits and budgets count: what a cache gave is not among them."""
    return usage.input_tokens + usage.cache_write_tokens + usage.output_tokens


def moment(monotonic: float) -> Moment:
    """Now, by both clocks; ``monotonic`` is the loop's."""
    return Moment(monotonic, time.time())


def printable(text: str) -> str:
    """A client's word, safe in a log line."""
    if len(text) <= 100 and text.isascii() and text.isprintable():
        return text
    return text.encode("ascii", "backslashreplace").decode()[:100].replace("\n", "\\n").replace("\r", "\\r")
