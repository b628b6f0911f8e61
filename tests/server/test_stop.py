"""Signals: running answers finish, idle connections hold nothing up, and a second signal is obeyed at once."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path

import orjson
import pytest
from aiohttp import ClientSession

from tests.server.faulty_upstream import Connection, FaultyUpstream, Gate, beginning, stream, whole
from tests.server.gateway_process import REPOSITORY, Gateway, Reply, open_stream, running_gateway, turn, until
from tests.server.service import say

CONFIG = """\
providers:
  lab: {{api: openai-chat, base_url: "{url}/v1"}}
  echo: {{}}
models: {{sonnet: echo/echo}}
"""
BOTH = [signal.SIGINT, signal.SIGTERM]
LIMIT = 8
"""Seconds; far under the 30 for which running streams may hold the process."""


def held(gate: Gate) -> object:
    async def answer(connection: Connection) -> None:
        await connection.start()
        for piece in beginning("chat", "Hel"):
            await connection.chunk(piece)
        await gate.wait()
        for piece in whole("chat", "lo"):
            await connection.chunk(piece)
        await connection.end("whole")

    return answer


async def stopping(gateway: Gateway) -> None:
    """Waits until the gateway has heard the signal, and takes no new connection."""

    async def refused() -> bool:
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
        except OSError:
            return "stopping" in gateway.log()
        writer.close()
        return False

    await until(refused)


@pytest.mark.parametrize("number", BOTH)
async def test_a_running_stream_finishes(upstream: FaultyUpstream, tmp_path: Path, number: signal.Signals) -> None:
    gate = upstream.gate()
    streaming, folding = upstream.script(held(gate)), upstream.script(held(gate))  # type: ignore[arg-type]
    with running_gateway(tmp_path, CONFIG.format(url=upstream.url)) as gateway:
        folded = asyncio.create_task(gateway.ask(f"lab/{folding.model}", stream=False))
        await folding.visit()
        async with open_stream(gateway, f"lab/{streaming.model}") as response:
            received = await response.content.readany()
            gateway.signal(number)
            await stopping(gateway)
            gate.open()
            reply = Reply(response.status, response.headers, received + await response.read())
        assert reply.reading().finished
        assert reply.reading().content[0]["text"] == "Hello"
        assert (await folded).json["content"][0]["text"] == "Hello"
        async with asyncio.timeout(LIMIT):
            assert await gateway.exit_status() == 0
        assert "Traceback" not in gateway.log()


@pytest.mark.parametrize("number", BOTH)
async def test_idle_connections_do_not_hold_it_up(
    upstream: FaultyUpstream, tmp_path: Path, number: signal.Signals
) -> None:
    """Kept-alive ones of clients, one that never said a word, one with half a request, and one to the upstream."""
    script = upstream.script(stream(*whole("chat", "Hi")))
    with running_gateway(tmp_path, CONFIG.format(url=upstream.url)) as gateway:
        async with ClientSession() as session:
            for _ in range(3):
                body = turn(f"lab/{script.model}")
                async with session.post(f"{gateway.url}/v1/messages", json=body) as response:
                    assert response.status == 200
                    await response.read()
            writers = [(await asyncio.open_connection("127.0.0.1", gateway.port))[1] for _ in range(5)]
            writers[0].write(b"POST /v1/messages HTTP/1.1\r\nhost: localhost\r\n")
            gateway.signal(number)
            async with asyncio.timeout(LIMIT):
                assert await gateway.exit_status() == 0
            for writer in writers:
                writer.close()
        assert "Traceback" not in gateway.log()


@pytest.mark.parametrize("number", BOTH)
async def test_a_second_signal_ends_at_once(upstream: FaultyUpstream, tmp_path: Path, number: signal.Signals) -> None:
    script = upstream.script(held(upstream.gate()))  # type: ignore[arg-type]
    with running_gateway(tmp_path, CONFIG.format(url=upstream.url)) as gateway:
        async with open_stream(gateway, f"lab/{script.model}") as response:
            await response.content.readany()
            gateway.signal(number)
            await stopping(gateway)
            gateway.signal(number)
            async with asyncio.timeout(LIMIT):
                assert await gateway.exit_status() != 0
            await (await script.visit()).closed()
        assert "Traceback" not in gateway.log()


async def test_the_end_waits_for_no_thread(tmp_path: Path) -> None:
    """A look-up of a name, or a file on a disk that hangs, may hold a thread for a minute."""
    stuck = "import gateway.server.standalone as s, time; s.tls_context = lambda: time.sleep(60)"
    config = 'providers: {lab: {api: openai-chat, base_url: "https://127.0.0.1:1/v1"}}\nmodels: {sonnet: lab/m}\n'
    with running_gateway(tmp_path, config, before=stuck) as gateway:
        gateway.signal(signal.SIGTERM)
        async with asyncio.timeout(LIMIT):
            assert await gateway.exit_status() == 0
        assert "Traceback" not in gateway.log()


async def test_what_outlasts_the_patience_gets_an_error(upstream: FaultyUpstream, tmp_path: Path) -> None:
    """Never a silent stump: the clients must know that this was no answer."""
    gate = upstream.gate()
    streaming, folding = upstream.script(held(gate)), upstream.script(held(gate))  # type: ignore[arg-type]
    with running_gateway(tmp_path, CONFIG.format(url=upstream.url), "--drain-seconds", "0.3") as gateway:
        folded = asyncio.create_task(gateway.ask(f"lab/{folding.model}", stream=False))
        await folding.visit()
        async with open_stream(gateway, f"lab/{streaming.model}") as response:
            received = await response.content.readany()
            gateway.signal(signal.SIGTERM)
            async with asyncio.timeout(0.3 + 2.5):
                received += await response.read()
                assert await gateway.exit_status() == 0
        reading = Reply(response.status, response.headers, received).reading()
        assert reading.error is not None
        assert not reading.finished
        (await folded).error(529, "overloaded_error")
        await (await streaming.visit()).closed()
        assert "Traceback" not in gateway.log()
        assert "2 answers take longer than the 0.3 s" in gateway.log()


async def test_no_new_work_on_connections_that_are_open(upstream: FaultyUpstream, tmp_path: Path) -> None:
    """A client on a kept-alive connection gets an answer that it knows how to retry, and no reset."""
    gate = upstream.gate()
    script = upstream.script(held(gate))  # type: ignore[arg-type]
    with running_gateway(tmp_path, CONFIG.format(url=upstream.url)) as gateway:
        idle, used = [await asyncio.open_connection("127.0.0.1", gateway.port) for _ in range(2)]
        assert (await say(*used))[0] == 200
        probe = await asyncio.open_connection("127.0.0.1", gateway.port)
        async with open_stream(gateway, f"lab/{script.model}") as response:
            received = await response.content.readany()
            gateway.signal(signal.SIGTERM)
            await stopping(gateway)
            for reader, writer in (idle, used):
                status, headers = await say(reader, writer)
                assert status == 529
                assert headers["connection"] == "close"
                assert headers["retry-after"] == "1"
                assert headers["server"] == "messages-gateway"
                assert await reader.read() == b"", "and it is closed"
                writer.close()
            reader, writer = probe
            writer.write(b"GET /readyz HTTP/1.1\r\nhost: localhost\r\n\r\n")
            answer = await reader.read()
            assert answer.startswith(b"HTTP/1.1 503")
            assert b'"draining"' in answer
            writer.close()
            gate.open()
            reply = Reply(response.status, response.headers, received + await response.read())
        assert reply.reading().finished
        assert await gateway.exit_status() == 0
        assert "Traceback" not in gateway.log()


async def test_a_body_that_is_on_its_way_is_waited_for(tmp_path: Path) -> None:
    """It was begun before the signal, so it is no new work."""
    body = orjson.dumps(turn("sonnet"))
    with running_gateway(tmp_path, "providers: {echo: {}}\nmodels: {sonnet: echo/x}\n") as gateway:
        reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
        writer.write(b"POST /v1/messages HTTP/1.1\r\nhost: localhost\r\nexpect: 100-continue\r\n")
        writer.write(b"content-length: %d\r\n\r\n" % len(body))
        assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 100"), "it is being answered now"
        writer.write(body[:20])
        gateway.signal(signal.SIGTERM)
        await stopping(gateway)
        writer.write(body[20:])
        assert (await reader.read()).startswith(b"HTTP/1.1 200")
        writer.close()
        assert await gateway.exit_status() == 0


def test_a_terminal_that_is_closed_ends_it() -> None:
    """Otherwise every closed window would leave a gateway behind that holds the port."""
    ours, theirs = os.openpty()
    program = (
        "import fcntl, sys, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0);"
        "from gateway.cli import main; sys.argv[1:] = ['serve', '--demo', '--port', '0']; main()"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", program],
        cwd=REPOSITORY,
        stdin=theirs,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    assert process.stdout is not None
    assert process.stderr is not None
    os.close(theirs)
    try:
        assert b" listens on " in process.stdout.readline()
        process.send_signal(signal.SIGHUP)
        assert b"SIGHUP: there is no file" in process.stderr.readline(), "the terminal is still there"
        os.close(ours)
        assert process.wait(LIMIT) == 0
    finally:
        if process.poll() is None:
            process.kill()
        process.communicate()
