"""What the scripted upstream answers: replies made of parts, refusals, and how a stream breaks.

A scenario is a list of steps, one for each assistant turn after the user text that carries its tag
``[[s:NAME]]``. A step that is a tuple gives its items to successive attempts; the last one stays.
"""

from __future__ import annotations

import json
import re
from asyncio import Event
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import zip_longest
from typing import Any, Literal

TAG = re.compile(r"\[\[s:([\w.-]+)\]\]")


@dataclass(frozen=True, slots=True)
class Text:
    """Answer text."""

    text: str


@dataclass(frozen=True, slots=True)
class Think:
    """Reasoning, sent in the upstream's reasoning field."""

    text: str


@dataclass(frozen=True, slots=True)
class Call:
    """A tool call."""

    name: str
    arguments: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Reply:
    """A 200. ``fragment`` is the length of a piece of text or arguments, in characters."""

    parts: tuple[Text | Think | Call, ...]
    fragment: int = 3
    interleaved: bool = False
    """The fragments of all calls take turns."""
    ending: Literal["done", "eof", "cut"] = "done"
    """``eof``: the body ends cleanly without a finish_reason; ``cut``: the connection is aborted."""
    breaks_after: int | None = None
    """With ``eof`` or ``cut``: the number of pieces sent before it."""
    hold: Event | None = None
    """Awaited before the last piece is sent."""

    def content(self) -> str:
        return "".join(part.text for part in self.parts if isinstance(part, Text))

    def reasoning(self) -> str:
        return "".join(part.text for part in self.parts if isinstance(part, Think))

    def calls(self) -> list[Call]:
        return [part for part in self.parts if isinstance(part, Call)]

    @property
    def finish_reason(self) -> str:
        return "tool_calls" if self.calls() else "stop"

    def completion_tokens(self) -> int:
        """A deterministic count: a token for every four characters, and one."""
        arguments = sum(len(json.dumps(call.arguments)) for call in self.calls())
        return (len(self.content()) + len(self.reasoning()) + arguments) // 4 + 1


@dataclass(frozen=True, slots=True)
class Refuse:
    """An HTTP error in OpenAI's shape."""

    status: int
    error: Mapping[str, Any]
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Trouble:
    """A refusal in the words of the lane that is asked (scripted_lanes.py)."""

    kind: Literal["overflow", "quota", "busy"]


Attempt = Reply | Refuse | Trouble
Step = Attempt | tuple[Attempt, ...]
Scenario = Sequence[Step]


def say(text: str, **options: Any) -> Reply:
    """A reply of text alone."""
    return Reply((Text(text),), **options)


def call(name: str, **arguments: Any) -> Reply:
    """A reply of one tool call."""
    return Reply((Call(name, arguments),))


def pieces(text: str, size: int) -> list[str]:
    """``text`` cut into pieces of ``size`` characters."""
    return [text[start : start + size] for start in range(0, len(text), size)]


def deltas(reply: Reply, ids: Sequence[str], reasoning_field: str) -> Iterator[dict[str, Any]]:
    """The ``delta`` objects of a reply, in the order in which OpenAI sends them."""
    for part in reply.parts:
        if isinstance(part, Text | Think):
            name = "content" if isinstance(part, Text) else reasoning_field
            yield from ({name: piece} for piece in pieces(part.text, reply.fragment))
    streams = [list(_call_deltas(reply, index, ids[index])) for index in range(len(ids))]
    if reply.interleaved:
        for row in zip_longest(*streams):
            yield from (delta for delta in row if delta is not None)
    else:
        for stream in streams:
            yield from stream


def _call_deltas(reply: Reply, index: int, identity: str) -> Iterator[dict[str, Any]]:
    made = reply.calls()[index]
    function = {"name": made.name, "arguments": ""}
    yield {"tool_calls": [{"index": index, "id": identity, "type": "function", "function": function}]}
    for piece in pieces(json.dumps(made.arguments, ensure_ascii=False), reply.fragment):
        yield {"tool_calls": [{"index": index, "function": {"arguments": piece}}]}


def texts(message: Mapping[str, Any]) -> str:
    """All text of a message."""
    content = message.get("content")
    if isinstance(content, list):
        return "\n".join(part["text"] for part in content if part.get("type") == "text")
    return content or ""


def place(messages: Sequence[Mapping[str, Any]]) -> tuple[str | None, int]:
    """The scenario named by the last tag in user text, and the number of assistant turns since."""
    turns = 0
    for message in reversed(messages):
        if message["role"] == "assistant":
            turns += 1
        elif message["role"] == "user":
            tags = TAG.findall(texts(message))
            if tags:
                return tags[-1], turns
    return None, turns
