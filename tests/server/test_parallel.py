"""Two hundred streams at once, on both wires: each client gets its own words, all of them, in order."""

from __future__ import annotations

import asyncio
from typing import Any

from aiohttp import ClientSession, TCPConnector

from tests.server.faulty_upstream import (
    ANTHROPIC_END,
    CHAT_END,
    Answer,
    Connection,
    FaultyUpstream,
    Gate,
    beginning,
)
from tests.server.gateway_process import Gateway, Reply, turn

STREAMS = 200
PIECES = 20


def words_of(number: int) -> list[str]:
    return [f"[{number}:{piece}]" for piece in range(PIECES)]


def tagged(wire: str, number: int, gate: Gate) -> Answer:
    """The first word, then a stop until all streams are open, then the others, one write each."""
    pieces = beginning(wire, *words_of(number))
    first = len(pieces) - PIECES + 1

    async def answer(connection: Connection) -> None:
        await connection.start()
        await connection.chunk(b"".join(pieces[:first]))
        await gate.wait()
        for piece in (*pieces[first:], *(CHAT_END if wire == "chat" else ANTHROPIC_END)):
            await connection.chunk(piece)
            await asyncio.sleep(0)
        await connection.end("whole")

    return answer


async def test_two_hundred_streams_do_not_mix(gateway: Gateway, upstream: FaultyUpstream) -> None:
    gate = upstream.gate()
    waiting = STREAMS

    async def client(session: ClientSession, number: int) -> Reply:
        nonlocal waiting
        wire, provider = ("chat", "lab") if number % 2 else ("anthropic", "ant")
        model = f"{provider}/{upstream.script(tagged(wire, number, gate)).model}"
        body: dict[str, Any] = turn(model, f"[{number}]", stream=True)
        async with session.post(f"{gateway.url}/v1/messages", json=body, headers=gateway.headers()) as response:
            received = b""
            while f"[{number}:0]".encode() not in received:
                data = await response.content.readany()
                assert data, "the answer ended early"
                received += data
            waiting -= 1
            if waiting == 0:
                gate.open()
            return Reply(response.status, response.headers, received + await response.read())

    async with ClientSession(connector=TCPConnector(limit=0)) as session, asyncio.timeout(30):
        replies = await asyncio.gather(*(client(session, number) for number in range(STREAMS)))
    for number, reply in enumerate(replies):
        reading = reply.reading(passed_through=number % 2 == 0)
        assert reading.finished
        assert reading.content[0]["text"] == "".join(words_of(number))
    assert len({reply.headers["request-id"] for reply in replies}) == STREAMS
