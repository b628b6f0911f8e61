"""The gateway as its users meet it: a process of its own, spoken to over a socket."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import orjson
from aiohttp import ClientSession, ClientTimeout, web

from gateway.config import loads
from gateway.server.app import build_app
from gateway.server.http_edge import HANDLER_OPTIONS
from gateway.server.run import direct_upstream
from gateway.server.state import GatewayState
from gateway.server.upstream import new_session
from tests.grammar import Reading, check_stream

REPOSITORY = Path(__file__).resolve().parents[2]
STOP_SECONDS = 20
PATIENCE = ClientTimeout(total=30)
"""A test that would wait for ever fails instead."""
TOKEN = "gw-token-5d41402abc4b2a76"
KEYS = {"LAB_KEY": "sk-lab-9f86d081884c7d65", "ANT_KEY": "sk-ant-2c624232cdd221771294"}
DEAD_PROXY = dict.fromkeys(("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"), "http://127.0.0.1:1")
"""Nobody is there; a gateway that asked the environment for a proxy would reach nothing."""
SECRETS = (TOKEN, *KEYS.values())

STATUS_OF_TYPE = {
    "invalid_request_error": {400, 405, 414, 415, 417, 422, 431},
    "authentication_error": {401},
    "billing_error": {402},
    "permission_error": {403},
    "not_found_error": {404},
    "request_too_large": {413},
    "rate_limit_error": {429},
    "api_error": set(range(500, 600)) - {504, 529},
    "timeout_error": {504},
    "overloaded_error": {529},
}


@dataclass(frozen=True)
class Reply:
    """One HTTP answer of the gateway."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return orjson.loads(self.body)

    def reading(self, *, passed_through: bool = False) -> Reading:
        """The body as an event stream that is over, strictly read."""
        assert self.status == 200, self.body
        assert self.headers["content-type"].startswith("text/event-stream")
        return check_stream(self.body, passed_through=passed_through)

    def error(self, status: int | None = None, kind: str | None = None) -> str:
        """The message, after the check that this is Anthropic's envelope with that status and type."""
        assert self.headers["content-type"].partition(";")[0] == "application/json", self.body
        envelope = self.json
        assert set(envelope) == {"type", "error", "request_id"}
        assert envelope["type"] == "error"
        assert set(envelope["error"]) == {"type", "message"}
        assert envelope["request_id"] == self.headers["request-id"]
        message = envelope["error"]["message"]
        assert isinstance(message, str)
        assert message
        assert self.status in STATUS_OF_TYPE[envelope["error"]["type"]], (self.status, envelope)
        assert status is None or self.status == status, envelope
        assert kind is None or envelope["error"]["type"] == kind, envelope
        return message


@dataclass
class Gateway:
    """Where a gateway listens, and what a client must send."""

    url: str
    token: str | None = None
    process: subprocess.Popen[bytes] | None = None
    log_file: Path | None = None

    @property
    def port(self) -> int:
        return int(self.url.rpartition(":")[2])

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    def headers(self) -> dict[str, str]:
        return {"anthropic-version": "2023-06-01", **({"x-api-key": self.token} if self.token else {})}

    def log(self) -> str:
        assert self.log_file is not None
        return self.log_file.read_text()

    def resident_mib(self) -> float:
        """The memory of the process."""
        status = Path(f"/proc/{self.pid}/status")
        if status.exists():
            return int(status.read_text().partition("VmRSS:")[2].split()[0]) / 1024
        return int(subprocess.check_output(["ps", "-o", "rss=", "-p", str(self.pid)])) / 1024

    def signal(self, number: signal.Signals) -> None:
        assert self.process is not None
        self.process.send_signal(number)

    async def exit_status(self) -> int:
        """Waits for the end."""
        assert self.process is not None
        return await asyncio.to_thread(self.process.wait, STOP_SECONDS)

    async def send(self, method: str, path: str, body: Any = None, headers: Mapping[str, str] | None = None) -> Reply:
        """One request on a connection of its own; ``body`` is bytes or becomes JSON. ``headers`` replace the usual."""
        data = body if isinstance(body, bytes | None) else orjson.dumps(body)
        # A file-like body spares aiohttp's warning about large ones.
        payload = data if data is None else BytesIO(data)
        async with (
            ClientSession(auto_decompress=False, timeout=PATIENCE) as session,
            session.request(
                method, self.url + path, data=payload, headers=self.headers() if headers is None else headers
            ) as response,
        ):
            return Reply(response.status, response.headers, await response.read())

    async def ask(
        self, model: str, *, stream: bool = True, headers: Mapping[str, str] | None = None, **more: Any
    ) -> Reply:
        """One turn."""
        return await self.send("POST", "/v1/messages?beta=true", turn(model, stream=stream, **more), headers)


