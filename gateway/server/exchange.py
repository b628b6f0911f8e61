"""Exchange: everything that belongs to one request on its way through, and its record at the end."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from aiohttp import web

from gateway.access.limiter import Grant, Holder
from gateway.access.limits import NO_LIMITS
from gateway.adapters.base import StreamTranslator, UpstreamRequest
from gateway.errors import GatewayError
from gateway.ledger.prices import cost, price_of
from gateway.ledger.record import Outcome, UsageRecord
from gateway.resilience.attempts import Attempt, Attempts
from gateway.server import recorder
from gateway.server.access import TOKEN, Caller
from gateway.server.recorder import AccessLine, printable
from gateway.server.state import GatewayState
from gateway.translate.changes import Changes
from gateway.translate.token_estimate import PromptSize
from gateway.translate.usage import Usage

if TYPE_CHECKING:
    from gateway.server.prompt_log import Transcript

NOTHING = Usage()


@dataclass(slots=True)
class Exchange:
    """One request."""

    state: GatewayState
    client: web.Request
    request_id: str
    message_id: str
    raw: bytes
    """The client's body, as long as another attempt is possible."""
    caller: Caller
    asked: str
    """The name that the client asked for."""
    streams: bool
    size: PromptSize
    session: str
    """The client's, where it names one; else empty."""
    attempts: Attempts
    started: float
    attempt: Attempt = field(init=False)
    """The one under way."""
    translator: StreamTranslator = field(init=False)
    upstream: UpstreamRequest | None = field(init=False)
    """What goes up; None once it is sent."""
    deadline: asyncio.Timeout = field(init=False)
    """For the first content, over all attempts."""
    headers: dict[str, str] = field(init=False)
    """What a successful answer says about itself."""
    needs_new_connection: bool = False
    """One that was kept open has failed."""
    kept_alive: bool = False
    """The client got an event that adds nothing: from now on there is no other attempt either."""
    first_output: float | None = None
    delivered: bool = False
    """The client has the whole answer; that it leaves then is no news."""
    grant: Grant | None = None
    """What the caller's limits let it have; None: it has none."""
    transcript: Transcript | None = None
    """None: nobody asked for the words to be kept."""
    dropped: str = ""
    """The fields that did not go up in the last attempt."""
    whole: bool = False
    """The upstream's answer came to its end."""
    left: bool = False
    """It was cancelled while an upstream was at work."""
    outcome: Outcome = "ok"
    status: int = 200
    error_type: str = ""

    @property
    def turn(self) -> str:
        """Who takes turns with others: the user; where clients have no names, the session, or the request itself."""
        key = self.caller.key
        return self.session or self.request_id if key is None or key is TOKEN else f"user {key.user}"

    def answer_begins(self) -> None:
        """The first content is here: from now on there is no other attempt, and nothing to keep for one."""
        self.first_output = asyncio.get_running_loop().time()
        self.deadline.reschedule(None)
        self.raw = b""
        self.attempts.succeeded()

    def admit(self) -> None:
        """Takes what the caller's limits let it have. Raises LimitReached, BudgetSpent."""
        self.grant = self._admit(self.caller.holders)

    def admit_to_provider(self) -> Grant | None:
        """The same for the limits of the target's provider; None: it has none."""
        provider = self.attempt.target.provider
        if provider.limits == NO_LIMITS:
            return None
        return self._admit([Holder("provider", provider.name, provider.limits)])

    def settle(self, grant: Grant) -> None:
        """Charges what the last attempt took."""
        usage = self.used
        price = cost(usage, self.attempt.target.once(price_of))
        grant.settle(recorder.counted(usage), price or 0, recorder.moment(asyncio.get_running_loop().time()))

    def failed(self, error: GatewayError, *, begun: bool = False) -> None:
        """It ends with ``error``; ``begun``: in an answer that began as a 200."""
        self.outcome, self.error_type = recorder.outcome_of(error), error.error_type
        self.status = 200 if begun else error.status

    def closed(self, *, begun: bool) -> None:
        """The client left."""
        self.outcome, self.left = "client_closed", True
        self.status = 200 if begun else recorder.CLIENT_LEFT

    def notice(self, changes: Changes) -> None:
        """What did not go up."""
        paths = (change.path for change in changes if change.action == "dropped")
        self.dropped = ",".join(dict.fromkeys(path[path.rfind(".") + 1 :] for path in paths))

    @property
    def used(self) -> Usage:
        """The tokens of the last attempt, as far as they are known."""
        if self.whole:
            return self.translator.usage
        if self.first_output is None and not self.left:
            return NOTHING
        so_far = getattr(self.translator, "usage_so_far", None)  # an adapter of others may be older
        return self.translator.usage if so_far is None else so_far()

    def record(self) -> None:
        """Learns from the reported usage, charges the caller, and leaves the record."""
        state, target, usage = self.state, self.attempt.target, self.used
        if self.outcome == "ok" and not usage.estimated:
            state.estimator.learn(target.name, self.size, usage.prompt_tokens)
        if self.grant is not None:
            self.settle(self.grant)
        now, key = asyncio.get_running_loop().time(), self.caller.key
        done = UsageRecord(
            time=time.time() - (now - self.started),
            request_id=self.request_id,
            outcome=self.outcome,
            status=self.status,
            error_type=self.error_type,
            key="" if key is None else key.name,
            user="" if key is None else key.user,
            group="" if key is None else key.group or "",
            session=self.session,
            asked=self.asked[: recorder.MAX_NAME],
            target=self.attempt.name,
            provider=target.provider.name,
            wire=target.api,
            streamed=self.streams,
            input_tokens=usage.input_tokens,
            output_tokens=usage.output_tokens,
            cache_read_tokens=usage.cache_read_tokens,
            cache_write_tokens=usage.cache_write_tokens,
            reasoning_tokens=usage.reasoning_tokens,
            estimated=usage.estimated,
            cost=cost(usage, target.once(price_of)),
            first_token_seconds=None if self.first_output is None else self.first_output - self.started,
            duration_seconds=now - self.started,
            attempts=len(self.attempts.tried) + 1,
            tried=self.tried if self.attempts.tried else "",
            stop_reason=self.translator.stop_reason or "",
            dropped=self.dropped,
        )
        self.client[recorder.RECORDED] = True
        if self.transcript is not None and state.prompt_log is not None:
            state.prompt_log.keep(self.transcript, done._asdict())
        # The words for people leave the address out, and it costs some microseconds.
        client = recorder.address_of(self.client) if state.json_log else ""
        recorder.record(state, done, AccessLine(done, client=client))

    def _admit(self, holders: Sequence[Holder]) -> Grant | None:
        if not holders:
            return None
        tokens = self.state.estimator.estimate(self.attempt.target.name, self.size)
        return self.state.limiter.admit(holders, tokens, recorder.moment(asyncio.get_running_loop().time()))

    @property
    def tried(self) -> str:
        """Who was asked before, and why that was not the answer."""
        return "; ".join(printable(f"{name} {why}") for name, why in self.attempts.tried)

