"""Signals, and how a gateway stops.

| when                     | new connections      | a request on an open connection   | answers under way          |
|--------------------------|----------------------|-----------------------------------|----------------------------|
| first SIGTERM or SIGINT  | refused (not ready)  | 529, with ``connection: close``   | go on                      |
| on a port that is shared | go to the others     | answered for HANDOVER_SECONDS     | go on                      |
| a worker                 | are the next one's   | the first one is answered         | go on                      |
| after the drain limit    | refused              | 529                               | each gets its error event  |
| second signal            | the process ends at once, with status 128 + signal                                    |

A connection that waits is kept open until the end: to close it could cross a request on its way, and that would
be a reset instead of an answer that every client knows how to retry.

SIGHUP reads the configuration anew. One that comes because the terminal was closed ends the gateway as SIGTERM does.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
import threading
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NoReturn

from aiohttp import web

from gateway.errors import Overloaded
from gateway.server.app import error_response
from gateway.server.http_edge import LastWord
from gateway.server.http_head import SERVER_NAME
from gateway.server.listening_socket import connection_waits
from gateway.server.state import GatewayState, new_id

log = logging.getLogger("gateway")

HANDOVER_SECONDS = 0.5
"""Connections that were on their way when another gateway took the port over arrive within this time."""
FIRST_REQUEST_SECONDS = 3.0
"""A connection that came before the port was handed over gets this long for its first request; machines may be busy."""
CUT_SECONDS = 1.0
"""What an answer gets to write its error."""
THREAD_SECONDS = 1.0
"""What a thread gets: one that looks a name up may be held for a minute."""
THREAD_NAME = "gateway"
"""How the names of our threads begin."""
_LOOK_SECONDS = 0.05
STOPPING = "stopping: no new requests, streams may finish (again to end at once)"

Handle = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]


class Signals:
    """What this process was told, from the start on."""

    def __init__(self, loop: asyncio.AbstractEventLoop, *, all_of_them: bool = True) -> None:
        """Unless ``all_of_them``, one SIGTERM: a worker hears the rest from its supervisor, who also ends it."""
        self.stop = asyncio.Event()
        self.reload = asyncio.Event()
        self._had_terminal = os.isatty(0)
        self._all_of_them = all_of_them
        numbers = (signal.SIGTERM, signal.SIGINT) if all_of_them else (signal.SIGTERM,)
        for number in numbers:
            loop.add_signal_handler(number, self._stop, number)
        if all_of_them:
            loop.add_signal_handler(signal.SIGHUP, self._hang_up)

    def _stop(self, number: int) -> None:
        if self.stop.is_set():
            if not self._all_of_them:
                return
            end_at_once(128 + number)
        log.log(logging.INFO if self._all_of_them else logging.DEBUG, STOPPING)
        self.stop.set()

    def _hang_up(self) -> None:
        if terminal_closed(self._had_terminal):
            self._stop(signal.SIGHUP)
        else:
            self.reload.set()


def terminal_closed(had_terminal: bool) -> bool:
    """Whether the terminal that was there at the start is gone."""
    return had_terminal and not os.isatty(0)


def end_at_once(status: int) -> NoReturn:
    """Without a wait for threads or peers; what was logged is written."""
    for handler in logging.getLogger().handlers:
        handler.flush()
    os._exit(status)


class Admission:
    """Stands before the application, for one call of a function as long as the gateway runs."""

    def __init__(self, handle: Handle) -> None:
        self._handle = handle
        self.last_chance = False
        """Requests are answered, and their connections closed then."""
        self.closed = False
        """Requests for work are refused."""

    def __call__(self, request: web.BaseRequest) -> Awaitable[web.StreamResponse]:
        if not self.closed and not self.last_chance:
            return self._handle(request)
        return self._leave(request)

    async def _leave(self, request: web.BaseRequest) -> web.StreamResponse:
        if self.closed and request.path.startswith("/v1/messages"):
            error = Overloaded("the gateway stops and takes no new request; ask again", retry_after=1)
            response: web.StreamResponse = error_response(error, new_id("req"), LastWord)
            response.headers["server"] = SERVER_NAME
        else:
            response = await self._handle(request)
        response.force_close()
        return response


async def hand_over(sockets: Sequence[socket.socket], server: web.Server) -> None:
    """Waits for what was on its way to ``sockets`` when another gateway took the port over.

    To close a socket resets the connections in its queue, and to close a connection the request on its way to it.
    """
    await asyncio.sleep(HANDOVER_SECONDS)
    await first_requests(server, FIRST_REQUEST_SECONDS, sockets)


async def first_requests(server: web.Server, seconds: float, sockets: Sequence[socket.socket] = ()) -> None:
    """Waits, for so long at most, until every connection has brought its first request, and none waits for us."""
    loop = asyncio.get_running_loop()
    end = loop.time() + seconds
    while True:
        await asyncio.sleep(_LOOK_SECONDS)  # one that was just taken is no connection yet
        if not (connection_waits(sockets) or _fresh(server)) or loop.time() >= end:
            return


async def drain(state: GatewayState, server: web.Server, seconds: float) -> None:
    """Lets requests finish; past the limit each one ends with an error of its own."""
    loop = asyncio.get_running_loop()
    end = loop.time() + seconds
    while (left := end - loop.time()) > 0:
        if state.running:
            await asyncio.wait(state.running, timeout=left)
        elif _busy(server):
            await asyncio.sleep(_LOOK_SECONDS)
        else:
            return
    state.cutting = True
    if state.running:
        log.warning("%d answers take longer than the %g s that they may: cut", len(state.running), seconds)
    for task in state.running:
        task.cancel()
    if state.running:
        await asyncio.wait(state.running, timeout=CUT_SECONDS)


async def end_threads(threads: ThreadPoolExecutor) -> None:
    """Ends idle threads; where one is stuck, the process ends without it."""
    threads.shutdown(wait=False, cancel_futures=True)
    loop = asyncio.get_running_loop()
    end = loop.time() + THREAD_SECONDS
    while any(thread.name.startswith(THREAD_NAME) for thread in threading.enumerate()):
        if loop.time() > end:
            end_at_once(0)
        await asyncio.sleep(_LOOK_SECONDS / 10)


def _fresh(server: web.Server) -> bool:
    """A connection has brought no request yet."""
    return any(connection._request_count == 0 for connection in server.connections)


def _busy(server: web.Server) -> bool:
    """A request is being received, or an answer written."""
    return any(connection._request_in_progress for connection in server.connections)
