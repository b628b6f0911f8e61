"""THE streaming pipeline: one request from the checked body to the last byte.

    resolve -> (prepare -> open -> relay (read -> translate -> write)*)+ -> close

Rules:
* Before the first content, a failure is tried again or elsewhere (resilience/attempts.py), else an HTTP error;
  after it, one ``error`` event. Never both.
* A client that does not stream gets the fold of the same events.
* The upstream is closed as soon as its answer is complete, the client is gone, or it fell silent.
* While an answer is awaited, only the client's own bytes are kept, for another attempt; while it streams,
  nothing of the request is.
"""

from __future__ import annotations

import asyncio
import logging

from aiohttp import web

from gateway.errors import GatewayError, InternalError, Overloaded, UpstreamTimeout
from gateway.resilience.attempts import Attempts
from gateway.server.access import Caller
from gateway.server.attempt import aim, ask, parse
from gateway.server.client_stream import ClientStream
from gateway.server.exchange import Exchange
from gateway.server.recorder import ASKED
from gateway.server.redaction import redact_error
from gateway.server.relay import FoldSink, Relay, Sink
from gateway.server.state import GatewayState, new_id
from gateway.server.upstream import StaleConnection, UpstreamAnswer
from gateway.translate.request_check import check_request
from gateway.translate.session import session_id
from gateway.translate.token_estimate import measure
from gateway.translate.writer import error_event
from gateway.wire.json_text import dumps

log = logging.getLogger("gateway")


def begin(state: GatewayState, client: web.Request, request_id: str, caller: Caller, raw: bytes) -> Exchange:
    """The exchange for one request, ready to be sent up. Raises GatewayError."""
    started = asyncio.get_running_loop().time()
    body = check_request(parse(state, raw))
    asked: str = body["model"]
    client[ASKED] = asked
    session = session_id(body) or ""
    attempts = Attempts(
        caller.route(asked), state.config.server.retry, state.health, session or request_id, started
    )
    exchange = Exchange(
        state, client, request_id, new_id("msg"), raw, caller, asked, bool(body.get("stream")), measure(body), session,
        attempts, started,
    )  # fmt: skip
    if state.prompt_log is not None:
        exchange.transcript = state.prompt_log.transcript(caller.key, raw)
    aim(exchange, attempts.first(started), body)
    return exchange


async def run(exchange: Exchange) -> web.StreamResponse:
    """Answers one request. Raises GatewayError while the answer can still be an HTTP error."""
    task = asyncio.current_task()
    assert task is not None
    state = exchange.state
    state.running.add(task)
    state.peak_running = max(state.peak_running, len(state.running))
    try:
        exchange.admit()
        return await (_stream(exchange) if exchange.streams else _fold(exchange))
    except GatewayError as error:
        exchange.failed(error)
        raise
    except (asyncio.CancelledError, ConnectionError):
        if not exchange.delivered:
            exchange.closed(begun=exchange.first_output is not None)
        raise
    except Exception:
        exchange.failed(InternalError("a defect of the gateway"))
        raise
    finally:
        exchange.raw = b""
        state.running.discard(task)
        exchange.record()


# -- the answer ----------------------------------------------------------------------------------------


async def _stream(exchange: Exchange) -> web.StreamResponse:
    stream = ClientStream(
        exchange.client, exchange.headers, exchange.state.ping_interval, lambda: _keep_alive(exchange)
    )
    try:
        try:
            await _answer(exchange, stream)
        except (GatewayError, asyncio.CancelledError) as reason:
            if not stream.begun:
                raise _as_error(exchange, reason) from None
            error = _as_error(exchange, reason)
            log.warning("%s %s failed in mid-stream: %s", exchange.request_id, exchange.attempt.name, error.logged)
            exchange.failed(error, begun=True)
            stream.write(error_event(error, exchange.request_id))
        response = await stream.finish()
        exchange.delivered = True
        return response
    finally:
        stream.stop()


async def _fold(exchange: Exchange) -> web.StreamResponse:
    sink = FoldSink()
    try:
        await _answer(exchange, sink)
    except asyncio.CancelledError as reason:
        raise _as_error(exchange, reason) from None
    return web.Response(body=dumps(sink.fold.message()), content_type="application/json", headers=sink.headers)


