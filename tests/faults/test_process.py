"""Group P: start, stop and be killed, on machines where things are missing."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from aiohttp import ClientError, ClientSession

from tests.cli.gateway_command import environment, run, written
from tests.faults.footprint import Footprint, Stopwatch, children_seconds
from tests.server.faulty_upstream import Connection, FaultyUpstream, Gate, beginning, stream, whole
from tests.server.gateway_process import REPOSITORY, Gateway, Reply, open_stream, running_gateway, turn, until

CONFIG = """\
providers:
  lab: {{api: openai-chat, base_url: "{url}/v1"}}
  echo: {{}}
models: {{sonnet: echo/echo}}
"""
ECHO = "providers: {echo: {}}\nmodels: {sonnet: echo/echo}\n"
STOP_SECONDS, SECOND_SIGNAL_SECONDS, LATE_SECONDS = 6.0, 1.0, 2.5
COLD_SECONDS, MOST_MIB = 1.5, 80


def held(gate: Gate) -> object:
    async def answer(connection: Connection) -> None:
        await connection.start()
        await connection.chunk(b"".join(beginning("chat", "Hel")))
        await gate.wait()
        await connection.chunk(b"".join(whole("chat", "lo")))
        await connection.end("whole")

    return answer


async def heard(gateway: Gateway) -> None:
    """Waits until the signal was heard."""
    await until(lambda: asyncio.sleep(0, "stopping" in gateway.log()))


# -- stopping ----------------------------------------------------------------------------------------------


async def test_a_stream_finishes_and_then_the_process_ends(upstream: FaultyUpstream, tmp_path: Path) -> None:
    """P1: no new connection; exit 0 within six seconds of the last byte."""
    gate = upstream.gate()
    script = upstream.script(held(gate))  # type: ignore[arg-type]
    with running_gateway(tmp_path, CONFIG.format(url=upstream.url)) as gateway:
        async with open_stream(gateway, f"lab/{script.model}") as response:
            received = await response.content.readany()
            gateway.signal(signal.SIGTERM)
            await heard(gateway)
            with pytest.raises(ConnectionRefusedError):
                await asyncio.open_connection("127.0.0.1", gateway.port)
            gate.open()
            received += await response.read()
            watch = Stopwatch(gateway.pid)
        assert Reply(response.status, response.headers, received).reading().content[0]["text"] == "Hello"
        assert await gateway.exit_status() == 0
        assert watch.seconds() <= STOP_SECONDS


async def test_no_new_work_on_an_old_connection(upstream: FaultyUpstream, tmp_path: Path) -> None:
    """P1: a connection that was idle at the signal is closed, or says that the gateway stops."""
    gate = upstream.gate()
    script = upstream.script(held(gate))  # type: ignore[arg-type]
    never_asked = upstream.script(stream(*whole("chat", "Hi")))
    with running_gateway(tmp_path, CONFIG.format(url=upstream.url)) as gateway:
        async with ClientSession() as session, open_stream(gateway, f"lab/{script.model}") as response:
            await response.content.readany()
            async with session.get(f"{gateway.url}/readyz") as ready:
                assert ready.status == 200
                await ready.read()
            gateway.signal(signal.SIGTERM)
            await heard(gateway)
            with suppress(ClientError):
                body = turn(f"lab/{never_asked.model}")
                async with session.post(f"{gateway.url}/v1/messages", json=body) as refused:
                    assert refused.status in (503, 529), "new work was taken"
            assert never_asked.visits == []


async def test_what_outlasts_the_drain_gets_an_error_in_time(upstream: FaultyUpstream, tmp_path: Path) -> None:
    """P2: a drain of a second; every stream has its own error, and the process ends 2.5 s after that."""
    script = upstream.script(held(upstream.gate()))  # type: ignore[arg-type]
    with running_gateway(tmp_path, CONFIG.format(url=upstream.url), "--drain-seconds", "1") as gateway:

        async def client() -> bytes:
            async with open_stream(gateway, f"lab/{script.model}") as response:
                body: bytes = await response.read()
                return body

        clients = [asyncio.create_task(client()) for _ in range(20)]
        for _ in clients:
            await script.visit()
        await until(lambda: asyncio.sleep(0, len(script.visits) == 20))
        watch = Stopwatch(gateway.pid)
        gateway.signal(signal.SIGTERM)
        for body in await asyncio.gather(*clients):
            if body.startswith(b"event:"):
                reading = Reply(200, {"content-type": "text/event-stream"}, body).reading()
                assert reading.error is not None
                assert not reading.finished
            else:
                assert b'"overloaded_error"' in body
        assert await gateway.exit_status() == 0
        assert watch.seconds() <= 1.0 + LATE_SECONDS
        assert "Traceback" not in gateway.log()


async def test_a_second_signal_ends_it_within_a_second(upstream: FaultyUpstream, tmp_path: Path) -> None:
    """P3."""
    script = upstream.script(held(upstream.gate()))  # type: ignore[arg-type]
    with running_gateway(tmp_path, CONFIG.format(url=upstream.url)) as gateway:
        async with open_stream(gateway, f"lab/{script.model}") as response:
            await response.content.readany()
            gateway.signal(signal.SIGTERM)
            await heard(gateway)
            watch = Stopwatch(gateway.pid)
            gateway.signal(signal.SIGTERM)
            assert await gateway.exit_status() != 0
            assert watch.seconds() <= SECOND_SIGNAL_SECONDS


# -- two at once -------------------------------------------------------------------------------------------


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as found:
        port: int = found.getsockname()[1]
        return port


@contextmanager
def serving(
    folder: Path,
    text: str,
    port: int,
    *options: str,
    before: str = "",
    out: int = subprocess.PIPE,
    err: int = subprocess.DEVNULL,
    **more: Any,
) -> Iterator[subprocess.Popen[bytes]]:
    """``gateway serve`` with nothing of this machine's environment; ``before`` is Python that it runs first."""
    command = [sys.executable, "-c", f"{before}\nfrom gateway.cli import main\nmain()", "serve"]
    command += ["--config", written(folder, text), "--port", str(port), *options]
    settings = {"cwd": folder, "env": environment(), **more}
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=out, stderr=err, **settings)
    try:
        yield process
    finally:
        if process.poll() is None:
            process.kill()
        process.wait(20)
        for pipe in (process.stdout, process.stderr):
            if pipe is not None:
                pipe.close()


