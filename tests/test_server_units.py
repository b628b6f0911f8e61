"""Small parts of the server, one by one: the log's formatter, the probe, TLS, a client's stream."""

from __future__ import annotations

import asyncio
import logging
import os
import ssl
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from email.utils import parsedate_to_datetime
from pathlib import Path

import pytest
from aiohttp import ClientSession, web
from aiohttp.test_utils import TestServer
from yarl import URL

from gateway.config import loads
from gateway.routing import Endpoint, Provider
from gateway.server import logs, standalone
from gateway.server.client_stream import ClientStream
from gateway.server.probe import unreachable
from gateway.server.tls import tls_context
from gateway.translate.writer import PING

ROOT = Path(__file__).resolve().parents[1]
NEVER = 3600.0
SECONDS = 10.0
"""After which a test is given up that waits for what never comes."""

# -- logs ------------------------------------------------------------------------------------------------


def line(message: str, *arguments: object, secrets: tuple[str, ...] = (), failure: BaseException | None = None) -> str:
    """What stands in the log for one record, after the time and the level."""
    info = (type(failure), failure, None) if failure else None
    record = logging.LogRecord("gateway", logging.INFO, "x.py", 1, message, arguments, info)
    return logs.SafeFormatter(lambda: secrets).format(record).partition(" INFO ")[2]


@pytest.mark.parametrize(
    ("message", "logged"),
    [
        ("plain é \U0001f600", "plain é \U0001f600"),
        ("a\n2026-11-22 10:00:00,000 ERROR forged", r"a\n2026-11-22 10:00:00,000 ERROR forged"),
        ("a\r\nb", r"a\r\nb"),
        ("\x1b[2J\x07\x00", r"\x1b[2J\x07\x00"),
        ("a\u2028b\u2029c\x85d", r"a\u2028b\u2029c\x85d"),
        ("\u202egpj.exe", r"\u202egpj.exe"),
        ("half \ud83d", r"half \ud83d"),
    ],
)
def test_nothing_forges_a_line(message: str, logged: str) -> None:
    assert line("%s", message) == logged
    assert line(message) == logged


def test_secrets_stay_inside() -> None:
    for secrets in (("sk-1", "sk-1-long"), ("sk-1-long", "sk-1")):
        logged = line("sk-1 sk-1-long %s %r", "x=sk-1-long;", {"key": "sk-1"}, secrets=secrets)
        assert logged == "[secret] [secret] x=[secret]; {'key': '[secret]'}"


def test_a_traceback_holds_no_secret_either() -> None:
    logged = line("failed", secrets=("sk-1-long",), failure=ValueError("no: sk-1-long"))
    assert logged == "failed\nValueError: no: [secret]"


def test_the_secrets_in_force_are_asked_each_time() -> None:
    secrets: list[str] = []
    formatter = logs.SafeFormatter(lambda: secrets)
    record = logging.LogRecord("gateway", logging.INFO, "x.py", 1, "new-key", (), None)
    assert formatter.format(record).endswith("new-key")
    secrets.append("new-key")
    assert formatter.format(record).endswith("[secret]")


@pytest.fixture
def logging_restored() -> Iterator[None]:
    root = logging.getLogger()
    before = (root.level, list(root.handlers), logging.raiseExceptions)
    yield
    root.setLevel(before[0])
    root.handlers[:] = before[1]
    logging.raiseExceptions = before[2]


class BrokenPipe:
    """A stderr whose reader is gone."""

    def write(self, text: str) -> int:
        raise BrokenPipeError

    flush = write


