"""Generates legal Chat Completions streams, each with what must come out of it, and breaks streams for the fuzz tests.

Everything follows from a seed: a failure names the seed, and ``chat_stream(seed)`` makes the same stream again.

What a stream may do: reasoning, text and parallel calls in any order, calls interleaved, fragments of any size (inside
JSON escapes and surrogate pairs too), ids given at once, late, again, empty or never, indices or none, names repeated
or empty, several fragments in one chunk, usage in several places, CRLF, comments, empty deltas, ``[DONE]`` or none.
"""

from __future__ import annotations

import json
import random
from dataclasses import dataclass, field
from typing import Any

import orjson

WORDS = [
    "Paris", "to be", "naïve", "日本語", "🙂", 'a "quoted" word', "C:\\path\\n", "tab\there",
    "{", "}", "[]", "\u2028", "x",
]  # fmt: skip
BLANKS = ["\n", "\n\n", "\t", "\n\t\n"]
"""Runs of whitespace that stand alone. The generated text itself holds no such character at an edge."""
SIZES = (0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 6, 30, 30, 30, 30)
"""Largest fragment, in characters; 0 leaves a text whole."""
ENVELOPE = {"id": "c1", "object": "chat.completion.chunk", "created": 1795200000, "model": "up"}
KEYING = ("index and id", "index", "late id", "id", "reused index", "whole, by position")


@dataclass
class Call:
    """One tool call: what goes in, and what must come out."""

    id: str
    name: str
    arguments: str
    index: int
    position: int = 0
    sent: int = 0
    """Fragments sent so far."""


@dataclass
class ChatStream:
    """The bytes of a stream and their meaning."""

    seed: int
    body: bytes
    calls: list[Call] = field(default_factory=list)
    ids_given: bool = False
    """Each call came with its id in its first fragment."""
    text: str = ""
    """All text but the runs of whitespace alone."""
    thinking: str = ""
    stop_reason: str = "end_turn"
    usage: tuple[int, int, int] | None = None
    """input, cache read, output."""


