"""One attempt at one target: from the client's body to a 200, or to the error that the target is.

    prepare -> wait for a place -> open -> (refused for a parameter: amend, open again)

Rules:
* Only the client's own bytes are kept for another attempt; what goes up is prepared anew from them.
* A refusal that names what to leave out is answered by one request without it (rejected_parameter.py).
"""

from __future__ import annotations

import logging
from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any

from gateway import adapters
from gateway.adapters.base import MessagesRequest
from gateway.errors import GatewayError, InvalidRequest
from gateway.resilience.attempts import Attempt
from gateway.server.exchange import Exchange
from gateway.server.learned import amended
from gateway.server.recorder import printable
from gateway.server.state import GatewayState
from gateway.server.upstream import EmbeddedAnswer, UpstreamAnswer, open_session
from gateway.translate.changes import Changes
from gateway.translate.request_check import check_request
from gateway.wire.json_text import dumps

if TYPE_CHECKING:
    from gateway.translate.rejected_parameter import Amendment

log = logging.getLogger("gateway")

_MAX_CHANGES_HEADER = 4000


def parse(state: GatewayState, raw: bytes) -> object:
    """The client's JSON. Raises InvalidRequest."""
    if not raw:
        raise InvalidRequest("body: a JSON object is required")
    try:
        return state.reader.loads(raw)
    except ValueError as error:
        raise InvalidRequest(f"body: not valid JSON: {error}") from None


def aim(exchange: Exchange, attempt: Attempt, body: dict[str, Any] | None = None) -> None:
    """Prepares the request for ``attempt``; ``body`` None: from the client's bytes. Raises GatewayError."""
    state, target = exchange.state, attempt.target
    if state.windows is not None:
        state.windows.remind(target)
    known = state.learned.apply(target)
    exchange.attempt = attempt if known is target else attempt._replace(target=known)
    request = _request(exchange, body)
    adapter = adapters.get(known.api)
    upstream = exchange.upstream = adapter.prepare(request, known)
    exchange.notice(upstream.changes)
    if log.isEnabledFor(logging.DEBUG):
        for change in upstream.changes:
            log.debug("%s %s %s: %s", exchange.request_id, change.action, change.path, change.reason)
    make = upstream.translator
    exchange.translator = adapter.stream_translator(request, known) if make is None else make()
    headers = exchange.headers = {"request-id": exchange.request_id, "x-gateway-target": printable(known.name)}
    if exchange.attempts.tried:
        headers["x-gateway-tried"] = exchange.tried
    if "x-gateway-explain" in exchange.client.headers:
        headers["x-gateway-changes"] = _changes_header(upstream.changes)


async def ask(exchange: Exchange) -> UpstreamAnswer:
    """A 200; after a refusal that names what to leave out, that of a second request. Raises GatewayError."""
    answer = await _open(exchange)
    if answer.status != 200:
        error, change = await _refusal(exchange, answer)
        try:
            if change is None or exchange.kept_alive:
                raise error
        finally:
            del error  # its traceback holds this frame, and this frame the exchange
        _amend(exchange, change)
        answer = await _open(exchange)
        if answer.status != 200:
            raise (await _refusal(exchange, answer))[0]
    return answer


def _request(exchange: Exchange, body: dict[str, Any] | None = None) -> MessagesRequest:
    if body is None:
        body = check_request(parse(exchange.state, exchange.raw))
    client = exchange.client
    tokens = exchange.state.estimator.estimate(exchange.attempt.target.name, exchange.size)
    return MessagesRequest(body, client.headers, client.query_string, exchange.message_id, tokens)


async def _open(exchange: Exchange) -> UpstreamAnswer:
    """Sends what goes up, and forgets it."""
    state, target = exchange.state, exchange.attempt.target
    assert exchange.upstream is not None
    if exchange.upstream.answer is not None:
        return EmbeddedAnswer(exchange.upstream.answer)
    opening: Coroutine[None, None, UpstreamAnswer]
    if state.direct is not None and state.config.server.relay == "direct":
        opening = state.direct.open(exchange.upstream, target, exchange.needs_new_connection)
    else:
        opening = open_session(state.session, exchange.upstream, target)
    exchange.upstream = None
    return await opening


async def _refusal(exchange: Exchange, answer: UpstreamAnswer) -> tuple[GatewayError, Amendment | None]:
    """The error, and the change that may avert it."""
    target = exchange.attempt.target
    try:
        body = await answer.error_body()
    finally:
        answer.close()
    adapter, request = adapters.get(target.api), _request(exchange)
    error = adapter.translate_error(answer.status, answer.headers, body, request, target)
    sent = adapter.prepare(request, target).body
    from gateway.translate.rejected_parameter import amendment  # most processes never need it

    return error, amendment(answer.status, body, error.message, sent, target.profile)


def _amend(exchange: Exchange, change: Amendment) -> None:
    """Prepares the request anew, with ``change``."""
    attempt = exchange.attempt
    target = attempt.target
    log.info("%s %s is asked again: %s", exchange.request_id, target.name, change.reason)
    if change.remember and exchange.state.learned.add(target.name, change.layer):
        advice = "; ".join(f"{name}: {_yaml(value)}" for name, value in change.layer.items())
        log.warning(
            "%s: %s. This is done from now on; to keep it, write under providers.%s.models: {%s: {%s}}",
            target.name, change.reason, target.provider.name, dumps(target.model).decode(), advice,
        )  # fmt: skip
    aim(exchange, attempt._replace(target=amended(target, change.layer)))


def _yaml(value: object) -> str:
    return dumps(list(value) if isinstance(value, tuple) else value).decode()


def _changes_header(changes: Changes) -> str:
    text = "; ".join(f"{change.action} {change.path}: {change.reason}" for change in changes)
    ascii_text = text.encode("ascii", "replace").decode()[:_MAX_CHANGES_HEADER]
    return "".join(c if c.isprintable() else "?" for c in ascii_text)
