"""An upstream in the test's own loop, plain or over TLS: the test's coroutine plays each connection, byte by byte.

Rules:
* Client and server share one loop, so that nothing is waited for by the clock.
* What a script raises, fails the test.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
import struct
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from aiohttp import ClientSession

from gateway.adapters.base import UpstreamRequest
from gateway.errors import GatewayError
from gateway.profile import Profile
from gateway.routing import Provider, Target
from gateway.server.direct_upstream import DirectUpstream
from gateway.server.upstream import UpstreamAnswer, open_session
from gateway.translate.changes import Changes

Way = Literal["direct", "session"]
"""Through direct_upstream.py, or through aiohttp's client."""
PATIENCE = 20.0
"""Seconds after which a test is given up that waits for what never comes."""
PLAIN_OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"

_REQUEST_CONFIG = """\
[req]
distinguished_name = name
x509_extensions = extensions
prompt = no
[name]
CN = gateway test
[extensions]
subjectKeyIdentifier = hash
authorityKeyIdentifier = keyid
basicConstraints = critical, CA:TRUE
keyUsage = critical, digitalSignature, keyCertSign
subjectAltName = DNS:localhost, IP:127.0.0.1, IP:::1
"""


@dataclass(frozen=True)
class Tls:
    """A certificate for localhost that is its own authority."""

    server: ssl.SSLContext
    client: ssl.SSLContext
    """Trusts it, and nothing else."""


def make_tls(folder: Path) -> Tls:
    """Asks the ``openssl`` program for a key and a certificate."""
    config, key, certificate = folder / "req.cnf", folder / "key.pem", folder / "certificate.pem"
    config.write_text(_REQUEST_CONFIG)
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"]
    command += ["-nodes", "-sha256", "-days", "2"]
    command += ["-config", str(config), "-keyout", str(key), "-out", str(certificate)]
    subprocess.run(command, check=True, capture_output=True)
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(certificate, key)
    client = ssl.create_default_context(cafile=str(certificate))
    client.set_alpn_protocols(["http/1.1"])
    return Tls(server, client)


class Peer:
    """One connection, from the server's side."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer
        self.head = b""
        self.body = b""
        self.left = asyncio.Event()
        """The client closed the connection, as far as the script's ``gone`` saw."""

    async def request(self) -> bytes:
        """Reads one request; its head and body stay here. Returns the head."""
        self.head = await self.reader.readuntil(b"\r\n\r\n")
        size = self.header("content-length")
        self.body = await self.reader.readexactly(int(size)) if size else b""
        return self.head

    def header(self, name: str) -> str | None:
        """The value of the first header of that name."""
        values = [value for other, value in self.headers() if other == name]
        return values[0] if values else None

    def headers(self) -> list[tuple[str, str]]:
        """The header fields as they came, with lower-case names."""
        lines = self.head.decode("latin-1").split("\r\n")[1:-2]
        return [(name.lower(), value.strip()) for name, _, value in (line.partition(":") for line in lines)]

    async def send(self, data: bytes, *, bytewise: bool = False) -> None:
        """Writes, and lets the other side read; ``bytewise``, after every byte."""
        for piece in (data[at : at + 1] for at in range(len(data))) if bytewise else (data,):
            self.writer.write(piece)
            await self.writer.drain()
            await asyncio.sleep(0)

    async def gone(self) -> bytes:
        """Waits until the client has closed; what it still sent. A reset is an end too."""
        rest = b""
        with suppress(ConnectionError):
            while data := await self.reader.read(1 << 16):
                rest += data
        self.left.set()
        return rest

    def close(self) -> None:
        self.writer.close()

    def reset(self) -> None:
        """Closes the hard way; to close without unread bytes would be a clean end."""
        connection = self.writer.get_extra_info("socket")
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()


Script = Callable[[Peer], Awaitable[None]]


@dataclass
class RawUpstream:
    """The server; ``url`` without a path."""

    url: str
    peers: list[Peer] = field(default_factory=list)
    """Its connections, in order."""
    failures: list[BaseException] = field(default_factory=list)
    tasks: set[asyncio.Task[None]] = field(default_factory=set)

    def request(self, body: bytes = b"{}", path: str = "/v1/x", **headers: str) -> UpstreamRequest:
        return upstream_request(self.url + path, body, headers)


