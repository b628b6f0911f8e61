"""What the mock upstream streams for each model name, and what a client must have received in the end.

Rules:
* A model name decides everything: ``short``, ``tools``, ``flood-N``, ``args-N``, ``paced-RxN`` (N deltas at
  R a second), each with ``~FAULT`` behind it for a stream that a client must not accept.
* The same name is the same bytes, but for stamps: in a paced stream each delta begins with the time of its
  sending (``time.monotonic_ns``, STAMP_DIGITS digits); no other text has a digit there.
* One HTTP chunk per event, as servers send them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

import orjson

JSON = dict[str, Any]

STAMP_DIGITS = 19
STAMP = b"0" * STAMP_DIGITS
"""Stands in an encoded event where the time of its sending goes."""

MEASURED = ("short", "tools", "flood-2000", "paced-50x150", "paced-4x40")
"""The names that sections.py asks for; ours has a route for each, as a user's file has."""

_NAME = re.compile(r"(?:(short|tools)|(flood|args)-(\d+)|paced-(\d+)x(\d+))(?:~([a-z]+))?")
_WORDS = (
    *(" stream", " of", " words", ", each", " a", " little", " different", "; some “quoted”", " or\n\n", "with \\ and"),
    *(" \t tabs", " — dashes", " naïve", " 流", " 🙂", " …"),
)
_THOUGHTS = ("First read the file,", " then see", " whether the tests", " still pass.")
_CALLS: tuple[tuple[str, JSON], ...] = (
    ("Read", {"file_path": "/src/gateway/server/pipeline.py", "offset": 120, "limit": 80, "note": "naïve 流 🙂 \\ \n"}),
    ("Bash", {"command": 'grep -rn "def feed" src | sort -u\nmake test', "description": "Find feed; run the tests"}),
)
_FRAGMENT = 9
"""Characters of arguments in one delta."""


@dataclass(frozen=True, slots=True)
class Delta:
    """What one event adds: a piece of text or thinking, the start of a call, a piece of its arguments."""

    kind: Literal["thinking", "text", "call", "arguments"]
    text: str
    call: int = 0


@dataclass(frozen=True, slots=True)
class Block:
    """A content block as a client has it in the end; ``content`` is without stamps."""

    kind: Literal["thinking", "text", "tool_use"]
    content: str
    name: str = ""


@dataclass(frozen=True, slots=True)
class Script:
    """One stream."""

    name: str
    deltas: tuple[Delta, ...]
    rate: float = 0.0
    """Deltas a second; 0: as fast as the reader takes them."""
    fault: str = ""

    @property
    def stamped(self) -> bool:
        return self.rate > 0

    @property
    def stop_reason(self) -> str:
        return "tool_use" if any(delta.kind == "call" for delta in self.deltas) else "end_turn"

    def blocks(self) -> tuple[Block, ...]:
        """The blocks that a client must have in the end, in order."""
        blocks: list[Block] = []
        for first, run in _runs(self.deltas):
            if first.kind == "call":
                blocks.append(Block("tool_use", "".join(delta.text for delta in run[1:]), first.text))
            else:
                kind: Literal["thinking", "text"] = "thinking" if first.kind == "thinking" else "text"
                blocks.append(Block(kind, "".join(delta.text for delta in run)))
        return tuple(blocks)


@dataclass(frozen=True, slots=True)
class Encoded:
    """A script on one wire. Each slot is what goes out at one time, as HTTP chunks; the last one is followed by END."""

    slots: tuple[bytes, ...]
    complete: bool = True
    """False: the connection is cut after the last slot."""


END = b"0\r\n\r\n"


@cache
def script(name: str) -> Script:
    """Raises KeyError for a name that means nothing, ValueError for an unknown fault."""
    found = _NAME.fullmatch(name)
    if found is None:
        raise KeyError(name)
    fixed, sized, size, rate, count, fault = found.groups()
    if fault and fault not in FAULTS:
        raise ValueError(f"{fault} is none of {', '.join(FAULTS)}")
    if fixed == "tools":
        deltas = _tool_turn()
    elif sized == "args":
        deltas = (Delta("call", "Write"), *_argument_deltas({"content": "w" * (_FRAGMENT * int(size) - 14)}, 0))
    else:
        deltas = tuple(Delta("text", _WORDS[index % len(_WORDS)]) for index in range(int(size or count or 6)))
    return Script(name, deltas, float(rate or 0), fault or "")


