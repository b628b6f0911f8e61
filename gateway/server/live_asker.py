"""Asker: small real requests to one upstream model, on the way that a client's would go.

Rules:
* A request is prepared, opened, translated and folded by the code that serves clients. So what is found
  is what the gateway can do with the upstream, not what its documentation promises.
* What is found out holds for the requests after it, and becomes a field of the profile.
* No message holds a key: they are the messages that clients would get.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Awaitable, Callable, Mapping
from contextlib import closing
from dataclasses import dataclass, field, replace
from typing import Any

from gateway.server.tls import tls_context  # first: see there

# isort: split
import aiohttp

from gateway import adapters
from gateway.adapters.base import Adapter, MessagesRequest, UpstreamRequest
from gateway.adapters.headers import upstream_headers
from gateway.errors import (
    GatewayError,
    InvalidRequest,
    NotFound,
    Overloaded,
    PromptTooLong,
    RateLimited,
    UpstreamTimeout,
)
from gateway.routing import Target
from gateway.server.learned import amended
from gateway.server.relay import GRACE_SECONDS
from gateway.server.upstream import PulledAnswer, open_session
from gateway.translate.fold import MessageFold
from gateway.translate.rejected_parameter import Amendment, amendment
from gateway.translate.token_estimate import TokenEstimator, measure
from gateway.translate.usage import Usage
from gateway.wire.json_text import loads_upstream

JSON = dict[str, Any]

LONGEST_PAUSE = 30.0
"""Seconds that a busy upstream may ask for before the one other try."""
MAX_INFO_BYTES = 8 * 1024 * 1024
"""The largest list of models that is read."""
MAX_AMENDMENTS = 4
"""Parameters that the plain question may lose one by one."""

OK, NO, NOT_ASKED, NOT_SHOWN = "ok", "no", "-", "?"


@dataclass(frozen=True, slots=True)
class Cell:
    """The outcome of one probe."""

    mark: str
    """OK, NO, NOT_ASKED or NOT_SHOWN."""
    note: str = ""
    """Why, in one clause."""
    value: str = ""
    """What a table shows instead of the mark: a number of tokens."""


@dataclass(frozen=True, slots=True)
class Reply:
    """What became of one request."""

    message: JSON | None = None
    """The folded answer; None after an error."""
    error: GatewayError | None = None
    usage: Usage = field(default_factory=lambda: Usage(estimated=True))
    streamed: bool = False
    """It came as a stream of events."""
    sent: bool = True
    """False: the gateway itself refused to translate it."""
    change: Amendment | None = None
    """What the refusal says to leave out."""

    @property
    def refused(self) -> bool:
        """The upstream refused the request for what stands in it."""
        about_it = isinstance(self.error, InvalidRequest | NotFound) and not isinstance(self.error, PromptTooLong)
        return self.sent and about_it

    @property
    def reason(self) -> str:
        """The error on one short line."""
        text = " ".join(self.error.message.split()) if self.error is not None else ""
        return text if len(text) <= 200 else text[:199] + "…"

    def blocks(self, kind: str) -> list[JSON]:
        """The answer's blocks of one type."""
        content = self.message["content"] if self.message is not None else []
        return [block for block in content if block.get("type") == kind]

    @property
    def text(self) -> str:
        """What it said."""
        return "".join(block.get("text", "") for block in self.blocks("text"))


