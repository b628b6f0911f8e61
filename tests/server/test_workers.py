"""Several processes on one port: even shares, one configuration, and nobody missed for long."""

from __future__ import annotations

import asyncio
import contextlib
import os
import pickle
import signal
import socket
import time
from collections import Counter
from pathlib import Path

import pytest

from gateway.config import loads
from gateway.reload import describe_change
from gateway.server.listening_socket import SPREADS
from gateway.server.reloading import News
from gateway.server.worker import Down, frame
from tests.server.faulty_upstream import FaultyUpstream
from tests.server.gateway_process import KEYS, REPOSITORY, TOKEN, Gateway, Reply, open_stream, until
from tests.server.service import ECHO, ask_often, say, service
from tests.server.test_stop import CONFIG, held

POLL_OFTEN = "import gateway.server.run as run; run.POLL_SECONDS = 0.05"
OTHER = ECHO.replace("one", "two")
BAD = ECHO.replace("echo/one", "ehco/one")
RESTART_SECONDS = 2.0
"""Promise of issue 5: another worker serves within this time."""

pytestmark = pytest.mark.skipif(not Path("/proc/self").exists(), reason="the workers are found by /proc")


def workers(gateway: Gateway) -> list[int]:
    return [int(word) for word in Path(f"/proc/{gateway.pid}/task/{gateway.pid}/children").read_text().split()]


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


async def logged(gateway: Gateway, text: str, times: int = 1) -> None:
    async def said() -> bool:
        return gateway.log().count(text) >= times

    await until(said)


async def all_listen(gateway: Gateway, count: int) -> None:
    """A worker listens once it has a socket that epoll or kqueue knows; its supervisor shows the table then."""

    async def complete() -> bool:
        return len(workers(gateway)) == count

    await until(complete)


def fresh_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as found:
        port: int = found.getsockname()[1]
        return port


def test_a_configuration_can_be_handed_over() -> None:
    """Whatever a Config holds, also one day: it goes to the workers as a pickle."""
    text = (REPOSITORY / "providers.yaml").read_text().replace("default: sonnet", '"gpt-*": openai\n  default: sonnet')
    config = loads(text.encode(), "providers.yaml", {"DEEPSEEK_API_KEY": "key-of-a-test", "OPENAI_API_KEY": "another"})
    sent = frame(Down(News(config, "why")))
    length, data = sent[:4], sent[4:]
    assert int.from_bytes(length, "big") == len(data)
    message: Down = pickle.loads(data)
    received = message.news
    assert received is not None
    assert received.error == "why"
    assert received.config is not None
    assert describe_change(config, received.config) == []
    assert received.config.secrets == config.secrets
    for name in ("sonnet", "claude-opus-4-8", "gpt-9", "openai/gpt-5", "anything"):
        assert received.config.table.resolve(name) == config.table.resolve(name)


@pytest.mark.skipif(not SPREADS, reason="one socket for all: no even shares")
async def test_connections_are_shared_out(tmp_path: Path) -> None:
    """80 connections over 4 workers; the chance that fair dice give one of them fewer than 6 is under 1 in 5,000."""
    name_worker = (
        "import os\nfrom aiohttp import web\nfrom gateway.server import app\nbuild = app.build_app\n"
        "async def who(request, response): response.headers['x-worker'] = str(os.getpid())\n"
        "import gateway.server.run as run\n"
        "def build_app(state):\n    built = build(state)\n    built.on_response_prepare.append(who)\n    return built\n"
        "run.build_app = build_app"
    )
    with service(tmp_path, "--workers", "4", before=name_worker) as gateway:
        replies = await asyncio.gather(*(gateway.send("GET", "/healthz") for _ in range(80)))
        shares = Counter(reply.headers["x-worker"] for reply in replies)
        assert set(map(int, shares)) == set(workers(gateway))
        assert min(shares.values()) >= 6


async def test_a_worker_that_is_killed_is_followed_by_another(tmp_path: Path, upstream: FaultyUpstream) -> None:
    gate = upstream.gate()
    script = upstream.script(held(gate))  # type: ignore[arg-type]
    with service(tmp_path, "--workers", "2", config=CONFIG.format(url=upstream.url)) as gateway:
        async with open_stream(gateway, f"lab/{script.model}") as response:
            received = await response.content.readany()
            for _ in range(3):
                before = workers(gateway)
                victim = before[-1] if serves(before[0], response) else before[0]
                started = time.monotonic()
                os.kill(victim, signal.SIGKILL)

                async def replaced(before: list[int] = before, victim: int = victim) -> bool:
                    now = workers(gateway)
                    return len(now) == 2 and victim not in now

                await until(replaced)
                assert await ask_often(gateway, 8, 4) == {"echo/echo": 8}
                assert time.monotonic() - started < RESTART_SECONDS
            gate.open()
            reply = Reply(response.status, response.headers, received + await response.read())
        assert reply.reading().finished, "who streamed from the other one noticed nothing"
        gateway.signal(signal.SIGTERM)
        assert await gateway.exit_status() == 0
        assert gateway.log().count("ended with signal 9; another starts") == 3