@pytest.mark.usefixtures("logging_restored")
def test_a_broken_stderr_stops_nothing(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    with monkeypatch.context() as broken:
        broken.setattr(sys, "stderr", BrokenPipe())
        logs.set_up("debug", lambda: ())
    logging.getLogger("gateway").error("nobody hears this")
    assert capsys.readouterr().err == "", "nor is there a traceback for each line"


@pytest.mark.usefixtures("logging_restored")
@pytest.mark.parametrize(("level", "heard"), [("debug", 4), ("info", 3), ("warning", 2), ("error", 1)])
def test_levels(level: str, heard: int, capsys: pytest.CaptureFixture[str]) -> None:
    logs.set_up(level, lambda: ("sk-1",))
    for name in ("debug", "info", "warning", "error"):
        getattr(logging.getLogger("gateway"), name)("sk-1")
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == heard
    assert all(entry.endswith(" [secret]") for entry in lines)


# -- probe -----------------------------------------------------------------------------------------------


def provider(name: str, base_url: str, missing_key: str | None = None) -> Provider:
    return Provider(name, "openai-chat", base_url, missing_key=missing_key)


async def test_who_can_be_reached(closed_port: int) -> None:
    heard: list[bytes] = []
    ended = asyncio.Event()

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heard.append(await reader.read())
        writer.close()
        ended.set()

    server = await asyncio.start_server(connected, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with server:
        found = await unreachable(
            [
                provider("up", f"http://127.0.0.1:{port}/v1"),
                provider("down", f"http://127.0.0.1:{closed_port}/v1"),
                provider("keyless", f"http://127.0.0.1:{closed_port}", "SOME_KEY"),
                provider("embedded", ""),
            ]
        )
        await ended.wait()
    assert found == {"down"}
    assert heard == [b""], "a probe sends nothing"


async def test_a_provider_with_several_addresses_is_reached_by_any(closed_port: int) -> None:
    server = await asyncio.start_server(lambda _, writer: writer.close(), "127.0.0.1", 0)
    up, down = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", f"http://127.0.0.1:{closed_port}"

    def several(name: str, *urls: str) -> Provider:
        endpoints = tuple(Endpoint(str(number), url) for number, url in enumerate(urls))
        return replace(provider(name, urls[0]), endpoints=endpoints)

    async with server:
        asked = [several("one is", down, up), several("none is", down, f"{down}/v1"), several("both are", up, up)]
        assert await unreachable(asked) == {"none is"}


@pytest.mark.parametrize(("second", "made"), [("https://b", True), ("http://b", False)])
async def test_tls_is_made_ready_for_any_address(second: str, made: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    async def refused(*_: object) -> None:
        raise ConnectionRefusedError

    asked: list[bool] = []
    monkeypatch.setattr("asyncio.open_connection", refused)
    monkeypatch.setattr(standalone, "tls_context", lambda: asked.append(True))
    lab = f"{{api: openai-chat, endpoints: [{{base_url: 'http://a'}}, {{base_url: '{second}'}}]}}"
    config = loads(f"providers: {{lab: {lab}}}\nmodels: {{m: lab/m}}".encode(), "f", {})
    await standalone.probe(config, 1, lambda port, names: None)
    assert asked == [True] * made


@pytest.mark.parametrize("host", ["a" * 70 + ".invalid", "a..invalid", ".", "\u00df" * 70])
async def test_a_host_that_no_resolver_takes_is_unreachable(host: str) -> None:
    assert await unreachable([provider("odd", f"http://{host}:1/v1")]) == {"odd"}


async def test_an_address_that_never_answers_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    async def never(*_: object) -> None:
        await asyncio.Event().wait()

    monkeypatch.setattr("asyncio.open_connection", never)
    monkeypatch.setattr("gateway.server.probe.PROBE_SECONDS", 0.01)
    assert await unreachable([provider("silent", "http://192.0.2.1")]) == {"silent"}


async def test_the_port_follows_the_scheme(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    async def refused(host: str, port: int) -> None:
        asked.append((host, port))
        raise ConnectionRefusedError

    monkeypatch.setattr("asyncio.open_connection", refused)
    urls = ["http://h/v1", "https://h/v1", "https://h:8443", "http://[::1]:11434"]
    await unreachable([provider(url, url) for url in urls])
    assert asked == [("h", 80), ("h", 443), ("h", 8443), ("::1", 11434)]


# -- TLS -------------------------------------------------------------------------------------------------


def test_upstreams_are_verified() -> None:
    context = tls_context()
    assert context is tls_context(), "made once"
    assert context.check_hostname
    assert context.verify_mode is ssl.CERT_REQUIRED
    assert context.minimum_version >= ssl.TLSVersion.TLSv1_2


IMPORTED = """
import os, sys
before = dict(os.environ)
import gateway.server
from gateway.server.tls import tls_context
import aiohttp.connector
assert dict(os.environ) == before, "the environment is as it was"
import mimetypes
assert not mimetypes.inited and mimetypes.guess_type("a.png")[0] == "image/png", "whoever asks gets the whole table"
for context in (aiohttp.connector._SSL_CONTEXT_VERIFIED, aiohttp.connector._SSL_CONTEXT_UNVERIFIED):
    assert context.cert_store_stats()["x509"] == 0, "aiohttp's own contexts trust nobody"
print(tls_context().cert_store_stats()["x509"])
"""


@pytest.mark.parametrize("own", [False, True], ids=["the system's store", "SSL_CERT_FILE"])
def test_the_store_is_read_for_our_context_only(own: bool, tmp_path: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if name not in ("SSL_CERT_FILE", "SSL_CERT_DIR")}
    if own:
        (tmp_path / "ca.pem").write_text(CERTIFICATE)
        environment |= {"SSL_CERT_FILE": str(tmp_path / "ca.pem"), "SSL_CERT_DIR": str(tmp_path / "none")}
    ran = subprocess.run([sys.executable, "-c", IMPORTED], cwd=ROOT, env=environment, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    if own:
        assert ran.stdout.split() == ["1"], "an authority of one's own is trusted, and no other"


CERTIFICATE = """\
-----BEGIN CERTIFICATE-----
MIIBhDCCASugAwIBAgIUNh+AicT2mSF66cDFFmNCOKu3SkIwCgYIKoZIzj0EAwIw
FzEVMBMGA1UEAwwMZ2F0ZXdheSB0ZXN0MCAXDTI2MTEyMjAxMjM0MVoYDzIxMjYx
MDI5MDEyMzQxWjAXMRUwEwYDVQQDDAxnYXRld2F5IHRlc3QwWTATBgcqhkjOPQIB
BggqhkjOPQMBBwNCAARMVdvGP1OvO2CeRyLSmxRzzOURy6rm4YoP0J9V+baGv6OE
TN3IDKicry55mHIA0VircEW1LUzfvkA6qwGtsLXBo1MwUTAdBgNVHQ4EFgQUgksv
Vtu2hgBeg+ikAegx2hNmrMgwHwYDVR0jBBgwFoAUgksvVtu2hgBeg+ikAegx2hNm
rMgwDwYDVR0TAQH/BAUwAwEB/zAKBggqhkjOPQQDAgNHADBEAiBJGsKz9dDeXkK0
ClapYX65+aCiMhw+dGU8P7AA1GKM/gIgbUvwjrEXJ12TKg28E9r2zk06IFg1dj8y
AQwt++s0Uq0=
-----END CERTIFICATE-----
"""


# -- a client's stream -----------------------------------------------------------------------------------

Handler = Callable[[ClientStream], Awaitable[None]]
EVENT = b"event: a\n\n"


@asynccontextmanager
async def served(answer: Handler, ping_interval: float = NEVER) -> AsyncIterator[str]:
    """The address of a server whose answers ``answer`` writes."""

    async def handle(request: web.Request) -> web.StreamResponse:
        stream = ClientStream(request, {"request-id": "req_1"}, ping_interval)
        try:
            await answer(stream)
            return await stream.finish()
        finally:
            stream.stop()

    application = web.Application()
    application.router.add_get("/", handle)
    server = TestServer(application)
    await server.start_server()
    try:
        async with asyncio.timeout(SECONDS):
            yield str(server.make_url("/"))
    finally:
        await server.close()


@pytest.mark.parametrize("ends", [False, True], ids=["ended by finish", "ended by the last events"])
async def test_what_is_written_arrives_in_order_with_the_headers_of_a_stream(ends: bool) -> None:
    async def answer(stream: ClientStream) -> None:
        assert not stream.begun
        stream.headers = {**stream.headers, "x-late": "yes"}
        assert stream.write(EVENT)
        assert stream.begun
        assert stream.write(b"event: b\n\n")
        assert stream.write(b"event: c\n\n", last=ends)

    async with served(answer) as url, ClientSession() as session:
        for _ in range(2):
            async with session.get(url) as response:
                assert await response.read() == EVENT + b"event: b\n\nevent: c\n\n"
                assert response.status == 200
                assert response.headers["content-type"] == "text/event-stream; charset=utf-8"
                assert response.headers["cache-control"] == "no-cache"
                assert response.headers["x-accel-buffering"] == "no"
                assert response.headers["request-id"] == "req_1"
                assert response.headers["x-late"] == "yes"
                assert response.headers["server"] == "messages-gateway"
                assert parsedate_to_datetime(response.headers["date"]).tzinfo is not None
                assert "connection" not in response.headers


@pytest.mark.parametrize("ends", [False, True], ids=["ended by finish", "ended by the last events"])
async def test_a_client_of_http_1_0_gets_no_chunks(ends: bool) -> None:
    async def answer(stream: ClientStream) -> None:
        stream.write(EVENT)
        stream.write(b"event: b\n\n", last=ends)

    async with served(answer) as url:
        reader, writer = await asyncio.open_connection("127.0.0.1", URL(url).port)
        writer.write(b"GET / HTTP/1.0\r\n\r\n")
        head, _, body = (await reader.read()).partition(b"\r\n\r\n")
        writer.close()
    assert b"chunked" not in head
    assert body == EVENT + b"event: b\n\n"


async def test_each_event_leaves_at_once() -> None:
    """Without the handler: nobody awaits anything between them."""
    streams: asyncio.Queue[ClientStream] = asyncio.Queue()
    over = asyncio.Event()

    async def answer(stream: ClientStream) -> None:
        stream.write(EVENT)
        streams.put_nowait(stream)
        await over.wait()

    async with served(answer) as url, ClientSession() as session, session.get(url) as response:
        stream = await streams.get()
        assert await response.content.readexactly(len(EVENT)) == EVENT
        for _ in range(5):
            stream.write(EVENT)
            assert await response.content.readexactly(len(EVENT)) == EVENT
        over.set()
        assert await response.read() == b""


@pytest.mark.parametrize("wrote", [False, True])
async def test_what_was_not_started_is_sent_by_the_end(wrote: bool) -> None:
    async def answer(stream: ClientStream) -> None:
        if wrote:
            stream.write(EVENT)

    async with served(answer) as url, ClientSession() as session, session.get(url) as response:
        assert response.status == 200
        assert response.headers["content-type"].startswith("text/event-stream")
        assert await response.read() == (EVENT if wrote else b"")


async def test_before_the_first_content_a_failure_has_its_own_status() -> None:
    async def answer(stream: ClientStream) -> None:
        raise web.HTTPBadGateway

    async with served(answer) as url, ClientSession() as session, session.get(url) as response:
        assert response.status == 502


async def test_silence_is_filled_with_pings() -> None:
    heard = asyncio.Event()

    async def answer(stream: ClientStream) -> None:
        await heard.wait()
        assert stream.begun, "a ping sends the status line"
        stream.write(EVENT)

    async with served(answer, 0.01) as url, ClientSession() as session, session.get(url) as response:
        assert response.status == 200
        for _ in range(3):
            assert await response.content.readexactly(len(PING)) == PING
        heard.set()
        rest = await response.read()
    pings, _, after = rest.partition(EVENT)
    assert set(pings.split(PING)) == {b""}
    assert set(after.split(PING)) == {b""}


async def test_no_ping_comes_after_the_end() -> None:
    streams: list[ClientStream] = []

    async def answer(stream: ClientStream) -> None:
        streams.append(stream)
        stream.write(EVENT)

    async with served(answer, 0.01) as url, ClientSession() as session:
        for _ in range(20):
            async with session.get(url) as response:
                body = await response.read()
                assert set(body.removeprefix(EVENT).split(PING)) == {b""}
    assert all(stream._timer is None for stream in streams)


async def test_a_client_that_left_ends_the_handler() -> None:
    """While it waits for anything at all."""
    told: asyncio.Future[type[BaseException]] = asyncio.get_running_loop().create_future()

    async def answer(stream: ClientStream) -> None:
        stream.write(EVENT)
        try:
            await asyncio.Event().wait()
        except BaseException as error:
            told.set_result(type(error))
            raise

    async with served(answer) as url:
        async with ClientSession() as session:
            response = await session.get(url)
            await response.content.readany()
            response.close()
        assert issubclass(await told, asyncio.CancelledError)


async def test_a_client_that_left_is_a_connection_error_at_the_end() -> None:
    """For a handler that nobody cancelled; what it wrote meanwhile is gone, and is no failure."""
    left = asyncio.Event()
    told: asyncio.Future[type[BaseException]] = asyncio.get_running_loop().create_future()

    async def answer(stream: ClientStream) -> None:
        stream.write(EVENT)
        transport = stream._request.transport
        assert transport is not None
        left.set()
        while not transport.is_closing():  # noqa: ASYNC110
            await asyncio.sleep(0)
        for _ in range(1000):
            assert stream.write(EVENT * 1000), "who is gone needs no waiting for"
        try:
            await stream.finish()
        except ConnectionError as error:
            told.set_result(type(error))

    async with served(lambda stream: asyncio.shield(asyncio.ensure_future(answer(stream)))) as url:
        async with ClientSession() as session:
            response = await session.get(url)
            await response.content.readany()
            await left.wait()
            response.close()
        assert issubclass(await told, ConnectionError)


async def test_a_client_that_does_not_read_is_told_of_once_and_again_when_there_is_room() -> None:
    """``write`` says False, and ``on_room`` is called when the client has read on."""
    full, room = asyncio.Event(), asyncio.Event()
    wrote = 0

    async def answer(stream: ClientStream) -> None:
        nonlocal wrote
        stream.write(EVENT)
        stream.on_room = room.set
        taken = True
        while taken:
            taken = stream.write(EVENT * 1000)
            wrote += 1
            assert wrote < 100_000
        assert not room.is_set()
        full.set()
        await room.wait()
        assert stream.write(EVENT), "there is room"

    async with served(answer) as url:
        reader, writer = await asyncio.open_connection("127.0.0.1", URL(url).port)
        writer.write(b"GET / HTTP/1.0\r\n\r\n")
        await full.wait()
        assert not room.is_set()
        _, _, body = (await reader.read()).partition(b"\r\n\r\n")
        writer.close()
    assert body == EVENT * (1000 * wrote + 2)


async def test_who_does_not_read_gets_no_pings() -> None:
    full, over = asyncio.Event(), asyncio.Event()
    wrote = 0

    async def answer(stream: ClientStream) -> None:
        nonlocal wrote
        stream.write(EVENT)
        while stream.write(EVENT * 1000):
            wrote += 1
        full.set()
        await over.wait()

    async with served(answer, 0.01) as url:
        loop = asyncio.get_running_loop()
        reader, writer = await asyncio.open_connection("127.0.0.1", URL(url).port)
        writer.write(b"GET / HTTP/1.0\r\n\r\n")
        await full.wait()
        loop.call_later(0.05, over.set)
        await over.wait()
        _, _, body = (await reader.read()).partition(b"\r\n\r\n")
        writer.close()
    assert body == EVENT * (1000 * (wrote + 1) + 1)
