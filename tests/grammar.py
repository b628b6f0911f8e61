"""The strict reader of Anthropic event streams: every test looks at a gateway's output through it.

Rules of a stream:
* ``message_start`` first and once; then blocks; one ``message_delta``; one ``message_stop``; nothing after.
* Blocks are numbered 0, 1, 2 … without a gap, one is open at a time, and each delta fits its block.
* ``content_block_start`` carries no content: clients throw it away (client.md, section 3).
* Or, at any point, one ``error`` event, and nothing after it. ``ping`` may stand anywhere in between.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from typing import Any

import orjson

FRAME = re.compile(r"event: ([^\n]+)\ndata: ([^\n]+)")
TOOL_ID = re.compile(r"^[a-zA-Z0-9_-]+$")
DELTAS: dict[str, dict[str, str | None]] = {
    "text": {"text_delta": "text", "citations_delta": None},
    "thinking": {"thinking_delta": "thinking", "signature_delta": "signature"},
    "tool_use": {"input_json_delta": "partial_json"},
    "redacted_thinking": {},
}
STOP_REASONS = {
    "end_turn",
    "max_tokens",
    "stop_sequence",
    "tool_use",
    "refusal",
    "pause_turn",
    "model_context_window_exceeded",
}


class GrammarError(AssertionError):
    """A stream that an Anthropic client could trip over."""


@dataclass
class Reading:
    """What a stream says, after the check."""

    start: dict[str, Any] | None = None
    """The ``message`` of ``message_start``."""
    content: list[dict[str, Any]] = field(default_factory=list)
    """The blocks, deltas joined. A tool's arguments stand joined and unparsed under ``partial_json``."""
    stop_reason: str | None = None
    stop_sequence: str | None = None
    usage: dict[str, Any] = field(default_factory=dict)
    """Of ``message_delta``."""
    error: dict[str, Any] | None = None
    finished: bool = False
    """``message_stop`` came."""
    open: bool = False
    """A block is still open."""
    others: list[str] = field(default_factory=list)
    """Names of events that this reader does not know (pass-through only)."""


def demand(truth: object, message: str) -> None:
    if not truth:
        raise GrammarError(message)


def read_events(data: bytes, *, passed_through: bool = False) -> list[tuple[str, dict[str, Any]]]:
    """``event: NAME\\ndata: JSON\\n\\n`` and nothing else; NAME and the JSON's ``type`` agree."""
    text = data.decode()
    demand(text == "" or text.endswith("\n\n"), f"output ends inside an event: {text[-80:]!r}")
    events = []
    for frame in text.split("\n\n")[:-1]:
        found = FRAME.fullmatch(frame)
        if found is None:
            raise GrammarError(f"not one event line and one data line: {frame!r}")
        # An Anthropic-type upstream's half characters are relayed as they are; our own output has none.
        body = json.loads(found[2]) if passed_through else orjson.loads(found[2])
        if not isinstance(body, dict) or body.get("type") != found[1]:
            raise GrammarError(f"name and type differ: {frame!r}")
        events.append((found[1], body))
    return events


def check_stream(data: bytes, *, ended: bool = True, passed_through: bool = False) -> Reading:
    """Read a stream strictly.

    ``ended``: it must be complete (``message_stop`` or ``error``); otherwise a correct beginning suffices.
    ``passed_through``: an Anthropic-type upstream wrote it: unknown events and its own usage are fine.
    Raises GrammarError.
    """
    reading = Reading()
    for name, body in read_events(data, passed_through=passed_through):
        if reading.error is not None or reading.finished:
            raise GrammarError(f"{name} after the end")
        if name == "ping":
            continue
        step = STEPS.get(name)
        if step is None:
            demand(passed_through, f"unknown event {name}")
            reading.others.append(name)
            continue
        if reading.start is None and name not in ("message_start", "error"):
            raise GrammarError(f"{name} before message_start")
        step(reading, body, passed_through)
    if ended:
        demand(reading.finished or reading.error is not None, "neither message_stop nor error at the end")
    return reading


def on_message_start(reading: Reading, body: dict[str, Any], passed_through: bool) -> None:
    demand(reading.start is None, "second message_start")
    message = body["message"]
    demand(message["type"] == "message" and message["role"] == "assistant", f"odd message {message}")
    demand(isinstance(message["id"], str) and message["id"], "message without id")
    demand(message["content"] == [] and message["stop_reason"] is None, f"message_start is not empty: {message}")
    usage = message["usage"]
    demand(is_count(usage.get("input_tokens")) and is_count(usage.get("output_tokens")), f"odd usage {usage}")
    if not passed_through:
        demand(message["id"].startswith("msg_"), f"message id {message['id']}")
        demand(message["stop_sequence"] is None, "message_start has a stop_sequence")
        demand(usage["input_tokens"] >= 1, "message_start counts no input")
        demand(usage["cache_read_input_tokens"] == 0, "message_start guesses at the cache")
        demand(usage["cache_creation_input_tokens"] == 0, "message_start guesses at the cache")
    reading.start = message


