"""What takes the product's own clocks to be seen: begun when the tests begin, and looked at when the others are done.

Each wait is a thread that sleeps on a socket: it costs nobody anything, and no clock is shortened for it.
"""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

import orjson

from tests.server.faulty_upstream import Answer, Connection, FaultyUpstream, beginning, stream, whole
from tests.server.gateway_process import Gateway, turn

HEADER_SECONDS, BODY_SECONDS, LATE_SECONDS = 10.0, 30.0, 4.0
PING_SECONDS, PING_LATE_SECONDS = 10.0, 0.5
PINGS = 2
HEAD = b"POST /v1/messages HTTP/1.1\r\nhost: localhost\r\n"
LAST = HEAD + b"connection: close\r\n"
UNFINISHED_HEADS = {"silent": b"", "partial": HEAD[:20], "no end": HEAD, "trickled": HEAD}
UNFINISHED_BODIES = {
    "half a body": HEAD + b"content-length: 1000\r\n\r\n{",
    "no body": HEAD + b"content-length: 1000\r\n\r\n",
    "half a chunk": HEAD + b"transfer-encoding: chunked\r\n\r\n40\r\n{",
}


async def never(connection: Connection) -> None:
    await connection.gone.wait()


SILENCES: dict[str, Answer] = {
    "before the headers": never,
    "after the headers": stream(ending="open"),
    "in mid-stream": stream(*beginning("chat", "Hello"), ending="open"),
}


def seconds_until_cut(port: int, sent: bytes, patience: float, trickled: bool = False) -> float | None:
    """How long the gateway kept the connection; None: longer than ``patience``. ``trickled``: two bytes a second."""
    with socket.create_connection(("127.0.0.1", port)) as client:
        began = time.monotonic()
        client.settimeout(0.5 if trickled else patience)
        pieces = iter([bytes((byte,)) for byte in sent] if trickled else [sent])
        while time.monotonic() - began < patience:
            try:
                client.sendall(next(pieces, b""))
                if not client.recv(65536):
                    return time.monotonic() - began
            except TimeoutError:
                continue
            except ConnectionError:
                return time.monotonic() - began
    return None


@dataclass
class Heard:
    """What a client heard of a silent upstream."""

    silences: list[float] = field(default_factory=list)
    """Seconds, the last one up to the last ping."""
    body: bytes = b""


def pings(port: int, model: str) -> Heard:
    """Listens until there were so many pings, or three intervals are over."""
    heard = Heard()
    body = orjson.dumps(turn(model, stream=True))
    with socket.create_connection(("127.0.0.1", port), timeout=3 * PING_SECONDS) as client:
        client.sendall(LAST + b"content-length: %d\r\n\r\n" % len(body) + body)
        last = time.monotonic()
        while heard.body.count(b"event: ping") < PINGS:
            data = client.recv(65536)
            heard.silences.append(time.monotonic() - last)
            last = time.monotonic()
            if not data:
                break
            heard.body += data
    return heard


class LongWaits:
    """All of them, side by side, on a gateway of their own with a provider ``lab``."""

    def __init__(self, gateway: Gateway, upstream: FaultyUpstream) -> None:
        self._results: dict[tuple[str, str], Future[Any]] = {}
        port = gateway.port
        # The first answer of a process takes longer: what it needs is imported for it.
        pings(port, f"lab/{upstream.script(stream(*whole('chat', 'Hi'))).model}")
        for name, sent in UNFINISHED_HEADS.items():
            patience = HEADER_SECONDS + LATE_SECONDS
            self._begin("head", name, seconds_until_cut, port, sent, patience, name == "trickled")
        for name, sent in UNFINISHED_BODIES.items():
            self._begin("body", name, seconds_until_cut, port, sent, BODY_SECONDS + LATE_SECONDS)
        for name, answer in SILENCES.items():
            self._begin("ping", name, pings, port, f"lab/{upstream.script(answer).model}")

    def result(self, kind: str, name: str) -> Any:
        """Waits for it."""
        return self._results[kind, name].result(60)

    def _begin(self, kind: str, name: str, wait: Callable[..., Any], *arguments: Any) -> None:
        result: Future[Any] = Future()

        def run() -> None:
            try:
                result.set_result(wait(*arguments))
            except Exception as error:
                result.set_exception(error)

        self._results[kind, name] = result
        threading.Thread(target=run, daemon=True).start()
