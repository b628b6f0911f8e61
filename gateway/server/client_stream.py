"""ClientStream: the client's end of one event stream.

Rules:
* The status line is held until the first content, so that an early failure is a true HTTP error; after
  ``ping_interval`` seconds of silence it is sent all the same, with a ping.
* A client never hears longer silence than that. Pings stand between events, never inside one.
* One write for what one upstream read brought; every write is awaited (back-pressure).
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

from aiohttp import web

from gateway.translate.writer import PING

STREAM_HEADERS = {
    "content-type": "text/event-stream; charset=utf-8",
    "cache-control": "no-cache",
    "x-accel-buffering": "no",
}


class ClientStream:
    """One object per streaming request."""

    def __init__(self, request: web.Request, headers: Mapping[str, str], ping_interval: float) -> None:
        self._request = request
        self.headers = {**STREAM_HEADERS, **headers}
        """Sent with the status line; what is added later than that is lost."""
        self._response = web.StreamResponse()
        self._interval = ping_interval
        self._lock = asyncio.Lock()
        self._loop = asyncio.get_running_loop()
        self._last_write = self._loop.time()
        self._pinging = asyncio.create_task(self._ping())

    @property
    def started(self) -> bool:
        """The status line is out; errors are events from now on."""
        return self._response.prepared

    async def write(self, data: bytes) -> None:
        """Whole events. Raises ConnectionError when the client is gone."""
        async with self._lock:
            if not self._response.prepared:
                self._response.headers.update(self.headers)
                await self._response.prepare(self._request)
            self._last_write = self._loop.time()
            await self._response.write(data)

    async def finish(self) -> web.StreamResponse:
        """Ends the body."""
        await self.stop()
        if self._response.prepared:
            await self._response.write_eof()
        return self._response

    async def stop(self) -> None:
        """No more pings."""
        self._pinging.cancel()
        await asyncio.wait([self._pinging])
        if not self._pinging.cancelled():
            self._pinging.exception()

    async def _ping(self) -> None:
        while True:
            silence = self._loop.time() - self._last_write
            if silence >= self._interval:
                await self.write(PING)
                silence = 0
            await asyncio.sleep(self._interval - silence)
