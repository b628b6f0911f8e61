"""Whatever comes from either side, memory, descriptors and the other users' time have a bound.

Memory is the peak while it happens (VmHWM), not what is left afterwards.
"""

from __future__ import annotations

import asyncio
import gzip
import re
import struct
import threading
import zlib
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from functools import cache
from http.client import HTTPConnection
from pathlib import Path

import orjson
import pytest
from aiohttp import ClientError

from tests.faults.footprint import Footprint, Stopwatch
from tests.server.faulty_upstream import (
    ANTHROPIC_END,
    CHAT_END,
    Answer,
    Connection,
    FaultyUpstream,
    Script,
    beginning,
    stream,
    whole,
)
from tests.server.gateway_process import Gateway, open_stream, running_gateway, turn, until

MIB = 1 << 20
WIRES = {"lab": "chat", "ant": "anthropic"}
ECHO = "providers: {echo: {}}\nmodels: {sonnet: echo/echo}\n"


@pytest.fixture
def other_user(gateway: Gateway) -> Iterator[list[float]]:
    """Asks again and again while the test runs, from a thread of its own; the seconds that each answer took."""
    waits: list[float] = []
    over = threading.Event()

    def ask() -> None:
        connection = HTTPConnection("127.0.0.1", gateway.port, timeout=20)
        while not over.wait(0.01):
            watch = Stopwatch(gateway.pid)
            connection.request("POST", "/v1/messages", orjson.dumps(turn("sonnet")))
            response = connection.getresponse()
            response.read()
            waits.append(watch.seconds() if response.status == 200 else float("inf"))
        connection.close()

    asking = threading.Thread(target=ask)
    asking.start()
    yield waits
    over.set()
    asking.join(20)


async def another_answer(waits: list[float]) -> float:
    """The longest wait so far, once one more answer is there: what holds it up now counts too."""
    answered = len(waits)
    await until(lambda: asyncio.sleep(0, len(waits) > answered + 1))
    return max(waits)


# -- from an upstream --------------------------------------------------------------------------------------


def end_of(wire: str) -> bytes:
    return b"".join(CHAT_END if wire == "chat" else ANTHROPIC_END)


@pytest.mark.parametrize("provider", WIRES)
async def test_a_line_of_eight_mebibytes(
    gateway: Gateway, upstream: FaultyUpstream, footprint: Footprint, provider: str
) -> None:
    """S17: a whole event of that size is delivered or refused."""
    wire = WIRES[provider]
    large = beginning(wire, "x" * (8 * MIB))
    script = upstream.script(stream(*beginning(wire, "before")[:-1], *large[-1:], end_of(wire)))
    before = footprint.forget_peak()
    for streamed in (True, False):
        reply = await gateway.ask(f"{provider}/{script.model}", stream=streamed)
        if reply.status == 200:
            assert len(reply.body) > 8 * MIB or b"event: error" in reply.body
        else:
            reply.error(502, "api_error")
    assert footprint.peak_mib() - before < 96


@pytest.mark.parametrize("provider", WIRES)
async def test_a_line_without_an_end(
    gateway: Gateway, upstream: FaultyUpstream, footprint: Footprint, provider: str
) -> None:
    """S18: cut within 20 s, also when content came before."""

    async def answer(connection: Connection) -> None:
        await connection.start()
        await connection.chunk(b"".join(beginning(WIRES[provider], "Hello")) + b"data: ")
        while True:
            await connection.chunk(b"x" * 65536)

    script = upstream.script(answer)
    before = footprint.forget_peak()
    for streamed in (True, False):
        async with asyncio.timeout(20):
            reply = await gateway.ask(f"{provider}/{script.model}", stream=streamed)
            await (await script.visit()).closed()
        if streamed:
            assert reply.reading(passed_through=provider == "ant").error is not None
        else:
            reply.error(502, "api_error")
    assert footprint.peak_mib() - before < 64


@cache
def packed(mebibytes: int) -> bytes:
    """So many MiB of blanks as gzip, a thousandth of it; one block of deflate is made, and repeated."""
    block, blank = zlib.compressobj(9, zlib.DEFLATED, -15), b" " * MIB
    repeated = block.compress(blank) + block.flush(zlib.Z_FULL_FLUSH)
    check = 0
    for _ in range(mebibytes):
        check = zlib.crc32(blank, check)
    head, end = b"\x1f\x8b\x08" + bytes(7), b"\x03\x00" + struct.pack("<II", check, mebibytes * MIB)
    return head + repeated * mebibytes + end


def test_a_bomb_is_what_it_says() -> None:
    assert gzip.decompress(packed(3)) == b" " * (3 * MIB)
    assert len(packed(3)) < 4000


async def bomb_from(gateway: Gateway, upstream: FaultyUpstream, provider: str, status: int) -> None:
    """200 MiB in 200 KB; each answer must be an error."""
    headers = {"content-type": "text/event-stream", "content-encoding": "gzip"}

    async def answer(connection: Connection) -> None:
        await connection.start(status, headers)
        await connection.chunk(packed(200))
        await connection.end("whole")

    script = upstream.script(answer)
    for streamed in (True, False):
        reply = await gateway.ask(f"{provider}/{script.model}", stream=streamed)
        # On a slow machine a ping comes first, and then the error is an event.
        assert b'"type":"error"' in reply.body
        assert b"message_start" not in reply.body


