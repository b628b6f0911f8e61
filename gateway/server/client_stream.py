"""ClientStream: the client's end of one event stream.

Rules:
* The status line is held until the first content, so that an early failure is a true HTTP error; after
  ``ping_interval`` seconds of silence it is sent all the same, with a ping.
* A client never hears longer silence than that. Pings stand between events, never inside one. After
  EVENT_SECONDS of nothing but pings comes an event that adds nothing: Claude Code takes pings for silence, and
  gives up after some 300 s (client.md, row 6).
* What one upstream read brought leaves in one write, the head before it and the end behind it included.
  Everything goes to the transport itself: no await for an event; to aiohttp the answer is already written.
* A client that does not read is told about once (``write`` returns False), and costs no more memory than
  the transport's buffer and what the upstream sent in one read.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from email.utils import formatdate
from functools import lru_cache

from aiohttp import HttpVersion11, web
from aiohttp.hdrs import ORIGIN

from gateway.server.host_check import GRANT
from gateway.server.http_head import SERVER_NAME, http_head
from gateway.translate.writer import PING

STREAM_HEADERS = {
    "content-type": "text/event-stream; charset=utf-8",
    "cache-control": "no-cache",
    "x-accel-buffering": "no",
    "server": SERVER_NAME,
}
_STREAM_LINES = "".join([f"{name}: {value}\r\n" for name, value in STREAM_HEADERS.items()])
EVENT_SECONDS = 240.0
_LAST_CHUNK = b"0\r\n\r\n"


class WrittenStream(web.StreamResponse):
    """What aiohttp gets to see of an answer that is written already."""

    def __init__(self, keep_alive: bool) -> None:
        super().__init__()
        self._stays = keep_alive

    @property
    def prepared(self) -> bool:
        return True

    @property
    def keep_alive(self) -> bool | None:
        """Whether the connection may serve again."""
        return self._stays

    async def prepare(self, request: web.BaseRequest) -> None:
        """Nothing is left to do."""

    async def write_eof(self, data: bytes = b"") -> None:
        """Nothing is left to do."""


class ClientStream:
    """One object per streaming request (the Sink of relay.py)."""

    def __init__(
        self,
        request: web.Request,
        headers: Mapping[str, str],
        ping_interval: float,
        keep_alive: Callable[[], bytes] = bytes,
    ) -> None:
        """``keep_alive`` makes an event that adds nothing, or b"" where none can be made."""
        self.headers = headers
        """Sent with the status line, beside STREAM_HEADERS; what is added later than that is lost."""
        self.on_room: Callable[[], None] | None = None
        """Called when a full client takes more."""
        self.begun = False
        """Something was said; errors are events from now on."""
        self._request = request
        self._protocol = request.protocol
        self._chunked = request.version >= HttpVersion11
        self._ended = self._gone = False
        self._interval = ping_interval
        self._loop = asyncio.get_running_loop()
        self._keep_alive = keep_alive
        self._last_event = self._last_ping = self._loop.time()
        self._waiter: asyncio.Task[None] | None = None
        """Waits for room."""
        self._timer: asyncio.TimerHandle | None = self._loop.call_later(ping_interval, self._ping)

    def write(self, data: bytes, last: bool = False) -> bool:
        """Whole events, the ``last`` ones or not. False when the client does not read as fast as that."""
        self._last_event = self._loop.time()
        if self._chunked:
            data = b"%x\r\n%b\r\n%b" % (len(data), data, _LAST_CHUNK if last else b"")
        return self._send(data, last)

    async def finish(self) -> web.StreamResponse:
        """Ends the body, if ``write`` did not; the answer for aiohttp. Raises ConnectionError: the client is gone."""
        self.stop()
        if self._waiter is not None:
            await self._waiter
        if not self._ended:
            self._send(_LAST_CHUNK if self._chunked else b"", last=True)
        if self._gone:
            raise ConnectionResetError("the client is gone")
        return WrittenStream(self._stays)

    def stop(self) -> None:
        """No more pings."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    @property
    def _stays(self) -> bool:
        # Without chunks, only the end of the connection ends the body.
        return self._chunked and self._request.keep_alive

    def _send(self, data: bytes, last: bool) -> bool:
        self._ended = last
        if not self.begun:
            self.begun = True
            head = self._head()
            # What aiohttp asks when it wonders whether an error can still be an answer.
            self._request.writer.output_size = len(head)
            self.headers = {}
            data = head + data
        transport = self._protocol.transport
        if transport is None or transport.is_closing():
            # aiohttp cancels the handler of a client that is gone.
            self._gone = True
            return True
        transport.write(data)
        if not self._protocol.writing_paused:
            return True
        if self._waiter is None or self._waiter.done():
            self._waiter = self._loop.create_task(self._wait_for_room())
        return False

    def _head(self) -> bytes:
        version = self._request.version
        lines = f"HTTP/{version.major}.{version.minor} 200 OK\r\n{_STREAM_LINES}date: {_date(int(time.time()))}\r\n"
        if self._chunked:
            lines += "transfer-encoding: chunked\r\n"
        if not self._stays:
            lines += "connection: close\r\n"
        grant = self._request.get(GRANT, {}) if ORIGIN in self._request.headers else {}
        return http_head(lines, {**self.headers, **grant})

    async def _wait_for_room(self) -> None:
        try:
            await self._request.writer.drain()
        except ConnectionError:
            return
        if self.on_room is not None:
            self.on_room()

    def _ping(self) -> None:
        now = self._loop.time()
        silence = now - max(self._last_event, self._last_ping)
        if silence >= self._interval:
            silence, self._last_ping = 0.0, now
            # Who does not read needs no sign of life.
            if not self._protocol.writing_paused:
                event = self._keep_alive() if now - self._last_event >= EVENT_SECONDS else b""
                last_event = now if event else self._last_event
                self.write(event or PING)
                self._last_event = last_event
        self._timer = self._loop.call_later(self._interval - silence, self._ping)


@lru_cache(maxsize=1)
def _date(second: int) -> str:
    return formatdate(second, usegmt=True)
