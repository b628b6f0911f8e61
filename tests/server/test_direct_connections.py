"""What becomes of a connection after an answer, and how an answer is held back, on both loops, plain and over TLS."""

from __future__ import annotations

import asyncio
import gzip
from typing import Any

import pytest
from aiohttp import ClientSession
from aiohttp.client_proto import ResponseHandler
from aiohttp.connector import Connection

from gateway.errors import UpstreamFailed
from gateway.server import direct_upstream
from gateway.server.upstream import UpstreamAnswer
from tests.server.raw_upstream import (
    PLAIN_OK,
    Collected,
    Peer,
    RawUpstream,
    Tls,
    Way,
    opened,
    outcome,
    raw_upstream,
    target,
    told,
)

pytestmark = pytest.mark.asyncio(loop_factories=["asyncio", "uvloop"])

HEAD = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"
HELLO = b"5\r\nhello\r\n"
END = b"0\r\n\r\n"


class Watched:
    """The connections that were given back to the pool, with aiohttp's own protocol of each."""

    def __init__(self) -> None:
        self.protocols: list[ResponseHandler] = []
        self.transports: list[asyncio.Transport] = []
        self.event = asyncio.Event()


@pytest.fixture
async def released(monkeypatch: pytest.MonkeyPatch) -> Watched:
    watched = Watched()
    release = Connection.release

    def watch(connection: Connection) -> None:
        assert connection.protocol is not None
        assert connection.transport is not None
        watched.protocols.append(connection.protocol)
        watched.transports.append(connection.transport)
        release(connection)
        watched.event.set()

    monkeypatch.setattr(Connection, "release", watch)
    return watched


async def ok(peer: Peer) -> None:
    """The same short answer to every request."""
    while True:
        await peer.request()
        await peer.send(PLAIN_OK)


async def ask(session: ClientSession, server: RawUpstream, expected: bytes = b"ok") -> None:
    """One whole answer on the direct way."""
    result = await outcome("direct", session, server.request(), target())
    assert (result.body, result.error) == (expected, None)


async def loop_turns_until(holds: Any) -> None:
    """Lets the loop run until something is true that it alone brings about."""
    while not holds():  # noqa: ASYNC110
        await asyncio.sleep(0)


# -- connections are kept ----------------------------------------------------------------------------------


async def test_many_answers_on_one_connection(session: ClientSession, tls: Tls | None) -> None:
    async with raw_upstream(ok, tls) as server:
        for _ in range(5):
            await ask(session, server)
        assert len(server.peers) == 1


async def test_answers_at_once_need_connections_of_their_own(session: ClientSession, tls: Tls | None) -> None:
    async with raw_upstream(ok, tls) as server:
        await asyncio.gather(*(ask(session, server) for _ in range(5)))
        assert len(server.peers) == 5
        await asyncio.gather(*(ask(session, server) for _ in range(5)))
        assert len(server.peers) == 5


async def test_aiohttps_client_can_use_it_and_back(
    session: ClientSession, tls: Tls | None, released: Watched
) -> None:
    """aiohttp's protocol is on the transport again, and as good as new."""
    async with raw_upstream(ok, tls) as server:
        for _ in range(3):
            await ask(session, server)
            assert released.transports[-1].get_protocol() is released.protocols[-1]
            assert not released.protocols[-1].should_close
            result = await outcome("session", session, server.request(), target())
            assert (result.body, result.error) == (b"ok", None)
        assert len(server.peers) == 1


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n",
        b"HTTP/1.1 204 No Content\r\n\r\n",
        b"HTTP/1.1 100 Continue\r\n\r\n" + PLAIN_OK,
        HEAD + HELLO + END,
        HEAD + HELLO + b"0\r\nx-sum: 1\r\n\r\n",
    ],
    ids=["nothing", "204", "continue", "chunks", "trailers"],
)
async def test_after_any_whole_answer(session: ClientSession, answer: bytes, tls: Tls | None) -> None:
    async def script(peer: Peer) -> None:
        while True:
            await peer.request()
            await peer.send(answer)

    async with raw_upstream(script, tls) as server:
        for _ in range(3):
            assert (await outcome("direct", session, server.request(), target())).error is None
        assert len(server.peers) == 1


@pytest.mark.parametrize("how", ["body", "error body"])
async def test_after_an_error_that_was_read(session: ClientSession, how: str, tls: Tls | None) -> None:
    async def script(peer: Peer) -> None:
        while True:
            await peer.request()
            await peer.send(PLAIN_OK.replace(b"200", b"429"))

    async with raw_upstream(script, tls) as server:
        for _ in range(3):
            answer = await opened("direct", session, server.request(), target())
            assert await answer.error_body() == b"ok"
            answer.close()
        assert len(server.peers) == 1


