"""The endpoints. Each reads the request, asks the layer below, and answers; errors are raised.

Rule: paths are matched without the query string; clients always send ``?beta=true``.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import orjson
from aiohttp import web

from gateway.errors import INPUT_TOO_LONG, AuthenticationFailed, InvalidRequest, PermissionDenied, RequestTooLarge
from gateway.routing import FAMILIES, Route, RoutingTable
from gateway.server import pipeline
from gateway.server.access import Caller, caller_of
from gateway.server.attempt import parse
from gateway.server.recorder import CLIENT_KEY
from gateway.server.state import STATE, GatewayState
from gateway.translate.request_check import check_request
from gateway.translate.token_estimate import measure

log = logging.getLogger("gateway")

REQUEST_ID = web.RequestKey("REQUEST_ID", str)
"""The key under which a request carries its id."""

STRANGER = "the log says what; so does this page, to who sends a key"
_EPOCH = "1970-01-01T00:00:00Z"
"""``created_at`` of a model whose release date nobody knows (the SDK's own advice)."""
BODY_SECONDS = 30.0
"""How long a body may stand still (H2)."""
_DEFAULT_PAGE, _LARGEST_PAGE = 20, 1000


async def messages(request: web.Request) -> web.StreamResponse:
    """``POST /v1/messages``."""
    caller = authorize(request)
    # The body is nobody's local variable here: this frame lives as long as the stream.
    return await pipeline.run(
        pipeline.begin(request.app[STATE], request, request[REQUEST_ID], caller, await read_body(request))
    )


async def count_tokens(request: web.Request) -> web.Response:
    """``POST /v1/messages/count_tokens``: a local estimate."""
    caller = authorize(request)
    state = request.app[STATE]
    body = check_request(parse(state, await read_body(request)), needs_max_tokens=False)
    target = caller.route(body["model"]).targets[0]
    return json_response({"input_tokens": state.estimator.estimate(target.name, measure(body))})


async def list_models(request: web.Request) -> web.Response:
    """``GET /v1/models``: Anthropic's page, or OpenAI's list for a client that names no Anthropic version."""
    caller = authorize(request)
    models = [_model(name, route) for name, route in _listed(caller.table) if caller.may_ask(name, route)]
    if "anthropic-version" not in request.headers:
        return json_response({"object": "list", "data": [_openai_model(model) for model in models]})
    page, has_more = _page(models, request)
    return json_response(
        {
            "data": page,
            "has_more": has_more,
            "first_id": page[0]["id"] if page else None,
            "last_id": page[-1]["id"] if page else None,
        }
    )


async def get_model(request: web.Request) -> web.Response:
    """``GET /v1/models/{id}``: any name that a request could ask for."""
    caller = authorize(request)
    asked = request.match_info["id"]
    model = _model(asked, caller.route(asked))
    return json_response(model if "anthropic-version" in request.headers else _openai_model(model))


async def hello(request: web.Request) -> web.Response:
    """``HEAD /`` and ``/api/hello``: Claude Code warms its connection up."""
    return web.Response(text="" if request.method == "HEAD" else "messages-gateway\n")


async def event_logging(request: web.Request) -> web.Response:
    """``POST /api/event_logging/batch``: the client's telemetry, accepted and thrown away."""
    while await _next_piece(request):
        pass
    return json_response({"accepted_count": 0, "rejected_count": 0})


async def healthz(request: web.Request) -> web.Response:
    """The process runs."""
    return json_response({"status": "ok"})


async def readyz(request: web.Request) -> web.Response:
    """New requests are welcome; whoever may ask for models learns what is wrong. Never asks an upstream."""
    try:
        caller_of(request)
    except (AuthenticationFailed, PermissionDenied):
        return readiness(request.app[STATE], STRANGER)
    return readiness(request.app[STATE])


def readiness(state: GatewayState, instead: str | None = None) -> web.Response:
    """``instead``: what is said in the place of words that are for the operator."""
    status: dict[str, object] = {"status": "ready" if state.ready else "draining"}
    warnings = state.windows.warnings if state.windows is not None else None
    for name, words in (("config_error", state.config_error), ("keys_error", state.keys_error)):
        if words:
            status[name] = instead or words
    if warnings:
        status["warnings"] = [instead] if instead else warnings
    return json_response(status, status=200 if state.ready else 503)


# -- reading -------------------------------------------------------------------------------------------


def authorize(request: web.Request) -> Caller:
    """Who asks. Raises AuthenticationFailed, PermissionDenied."""
    caller = caller_of(request)
    if caller.key is not None:
        request[CLIENT_KEY] = caller.key
    return caller


async def read_body(request: web.Request) -> bytes:
    """The body, which aiohttp does not keep. Raises InvalidRequest or RequestTooLarge."""
    limit = request.app[STATE].config.server.max_body_bytes
    if request.headers.get("content-encoding", "identity").lower() != "identity":
        raise InvalidRequest("content-encoding: compressed request bodies are not taken; send it plain", status=415)
    if request.content_length is not None and request.content_length > limit:
        raise _too_large(request, limit)
    if request.content.is_eof():  # all is there, as it is with most requests
        body = request.content.read_nowait()
        if len(body) > limit:
            raise _too_large(request, limit)
        return body
    pieces: list[bytes] = []
    size = 0
    while data := await _next_piece(request):
        pieces.append(data)
        size += len(data)
        if size > limit:
            raise _too_large(request, limit)
    return b"".join(pieces)


async def _next_piece(request: web.Request) -> bytes:
    try:
        async with asyncio.timeout(BODY_SECONDS):
            return await request.content.readany()
    except TimeoutError:
        raise InvalidRequest(f"body: nothing came for {BODY_SECONDS:g} seconds", status=408) from None


def _too_large(request: web.Request, limit: int) -> RequestTooLarge:
    """The message is for the client's own reaction; the numbers are for whoever reads the log."""
    log.warning("%s a body of %s bytes; %d are taken", request[REQUEST_ID], request.content_length or "more", limit)
    return RequestTooLarge(INPUT_TOO_LONG)


def json_response(value: Any, status: int = 200) -> web.Response:
    return web.Response(body=orjson.dumps(value), content_type="application/json", status=status)


# -- models --------------------------------------------------------------------------------------------


def _listed(table: RoutingTable) -> list[tuple[str, Route]]:
    """The names in the file; a family also under a ``claude-`` id, which is what Claude Code's picker keeps."""
    listed: list[tuple[str, Route]] = []
    for name, route in table.routes.items():
        if name in FAMILIES:
            listed.append((f"claude-{name}", route))
        listed.append((name, route))
    return listed


def _model(name: str, route: Route) -> dict[str, Any]:
    target = route.targets[0]
    return {
        "type": "model",
        "id": name,
        "display_name": f"{name} ({target.name})",
        "created_at": _EPOCH,
        "lifecycle": "active",
        "max_input_tokens": target.profile.context_window,
        "max_tokens": target.profile.max_output_tokens,
    }


def _openai_model(model: dict[str, Any]) -> dict[str, Any]:
    return {"id": model["id"], "object": "model", "created": 0, "owned_by": "messages-gateway"}


def _page(models: list[dict[str, Any]], request: web.Request) -> tuple[list[dict[str, Any]], bool]:
    """(the asked page, whether more follow in the asked direction). An unknown cursor gives the first page."""
    query = request.query
    limit = _limit(query.get("limit"))
    wanted = query.getall("lifecycle[]", [])
    if wanted and "active" not in wanted:
        return [], False
    ids = [model["id"] for model in models]
    if query.get("before_id") in ids:
        before = models[: ids.index(query["before_id"])]
        return before[-limit:], len(before) > limit
    if query.get("after_id") in ids:
        models = models[ids.index(query["after_id"]) + 1 :]
    return models[:limit], len(models) > limit


def _limit(text: str | None) -> int:
    if text is None:
        return _DEFAULT_PAGE
    if not text.isascii() or not text.isdigit() or not 1 <= int(text[:9]) <= _LARGEST_PAGE:
        raise InvalidRequest(f"limit: Input should be a number from 1 to {_LARGEST_PAGE}")
    return int(text)


