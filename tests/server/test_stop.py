"""Signals: running answers finish, idle connections hold nothing up, and a second signal is obeyed at once."""

from __future__ import annotations

import asyncio
import signal
from pathlib import Path

import pytest
from aiohttp import ClientSession

from tests.server.faulty_upstream import Connection, FaultyUpstream, Gate, beginning, stream, whole
from tests.server.gateway_process import Gateway, Reply, open_stream, running_gateway, turn, until

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
            writers[0].write(b"POST /v1/messages HTTP/1.1\r\nhost: x\r\n")
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


async def test_what_outlasts_the_patience_gets_an_error(upstream: FaultyUpstream, tmp_path: Path) -> None:
    """Never a silent stump: the clients must know that this was no answer."""
    gate = upstream.gate()
    streaming, folding = upstream.script(held(gate)), upstream.script(held(gate))  # type: ignore[arg-type]
    hurry = "import gateway.server.run as run; run.DRAIN_SECONDS = 0.3"
    with running_gateway(tmp_path, CONFIG.format(url=upstream.url), before=hurry) as gateway:
        folded = asyncio.create_task(gateway.ask(f"lab/{folding.model}", stream=False))
        await folding.visit()
        async with open_stream(gateway, f"lab/{streaming.model}") as response:
            received = await response.content.readany()
            gateway.signal(signal.SIGTERM)
            async with asyncio.timeout(LIMIT):
                received += await response.read()
                assert await gateway.exit_status() == 0
        reading = Reply(response.status, response.headers, received).reading()
        assert reading.error is not None
        assert not reading.finished
        (await folded).error(529, "overloaded_error")
        await (await streaming.visit()).closed()
        assert "Traceback" not in gateway.log()