def serves(pid: int, response: object) -> bool:
    """Whether the process holds the server's end of the answer's connection."""
    port = response.connection.transport.get_extra_info("sockname")[1]  # type: ignore[attr-defined]
    ours = f":{port:04X}"
    inodes = {
        words[9]
        for words in (line.split() for line in Path(f"/proc/{pid}/net/tcp").read_text().splitlines()[1:])
        if words[2].endswith(ours)
    }
    held_open = set()
    for file in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(OSError):
            held_open.add(os.readlink(file))
    return any(f"socket:[{inode}]" in held_open for inode in inodes)


async def test_connections_to_a_worker_that_died_wait_for_the_next(tmp_path: Path) -> None:
    with service(tmp_path, "--workers", "2") as gateway:
        turns = asyncio.create_task(ask_often(gateway, 150, 1))
        for pid in workers(gateway):
            os.kill(pid, signal.SIGKILL)
        # Requests that a dead worker was answering are lost, at most one for each worker here; none is refused.
        seen = await turns
        assert seen["echo/one"] >= 148
        assert not [error for error in seen if "Cannot connect" in error]


async def test_all_get_the_same_configuration_and_only_good_ones(tmp_path: Path) -> None:
    file = tmp_path / "providers.yaml"
    with service(tmp_path, "--workers", "3", before=POLL_OFTEN) as gateway:
        file.write_text(OTHER)
        await logged(gateway, "reloaded: sonnet: echo/one → echo/two")
        assert await ask_often(gateway, 30, 6) == {"echo/two": 30}, "the line is true for all of them"
        file.write_text(BAD)
        await logged(gateway, "'ehco' is not under 'providers'")
        replies = await asyncio.gather(*(gateway.send("GET", "/readyz") for _ in range(20)))
        assert {reply.status for reply in replies} == {200}
        (error,) = {reply.json["config_error"] for reply in replies}
        assert "providers.yaml:2:" in error
        before = workers(gateway)
        os.kill(before[0], signal.SIGKILL)

        async def replaced() -> bool:
            now = workers(gateway)
            return len(now) == 3 and before[0] not in now

        await until(replaced)
        assert await ask_often(gateway, 30, 6) == {"echo/two": 30}, "the new one has it from its supervisor"
        replies = await asyncio.gather(*(gateway.send("GET", "/readyz") for _ in range(20)))
        assert {reply.json.get("config_error") for reply in replies} == {error}
        gateway.signal(signal.SIGHUP)
        await logged(gateway, "the file has mistakes", 2)
        file.write_text(ECHO)
        await logged(gateway, "reloaded: sonnet: echo/two → echo/one")
        assert await ask_often(gateway, 30, 6) == {"echo/one": 30}
        assert gateway.log().count("reloaded: ") == 2, "one line for all"


async def test_a_new_key_is_known_to_all_and_shown_by_none(tmp_path: Path) -> None:
    secret = "gw-new-c81e728d9d4c2f63"
    file, env_file = tmp_path / "providers.yaml", tmp_path / "keys.env"
    env_file.write_text(f"GATE={TOKEN}\n")
    env_file.chmod(0o600)
    text = 'server: {token: "${GATE}"}\n' + ECHO
    options = ("--workers", "2", "--env-file", str(env_file), "--log-level", "debug")
    with service(tmp_path, *options, config=text, before=POLL_OFTEN) as started:
        gateway = Gateway(started.url, TOKEN, started.process, started.log_file)
        assert await ask_often(gateway, 10, 2) == {"echo/one": 10}
        env_file.write_text(f"GATE={secret}\n")
        await logged(gateway, "reloaded: server.token changed")
        assert await ask_often(Gateway(started.url, secret), 10, 2) == {"echo/one": 10}
        (await gateway.ask("sonnet")).error(401)
        # Clients that put the new token where it does not belong.
        for _ in range(8):
            reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
            assert (await say(reader, writer, model=secret, token=secret))[0] == 404
            writer.close()
        await logged(gateway, "model: [secret] is not known", 8)
        env_file.write_text("GATE='\n")
        await logged(gateway, "keys.env:1:1: ")
        assert file.read_text() == text
        assert not [word for word in (secret, TOKEN, *KEYS.values()) if word in gateway.log()]


