"""THE streaming pipeline: one request from the checked body to the last byte.

    resolve -> prepare -> open -> relay (read -> translate -> write)* -> close

Rules:
* Before the first content, a failure is an HTTP error; after it, one ``error`` event. Never both.
* A client that does not stream gets the fold of the same events.
* The upstream is closed as soon as its answer is complete, the client is gone, or it fell silent.
* A refusal that names what to leave out is answered by one attempt without it (rejected_parameter.py).
* While an answer is awaited, only the client's own bytes are kept, for another attempt; while it streams,
  nothing of the request is.
* One access-log line for each request, with tokens and times; no content.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
from dataclasses import dataclass
from typing import TYPE_CHECKING

from aiohttp import web

from gateway import adapters
from gateway.adapters.base import MessagesRequest, StreamTranslator, UpstreamRequest
from gateway.errors import GatewayError, InvalidRequest, Overloaded, ProviderNotReady
from gateway.routing import Target
from gateway.server.client_stream import ClientStream
from gateway.server.learned import amended
from gateway.server.relay import FoldSink, Relay, Sink
from gateway.server.state import GatewayState, new_id
from gateway.server.upstream import EmbeddedAnswer, UpstreamAnswer, open_session
from gateway.translate.changes import Changes
from gateway.translate.request_check import check_request
from gateway.translate.token_estimate import PromptSize, measure
from gateway.translate.writer import error_event
from gateway.wire.json_text import dumps

if TYPE_CHECKING:
    from gateway.translate.rejected_parameter import Amendment

log = logging.getLogger("gateway")
access_log = logging.getLogger("gateway.access")

_MAX_CHANGES_HEADER = 4000


@dataclass(slots=True)
class Exchange:
    """Everything that belongs to one request on its way through."""

    state: GatewayState
    client: web.Request
    request_id: str
    message_id: str
    raw: bytes
    """The client's body, as long as another attempt is possible."""
    asked: str
    """The name that the client asked for."""
    streams: bool
    target: Target
    size: PromptSize
    input_tokens: int
    translator: StreamTranslator
    upstream: UpstreamRequest | None
    """What goes up; None once it is sent."""
    headers: dict[str, str]
    """What a successful answer says about itself."""
    started: float
    first_output: float | None = None
    delivered: bool = False
    """The client has the whole answer; that it leaves then is no news."""
    outcome: str = "ok"
    """``ok``, ``client_closed`` or the type of the error."""


def begin(state: GatewayState, client: web.Request, request_id: str, raw: bytes) -> Exchange:
    """The exchange for one request, ready to be sent up. Raises GatewayError."""
    started = asyncio.get_running_loop().time()
    body = check_request(parse(state, raw))
    asked: str = body["model"]
    target = state.config.table.resolve(asked).targets[0]
    if target.provider.missing_key is not None:
        raise ProviderNotReady(
            f"{asked} goes to {target.name}, and that provider has no key: "
            f"set {target.provider.missing_key} in the gateway's environment"
        )
    if state.windows is not None:
        state.windows.remind(target)
    target = state.learned.apply(target)
    size = measure(body)
    input_tokens = state.estimator.estimate(target.name, size)
    message_id = new_id("msg")
    request = _request(client, body, message_id, input_tokens)
    upstream, translator = _prepare(request_id, request, target)
    exchange = Exchange(
        state, client, request_id, message_id, raw, asked, bool(body.get("stream")),
        target, size, input_tokens, translator, upstream, {}, started,
    )
    exchange.headers = _headers(exchange, upstream.changes)
    return exchange


def parse(state: GatewayState, raw: bytes) -> object:
    """The client's JSON. Raises InvalidRequest."""
    if not raw:
        raise InvalidRequest("body: a JSON object is required")
    try:
        return state.reader.loads(raw)
    except ValueError as error:
        raise InvalidRequest(f"body: not valid JSON: {error}") from None


async def run(exchange: Exchange) -> web.StreamResponse:
    """Answers one request. Raises GatewayError while the answer can still be an HTTP error."""
    task = asyncio.current_task()
    assert task is not None
    state = exchange.state
    state.running.add(task)
    state.peak_running = max(state.peak_running, len(state.running))
    try:
        return await (_stream(exchange) if exchange.streams else _fold(exchange))
    except GatewayError as error:
        exchange.outcome = error.error_type
        raise
    except (asyncio.CancelledError, ConnectionError):
        if not exchange.delivered:
            exchange.outcome = "client_closed"
        raise
    finally:
        exchange.raw = b""
        state.running.discard(task)
        _record(exchange)


# -- the request ---------------------------------------------------------------------------------------


def _request(
    client: web.Request, body: dict[str, object], message_id: str, input_tokens: int
) -> MessagesRequest:
    return MessagesRequest(body, client.headers, client.query_string, message_id, input_tokens)


def _again(exchange: Exchange) -> MessagesRequest:
    """The request once more, from the client's bytes."""
    body = check_request(parse(exchange.state, exchange.raw))
    return _request(exchange.client, body, exchange.message_id, exchange.input_tokens)


def _prepare(request_id: str, request: MessagesRequest, target: Target) -> tuple[UpstreamRequest, StreamTranslator]:
    adapter = adapters.get(target.api)
    upstream = adapter.prepare(request, target)
    if log.isEnabledFor(logging.DEBUG):
        for change in upstream.changes:
            log.debug("%s %s %s: %s", request_id, change.action, change.path, change.reason)
    make = upstream.translator
    return upstream, adapter.stream_translator(request, target) if make is None else make()


