"""The log's way out: a reader that is slow, hung or gone, and several writers on one pipe."""

from __future__ import annotations

import asyncio
import fcntl
import logging
import os
import re
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TextIO

import pytest

from gateway.server import logs
from gateway.server.logs import LAST_SECONDS, MAX_WAITING_BYTES, PIECE_BYTES, Outlet
from tests.cli.gateway_command import environment, written
from tests.server.gateway_process import Gateway, until
from tests.server.service import ECHO

SET_PIPE_SIZE = 1031
LINE = "x" * 99 + "\n"
LINES = MAX_WAITING_BYTES // len(LINE)
"""So many of them wait."""
ACCESS = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3} INFO req_\w+ sonnet -> echo/one ok .*total=\d\.\d{3}s")

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the size of a pipe is set")


class Wire:
    """Both ends of a pipe or a socket; ``outlet`` writes to it."""

    def __init__(self, kind: str) -> None:
        if kind == "socket":
            self._ends = socket.socketpair()
            self.read_end, self.write_end = self._ends[0].detach(), self._ends[1].detach()
        else:
            self.read_end, self.write_end = os.pipe()
            fcntl.fcntl(self.write_end, SET_PIPE_SIZE, 4096)
        os.set_blocking(self.read_end, False)
        self.stream: TextIO = os.fdopen(self.write_end, "w", encoding="utf-8")
        self.outlet = Outlet(self.stream, lambda lost: f"{lost} lost\n")

    def read(self) -> str:
        """What is in it now."""
        data = b""
        with suppress(BlockingIOError):
            while piece := os.read(self.read_end, 65536):
                data += piece
        return data.decode()

    def read_all(self) -> str:
        """What is in it, and what waited."""
        text = ""
        while piece := self.read():
            text += piece
            self.outlet.push()
        return text

    def close(self) -> None:
        self.outlet.close()
        with suppress(OSError):
            self.stream.close()
        with suppress(OSError):
            os.close(self.read_end)


@pytest.fixture(params=["pipe", "pipe without /proc", "socket"])
def wire(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Wire]:
    if request.param == "pipe without /proc":

        def refuse(*_: object) -> int:
            raise FileNotFoundError

        with monkeypatch.context() as without:
            without.setattr("gateway.server.logs.os.open", refuse)
            made = Wire("pipe")
    else:
        made = Wire(request.param)
    yield made
    made.close()


def test_lines_wait_and_come_in_order(wire: Wire) -> None:
    lines = [f"{number} {LINE}" for number in range(5000)]
    for line in lines:
        wire.outlet.put(line)
    assert wire.outlet.try_again is not None
    assert wire.read_all() == "".join(lines)
    assert wire.outlet.try_again is None


def test_beyond_the_bound_they_are_counted(wire: Wire) -> None:
    for number in range(2 * LINES):
        wire.outlet.put(f"{number:5} {LINE[6:]}")
    first = wire.read_all().splitlines()
    kept, notice = first[:-1], first[-1]
    assert [int(line[:5]) for line in kept] == list(range(len(kept)))
    assert LINES - 50 < len(kept) < LINES + 5000, "what waits is bounded"
    assert notice == f"{2 * LINES - len(kept)} lost"
    wire.outlet.put("again\n")
    assert wire.read_all() == "again\n"


def test_one_batch_beyond_the_bound_is_cut_at_a_line(wire: Wire) -> None:
    wire.outlet.put(LINE * 3 * LINES)
    *kept, notice = wire.read_all().splitlines(keepends=True)
    assert set(kept) == {LINE}
    assert notice == f"{3 * LINES - len(kept)} lost\n"


def test_a_line_longer_than_a_piece_is_cut(wire: Wire) -> None:
    wire.outlet.put("before\n" + "é" * PIECE_BYTES + "\nafter\n")
    before, cut, after = wire.read_all().splitlines(keepends=True)
    assert (before, after) == ("before\n", "after\n")
    assert re.fullmatch(r"é+ \.\.\. \(cut: the line is too long\)\n", cut)
    assert PIECE_BYTES - 1 <= len(cut.encode()) <= PIECE_BYTES