async def test_a_worker_that_is_told_to_stop_is_followed_by_another_at_once(
    tmp_path: Path, upstream: FaultyUpstream
) -> None:
    gate = upstream.gate()
    script = upstream.script(held(gate))  # type: ignore[arg-type]
    with service(tmp_path, "--workers", "1", "--workers", "2", config=CONFIG.format(url=upstream.url)) as gateway:
        async with open_stream(gateway, f"lab/{script.model}") as response:
            received = await response.content.readany()
            (old,) = [pid for pid in workers(gateway) if serves(pid, response)]
            os.kill(old, signal.SIGTERM)
            await all_listen(gateway, 3)
            assert await ask_often(gateway, 20, 4) == {"echo/echo": 20}
            gate.open()
            reply = Reply(response.status, response.headers, received + await response.read())
        assert reply.reading().finished
        await all_listen(gateway, 2)
        assert old not in workers(gateway)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_stopping(tmp_path: Path, upstream: FaultyUpstream, number: signal.Signals) -> None:
    gate = upstream.gate()
    script = upstream.script(held(gate))  # type: ignore[arg-type]
    with service(tmp_path, "--workers", "2", config=CONFIG.format(url=upstream.url)) as gateway:
        pids = workers(gateway)
        async with open_stream(gateway, f"lab/{script.model}") as response:
            received = await response.content.readany()
            # As a terminal does it with Ctrl-C, and systemd with KillMode=control-group: everybody is told.
            for pid in (*pids, gateway.pid):
                os.kill(pid, number)

            async def refused() -> bool:
                try:
                    _, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
                except ConnectionRefusedError:
                    return True
                writer.close()
                return False

            await until(refused)
            gate.open()
            reply = Reply(response.status, response.headers, received + await response.read())
        assert reply.reading().finished
        assert await gateway.exit_status() == 0
        assert not [pid for pid in pids if alive(pid)]
        assert gateway.log().count("stopping: ") == 1


async def test_the_drain_limit_and_the_second_signal(tmp_path: Path, upstream: FaultyUpstream) -> None:
    first, second = (upstream.script(held(upstream.gate())) for _ in range(2))  # type: ignore[arg-type]
    config = CONFIG.format(url=upstream.url)
    with service(tmp_path, "--workers", "2", "--drain-seconds", "0.3", config=config) as gateway:
        async with open_stream(gateway, f"lab/{first.model}") as response:
            received = await response.content.readany()
            gateway.signal(signal.SIGTERM)
            received += await response.read()
            assert await gateway.exit_status() == 0
        assert Reply(response.status, response.headers, received).reading().error is not None
    with service(tmp_path, "--workers", "2", config=config) as gateway:
        pids = workers(gateway)
        async with open_stream(gateway, f"lab/{second.model}") as response:
            await response.content.readany()
            gateway.signal(signal.SIGTERM)
            await logged(gateway, "stopping: ")
            gateway.signal(signal.SIGTERM)
            async with asyncio.timeout(1):
                assert await gateway.exit_status() == 128 + signal.SIGTERM
        assert not [pid for pid in pids if alive(pid)]


async def test_no_worker_outlives_its_supervisor(tmp_path: Path, upstream: FaultyUpstream) -> None:
    gate = upstream.gate()
    script = upstream.script(held(gate))  # type: ignore[arg-type]
    with service(tmp_path, "--workers", "2", config=CONFIG.format(url=upstream.url)) as gateway:
        pids = workers(gateway)
        async with open_stream(gateway, f"lab/{script.model}") as response:
            received = await response.content.readany()
            gateway.signal(signal.SIGKILL)
            await logged(gateway, "the supervisor is gone", 2)
            gate.open()
            reply = Reply(response.status, response.headers, received + await response.read())
        assert reply.reading().finished, "what runs may finish all the same"

        async def ended() -> bool:
            return not [pid for pid in pids if alive(pid)]

        await until(ended)


async def test_a_worker_that_hangs_is_killed(tmp_path: Path) -> None:
    impatient = (
        "import gateway.server.supervisor as s, gateway.server.worker as w\n"
        "s.HUNG_SECONDS = 2.0; w.HEARTBEAT_SECONDS = 0.1"
    )
    with service(tmp_path, "--workers", "2", before=impatient) as gateway:
        hung = workers(gateway)[0]
        os.kill(hung, signal.SIGSTOP)
        await logged(gateway, f"worker {hung} says nothing")

        async def replaced() -> bool:
            now = workers(gateway)
            return len(now) == 2 and hung not in now

        await until(replaced)
        assert await ask_often(gateway, 10, 2) == {"echo/one": 10}


async def test_a_start_that_fails_ends(tmp_path: Path) -> None:
    broken = "import gateway.server.run as run\nasync def serve(*_): raise RuntimeError('broken')\nrun.serve = serve"
    with pytest.raises(AssertionError, match=r"(?s)ended with status 1 before the gateway was ready"), service(
        tmp_path, "--workers", "2", before=broken
    ):
        raise RuntimeError("it started")


def memory(pid: int) -> dict[str, int]:
    """KiB, by the kernel's names."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]
    return {line.split(":")[0]: int(line.split()[1]) for line in lines}


async def test_what_the_supervisor_costs(tmp_path: Path) -> None:
    """Its own memory, apart from what it shares with the workers."""
    with service(tmp_path, "--workers", "2") as gateway:
        await ask_often(gateway, 10, 2)
        kib = memory(gateway.pid)
        assert kib["Private_Clean"] + kib["Private_Dirty"] < 16 * 1024, kib
        assert kib["Pss"] < 24 * 1024, kib