def _headers(exchange: Exchange, changes: Changes) -> dict[str, str]:
    headers = {"request-id": exchange.request_id, "x-gateway-target": _printable(exchange.target.name)}
    if "x-gateway-explain" in exchange.client.headers:
        headers["x-gateway-changes"] = _changes_header(changes)
    return headers


# -- the answer ----------------------------------------------------------------------------------------


async def _stream(exchange: Exchange) -> web.StreamResponse:
    stream = ClientStream(exchange.client, exchange.headers, exchange.state.ping_interval)
    try:
        try:
            answer = await _answer(exchange)
            stream.headers = _relayed(exchange, answer)
            await _relay(exchange, answer, stream)
        except (GatewayError, asyncio.CancelledError) as reason:
            if not stream.begun:
                raise _as_error(exchange, reason) from None
            error = _as_error(exchange, reason)
            log.warning("%s %s failed in mid-stream: %s", exchange.request_id, exchange.target.name, error.message)
            exchange.outcome = error.error_type
            stream.write(error_event(error, exchange.request_id))
        response = await stream.finish()
        exchange.delivered = True
        return response
    finally:
        stream.stop()


async def _fold(exchange: Exchange) -> web.StreamResponse:
    sink = FoldSink()
    try:
        answer = await _answer(exchange)
        headers = _relayed(exchange, answer)
        await _relay(exchange, answer, sink)
    except asyncio.CancelledError as reason:
        raise _as_error(exchange, reason) from None
    return web.Response(body=dumps(sink.fold.message()), content_type="application/json", headers=headers)


async def _relay(exchange: Exchange, answer: UpstreamAnswer, sink: Sink) -> None:
    target = exchange.target
    relay = Relay(
        exchange.translator, sink, provider=target.provider.name, idle_timeout=target.profile.idle_timeout
    )
    try:
        await relay.run(answer)
    finally:
        exchange.first_output = relay.first_output


def _as_error(exchange: Exchange, reason: GatewayError | asyncio.CancelledError) -> GatewayError:
    """The error that a stream ends with; a cancellation is one only when the gateway itself stops."""
    if isinstance(reason, GatewayError):
        return reason
    if not exchange.state.cutting:
        raise reason
    return Overloaded("the gateway stops; ask again")


async def _answer(exchange: Exchange) -> UpstreamAnswer:
    """A 200; after a refusal that names what to leave out, that of a second attempt. Raises GatewayError."""
    answer = await _open(exchange)
    if answer.status != 200:
        error, change = await _refusal(exchange, answer)
        try:
            if change is None:
                raise error
        finally:
            del error  # its traceback holds this frame, and this frame the exchange
        _amend(exchange, change)
        answer = await _open(exchange)
        if answer.status != 200:
            raise (await _refusal(exchange, answer))[0]
    exchange.raw = b""
    return answer


async def _open(exchange: Exchange) -> UpstreamAnswer:
    """Sends what goes up, and forgets it."""
    state, target = exchange.state, exchange.target
    assert exchange.upstream is not None
    if exchange.upstream.answer is not None:
        return EmbeddedAnswer(exchange.upstream.answer)
    opening: Coroutine[None, None, UpstreamAnswer]
    if state.direct is not None and state.config.server.relay == "direct":
        opening = state.direct.open(exchange.upstream, target)
    else:
        opening = open_session(state.session, exchange.upstream, target)
    exchange.upstream = None
    return await opening


async def _refusal(exchange: Exchange, answer: UpstreamAnswer) -> tuple[GatewayError, Amendment | None]:
    """The error, and the change that may avert it."""
    target = exchange.target
    try:
        body = await answer.error_body()
    finally:
        answer.close()
    adapter, request = adapters.get(target.api), _again(exchange)
    error = adapter.translate_error(answer.status, answer.headers, body, request, target)
    sent = adapter.prepare(request, target).body
    from gateway.translate.rejected_parameter import amendment  # most processes never need it

    return error, amendment(answer.status, body, error.message, sent, target.profile)


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
    target = exchange.target = amended(target, change.layer)
    exchange.upstream, exchange.translator = _prepare(exchange.request_id, _again(exchange), target)
    exchange.headers = _headers(exchange, exchange.upstream.changes)


def _yaml(value: object) -> str:
    return dumps(list(value) if isinstance(value, tuple) else value).decode()


def _relayed(exchange: Exchange, answer: UpstreamAnswer) -> dict[str, str]:
    """The answer's headers, with Anthropic's own word on its rate limits; anybody else's would mean something else."""
    if not exchange.target.profile.first_party:
        return exchange.headers
    limits = {name: value for name, value in answer.headers.items() if name.startswith("anthropic-ratelimit-")}
    return {**exchange.headers, **limits}


def _record(exchange: Exchange) -> None:
    """Learns from the reported usage, and writes the access-log line."""
    usage = exchange.translator.usage
    if exchange.outcome == "ok" and not usage.estimated:
        exchange.state.estimator.learn(exchange.target.name, exchange.size, usage.prompt_tokens)
    now = asyncio.get_running_loop().time()
    first = exchange.first_output or now
    access_log.info(
        "%s %s -> %s %s stop=%s in=%d cached=%d out=%d first=%.3fs total=%.3fs",
        exchange.request_id,
        _printable(exchange.asked),
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
    if len(text) <= 100 and text.isascii() and text.isprintable():
        return text
    return text.encode("ascii", "backslashreplace").decode()[:100].replace("\n", "\\n").replace("\r", "\\r")


def _changes_header(changes: Changes) -> str:
    text = "; ".join(f"{change.action} {change.path}: {change.reason}" for change in changes)
    return text.encode("ascii", "replace").decode()[:_MAX_CHANGES_HEADER]
