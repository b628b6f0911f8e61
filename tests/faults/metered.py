"""An upstream that keeps its own books: what it reported of each request, for comparison with the gateway's ledger.

Rules:
* The model that it is asked for says all: ``PLAN-NUMBER``. What it reports follows from the number.
* An entry is made when it is sent. What stands in the head of an answer (Anthropic's ``message_start``) is
  half a report: of the prompt, not of the answer.
* An attempt that ends before its first word reports nothing that anybody pays for.
"""

from __future__ import annotations

import json
from asyncio import AbstractEventLoop, Future
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from random import Random
from typing import Any, NamedTuple

from tests.server.faulty_upstream import Connection, Ending, anthropic_event, chat_event, reply

JSON = dict[str, Any]


class Tokens(NamedTuple):
    """As the ledger counts them."""

    input: int
    cache_read: int
    cache_write: int
    output: int
    reasoning: int = 0

    @property
    def prompt(self) -> int:
        return self.input + self.cache_read + self.cache_write


def tokens_of(number: int, wire: str) -> Tokens:
    """What request ``number`` takes; only what ``wire`` can say is not 0."""
    draw = Random(number)
    cached = draw.choice((0, 0, draw.randrange(1, 90_000)))
    written = draw.choice((0, 0, draw.randrange(1, 9_000)))
    tokens = Tokens(draw.randrange(1, 30_000), cached, written, draw.randrange(2, 5_000), draw.choice((0, 1)))
    if wire == "ollama":
        return tokens._replace(cache_read=0, cache_write=0, reasoning=0)
    return tokens


# -- wires -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Wire:
    """How an answer is spelled; None for tokens: nothing is reported."""

    content_type: str
    start: Callable[[Tokens | None], bytes]
    text: Callable[[str], bytes]
    end: Callable[[Tokens | None], bytes]


def chat_usage(tokens: Tokens) -> JSON:
    return {
        "prompt_tokens": tokens.prompt,
        "completion_tokens": tokens.output,
        "total_tokens": tokens.prompt + tokens.output,
        "prompt_tokens_details": {"cached_tokens": tokens.cache_read, "cache_write_tokens": tokens.cache_write},
        "completion_tokens_details": {"reasoning_tokens": tokens.reasoning},
    }


def _chat_end(tokens: Tokens | None) -> bytes:
    usage = {} if tokens is None else {"usage": chat_usage(tokens)}
    return chat_event({}, "stop", **usage) + b"data: [DONE]\n\n"


def _messages_start(tokens: Tokens | None) -> bytes:
    message: JSON = {"id": "msg_up", "type": "message", "role": "assistant", "model": "m", "content": []}
    message |= {"stop_reason": None, "stop_sequence": None}
    if tokens is not None:
        message["usage"] = {
            "input_tokens": tokens.input,
            "cache_read_input_tokens": tokens.cache_read,
            "cache_creation_input_tokens": tokens.cache_write,
            "output_tokens": 1,
        }
    return anthropic_event("message_start", message=message)


def _messages_text(text: str) -> bytes:
    """A block of its own."""
    return (
        anthropic_event("content_block_start", index=0, content_block={"type": "text", "text": ""})
        + anthropic_event("content_block_delta", index=0, delta={"type": "text_delta", "text": text})
        + anthropic_event("content_block_stop", index=0)
    )


def _messages_end(tokens: Tokens | None) -> bytes:
    usage: JSON = {}
    if tokens is not None:
        usage = {"output_tokens": tokens.output, "output_tokens_details": {"thinking_tokens": tokens.reasoning}}
    delta = {"stop_reason": "end_turn", "stop_sequence": None}
    return anthropic_event("message_delta", delta=delta, usage=usage) + anthropic_event("message_stop")


def _responses_start(tokens: Tokens | None) -> bytes:
    return anthropic_event("response.created", response={"id": "resp_1", "status": "in_progress", "output": []})


def _responses_text(text: str) -> bytes:
    return anthropic_event("response.output_text.delta", output_index=0, content_index=0, delta=text)


