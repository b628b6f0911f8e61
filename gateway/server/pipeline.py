"""THE streaming pipeline: one request from the checked body to the last byte.

    resolve -> prepare -> open -> (read -> translate -> write)* -> close

Rules:
* Before the first content, a failure is an HTTP error; after it, one ``error`` event. Never both.
* A client that does not stream gets the fold of the same events.
* The upstream is closed as soon as its answer is complete, the client is gone, or it fell silent.
* A refusal that names what to leave out is answered by one attempt without it (rejected_parameter.py).
* One access-log line for each request, with tokens and times; no content.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from time import monotonic

from aiohttp import web

from gateway import adapters
from gateway.adapters.base import MessagesRequest, StreamTranslator, UpstreamRequest
from gateway.errors import GatewayError, Overloaded, ProviderNotReady, UpstreamTimeout
from gateway.routing import Target
from gateway.server.client_stream import ClientStream
from gateway.server.learned import amended
from gateway.server.state import GatewayState, new_id
from gateway.server.upstream import EmbeddedAnswer, UpstreamAnswer, open_upstream
from gateway.translate.changes import Changes
from gateway.translate.fold import MessageFold
from gateway.translate.rejected_parameter import Amendment, amendment
from gateway.translate.token_estimate import PromptSize, measure
from gateway.translate.writer import error_event
from gateway.wire.json_text import dumps

log = logging.getLogger("gateway")
access_log = logging.getLogger("gateway.access")

GRACE_SECONDS = 2.0
"""How long trailing usage may follow the finish reason (providers.md, R88)."""

_MAX_CHANGES_HEADER = 4000

Answer = UpstreamAnswer | EmbeddedAnswer


@dataclass(slots=True)
class Exchange:
    """Everything that belongs to one request on its way through."""

    state: GatewayState
    client: web.Request
    request_id: str
    request: MessagesRequest
    target: Target
    size: PromptSize
    upstream: UpstreamRequest
    translator: StreamTranslator
    started: float
    first_content: float | None = None
    ended: bool = False
    delivered: bool = False
    """The client has the whole answer; that it leaves then is no news."""
    outcome: str = "ok"
    """``ok``, ``client_closed`` or the type of the error."""

    @property
    def headers(self) -> dict[str, str]:
        """What a successful answer says about itself."""
        headers = {"request-id": self.request_id, "x-gateway-target": _printable(self.target.name)}
        if "x-gateway-explain" in self.request.headers:
            headers["x-gateway-changes"] = _changes_header(self.upstream.changes)
        return headers


async def run(state: GatewayState, client: web.Request, request_id: str, body: dict[str, object]) -> web.StreamResponse:
    """Answers one checked request. Raises GatewayError while the answer can still be an HTTP error."""
    exchange = _begin(state, client, request_id, body)
    task = asyncio.current_task()
    assert task is not None
    state.running.add(task)
    try:
        return await (_stream(exchange) if body.get("stream") else _fold(exchange))
    except GatewayError as error:
        exchange.outcome = error.error_type
        raise
    except (asyncio.CancelledError, ConnectionError):
        if not exchange.delivered:
            exchange.outcome = "client_closed"
        raise
    finally:
        state.running.discard(task)
        _record(exchange)


def _begin(state: GatewayState, client: web.Request, request_id: str, body: dict[str, object]) -> Exchange:
    started = monotonic()
    target = state.config.table.resolve(str(body["model"])).targets[0]
    if target.provider.missing_key is not None:
        raise ProviderNotReady(
            f"{body['model']} goes to {target.name}, and that provider has no key: "
            f"set {target.provider.missing_key} in the gateway's environment"
        )
    if state.windows is not None:
        state.windows.remind(target)
    target = state.learned.apply(target)
    size = measure(body)
    request = MessagesRequest(
        body=body,
        headers={name.lower(): value for name, value in client.headers.items()},
        query=client.query_string,
        message_id=new_id("msg"),
        input_tokens=state.estimator.estimate(target.name, size),
    )
    upstream, translator = _prepare(request_id, request, target)
    return Exchange(state, client, request_id, request, target, size, upstream, translator, started)


def _prepare(request_id: str, request: MessagesRequest, target: Target) -> tuple[UpstreamRequest, StreamTranslator]:
    adapter = adapters.get(target.api)
    upstream = adapter.prepare(request, target)
    for change in upstream.changes:
        log.debug("%s %s %s: %s", request_id, change.action, change.path, change.reason)
    return upstream, adapter.stream_translator(request, target)


async def _stream(exchange: Exchange) -> web.StreamResponse:
    async with AsyncExitStack() as stack:
        stream = ClientStream(exchange.client, exchange.headers, exchange.state.ping_interval)
        stack.push_async_callback(stream.stop)
        try:
            answer = await stack.enter_async_context(_answered(exchange))
            stream.headers.update(_relayed(exchange, answer))
            while data := await _translated(exchange, answer):
                await stream.write(data)
        except (GatewayError, asyncio.CancelledError) as reason:
            error = _as_error(exchange, reason)
            if not stream.started:
                raise error from None
            log.warning("%s %s failed in mid-stream: %s", exchange.request_id, exchange.target.name, error.message)
            exchange.outcome = error.error_type
            await stream.write(error_event(error, exchange.request_id))
        response = await stream.finish()
        exchange.delivered = True
        return response


def _as_error(exchange: Exchange, reason: GatewayError | asyncio.CancelledError) -> GatewayError:
    """The error that a stream ends with; a cancellation is one only when the gateway itself stops."""
    if isinstance(reason, GatewayError):
        return reason
    if not exchange.state.cutting:
        raise reason
    return Overloaded("the gateway stops; ask again")


async def _fold(exchange: Exchange) -> web.StreamResponse:
    fold = MessageFold()
    try:
        async with _answered(exchange) as answer:
            while data := await _translated(exchange, answer):
                fold.feed(data)
            headers = {**exchange.headers, **_relayed(exchange, answer)}
    except asyncio.CancelledError as reason:
        raise _as_error(exchange, reason) from None
    return web.Response(body=dumps(fold.message()), content_type="application/json", headers=headers)


@asynccontextmanager
async def _answered(exchange: Exchange) -> AsyncIterator[Answer]:
    """A 200; after a refusal that names what to leave out, that of a second attempt. Raises GatewayError."""
    async with AsyncExitStack() as stack:
        answer = await stack.enter_async_context(_open(exchange))
        if answer.status != 200:
            error, change = await _refusal(exchange, answer)
            if change is None:
                raise error
            await stack.aclose()
            _amend(exchange, change)
            answer = await stack.enter_async_context(_open(exchange))
            if answer.status != 200:
                raise (await _refusal(exchange, answer))[0]
        yield answer


def _open(exchange: Exchange) -> AbstractAsyncContextManager[Answer]:
    return open_upstream(exchange.state.session, exchange.upstream, exchange.target)


async def _refusal(exchange: Exchange, answer: Answer) -> tuple[GatewayError, Amendment | None]:
    """The error, and the change that may avert it."""
    target = exchange.target
    body = await answer.error_body()
    error = adapters.get(target.api).translate_error(answer.status, answer.headers, body, exchange.request, target)
    return error, amendment(answer.status, body, error.message, exchange.upstream.body, target.profile)


def _amend(exchange: Exchange, change: Amendment) -> None:
    """Prepares the request anew, with ``change``."""
    target = exchange.target
    log.info("%s %s is asked again: %s", exchange.request_id, target.name, change.reason)
    if change.remember and exchange.state.learned.add(target.name, change.layer):
        advice = "; ".join(f"{name}: {_yaml(value)}" for name, value in change.layer.items())
        log.warning(
            "%s: %s. This is done from now on; to keep it, write under providers.%s.models: {%s: {%s}}",
            target.name, change.reason, target.provider.name, dumps(target.model).decode(), advice,
        )
    exchange.target = amended(target, change.layer)
    exchange.upstream, exchange.translator = _prepare(exchange.request_id, exchange.request, exchange.target)


def _yaml(value: object) -> str:
    return dumps(list(value) if isinstance(value, tuple) else value).decode()


def _relayed(exchange: Exchange, answer: Answer) -> dict[str, str]:
    """Anthropic's own word on its rate limits; from anybody else it would mean something different."""
    if not exchange.target.profile.first_party:
        return {}
    return {name: value for name, value in answer.headers.items() if name.startswith("anthropic-ratelimit-")}