def test_a_reader_that_left_is_counted_too(wire: Wire) -> None:
    os.close(wire.read_end)
    for _ in range(3):
        wire.outlet.put(LINE)
    assert wire.outlet.try_again is None
    assert wire.outlet._waiting == b""
    assert wire.outlet._lost == 3


def test_a_full_disk_is_said_when_there_is_room_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "log"
    with file.open("w") as stream:
        outlet = Outlet(stream, lambda lost: f"{lost} lost\n")

        def full(data: bytes) -> int:
            raise OSError(28, "No space left on device")

        with monkeypatch.context() as disk:
            disk.setattr(outlet, "_write", full)
            outlet.put(LINE * 2)
            outlet.put(LINE)
        long_line = "y" * 2 * PIECE_BYTES + "\n"
        outlet.put(long_line)
        assert file.read_text() == "3 lost\n" + long_line, "and a file takes every line whole"


def test_the_descriptor_stays_as_it_was(wire: Wire) -> None:
    assert os.get_blocking(wire.write_end), "a shell or our own stdout may share it"


@contextmanager
def reading(wire: Wire) -> Iterator[list[str]]:
    """Somebody reads, but not at once; afterwards the list has what there was."""
    heard: list[str] = []
    done = threading.Event()

    def read() -> None:
        while not done.is_set():
            heard.append(wire.read())
        heard.append(wire.read())

    reader = threading.Thread(target=read)
    reader.start()
    yield heard
    done.set()
    reader.join()


def test_the_end_waits_for_a_slow_reader_only(wire: Wire) -> None:
    wire.outlet.put(LINE * 5000)
    with reading(wire) as heard:
        wire.outlet.push_out(60.0)
    assert "".join(heard) == LINE * 5000
    wire.outlet.put(LINE * 5000)
    wire.outlet.push_out(0.01)
    assert wire.outlet._waiting == b"", "a second end waits for nothing"


@pytest.mark.parametrize("end", ["flush", "close"])
def test_what_waits_comes_out_at_the_end(end: str, monkeypatch: pytest.MonkeyPatch) -> None:
    wire = Wire("pipe")
    monkeypatch.setattr(sys, "stderr", wire.stream)
    monkeypatch.setattr("gateway.server.logs.LAST_SECONDS", 60.0)
    handler = logs.GatheringHandler()
    for _ in range(1000):
        handler.handle(logging.LogRecord("gateway", logging.INFO, "x.py", 1, LINE[:-1], (), None))
    with reading(wire) as heard:
        getattr(handler, end)()
    assert "".join(heard) == LINE * 1000
    handler.close()
    wire.close()


def test_a_fork_does_not_say_what_its_parent_will(wire: Wire, monkeypatch: pytest.MonkeyPatch) -> None:
    wire.outlet.put(LINE * 5000)
    seen = wire.read()
    monkeypatch.setattr("gateway.server.logs.os.getpid", lambda: -1)
    wire.outlet.put("mine\n")
    seen += wire.read_all()
    assert seen.endswith("mine\n")
    assert seen.count("\n") < 5000


async def test_the_handler_tries_again_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    wire = Wire("pipe")
    monkeypatch.setattr(sys, "stderr", wire.stream)
    handler = logs.GatheringHandler()
    for number in range(1000):
        handler.handle(logging.LogRecord("gateway", logging.INFO, "x.py", 1, f"{number:4} {LINE[:-1]}", (), None))
    text = ""
    async with asyncio.timeout(30):
        while text.count("\n") < 1000:
            await asyncio.sleep(0)
            text += wire.read()
    assert [int(line[:4]) for line in text.splitlines()] == list(range(1000))
    handler.close()
    wire.close()


# -- whole processes ---------------------------------------------------------------------------------------


