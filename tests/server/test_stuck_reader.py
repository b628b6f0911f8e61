"""The clock for clients that take nothing of their answer (http_edge.py): it strikes them, and nobody else."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator

import pytest
from aiohttp import web

from gateway.server import http_edge
from gateway.server.http_edge import HANDLER_OPTIONS, EnvelopeRequestHandler

pytestmark = pytest.mark.asyncio(loop_factories=["asyncio", "uvloop"])

STUCK_SECONDS = 0.3
BODY = bytes(24 << 20)
"""More than the kernel's buffers take."""


class Watched(EnvelopeRequestHandler):
    """Tells when it is gone."""

    __slots__ = ()
    gone: asyncio.Event

    def connection_lost(self, exc: BaseException | None) -> None:
        super().connection_lost(exc)
        type(self).gone.set()


@pytest.fixture
async def port(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[int]:
    """A server with a large answer, whole or streamed."""
    monkeypatch.setattr(http_edge, "STUCK_SECONDS", STUCK_SECONDS)
    loop = asyncio.get_running_loop()
    Watched.gone = asyncio.Event()

    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        if request.path == "/whole":
            return web.Response(body=BODY)
        response = web.StreamResponse()
        await response.prepare(request)
        for begin in range(0, len(BODY), 1 << 20):
            await response.write(BODY[begin : begin + (1 << 20)])
        return response

    server = web.Server(answer, **HANDLER_OPTIONS)  # type: ignore[arg-type]
    listener = await loop.create_server(
        lambda: Watched(server, loop=loop, **HANDLER_OPTIONS),  # type: ignore[arg-type]
        "127.0.0.1",
        0,
    )
    yield listener.sockets[0].getsockname()[1]
    listener.close()
    await server.shutdown(1.0)


async def asked(port: int, path: str) -> socket.socket:
    client = socket.create_connection(("127.0.0.1", port))
    client.sendall(b"GET %b HTTP/1.1\r\nhost: x\r\n\r\n" % path.encode())
    client.setblocking(False)
    return client


@pytest.mark.parametrize("path", ["/whole", "/streamed"])
async def test_a_client_that_takes_nothing_is_cut(port: int, path: str) -> None:
    with await asked(port, path):
        async with asyncio.timeout(20):
            await Watched.gone.wait()


@pytest.mark.parametrize("path", ["/whole", "/streamed"])
async def test_a_slow_client_is_not(port: int, path: str) -> None:
    """Four times as long as a stuck one has."""
    loop = asyncio.get_running_loop()
    with await asked(port, path) as client:
        taken, end = 0, loop.time() + 4 * STUCK_SECONDS
        while loop.time() < end:
            taken += len(await loop.sock_recv(client, 1 << 18))
            assert not Watched.gone.is_set()
            await asyncio.sleep(STUCK_SECONDS / 8)
        while taken < len(BODY):
            data = await loop.sock_recv(client, 1 << 20)
            assert data, "cut"
            taken += len(data)