def _tool_turn() -> tuple[Delta, ...]:
    """Reasoning, text, and two calls with their arguments in small pieces."""
    deltas = [Delta("thinking", text) for text in _THOUGHTS]
    deltas += [Delta("text", text) for text in _WORDS[:6]]
    for number, (name, arguments) in enumerate(_CALLS):
        deltas += [Delta("call", name, number), *_argument_deltas(arguments, number)]
    return tuple(deltas)


def _argument_deltas(arguments: JSON, call: int) -> list[Delta]:
    text = orjson.dumps(arguments).decode()
    return [Delta("arguments", text[at : at + _FRAGMENT], call) for at in range(0, len(text), _FRAGMENT)]


def _runs(deltas: tuple[Delta, ...]) -> Iterator[tuple[Delta, list[Delta]]]:
    """Deltas of one block each: (the first, all)."""
    run: list[Delta] = []
    for delta in deltas:
        before = {"arguments": ("call", "arguments"), "call": ()}.get(delta.kind, (delta.kind,))
        if run and run[-1].kind not in before:
            yield run[0], run
            run = []
        run.append(delta)
    if run:
        yield run[0], run


# -- wires -----------------------------------------------------------------------------------------------


def events(name: str, api: Literal["chat", "messages"]) -> list[bytes]:
    """The stream ``name`` on that wire as plain events, a stamp left at zero. Raises as ``script`` does."""
    plan = script(name)
    listed = [event for slot in _slots(plan, api) for event in slot]
    return FAULTS[plan.fault](listed) if plan.fault else listed


@cache
def encoded(name: str, api: Literal["chat", "messages"]) -> Encoded:
    """The stream ``name`` on that wire. Raises as ``script`` does."""
    plan = script(name)
    if plan.stamped and not plan.fault:
        return Encoded(tuple(_chunks(slot) for slot in _slots(plan, api)))
    return Encoded((_chunks(events(name, api)),), complete=plan.fault != "cut")


def _slots(plan: Script, api: Literal["chat", "messages"]) -> list[list[bytes]]:
    return _chat_slots(plan) if api == "chat" else _messages_slots(plan)


def _chunks(events: list[bytes]) -> bytes:
    return b"".join(b"%x\r\n%b\r\n" % (len(event), event) for event in events)


def _text(plan: Script, delta: Delta) -> str:
    return STAMP.decode() + delta.text if plan.stamped else delta.text


def _chat_slots(plan: Script) -> list[list[bytes]]:
    """Chat completions: one slot per delta; the role goes with the first, the end with the last."""
    slots = []
    for delta in plan.deltas:
        if delta.kind == "text":
            body: JSON = {"content": _text(plan, delta)}
        elif delta.kind == "thinking":
            body = {"reasoning_content": delta.text}
        elif delta.kind == "call":
            function = {"name": delta.text, "arguments": ""}
            body = {
                "tool_calls": [
                    {"index": delta.call, "id": f"call_{delta.call}a7", "type": "function", "function": function}
                ]
            }
        else:
            body = {"tool_calls": [{"index": delta.call, "function": {"arguments": delta.text}}]}
        slots.append([_chat_event(plan, [_choice(body)])])
    slots[0].insert(0, _chat_event(plan, [_choice({"role": "assistant", "content": ""})]))
    reason = "tool_calls" if plan.stop_reason == "tool_use" else "stop"
    count = len(plan.deltas)
    usage = {"prompt_tokens": 1234, "completion_tokens": count, "total_tokens": 1234 + count}
    slots[-1] += [
        _chat_event(plan, [_choice({}, reason)]), _chat_event(plan, [], usage=usage), b"data: [DONE]\n\n"
    ]
    return slots