class Process:
    """``gateway serve`` with its log in a small pipe that is read when the test likes to."""

    def __init__(self, folder: Path, *options: str) -> None:
        self.read_end, write_end = os.pipe()
        fcntl.fcntl(write_end, SET_PIPE_SIZE, 4096)
        command = [sys.executable, "-m", "gateway", "serve", "--config", written(folder, ECHO), "--port", "0", *options]
        self.process = subprocess.Popen(
            command,
            cwd=Path(__file__).resolve().parents[2],
            env=environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=write_end,
        )
        os.close(write_end)
        assert self.process.stdout is not None
        words = self.process.stdout.readline().decode().split()
        self.gateway = Gateway(words[words.index("on") + 1])

    def read(self) -> str:
        """Until nobody writes any more."""
        with os.fdopen(self.read_end, "rb", closefd=False) as log:
            return log.read().decode()

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait(20)
        assert self.process.stdout is not None
        self.process.stdout.close()
        os.close(self.read_end)


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Process]]:
    started: list[Process] = []

    def begin(*options: str) -> Process:
        started.append(Process(tmp_path, *options))
        return started[-1]

    yield begin
    for each in started:
        each.close()


async def ask(gateway: Gateway, count: int) -> None:
    left = iter(range(count))

    async def client() -> None:
        for _ in left:
            assert (await gateway.ask("sonnet", stream=False)).status == 200

    async with asyncio.TaskGroup() as group:
        for _ in range(8):
            group.create_task(client())


@pytest.mark.parametrize("workers", ["1", "2"])
async def test_a_hung_reader_delays_no_stop(start: Callable[..., Process], workers: str) -> None:
    """SIGTERM is heard, and the exit status says that all is well."""
    process = start("--workers", workers, "--log-level", "debug")
    await ask(process.gateway, 100)
    process.process.terminate()
    assert await asyncio.to_thread(process.process.wait, 6 + 3 * LAST_SECONDS) == 0


async def test_a_hung_reader_holds_no_second_signal_up(start: Callable[..., Process]) -> None:
    """A request is still arriving, so the first signal does not end it."""
    process = start("--log-level", "debug")
    await ask(process.gateway, 100)
    host, port = "127.0.0.1", process.gateway.port
    _, writer = await asyncio.open_connection(host, port)
    writer.write(b"POST /v1/messages HTTP/1.1\r\nhost: localhost\r\ncontent-length: 9\r\n\r\n")
    await writer.drain()
    # What comes on another connection later is seen later.
    await ask(process.gateway, 1)
    process.process.terminate()

    async def refused() -> bool:
        try:
            _, other = await asyncio.open_connection(host, port)
        except ConnectionRefusedError:
            return True
        other.close()
        return False

    await until(refused)
    assert process.process.poll() is None
    process.process.terminate()
    assert await asyncio.to_thread(process.process.wait, 6) == 128 + 15
    writer.close()


async def test_workers_do_not_cut_into_each_others_lines(start: Callable[..., Process]) -> None:
    """A small pipe and a reader that begins late: each line is whole, and there is one for each request."""
    process = start("--workers", "2")
    asked = asyncio.create_task(ask(process.gateway, 300))
    log = asyncio.create_task(asyncio.to_thread(process.read))
    await asked
    process.process.terminate()
    assert await asyncio.to_thread(process.process.wait, 20) == 0
    lines = [line for line in (await log).splitlines() if "stopping: " not in line]
    assert [line for line in lines if not ACCESS.fullmatch(line)] == []
    assert len(lines) == 300


async def test_the_lines_of_the_last_moment_come_out(start: Callable[..., Process]) -> None:
    process = start()
    log = asyncio.create_task(asyncio.to_thread(process.read))
    await ask(process.gateway, 50)
    process.process.terminate()
    assert await asyncio.to_thread(process.process.wait, 20) == 0
    text = await log
    assert len([line for line in text.splitlines() if ACCESS.fullmatch(line)]) == 50
    assert "stopping: " in text