async def stopped(process: subprocess.Popen[bytes]) -> int:
    """The exit status after a polite signal."""
    process.terminate()
    return await asyncio.to_thread(process.wait, 20)


async def listening(port: int) -> None:
    async def ready() -> bool:
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", port)
        except OSError:
            return False
        writer.close()
        return True

    await until(ready)


async def test_a_rolling_restart_refuses_nobody(tmp_path: Path) -> None:
    """P4: the second one starts while the first serves; then the first one stops; 500 requests all the while."""
    port = free_port()
    with serving(tmp_path, ECHO, port, "--reuse-port") as first:
        assert first.stdout is not None
        assert b" listens on " in first.stdout.readline(), "it did not start"
        gateway, answered = Gateway(f"http://127.0.0.1:{port}"), 0

        async def ask() -> None:
            nonlocal answered
            while answered < 500:
                answered += 1
                assert (await gateway.ask("sonnet", stream=answered % 2 == 0)).status == 200

        clients = asyncio.gather(*(ask() for _ in range(4)))
        with serving(tmp_path, ECHO, port, "--reuse-port") as second:
            assert second.stdout is not None
            assert b" listens on " in await asyncio.to_thread(second.stdout.readline), "the second did not start"
            assert await stopped(first) == 0
            await clients
            assert (await gateway.ask("sonnet")).status == 200


