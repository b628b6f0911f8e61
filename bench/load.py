"""A load generator: Anthropic Messages requests on n connections, every answer checked to its last byte.

Rules:
* What is measured starts with the write of a request on an open connection; connecting is not part of it.
* Time to the first token: from that write to the read that brings the first ``content_block_delta``.
* Each stream is checked whole, once it has ended; one that is cut, late, wrong or refused is a failed one.
  An answer that was checked once (answer_check.py) is compared from then on: other ids, else the same bytes.
"""

from __future__ import annotations

import asyncio
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from time import monotonic_ns, perf_counter
from typing import cast

from bench.answer_check import faults
from bench.streams import STAMP_DIGITS, Script, script

_STAMP = re.compile(rb"\d{%d}" % STAMP_DIGITS)
_ID = re.compile(rb'"id": ?"[^"\\]+"')
_FIRST_TOKEN = b"content_block_delta"


@dataclass(frozen=True, slots=True)
class Request:
    """What is sent, as bytes on the wire; ``stream`` is the name of what must come back."""

    stream: str
    data: bytes


def messages_request(
    stream: str, body: bytes, *, path: str = "/v1/messages", headers: Mapping[str, str] | None = None
) -> Request:
    """``body`` names the model by which the upstream chooses the stream ``stream``."""
    lines = {
        "host": "127.0.0.1",
        "content-type": "application/json",
        "anthropic-version": "2023-06-01",
        **(headers or {}),
        "content-length": str(len(body)),
    }
    head = "".join(f"{name}: {value}\r\n" for name, value in lines.items())
    return Request(stream, f"POST {path} HTTP/1.1\r\n{head}\r\n".encode() + body)


@dataclass(slots=True)
class Outcome:
    """What a run of requests came to."""

    requests: int = 0
    """Answered, rightly or not."""
    faults: Counter[str] = field(default_factory=Counter)
    """The first fault of each failed stream -> how many failed by it."""
    first_token: list[int] = field(default_factory=list)
    """Nanoseconds from request to first delta; of good streams."""
    latencies: list[int] = field(default_factory=list)
    """Nanoseconds from each stamp to its arrival."""
    events: int = 0
    """Deltas that the upstream sent in streams that arrived well."""
    seconds: float = 0.0
    """From the first request to the last answer."""

    @property
    def failed(self) -> int:
        return sum(self.faults.values())


class Refused(Exception):
    """No whole 200 came."""


class Connection(asyncio.Protocol):
    """One keep-alive connection; one request at a time."""

    def __init__(self) -> None:
        self.closed = False
        self.first_token = 0
        """Nanoseconds to the first delta; 0: none came."""
        self.latencies: list[int] = []
        """Nanoseconds from each stamp to its arrival."""
        self._done: asyncio.Future[bytes] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def ask(self, request: Request, plan: Script) -> asyncio.Future[bytes]:
        """The future has the body of a 200, or Refused."""
        self.first_token = 0
        self.latencies = []
        self._stamped = plan.stamped
        self._head = b""
        self._status = 0
        self._buffer = b""
        self._left = 0
        """Bytes of the body (or of its chunk) that are still to come; -1: until the connection closes."""
        self._chunked = False
        self._body: list[bytes] = []
        self._done = asyncio.get_running_loop().create_future()
        self._sent = monotonic_ns()
        self._transport.write(request.data)
        return self._done

    def close(self) -> None:
        self.closed = True
        self._transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        self.closed = True
        if self._done is not None:
            self._end(whole=self._status > 0 and not self._chunked and self._left < 0)

    def data_received(self, data: bytes) -> None:
        now = monotonic_ns()
        if self._done is None:
            return self.close()
        if not self._status:
            self._head += data
            head, blank, data = self._head.partition(b"\r\n\r\n")
            if not blank:
                return
            self._read_head(head.lower())
        if self._chunked:
            data, last = self._dechunked(data)
        else:
            last = self._left == len(data)
            self._left -= len(data) if self._left > 0 else 0
        self._body.append(data)
        if not self.first_token and _FIRST_TOKEN in data:
            self.first_token = now - self._sent
        if self._stamped:
            self.latencies += [now - int(stamp) for stamp in _STAMP.findall(data)]
        if last:
            self._end(whole=True)

    def _read_head(self, head: bytes) -> None:
        self._status = int(head.split(b" ", 2)[1])
        fields = dict(line.split(b":", 1) for line in head.split(b"\r\n")[1:])
        self._chunked = b"chunked" in fields.get(b"transfer-encoding", b"")
        self._left = int(fields.get(b"content-length", -1))
        if b"close" in fields.get(b"connection", b""):
            self.closed = True

    def _dechunked(self, data: bytes) -> tuple[bytes, bool]:
        """What the chunks in ``data`` hold, and whether the last one was among them."""
        data = self._buffer + data
        parts: list[bytes] = []
        place = 0
        while (end := data.find(b"\r\n", place)) > 0:
            size = int(data[place:end].partition(b";")[0], 16)
            after = end + 2 + size + 2
            if after > len(data):
                break
            if not size:
                return b"".join(parts), True
            parts.append(data[end + 2 : after - 2])
            place = after
        self._buffer = data[place:]
        return b"".join(parts), False

    def _end(self, *, whole: bool) -> None:
        done, self._done = self._done, None
        if done is None or done.done():
            return
        body = b"".join(self._body)
        if not whole:
            done.set_exception(Refused("the connection was lost in mid-stream"))
        elif self._status != 200:
            done.set_exception(Refused(f"status {self._status}: {body[:200].decode(errors='replace')}"))
        else:
            done.set_result(body)