@asynccontextmanager
async def raw_upstream(script: Script, tls: Tls | None = None, host: str = "127.0.0.1") -> AsyncIterator[RawUpstream]:
    """A server that plays ``script`` on each connection; a script that ends leaves its connection open."""

    async def play(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        peer = Peer(reader, writer)
        served.peers.append(peer)
        task = asyncio.current_task()
        assert task is not None
        served.tasks.add(task)
        try:
            await script(peer)
        except (ConnectionError, asyncio.IncompleteReadError):
            peer.left.set()
        except Exception as error:
            served.failures.append(error)
        finally:
            served.tasks.discard(task)

    server = await asyncio.start_server(play, host, 0, ssl=tls.server if tls else None)
    port = server.sockets[0].getsockname()[1]
    name = f"[{host}]" if ":" in host else host
    served = RawUpstream(f"{'https' if tls else 'http'}://{name}:{port}")
    try:
        async with asyncio.timeout(PATIENCE):
            yield served
    finally:
        server.close()
        for task in list(served.tasks):
            task.cancel()
        for peer in served.peers:
            peer.writer.transport.abort()
        await asyncio.sleep(0)
    assert not served.failures, served.failures


class Collected:
    """Takes an answer, and keeps it."""

    def __init__(self) -> None:
        self.pieces: list[bytes] = []
        self.failure: GatewayError | None = None
        self.over: asyncio.Event = asyncio.Event()
        self.fed: asyncio.Event = asyncio.Event()
        """Something came since the last ``clear``."""
        self.on_feed: Callable[[], None] | None = None

    @property
    def body(self) -> bytes:
        return b"".join(self.pieces)

    def feed(self, data: bytes) -> None:
        assert not self.over.is_set(), "bytes after the end"
        assert data, "no bytes at all"
        self.pieces.append(data)
        self.fed.set()
        if self.on_feed is not None:
            self.on_feed()

    def end(self) -> None:
        assert not self.over.is_set(), "a second end"
        self.over.set()

    def fail(self, error: GatewayError) -> None:
        assert not self.over.is_set(), "a failure after the end"
        self.failure = error
        self.over.set()


def target(**profile: float | None) -> Target:
    """A target of the provider ``far``."""
    return Target(Provider("far", "openai-chat", ""), "m", Profile(**profile))  # type: ignore[arg-type]


def upstream_request(url: str, body: bytes = b"{}", headers: Mapping[str, str] | None = None) -> UpstreamRequest:
    return UpstreamRequest(url, dict(headers or {}), body, Changes())


async def opened(way: Way, session: ClientSession, request: UpstreamRequest, to: Target) -> UpstreamAnswer:
    """The answer, one way or the other."""
    if way == "direct":
        return await DirectUpstream(session).open(request, to)
    return await open_session(session, request, to)


@dataclass(frozen=True)
class Outcome:
    """All that a way to an upstream says about one answer."""

    status: int = 0
    headers: tuple[tuple[str, str], ...] = ()
    body: bytes = b""
    error: tuple[type[GatewayError], str] | None = None


def told(error: GatewayError) -> tuple[type[GatewayError], str]:
    return type(error), error.message


async def outcome(
    way: Way,
    session: ClientSession,
    request: UpstreamRequest,
    to: Target,
    on_head: Callable[[], None] = lambda: None,
    on_body: Callable[[], None] = lambda: None,
) -> Outcome:
    """Asks, and reads to the end; ``on_head`` is called once the headers are there, ``on_body`` with each read."""
    try:
        answer = await opened(way, session, request, to)
    except GatewayError as error:
        return Outcome(error=told(error))
    finally:
        on_head()
    collected = Collected()
    collected.on_feed = on_body
    answer.attach(collected)
    await collected.over.wait()
    if collected.failure is None:
        answer.finish()
    else:
        answer.close()
    failure = told(collected.failure) if collected.failure else None
    return Outcome(answer.status, tuple(answer.headers.items()), collected.body, failure)
