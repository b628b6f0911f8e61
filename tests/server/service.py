"""Gateways as an operating system runs them: on a given port, with sockets handed over, with somebody to notify."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import orjson
from aiohttp import ClientError

from tests.server.gateway_process import DEAD_PROXY, KEYS, REPOSITORY, STOP_SECONDS, Gateway, turn

ECHO = "providers: {echo: {}}\nmodels: {sonnet: echo/one}\n"
NOT_OURS = ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID", "LISTEN_FDS", "LISTEN_PID", "GATEWAY_ENV_FILE")


@contextmanager
def service(
    folder: Path,
    *options: str,
    config: str | None = ECHO,
    env: Mapping[str, str] | None = None,
    sockets: tuple[socket.socket, ...] = (),
    before: str = "",
) -> Iterator[Gateway]:
    """``gateway serve``; its port is free unless ``options`` name one. ``config`` None: the file is there already.

    ``sockets`` are handed over as systemd does it; ``before`` is Python that the process runs first.
    """
    file = folder / "providers.yaml"
    if config is not None:
        file.write_text(config)
        file.chmod(0o600)
    handed_over = [f"os.dup2({each.fileno()}, {number}, True)" for number, each in enumerate(sockets, 3)]
    if sockets:
        handed_over.append(f"os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS='{len(sockets)}')")
    program = "\n".join(["import os", *handed_over, before, "from gateway.cli import main", "main()"])
    command = [sys.executable, "-c", program, "serve", "--config", str(file), "--port", "0", *options]
    log_file = folder / f"gateway-{len(list(folder.iterdir()))}.log"
    inherited = {name: value for name, value in os.environ.items() if name not in NOT_OURS}
    with log_file.open("wb") as log:
        process = subprocess.Popen(
            command,
            cwd=REPOSITORY,
            env={**inherited, **KEYS, **DEAD_PROXY, **(env or {})},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=log,
            pass_fds=[each.fileno() for each in sockets],
        )
    assert process.stdout is not None
    try:
        words = process.stdout.readline().decode().split()
        assert "on" in words, f"the gateway did not start: {words} {log_file.read_text()}"
        yield Gateway(words[words.index("on") + 1], None, process, log_file)
    finally:
        if process.poll() is None:
            process.kill()
        process.wait(STOP_SECONDS)
        process.stdout.close()


async def ask_often(gateway: Gateway, count: int, at_once: int, middle: asyncio.Event | None = None) -> Counter[str]:
    """``count`` turns, each on a connection of its own: how often which target answered, or what went wrong.

    ``middle`` is set when a fifth of them is done.
    """
    seen: Counter[str] = Counter()
    left = iter(range(count))

    async def client() -> None:
        for _ in left:
            try:
                reply = await gateway.ask("sonnet", stream=False)
                answer = reply.headers.get("x-gateway-target", f"status {reply.status}: {reply.body[:200]!r}")
            except (OSError, ClientError) as error:
                answer = repr(error)
            seen[answer] += 1
            if middle is not None and seen.total() * 5 >= count:
                middle.set()

    async with asyncio.TaskGroup() as group:
        for _ in range(at_once):
            group.create_task(client())
    return seen


async def say(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, model: str = "sonnet", token: str = ""
) -> tuple[int, dict[str, str]]:
    """One turn on an open connection: status and headers of the answer, which is read to its end."""
    body = orjson.dumps(turn(model))
    head = f"POST /v1/messages HTTP/1.1\r\nhost: localhost\r\nx-api-key: {token}\r\ncontent-length: {len(body)}\r\n\r\n"
    writer.write(head.encode() + body)
    top = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in top[1:] if line)}
    await reader.readexactly(int(headers["content-length"]))
    return int(top[0].split()[1]), headers