async def _answer(exchange: Exchange, sink: Sink) -> None:
    """One attempt after the other, until content reached the sink. Raises GatewayError."""
    if exchange.transcript is not None:
        sink = exchange.transcript.before(sink)
    limit = exchange.state.config.server.retry.deadline
    try:
        async with asyncio.timeout_at(exchange.started + limit) as exchange.deadline:
            while not await _attempt(exchange, sink):
                pass
    except TimeoutError:
        late = UpstreamTimeout(f"{exchange.attempt.name} did not begin to answer within {limit:g} seconds")
        raise exchange.attempts.last_word(late) from None


async def _attempt(exchange: Exchange, sink: Sink) -> bool:
    """False: it failed, and the next one is prepared. Raises GatewayError."""
    provider, metrics = exchange.attempt.target.provider.name, exchange.state.metrics
    try:
        await _relay(exchange, sink)
    except StaleConnection:
        metrics.attempt(provider, "stale")
        if exchange.kept_alive:
            raise
        exchange.attempts.went_stale()
        exchange.needs_new_connection = True
        aim(exchange, exchange.attempt)
    except GatewayError as error:
        if error.scope != "room":  # nobody was asked
            metrics.attempt(provider, error.error_type)
        if exchange.first_output is not None or exchange.kept_alive:
            raise
        await _try_again(exchange, error)
    except asyncio.CancelledError:
        metrics.attempt(provider, "cancelled")
        raise
    else:
        metrics.attempt(provider, "ok")
        return True
    # A ping may send the head before the answer is there.
    sink.headers = exchange.headers
    return False


async def _relay(exchange: Exchange, sink: Sink) -> None:
    target = exchange.attempt.target
    grant = exchange.admit_to_provider()
    try:
        async with exchange.state.places.of(target, exchange.turn):
            answer = await ask(exchange)
            sink.headers = _relayed(exchange, answer)
            relay = Relay(
                exchange.translator,
                sink,
                on_first=exchange.answer_begins,
                provider=target.provider.name,
                idle_timeout=target.profile.idle_timeout,
            )
            await relay.run(answer)
            exchange.whole = True
            if exchange.first_output is None:
                exchange.answer_begins()
    except asyncio.CancelledError:
        exchange.left = True
        raise
    finally:
        if grant is not None:
            exchange.settle(grant)


async def _try_again(exchange: Exchange, error: GatewayError) -> None:
    """Prepares the next attempt, when its time has come. Raises GatewayError: there is none."""
    attempts, clock = exchange.attempts, asyncio.get_running_loop().time
    while True:
        failed, attempt = exchange.attempt.name, attempts.failed(error, clock())
        if attempt is None:
            raise attempts.last_word(error)
        log.info(
            "%s %s failed (%s); %s is asked%s", exchange.request_id, failed, error.logged, attempt.name,
            f" in {attempt.wait_seconds:.1f} s" if attempt.wait_seconds else "",
        )  # fmt: skip
        if attempt.wait_seconds:
            await asyncio.sleep(attempt.wait_seconds)
        try:
            return aim(exchange, attempt)
        except GatewayError as unfit:
            # For this target; the one before it could take the request.
            unfit.scope = "target"
            error = unfit


def _keep_alive(exchange: Exchange) -> bytes:
    """An event that adds nothing. Another attempt could not go on from it."""
    make = getattr(exchange.translator, "keep_alive", bytes)  # an adapter of others may be older
    event: bytes = make()
    exchange.kept_alive |= bool(event)
    return event


def _as_error(exchange: Exchange, reason: GatewayError | asyncio.CancelledError) -> GatewayError:
    """The error that a stream ends with; a cancellation is one only when the gateway itself stops."""
    if isinstance(reason, GatewayError):
        redact_error(reason, exchange.state.config.secrets)
        return reason
    if not exchange.state.cutting:
        raise reason
    return Overloaded("the gateway stops; ask again")


def _relayed(exchange: Exchange, answer: UpstreamAnswer) -> dict[str, str]:
    """The answer's headers, with Anthropic's own word on its rate limits; anybody else's would mean something else."""
    if not exchange.attempt.target.profile.first_party:
        return exchange.headers
    limits = {name: value for name, value in answer.headers.items() if name.startswith("anthropic-ratelimit-")}
    return {**exchange.headers, **limits}
