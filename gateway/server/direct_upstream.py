"""Upstream requests on aiohttp's connections, without its client: the one module that knows this trick.

``TCPConnector.connect`` gives a connection (DNS, TLS, proxies and the pool are aiohttp's); while a request
runs, a protocol of our own sits on its transport and hands the body on from ``data_received``: no task
wakes up for an event. aiohttp's C parser still reads the HTTP.

Rules:
* The rules of upstream.py hold here too.
* A connection goes back to the pool with aiohttp's protocol on it again, and only when the answer was read
  to its end and nothing followed it. After the last event the end of the body gets a moment to arrive.
* What this leans on beyond aiohttp's documentation is in aiohttp_build.py; where it is missing, ClientSession serves.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Mapping
from contextlib import suppress
from functools import lru_cache
from typing import Any
from weakref import WeakSet

import aiohttp
from aiohttp import http_parser
from yarl import URL

from gateway.adapters.base import UpstreamRequest
from gateway.errors import GatewayError, UpstreamFailed
from gateway.routing import Target
from gateway.server import upstream
from gateway.server.http_head import http_head
from gateway.server.tls import tls_context
from gateway.server.upstream import Consumer, StaleConnection, UpstreamAnswer

MAX_ORIGINS = 512
LAST_CHUNK_SECONDS = 1.0
"""How long the end of a body may follow its last event, before the connection is given up."""
MAX_SPOILT = 32
"""So many connections that spoke unasked are closed for one request; new ones may be among them."""

_JOINED_BYTES = 16 * 1024
"""Up to here head and body leave as one piece: one system call on any loop."""
_PIECE_BYTES = 256 * 1024
"""A larger body leaves in pieces of this size, as the upstream takes them: none stalls the loop in TLS."""
_PARSER_OPTIONS: Any = {"read_until_eof": True, "max_line_size": 32768, "max_field_size": 32768, "max_headers": 128}
_Parser: Any = http_parser.HttpResponseParser
_UNREAD_LIMIT = 1 << 20
_Origin = tuple[aiohttp.ClientRequest, str]
"""What the connector wants to see of one URL; the request line and the headers that the URL makes."""


class DirectUpstream:
    """One per process, on the connector of its session."""

    def __init__(self, session: aiohttp.ClientSession) -> None:
        assert session.connector is not None
        self._session = session
        self._connector = session.connector
        self._loop = asyncio.get_running_loop()
        self._origins: OrderedDict[str, _Origin] = OrderedDict()
        self._used: WeakSet[Any] = WeakSet()
        """The protocols of connections that have served."""

    async def open(self, request: UpstreamRequest, target: Target, fresh: bool = False) -> DirectAnswer:
        """Sends ``request``, on a ``fresh`` connection or any; the answer is there when its headers are.

        Raises UpstreamFailed, UpstreamTimeout; StaleConnection unless ``fresh``.
        """
        assert request.answer is None
        try:
            origin, head_start = self._origin(request.url)
            head = http_head(f"{head_start}content-length: {len(request.body)}\r\n", request.headers)
            connection, used = await self._connect(origin, target, fresh)
        except TimeoutError as error:
            raise upstream.not_connected(target) from error
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise upstream.unreachable(target, error) from error
        answer = DirectAnswer(self._loop, connection, target, used)
        answer.send(head, request.body)
        # A stream lasts for minutes and needs nothing of this.
        del request, head
        await answer.head_arrives()
        return answer

    async def _connect(
        self, origin: aiohttp.ClientRequest, target: Target, fresh: bool
    ) -> tuple[aiohttp.connector.Connection, bool]:
        """A connection, and whether it has served before."""
        timeout = _timeout(target.profile.first_byte_timeout, target.profile.connect_timeout)
        for _ in range(MAX_SPOILT):
            connection = await self._connector.connect(origin, [], timeout)
            protocol = connection.protocol
            if protocol is not None and connection.transport is not None and not protocol.should_close:
                used = protocol in self._used
                if not (used and fresh):
                    self._used.add(protocol)
                    return connection, used
            # It was closed, or spoke unasked, while it lay in the pool.
            connection.close()
        raise upstream.not_http(target)

    def _origin(self, text: str) -> _Origin:
        origin = self._origins.get(text)
        if origin is None:
            try:
                url = URL(text)
            except ValueError as error:
                raise aiohttp.InvalidURL(text) from error
            if url.scheme not in ("http", "https") or not url.raw_host:
                raise aiohttp.InvalidURL(url)
            tls = tls_context() if url.scheme == "https" else True
            request = aiohttp.ClientRequest("POST", url, loop=self._loop, session=self._session, ssl=tls)
            made = request.headers
            known = "".join(f"{name}: {made[name]}\r\n" for name in ("Host", "Authorization") if name in made)
            head = f"POST {url.raw_path_qs} HTTP/1.1\r\n{known}accept-encoding: identity\r\n"
            origin = self._origins[text] = (request, head)
            if len(self._origins) > MAX_ORIGINS:
                self._origins.popitem(last=False)
        return origin


@lru_cache
def _timeout(connect: float | None, sock_connect: float | None) -> aiohttp.ClientTimeout:
    return aiohttp.ClientTimeout(connect=connect, sock_connect=sock_connect)


class DirectAnswer(UpstreamAnswer, asyncio.Protocol):
    """One answer, and the protocol on its connection while it comes."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, connection: aiohttp.connector.Connection, target: Target, used: bool
    ) -> None:
        """``used``: the connection has served before."""
        assert connection.transport is not None
        self.status = 0
        self.headers: Mapping[str, str] = {}
        self._loop = loop
        self._target = target
        self._connection: aiohttp.connector.Connection | None = connection
        self._transport = connection.transport
        self._pooled: Any = connection.protocol
        self._parser = _Parser(self, loop, _UNREAD_LIMIT, **_PARSER_OPTIONS)
        self._head: asyncio.Future[None] = loop.create_future()
        self._timer: asyncio.TimerHandle | None = None
        self._payload: aiohttp.StreamReader | None = None
        self._reusable = False
        self._may_be_stale = used
        self._consumer: Consumer | None = None
        self._ended = self._discarding = False
        self._failure: GatewayError | None = None
        self._unsent: memoryview | None = None
        self._blocked = self._paused = self._full = self._held = False
        """The upstream takes no more; the consumer wants no more; the reader is full; the parser keeps bytes back."""

    # -- the request -----------------------------------------------------------------------------------

    def send(self, head: bytes, body: bytes) -> None:
        """Takes the connection over, and writes."""
        self._transport.set_protocol(self)
        if len(body) <= _JOINED_BYTES:
            self._transport.write(head + body)
        else:
            self._transport.write(head)
            self._unsent = memoryview(body)
            self.resume_writing()
        limit = self._target.profile.first_byte_timeout
        if limit is not None:
            self._timer = self._loop.call_later(limit, self._late)

    async def head_arrives(self) -> None:
        """Raises UpstreamFailed, UpstreamTimeout."""
        try:
            await self._head
        except BaseException:
            self.close()
            raise

    def _late(self) -> None:
        self._fail(upstream.no_answer(self._target))

    # -- what the pipeline asks for --------------------------------------------------------------------

    def attach(self, consumer: Consumer) -> None:
        failure, self._consumer = self._failure, consumer
        self._pour()
        if failure is not None:
            consumer.fail(failure)

    def pause(self) -> None:
        self._paused = True
        self._pause_transport()

    def resume(self) -> None:
        self._paused = False
        self._resume_transport()
        self._pour()

    def finish(self) -> None:
        self._consumer = None
        if self._connection is None or not self._reusable:
            self.close()
            return
        # What is missing is the end of the body; it usually follows at once.
        self._discarding = True
        self._timer = self._loop.call_later(LAST_CHUNK_SECONDS, self.close)
        self.resume()

    def close(self) -> None:
        self._consumer = self._payload = None
        self._let_go(reusable=False)

    # -- what the transport calls ----------------------------------------------------------------------

    def data_received(self, data: bytes) -> None:
        self._may_be_stale = False
        error = self._parse(data)
        self._pour()
        if error is not None:
            self._broken(error)

    def connection_lost(self, exc: BaseException | None) -> None:
        # What is there goes out now, or never.
        self._paused = False
        if exc is None and self._parser is not None:
            # The end of a body without a length; any other one raises, for it is cut.
            with suppress(Exception):
                self._parser.feed_eof()
        self._pooled.connection_lost(exc)
        self._reusable = False
        self._pour()
        if self._ended:
            return
        if self._head.done():
            self._fail(upstream.cut_in_mid_answer(self._target))
        else:
            kind = StaleConnection if self._may_be_stale else UpstreamFailed
            self._fail(upstream.unreachable(self._target, exc or aiohttp.ServerDisconnectedError(), kind))

    def pause_writing(self) -> None:
        self._blocked = True

    def resume_writing(self) -> None:
        self._blocked = False
        while self._unsent and not self._blocked:
            piece, self._unsent = self._unsent[:_PIECE_BYTES], self._unsent[_PIECE_BYTES:] or None
            self._transport.write(piece)

    # -- what the parser's reader calls, when nobody takes the body --------------------------------------

    def pause_reading(self) -> None:
        """The reader is full."""
        self._full = True
        if self._parser is not None:
            # A few compressed bytes may be many.
            self._held = True
            self._parser.pause_reading()
        self._pause_transport()

    def resume_reading(self, resume_parser: bool = True) -> None:
        """The reader is empty."""
        if self._full:
            self._full = False
            self._resume_transport()

    def _pause_transport(self) -> None:
        if self._connection is not None and not self._transport.is_closing():
            self._transport.pause_reading()

    def _resume_transport(self) -> None:
        if self._connection is not None and not (self._paused or self._full or self._transport.is_closing()):
            self._transport.resume_reading()

    # -- the answer --------------------------------------------------------------------------------------

    def _parse(self, data: bytes) -> Exception | None:
        """What is wrong with ``data``, or with what was kept back before it."""
        try:
            messages, _, _ = self._parser.feed_data(data)
        except Exception as error:
            self._reusable = False
            return error
        for message, payload in messages:
            self._begin(message, payload)
        return None

    def _begin(self, message: Any, payload: aiohttp.StreamReader) -> None:
        if self._payload is not None:
            self._reusable = False  # nobody asked for a second answer
            return
        if message.code < 200 and message.code != 101:
            return
        self.status = message.code
        self.headers = {name.lower(): value for name, value in message.headers.items()}
        self._reusable = not message.should_close and message.code != 101  # which goes on in another protocol
        self._payload = payload
        self._stop_timer()
        if not self._head.done():
            self._head.set_result(None)

    def _pour(self) -> None:
        """Hands on what is there."""
        payload, consumer = self._payload, self._consumer
        if payload is None or (consumer is None and not self._discarding):
            self._note_end()
            return
        error = None
        while True:
            try:
                data = self._take(payload)
            except Exception as raised:
                self._broken(raised)
                return
            if data and consumer is not None:
                consumer.feed(data)
            if error is not None:
                self._broken(error)
                return
            if not self._held or self._paused or self._parser is None:
                break
            self._held = False
            error = self._parse(b"")
        self._note_end()

    def _take(self, payload: Any) -> bytes:
        """What the reader holds; ``read_nowait`` takes as long for its chunks as the parser did."""
        error = payload.exception()
        if error is not None:
            raise error
        if payload is aiohttp.EMPTY_PAYLOAD:
            return b""
        chunks, splits = payload._buffer, payload._http_chunk_splits
        data = b"".join(chunks)
        chunks.clear()
        if splits:
            splits.clear()
        payload._cursor += payload._size
        payload._size = 0
        self.resume_reading()
        return data

    def _note_end(self) -> None:
        """Gives the connection back once the body is whole; says so once the body is handed on."""
        if self._payload is None or not self._payload.is_eof():
            return
        if not self._ended:
            self._ended = True
            self._let_go(reusable=self._reusable)
        consumer = self._consumer
        if consumer is not None or self._discarding:
            # The reader knows this object, and this object the reader: nothing would be freed at once.
            self._payload = None
        if consumer is not None:
            consumer.end()

    def _broken(self, error: Exception) -> None:
        """The bytes make no sense."""
        reason = upstream.cut_in_mid_answer(self._target) if self._head.done() else upstream.not_http(self._target)
        reason.__cause__ = error
        self._fail(reason)

    def _fail(self, error: GatewayError) -> None:
        if self._failure is not None or self._ended:
            return
        self._failure = error
        self._let_go(reusable=False)
        if not self._head.done():
            self._head.set_exception(error)
        elif self._consumer is not None:
            self._consumer.fail(error)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _let_go(self, *, reusable: bool) -> None:
        """The connection goes back to the pool, or is closed."""
        self._stop_timer()
        connection, self._connection = self._connection, None
        self._parser = None
        if connection is None:
            return
        unsent, self._unsent = self._unsent, None
        transport = self._transport
        transport.set_protocol(self._pooled)
        if not transport.is_closing():
            if unsent or transport.get_write_buffer_size():
                # The upstream does not read: the rest of the request would wait for ever, or the next one behind it.
                reusable = False
                transport.abort()
            elif self._paused or self._full:
                transport.resume_reading()
        if reusable:
            connection.release()
        else:
            connection.close()
