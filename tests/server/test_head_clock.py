"""The clock for heads (http_edge.py) strikes nobody whose head is there; those without one: tests/faults/."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable

import pytest
from aiohttp import web

from gateway.server import http_edge
from gateway.server.http_edge import HANDLER_OPTIONS, EnvelopeRequestHandler

pytestmark = pytest.mark.asyncio(loop_factories=["asyncio", "uvloop"])

HEADER_SECONDS = 0.05
REQUEST = b"POST / HTTP/1.1\r\nhost: localhost\r\ncontent-length: 9\r\n\r\n"


class InPieces(EnvelopeRequestHandler):
    """Gets what came a byte at a time, with no turn of the loop between, as when segments arrive together."""

    __slots__ = ()

    def data_received(self, data: bytes) -> None:
        for place in range(len(data)):
            super().data_received(data[place : place + 1])


@pytest.fixture
async def port(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[int]:
    """A server that answers when the clock would have struck."""
    monkeypatch.setattr(http_edge, "HEADER_SECONDS", HEADER_SECONDS)
    loop = asyncio.get_running_loop()

    async def answer(request: web.BaseRequest) -> web.Response:
        body = await request.read()
        struck = asyncio.Event()
        loop.call_later(3 * HEADER_SECONDS, struck.set)
        await struck.wait()
        return web.Response(body=body)

    server = web.Server(answer, **HANDLER_OPTIONS)  # type: ignore[arg-type]
    make: Callable[[], InPieces] = lambda: InPieces(server, loop=loop, **HANDLER_OPTIONS)  # type: ignore[arg-type] # noqa: E731
    listener = await loop.create_server(make, "127.0.0.1", 0)
    yield listener.sockets[0].getsockname()[1]
    listener.close()
    await server.shutdown(1.0)


async def test_a_body_that_comes_in_pieces_is_no_head_that_is_late(port: int) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    for _ in range(2):
        writer.write(REQUEST + b"the body.")
        assert b"200 OK" in await reader.readuntil(b"\r\n\r\n")
        assert await reader.readexactly(9) == b"the body."
    writer.close()


async def test_a_connection_that_served_and_waits_is_not_late(port: int) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(REQUEST + b"the body.")
    await reader.readuntil(b"the body.")
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(3 * HEADER_SECONDS):
            await reader.read()
    writer.write(REQUEST[:20])
    assert await reader.read() == b"", "but the next head is, once it began"
    writer.close()
