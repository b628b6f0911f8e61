"""How connections are taken from the queue; what comes of it under load: bench/team.py, docs/performance.md."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack
from itertools import pairwise
from typing import ClassVar, cast

import pytest

from gateway.server.accepting import AT_ONCE, Acceptor
from gateway.server.listening_socket import BACKLOG
from tests.server.raw_upstream import PATIENCE

pytestmark = pytest.mark.asyncio(loop_factories=["asyncio", "uvloop"])

TURNS = 12
"""What asyncio and uvloop need from a socket to ``connection_made``, and some."""


class Greeter(asyncio.Protocol):
    """Says hello; ``open`` holds the connections of one test."""

    open: ClassVar[list[asyncio.Transport]] = []

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.open.append(cast(asyncio.Transport, transport))
        self.open[-1].write(b"hello")


@pytest.fixture
def listening() -> Iterator[socket.socket]:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        yield bound


@pytest.fixture
async def acceptor(listening: socket.socket) -> AsyncIterator[Acceptor]:
    acceptor = Acceptor([listening], Greeter)
    await acceptor.open()
    yield acceptor
    acceptor.close()
    while Greeter.open:
        Greeter.open.pop().abort()
    await asyncio.sleep(0)


async def read(client: socket.socket) -> bytes:
    client.setblocking(False)
    return await asyncio.wait_for(asyncio.get_running_loop().sock_recv(client, 9), PATIENCE)


async def test_all_who_wait_are_taken_in_a_few_turns(acceptor: Acceptor, listening: socket.socket) -> None:
    """uvloop's own server takes one in each turn, between everything else that there is to do."""
    with ExitStack() as stack:
        clients = [
            stack.enter_context(socket.create_connection(listening.getsockname(), PATIENCE)) for _ in range(AT_ONCE)
        ]
        for _ in range(TURNS):
            await asyncio.sleep(0)
        assert len(Greeter.open) == AT_ONCE
        for client in clients:
            assert await read(client) == b"hello"


async def test_a_crowd_does_not_hold_the_loop(acceptor: Acceptor, listening: socket.socket) -> None:
    count = 3 * AT_ONCE
    with ExitStack() as stack:
        for _ in range(count):
            stack.enter_context(socket.create_connection(listening.getsockname(), PATIENCE))
        made = [0]
        while made[-1] < count:
            await asyncio.sleep(0)
            made.append(len(Greeter.open))
        loop_s_own = 1 if "uvloop" in type(asyncio.get_running_loop()).__module__ else BACKLOG
        assert max(after - before for before, after in pairwise(made)) <= AT_ONCE + loop_s_own


async def test_closed_it_takes_nobody(acceptor: Acceptor, listening: socket.socket) -> None:
    address = listening.getsockname()
    with socket.create_connection(address, PATIENCE) as client:
        assert await read(client) == b"hello"
        with socket.create_connection(address, PATIENCE) as last:
            assert await read(last) == b"hello"
            acceptor.close()  # while it is about to look who else waits
            acceptor.close()
            await asyncio.sleep(0)
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(address, PATIENCE)
        client.setblocking(False)
        with pytest.raises(BlockingIOError):
            client.recv(9)  # one that was taken goes on
