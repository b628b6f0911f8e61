"""PassthroughTranslator: an Anthropic-type stream, watched and passed on.

Rules (R104, R106, R133, R134):
* Fields, blocks and events that nobody here knows go on as they came.
* What clients build on is checked: the order of events, indices from 0, the type of each block and its
  fields. Text, thinking or input that stands in ``content_block_start`` goes by a delta: clients ignore
  it there (client.md, finding 9).
* The model is the asked name. Usage is never zero. A missing start is made here, a missing end is an error.
* ``safeguard_results`` are relayed from Anthropic's own API alone: a forged one is believed
  (client.md 0b, row 5).
* Nothing is written before the first block, so that an early failure can still be an HTTP error.
"""

from __future__ import annotations

import re
from typing import Any

import orjson

from gateway.errors import UpstreamProtocolError
from gateway.translate.stop_sequences import StopSequences
from gateway.translate.stream_reader import StreamReader
from gateway.translate.upstream_errors import ErrorContext, find_error, payload_error
from gateway.translate.usage import Usage, count, estimated_usage, from_anthropic
from gateway.translate.writer import PING, message_start
from gateway.wire.json_text import dumps
from gateway.wire.sse import encode_event

JSON = dict[str, Any]

_EVENT_NAME = re.compile(r"[a-z][a-z0-9_.-]{0,63}")

_BLOCK_FIELDS = {"text": ("text",), "thinking": ("thinking",), "tool_use": ("id", "name")}
"""Fields of a starting block that are strings."""

_DELTA_OF = {"text": "text_delta", "thinking": "thinking_delta"}
"""Block type -> the delta that carries what stands in its field of the same name."""

_DELTAS: dict[str, tuple[str | None, str | None]] = {
    "text_delta": ("text", "text"),
    "citations_delta": ("text", None),
    "thinking_delta": ("thinking", "thinking"),
    "signature_delta": ("thinking", "signature"),
    "input_json_delta": (None, "partial_json"),
}
"""Delta -> (the only block type it fits, its field that is a string); None: any, none."""


_EMPTY_DELTAS: dict[str, JSON] = {
    "text": {"type": "text_delta", "text": ""},
    "thinking": {"type": "thinking_delta", "thinking": ""},
    "tool_use": {"type": "input_json_delta", "partial_json": ""},
    "server_tool_use": {"type": "input_json_delta", "partial_json": ""},
}
"""Block type -> a delta that adds nothing to it."""

_ANY = (None, None)