def on_block_start(reading: Reading, body: dict[str, Any], passed_through: bool) -> None:
    demand(not reading.open, "a block starts while another is open")
    demand(reading.stop_reason is None, "a block starts after message_delta")
    index, count = body["index"], len(reading.content)
    demand(type(index) is int and index == count, f"index {index} after {count} blocks")
    block = dict(body["content_block"])
    kind = block["type"]
    demand(kind in DELTAS or passed_through, f"unknown block {kind}")
    if kind == "tool_use":
        demand(isinstance(block.get("id"), str) and TOOL_ID.match(block["id"]), f"tool id {block.get('id')!r}")
        demand(isinstance(block.get("name"), str) and block["name"], "tool without a name")
        demand(passed_through or block["input"] == {}, "tool input in content_block_start is thrown away by clients")
        ids = [other["id"] for other in reading.content if other["type"] == "tool_use"]
        demand(block["id"] not in ids, f"tool id {block['id']} twice")
        block.pop("input", None)
        block["partial_json"] = ""
    elif kind == "text":
        demand(isinstance(block.get("text"), str), f"text block with text {block.get('text')!r}")
        demand(passed_through or block["text"] == "", "text in content_block_start is thrown away by clients")
    elif kind == "thinking":
        demand(isinstance(block.get("thinking"), str), f"thinking block with thinking {block.get('thinking')!r}")
        demand(passed_through or block["thinking"] == "" == block["signature"], "thinking in content_block_start")
        block["signature"] = block.get("signature") or ""
    reading.content.append(block)
    reading.open = True


def on_block_delta(reading: Reading, body: dict[str, Any], passed_through: bool) -> None:
    if not reading.open or body["index"] != len(reading.content) - 1:
        raise GrammarError(f"delta for a block that is not open: {body}")
    block, delta = reading.content[-1], body["delta"]
    fields = DELTAS.get(block["type"], {})
    if delta["type"] not in fields:
        known = any(delta["type"] in deltas for deltas in DELTAS.values())
        foreign = known and block["type"] in DELTAS
        demand(passed_through and not foreign, f"{delta['type']} in a {block['type']} block")
        return
    name = fields[delta["type"]]
    if name is None:
        return
    if not isinstance(delta[name], str):
        raise GrammarError(f"{delta['type']} without text")
    block[name] = delta[name] if name == "signature" else block[name] + delta[name]


def on_block_stop(reading: Reading, body: dict[str, Any], passed_through: bool) -> None:
    demand(reading.open, "stop without an open block")
    demand(body["index"] == len(reading.content) - 1, "stop for a block that is not open")
    reading.open = False


def on_message_delta(reading: Reading, body: dict[str, Any], passed_through: bool) -> None:
    demand(not reading.open, "message_delta while a block is open")
    demand(reading.stop_reason is None, "second message_delta")
    reason = body["delta"]["stop_reason"]
    demand(isinstance(reason, str) and (reason in STOP_REASONS or passed_through), f"stop_reason {reason!r}")
    usage = body["usage"]
    demand(is_count(usage.get("output_tokens")), f"odd usage {usage}")
    if not passed_through:
        demand("stop_sequence" in body["delta"], "message_delta without stop_sequence")
        for name in ("input_tokens", "cache_read_input_tokens", "cache_creation_input_tokens"):
            demand(is_count(usage.get(name)), f"usage without {name}: {usage}")
    reading.stop_reason = reason
    reading.stop_sequence = body["delta"].get("stop_sequence")
    reading.usage = usage


def on_message_stop(reading: Reading, body: dict[str, Any], passed_through: bool) -> None:
    demand(reading.stop_reason is not None, "message_stop without message_delta")
    reading.finished = True


def on_error(reading: Reading, body: dict[str, Any], passed_through: bool) -> None:
    error = body["error"]
    demand(isinstance(error["type"], str) and isinstance(error["message"], str), f"odd error {body}")
    demand(error["message"], "error without a message")
    demand(isinstance(body.get("request_id"), str), "error without request_id")
    reading.error = error


STEPS = {
    "message_start": on_message_start,
    "content_block_start": on_block_start,
    "content_block_delta": on_block_delta,
    "content_block_stop": on_block_stop,
    "message_delta": on_message_delta,
    "message_stop": on_message_stop,
    "error": on_error,
}


def is_count(value: object) -> bool:
    """A number of tokens: an int that is no bool, zero or more."""
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def inputs(reading: Reading) -> list[tuple[str, Any]]:
    """(name, parsed arguments) of each tool call, in order."""
    return [
        (block["name"], json.loads(block["partial_json"] or "{}"))
        for block in reading.content
        if block["type"] == "tool_use"
    ]


def joined(reading: Reading, kind: str) -> str:
    """All ``text`` or ``thinking`` of a stream in one string."""
    return "".join(block[kind] for block in reading.content if block["type"] == kind)
