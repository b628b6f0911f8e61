"""A mock upstream: chat completions and Anthropic Messages as event streams, many times faster than a gateway.

    python -m bench.upstream [--port 0]       prints the port it listens on

Rules:
* The model name in the body chooses the stream (streams.py); nothing else in the request matters.
* What can be encoded before a request comes is: an unpaced answer is one write, an event of a paced one too.
* A paced event is stamped at the moment it is written, and written at its own time: one that was late does
  not push those behind it.
"""

from __future__ import annotations

import argparse
import asyncio
import re
import socket
import sys
from time import monotonic_ns
from typing import Literal, cast

import orjson
import uvloop

from bench.streams import END, STAMP, STAMP_DIGITS, Encoded, encoded, script
from gateway.server.accepting import Acceptor

APIS: dict[bytes, Literal["chat", "messages"]] = {b"/v1/chat/completions": "chat", b"/v1/messages": "messages"}
HEAD = (
    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\ncache-control: no-cache\r\n"
    b"transfer-encoding: chunked\r\n\r\n"
)
_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_CHUNKED = re.compile(rb"\r\ntransfer-encoding: *chunked", re.IGNORECASE)
_EXPECT = re.compile(rb"\r\nexpect: *100-continue", re.IGNORECASE)
_MODEL = re.compile(rb'\{"model": ?"([^"\\]+)"')
_CUT_AFTER = 0.02
"""Seconds that a cut stream stays open after its last byte."""


class UpstreamProtocol(asyncio.Protocol):
    """One connection, kept alive; answers one request after the other."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._head = b""
        self._parts: list[bytes] = []
        self._missing = 0
        """Bytes of the body that are still to come; -1: chunked, until its end."""
        self._timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def data_received(self, data: bytes) -> None:
        if not self._head:
            data = b"".join((*self._parts, data))
            head, blank, data = data.partition(b"\r\n\r\n")
            if not blank:
                self._parts = [head]
                return
            self._head, self._parts = head + b"\r\n", []
            length = _LENGTH.search(self._head)
            self._missing = int(length[1]) if length else -1 if _CHUNKED.search(self._head) else 0
            if _EXPECT.search(self._head):
                self._transport.write(_CONTINUE)
        self._parts.append(data)
        if self._missing < 0:
            if not b"".join(self._parts[-2:]).endswith(END):
                return
            body = _dechunked(b"".join(self._parts))
        else:
            self._missing -= len(data)
            if self._missing > 0:
                return
            body = b"".join(self._parts)
        head, self._head, self._parts = self._head, b"", []
        self._answer(head, body)

    def _answer(self, head: bytes, body: bytes) -> None:
        method, target, _ = head.split(b" ", 2)
        api = APIS.get(target.partition(b"?")[0])
        if method != b"POST" or api is None:
            return self._json(200, self._facts())
        try:
            name = _model(body)
            plan, stream = script(name), encoded(name, api)
        except (KeyError, ValueError) as error:
            return self._json(400, {"error": {"type": "invalid_request_error", "message": f"no such stream: {error}"}})
        if plan.rate:
            self._transport.write(HEAD)
            return self._paced(stream.slots, 0, self._loop.time(), 1 / plan.rate)
        self._unpaced(stream)

    def _facts(self) -> dict[str, object]:
        """What gateways ask before they start: is it well, which models, and (claude) who signs people in."""
        own = "http://{}:{}".format(*self._transport.get_extra_info("sockname"))
        urls = {name: own for name in ("issuer", "authorization_endpoint", "token_endpoint", "jwks_uri")}
        return {"object": "list", "data": [], "status": "ok", **urls}

    def _unpaced(self, stream: Encoded) -> None:
        self._transport.write(b"".join((HEAD, *stream.slots, END if stream.complete else b"")))
        if not stream.complete:
            self._timer = self._loop.call_later(_CUT_AFTER, self._transport.close)

    def _paced(self, slots: tuple[bytes, ...], number: int, start: float, interval: float) -> None:
        before, _, after = slots[number].partition(STAMP)
        number += 1
        end = END if number == len(slots) else b""
        self._transport.write(b"%b%0*d%b%b" % (before, STAMP_DIGITS, monotonic_ns(), after, end))
        if not end:
            self._timer = self._loop.call_at(
                start + number * interval, self._paced, slots, number, start, interval
            )

    def _json(self, status: int, body: object) -> None:
        data = orjson.dumps(body)
        self._transport.write(
            b"HTTP/1.1 %d Mock\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%b"
            % (status, len(data), data)
        )


def _model(body: bytes) -> str:
    """The model that is asked for: read at the start of the body where it stands there. Raises ValueError, KeyError."""
    found = _MODEL.match(body)
    return found[1].decode() if found else str(orjson.loads(body)["model"])


def _dechunked(data: bytes) -> bytes:
    parts = []
    size = -1
    while size:
        line, _, data = data.partition(b"\r\n")
        size = int(line, 16)
        parts.append(data[:size])
        data = data[size + 2 :]
    return b"".join(parts)


async def serve(port: int = 0) -> tuple[Acceptor, int]:
    """Listens on 127.0.0.1 until the acceptor is closed; the port."""
    listening = socket.create_server(("127.0.0.1", port))
    acceptor = Acceptor([listening], UpstreamProtocol)
    await acceptor.open()
    return acceptor, listening.getsockname()[1]


async def _main(port: int) -> None:
    acceptor, port = await serve(port)
    print(port, flush=True)
    try:
        await asyncio.get_running_loop().create_future()
    finally:
        acceptor.close()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--port", type=int, default=0)
    try:
        uvloop.run(_main(parser.parse_args().port))
    except KeyboardInterrupt:
        sys.exit(130)