class Maker:
    """Builds one stream."""

    def __init__(self, seed: int) -> None:
        self.draw = random.Random(seed)
        self.stream = ChatStream(seed, b"")
        self.end = self.draw.choice(["\n", "\n", "\r\n"])
        self.lines: list[str] = []
        self.reasoning_field = self.draw.choice(["reasoning_content", "reasoning"])
        self.keying = self.draw.choice(KEYING)
        self.ascii = self.draw.random() < 0.5
        self.role_always = self.draw.random() < 0.3
        self.space = self.draw.choice([" ", " ", ""])
        self.begun = False

    # -- pieces ---------------------------------------------------------------------------------------

    def pieces(self, text: str) -> list[str]:
        """``text`` in fragments of any size."""
        largest = self.draw.choice(SIZES)
        if largest == 0:
            return [text]
        if self.ascii:
            text = halves(text)
        found, at = [], 0
        while at < len(text):
            size = 1 if largest == 1 else int(self.draw.random() * largest) + 1
            found.append(text[at : at + size])
            at += size
        return found

    def sentence(self) -> str:
        words = self.draw.choices(WORDS, k=self.draw.choice((1, 1, 1, 2, 4)))
        return " ".join(words).strip() + self.draw.choice([".", " .", ""])

    def arguments(self) -> str:
        if self.draw.random() < 0.08:
            return self.draw.choice(["", "{}", "{ }", '\n{"a" : 1}'])
        value: dict[str, Any] = {}
        for _ in range(self.draw.choice((1, 1, 2, 3))):
            value[self.draw.choice(["city", "q", "päth", "n"])] = self.draw.choice(
                [self.sentence(), 7, -1.5e3, None, True, ["a", {"b": "}{"}], {"x": {"y": []}}, "", '\\"']
            )
        return encode(value, ascii_only=self.draw.random() < 0.5)

    # -- lines ----------------------------------------------------------------------------------------

    def put(self, chunk: dict[str, Any]) -> None:
        body = {**ENVELOPE, **chunk} if self.draw.random() < 0.1 else chunk
        if self.draw.random() < 0.05:
            self.lines.append(self.draw.choice([": keep-alive", ": x" + self.end, "id: 1"]))
        self.lines.append(f"data:{self.space}{encode(body, ascii_only=self.ascii)}{self.end}")

    def delta(self, delta: dict[str, Any], **choice: Any) -> None:
        if not self.begun or self.role_always:
            delta = {"role": "assistant", **delta}
            self.begun = True
        self.put({"choices": [{"index": 0, "delta": delta, "finish_reason": None, **choice}]})

    def idle(self) -> None:
        if self.draw.random() < 0.06:
            empty: list[Any] = [{}, {"content": ""}, {"content": None}, {"tool_calls": []}, {"tool_calls": None}]
            self.delta(self.draw.choice(empty))

    # -- parts ----------------------------------------------------------------------------------------

    def put_thinking(self) -> None:
        for piece in self.pieces(self.sentence()):
            delta = {self.reasoning_field: piece}
            if self.draw.random() < 0.2:
                delta["content"] = self.draw.choice(["", None])  # type: ignore[assignment]
            self.delta(delta)
            self.stream.thinking += piece

    def put_text(self) -> None:
        if self.draw.random() < 0.15:
            self.delta({"content": self.draw.choice(BLANKS)})
        for piece in self.pieces(self.sentence()):
            self.delta({"content": piece})
            self.stream.text += piece
            self.idle()

    def put_calls(self) -> None:
        first = len(self.stream.calls)
        count = self.draw.choice((1, 1, 2, 2, 3, 4))
        calls = []
        for number in range(first, first + count):
            index = 0 if self.keying == "reused index" else number
            name = self.draw.choice(["get_weather", "search", "write"])
            calls.append(Call(f"call_{number}x{self.stream.seed}", name, self.arguments(), index, number - first))
        self.stream.calls += calls
        if self.keying == "whole, by position":
            self.delta({"tool_calls": [self.fragment(call, call.arguments, whole=True) for call in calls]})
        elif self.keying == "reused index":
            for call in calls:
                self.delta({"tool_calls": [self.fragment(call, call.arguments, whole=True)]})
        else:
            self.put_interleaved(calls)

    def put_interleaved(self, calls: list[Call]) -> None:
        waiting = {call.index: [*self.draw.choice(([""], [])), *self.pieces(call.arguments)] or [""] for call in calls}
        mixed = self.draw.random() < 0.6
        begun: list[Call] = []
        while waiting:
            batch: list[dict[str, Any]] = []
            for call in calls:
                if call.index not in waiting or (begun and not mixed and call is not self.first(calls, waiting)):
                    continue
                if call not in begun:
                    if batch and self.draw.random() < 0.5:
                        break
                    begun.append(call)
                elif self.draw.random() < 0.4 and len(waiting) > 1 and mixed:
                    continue
                pieces = waiting[call.index]
                batch.append(self.fragment(call, pieces.pop(0)))
                if not pieces:
                    del waiting[call.index]
            if batch:
                self.delta({"tool_calls": batch})
            if self.draw.random() < 0.06:
                self.put_text()
            if self.draw.random() < 0.03:
                self.put_thinking()
            self.idle()

    @staticmethod
    def first(calls: list[Call], waiting: dict[int, list[str]]) -> Call:
        return next(call for call in calls if call.index in waiting)

    def fragment(self, call: Call, arguments: str, *, whole: bool = False) -> dict[str, Any]:
        function: dict[str, Any] = {"arguments": arguments}
        entry: dict[str, Any] = {"type": "function", "function": function}
        start = call.sent == 0
        call.sent += 1
        if start or self.draw.random() < 0.1:
            function["name"] = call.name
        elif self.draw.random() < 0.2:
            function["name"] = ""
        if self.keying in ("index and id", "reused index"):
            entry["index"] = call.index
            self.give_id(entry, call, start)
        elif self.keying == "id":
            entry["id"] = call.id
        elif self.keying == "index":
            entry["index"] = call.index
        elif self.keying == "late id":
            entry["index"] = call.index
            if not start:
                entry["id"] = call.id
        elif whole and self.draw.random() < 0.3:
            entry["id"] = ""
        return entry

    def give_id(self, entry: dict[str, Any], call: Call, start: bool) -> None:
        if start or self.draw.random() < 0.1:
            entry["id"] = call.id
        elif self.draw.random() < 0.2:
            entry["id"] = self.draw.choice(["", None])

    # -- the end --------------------------------------------------------------------------------------

    def put_end(self) -> None:
        draw, stream = self.draw, self.stream
        finish = draw.choice(["stop", "length", "content_filter"]) if draw.random() < 0.3 else None
        finish = finish or ("tool_calls" if stream.calls else "stop")
        stream.stop_reason = {"length": "max_tokens", "content_filter": "refusal"}.get(
            finish, "tool_use" if stream.calls else "end_turn"
        )
        usage = self.usage()
        where = draw.choice(["trailing", "finish", "choice", "both", "none"])
        last: dict[str, Any] = {"choices": [{"index": 0, "delta": {}, "finish_reason": finish}]}
        if where in ("finish", "both"):
            last["usage"] = usage
        elif where == "choice":
            last["choices"][0]["usage"] = usage
        self.put(last)
        if where in ("trailing", "both"):
            choices: list[Any] = draw.choice([[], [], [{"index": 0, "delta": {}, "finish_reason": None}]])
            self.put({"choices": choices, "usage": usage})
        if where == "none":
            stream.usage = None
        if draw.random() < 0.85:
            self.lines.append(f"data:{self.space}[DONE]{self.end}")

    def usage(self) -> dict[str, Any]:
        cached, fresh, output = self.draw.randint(0, 90), self.draw.randint(1, 90), self.draw.randint(1, 90)
        self.stream.usage = (fresh, cached, output)
        return {
            "prompt_tokens": fresh + cached,
            "completion_tokens": output,
            "total_tokens": fresh + cached + output,
            "prompt_tokens_details": {"cached_tokens": cached},
        }

    def make(self) -> ChatStream:
        draw = self.draw
        if draw.random() < 0.3:
            self.delta({"role": "assistant", "content": draw.choice(["", None])})
        if draw.random() < 0.4:
            self.put_thinking()
        parts = draw.choice([["text"], ["calls"], ["text", "calls"], ["calls", "text"], ["text", "thinking", "calls"]])
        if self.keying in ("index and id", "id", "index") and draw.random() < 0.15:
            parts = [*parts, "calls"]
        for part in parts:
            getattr(self, f"put_{part}")()
        if draw.random() < 0.1:
            self.delta({"content": draw.choice(BLANKS)})
        self.put_end()
        self.stream.text, self.stream.thinking = whole(self.stream.text), whole(self.stream.thinking)
        self.stream.ids_given = self.keying in ("index and id", "reused index", "id")
        self.stream.body = (self.end.join(self.lines) + self.end).encode()
        return self.stream


