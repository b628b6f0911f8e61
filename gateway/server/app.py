"""The application: routes, and one place where errors become Anthropic's envelope.

Rule: every answer has a unique ``request-id``; every error, whatever raised it, has Anthropic's shape,
type and status. What is no HTTP at all never comes here: http_edge.py.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

from aiohttp import web

from gateway.errors import (
    INPUT_TOO_LONG,
    GatewayError,
    InternalError,
    InvalidRequest,
    MethodNotAllowed,
    NotFound,
    RequestTooLarge,
)
from gateway.server import handlers, recorder
from gateway.server.host_check import GRANT
from gateway.server.http_head import SERVER_NAME
from gateway.server.redaction import redact_error
from gateway.server.state import STATE, GatewayState, new_id

log = logging.getLogger("gateway")

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def build_app(state: GatewayState) -> web.Application:
    """The application around ``state``."""
    app = web.Application(middlewares=[envelope], client_max_size=state.config.server.max_body_bytes)
    app[STATE] = state
    app.on_response_prepare.append(name_server)
    add = app.router.add_route
    add("POST", "/v1/messages", handlers.messages, expect_handler=expect)
    add("POST", "/v1/messages/count_tokens", handlers.count_tokens, expect_handler=expect)
    add("GET", "/v1/models", handlers.list_models)
    add("GET", "/v1/models/{id:.+}", handlers.get_model)
    for path in ("/", "/api/hello"):
        app.router.add_get(path, handlers.hello, allow_head=True)
    add("POST", "/api/event_logging/batch", handlers.event_logging, expect_handler=expect)
    app.router.add_get("/healthz", handlers.healthz, allow_head=True)
    app.router.add_get("/readyz", handlers.readyz, allow_head=True)
    return app


@web.middleware
async def envelope(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Gives a request its id, and an error its shape."""
    request_id = request[handlers.REQUEST_ID] = new_id("req")
    state = request.app[STATE]
    response: web.StreamResponse | None
    try:
        response = state.host_check.admit(request, state.config.server)
        if response is None:
            response = await handler(request)
            recorder.answered(request, request_id, response.status)
    except GatewayError as error:
        redact_error(error, state.config.secrets)
        response = error_response(error, request_id)
        if error.quoted:
            log.debug("%s %s", request_id, error.message)
        if recorder.RECORDED in request:
            level = logging.WARNING if error.status >= 500 else logging.INFO
            log.log(level, "%s %s %s: %s", request_id, error.status, error.error_type, error.logged)
        else:
            recorder.refuse(request, request_id, error)
    except web.HTTPException as error:
        refusal = _from_http(error, request)
        response = error_response(refusal, request_id)
        response.headers.update({name: error.headers[name] for name in ("allow",) if name in error.headers})
        recorder.refuse(request, request_id, refusal, error.reason)  # without the path, in which a key may stand
    except (asyncio.CancelledError, ConnectionError):
        if recorder.RECORDED not in request:
            recorder.left(request, request_id)
        raise
    except Exception:
        log.exception("%s a defect of the gateway", request_id)
        defect = InternalError(f"a defect of the gateway; its log has {request_id}")
        response = error_response(defect, request_id)
        if recorder.RECORDED not in request:
            recorder.refuse(request, request_id, defect)
    if not response.prepared:
        response.headers["request-id"] = request_id
    return response


async def expect(request: web.Request) -> web.StreamResponse | None:
    """Answers ``Expect``: the body may come, or an error; aiohttp asks before any middleware."""
    if request.headers["expect"].lower() == "100-continue":
        await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        request.writer.output_size = 0
        return None
    error = InvalidRequest("expect: only 100-continue is understood", status=417)
    return error_response(error, new_id("req"))


async def name_server(request: web.Request, response: web.StreamResponse) -> None:
    """Instead of aiohttp's own name; and what lets a listed web page read the answer."""
    response.headers["server"] = SERVER_NAME
    if GRANT in request:
        response.headers.update(request[GRANT])


def error_response(
    error: GatewayError, request_id: str, answer: type[web.Response] = web.Response
) -> web.Response:
    """``error`` as an HTTP answer, of the class ``answer``."""
    response = answer(
        body=error.envelope(request_id),
        status=error.status,
        content_type="application/json",
        headers={"request-id": request_id, **error.headers()},
    )
    if isinstance(error, RequestTooLarge) or error.status == 408:
        response.force_close()
    return response


def _from_http(error: web.HTTPException, request: web.Request) -> GatewayError:
    if error.status == 404:
        return NotFound(f"no such path: {request.method} {request.path[:200]}")
    if error.status == 405:
        return MethodNotAllowed(f"{request.method} is not a method of {request.path[:200]}")
    if error.status == 413:
        return RequestTooLarge(INPUT_TOO_LONG)
    return InvalidRequest(error.reason or "bad request", status=error.status if 400 <= error.status < 500 else None)