class Load:
    """Requests on ``connections`` connections at once, until ``requests`` are answered or ``seconds`` are over."""

    def __init__(
        self,
        port: int,
        request: Request,
        *,
        connections: int = 1,
        requests: int | None = None,
        seconds: float | None = None,
        ramp: float = 0.0,
        limit: float = 120.0,
    ) -> None:
        """``ramp``: seconds from the first connection's first request to the last one's. Streams that are open
        after ``limit`` seconds have failed."""
        self.outcome = Outcome()
        self.started = asyncio.Event()
        """Every connection has sent its first request."""
        self._port = port
        self._request = request
        self._plan = script(request.stream)
        self._open: list[Connection | None] = [None] * connections
        self._left = requests
        self._seconds = seconds
        self._ramp = ramp
        self._limit = limit
        self._good: set[bytes] = set()
        """Answers that were checked, without their ids."""

    @property
    def arrived(self) -> int:
        """Stamped deltas that have arrived, those of streams still open among them."""
        return len(self.outcome.latencies) + sum(len(connection.latencies) for connection in self._open if connection)

    async def run(self) -> Outcome:
        """Once for each object."""
        loop = asyncio.get_running_loop()
        for number in range(len(self._open)):
            self._open[number] = await self._connect()
        begin = perf_counter()
        self._until = begin + self._seconds if self._seconds is not None else None
        pause = self._ramp / len(self._open)
        clients = [loop.create_task(self._client(number, pause * number)) for number in range(len(self._open))]
        loop.call_later(self._ramp, self.started.set)
        _, late = await asyncio.wait(clients, timeout=self._limit)
        self.outcome.seconds = perf_counter() - begin
        for client in late:
            client.cancel()
        if late:
            await asyncio.wait(late)
            self.outcome.faults[f"not ended after {self._limit:g} s"] += len(late)
        for client in clients:
            if not client.cancelled():
                client.result()
        for connection in self._open:
            if connection is not None:
                self.outcome.latencies += connection.latencies  # of a stream that did not end
                connection.latencies = []
                connection.close()
        return self.outcome

    async def _connect(self) -> Connection:
        _, connection = await asyncio.get_running_loop().create_connection(Connection, "127.0.0.1", self._port)
        return connection

    def _more(self) -> bool:
        if self._until is not None and perf_counter() >= self._until:
            return False
        if self._left is not None:
            self._left -= 1
            return self._left >= 0
        return self._until is not None

    async def _client(self, number: int, delay: float) -> None:
        await asyncio.sleep(delay)
        while self._more():
            connection = self._open[number]
            if connection is None or connection.closed:
                try:
                    connection = self._open[number] = await self._connect()
                except OSError as error:
                    self.outcome.faults[f"no connection: {error}"] += 1
                    continue
            try:
                fault = self._fault(await connection.ask(self._request, self._plan))
            except Refused as error:
                fault = str(error)
            self._record(fault, connection)

    def _fault(self, body: bytes) -> str:
        """What is wrong with an answer; "": nothing."""
        if self._plan.stamped:
            return next(iter(faults(self._plan, body)), "")
        same = _ID.sub(b"", body)
        if same not in self._good:
            for fault in faults(self._plan, body):
                return fault
            self._good.add(same)
        return ""

    def _record(self, fault: str, connection: Connection) -> None:
        outcome = self.outcome
        outcome.requests += 1
        outcome.latencies += connection.latencies
        connection.latencies = []
        if fault:
            outcome.faults[fault] += 1
        else:
            outcome.first_token.append(connection.first_token)
            outcome.events += len(self._plan.deltas)