class PassthroughTranslator(StreamReader):
    """One answer; one object per request."""

    __slots__ = (
        "_context",
        "_counted",
        "_delta_seen",
        "_estimate",
        "_first_party",
        "_index",
        "_late_start",
        "_message_id",
        "_open",
        "_own_block",
        "_said",
        "_start",
        "_started",
        "_stops",
        "_tool_ids",
        "_whole_input",
    )

    def __init__(
        self,
        context: ErrorContext,
        *,
        message_id: str,
        input_tokens: int,
        first_party: bool,
        stop_sequences: StopSequences | None = None,
    ) -> None:
        """``stop_sequences``: where the upstream does not stop by itself."""
        super().__init__(context.provider, [])
        self.usage = Usage()
        self._context = context
        self._message_id = message_id
        self._estimate = input_tokens
        self._first_party = first_party
        self._stops = stop_sequences or StopSequences((), enforce=False)
        self._start: JSON | None = None
        self._started = False
        self._index = 0
        self._open: tuple[int, str] | None = None
        """(the upstream's index, type) of the open block."""
        self._own_block = False
        """A block of ours is open, which keeps the client listening."""
        self._said = 0
        """Characters of the answer."""
        self._late_start = False
        """``message_start`` came when ours was written already."""
        self._tool_ids: set[str] = set()
        self._whole_input: JSON | None = None
        """The input that stood in a tool call's start, as long as no delta came."""
        self._delta_seen = False
        self._counted = False
        """The end of the answer told how long it was."""

    def usage_so_far(self) -> Usage:
        """What an answer that ends here has cost."""
        known = self.usage
        if known.estimated or (self._counted and known.prompt_tokens):
            return known
        estimate = estimated_usage(self._estimate, self._said)
        return known._replace(
            input_tokens=known.input_tokens if known.prompt_tokens else estimate.input_tokens,
            output_tokens=known.output_tokens if self._counted else max(known.output_tokens, estimate.output_tokens),
            estimated=True,
        )

    def keep_alive(self) -> bytes:
        """An empty delta of the open block; where there is none, in a thinking block of our own."""
        if self._delta_seen:
            return b""
        if self._open is None and not self._own_block:
            self._begin()
            block = {"type": "thinking", "thinking": "", "signature": ""}
            self._write({"type": "content_block_start", "index": self._index, "content_block": block}, b"")
            self._own_block = True
        delta = _EMPTY_DELTAS.get("thinking" if self._open is None else self._open[1])
        if delta is not None:
            self._write_delta(delta)
        return self._take()

    def _json_body(self, body: Any) -> None:
        error = find_error(body) if isinstance(body, dict) else None
        if error is not None:
            raise payload_error(error, self._context)
        raise UpstreamProtocolError(f"{self._provider} answered with JSON instead of an event stream")

    def _event(self, name: str | None, payload: bytes) -> None:
        if payload[:1] != b"{":
            raise self._wrong("an event that is no object")
        try:
            event = orjson.loads(payload)
        except orjson.JSONDecodeError:
            event = self._parse(payload)
        kind = event.get("type", name)
        error = find_error(event)
        if error is not None or kind == "error":
            raise payload_error(error or event, self._context)
        handle = _HANDLERS.get(kind) if isinstance(kind, str) else None
        if "type" not in event:
            event, payload = {"type": kind, **event}, b""
        if 10 in payload:  # a line feed: the event came in several lines
            payload = b""
        if handle is not None:
            handle(self, event, payload)
        elif not isinstance(kind, str) or not _EVENT_NAME.fullmatch(kind):
            raise self._wrong("an event without a type")
        elif self._started:
            self._out.append(encode_event(kind, payload or dumps(event)))

    def _finish(self) -> None:
        if not self.finished:
            raise self._cut_short()
        self.complete = True
        self.usage = self.usage_so_far()

    def _wrong(self, what: str) -> UpstreamProtocolError:
        return UpstreamProtocolError(f"{self._provider} sent {what}")

    # -- events ----------------------------------------------------------------------------------------

    def _message_start(self, event: JSON, payload: bytes) -> None:
        message = event.get("message")
        self._late_start = self._own_block
        if self._start is not None or self._started is not self._late_start or not isinstance(message, dict):
            raise self._wrong("a message_start out of turn")
        ours = message_start(self._message_id, self._context.asked, self._estimate)["message"]
        reported = message.get("usage")
        usage = dict(reported) if isinstance(reported, dict) else {}
        self.usage = from_anthropic(usage, self.usage)
        if not self.usage.prompt_tokens:
            usage["input_tokens"] = self._estimate
        usage["output_tokens"] = count(usage.get("output_tokens")) or 1
        if not self._first_party:
            usage = {"cache_creation_input_tokens": 0, "cache_read_input_tokens": 0, **usage}
        message_id = message["id"] if isinstance(message.get("id"), str) and message["id"] else self._message_id
        merged = {**message, **ours, "id": message_id, "usage": usage}
        self._drop_safeguards(merged)
        self._start = {**event, "message": merged}

    def _block_start(self, event: JSON, payload: bytes) -> None:
        index, block = event.get("index"), event.get("content_block")
        if self._open is not None or self._delta_seen or isinstance(index, bool) or not isinstance(index, int):
            raise self._wrong("a content_block_start out of turn")
        kind = block.get("type") if isinstance(block, dict) else None
        if not isinstance(block, dict) or not isinstance(kind, str):
            raise self._wrong("a content_block_start without its block")
        for field in _BLOCK_FIELDS.get(kind, ()):
            if not isinstance(block.get(field), str):
                raise self._wrong(f"a {kind} block without its {field}")
        if kind == "tool_use":
            if not block["id"] or not block["name"]:
                raise self._wrong("a tool call without an id or a name")
            if block["id"] in self._tool_ids:
                raise self._wrong("two tool calls with one id")
            self._tool_ids.add(block["id"])
            if block["name"] in self._context.tool_names:
                block = {**block, "name": self._context.tool_names[block["name"]]}
                event, payload = {**event, "content_block": block}, b""
        self._open = (index, kind)
        self._begin()
        self._end_own_block()
        early = block.get(kind) if kind in _DELTA_OF else None
        given = block.get("input") if kind == "tool_use" else None
        if early or given or (kind == "tool_use" and "input" not in block):
            empty: JSON = {**block, kind: ""} if early else {**block, "input": {}}
            event, payload = {**event, "content_block": empty}, b""
        self._whole_input = given if isinstance(given, dict) else None
        self._write(event, payload)
        if early and kind == "text" and self._stops.cuts:
            self._write_text(str(early))
        elif early:
            self._write_delta({"type": _DELTA_OF[kind], kind: early})

    def _block_delta(self, event: JSON, payload: bytes) -> None:
        delta = event.get("delta")
        if self._open is None or event.get("index") != self._open[0] or not isinstance(delta, dict):
            raise self._wrong("a delta for a block that is not open")
        kind = delta.get("type")
        if not isinstance(kind, str):
            raise self._wrong("a delta that does not fit its block")
        block, field = _DELTAS.get(kind, _ANY)
        if block is not None and block != self._open[1]:
            raise self._wrong("a delta that does not fit its block")
        if field is not None:
            text = delta.get(field)
            if not isinstance(text, str):
                raise self._wrong(f"a {kind} without its text")
            self._said += len(text)
        if kind == "text_delta" and self._stops.cuts:
            self._write_text(delta["text"])
            return
        if self._whole_input is not None and kind == "input_json_delta" and delta["partial_json"]:
            self._whole_input = None
        self._write(event, payload)

    def _block_stop(self, event: JSON, payload: bytes) -> None:
        if self._open is None or event.get("index") != self._open[0]:
            raise self._wrong("the end of a block that is not open")
        rest = self._stops.close()
        if rest:
            self._write_delta({"type": "text_delta", "text": rest})
        if self._whole_input:
            self._write_delta({"type": "input_json_delta", "partial_json": dumps(self._whole_input).decode()})
        self._write(event, payload)
        self._whole_input = None
        self._open = None
        self._index += 1

    def _message_delta(self, event: JSON, payload: bytes) -> None:
        delta = event.get("delta")
        if self._open is not None or self._delta_seen or not isinstance(delta, dict):
            raise self._wrong("a message_delta out of turn")
        if not isinstance(delta.get("stop_reason"), str):
            raise self._wrong("a message_delta without a stop_reason")
        self._begin()
        self._end_own_block()
        self._delta_seen = True
        self.stop_reason = reason = _stop_reason(delta, bool(self._tool_ids))
        reported = event.get("usage") if isinstance(event.get("usage"), dict) else {}
        self.usage = from_anthropic(reported, self.usage)
        self._counted = count((reported or {}).get("output_tokens")) > 0
        usage = {**(reported or {}), "output_tokens": max(1, self.usage.output_tokens)}
        if self._late_start:
            usage = {**self.usage.to_wire(), **usage}
        wire = {**event, "delta": {"stop_sequence": None, **delta, "stop_reason": reason}, "usage": usage}
        self._drop_safeguards(wire)
        self._drop_safeguards(wire["delta"])
        self._out.append(encode_event("message_delta", dumps(wire)))

    def _message_stop(self, event: JSON, payload: bytes) -> None:
        if not self._delta_seen:
            raise self._wrong("its end without a stop reason")
        self.finished = self.complete = True
        self._out.append(encode_event("message_stop", payload or dumps(event)))

    def _ping(self, event: JSON, payload: bytes) -> None:
        if self._started:
            self._out.append(PING)

    # -- writing ---------------------------------------------------------------------------------------

    def _begin(self) -> None:
        """Writes ``message_start``, which was held until there was something to say."""
        if self._started:
            return
        self._started = True
        start = self._start or message_start(self._message_id, self._context.asked, self._estimate)
        self._out.append(encode_event("message_start", dumps(start)))

    def _end_own_block(self) -> None:
        if self._own_block:
            self._write({"type": "content_block_stop", "index": self._index}, b"")
            self._own_block = False
            self._index += 1

    def _write(self, event: JSON, payload: bytes) -> None:
        """A block's event: as it came, or anew where ``payload`` is empty or the index is not ours."""
        if not payload or event["index"] != self._index:
            payload = dumps({**event, "index": self._index})
        self._out.append(_HEADS[event["type"]] + payload + b"\n\n")

    def _write_delta(self, delta: JSON) -> None:
        self._write({"type": "content_block_delta", "index": self._index, "delta": delta}, b"")

    def _write_text(self, text: str) -> None:
        """Text up to a stop sequence; there the answer ends."""
        text, stopped = self._stops.feed(text)
        if text:
            self._write_delta({"type": "text_delta", "text": text})
        if stopped is None:
            return
        self.stop_reason = "stop_sequence"
        self.finished = self.complete = self._delta_seen = True
        end = {
            "type": "message_delta",
            "delta": {"stop_reason": "stop_sequence", "stop_sequence": stopped},
            "usage": {"output_tokens": max(1, self.usage.output_tokens)},
        }
        self._write({"type": "content_block_stop", "index": self._index}, b"")
        self._out.append(encode_event("message_delta", dumps(end)))
        self._out.append(encode_event("message_stop", b'{"type":"message_stop"}'))

    def _drop_safeguards(self, holder: JSON) -> None:
        if not self._first_party:
            holder.pop("safeguard_results", None)


_HEADS = {
    f"content_block_{part}": b"event: content_block_%b\ndata: " % part.encode() for part in ("start", "delta", "stop")
}


def _stop_reason(delta: JSON, calls: bool) -> str:
    """The stop reason; some servers say ``end_turn`` whatever ended the answer (R85)."""
    reason: str = delta["stop_reason"]
    if reason != "end_turn":
        return reason
    if isinstance(delta.get("stop_sequence"), str):
        return "stop_sequence"
    return "tool_use" if calls else reason


_HANDLERS = {
    "message_start": PassthroughTranslator._message_start,
    "content_block_start": PassthroughTranslator._block_start,
    "content_block_delta": PassthroughTranslator._block_delta,
    "content_block_stop": PassthroughTranslator._block_stop,
    "message_delta": PassthroughTranslator._message_delta,
    "message_stop": PassthroughTranslator._message_stop,
    "ping": PassthroughTranslator._ping,
}
