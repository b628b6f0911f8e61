"""Exchange: everything that belongs to one request on its way through, and what is said of it at the end.

Rule: one access-log line for each request, with tokens and times; no content.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass, field

from aiohttp import web

from gateway.adapters.base import StreamTranslator, UpstreamRequest
from gateway.resilience.attempts import Attempt, Attempts
from gateway.server.state import GatewayState
from gateway.translate.token_estimate import PromptSize

access_log = logging.getLogger("gateway.access")


@dataclass(slots=True)
class Exchange:
    """One request."""

    state: GatewayState
    client: web.Request
    request_id: str
    message_id: str
    raw: bytes
    """The client's body, as long as another attempt is possible."""
    asked: str
    """The name that the client asked for."""
    streams: bool
    size: PromptSize
    session: str
    """Whose turn it is: the client's session, where it names one and a target wants to know."""
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
    outcome: str = "ok"
    """``ok``, ``client_closed`` or the type of the error."""

    def answer_begins(self) -> None:
        """The first content is here: from now on there is no other attempt, and nothing to keep for one."""
        self.first_output = asyncio.get_running_loop().time()
        self.deadline.reschedule(None)
        self.raw = b""
        self.attempts.succeeded()

    def record(self) -> None:
        """Learns from the reported usage, and writes the access-log line."""
        usage, target = self.translator.usage, self.attempt.target
        if self.outcome == "ok" and not usage.estimated:
            self.state.estimator.learn(target.name, self.size, usage.prompt_tokens)
        now = asyncio.get_running_loop().time()
        access_log.info(
            "%s %s -> %s %s stop=%s in=%d cached=%d out=%d first=%.3fs total=%.3fs%s",
            self.request_id,
            printable(self.asked),
            printable(self.attempt.name),
            self.outcome,
            self.translator.stop_reason,
            usage.input_tokens,
            usage.cache_read_tokens,
            usage.output_tokens,
            (self.first_output or now) - self.started,
            now - self.started,
            f" after {self.tried}" if self.attempts.tried else "",
        )

    @property
    def tried(self) -> str:
        """Who was asked before, and why that was not the answer."""
        return "; ".join(printable(f"{name} {why}") for name, why in self.attempts.tried)


def printable(text: str) -> str:
    """A client's word, safe in a log line."""
    if len(text) <= 100 and text.isascii() and text.isprintable():
        return text
    return text.encode("ascii", "backslashreplace").decode()[:100].replace("\n", "\\n").replace("\r", "\\r")
