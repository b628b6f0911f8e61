"""Connections are taken from the listening sockets here.

Rules:
* All that wait are taken, up to AT_ONCE in one turn of the event loop. uvloop's own server takes one, and does all else
  that there is to do before the next: of 3,000 streams that began within ten seconds, some waited for seven.
* It still takes the first, at half of what it costs to take one here. Asking whether others wait costs 5 us.
* A connection that never gets as far as a request (a handshake that fails, a client that left) is no error of ours.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import Any

from gateway.server.listening_socket import BACKLOG

AT_ONCE = 32
"""Some 0.1 ms each, and as long are the open streams kept waiting."""


class Acceptor:
    """Gives each connection of some sockets a protocol, from ``open`` to ``close``."""

    def __init__(
        self,
        sockets: Sequence[socket.socket],
        make: Callable[[], asyncio.Protocol],
        tls: Mapping[str, Any] | None = None,
    ) -> None:
        """``sockets``: bound; they are closed with the acceptor. ``tls``: what ``create_server`` is told."""
        self._sockets = sockets
        self._make = make
        self._tls = tls or {}
        self._loop = asyncio.get_running_loop()
        self._servers: list[asyncio.Server] = []
        self._beginning: set[asyncio.Task[None]] = set()

    async def open(self) -> None:
        """Raises OSError when the port cannot be had."""
        for each in self._sockets:
            make = partial(self._first, each)
            self._servers.append(await self._loop.create_server(make, sock=each, backlog=BACKLOG, **self._tls))

    def close(self) -> None:
        """No new connection; those that were taken go on. May be called twice."""
        for server in self._servers:
            server.close()

    def _first(self, listening: socket.socket) -> asyncio.Protocol:
        self._loop.call_soon(self._take_the_rest, listening)
        return self._make()

    def _take_the_rest(self, listening: socket.socket) -> None:
        for _ in range(AT_ONCE):
            try:
                connection, _ = listening.accept()
            except OSError:  # none waits, or what hinders us hinders the server too, which deals with it
                return
            connection.setblocking(False)
            task = self._loop.create_task(self._begin(connection))
            self._beginning.add(task)
            task.add_done_callback(self._beginning.discard)

    async def _begin(self, connection: socket.socket) -> None:
        with suppress(OSError):
            await self._loop.connect_accepted_socket(self._make, connection, **self._tls)
