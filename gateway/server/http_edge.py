"""Bytes that are no HTTP get Anthropic's envelope too.

Rules:
* Malformed requests are refused and the connection closed.
* A head must be whole HEADER_SECONDS after its first byte, and the first one after the connection was made:
  who sends a byte now and then holds no place for ever (H1). The body's clock is in handlers.py.
* A client that takes no byte of its answer for STUCK_SECONDS is cut; one that takes some, however slowly, is not.
"""

from __future__ import annotations

import asyncio
import logging
from http import HTTPStatus

from aiohttp import web
from aiohttp.web_protocol import RequestHandler

from gateway.errors import GatewayError, InternalError, InvalidRequest
from gateway.server.app import error_response
from gateway.server.http_head import SERVER_NAME
from gateway.server.state import new_id

log = logging.getLogger("gateway")

LAST_WORD_SECONDS = 0.1
HEADER_SECONDS = 10.0
STUCK_SECONDS = 60.0

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

    __slots__ = ("_head_clock", "_stuck_clock")

    _head_clock: asyncio.TimerHandle | None
    _stuck_clock: asyncio.TimerHandle | None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._head_clock = self._stuck_clock = None
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

    def pause_writing(self) -> None:
        super().pause_writing()
        self._watch_reader()

    def resume_writing(self) -> None:
        self._forget_reader()
        super().resume_writing()

    def connection_lost(self, exc: BaseException | None) -> None:
        self._stop_clock()
        self._forget_reader()
        super().connection_lost(exc)

    def _expect_head(self) -> None:
        self._head_clock = self._loop.call_later(HEADER_SECONDS, self.force_close)

    def _stop_clock(self) -> None:
        if self._head_clock is not None:
            self._head_clock.cancel()
            self._head_clock = None

    def _watch_reader(self) -> None:
        self._forget_reader()
        if self.transport is not None:
            waiting = self.transport.get_write_buffer_size()
            self._stuck_clock = self._loop.call_later(STUCK_SECONDS, self._look_at_reader, waiting)

    def _look_at_reader(self, waiting: int) -> None:
        if self.transport is None:
            return
        if self.transport.get_write_buffer_size() < waiting:
            self._watch_reader()
        else:
            log.info("a client took no byte of its answer for %g s: cut", STUCK_SECONDS)
            self.transport.abort()

    def _forget_reader(self) -> None:
        if self._stuck_clock is not None:
            self._stuck_clock.cancel()
            self._stuck_clock = None

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
        # What is no request passes none of the application's signals.
        response.headers["server"] = SERVER_NAME
        response.force_close()
        return response
