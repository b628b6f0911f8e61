"""Bytes that are no HTTP get Anthropic's envelope too.

Rules:
* Only aiohttp's C parser: most request-smuggling holes were in the Python one (reliability.md).
* Malformed requests are refused and the connection closed.
"""

from __future__ import annotations

import asyncio
from http import HTTPStatus

import aiohttp
from aiohttp import http_parser, web
from aiohttp.web_protocol import RequestHandler

from gateway.errors import GatewayError, InternalError, InvalidRequest
from gateway.server.app import error_response
from gateway.server.state import new_id

LAST_WORD_SECONDS = 0.1
OLDEST_AIOHTTP = (3, 14, 3)

HANDLER_OPTIONS = {
    "keepalive_timeout": 75.0,
    "max_line_size": 32 * 1024,
    "max_field_size": 32 * 1024,
    "max_headers": 128,
    "lingering_time": 2.0,
    "auto_decompress": False,
    "access_log": None,
}
"""Options of every connection: room for long ``anthropic-beta`` lists, no decompression of requests."""


class LastWord(web.Response):
    """An answer after which the connection closes while the client may still be sending.

    To close with unread bytes is a reset, and a reset takes the answer with it; so what still comes is
    read and thrown away for a moment.
    """

    async def write_eof(self, data: bytes = b"") -> None:
        await super().write_eof(data)
        await asyncio.sleep(LAST_WORD_SECONDS)


class EnvelopeRequestHandler(RequestHandler):
    """aiohttp's connection handler, with our errors."""

    __slots__ = ()

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """The answer to what never became a request."""
        if request.writer.output_size > 0:
            raise ConnectionError("the answer had begun")
        if status == HTTPStatus.INTERNAL_SERVER_ERROR:
            self.log_exception("a defect of the gateway", exc_info=exc)
            error: GatewayError = InternalError("a defect of the gateway")
        else:
            reason = str(message or exc or "bad request").splitlines()[0][:200]
            error = InvalidRequest(f"not a valid HTTP request: {reason}", status=status)
        response = error_response(error, new_id("req"), LastWord)
        response.force_close()
        return response


def refuse_unsafe_aiohttp() -> str | None:
    """Why this aiohttp must not serve; None when it may."""
    version = tuple(int(part) for part in aiohttp.__version__.split(".")[:3] if part.isdigit())
    if version < OLDEST_AIOHTTP:
        return f"aiohttp {aiohttp.__version__} has known holes; install 3.14.3 or newer"
    if http_parser.HttpRequestParser is http_parser.HttpRequestParserPy:
        return "aiohttp runs without its C parser (AIOHTTP_NO_EXTENSIONS, or a build without it); install a wheel"
    return None