class Asker:
    """Asks one target. ``target`` is amended by what is found out on the way."""

    def __init__(
        self,
        target: Target,
        session: aiohttp.ClientSession,
        timeout: float,
        pause: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        """``timeout``: seconds for one whole answer."""
        self.configured = self.target = target
        self.requests = 0
        self.hello: Reply = Reply()
        """The answer to the plain question."""
        self.thinking: JSON = {}
        """The request fields with which reasoning was shown; empty: it was not."""
        self._session = session
        self._timeout = timeout
        self._pause = pause
        self._replies: dict[tuple[str, bytes], Reply] = {}

    @property
    def facts(self) -> dict[str, Any]:
        """The fields of the profile that were found to be different."""
        old, new = self.configured.profile, self.target.profile
        return {name: getattr(new, name) for name in new.__slots__ if getattr(new, name) != getattr(old, name)}

    def found(self, **fields: Any) -> None:
        """From now on the profile says so."""
        self.target = replace(self.target, profile=replace(self.target.profile, **fields))

    def with_fields(self, fields: Mapping[str, Any]) -> Target:
        """The target with other fields in its profile."""
        return replace(self.target, profile=replace(self.target.profile, **fields))

    async def ask(self, body: JSON, fields: Mapping[str, Any] | None = None, *, again: bool = False) -> Reply:
        """The answer to ``body``, with other ``fields`` in the profile; ``again``: also if it was asked before."""
        target = self.with_fields(fields or {})
        request = self._request(body)
        adapter = adapters.get(target.api)
        try:
            upstream = adapter.prepare(request, target)
        except GatewayError as error:
            return Reply(error=error, sent=False)
        known = self._replies.get((upstream.url, upstream.body))
        if known is not None and upstream.body and not again:
            return known
        reply = await self._send(adapter, request, upstream, target)
        pause = _pause_before_another_try(reply.error)
        if pause is not None:
            await self._pause(pause)
            reply = await self._send(adapter, request, upstream, target)
        self._replies[upstream.url, upstream.body] = reply
        return reply

    def same(self, body: JSON, *variants: Mapping[str, Any]) -> bool:
        """Whether the profile with each of ``variants``, and as it is, gives the same request byte for byte."""
        request, adapter = self._request(body), adapters.get(self.target.api)
        try:
            made = [adapter.prepare(request, self.with_fields(fields)) for fields in ({}, *variants)]
        except GatewayError:
            return False
        return all(upstream.answer is None and upstream.body == made[0].body for upstream in made)

    async def ask_plainly(self, body: JSON) -> Reply:
        """As ``ask``; what the upstream refuses by name is left out from now on."""
        reply = await self.ask(body)
        for _ in range(MAX_AMENDMENTS):
            if reply.change is None or not reply.change.remember:
                break
            self.target = amended(self.target, reply.change.layer)
            reply = await self.ask(body)
        return reply

    async def get(self, url: str, body: bytes | None = None) -> Any:
        """The JSON that the server answers on one of its other addresses; None for anything else."""
        headers = upstream_headers(self._request({"messages": []}), self.target)
        if self.target.api == "anthropic":
            headers["anthropic-version"] = "2023-06-01"
        self.requests += 1
        try:
            async with (
                asyncio.timeout(self._timeout),
                self._session.request(
                    "GET" if body is None else "POST",
                    url,
                    data=body,
                    headers=headers,
                    allow_redirects=False,
                    ssl=tls_context() if url.startswith("https:") else True,
                ) as response,
            ):
                read = b""
                while response.status == 200 and len(read) <= MAX_INFO_BYTES:
                    if not (data := await response.content.readany()):
                        return loads_upstream(read)
                    read += data
        except (aiohttp.ClientError, OSError, TimeoutError, ValueError):
            pass
        return None

    def _request(self, body: JSON) -> MessagesRequest:
        whole = {"model": self.target.name, "stream": True, **body}
        size = TokenEstimator().estimate(self.target.name, measure(whole))
        return MessagesRequest(whole, {}, "", f"msg_{secrets.token_hex(12)}", size)

    async def _send(
        self, adapter: Adapter, request: MessagesRequest, upstream: UpstreamRequest, target: Target
    ) -> Reply:
        self.requests += 1
        try:
            async with asyncio.timeout(self._timeout):
                with closing(await open_session(self._session, upstream, target)) as answer:
                    if answer.status == 200:
                        return await _folded(adapter, request, target, answer)
                    body = await answer.error_body()
                    error = adapter.translate_error(answer.status, answer.headers, body, request, target)
                    change = amendment(answer.status, body, error.message, upstream.body, target.profile)
                    return Reply(error=error, change=change)
        except GatewayError as error:
            return Reply(error=error)
        except TimeoutError:
            return Reply(error=UpstreamTimeout(f"{target.provider.name} took longer than {self._timeout:g} seconds"))


def _pause_before_another_try(error: GatewayError | None) -> float | None:
    """Seconds after which the same request may fare better; None: it would not."""
    if isinstance(error, RateLimited | Overloaded) and (error.retry_after or 0) <= LONGEST_PAUSE:
        return float(error.retry_after or 2)
    cause = error.__cause__ if error is not None else None
    connected = isinstance(cause, aiohttp.ServerDisconnectedError | aiohttp.ClientOSError)
    # A server may close a connection that was kept open in the moment in which it is used again.
    return 0.0 if connected and not isinstance(cause, aiohttp.ClientConnectorError) else None


async def _folded(
    adapter: Adapter, request: MessagesRequest, target: Target, answer: PulledAnswer
) -> Reply:
    """The whole answer. Raises GatewayError."""
    translator = adapter.stream_translator(request, target)
    fold = MessageFold()
    head = b""
    while not translator.complete:
        try:
            data = await answer.read(GRACE_SECONDS if translator.finished else target.profile.idle_timeout)
        except TimeoutError:
            if translator.finished:
                break
            raise UpstreamTimeout(f"{target.provider.name} fell silent in mid-answer") from None
        if not data:
            break
        head = (head + data)[:64] if len(head) < 64 else head
        fold.feed(translator.feed(data))
    fold.feed(translator.close())
    one_value = head.lstrip()[:1] in (b"{", b"[") and "json" in answer.headers.get("content-type", "json")
    by_lines = "ndjson" in answer.headers.get("content-type", "")
    return Reply(fold.message(), usage=translator.usage, streamed=by_lines or not one_value)
