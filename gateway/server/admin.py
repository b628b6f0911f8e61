"""The admin listener, ``server.admin``: what the people who run the gateway ask, apart from the clients' port.

| path     | answer                                                          |
|----------|-----------------------------------------------------------------|
| /metrics | what metrics.py counted, for Prometheus                         |
| /healthz | as on the clients' port                                         |
| /readyz  | as on the clients' port; 503 from the signal to stop to the end |

Rules:
* Nothing here changes anything, and nothing here asks an upstream (O4).
* Who asks from the network needs server.token for /metrics, as Bearer. On loopback the same ``Host`` is heard
  as on the clients' port, and no web page may read an answer.
* It is open for as long as the process lives: while answers drain, somebody may want to see how many are left.
"""

from __future__ import annotations

import asyncio
import hmac
import socket
from collections.abc import Awaitable, Callable, Iterable, Mapping

from aiohttp import web

from gateway.config import is_loopback
from gateway.errors import PermissionDenied
from gateway.server import handlers
from gateway.server.accepting import Acceptor
from gateway.server.app import name_server
from gateway.server.host_check import HostCheck
from gateway.server.http_edge import HANDLER_OPTIONS, EnvelopeRequestHandler
from gateway.server.loop_stall import watch_loop
from gateway.server.metrics import Snapshot, merged
from gateway.server.state import STATE, GatewayState

LAST_SECONDS = 0.5
"""What a scrape gets at the end."""
_TOKEN_WANTED = "this listener is open to the network: send server.token as 'authorization: Bearer'\n"

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class AdminListener:
    """One per process that has one."""

    def __init__(self, state: GatewayState, listening: socket.socket) -> None:
        """``listening``: bound, and taking connections already."""
        self._state = state
        self._socket = listening
        loopback = is_loopback(listening.getsockname()[0])
        self._runner = web.AppRunner(
            _build_app(state, loopback),
            shutdown_timeout=LAST_SECONDS,
            **HANDLER_OPTIONS,  # type: ignore[arg-type]
        )
        self._acceptor: Acceptor
        self._watching: asyncio.Task[None]

    async def open(self) -> None:
        """From now on there are answers, and numbers of the event loop among them."""
        await self._runner.setup()
        server, loop = self._runner.server, asyncio.get_running_loop()
        assert server is not None
        self._acceptor = Acceptor(
            [self._socket],
            lambda: EnvelopeRequestHandler(server, loop=loop, **HANDLER_OPTIONS),  # type: ignore[arg-type]
        )
        await self._acceptor.open()
        self._watching = asyncio.create_task(watch_loop(self._state.metrics))

    async def close(self) -> None:
        """The last thing that a process does; what it counted stays on the board."""
        self._watching.cancel()
        await asyncio.wait([self._watching])
        self._acceptor.close()
        await self._runner.cleanup()
        self._state.metrics.publish()


def _build_app(state: GatewayState, loopback: bool) -> web.Application:
    hosts = HostCheck(loopback=loopback)

    @web.middleware
    async def check(request: web.Request, handler: Handler) -> web.StreamResponse:
        try:
            hosts.admit(request, state.config.server)
        except PermissionDenied as error:
            return web.Response(status=error.status, text=f"{error.message}\n")
        return await handler(request)

    async def metrics(request: web.Request) -> web.Response:
        """``GET /metrics``."""
        if not loopback and not _knows_token(request, state.config.server.token):
            return web.Response(status=401, text=_TOKEN_WANTED, headers={"www-authenticate": "Bearer"})
        counted, processes = state.metrics.collect(), state.metrics.processes
        text, content_type = await asyncio.to_thread(_render, counted, processes, request.headers.get("accept", ""))
        return web.Response(body=text, headers={"content-type": content_type})

    async def readyz(request: web.Request) -> web.Response:
        """Here, on the machine itself, everybody is the operator."""
        return handlers.readiness(state) if loopback else await handlers.readyz(request)

    app = web.Application(middlewares=[check])
    app[STATE] = state
    app.on_response_prepare.append(name_server)
    for path, handler in (("/metrics", metrics), ("/healthz", handlers.healthz), ("/readyz", readyz)):
        app.router.add_get(path, handler, allow_head=True)
    return app


def _render(counted: Iterable[tuple[Snapshot, bool]], processes: Mapping[str, int], accept: str) -> tuple[bytes, str]:
    from gateway.server.exposition import render  # for the first scrape

    return render(merged(counted), processes, accept)


def _knows_token(request: web.Request, token: str | None) -> bool:
    scheme, _, offered = request.headers.get("authorization", "").partition(" ")
    if token is None or scheme.lower() != "bearer":
        return False
    return hmac.compare_digest(offered.strip().encode("utf-8", "replace"), token.encode())
