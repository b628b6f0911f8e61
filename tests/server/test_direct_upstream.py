"""Upstream answers on aiohttp's connections: the same as through its client, for every answer that was thought of.

This also pins what direct_upstream.py leans on beyond aiohttp's documentation; `make newest` runs it on the newest one.
"""

from __future__ import annotations

import asyncio
import gzip
import socket
import ssl
import zlib
from dataclasses import dataclass
from hashlib import sha256
from typing import Literal

import pytest
from aiohttp import ClientSession

from gateway.errors import GatewayError, UpstreamFailed, UpstreamProtocolError, UpstreamTimeout
from gateway.server import direct_upstream, upstream
from gateway.server.aiohttp_build import unsupported
from gateway.server.direct_upstream import DirectUpstream
from tests.server.raw_upstream import (
    PLAIN_OK,
    Outcome,
    Peer,
    Tls,
    Way,
    opened,
    outcome,
    raw_upstream,
    target,
    told,
    upstream_request,
)

pytestmark = pytest.mark.asyncio(loop_factories=["asyncio", "uvloop"])

WAYS: list[Way] = ["direct", "session"]
LONG = bytes(range(256)) * (3 << 12)
"""3 MiB: more than a reader takes before it pauses."""
PACKED = gzip.compress(LONG)
TEXT = "".join(f"event {number}\n" for number in range(5000)).encode()


async def test_this_aiohttp_has_all_that_is_needed() -> None:
    assert unsupported() is None


# -- answers -----------------------------------------------------------------------------------------------


def chunked(*pieces: bytes, last: bytes = b"0\r\n\r\n") -> bytes:
    return b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces) + last


def lengthened(body: bytes, more: str = "") -> bytes:
    return f"HTTP/1.1 200 OK\r\n{more}content-length: {len(body)}\r\n\r\n".encode() + body


CHUNKED = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"
GZIPPED = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ncontent-encoding: gzip\r\n\r\n"
UNTIL_CLOSE = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n"
EARLY = (
    b"HTTP/1.1 100 Continue\r\n\r\n"
    b"HTTP/1.1 103 Early Hints\r\nlink: </a>; rel=preload\r\n\r\n"
)
Ending = Literal["kept", "closed", "reset"]


@dataclass(frozen=True)
class Case:
    """What the server sends, and what must become of it."""

    head: bytes
    """Sent at once."""
    rest: bytes = b""
    """Sent when the client has seen the headers."""
    ending: Ending = "kept"
    """What the server does after that."""
    body: bytes = b"hello world"
    status: int = 200
    error: tuple[type[GatewayError], str] | None = None