def _choice(delta: JSON, reason: str | None = None) -> JSON:
    return {"index": 0, "delta": delta, "logprobs": None, "finish_reason": reason}


def _chat_event(plan: Script, choices: list[JSON], **more: JSON) -> bytes:
    chunk = {
        "id": "chatcmpl-8f1b2c3d4e5f60718293a4b5",
        "object": "chat.completion.chunk",
        "created": 1763800000,
        "model": plan.name,
        "system_fingerprint": "fp_0a1b2c3d4e",
        "choices": choices,
        **more,
    }
    return b"data: " + orjson.dumps(chunk) + b"\n\n"


def _messages_slots(plan: Script) -> list[list[bytes]]:
    """Anthropic Messages: one slot per delta; what opens or closes a block goes with its first or last delta."""
    slots: list[list[bytes]] = []
    for index, (first, run) in enumerate(_runs(plan.deltas)):
        start: JSON = {"type": first.kind, first.kind: ""}
        if first.kind == "thinking":
            start["signature"] = ""
        if first.kind == "call":
            start = {"type": "tool_use", "id": f"toolu_{first.call}a7", "name": first.text, "input": {}}
        opening = [_event("content_block_start", index=index, content_block=start)]
        for delta in run:
            if delta.kind == "text":
                body: JSON = {"type": "text_delta", "text": _text(plan, delta)}
            elif delta.kind == "thinking":
                body = {"type": "thinking_delta", "thinking": delta.text}
            else:
                fragment = delta.text if delta.kind == "arguments" else ""
                body = {"type": "input_json_delta", "partial_json": fragment}
            slots.append([*opening, _event("content_block_delta", index=index, delta=body)])
            opening = []
        slots[-1].append(_event("content_block_stop", index=index))
    message: JSON = {"id": "msg_8f1b2c3d4e5f60718293a4b5", "type": "message", "role": "assistant", "model": plan.name}
    message |= {"content": [], "stop_reason": None, "stop_sequence": None}
    message["usage"] = {"input_tokens": 1234, "output_tokens": 1}
    slots[0].insert(0, _event("message_start", message=message))
    ending = {"stop_reason": plan.stop_reason, "stop_sequence": None}
    slots[-1] += [
        _event("message_delta", delta=ending, usage={"output_tokens": len(plan.deltas)}), _event("message_stop")
    ]
    return slots


def _event(kind: str, **fields: object) -> bytes:
    return b"event: %b\ndata: %b\n\n" % (kind.encode(), orjson.dumps({"type": kind, **fields}))


# -- streams that a client must not accept ----------------------------------------------------------------

Fault = Callable[[list[bytes]], list[bytes]]
"""All events of a stream -> the faulty ones."""


def _middle(events: list[bytes], needle: bytes) -> int:
    """The middle one of the events that contain ``needle``."""
    found = [number for number, event in enumerate(events) if needle in event]
    return found[len(found) // 2]


def _corrupt(events: list[bytes]) -> list[bytes]:
    place = _middle(events, b" words")
    return [*events[:place], events[place].replace(b" words", b" swords"), *events[place + 1 :]]


def _swapped(events: list[bytes], needle: bytes) -> list[bytes]:
    place = _middle(events, needle)
    return [*events[:place], events[place + 1], events[place], *events[place + 2 :]]


def _without(events: list[bytes], needle: bytes) -> list[bytes]:
    place = _middle(events, needle)
    return [*events[:place], *events[place + 1 :]]


def _first_part(events: list[bytes]) -> list[bytes]:
    return events[: len(events) * 3 // 4]


FAULTS: dict[str, Fault] = {
    "cut": _first_part,
    "ended": _first_part,
    "corrupt": _corrupt,
    "swapped": lambda events: _swapped(events, b" words"),
    "lost": lambda events: _without(events, rb"\"command"),
    "overlap": lambda events: _swapped(events, b"content_block_stop"),
    "twice": lambda events: [events[0], *events],
    "unfinished": lambda events: _without(events, b"message_delta"),
    "endless": lambda events: _without(events, b"message_stop"),
}
"""By name. ``cut``: the connection breaks there; those about blocks and ends mean the Messages wire."""