def test_a_taken_port_is_one_line_in_time(tmp_path: Path) -> None:
    """P6."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        began = children_seconds()
        ended = run("serve", "--port", port, "--config", written(tmp_path, ECHO), cwd=tmp_path)
        assert children_seconds() - began <= 5
    assert ended.status != 0
    assert len((ended.out + ended.err).splitlines()) == 1
    assert port in ended.out + ended.err


# -- killed ------------------------------------------------------------------------------------------------


async def test_killed_and_started_again(upstream: FaultyUpstream, tmp_path: Path) -> None:
    """P5: the upstream hears of it, and the next process serves on the same port.

    The time to the first answer is CPU time: what an idle machine would take, whoever else is at work. The first start
    after an edit compiles, so the better of two counts.
    """
    script = upstream.script(held(upstream.gate()))  # type: ignore[arg-type]
    port = free_port()
    starts = []
    compiled = {name: value for name, value in environment().items() if name != "PYTHONDONTWRITEBYTECODE"}
    for _ in range(2):
        with serving(tmp_path, CONFIG.format(url=upstream.url), port, env=compiled) as process:
            await listening(port)
            gateway = Gateway(f"http://127.0.0.1:{port}")
            assert (await gateway.send("GET", "/readyz")).status == 200
            footprint = Footprint(process.pid)
            starts.append(footprint.cpu_seconds())
            assert footprint.resident_mib() <= MOST_MIB
            async with open_stream(gateway, f"lab/{script.model}") as response:
                await response.content.readany()
                process.kill()
                await asyncio.to_thread(process.wait, 20)
                await (await script.visit()).closed()
    assert min(starts) <= COLD_SECONDS


# -- where things are missing ------------------------------------------------------------------------------


async def three_hundred(gateway: Gateway) -> None:
    """As many requests, ten at a time, all answered."""
    async with ClientSession() as session:

        async def ask(number: int) -> int:
            body = turn("sonnet", stream=number % 2 == 0)
            async with session.post(f"{gateway.url}/v1/messages", json=body) as response:
                await response.read()
                return response.status

        statuses = [status for _ in range(30) for status in await asyncio.gather(*(ask(n) for n in range(10)))]
    assert statuses == [200] * 300


NO_FILE_GROWS = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
async def test_without_a_writable_byte_it_serves(tmp_path: Path) -> None:
    """P7: stdout and stderr are full, and no file may grow; 300 of 300."""
    port, full = free_port(), os.open("/dev/full", os.O_WRONLY)
    with serving(tmp_path, ECHO, port, "--log-level", "debug", before=NO_FILE_GROWS, out=full, err=full) as process:
        os.close(full)
        await listening(port)
        await three_hundred(Gateway(f"http://127.0.0.1:{port}"))
        assert await stopped(process) == 0


async def test_a_reader_of_the_log_that_leaves_later_is_no_harm(tmp_path: Path) -> None:
    """P8: the pipe was read at first; then its reader is gone, as when a log shipper dies."""
    port = free_port()
    with serving(tmp_path, ECHO, port, "--log-level", "debug", err=subprocess.STDOUT) as process:
        assert process.stdout is not None
        assert b" listens on " in process.stdout.readline()
        gateway = Gateway(f"http://127.0.0.1:{port}")
        assert (await gateway.ask("sonnet")).status == 200
        process.stdout.close()
        await three_hundred(gateway)
        assert await stopped(process) == 0


async def test_a_log_that_nobody_reads_holds_nobody_up(tmp_path: Path) -> None:
    """P8: the pipe is open and full, as when a log shipper hangs."""
    port = free_port()
    size = "import fcntl, sys; fcntl.fcntl(sys.stderr, 1031, 4096)"  # F_SETPIPE_SZ: sooner full
    with serving(tmp_path, ECHO, port, before=size, out=subprocess.DEVNULL, err=subprocess.PIPE):
        await listening(port)
        async with asyncio.timeout(5):
            await three_hundred(Gateway(f"http://127.0.0.1:{port}"))


async def test_without_home_and_a_folder_to_write_to(tmp_path: Path) -> None:
    """P14: no HOME, no TMPDIR, a working folder that is read-only, and no file may grow."""
    port, folder = free_port(), tmp_path / "read-only"
    folder.mkdir(mode=0o500)
    env = {"PATH": os.environ["PATH"], "PYTHONPATH": str(REPOSITORY), "PYTHONDONTWRITEBYTECODE": "1"}
    # The tests may run as root, whom no mode stops.
    with serving(tmp_path, ECHO, port, before=NO_FILE_GROWS, env=env, cwd=folder) as process:
        await listening(port)
        await three_hundred(Gateway(f"http://127.0.0.1:{port}"))
        assert list(folder.iterdir()) == []
        assert await stopped(process) == 0