WHOLE = {
    "chunks": Case(CHUNKED, chunked(b"hello", b" world")),
    "chunks, with the head": Case(CHUNKED + chunked(b"hello", b" world")),
    "chunks with extensions and trailers": Case(CHUNKED, b"b;x=y\r\nhello world\r\n0\r\nx-sum: 1\r\n\r\n"),
    "five thousand chunks": Case(CHUNKED, chunked(*TEXT.splitlines(keepends=True)), body=TEXT),
    "a length": Case(lengthened(b"hello world")),
    "a length, then the end": Case(lengthened(b"hello world"), ending="closed"),
    "a length of nothing": Case(lengthened(b""), body=b""),
    "no length, no chunks": Case(UNTIL_CLOSE, b"hello world", "closed"),
    "no length, no chunks, nothing": Case(UNTIL_CLOSE, b"", "closed", b""),
    "HTTP/1.0": Case(b"HTTP/1.0 200 OK\r\n\r\n", b"hello world", "closed"),
    "no reason": Case(b"HTTP/1.1 200\r\ncontent-length: 11\r\n\r\nhello world"),
    "continue and early hints": Case(EARLY + lengthened(b"hello world")),
    "204": Case(b"HTTP/1.1 204 No Content\r\n\r\n", b"", body=b"", status=204),
    "304": Case(b"HTTP/1.1 304 Not Modified\r\netag: x\r\n\r\n", b"", body=b"", status=304),
    "302": Case(b"HTTP/1.1 302 Found\r\nlocation: http://h/\r\ncontent-length: 0\r\n\r\n", body=b"", status=302),
    "101": Case(b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: x\r\n\r\n", body=b"", status=101),
    "429": Case(b"HTTP/1.1 429 Slow\r\nretry-after: 3\r\ncontent-length: 11\r\n\r\nhello world", status=429),
    "asked to close": Case(lengthened(b"hello world", "connection: close\r\n"), ending="closed"),
    "large": Case(CHUNKED, chunked(LONG), body=LONG),
    "large, with a length": Case(lengthened(LONG), body=LONG),
    "gzip": Case(GZIPPED, chunked(PACKED), body=LONG),
    "gzip bit by bit": Case(GZIPPED, chunked(*(PACKED[at : at + 9] for at in range(0, len(PACKED), 9))), body=LONG),
    "gzip with a length": Case(lengthened(PACKED, "content-encoding: gzip\r\n"), body=LONG),
    "gzip without a length": Case(
        b"HTTP/1.1 200 OK\r\ncontent-encoding: gzip\r\n\r\n", PACKED, "closed", LONG
    ),
    "deflate": Case(lengthened(zlib.compress(LONG), "content-encoding: deflate\r\n"), body=LONG),
    "an unknown encoding": Case(lengthened(b"hello world", "content-encoding: rot13\r\n")),
}  # fmt: skip
CUT = (UpstreamProtocolError, "far cut the connection in mid-answer")
BROKEN = {
    "a chunk too few": Case(CHUNKED, b"5\r\nhello\r\n", "closed", b"hello", error=CUT),
    "half a chunk": Case(CHUNKED, b"b\r\nhello", "closed", b"hello", error=CUT),
    "chunks, reset": Case(CHUNKED, b"5\r\nhello\r\n", "reset", error=CUT),
    "less than promised": Case(lengthened(b"hello world")[:-6], b"", "closed", b"hello", error=CUT),
    "gzip, cut": Case(GZIPPED, chunked(PACKED[:1000], last=b""), "closed", LONG, error=CUT),
    "no gzip at all": Case(GZIPPED, chunked(b"hello world"), error=CUT),
    "no gzip at all, with the head": Case(GZIPPED + chunked(b"hello world"), error=CUT),
}  # fmt: skip
NO_HTTP = (UpstreamProtocolError, "far sent an answer that is not valid HTTP")
CLOSED = (UpstreamFailed, "could not reach far: it closed the connection without an answer")
RESET = (UpstreamFailed, "could not reach far: the connection broke before the answer")
HEADLESS = {
    "closed": Case(b"", ending="closed", error=CLOSED),
    "closed in the head": Case(b"HTTP/1.1 200 OK\r\ncontent-ty", ending="closed", error=CLOSED),
    "closed after early hints": Case(EARLY, ending="closed", error=CLOSED),
    "reset": Case(b"", ending="reset", error=RESET),
    "not HTTP": Case(b"\x15\x03\x01\x00\x02\x02\x28\r\n\r\n", error=NO_HTTP),
    "a banner": Case(b"SSH-2.0-OpenSSH_9.9\r\n", error=NO_HTTP),
    "HTTP/2": Case(b"\x00\x00\x12\x04\x00\x00\x00\x00\x00\x00\x03\x00\x00\x00\x64", error=NO_HTTP),
    "a bad chunk with the head": Case(CHUNKED + b"zzz\r\n", error=NO_HTTP),
    "two lengths": Case(b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\n", error=NO_HTTP),
    "a line too long": Case(b"HTTP/1.1 200 OK\r\nx-a: " + b"a" * 33_000 + b"\r\n\r\n", error=NO_HTTP),
    "a reason too long": Case(b"HTTP/1.1 200 " + b"a" * 33_000 + b"\r\n\r\n", error=NO_HTTP),
    "too many lines": Case(b"HTTP/1.1 200 OK\r\n" + b"x-a: b\r\n" * 200 + b"\r\n", error=NO_HTTP),
}  # fmt: skip


async def played(way: Way, session: ClientSession, case: Case, tls: Tls | None, *, bytewise: bool = False) -> Outcome:
    """What one way makes of it."""
    seen = asyncio.Event()

    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(case.head, bytewise=bytewise)
        if case.rest:
            await seen.wait()
            await peer.send(case.rest, bytewise=bytewise)
        if case.ending == "closed":
            peer.close()
        elif case.ending == "reset":
            if b"\r\n\r\n" in case.head:
                await arrived.wait()
            peer.reset()
        await peer.gone()

    arrived = asyncio.Event()
    async with raw_upstream(script, tls) as server:
        return await outcome(way, session, server.request(), target(), on_head=seen.set, on_body=arrived.set)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("case", WHOLE.values(), ids=WHOLE)
async def test_whole_answers(way: Way, session: ClientSession, case: Case, tls: Tls | None) -> None:
    result = await played(way, session, case, tls)
    assert (result.status, result.error) == (case.status, None)
    assert result.body == case.body


@pytest.mark.parametrize("name", [name for name, case in WHOLE.items() if len(case.body) < 100])
async def test_byte_by_byte(session: ClientSession, name: str, tls: Tls | None) -> None:
    case = WHOLE[name]
    assert await played("direct", session, case, tls, bytewise=True) == await played("session", session, case, tls)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("case", BROKEN.values(), ids=BROKEN)
async def test_broken_answers(way: Way, session: ClientSession, case: Case, tls: Tls | None) -> None:
    result = await played(way, session, case, tls)
    assert (result.status, result.error) == (200, case.error)
    assert case.body.startswith(result.body)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("case", HEADLESS.values(), ids=HEADLESS)
async def test_no_answer(way: Way, session: ClientSession, case: Case, tls: Tls | None) -> None:
    assert (await played(way, session, case, tls)).error == case.error


async def test_headers_are_the_same(session: ClientSession, tls: Tls | None) -> None:
    """Names in lower case; of two with one name, the last."""
    head = "HTTP/1.1 200 OK\r\nX-A: 1 \r\nx-b:\r\nContent-Length: 0\r\nX-A: 2\r\nx-c: \u00e9\r\n\r\n"
    case = Case(head.encode())
    results = [await played(way, session, case, tls) for way in WAYS]
    assert results[0].headers == results[1].headers
    assert dict(results[0].headers) == {"x-a": "2", "x-b": "", "content-length": "0", "x-c": "\u00e9"}


async def test_bytes_that_are_no_chunk(session: ClientSession, tls: Tls | None) -> None:
    """ClientSession closes the connection and tells nobody; there the idle timeout ends the answer."""
    case = Case(CHUNKED, b"5\r\nhello\r\nzzz\r\n")
    result = await played("direct", session, case, tls)
    assert (result.status, result.body, result.error) == (200, b"hello", CUT)


async def test_a_reset_is_no_end(session: ClientSession, tls: Tls | None) -> None:
    """ClientSession takes it for one, where the body has no length."""
    result = await played("direct", session, Case(UNTIL_CLOSE, b"hello world", "reset"), tls)
    assert (result.status, result.error) == (200, CUT)


# -- no connection -----------------------------------------------------------------------------------------


NOT_CONNECTED = (UpstreamFailed, "far did not accept a connection in time")
TLS_FAILED = (UpstreamFailed, "could not reach far: its TLS certificate or handshake failed")
NO_NAME = (UpstreamFailed, "could not reach far: its host name is not known")
NO_URL = (UpstreamFailed, "could not reach far: its base_url is not a URL")


async def asked(way: Way, session: ClientSession, url: str, **headers: str) -> tuple[type[GatewayError], str]:
    """The error."""
    with pytest.raises(GatewayError) as raised:
        await opened(way, session, upstream_request(url, headers=headers), target(connect_timeout=0.05))
    return told(raised.value)


@pytest.mark.parametrize("way", WAYS)
async def test_nobody_listens(way: Way, session: ClientSession, closed_port: int) -> None:
    error = await asked(way, session, f"http://127.0.0.1:{closed_port}/v1")
    assert error == (UpstreamFailed, "could not reach far: connection refused")


@pytest.mark.parametrize("way", WAYS)
async def test_an_unknown_host(way: Way, session: ClientSession) -> None:
    assert await asked(way, session, "http://gateway-test.invalid/v1") == NO_NAME


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("url", ["", "/v1/x", "http://", "http:///v1", "ftp://127.0.0.1/", "http://127.0.0.1:99999/", "http://[::1/"])
async def test_no_url(way: Way, session: ClientSession, url: str) -> None:
    assert await asked(way, session, url) == NO_URL


@pytest.mark.parametrize("way", WAYS)
async def test_a_connection_that_is_never_accepted(way: Way, session: ClientSession) -> None:
    with socket.socket() as full:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        waiting = [socket.socket() for _ in range(4)]
        for one in waiting:
            one.setblocking(False)
            one.connect_ex(full.getsockname())
        assert await asked(way, session, f"http://127.0.0.1:{full.getsockname()[1]}/") == NOT_CONNECTED
        for one in waiting:
            one.close()


async def silent(peer: Peer) -> None:
    await peer.gone()


@pytest.mark.parametrize("way", WAYS)
async def test_a_handshake_that_never_ends(way: Way, session: ClientSession) -> None:
    async with raw_upstream(silent) as server:
        assert await asked(way, session, server.url.replace("http:", "https:")) == NOT_CONNECTED


@pytest.mark.parametrize("way", WAYS)
async def test_a_certificate_that_nobody_vouches_for(
    way: Way, session: ClientSession, certified: Tls, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (direct_upstream, upstream):
        monkeypatch.setattr(module, "tls_context", ssl.create_default_context)
    async with raw_upstream(silent, certified) as server:
        assert await asked(way, session, server.url) == TLS_FAILED


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("tls", ["tls"], indirect=True)
async def test_a_certificate_for_another_name(way: Way, session: ClientSession, tls: Tls) -> None:
    async with raw_upstream(silent, tls, "127.0.0.2") as server:
        assert await asked(way, session, server.url) == TLS_FAILED


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("tls", ["tls"], indirect=True)
async def test_http_where_tls_is_expected(way: Way, session: ClientSession, tls: Tls) -> None:
    async def script(peer: Peer) -> None:
        await peer.reader.read(1)
        await peer.send(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        peer.close()

    async with raw_upstream(script) as server:
        assert await asked(way, session, server.url.replace("http:", "https:")) == TLS_FAILED


# -- silence -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("said", [b"", b"HTTP/1.1 200 OK\r\ncontent-", EARLY], ids=["nothing", "half a head", "hints"])
async def test_headers_that_never_come(way: Way, session: ClientSession, said: bytes, tls: Tls | None) -> None:
    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(said)
        await peer.gone()

    async with raw_upstream(script, tls) as server:
        with pytest.raises(UpstreamTimeout) as raised:
            await opened(way, session, server.request(), target(first_byte_timeout=0.1))
        assert told(raised.value) == (UpstreamTimeout, "far did not answer in time")
        await server.peers[0].left.wait()


@pytest.mark.parametrize("way", WAYS)
async def test_the_limit_is_for_the_headers_only(way: Way, session: ClientSession, tls: Tls | None) -> None:
    """The body may take longer, here twice the limit. The connection is there before: its handshake counts too."""
    loop = asyncio.get_running_loop()

    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(CHUNKED + chunked(b"first"))
        await peer.request()
        await peer.send(CHUNKED)
        late = asyncio.Event()
        loop.call_later(0.6, late.set)
        await late.wait()
        await peer.send(chunked(b"hello world"))
        await peer.gone()

    async with raw_upstream(script, tls) as server:
        assert (await outcome(way, session, server.request(), target())).body == b"first"
        result = await outcome(way, session, server.request(), target(first_byte_timeout=0.3))
        assert len(server.peers) == 1
    assert (result.body, result.error) == (b"hello world", None)


@pytest.mark.parametrize("way", WAYS)
async def test_a_cancelled_question_closes_the_connection(way: Way, session: ClientSession, tls: Tls | None) -> None:
    heard = asyncio.Event()

    async def script(peer: Peer) -> None:
        await peer.request()
        heard.set()
        await peer.gone()

    async with raw_upstream(script, tls) as server:
        asking = asyncio.create_task(opened(way, session, server.request(), target()))
        await heard.wait()
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
        await server.peers[0].left.wait()


# -- what goes up ------------------------------------------------------------------------------------------


async def echo_ok(peer: Peer) -> None:
    while True:
        await peer.request()
        await peer.send(PLAIN_OK)


async def heard(way: Way, session: ClientSession, server_url: str, form: str, **headers: str) -> None:
    """Sends one request to the form of the server's address."""
    address = server_url.partition("//")[2]
    url = form.format(scheme=server_url.partition(":")[0], address=address, port=address.rpartition(":")[2])
    result = await outcome(way, session, upstream_request(url, b'{"a":1}', headers), target())
    assert result.body == b"ok"


FORMS = {
    "plain": "{scheme}://{address}/v1/x",
    "no path": "{scheme}://{address}",
    "a slash": "{scheme}://{address}/",
    "a query": "{scheme}://{address}/v1/x?beta=true&a=b+c%20d",
    "an empty query": "{scheme}://{address}/v1/x?",
    "a fragment": "{scheme}://{address}/v1/x#there",
    "escapes": "{scheme}://{address}/v1/%2F%C3%A9/a%20b/%7e",
    "beyond ASCII": "{scheme}://{address}/v1/\u00e9 x?\u00e9=\u00fc",
    "dots": "{scheme}://{address}/v1/../v2/./x",
    "a name": "{scheme}://localhost:{port}/v1",
    "capitals": "{scheme}://LOCALHOST:{port}/V1",
    "a user": "{scheme}://user:pass%3Aword@{address}/v1",
    "a user without a password": "{scheme}://user@{address}/v1",
}


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
async def test_the_same_request_goes_up(session: ClientSession, form: str, tls: Tls | None) -> None:
    """The request line, and the header fields but for their order."""
    own = {"x-api-key": "k\u00e9", "content-type": "application/json", "user-agent": "gw/1", "accept": "*/*", "x-e": ""}
    heads: list[tuple[bytes, list[tuple[str, str]], bytes]] = []
    for way in WAYS:
        async with raw_upstream(echo_ok, tls) as server:
            await heard(way, session, server.url, form, **own)
            (peer,) = server.peers
            port = server.url.rpartition(":")[2]
            fields = [(name, value.replace(port, "PORT")) for name, value in peer.headers()]
            heads.append((peer.head.partition(b"\r\n")[0], sorted(fields), peer.body))
    assert heads[0] == heads[1]
    assert heads[0][2] == b'{"a":1}'


async def test_the_bytes_of_a_request(session: ClientSession, tls: Tls | None) -> None:
    async with raw_upstream(echo_ok, tls) as server:
        await heard("direct", session, server.url, FORMS["a query"], **{"x-api-key": "k", "accept": "*/*"})
        host = server.url.partition("//")[2]
        assert server.peers[0].head.decode() == (
            "POST /v1/x?beta=true&a=b+c%20d HTTP/1.1\r\n"
            f"Host: {host}\r\n"
            "accept-encoding: identity\r\n"
            "content-length: 7\r\n"
            "x-api-key: k\r\n"
            "accept: */*\r\n"
            "\r\n"
        )


async def test_ipv6(session: ClientSession, tls: Tls | None) -> None:
    async with raw_upstream(echo_ok, tls, "::1") as server:
        for way in WAYS:
            assert (await outcome(way, session, server.request(), target())).body == b"ok"
            assert server.peers[-1].header("host") == server.url.partition("//")[2]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", ["x-a\r\nx-b", "x-a\n", "x-\x00a"])
@pytest.mark.parametrize("where", ["name", "value"])
async def test_a_header_that_would_break_the_head_is_refused(
    way: Way, session: ClientSession, name: str, where: str
) -> None:
    """Before anything is sent."""
    async with raw_upstream(silent) as server:
        error = await asked(way, session, server.url, **({name: "b"} if where == "name" else {"x-a": name}))
        assert error == (UpstreamFailed, "could not reach far: ValueError")
        await asyncio.sleep(0)
        assert [peer.head for peer in server.peers] in ([], [b""])


@pytest.mark.parametrize("way", WAYS)
async def test_a_large_body_for_a_slow_reader(way: Way, session: ClientSession, tls: Tls | None) -> None:
    body = bytes(range(251)) * 40_000
    assert len(body) > 10_000_000

    async def script(peer: Peer) -> None:
        peer.head = await peer.reader.readuntil(b"\r\n\r\n")
        left, digest = int(peer.header("content-length") or 0), sha256()
        while left:
            data = await peer.reader.read(min(left, 50_000))
            digest.update(data)
            left -= len(data)
            await asyncio.sleep(0)
        await peer.send(lengthened(digest.hexdigest().encode()))
        await peer.gone()

    async with raw_upstream(script, tls) as server:
        result = await outcome(way, session, server.request(body), target())
    assert result.body.decode() == sha256(body).hexdigest()


async def test_so_many_origins_are_remembered(session: ClientSession, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(direct_upstream, "MAX_ORIGINS", 2)
    direct = DirectUpstream(session)
    async with raw_upstream(echo_ok) as server:
        for path in ("/a", "/b", "/c", "/a", "/a"):
            answer = await direct.open(server.request(path=path), target())
            answer.finish()
            assert server.peers[0].head.startswith(f"POST {path} ".encode())
        assert len(direct._origins) == 2
