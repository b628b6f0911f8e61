"""A misbehaving upstream: raw HTTP on a socket, in a thread of its own, scripted by the test.

Rules:
* Each script has a model name of its own, and the request's ``model`` chooses the script; so one upstream and one
  gateway serve all tests.
* Each request is kept as it came: request line, header fields in order, body. When the gateway closes the
  connection, the time is kept too.
* A script is a coroutine in the upstream's loop; it ends, or waits for a ``Gate`` that the test opens.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import queue
import threading
import time
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, Literal, Self

WAIT_SECONDS = 20
EVENT_STREAM = {"content-type": "text/event-stream"}

Answer = Callable[["Connection"], Awaitable[None]]
"""Plays one answer."""
Ending = Literal["whole", "cut", "reset", "open"]
"""The body's last chunk is sent; the connection is closed without it; reset; left open until the other side goes."""


@dataclass
class Visit:
    """One request, and when its connection was closed."""

    line: str
    headers: list[tuple[str, str]]
    body: bytes
    left: threading.Event = field(default_factory=threading.Event)
    left_at: float = 0.0
    """``time.monotonic()``, the same clock in every process of the machine."""

    @property
    def json(self) -> dict[str, Any]:
        value: dict[str, Any] = json.loads(self.body)
        return value

    def header(self, name: str) -> str | None:
        return next((value for other, value in self.headers if other == name), None)

    async def closed(self) -> float:
        """When the connection was closed. One whose answer was read to its end is kept for the next request."""
        assert await asyncio.to_thread(self.left.wait, WAIT_SECONDS), "the upstream connection was never closed"
        return self.left_at


@dataclass
class Script:
    """One answer under one model name."""

    model: str
    answer: Answer
    visits: list[Visit] = field(default_factory=list)
    _arrivals: queue.SimpleQueue[Visit] = field(default_factory=queue.SimpleQueue)

    def arrive(self, visit: Visit) -> None:
        self.visits.append(visit)
        self._arrivals.put(visit)

    async def visit(self) -> Visit:
        """The next request to this model that nobody asked for yet."""
        return await asyncio.to_thread(self._arrivals.get, True, WAIT_SECONDS)