async def _translated(exchange: Exchange, answer: Answer) -> bytes:
    """The next events; b"" when the answer is whole. Raises GatewayError."""
    translator = exchange.translator
    while not exchange.ended:
        data = b""
        if not translator.complete:
            data = await _read(exchange, answer)
        if data:
            out = translator.feed(data)
        else:
            exchange.ended = True
            out = translator.close()
        if out:
            exchange.first_content = exchange.first_content or monotonic()
            return out
    return b""


async def _read(exchange: Exchange, answer: Answer) -> bytes:
    finished = exchange.translator.finished
    timeout = GRACE_SECONDS if finished else exchange.target.profile.idle_timeout
    try:
        return await answer.read(timeout)
    except TimeoutError:
        if finished:
            return b""
        raise UpstreamTimeout(
            f"{exchange.target.provider.name} sent nothing for {timeout:g} seconds"
        ) from None
    except GatewayError:
        if finished:
            return b""
        raise


def _record(exchange: Exchange) -> None:
    """Learns from the reported usage, and writes the access-log line."""
    usage = exchange.translator.usage
    if exchange.outcome == "ok" and not usage.estimated:
        exchange.state.estimator.learn(exchange.target.name, exchange.size, usage.prompt_tokens)
    now = monotonic()
    first = exchange.first_content or now
    access_log.info(
        "%s %s -> %s %s stop=%s in=%d cached=%d out=%d first=%.3fs total=%.3fs",
        exchange.request_id,
        _printable(exchange.request.model),
        _printable(exchange.target.name),
        exchange.outcome,
        exchange.translator.stop_reason,
        usage.input_tokens,
        usage.cache_read_tokens,
        usage.output_tokens,
        first - exchange.started,
        now - exchange.started,
    )


def _printable(text: str) -> str:
    """A client's word, safe in a log line."""
    return text.encode("ascii", "backslashreplace").decode()[:100].replace("\n", "\\n").replace("\r", "\\r")


def _changes_header(changes: Changes) -> str:
    text = "; ".join(f"{change.action} {change.path}: {change.reason}" for change in changes)
    return text.encode("ascii", "replace").decode()[:_MAX_CHANGES_HEADER]
