"""Two machines in one: network namespaces with a cable between them, and an upstream that is a process of its own.

Rules:
* Nothing here touches the machine's own network: both ends of the cable are in namespaces made here.
* A thread that has entered a namespace opens its sockets there, and starts its processes there.
* Namespaces and processes end with the ``with`` that made them.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Self

from tests.server.faulty_upstream import (
    EVENT_STREAM,
    WAIT_SECONDS,
    Answer,
    Connection,
    FaultyUpstream,
    Script,
    Visit,
    answer_by_path,
    beginning,
    reply,
    whole,
)

REPOSITORY = Path(__file__).resolve().parents[2]
NEAR, FAR = "10.203.0.1", "10.203.0.2"
WORDS = [f"word{number} " for number in range(100)]
WORD_SECONDS = 0.02

# -- the machines ------------------------------------------------------------------------------------------


class NotPermittedError(Exception):
    """This user, or this system, makes no network namespaces."""


@dataclass(frozen=True, slots=True)
class Machine:
    """One network namespace; its end of the cable is called ``cable``."""

    name: str

    def ip(self, *words: str) -> None:
        """``ip`` on this machine. Raises CalledProcessError."""
        run("ip", "-n", self.name, *words)

    @contextmanager
    def entered(self) -> Iterator[None]:
        """This thread, and what it starts, is on this machine."""
        before = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
        try:
            inside = os.open(f"/run/netns/{self.name}", os.O_RDONLY)
            try:
                set_namespace(inside)
            finally:
                os.close(inside)
            try:
                yield
            finally:
                set_namespace(before)
        finally:
            os.close(before)


@contextmanager
def two_machines() -> Iterator[tuple[Machine, Machine]]:
    """The one at NEAR and the one at FAR; they reach each other, and nobody else. Raises NotPermittedError."""
    machines = near, far = Machine(f"gateway-near-{os.getpid()}"), Machine(f"gateway-far-{os.getpid()}")
    made: list[Machine] = []
    try:
        try:
            remove_orphans()
            for each in machines:
                run("ip", "netns", "add", each.name)
                made.append(each)
            near.ip("link", "add", "cable", "type", "veth", "peer", "name", "cable", "netns", far.name)
            with near.entered():
                pass
        except (OSError, subprocess.CalledProcessError) as error:
            raise NotPermittedError(getattr(error, "stderr", "") or str(error)) from error
        for machine, address in ((near, NEAR), (far, FAR)):
            machine.ip("address", "add", f"{address}/30", "dev", "cable")
            machine.ip("link", "set", "cable", "up")
            machine.ip("link", "set", "lo", "up")
        yield near, far
    finally:
        for each in made:
            run("ip", "netns", "delete", each.name)


def remove_orphans() -> None:
    """The machines of test runs that were killed."""
    for place in Path("/run/netns").glob("gateway-*-*"):
        if not Path(f"/proc/{place.name.rpartition('-')[2]}").exists():
            run("ip", "netns", "delete", place.name)


def run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True, text=True, timeout=WAIT_SECONDS)


def set_namespace(descriptor: int) -> None:
    """``os.setns``, which Python has from 3.12 on."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.setns(descriptor, 0):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


# -- the upstream ------------------------------------------------------------------------------------------


async def never(connection: Connection) -> None:
    """No headers, ever."""
    say_so()
    await connection.gone.wait()


def held(wire: str) -> Answer:
    """It begins, and goes no further."""

    async def answer(connection: Connection) -> None:
        await connection.start()
        await connection.chunk(b"".join(beginning(wire, "Hel")))
        say_so()
        await connection.gone.wait()

    return answer


def words(wire: str) -> Answer:
    """All WORDS, one after the other."""
    begun = beginning(wire, WORDS[0])
    rest = whole(wire, *WORDS)[len(begun) :]

    async def answer(connection: Connection) -> None:
        await connection.start()
        await connection.chunk(b"".join(begun))
        say_so()
        for event in rest:
            await asyncio.sleep(WORD_SECONDS)
            await connection.chunk(event)
        await connection.end("whole")

    return answer


def fine(wire: str) -> Answer:
    """A whole answer in one write: when its client has it, the gateway has its connection back in the pool."""
    return reply(200, EVENT_STREAM, b"".join(whole(wire, "Fine")))


@cache
def barrier(model: str) -> asyncio.Barrier:
    return asyncio.Barrier(int(model.split("-")[1]))


async def together(connection: Connection) -> None:
    """``together-8``: when eight of them are here, each on its connection, all are answered."""
    assert connection.visit is not None
    await barrier(connection.visit.json["model"]).wait()
    await fine("chat")(connection)


ANSWERS = {
    "whole": answer_by_path(fine("chat"), fine("anthropic")),
    "held": answer_by_path(held("chat"), held("anthropic")),
    "words": answer_by_path(words("chat"), words("anthropic")),
    "never": never,
    "together": together,
}
"""By the model's name, up to the first hyphen: what follows it makes another target of it."""


def say_so() -> None:
    """Tells the test that one more request has come so far."""
    print("here", flush=True)


class NamedAnswers(FaultyUpstream):
    """Its models are ANSWERS."""

    def script_for(self, visit: Visit) -> Script:
        name = visit.json["model"]
        return Script(name, ANSWERS[name.partition("-")[0]])


def main() -> None:
    """What the process does."""
    asyncio.run(serve(sys.argv[1], int(sys.argv[2])))


async def serve(host: str, port: int) -> None:
    upstream = NamedAnswers()
    server = await asyncio.get_running_loop().create_server(lambda: Connection(upstream), host, port)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


class UpstreamProcess:
    """It can be killed, and started again on the same port. Leaving kills it."""

    def __init__(self, host: str = "127.0.0.1") -> None:
        self._host = host
        self._port = 0
        self._process: subprocess.Popen[str] | None = None

    @property
    def url(self) -> str:
        return f"http://{self._host}:{self._port}"

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self.kill()

    def start(self) -> None:
        """It listens when this returns."""
        assert self._process is None
        program = "from tests.faults.namespaces import main; main()"
        self._process = subprocess.Popen(
            [sys.executable, "-c", program, self._host, str(self._port)],
            cwd=REPOSITORY,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._port = int(self._line())

    def kill(self) -> None:
        """SIGKILL; it is gone when this returns."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait(WAIT_SECONDS)
            assert process.stdout is not None
            process.stdout.close()

    @property
    def alive(self) -> bool:
        return self._process is not None

    async def wait_for(self, count: int) -> None:
        """Until so many requests more have come as far as their answers go (those of ``whole`` do not count)."""
        for _ in range(count):
            await asyncio.to_thread(self._line)

    def _line(self) -> str:
        assert self._process is not None
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line, "the upstream has ended"
        return line.strip()
