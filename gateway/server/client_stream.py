"""ClientStream: the client's end of one event stream.

Rules:
* The status line is held until the first content, so that an early failure is a true HTTP error; after
  ``ping_interval`` seconds of silence it is sent all the same, with a ping.
* A client never hears longer silence than that. Pings stand between events, never inside one.
* aiohttp writes the status line, with the first events, and the end; what is between goes to the transport
  itself, one write for what one upstream read brought. No await for an event.
* A client that does not read is told about once (``write`` returns False), and costs no more memory than
  the transport's buffer and what the upstream sent in one read.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping

from aiohttp import web

from gateway.translate.writer import PING

STREAM_HEADERS = {
    "content-type": "text/event-stream; charset=utf-8",
    "cache-control": "no-cache",
    "x-accel-buffering": "no",
}


class EventStream(web.StreamResponse):
    """An answer whose head leaves together with the first events."""

    # web.Response has it; where aiohttp no longer knows it, the head costs a system call of its own.
    _send_headers_immediately = False


class ClientStream:
    """One object per streaming request (the Sink of relay.py)."""

    def __init__(self, request: web.Request, headers: Mapping[str, str], ping_interval: float) -> None:
        self.headers = {**STREAM_HEADERS, **headers}
        """Sent with the status line; what is added later than that is lost."""
        self.on_room: Callable[[], None] | None = None
        """Called when a full client takes more."""
        self._request = request
        self._protocol = request.protocol
        self._response: web.StreamResponse | None = None
        self._transport: asyncio.Transport | None = None
        """Set once the status line is out."""
        self._chunked = True
        self._pending: list[bytes] = []
        self._interval = ping_interval
        self._loop = asyncio.get_running_loop()
        self._last_write = self._loop.time()
        self._task: asyncio.Task[None] | None = None
        """Starts the stream for a ping, or waits for room."""
        self._timer: asyncio.TimerHandle | None = self._loop.call_later(ping_interval, self._ping)

    @property
    def begun(self) -> bool:
        """Something was said; errors are events from now on."""
        return self._response is not None or bool(self._pending)

    @property
    def waiting(self) -> bool:
        """Events wait for ``start``."""
        return bool(self._pending) and self._response is None

    def write(self, data: bytes) -> bool:
        """Whole events. False when the client does not read as fast as that."""
        transport = self._transport
        self._last_write = self._loop.time()
        if transport is None:
            self._pending.append(data)
            return True
        if transport.is_closing():
            return True
        transport.write(b"%x\r\n%b\r\n" % (len(data), data) if self._chunked else data)
        if not self._protocol.writing_paused:
            return True
        if self._task is None or self._task.done():
            self._task = self._loop.create_task(self._wait_for_room())
        return False

    async def start(self) -> None:
        """The status line, and what waits. Raises ConnectionError when the client is gone."""
        if self._response is not None:
            return
        response = self._response = EventStream(headers=self.headers)
        await response.prepare(self._request)
        self._chunked = response.headers.get("transfer-encoding") == "chunked"
        while self._pending:
            data = b"".join(self._pending)
            self._pending.clear()
            await response.write(data)
        self._transport = self._request.transport

    async def finish(self) -> web.StreamResponse:
        """Ends the body. Raises ConnectionError when the client is gone."""
        self.stop()
        if self._task is not None:
            await self._task
        response = self._response
        if response is None:
            response = self._response = EventStream(headers=self.headers)
            await response.prepare(self._request)
        await response.write_eof(b"".join(self._pending))
        return response

    def stop(self) -> None:
        """No more pings."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    async def _wait_for_room(self) -> None:
        try:
            await self._request.writer.drain()
        except ConnectionError:
            # aiohttp cancels the handler of a client that is gone.
            return
        if self.on_room is not None:
            self.on_room()

    def _ping(self) -> None:
        silence = self._loop.time() - self._last_write
        if silence >= self._interval:
            silence = 0.0
            # Who does not read needs no sign of life.
            if not self._protocol.writing_paused:
                self.write(PING)
            if self.waiting:
                self._task = self._loop.create_task(self._start_early())
        self._timer = self._loop.call_later(self._interval - silence, self._ping)

    async def _start_early(self) -> None:
        try:
            await self.start()
        except ConnectionError:
            return