def _responses_end(tokens: Tokens | None) -> bytes:
    response: JSON = {"id": "resp_1", "status": "completed", "output": []}
    if tokens is not None:
        response["usage"] = {
            "input_tokens": tokens.prompt,
            "input_tokens_details": {"cached_tokens": tokens.cache_read, "cache_write_tokens": tokens.cache_write},
            "output_tokens": tokens.output,
            "output_tokens_details": {"reasoning_tokens": tokens.reasoning},
        }
    return anthropic_event("response.completed", response=response)


def _ollama_line(text: str, **more: Any) -> bytes:
    line = {"model": "m", "message": {"role": "assistant", "content": text}, "done": False, **more}
    return json.dumps(line).encode() + b"\n"


def _ollama_end(tokens: Tokens | None) -> bytes:
    counts = {} if tokens is None else {"prompt_eval_count": tokens.prompt, "eval_count": tokens.output}
    return _ollama_line("", done=True, done_reason="stop", **counts)


WIRES = {
    "chat": Wire("text/event-stream", lambda tokens: b"", lambda text: chat_event({"content": text}), _chat_end),
    "messages": Wire("text/event-stream", _messages_start, _messages_text, _messages_end),
    "responses": Wire("text/event-stream", _responses_start, _responses_text, _responses_end),
    "ollama": Wire("application/x-ndjson", lambda tokens: b"", _ollama_line, _ollama_end),
}
_PATHS = {
    "/v1/chat/completions": "chat",
    "/v1/messages": "messages",
    "/v1/responses": "responses",
    "/api/chat": "ollama",
}


def takes(prompt: int, output: int) -> list[bytes]:
    """The events of one answer of chat completions that takes so many tokens; for a script without books."""
    return [chat_event({"content": "Hi"}), _chat_end(Tokens(prompt, 0, 0, output))]


# -- books -------------------------------------------------------------------------------------------------


class Books:
    """What was reported, by the number of the request; ``answer`` is the script."""

    def __init__(self, loop: AbstractEventLoop) -> None:
        """``loop``: of those who wait for arrivals."""
        self.reported: dict[int, Tokens] = {}
        self.half: dict[int, Tokens] = {}
        """Of the prompt alone."""
        self.attempts: Counter[int] = Counter()
        self._loop = loop
        self._arrivals: dict[int, Future[None]] = {}

    def arrival(self, number: int) -> Future[None]:
        """Done when the request is there."""
        return self._arrivals.setdefault(number, self._loop.create_future())

    async def answer(self, connection: Connection) -> None:
        assert connection.visit is not None
        path = connection.visit.line.split()[1].partition("?")[0]
        if path not in _PATHS:
            await refusal(404)(connection)
            return
        plan, _, number = connection.visit.json["model"].rpartition("-")
        self.attempts[int(number)] += 1
        self._loop.call_soon_threadsafe(self._arrived, int(number))
        await PLANS[plan](Turn(self, connection, int(number), _PATHS[path]))

    def _arrived(self, number: int) -> None:
        if not self.arrival(number).done():
            self.arrival(number).set_result(None)