def turn(model: str, prompt: str = "Hello", **more: Any) -> dict[str, Any]:
    """The body of a small request."""
    return {"model": model, "max_tokens": 256, "messages": [{"role": "user", "content": prompt}], **more}


@asynccontextmanager
async def open_stream(gateway: Gateway, model: str, **more: Any) -> AsyncIterator[Any]:
    """An answer that is read bit by bit. Leaving closes the connection."""
    async with ClientSession(timeout=PATIENCE) as session:
        response = await session.post(
            f"{gateway.url}/v1/messages", json=turn(model, stream=True, **more), headers=gateway.headers()
        )
        try:
            yield response
        finally:
            response.close()


async def until(holds: Callable[[], Awaitable[object]]) -> None:
    """Asks again and again; for what only another process knows."""
    for _ in range(1000):
        if await holds():
            return
        await asyncio.sleep(0.02)
    raise AssertionError("it never came true")


async def raw(gateway: Gateway, data: bytes, *, finish: bool = False) -> list[Reply]:
    """Bytes as they are; the answers until the gateway closes the connection."""
    reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
    try:
        writer.write(data)
        if finish:
            writer.write_eof()
        async with asyncio.timeout(STOP_SECONDS):
            received = await reader.read()
    finally:
        writer.close()
    return parse_replies(received)


def parse_replies(data: bytes) -> list[Reply]:
    """The HTTP answers in ``data``, each with a content-length."""
    replies = []
    while data:
        top, found, data = data.partition(b"\r\n\r\n")
        assert found, top
        line, *lines = top.decode("latin-1").split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (entry.partition(":") for entry in lines)}
        status = int(line.split()[1])
        size = int(headers.get("content-length", "0"))
        if status >= 200:
            replies.append(Reply(status, headers, data[:size]))
        data = data[size:]
    return replies


@contextmanager
def running_gateway(
    folder: Path, config: str, *options: str, token: str | None = None, before: str = ""
) -> Iterator[Gateway]:
    """``gateway serve`` on a free port; ``config`` is the text of ``folder``/providers.yaml.

    ``before`` is Python that the process runs first: it may set the server's clocks.
    """
    file = folder / "providers.yaml"
    file.write_text(config)
    file.chmod(0o600)
    log_file = folder / "gateway.log"
    program = f"{before}\nfrom gateway.cli import main\nmain()"
    command = [sys.executable, "-c", program, "serve", "--config", str(file), "--port", "0", *options]
    with log_file.open("wb") as log:
        process = subprocess.Popen(
            command,
            cwd=REPOSITORY,
            env={**os.environ, **KEYS, **DEAD_PROXY},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=log,
        )
    assert process.stdout is not None
    try:
        words = process.stdout.readline().decode().split()
        assert "on" in words, f"the gateway did not start: {words} {log_file.read_text()}"
        yield Gateway(words[words.index("on") + 1], token, process, log_file)
    finally:
        if process.poll() is None:
            process.kill()
        process.wait(STOP_SECONDS)
        process.stdout.close()


@asynccontextmanager
async def gateway_in_process(config: str, *, ping_interval: float = 10.0) -> AsyncIterator[Gateway]:
    """The same server in the test's own loop, where its clocks can be set."""
    async with new_session() as session:
        loaded = loads(config.encode(), "providers.yaml", KEYS)
        state = GatewayState(loaded, session, direct_upstream(session), ping_interval=ping_interval)
        runner = web.AppRunner(build_app(state), handler_cancellation=True, shutdown_timeout=1.0, **HANDLER_OPTIONS)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        try:
            yield Gateway(f"http://127.0.0.1:{runner.addresses[0][1]}")
        finally:
            await runner.cleanup()
