"""Bytes that are no HTTP get Anthropic's envelope too.

Rules:
* Malformed requests are refused and the connection closed.
* A head must be whole HEADER_SECONDS after its first byte, and the first one after the connection was made:
  who sends a byte now and then holds no place for ever (H1). The body's clock is in handlers.py.
"""

from __future__ import annotations

import asyncio
from http import HTTPStatus

from aiohttp import web
from aiohttp.web_protocol import RequestHandler

from gateway.errors import GatewayError, InternalError, InvalidRequest
from gateway.server.app import error_response
from gateway.server.state import new_id

LAST_WORD_SECONDS = 0.1
HEADER_SECONDS = 10.0

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
    """aiohttp's connection handler, with our errors, and a clock for heads."""

    __slots__ = ("_head_clock",)

    _head_clock: asyncio.TimerHandle | None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._head_clock = None
        super().connection_made(transport)
        self._expect_head()

    def data_received(self, data: bytes) -> None:
        seen = self._request_count
        super().data_received(data)
        if self._request_count != seen:
            self._stop_clock()
        elif self._head_clock is None and self._waiter is not None and not self._waiter.done():
            # Nobody works on a request whose body this could be.
            self._expect_head()

    def connection_lost(self, exc: BaseException | None) -> None:
        self._stop_clock()
        super().connection_lost(exc)

    def _expect_head(self) -> None:
        self._head_clock = self._loop.call_later(HEADER_SECONDS, self.force_close)

    def _stop_clock(self) -> None:
        if self._head_clock is not None:
            self._head_clock.cancel()
            self._head_clock = None

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
