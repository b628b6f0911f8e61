"""Reads one Anthropic event stream and says everything that is wrong with it.

Checked for every stream: the order of events (one ``message_start`` first, one open block at a time,
indices from 0, one ``message_delta``, one ``message_stop`` last), and that text, thinking and the arguments
of each call are, to the byte, what the upstream sent (streams.py knows). Arguments that differ in spelling
alone are the same.
"""

from __future__ import annotations

import re
from typing import Any

import orjson

from bench.streams import STAMP_DIGITS, Block, Script

JSON = dict[str, Any]

_STAMP = re.compile(rf"\d{{{STAMP_DIGITS}}}")
_KIND_OF = {
    "text_delta": ("text", "text"),
    "thinking_delta": ("thinking", "thinking"),
    "input_json_delta": ("tool_use", "partial_json"),
    "signature_delta": ("thinking", ""),
}
"""Delta -> (the block it belongs to, its field; "" where its content is the gateway's own)."""


def faults(script: Script, body: bytes) -> list[str]:
    """What is wrong with the event stream ``body``, in the order found; empty: it is whole and right."""
    check = _Check(script)
    *events, rest = body.replace(b"\r\n", b"\n").split(b"\n\n")
    for event in events:
        for line in event.split(b"\n"):
            if line.startswith(b"data:"):
                check.event(line[5:])
    if rest.strip():
        check.found.append(f"half an event: {rest[:80]!r}")
    check.end()
    return check.found


class _Check:
    """The state of one stream."""

    def __init__(self, script: Script) -> None:
        self.found: list[str] = []
        self._script = script
        self._blocks: list[Block] = []
        self._open: tuple[str, str] | None = None
        """(type, tool name) of the open block."""
        self._parts: list[str] = []
        self._state = "message_start"
        """The event that must come next; "blocks" in between."""

    def event(self, data: bytes) -> None:
        try:
            event = orjson.loads(data)
            kind = event["type"]
            if kind == "content_block_delta":
                self._delta(event)
            elif kind != "ping":
                self._other(kind, event)
        except (ValueError, LookupError, TypeError) as error:
            self._fault(f"an event that cannot be read ({error!r}): {data[:80]!r}")

    def end(self) -> None:
        if self._state != "end":
            self._fault(f"it ends before its {'end' if self._state == 'blocks' else self._state}")
        self._compare()

    def _fault(self, what: str) -> None:
        self.found.append(what)

    def _delta(self, event: JSON) -> None:
        delta = event["delta"]
        kind, field = _KIND_OF[delta["type"]]
        if self._open is None or event["index"] != len(self._blocks) or kind != self._open[0]:
            self._fault("a delta outside its block")
        elif field:
            self._parts.append(delta[field])

    def _other(self, kind: str, event: JSON) -> None:
        if kind == "error":
            return self._fault(f"an error in mid-stream: {event['error']['message'][:200]}")
        in_turn = {
            "message_start": self._state == "message_start",
            "content_block_start": self._state == "blocks" and self._open is None,
            "content_block_stop": self._state == "blocks" and self._open is not None,
            "message_delta": self._state == "blocks" and self._open is None,
            "message_stop": self._state == "message_stop",
        }
        if not in_turn.get(kind):
            return self._fault(f"{kind} out of turn")
        if kind == "message_start":
            self._state = "blocks"
        elif kind == "content_block_start":
            self._start_block(event)
        elif kind == "content_block_stop":
            self._stop_block(event)
        elif kind == "message_delta":
            self._state = "message_stop"
            if event["delta"]["stop_reason"] != self._script.stop_reason:
                self._fault(f"stop_reason {event['delta']['stop_reason']}")
        else:
            self._state = "end"

    def _start_block(self, event: JSON) -> None:
        block = event["content_block"]
        if event["index"] != len(self._blocks):
            self._fault("a block with a wrong index")
        self._open = (block["type"], block.get("name", ""))
        self._parts = [block[block["type"]]] if block["type"] in ("text", "thinking") else []

    def _stop_block(self, event: JSON) -> None:
        assert self._open is not None
        if event["index"] != len(self._blocks):
            self._fault("the end of a wrong block")
        kind, name = self._open
        content = "".join(self._parts)
        if self._script.stamped:
            content = _STAMP.sub("", content)
        self._blocks.append(Block(kind, content, name))  # type: ignore[arg-type]
        self._open = None

    def _compare(self) -> None:
        expected = self._script.blocks()
        got = tuple(self._blocks)
        if got == expected:
            return
        kinds, wanted = [block.kind for block in got], [block.kind for block in expected]
        if kinds != wanted:
            return self._fault(f"blocks {' '.join(kinds) or 'none'} instead of {' '.join(wanted)}")
        for ours, theirs in zip(got, expected, strict=True):
            if ours.name != theirs.name:
                self._fault("another tool is called")
            if not _same(ours, theirs):
                self._fault(f"{'arguments' if ours.kind == 'tool_use' else ours.kind} differ")


def _same(ours: Block, theirs: Block) -> bool:
    if ours.content == theirs.content or ours.kind != "tool_use":
        return ours.content == theirs.content
    try:
        return bool(orjson.loads(ours.content) == orjson.loads(theirs.content))
    except ValueError:
        return False