@pytest.mark.parametrize("provider", WIRES)
async def test_a_gzip_bomb(gateway: Gateway, upstream: FaultyUpstream, footprint: Footprint, provider: str) -> None:
    """S19."""
    before = footprint.forget_peak()
    await bomb_from(gateway, upstream, provider, 200)
    assert footprint.peak_mib() - before < 96


async def test_a_gzip_bomb_in_an_error(gateway: Gateway, upstream: FaultyUpstream, footprint: Footprint) -> None:
    """S19, where no stream is read."""
    before = footprint.forget_peak()
    await bomb_from(gateway, upstream, "lab", 500)
    assert footprint.peak_mib() - before < 96


async def test_stuck_readers_stop_their_upstreams(
    gateway: Gateway, upstream: FaultyUpstream, footprint: Footprint
) -> None:
    """S26: eight clients that never read, each with 50 MiB to come."""
    sent = dict.fromkeys(range(8), 0)
    loop = asyncio.get_running_loop()
    stuck = asyncio.Semaphore(0)

    def flood(number: int, wire: str) -> Answer:
        async def answer(connection: Connection) -> None:
            await connection.start()
            first, piece = b"".join(beginning(wire, "x")), beginning(wire, "x" * 65536)[-1]
            await connection.chunk(first)
            while sent[number] < 50 * MIB:
                try:
                    async with asyncio.timeout(0.5):
                        await connection.chunk(piece)
                except TimeoutError:
                    break
                sent[number] += len(piece)
            loop.call_soon_threadsafe(stuck.release)
            await connection.gone.wait()

        return answer

    before = footprint.forget_peak()
    async with AsyncExitStack() as stack:
        for number in sent:
            provider = ("lab", "ant")[number % 2]
            script = upstream.script(flood(number, WIRES[provider]))
            await stack.enter_async_context(open_stream(gateway, f"{provider}/{script.model}"))
        async with asyncio.timeout(20):
            for _ in sent:
                await stuck.acquire()
        assert max(sent.values()) <= 24 * MIB
        assert footprint.peak_mib() - before < 64


# -- from clients ------------------------------------------------------------------------------------------


@asynccontextmanager
async def connected(port: int) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        yield reader, writer
    finally:
        writer.transport.abort()


async def test_a_flood_of_chunks_is_refused(gateway: Gateway, footprint: Footprint, other_user: list[float]) -> None:
    """H3: a hundred mebibytes, of which 32 are taken."""
    before = footprint.forget_peak()
    async with connected(gateway.port) as (reader, writer):
        writer.write(b"POST /v1/messages HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding: chunked\r\n\r\n")

        async def push() -> None:
            for _ in range(100 * 16):
                writer.write(b"10000\r\n" + b" " * 65536 + b"\r\n")
                await writer.drain()

        pushing = asyncio.create_task(push())
        async with asyncio.timeout(10):
            head = (await reader.readuntil(b"\r\n\r\n")).lower()
            assert head.startswith(b"http/1.1 413")
            size = int(head.partition(b"content-length:")[2].split()[0])
            assert b'"request_too_large"' in await reader.readexactly(size)
        pushing.cancel()
        await asyncio.wait([pushing])
    assert footprint.peak_mib() - before < 100
    assert await another_answer(other_user) < 1


