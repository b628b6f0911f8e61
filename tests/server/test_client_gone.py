"""A client that goes away takes its upstream request with it, at once."""

from __future__ import annotations

import asyncio
import statistics
import time

import pytest
from aiohttp import ClientSession

from tests.server.faulty_upstream import Connection, FaultyUpstream, Script, beginning, stream
from tests.server.gateway_process import Gateway, open_stream, turn, until

CLIENTS = 50
WARM_UP = 3


async def never(connection: Connection) -> None:
    """No headers, ever."""
    await connection.gone.wait()


async def leave_in_mid_stream(gateway: Gateway, script: Script, provider: str) -> float:
    """Seconds from the client's leaving to the close of the upstream connection."""
    async with open_stream(gateway, f"{provider}/{script.model}") as response:
        received = b""
        while b"wor" not in received:
            data = await response.content.readany()
            assert data, "the answer ended early"
            received += data
        visit = await script.visit()
        left = time.monotonic()
    return await visit.closed() - left


async def leave_before_the_answer(gateway: Gateway, script: Script, streamed: bool) -> float:
    async with ClientSession() as session:
        body = turn(f"lab/{script.model}", stream=streamed)
        asking = asyncio.create_task(session.post(f"{gateway.url}/v1/messages", json=body, headers=gateway.headers()))
        visit = await script.visit()
        left = time.monotonic()
        asking.cancel()
        await asyncio.wait([asking])
        return await visit.closed() - left


@pytest.mark.parametrize("provider", ["lab", "ant"])
async def test_in_mid_stream(gateway: Gateway, upstream: FaultyUpstream, provider: str) -> None:
    """The figure of the promise: 250 ms for 98 of 100."""
    wire = "chat" if provider == "lab" else "anthropic"
    script = upstream.script(stream(*beginning(wire, "Hello", " wor"), ending="open"))
    waits = [await leave_in_mid_stream(gateway, script, provider) for _ in range(WARM_UP + CLIENTS)][WARM_UP:]
    p98 = sorted(waits)[CLIENTS * 98 // 100 - 1]
    median = statistics.median(waits)
    print(f"client gone to upstream closed, {provider}: median {median * 1e3:.1f} ms, p98 {p98 * 1e3:.1f} ms")
    assert p98 <= 0.25


@pytest.mark.parametrize("streamed", [True, False], ids=["stream", "fold"])
async def test_before_the_first_token(gateway: Gateway, upstream: FaultyUpstream, streamed: bool) -> None:
    script = upstream.script(never)
    waits = [await leave_before_the_answer(gateway, script, streamed) for _ in range(10)]
    print(f"client gone to upstream closed, no answer yet: median {statistics.median(waits) * 1e3:.1f} ms")
    assert statistics.median(waits) <= 0.5


async def test_while_an_answer_is_folded(gateway: Gateway, upstream: FaultyUpstream) -> None:
    """Also when part of the upstream's answer is already there."""
    script = upstream.script(stream(*beginning("chat", "Hello", " wor"), ending="open"))
    waits = [await leave_before_the_answer(gateway, script, streamed=False) for _ in range(10)]
    assert statistics.median(waits) <= 0.5


async def test_it_is_told_in_the_log_and_is_no_failure(gateway: Gateway, upstream: FaultyUpstream) -> None:
    script = upstream.script(stream(*beginning("chat", "Hello", " wor"), ending="open"))
    await leave_in_mid_stream(gateway, script, "lab")

    async def logged() -> list[str]:
        return [line for line in gateway.log().splitlines() if f" -> lab/{script.model} " in line]

    await until(logged)
    (line,) = await logged()
    assert " client_closed " in line
    assert " INFO " in line


async def test_no_socket_is_left_behind(gateway: Gateway, upstream: FaultyUpstream) -> None:
    """A hundred at once: afterwards nothing but the idle connection of this test is new."""
    # A script each: who leaves must have seen its own request arrive, and wait for no other to leave.
    streams = [upstream.script(stream(*beginning("chat", "Hello", " wor"), ending="open")) for _ in range(50)]
    others = [upstream.script(never) for _ in range(50)]
    leaving = [leave_in_mid_stream(gateway, script, "lab") for script in streams]
    leaving += [leave_before_the_answer(gateway, other, streamed=bool(n % 2)) for n, other in enumerate(others)]
    await asyncio.gather(*leaving)
    visits = [visit for script in (*streams, *others) for visit in script.visits]
    assert len(visits) == 100
    assert all(visit.left.is_set() for visit in visits)
    assert (await gateway.ask("sonnet")).reading().finished