class Gate:
    """What a script waits for."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._event = asyncio.Event()

    def open(self) -> None:
        self._loop.call_soon_threadsafe(self._event.set)

    async def wait(self) -> None:
        await self._event.wait()


class Connection(asyncio.Protocol):
    """One connection; scripts write to it."""

    def __init__(self, upstream: FaultyUpstream) -> None:
        self._upstream = upstream
        self._received = b""
        self._task: asyncio.Task[None] | None = None
        self.visit: Visit | None = None
        self._writable = asyncio.Event()
        self._writable.set()
        self.gone = asyncio.Event()

    # -- for scripts -------------------------------------------------------------------------------------

    async def send(self, data: bytes) -> None:
        """Bytes as they are. Raises ConnectionResetError when nobody is there any more."""
        await self._writable.wait()
        # An event that is set does not yield, and without yielding nobody learns that the peer has left.
        await asyncio.sleep(0)
        if self.gone.is_set() or self._transport.is_closing():
            raise ConnectionResetError
        self._transport.write(data)

    async def start(self, status: int = 200, headers: dict[str, str] = EVENT_STREAM) -> None:
        """Status line and header; a chunked body follows."""
        fields = {**headers, "transfer-encoding": "chunked"}
        await self.send(head(status, fields))

    async def chunk(self, data: bytes) -> None:
        await self.send(b"%x\r\n%b\r\n" % (len(data), data))

    async def end(self, ending: Ending) -> None:
        if ending == "whole":
            await self.send(b"0\r\n\r\n")
        elif ending == "cut":
            self._transport.close()
        elif ending == "reset":
            self._transport.abort()
        else:
            await self.gone.wait()

    # -- asyncio.Protocol --------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._received += data
        self._next()

    def eof_received(self) -> None:
        self._leave()

    def connection_lost(self, error: Exception | None) -> None:
        self._leave()
        if self._task is not None:
            self._task.cancel()

    def pause_writing(self) -> None:
        self._writable.clear()

    def resume_writing(self) -> None:
        self._writable.set()

    def _leave(self) -> None:
        self.gone.set()
        self._writable.set()
        if self.visit is not None and not self.visit.left.is_set():
            self.visit.left_at = time.monotonic()
            self.visit.left.set()

    def _next(self) -> None:
        """Begins the answer when the request is there in whole."""
        top, found, rest = self._received.partition(b"\r\n\r\n")
        if not found or self._task is not None:
            return
        line, *lines = top.decode("latin-1").split("\r\n")
        headers = [(name.lower(), value.strip()) for name, _, value in (entry.partition(":") for entry in lines)]
        size = int(dict(headers).get("content-length", "0"))
        if len(rest) < size:
            return
        self._received = rest[size:]
        visit = self.visit = Visit(line, headers, rest[:size])
        script = self._upstream.script_for(visit)
        self._task = asyncio.get_running_loop().create_task(self._answer(script))
        script.arrive(visit)

    async def _answer(self, script: Script) -> None:
        with contextlib.suppress(ConnectionError):
            await script.answer(self)
        self._task = None
        self._next()


class FaultyUpstream:
    """The server. ``url`` is its base address, without a path."""

    def __init__(self) -> None:
        self.url = ""
        self._scripts: dict[str, Script] = {}
        self._names = itertools.count(1)
        self._loop = asyncio.new_event_loop()
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        assert self._ready.wait(WAIT_SECONDS)
        return self

    def __exit__(self, *exc: object) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(WAIT_SECONDS)

    def script(self, answer: Answer, name: str = "") -> Script:
        """Makes the answer available under a new model name, or under ``name``; ``*`` is any name without a script."""
        script = Script(name or f"m{next(self._names)}", answer)
        self._scripts[script.model] = script
        return script

    def forget(self, script: Script) -> None:
        del self._scripts[script.model]

    def gate(self) -> Gate:
        return Gate(self._loop)

    def script_for(self, visit: Visit) -> Script:
        try:
            return self._scripts[visit.json["model"]]
        except (ValueError, KeyError, TypeError):
            return self._scripts.get("*", Script("", reply(400, {}, b"the request has no model that is known here")))

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        server = self._loop.run_until_complete(
            self._loop.create_server(lambda: Connection(self), "127.0.0.1", 0, backlog=512)
        )
        self.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        self._ready.set()
        self._loop.run_forever()
        server.close()
        tasks = asyncio.all_tasks(self._loop)
        for task in tasks:
            task.cancel()
        self._loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
        self._loop.close()


# -- answers ---------------------------------------------------------------------------------------------


def head(status: int, headers: dict[str, str]) -> bytes:
    lines = [f"HTTP/1.1 {status} Whatever", *(f"{name}: {value}" for name, value in headers.items()), "", ""]
    return "\r\n".join(lines).encode()


def answer_by_path(chat: Answer, anthropic: Answer) -> Answer:
    """One script for both wires."""

    async def answer(connection: Connection) -> None:
        assert connection.visit is not None
        await (chat if "/chat/" in connection.visit.line else anthropic)(connection)

    return answer


def reply(status: int, headers: dict[str, str], body: bytes) -> Answer:
    """An answer in one piece."""

    async def answer(connection: Connection) -> None:
        fields = {"content-type": "application/json", **headers, "content-length": str(len(body))}
        await connection.send(head(status, fields) + body)

    return answer


def stream(*pieces: bytes, ending: Ending = "whole", headers: dict[str, str] = EVENT_STREAM) -> Answer:
    """A 200 whose body comes in these pieces."""

    async def answer(connection: Connection) -> None:
        await connection.start(200, headers)
        for piece in pieces:
            await connection.chunk(piece)
        await connection.end(ending)

    return answer


def chat_event(delta: dict[str, Any], finish: str | None = None, **more: Any) -> bytes:
    """One chunk of Chat Completions."""
    choice = {"index": 0, "delta": delta, "finish_reason": finish}
    chunk = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "model": "m", "choices": [choice], **more}
    return b"data: %b\n\n" % json.dumps(chunk).encode()


def anthropic_event(name: str, **more: Any) -> bytes:
    return b"event: %b\ndata: %b\n\n" % (name.encode(), json.dumps({"type": name, **more}).encode())


CHAT_END = [
    chat_event({}, "stop", usage={"prompt_tokens": 11, "completion_tokens": 5, "total_tokens": 16}),
    b"data: [DONE]\n\n",
]
ANTHROPIC_START = [
    anthropic_event(
        "message_start",
        message={
            "id": "msg_upstream",
            "type": "message",
            "role": "assistant",
            "model": "m",
            "content": [],
            "stop_reason": None,
            "stop_sequence": None,
            "usage": {"input_tokens": 11, "output_tokens": 1},
        },
    ),
    anthropic_event("content_block_start", index=0, content_block={"type": "text", "text": ""}),
]
ANTHROPIC_END = [
    anthropic_event("content_block_stop", index=0),
    anthropic_event(
        "message_delta", delta={"stop_reason": "end_turn", "stop_sequence": None}, usage={"output_tokens": 5}
    ),
    anthropic_event("message_stop"),
]


def chat_texts(texts: Iterable[str]) -> list[bytes]:
    return [chat_event({"content": text}) for text in texts]


def anthropic_texts(texts: Iterable[str]) -> list[bytes]:
    deltas = ({"type": "text_delta", "text": text} for text in texts)
    return [anthropic_event("content_block_delta", index=0, delta=delta) for delta in deltas]


def beginning(wire: str, *texts: str) -> list[bytes]:
    """The events of an answer that is not over yet; ``wire`` is ``chat`` or ``anthropic``."""
    return chat_texts(texts) if wire == "chat" else [*ANTHROPIC_START, *anthropic_texts(texts)]


def whole(wire: str, *texts: str) -> list[bytes]:
    """The events of a whole answer."""
    return [*beginning(wire, *texts), *(CHAT_END if wire == "chat" else ANTHROPIC_END)]
