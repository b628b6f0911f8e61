"""TLS to clients: what is spoken, who is let in, files that change while it serves, and mistakes in them."""

from __future__ import annotations

import asyncio
import logging
import os
import shutil
import socket
import ssl
import subprocess
import warnings
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from aiohttp import ClientSession, web

from gateway.config import loads
from gateway.config.settings import TlsSettings
from gateway.server import server_tls
from gateway.server.accepting import Acceptor
from gateway.server.app import build_app
from gateway.server.http_edge import HANDLER_OPTIONS, EnvelopeRequestHandler
from gateway.server.server_tls import ServerTls, TlsError, load
from gateway.server.state import GatewayState
from gateway.server.upstream import new_session
from tests.grammar import check_stream, joined
from tests.server.gateway_process import PATIENCE, turn, until
from tests.server.raw_upstream import make_tls
from tests.server.service import ECHO

BOTH_LOOPS = pytest.mark.asyncio(loop_factories=["asyncio", "uvloop"])
KINDS = ("CERTIFICATE", "PRIVATE KEY")
HELLO = b"GET /healthz HTTP/1.1\r\nhost: localhost\r\n\r\n"


@dataclass(frozen=True)
class Pair:
    """A certificate for localhost that is its own authority, and its key."""

    certificate: Path
    key: Path

    @property
    def der(self) -> bytes:
        return ssl.PEM_cert_to_DER_cert(self.certificate.read_text())

    def put(self, folder: Path) -> TlsSettings:
        """Copies both to the files that ``folder``'s gateway reads."""
        for name, file in (("certificate.pem", self.certificate), ("key.pem", self.key)):
            shutil.copy(file, folder / "new")
            os.replace(folder / "new", folder / name)
        return TlsSettings(str(folder / "certificate.pem"), str(folder / "key.pem"))


@pytest.fixture(scope="session")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> list[Pair]:
    made = []
    for _ in range(3):
        folder = tmp_path_factory.mktemp("pair")
        make_tls(folder)
        made.append(Pair(folder / "certificate.pem", folder / "key.pem"))
    return made


def client_of(*trusted: Pair, own: Pair | None = None, ciphers: str | None = None) -> ssl.SSLContext:
    """A client's context; ``ciphers`` are of TLS 1.2, and then it speaks nothing newer."""
    context = ssl.create_default_context()
    for each in trusted:
        context.load_verify_locations(each.certificate)
    if own is not None:
        context.load_cert_chain(own.certificate, own.key)
    if ciphers is not None:
        context.maximum_version = ssl.TLSVersion.TLSv1_2
        context.set_ciphers(ciphers)
    return context


@asynccontextmanager
async def served(tls: ServerTls) -> AsyncIterator[int]:
    """The gateway behind ``tls``, as run.py listens; the port. A failed handshake is nothing to report."""
    loop = asyncio.get_running_loop()
    reported: list[dict[str, Any]] = []
    loop.set_exception_handler(lambda _, context: reported.append(context))
    async with new_session() as session:
        state = GatewayState(loads(ECHO.encode(), "providers.yaml", {}), session)
        runner = web.AppRunner(build_app(state), handler_cancellation=True, shutdown_timeout=1.0, **HANDLER_OPTIONS)
        await runner.setup()
        server = runner.server
        listening = socket.create_server(("127.0.0.1", 0))
        acceptor = Acceptor(
            [listening],
            lambda: EnvelopeRequestHandler(server, loop=loop, **HANDLER_OPTIONS),  # type: ignore[arg-type]
            tls.connection_options(),
        )
        await acceptor.open()
        try:
            yield listening.getsockname()[1]
        finally:
            acceptor.close()
            await runner.cleanup()
    assert not reported


@asynccontextmanager
async def connected(
    port: int, context: ssl.SSLContext
) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context, server_hostname="localhost")
    try:
        yield reader, writer
    finally:
        writer.close()
        with suppress(OSError):
            await writer.wait_closed()