async def test_a_late_end_is_waited_for(session: ClientSession, tls: Tls | None, released: Watched) -> None:
    """The translator had its last event; the last chunk comes after that."""
    finished = asyncio.Event()

    async def script(peer: Peer) -> None:
        for _ in range(2):
            await peer.request()
            await peer.send(HEAD + HELLO)
            await finished.wait()
            await peer.send(b"2\r\n\n\n\r\n", bytewise=True)
            await peer.send(END, bytewise=True)
        await peer.gone()

    async with raw_upstream(script, tls) as server:
        for number in (1, 2):
            finished.clear()
            released.event.clear()
            collected, answer = await begun(session, server)
            answer.finish()
            finished.set()
            await released.event.wait()
            assert collected.body == b"hello", "what comes late is nobody's"
            assert not collected.over.is_set()
            assert len(released.protocols) == number
        assert len(server.peers) == 1


async def begun(
    session: ClientSession, server: RawUpstream, way: Way = "direct", **profile: float
) -> tuple[Collected, UpstreamAnswer]:
    """An answer of which something came."""
    answer = await opened(way, session, server.request(), target(**profile))
    collected = Collected()
    answer.attach(collected)
    await collected.fed.wait()
    return collected, answer


async def test_an_end_that_never_comes_is_not(
    session: ClientSession, tls: Tls | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(direct_upstream, "LAST_CHUNK_SECONDS", 0.01)

    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(HEAD + HELLO)
        await peer.gone()

    async with raw_upstream(script, tls) as server:
        for number in (0, 1):
            _, answer = await begun(session, server)
            answer.finish()
            await server.peers[number].left.wait()


async def test_a_flood_instead_of_the_end_is_cut(
    session: ClientSession, tls: Tls | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(direct_upstream, "LAST_CHUNK_SECONDS", 0.01)

    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(HEAD + HELLO)
        while True:
            await peer.send(HELLO)

    async with raw_upstream(script, tls) as server:
        _, answer = await begun(session, server)
        answer.finish()
        await server.peers[0].left.wait()


# -- connections are not kept ------------------------------------------------------------------------------


GARBAGE = b"\x00\x01\x02 nobody asked\r\n\r\n"
NOT_KEPT = {
    "asked to close": PLAIN_OK.replace(b"200 OK", b"200 OK\r\nconnection: close"),
    "HTTP/1.0": PLAIN_OK.replace(b"1.1", b"1.0"),
    "a second answer": PLAIN_OK + PLAIN_OK,
    "bytes that are none": PLAIN_OK + GARBAGE,
    "after chunks": HEAD + b"2\r\nok\r\n" + END + GARBAGE,
    "a second answer after chunks": HEAD + b"2\r\nok\r\n" + END + PLAIN_OK,
}


@pytest.mark.parametrize("answer", NOT_KEPT.values(), ids=NOT_KEPT)
async def test_what_follows_an_answer_belongs_to_nobody(session: ClientSession, answer: bytes, tls: Tls | None) -> None:
    """Above all not to the next request on that connection."""
    head, body, rest = answer.partition(b"\r\n\r\n")
    seen = asyncio.Event()

    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(head + body)
        await seen.wait()
        await peer.send(rest)
        await peer.gone()

    async with raw_upstream(script, tls) as server:
        for number in (0, 1):
            seen.clear()
            result = await outcome("direct", session, server.request(), target(), on_head=seen.set)
            assert (result.body, result.error) == (b"ok", None)
            await server.peers[number].left.wait()


@pytest.mark.parametrize("said", [PLAIN_OK, b"HTTP/1.1 408 Too Late\r\n", b"x"], ids=["an answer", "half of one", "x"])
async def test_a_connection_that_spoke_while_it_lay_idle(
    session: ClientSession, said: bytes, tls: Tls | None, released: Watched
) -> None:
    go = asyncio.Event()

    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(PLAIN_OK)
        if len(server.peers) == 1:
            await go.wait()
            await peer.send(said)
        await peer.gone()

    async with raw_upstream(script, tls) as server:
        await ask(session, server)
        go.set()
        await loop_turns_until(lambda: released.protocols[0].should_close)
        await ask(session, server)
        assert len(server.peers) == 2
        await server.peers[0].left.wait()


async def test_a_connection_that_was_closed_while_it_lay_idle(
    session: ClientSession, tls: Tls | None, released: Watched
) -> None:
    go = asyncio.Event()

    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(PLAIN_OK)
        await go.wait()
        peer.close()

    async with raw_upstream(script, tls) as server:
        await ask(session, server)
        go.set()
        await loop_turns_until(lambda: not released.protocols[0].is_connected())
        await ask(session, server)
        assert len(server.peers) == 2


async def test_a_server_that_speaks_first_is_not_asked_for_ever(session: ClientSession, tls: Tls | None) -> None:
    """Every new connection looks like one that spoke while it lay idle."""

    async def script(peer: Peer) -> None:
        await peer.send(b"220 ready\r\n")
        await peer.gone()

    async with raw_upstream(script, tls) as server:
        with pytest.raises(UpstreamFailed):
            await opened("direct", session, server.request(), target())
        assert len(server.peers) <= direct_upstream.MAX_SPOILT


async def test_an_answer_to_half_a_request(session: ClientSession, tls: Tls | None) -> None:
    """The rest of the request is in the way of the next one; and nobody shall keep it in memory."""

    async def script(peer: Peer) -> None:
        peer.head = await peer.reader.readuntil(b"\r\n\r\n")
        await peer.send(PLAIN_OK)
        done.set()
        await go.wait()
        peer.body = await peer.gone()

    done, go = asyncio.Event(), asyncio.Event()
    async with raw_upstream(script, tls) as server:
        body = bytes(30_000_000)
        result = await outcome("direct", session, server.request(body), target())
        assert result.body == b"ok"
        go.set()
        await server.peers[0].left.wait()
        assert len(server.peers[0].body) < len(body)
        done.clear()
        result = await outcome("direct", session, server.request(), target())
        assert result.body == b"ok"
        assert len(server.peers) == 2


@pytest.mark.parametrize("way", ["direct", "session"])
@pytest.mark.parametrize("when", ["before it is attached", "in mid-answer"])
async def test_close_is_heard_at_once(session: ClientSession, way: Way, when: str, tls: Tls | None) -> None:
    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(HEAD + HELLO)
        await peer.gone()

    async with raw_upstream(script, tls) as server:
        if when == "in mid-answer":
            collected, answer = await begun(session, server, way)
        else:
            answer = await opened(way, session, server.request(), target())
            collected = Collected()
        answer.close()
        answer.close()
        await server.peers[0].left.wait()
        assert not collected.over.is_set(), "who closes needs no word of it"
        await ask_again(session, server)


async def ask_again(session: ClientSession, server: RawUpstream) -> None:
    before = len(server.peers)
    _, answer = await begun(session, server)
    answer.close()
    assert len(server.peers) == before + 1


async def test_close_does_not_wait_for_a_request_that_nobody_reads(
    session: ClientSession, tls: Tls | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was not sent yet is thrown away, not kept until the upstream deigns to read it."""

    async def script(peer: Peer) -> None:
        peer.head = await peer.reader.readuntil(b"\r\n\r\n")
        heard.set()
        await go.wait()
        peer.body = await peer.gone()

    answers: list[direct_upstream.DirectAnswer] = []
    send = direct_upstream.DirectAnswer.send

    def noted(answer: direct_upstream.DirectAnswer, head: bytes, body: bytes) -> None:
        answers.append(answer)
        send(answer, head, body)

    monkeypatch.setattr(direct_upstream.DirectAnswer, "send", noted)
    heard, go = asyncio.Event(), asyncio.Event()
    body = bytes(30_000_000)
    async with raw_upstream(script, tls) as server:
        asking = asyncio.create_task(opened("direct", session, server.request(body), target()))
        await heard.wait()
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
        assert answers[0]._unsent is None
        if type(answers[0]._transport).__module__ == "asyncio.selector_events":
            assert answers[0]._transport.get_write_buffer_size() == 0, "others tell it later"
        go.set()
        await server.peers[0].left.wait()
        assert len(server.peers[0].body) < len(body)


# -- pause and resume --------------------------------------------------------------------------------------


PIECE = b"10000\r\n" + bytes(65536) + b"\r\n"
PIECES = 600
"""37 MiB: several times what the kernel takes for a reader that sleeps."""
STUCK_SECONDS = 0.2


class Flood:
    """Sends until nobody takes it; then waits until somebody does."""

    def __init__(self, piece: bytes = PIECE, pieces: int = PIECES, head: bytes = HEAD) -> None:
        self.sent = 0
        self.stuck = asyncio.Event()
        self._piece, self._pieces, self._head = piece, pieces, head

    async def __call__(self, peer: Peer) -> None:
        await peer.request()
        await peer.send(self._head)
        for _ in range(self._pieces):
            peer.writer.write(self._piece)
            try:
                async with asyncio.timeout(STUCK_SECONDS):
                    await peer.writer.drain()
            except TimeoutError:
                self.stuck.set()
                await peer.writer.drain()
            self.sent += len(self._piece)
        await peer.send(END)
        await peer.gone()


@pytest.mark.parametrize("way", ["direct", "session"])
async def test_a_paused_answer_stops_the_upstream(session: ClientSession, way: Way, tls: Tls | None) -> None:
    flood = Flood()
    async with raw_upstream(flood, tls) as server:
        answer = await opened(way, session, server.request(), target())
        collected = Collected()
        collected.on_feed = answer.pause
        answer.attach(collected)
        await flood.stuck.wait()
        assert len(collected.pieces) == 1
        assert flood.sent < PIECES * 65536 // 2
        for number in range(2, 6):
            collected.fed.clear()
            answer.resume()
            await collected.fed.wait()
            await asyncio.sleep(0.01)
            assert len(collected.pieces) == number, "bytes while it was paused again"
        collected.on_feed = None
        answer.resume()
        await collected.over.wait()
        assert collected.failure is None
        assert len(collected.body) == PIECES * 65536


async def test_what_nobody_takes_yet_stops_the_upstream(session: ClientSession, tls: Tls | None) -> None:
    """Between the headers and ``attach``."""
    flood = Flood()
    async with raw_upstream(flood, tls) as server:
        answer = await opened("direct", session, server.request(), target())
        await flood.stuck.wait()
        assert flood.sent < PIECES * 65536 // 2
        collected = Collected()
        answer.attach(collected)
        await collected.over.wait()
        assert len(collected.body) == PIECES * 65536


async def test_a_pause_at_the_end_does_not_outlive_the_answer(session: ClientSession, tls: Tls | None) -> None:
    """The next request on that connection must hear its answer."""
    head, body = PLAIN_OK[:-2], PLAIN_OK[-2:]
    attached = asyncio.Event()

    async def script(peer: Peer) -> None:
        while True:
            await peer.request()
            await peer.send(head)
            await attached.wait()
            await peer.send(body)

    async with raw_upstream(script, tls) as server:
        for _ in range(3):
            attached.clear()
            answer = await opened("direct", session, server.request(), target(first_byte_timeout=5.0))
            collected = Collected()
            collected.on_feed = answer.pause
            answer.attach(collected)
            attached.set()
            await collected.over.wait()
            answer.finish()
            assert collected.body == b"ok"
        assert len(server.peers) == 1


async def test_a_paused_answer_that_is_finished_is_read_to_its_end(
    session: ClientSession, tls: Tls | None, released: Watched
) -> None:
    finished = asyncio.Event()

    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(HEAD + HELLO)
        await finished.wait()
        await peer.send(END)
        await ok(peer)

    async with raw_upstream(script, tls) as server:
        answer = await opened("direct", session, server.request(), target())
        collected = Collected()
        collected.on_feed = answer.pause
        answer.attach(collected)
        await collected.fed.wait()
        answer.finish()
        finished.set()
        await released.event.wait()
        await ask(session, server)
        assert len(server.peers) == 1


BOMB = gzip.compress(bytes(256 << 20), 9)
"""256 MiB in 256 KiB."""


async def test_a_paused_answer_unpacks_no_more_than_it_must(session: ClientSession, tls: Tls | None) -> None:
    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(b"HTTP/1.1 200 OK\r\ncontent-encoding: gzip\r\ncontent-length: %d\r\n\r\n" % len(BOMB))
        await peer.send(BOMB)
        await ok(peer)

    async with raw_upstream(script, tls) as server:
        answer = await opened("direct", session, server.request(), target())
        collected = Collected()
        sizes: list[int] = []

        def pause() -> None:
            sizes.append(len(collected.pieces.pop()))
            answer.pause()

        collected.on_feed = pause
        answer.attach(collected)
        while not collected.over.is_set():
            collected.fed.clear()
            count = len(sizes)
            answer.resume()
            if not collected.over.is_set():
                await collected.fed.wait()
            assert len(sizes) == count + 1
        assert collected.failure is None
        assert sum(sizes) == 256 << 20
        assert max(sizes) <= 8 << 20
        answer.finish()
        await ask(session, server)
        assert len(server.peers) == 1


async def test_a_failure_is_told_once_and_after_the_bytes(session: ClientSession, tls: Tls | None) -> None:
    """Also to who comes after it."""

    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(HEAD + HELLO)
        peer.close()

    async with raw_upstream(script, tls) as server:
        answer = await opened("direct", session, server.request(), target())
        await loop_turns_until(lambda: answer._failure is not None)  # type: ignore[attr-defined]
        collected = Collected()
        answer.attach(collected)
        assert collected.over.is_set()
        assert collected.body == b"hello"
        assert collected.failure is not None
        assert told(collected.failure)[1] == "far cut the connection in mid-answer"
        answer.close()
