"""Two gateways on one port: nobody is refused while the one takes over from the other."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from aiohttp import web

from gateway.server import listening_socket, stopping
from gateway.server.listening_socket import bind, inherited, share_again, steer_away
from gateway.server.stopping import HANDOVER_SECONDS, hand_over
from tests.server.gateway_process import REPOSITORY, until
from tests.server.service import ECHO, ask_often, say, service

TURNS = 500
LINUX = pytest.mark.skipif(not listening_socket.SPREADS, reason="SO_REUSEPORT spreads on Linux alone")


@pytest.fixture
def opened() -> Iterator[socket.socket]:
    """What systemd's socket unit is: it listens whoever runs."""
    with socket.create_server(("127.0.0.1", 0), backlog=1024) as listening:
        yield listening


@LINUX
@pytest.mark.parametrize("workers", ["1", "2"])
async def test_a_rolling_restart_refuses_nobody(tmp_path: Path, workers: str) -> None:
    """Promise P4: 0 of 500. Without ``steer_away`` some 4 of 500 were reset."""
    options = ("--reuse-port", "--workers", workers)
    with service(tmp_path, *options) as old, service(tmp_path, *options, "--port", str(old.port)) as new:
        middle = asyncio.Event()
        turns = asyncio.create_task(ask_often(old, TURNS, 16, middle))
        await middle.wait()
        old.signal(signal.SIGTERM)
        assert await turns == {"echo/one": TURNS}
        assert await old.exit_status() == 0
        assert (await new.send("GET", "/readyz")).status == 200
        for each in (old, new):
            assert each.log().count(" ok ") > 20, "both had their share"


@LINUX
@pytest.mark.parametrize("workers", ["1", "2"])
async def test_a_connection_that_came_before_may_still_ask(tmp_path: Path, workers: str) -> None:
    """Its client is slow: the port is handed over, the gateway stops, and only then comes the request."""
    with service(tmp_path, "--reuse-port", "--workers", workers) as old:
        early = [await asyncio.open_connection("127.0.0.1", old.port) for _ in range(8)]
        old.signal(signal.SIGTERM)
        await asyncio.sleep(HANDOVER_SECONDS + 0.5)
        assert [(await say(*each))[0] for each in early] == [200] * 8
        assert await old.exit_status() == 0
        for _, writer in early:
            writer.close()


async def test_a_socket_is_not_closed_on_the_connections_in_its_queue(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stopping, "HANDOVER_SECONDS", 0)
    (queue,) = bind("127.0.0.1", 0)
    queue.listen()
    queue.setblocking(False)
    server = web.Server(nobody_asks)
    with socket.create_connection(queue.getsockname()):
        leaving = asyncio.create_task(hand_over([queue], server))
        for _ in range(5):
            assert not (await asyncio.wait([leaving], timeout=0.05))[0]
        queue.accept()[0].close()
        await leaving
    queue.close()


async def nobody_asks(request: web.BaseRequest) -> web.StreamResponse:
    raise AssertionError(request)


async def test_a_restart_behind_systemd_refuses_nobody(tmp_path: Path, opened: socket.socket) -> None:
    """The one stops, and only then the next one starts: connections wait in between."""
    with service(tmp_path, sockets=(opened,)) as first:
        assert first.port == opened.getsockname()[1], "whatever --port says"
        middle = asyncio.Event()
        turns = asyncio.create_task(ask_often(first, 200, 8, middle))
        await middle.wait()
        first.signal(signal.SIGTERM)

        async def stopping() -> bool:
            return "stopping: " in first.log()

        await until(stopping)
        late = await asyncio.open_connection("127.0.0.1", first.port)
        assert await first.exit_status() == 0
        with service(tmp_path, sockets=(opened,)):
            assert (await say(*late))[0] == 200, "it was not for the first one any more"
            assert await turns == {"echo/one": 200}
        late[1].close()


async def test_several_workers_share_what_systemd_opened(tmp_path: Path, opened: socket.socket) -> None:
    with service(tmp_path, "--workers", "2", sockets=(opened,)) as gateway:
        assert await ask_often(gateway, 20, 4) == {"echo/one": 20}
        gateway.signal(signal.SIGTERM)
        assert await gateway.exit_status() == 0


def run_to_the_end(folder: Path, *options: str, before: str = "", sockets: tuple[int, ...] = ()) -> tuple[int, str]:
    """A gateway that should not start: its status, and what it says."""
    file = folder / "providers.yaml"
    file.write_text(ECHO)
    program = f"import os\n{before}\nfrom gateway.cli import main\nmain()"
    ended = subprocess.run(
        [sys.executable, "-c", program, "serve", "--config", str(file), *options],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=20,
        pass_fds=sockets,
    )
    assert ended.stdout == ""
    return ended.returncode, ended.stderr