@pytest.mark.parametrize("provider", WIRES)
async def test_a_large_body_holds_nobody_up(
    gateway: Gateway, upstream: FaultyUpstream, other_user: list[float], provider: str
) -> None:
    """H4: 20 MiB as a hundred tool results, as Claude Code would have them."""
    script = upstream.script(stream(*whole(WIRES[provider], "Hi")))
    results = [
        {"type": "tool_result", "tool_use_id": f"t{number}", "content": "x" * (MIB // 5)} for number in range(100)
    ]
    calls = [{"type": "tool_use", "id": f"t{number}", "name": "x", "input": {}} for number in range(100)]
    messages = [
        {"role": "user", "content": "Hello"},
        {"role": "assistant", "content": calls},
        {"role": "user", "content": results},
    ]
    reply = await gateway.ask(f"{provider}/{script.model}", messages=messages)
    assert reply.reading(passed_through=provider == "ant").finished
    assert len(script.visits[0].body) > 19 * MIB
    assert await another_answer(other_user) < 1


async def test_a_packed_body_is_not_unpacked(gateway: Gateway, footprint: Footprint, other_user: list[float]) -> None:
    """H16: 400 MiB in 400 KB."""
    bomb = packed(400)
    before = footprint.forget_peak()
    for encoding in ("gzip", "deflate", "br", "identity, gzip"):
        reply = await gateway.send("POST", "/v1/messages", bomb, {**gateway.headers(), "content-encoding": encoding})
        reply.error(415, "invalid_request_error")
    assert footprint.peak_mib() - before < 96
    assert await another_answer(other_user) < 1


async def test_a_thousand_idle_clients(gateway: Gateway, footprint: Footprint) -> None:
    """H17: half of them were served before and keep their connection."""
    before = footprint.forget_peak()
    async with AsyncExitStack() as stack:
        for number in range(1000):
            reader, writer = await stack.enter_async_context(connected(gateway.port))
            if number % 2:
                writer.write(b"GET /healthz HTTP/1.1\r\nhost: localhost\r\n\r\n")
                assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200")
        watch = Stopwatch(gateway.pid)
        assert (await gateway.ask("sonnet")).reading().finished
        assert watch.seconds() < 0.5
        assert footprint.peak_mib() - before < 60


async def test_without_descriptors_it_lives_and_recovers(tmp_path: Path) -> None:
    """H18: sixty-four descriptors, and two hundred clients that want one."""
    few = "import resource; resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))"
    with running_gateway(tmp_path, ECHO, before=few) as gateway:
        async with AsyncExitStack() as stack:
            for _ in range(200):
                await stack.enter_async_context(connected(gateway.port))
            await until(lambda: asyncio.sleep(0, Footprint(gateway.pid).descriptors() >= 60))
            assert gateway.process is not None
            assert gateway.process.poll() is None
        watch = Stopwatch(gateway.pid)

        async def served() -> bool:
            # Connections that came while there was no descriptor are closed without a word.
            with suppress(ClientError):
                return (await gateway.ask("sonnet")).reading().finished
            return False

        await until(served)
        assert watch.seconds() <= 3
        assert len(gateway.log()) < 100_000


# -- all at once -------------------------------------------------------------------------------------------

FAILURES = 2000
CHUNKED = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"


def failing(upstream: FaultyUpstream) -> dict[str, Script]:
    """Upstreams with a fault each."""

    def cut(data: bytes) -> Answer:
        async def answer(connection: Connection) -> None:
            if data:
                await connection.send(data)
            await connection.end("cut")

        return answer

    async def never(connection: Connection) -> None:
        await connection.gone.wait()

    answers = {
        "dead": cut(b""),
        "half": cut(b"HTTP/1.1 200 OK\r\nx"),
        "begun": cut(CHUNKED),
        "500": cut(b"HTTP/1.1 500 No\r\ncontent-length: 2\r\n\r\nno"),
        "html": cut(b"HTTP/1.1 502 No\r\ncontent-type: text/html\r\ncontent-length: 13\r\n\r\n<html></html>"),
        "in-band": stream(b'data: {"error":{"message":"full","code":529}}\n\n'),
        "no JSON": stream(*beginning("chat", "Hi"), b"data: {\n\n", ending="open"),
        "cut": stream(*beginning("chat", "Hi"), ending="cut"),
        "reset": stream(*beginning("chat", "Hi"), ending="reset"),
        "never": never,
        "left": stream(*beginning("chat", "Hi"), ending="open"),
    }
    return {name: upstream.script(answer) for name, answer in answers.items()}


def request(body: bytes) -> bytes:
    head = b"POST /v1/messages HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\ncontent-length: %d\r\n\r\n"
    return head % len(body) + body


async def one_failure(gateway: Gateway, scripts: dict[str, Script], number: int) -> None:
    """The kinds in turn. Raises AssertionError for what looks like a whole answer."""
    kind = [*scripts, "no JSON body", "no HTTP", "no such model", "half a body"][number % (len(scripts) + 4)]
    data = request(b"{")
    if kind in scripts or kind == "no such model":
        model = f"lab/{scripts[kind].model}" if kind in scripts else "nobody"
        data = request(orjson.dumps(turn(model, stream=number % 2 == 0)))
    elif kind == "no HTTP":
        data = b"\x16\x03\x01\r\n\r\n"
    async with connected(gateway.port) as (reader, writer):
        writer.write(data[:-1] if kind == "half a body" else data)
        if kind in ("never", "left", "half a body"):
            with suppress(TimeoutError):
                await asyncio.wait_for(reader.read(1), 0.02)
            return
        async with asyncio.timeout(20):
            received = await reader.read()
    assert b'"error"' in received
    assert b"message_stop" not in received


async def test_two_thousand_failures_leave_nothing_behind(
    gateway: Gateway, upstream: FaultyUpstream, footprint: Footprint
) -> None:
    """P10: fifteen kinds in turn, after a hundred of them to warm up."""
    scripts = failing(upstream)

    async def fail(numbers: range) -> None:
        left = iter(numbers)

        async def client() -> None:
            for number in left:
                await one_failure(gateway, scripts, number)

        await asyncio.gather(*(client() for _ in range(8)))

    await fail(range(100))
    descriptors, memory = footprint.descriptors(), footprint.resident_mib()
    await fail(range(FAILURES))
    await until(lambda: asyncio.sleep(0, footprint.descriptors() <= descriptors + 20))
    assert footprint.resident_mib() - memory <= 16
    assert (await gateway.ask("sonnet")).reading().finished
    assert not re.search("a defect of the gateway", gateway.log())