async def answered(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bytes:
    """The certificate of the other side, once it has answered a request."""
    writer.write(HELLO)
    head = await reader.readuntil(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 ")
    await reader.readexactly(int(head.lower().partition(b"content-length: ")[2].split(b"\r")[0]))
    certificate: bytes = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
    return certificate


async def certificate_at(port: int, context: ssl.SSLContext) -> bytes:
    async with asyncio.timeout(20), connected(port, context) as (reader, writer):
        return await answered(reader, writer)


async def refused(port: int, context: ssl.SSLContext) -> None:
    """No answer comes; in TLS 1.3 a client only learns that it was refused when it reads."""
    with pytest.raises((OSError, asyncio.IncompleteReadError)):
        await certificate_at(port, context)


# -- what is spoken ----------------------------------------------------------------------------------------


@BOTH_LOOPS
async def test_a_turn_over_tls(pairs: list[Pair], tmp_path: Path) -> None:
    tls = ServerTls(pairs[0].put(tmp_path))
    async with served(tls) as port, ClientSession(timeout=PATIENCE) as client:
        body = turn("sonnet", "a word " * 2_000, stream=True, max_tokens=10_000)
        url = f"https://localhost:{port}/v1/messages"
        async with client.post(url, json=body, ssl=client_of(pairs[0])) as answer:
            assert answer.status == 200
            told = check_stream(await answer.read())
    assert joined(told, "text").count("a word") == 2_000


async def test_only_modern_tls_is_spoken(pairs: list[Pair], tmp_path: Path) -> None:
    good = client_of(pairs[0], ciphers="ECDHE-ECDSA-AES128-GCM-SHA256")
    cbc = client_of(pairs[0], ciphers="ECDHE-ECDSA-AES128-SHA256")
    old = client_of(pairs[0], ciphers="DEFAULT@SECLEVEL=0")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        old.minimum_version = ssl.TLSVersion.TLSv1
        old.maximum_version = ssl.TLSVersion.TLSv1_1
    async with served(ServerTls(pairs[0].put(tmp_path))) as port:
        assert await certificate_at(port, good) == pairs[0].der
        async with connected(port, client_of(pairs[0])) as (_, writer):
            assert writer.get_extra_info("ssl_object").version() == "TLSv1.3"
        await refused(port, cbc)
        await refused(port, old)


@BOTH_LOOPS
async def test_who_speaks_no_tls_is_cut(
    pairs: list[Pair], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server_tls, "HANDSHAKE_SECONDS", 0.2)
    async with served(ServerTls(pairs[0].put(tmp_path))) as port, asyncio.timeout(20):
        for first in (HELLO, b"\x16\x03\x01", b""):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(first)
            with suppress(ConnectionError):
                assert b"HTTP" not in await reader.read()
            writer.close()
        assert await certificate_at(port, client_of(pairs[0])) == pairs[0].der


@BOTH_LOOPS
async def test_a_crowd_of_strangers_keeps_nobody_out_and_is_no_error(pairs: list[Pair], tmp_path: Path) -> None:
    async with served(ServerTls(pairs[0].put(tmp_path))) as port, asyncio.timeout(20):
        strangers = [socket.create_connection(("127.0.0.1", port), 20) for _ in range(8)]
        for each in strangers:
            each.sendall(HELLO)
        assert await certificate_at(port, client_of(pairs[0])) == pairs[0].der
        for each in strangers:
            each.setblocking(False)
            with suppress(ConnectionError):
                assert b"HTTP" not in await asyncio.get_running_loop().sock_recv(each, 99)
            each.close()


# -- client certificates -----------------------------------------------------------------------------------


@BOTH_LOOPS
async def test_only_certified_clients_are_served(pairs: list[Pair], tmp_path: Path) -> None:
    ours, known, stranger = pairs
    settings = ours.put(tmp_path)
    bundle = tmp_path / "bundle.pem"
    bundle.write_text(f"# Főtanúsítvány\n{stranger.key.read_text()}\n# another\n{known.certificate.read_text()}")
    tls = ServerTls(TlsSettings(settings.certificate, settings.key, str(bundle)))
    async with served(tls) as port:
        assert await certificate_at(port, client_of(ours, own=known)) == ours.der
        await refused(port, client_of(ours))
        await refused(port, client_of(ours, own=stranger))


async def test_an_authority_that_is_gone_is_forgotten(pairs: list[Pair], tmp_path: Path) -> None:
    """Also by clients that could resume a session instead of showing their certificate."""
    ours, first, second = pairs
    authority = tmp_path / "ca.pem"
    shutil.copy(first.certificate, authority)
    settings = ours.put(tmp_path)
    tls = ServerTls(TlsSettings(settings.certificate, settings.key, str(authority)))
    client = client_of(ours, own=first, ciphers="ECDHE+AESGCM")

    def resumed(port: int, session: ssl.SSLSession | None) -> tuple[ssl.SSLSession | None, bool]:
        with (
            socket.create_connection(("127.0.0.1", port), timeout=20) as plain,
            client.wrap_socket(plain, server_hostname="localhost", session=session) as connection,
        ):
            connection.sendall(HELLO)
            assert connection.recv(1000)
            return connection.session, bool(connection.session_reused)

    async with served(tls) as port:
        session, _ = await asyncio.to_thread(resumed, port, None)
        _, reused = await asyncio.to_thread(resumed, port, session)
        assert reused
        shutil.copy(second.certificate, authority)
        assert [tls.poll(), tls.poll()] == [False, True]
        with pytest.raises((ssl.SSLError, ConnectionError)):
            await asyncio.to_thread(resumed, port, session)
        await refused(port, client)
        assert await certificate_at(port, client_of(ours, own=second)) == ours.der


# -- files that change -------------------------------------------------------------------------------------


@BOTH_LOOPS
async def test_new_files_count_for_new_connections(pairs: list[Pair], tmp_path: Path) -> None:
    before, after, _ = pairs
    tls = ServerTls(before.put(tmp_path))
    async with served(tls) as port, connected(port, client_of(before)) as open_one:
        assert await answered(*open_one) == before.der
        assert tls.poll() is False
        after.put(tmp_path)
        assert [tls.poll(), tls.poll(), tls.poll()] == [False, True, False]
        assert await certificate_at(port, client_of(after)) == after.der
        assert await answered(*open_one) == before.der


async def test_a_bad_pair_changes_nothing_and_is_told_once(pairs: list[Pair], tmp_path: Path) -> None:
    before, after, _ = pairs
    settings = before.put(tmp_path)
    certificate, key = Path(settings.certificate), Path(settings.key)
    tls = ServerTls(settings)
    async with served(tls) as port:
        for spoil, field in (
            (lambda: shutil.copy(after.certificate, certificate), "server.tls.key"),
            (lambda: certificate.write_text(""), "server.tls.certificate"),
            (lambda: certificate.unlink(), "server.tls.certificate"),
            (lambda: (before.put(tmp_path), key.write_text("half a key")), "server.tls.key"),
        ):
            spoil()
            first, second, third = tls.poll(), tls.poll(), tls.poll()
            assert first is False
            assert isinstance(second, TlsError)
            assert str(second).startswith(f"{field}: {tmp_path}")
            assert third is False
            assert await certificate_at(port, client_of(before)) == before.der
        after.put(tmp_path)
        assert [tls.poll(), tls.poll()] == [False, True]
        assert await certificate_at(port, client_of(after)) == after.der


def test_files_that_are_being_written_are_not_read(pairs: list[Pair], tmp_path: Path) -> None:
    tls = ServerTls(pairs[0].put(tmp_path))
    shutil.copy(pairs[1].certificate, tmp_path / "certificate.pem")
    assert tls.poll() is False
    shutil.copy(pairs[1].key, tmp_path / "key.pem")
    assert [tls.poll(), tls.poll()] == [False, True]


async def test_it_follows_by_itself_and_says_so(
    pairs: list[Pair], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(server_tls, "POLL_SECONDS", 0.01)
    caplog.set_level(logging.INFO, "gateway")
    tls = ServerTls(pairs[0].put(tmp_path))
    task = asyncio.create_task(tls.follow())

    async def said(words: str) -> bool:
        return words in caplog.text

    try:
        (tmp_path / "key.pem").write_text("")
        await until(lambda: said("holds no private key in PEM form; the certificate before stays in use"))
        pairs[1].put(tmp_path)
        await until(lambda: said("was read anew"))
    finally:
        task.cancel()
        await asyncio.wait([task])


# -- mistakes ----------------------------------------------------------------------------------------------


def test_each_mistake_is_one_line_with_field_and_file(pairs: list[Pair], tmp_path: Path) -> None:
    good, other, _ = pairs
    certificate, key = str(good.certificate), str(good.key)
    locked, garbled, empty = tmp_path / "locked.pem", tmp_path / "garbled.pem", tmp_path / "empty.pem"
    command = ["openssl", "pkcs8", "-topk8", "-in", key, "-out", str(locked), "-passout", "pass:secret"]
    subprocess.run(command, check=True, capture_output=True)
    garbled.write_text("".join(f"-----BEGIN {kind}-----\nAAAA\n-----END {kind}-----\n" for kind in KINDS))
    empty.touch()
    large = tmp_path / "large.pem"
    large.write_bytes(b"-----BEGIN CERTIFICATE-----\n" + b"A" * (2 << 20))
    missing = tmp_path / "missing.pem"
    mistakes = {
        "certificate": [TlsSettings(str(path), key) for path in (missing, tmp_path, empty, garbled, large)],
        "key": [TlsSettings(certificate, str(path)) for path in (missing, tmp_path, empty, garbled, locked, other.key)],
        "client_ca": [TlsSettings(certificate, key, str(path)) for path in (missing, empty, garbled)],
    }
    mistakes["certificate"].append(TlsSettings("a\0b", key))
    for name, every in mistakes.items():
        for settings in every:
            with pytest.raises(TlsError) as error:
                load(settings)
            line = str(error.value)
            assert line.startswith(f"server.tls.{name}: {getattr(settings, name)}"), line
            assert line.count("\n") == 0
            assert "_ssl.c" not in line
            assert "AAAA" not in line
    with pytest.raises(TlsError, match="without a passphrase"):
        load(TlsSettings(certificate, str(locked)))
    with pytest.raises(TlsError, match="is not the key of"):
        load(TlsSettings(certificate, str(other.key)))