def handing_over(opened: socket.socket) -> str:
    """What systemd does between fork and exec."""
    return f"os.dup2({opened.fileno()}, 3, True); os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS='1')"


@pytest.mark.parametrize("options", [(), ("--workers", "2")])
async def test_a_port_is_shared_only_by_those_who_say_so(tmp_path: Path, options: tuple[str, ...]) -> None:
    """Two gateways by mistake would answer in turns."""
    with service(tmp_path, "--reuse-port") as gateway:
        status, said = run_to_the_end(tmp_path, "--port", str(gateway.port), *options)
        assert status == 1
        assert "is taken" in said
        assert said.count("\n") == 1
    with service(tmp_path, *options) as gateway:
        status, said = run_to_the_end(tmp_path, "--port", str(gateway.port), *options)
        assert status == 1
        assert "is taken" in said


def test_what_systemd_opened_to_the_network_needs_a_token(tmp_path: Path) -> None:
    with socket.create_server(("0.0.0.0", 0)) as everywhere:
        status, said = run_to_the_end(tmp_path, before=handing_over(everywhere), sockets=(everywhere.fileno(),))
    assert status == 2
    assert "refusing to listen on 0.0.0.0 without a key" in said


def test_a_socket_of_another_kind_is_refused(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as local:
        status, said = run_to_the_end(tmp_path, before=handing_over(local), sockets=(local.fileno(),))
    assert (status, said) == (1, "socket activation: descriptor 3, handed over by systemd, is no TCP socket\n")


# -- the sockets alone -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "env",
    [
        {},
        {"LISTEN_FDS": "1"},
        {"LISTEN_FDS": "1", "LISTEN_PID": "1"},
        {"LISTEN_FDS": "x", "LISTEN_PID": str(os.getpid())},
        {"LISTEN_FDS": "0", "LISTEN_PID": str(os.getpid()), "LISTEN_FDNAMES": ""},
    ],
    ids=["nothing", "no process", "another process", "no number", "no socket"],
)
def test_what_is_not_for_us_is_not_taken(env: dict[str, str]) -> None:
    env["OTHER"] = "stays"
    assert inherited(env) == []
    assert env == {"OTHER": "stays"}


def test_a_host_and_a_port() -> None:
    (first,) = bind("127.0.0.1", 0)
    first.listen()
    port = first.getsockname()[1]
    for reuse_port in (False, True):
        with pytest.raises(OSError, match="in use"):
            bind("127.0.0.1", port, reuse_port=reuse_port, count=3)
    first.close()


@LINUX
def test_one_socket_for_each_worker() -> None:
    sockets = bind("127.0.0.1", 0, count=3)
    assert len({each.getsockname() for each in sockets}) == 1
    assert len({each.fileno() for each in sockets}) == 3
    for each in sockets:
        each.listen()
    assert accepted(sockets, 60).keys() == {0, 1, 2}
    listening_socket.close(sockets)


@LINUX
@pytest.mark.parametrize("count", [1, 2])
def test_new_connections_go_to_who_came_later(count: int) -> None:
    old = bind("127.0.0.1", 0, reuse_port=True, count=count)
    for each in old:
        each.listen()
    steer_away(old[0], count)
    assert set(accepted(old, 30)) == set(range(count)), "nobody came: nothing changes"
    share_again(old[0])
    new = bind("127.0.0.1", old[0].getsockname()[1], reuse_port=True, count=count)
    for each in new:
        each.listen()
    assert set(accepted([*old, *new], 60)) == set(range(2 * count))
    steer_away(old[0], count)
    assert set(accepted([*old, *new], 60)) == set(range(count, 2 * count))
    listening_socket.close(old)
    assert set(accepted(new, 30)) == set(range(count))
    listening_socket.close(new)


def accepted(sockets: list[socket.socket], count: int) -> dict[int, int]:
    """Which socket, by its place in the list, got how many of ``count`` connections."""
    seen: dict[int, int] = {}
    for _ in range(count):
        with socket.create_connection(sockets[0].getsockname()):
            for number, each in enumerate(sockets):
                each.setblocking(False)
                try:
                    each.accept()[0].close()
                except BlockingIOError:
                    continue
                seen[number] = seen.get(number, 0) + 1
    assert sum(seen.values()) == count
    return seen
