"""What systemd hears."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from gateway.server.service_notify import notify, watchdog_interval
from tests.server.gateway_process import until
from tests.server.service import service

OTHER = "providers: {echo: {}}\nmodels: {sonnet: echo/two}\n"


@pytest.fixture
def systemd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[socket.socket]:
    path = tmp_path_factory.mktemp("n") / "s"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.bind(str(path))
        listening.setblocking(False)
        yield listening


async def next_news(systemd: socket.socket, *, watchdog: bool = False) -> list[str]:
    async with asyncio.timeout(20):
        while True:
            news = (await asyncio.get_running_loop().sock_recv(systemd, 4096)).decode().split("\n")
            if (news == ["WATCHDOG=1"]) == watchdog:
                return news


@pytest.mark.parametrize("workers", ["1", "2"])
async def test_the_life_of_a_service(tmp_path: Path, systemd: socket.socket, workers: str) -> None:
    env = {"NOTIFY_SOCKET": systemd.getsockname(), "WATCHDOG_USEC": "200000"}
    with service(tmp_path, "--workers", workers, "--drain-seconds", "7", env=env) as gateway:
        assert await next_news(systemd) == ["READY=1"]
        for _ in range(3):
            await next_news(systemd, watchdog=True)
        (tmp_path / "providers.yaml").write_text(OTHER)
        gateway.signal(signal.SIGHUP)
        began, when = await next_news(systemd)
        assert began == "RELOADING=1"
        assert when.startswith("MONOTONIC_USEC=")
        assert await next_news(systemd) == ["READY=1"]
        reply = await gateway.ask("sonnet", stream=False)
        assert reply.headers["x-gateway-target"] == "echo/two", "READY=1 is true"
        gateway.signal(signal.SIGTERM)
        assert await next_news(systemd) == ["STOPPING=1", "EXTEND_TIMEOUT_USEC=17000000"]
        assert await gateway.exit_status() == 0


async def test_a_loop_that_hangs_feeds_no_watchdog(tmp_path: Path, systemd: socket.socket) -> None:
    env = {"NOTIFY_SOCKET": systemd.getsockname(), "WATCHDOG_USEC": "100000"}
    with service(tmp_path, env=env) as gateway:
        await next_news(systemd, watchdog=True)
        gateway.signal(signal.SIGSTOP)

        async def silent() -> bool:
            try:
                systemd.recv(4096)
            except BlockingIOError:
                return True
            return False

        await until(silent)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.5):
                await asyncio.get_running_loop().sock_recv(systemd, 4096)


async def test_nobody_listens(tmp_path: Path) -> None:
    with service(tmp_path, env={"NOTIFY_SOCKET": str(tmp_path / "none")}) as gateway:
        assert (await gateway.ask("sonnet")).status == 200


@pytest.mark.parametrize("address", ["", "relative", "vsock:2:1"])
def test_an_address_of_another_kind(monkeypatch: pytest.MonkeyPatch, address: str) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", address)
    notify("READY=1")


@pytest.mark.skipif(os.uname().sysname != "Linux", reason="abstract addresses are Linux's")
def test_an_abstract_address(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.bind("\0gateway-test-notify")
        monkeypatch.setenv("NOTIFY_SOCKET", "@gateway-test-notify")
        notify("READY=1", "STATUS=x")
        assert listening.recv(100) == b"READY=1\nSTATUS=x"


@pytest.mark.parametrize(
    ("env", "interval"),
    [
        ({}, None),
        ({"WATCHDOG_USEC": "30000000"}, None),
        ({"NOTIFY_SOCKET": "/s", "WATCHDOG_USEC": "30000000"}, 15.0),
        ({"NOTIFY_SOCKET": "/s", "WATCHDOG_USEC": "30000000", "WATCHDOG_PID": str(os.getpid())}, 15.0),
        ({"NOTIFY_SOCKET": "/s", "WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "1"}, None),
        ({"NOTIFY_SOCKET": "/s", "WATCHDOG_USEC": "0"}, None),
        ({"NOTIFY_SOCKET": "/s", "WATCHDOG_USEC": "x"}, None),
    ],
)
def test_how_often_the_watchdog_is_fed(env: dict[str, str], interval: float | None) -> None:
    assert watchdog_interval(env) == interval