class Turn:
    """One attempt, as the upstream sees it."""

    def __init__(self, books: Books, connection: Connection, number: int, name: str) -> None:
        self.books = books
        self.connection = connection
        self.number = number
        self.name = name
        self.wire = WIRES[name]
        self.tokens = tokens_of(number, name)

    @property
    def first(self) -> bool:
        return self.books.attempts[self.number] == 1

    async def begin(self, tokens: Tokens | None) -> None:
        """The head of a 200, and of the answer."""
        await self.connection.start(200, {"content-type": self.wire.content_type})
        if start := self.wire.start(tokens):
            await self.connection.chunk(start)

    async def say(self, *texts: str) -> None:
        if self.name == "messages":
            self.books.half[self.number] = self.tokens
        for text in texts:
            await self.connection.chunk(self.wire.text(text))

    async def run_up(self, *texts: str) -> None:
        """Each word with what was spent so far; by the last one all of it (chat only)."""
        for left, text in reversed(list(enumerate(reversed(texts)))):
            tokens = self.tokens._replace(output=self.tokens.output - left, reasoning=0)
            self.books.reported[self.number] = tokens
            await self.connection.chunk(chat_event({"content": text}, usage=chat_usage(tokens)))

    async def finish(self, tokens: Tokens | None) -> None:
        """The end, and the report."""
        self.books.half.pop(self.number, None)
        if tokens is not None:
            self.books.reported[self.number] = tokens
        await self.connection.chunk(self.wire.end(tokens))
        await self.connection.end("whole")

    async def refuse(self, status: int) -> None:
        await refusal(status)(self.connection)

    async def error_event(self) -> None:
        error = {"type": "overloaded_error", "message": "no", "code": 503}
        data = json.dumps({"type": "error", "error": error}).encode()
        await self.connection.chunk(b"event: error\ndata: %b\n\n" % data)
        await self.connection.end("whole")


def refusal(status: int) -> Callable[[Connection], Awaitable[None]]:
    return reply(status, {}, b'{"error": {"message": "no", "type": "api_error"}}')


# -- plans -------------------------------------------------------------------------------------------------


async def whole(turn: Turn) -> None:
    await turn.begin(turn.tokens)
    await turn.say("Hello")
    await turn.finish(turn.tokens)


async def unreported(turn: Turn) -> None:
    await turn.begin(None)
    await turn.say("Hello")
    turn.books.half.pop(turn.number, None)
    await turn.finish(None)


async def held(turn: Turn) -> None:
    """Begins, and waits until it is left."""
    await turn.begin(turn.tokens)
    await turn.say("Hel", "END")
    await turn.connection.gone.wait()


async def held_running(turn: Turn) -> None:
    await turn.begin(None)
    await turn.run_up("Hel", "lo", "END")
    await turn.connection.gone.wait()


async def silent(turn: Turn) -> None:
    await turn.connection.gone.wait()


def breaking(ending: Ending) -> Callable[[Turn], Awaitable[None]]:
    async def plan(turn: Turn) -> None:
        await turn.begin(turn.tokens)
        await turn.say("Hel")
        await turn.connection.end(ending)

    return plan


async def broken_running(turn: Turn) -> None:
    await turn.begin(None)
    await turn.run_up("Hel", "lo")
    await turn.connection.end("reset")


async def failing(turn: Turn) -> None:
    await turn.begin(turn.tokens)
    await turn.say("Hel")
    await turn.error_event()


async def sick(turn: Turn) -> None:
    await turn.refuse(500)


async def refused(turn: Turn) -> None:
    await turn.refuse(400)


async def once_refused(turn: Turn) -> None:
    await (turn.refuse(503) if turn.first else whole(turn))


async def once_reset(turn: Turn) -> None:
    if not turn.first:
        return await whole(turn)
    await turn.begin(turn.tokens)
    await turn.connection.end("reset")


async def once_failed(turn: Turn) -> None:
    """An error in a 200, whose head told what the prompt takes."""
    if not turn.first:
        return await whole(turn)
    await turn.begin(turn.tokens)
    await turn.error_event()


async def fallen(turn: Turn) -> None:
    """The first target fails, or does not know the model."""
    await (whole(turn) if turn.name == "messages" else turn.refuse(404 if turn.number % 2 else 529))


PLANS: dict[str, Callable[[Turn], Awaitable[None]]] = {
    "whole": whole,
    "unreported": unreported,
    "held": held,
    "heldrunning": held_running,
    "silent": silent,
    "cut": breaking("cut"),
    "reset": breaking("reset"),
    "brokenrunning": broken_running,
    "failing": failing,
    "sick": sick,
    "refused": refused,
    "oncerefused": once_refused,
    "oncereset": once_reset,
    "oncefailed": once_failed,
    "fallen": fallen,
    "capped": whole,
}