def encode(value: Any, *, ascii_only: bool) -> str:
    """JSON; the fast way unless something must be escaped (surrogates always are)."""
    try:
        text = orjson.dumps(value).decode()
    except TypeError:
        return json.dumps(value)
    return json.dumps(value) if ascii_only and not text.isascii() else text


def halves(text: str) -> str:
    """Characters beyond U+FFFF as two surrogates each, so that a cut may fall between them."""
    units = text.encode("utf-16-le")
    return "".join(chr(units[at] | units[at + 1] << 8) for at in range(0, len(units), 2))


def whole(text: str) -> str:
    """Surrogate pairs joined again."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16")


def chat_stream(seed: int) -> ChatStream:
    """The legal stream of ``seed``."""
    return Maker(seed).make()


# -- breaking ------------------------------------------------------------------------------------------

JUNK: list[Any] = [
    None, True, False, 0, -1, 1.5, 1e308, 10**30, "", "x", "\ud83d", [], {}, [None], [[[]]], {"a": {"b": []}},
    {"type": "object"}, "[DONE]", "</think>", ["a", 1, None], -(10**18),
]  # fmt: skip


def mutate(body: bytes, seed: int) -> bytes:
    """``body``, damaged in one to four ways."""
    draw = random.Random(seed)
    for _ in range(draw.randint(1, 4)):
        body = draw.choice(DAMAGES)(body, draw)
    return body


def flip_bits(body: bytes, draw: random.Random) -> bytes:
    data = bytearray(body)
    for _ in range(min(len(data), draw.choice((1, 1, 4, 30)))):
        data[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
    return bytes(data)


def truncate(body: bytes, draw: random.Random) -> bytes:
    return body[: draw.randrange(len(body) + 1)]


def shuffle_lines(body: bytes, draw: random.Random) -> bytes:
    """Lines doubled, deleted, exchanged."""
    lines = body.split(b"\n")
    for _ in range(draw.randint(1, 3)):
        at, other = draw.randrange(len(lines)), draw.randrange(len(lines))
        action = draw.randrange(3)
        if action == 0:
            lines.insert(other, lines[at])
        elif action == 1 and len(lines) > 1:
            del lines[at]
        else:
            lines[at], lines[other] = lines[other], lines[at]
    return b"\n".join(lines)


def shuffle_events(body: bytes, draw: random.Random) -> bytes:
    """The same with whole events."""
    return b"\n\n".join(shuffle_lines(body.replace(b"\r\n", b"\n").replace(b"\n\n", b"\0"), draw).split(b"\0"))


def replace_value(body: bytes, draw: random.Random) -> bytes:
    """One value in the JSON of one event becomes something else, or moves, or is gone."""
    lines = body.split(b"\n")
    places = [at for at, line in enumerate(lines) if line.startswith(b"data:")]
    if not places:
        return body
    at = draw.choice(places)
    try:
        value = json.loads(lines[at][5:])
    except (ValueError, RecursionError):
        return body
    lines[at] = b"data: " + json.dumps(damage(value, draw)).encode()
    return b"\n".join(lines)


def damage(value: Any, draw: random.Random) -> Any:
    """``value`` with one thing in it exchanged for junk."""
    if isinstance(value, dict) and value and draw.random() < 0.85:
        name = draw.choice(list(value))
        if draw.random() < 0.1:
            return {other: item for other, item in value.items() if other != name}
        return {**value, name: damage(value[name], draw)}
    if isinstance(value, list) and value and draw.random() < 0.85:
        at = draw.randrange(len(value))
        return [*value[:at], damage(value[at], draw), *value[at + 1 :]]
    return draw.choice(JUNK)


def insert_junk(body: bytes, draw: random.Random) -> bytes:
    at = draw.randrange(len(body) + 1)
    junk = draw.choice(
        [
            b"\n\n", b"\r", b"data: [DONE]\n\n", b"data: null\n\n", b"data: []\n\n", b'data: "x"\n\n', b"data: {\n\n",
            b"<html><body>502</body></html>", b'{"error":"boom"}\n', b"event: error\ndata: {}\n\n", b"\xff\xfe\x00",
            b"data: " + b"[" * 5000 + b"\n\n", b"data: " + b'{"a":' * 3000 + b"\n\n", b"data: 1e999\n\n",
            b'data: {"error":{"message":null}}\n\n', b'event: error\ndata: {"type":"error","error":7}\n\n',
        ]
    )  # fmt: skip
    return body[:at] + junk + body[at:]


DAMAGES = [flip_bits, truncate, shuffle_lines, shuffle_events, replace_value, replace_value, replace_value, insert_junk]
