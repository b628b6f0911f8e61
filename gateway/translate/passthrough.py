"""Anthropic to Anthropic: request and stream go through nearly untouched.

Rules (R130-R134):
* Open lists: fields, blocks, events and ``anthropic-*`` headers that nobody here knows go on.
* Only the model is renamed, both ways, and our own signatures are taken out: the upstream would refuse
  them. A server that merely speaks this API also loses what only Anthropic's own understands.
* ``safeguard_results`` are relayed from Anthropic's own API alone: a forged one is believed
  (client.md 0b, row 5).
* The stream is watched: grammar, usage, errors, a missing end. A missing start is made here.
"""

from __future__ import annotations

from typing import Any

import orjson

from gateway.errors import UpstreamProtocolError
from gateway.profile import Profile
from gateway.translate.changes import Changes
from gateway.translate.opaque import decode_signature
from gateway.translate.stream_reader import StreamReader
from gateway.translate.upstream_errors import ErrorContext, find_error, payload_error
from gateway.translate.usage import Usage, count, from_anthropic
from gateway.translate.writer import PING, message_start
from gateway.wire.sse import encode_event

JSON = dict[str, Any]

BILLING_MARK = "x-anthropic-billing-header:"


def to_anthropic(body: JSON, profile: Profile, model: str, changes: Changes) -> JSON:
    """The upstream body; ``body`` itself stays as it is."""
    wire = {**body, "model": model}
    if not body.get("stream"):
        changes.add("added", "stream", "the answer is always streamed and folded here")
    wire["stream"] = True
    if not profile.first_party and wire.pop("safeguards", None) is not None:
        changes.add("dropped", "safeguards", "only Anthropic's own API checks tool use; its results are never invented")
    if profile.strip_billing_block:
        _strip_billing(wire, changes)
    wire["messages"] = _without_our_thinking(body["messages"], changes)
    cap, wanted = profile.max_output_tokens, body.get("max_tokens")
    if cap is not None and isinstance(wanted, int) and wanted > cap:
        wire["max_tokens"] = cap
        changes.add("lowered", "max_tokens", f"{wanted} to {cap}, the most this model writes")
    for name in profile.drop_fields:
        if wire.pop(name, None) is not None:
            changes.add("dropped", name, "the upstream refuses it")
    wire.update(profile.extra_body)
    return wire


def _strip_billing(wire: JSON, changes: Changes) -> None:
    system = wire.get("system")
    if isinstance(system, str) and system.startswith(BILLING_MARK):
        wire["system"] = system.partition("\n")[2]
    elif isinstance(system, list):
        kept = [block for block in system if not _is_billing(block)]
        if len(kept) == len(system):
            return
        wire["system"] = kept
    else:
        return
    changes.add("dropped", "system[0]", "Claude Code's billing block empties prefix caches")


def _is_billing(block: Any) -> bool:
    return isinstance(block, dict) and str(block.get("text", "")).startswith(BILLING_MARK)


def _without_our_thinking(messages: list[Any], changes: Changes) -> list[Any]:
    kept: list[Any] = []
    for position, message in enumerate(messages):
        content = message.get("content") if isinstance(message, dict) else None
        if not isinstance(content, list) or not any(map(_is_our_thinking, content)):
            kept.append(message)
            continue
        changes.add("dropped", f"messages[{position}]", "reasoning of another upstream: not valid here")
        blocks = [block for block in content if not _is_our_thinking(block)]
        if blocks:
            kept.append({**message, "content": blocks})
    return kept


def _is_our_thinking(block: Any) -> bool:
    if not isinstance(block, dict) or block.get("type") != "thinking":
        return False
    return decode_signature(block.get("signature")) is not None


_DELTAS = {
    "text_delta": "text",
    "citations_delta": "text",
    "thinking_delta": "thinking",
    "signature_delta": "thinking",
}
"""Deltas that belong to one type of block only."""

_FIELD_OF_DELTA = {
    "text_delta": "text",
    "thinking_delta": "thinking",
    "signature_delta": "signature",
    "input_json_delta": "partial_json",
}


class PassthroughTranslator(StreamReader):
    """One answer of an Anthropic-type upstream; one object per request."""

    def __init__(self, context: ErrorContext, *, message_id: str, input_tokens: int, first_party: bool) -> None:
        super().__init__(context.provider)
        self.usage = Usage()
        self._context = context
        self._message_id = message_id
        self._estimate = input_tokens
        self._first_party = first_party
        self._out: list[bytes] = []
        self._start: JSON | None = None
        self._started = False
        self._open: tuple[int, str] | None = None
        self._last_index = -1
        self._delta_seen = False

    def _take(self) -> bytes:
        out = b"".join(self._out)
        self._out.clear()
        return out

    def _json_body(self, body: Any) -> None:
        error = find_error(body) if isinstance(body, dict) else None
        if error is not None:
            raise payload_error(error, self._context)
        raise UpstreamProtocolError(f"{self._provider} answered with JSON instead of an event stream")

    def _event(self, name: str | None, payload: bytes) -> None:
        event = self._parse(payload) if payload[:1] == b"{" else None
        if not isinstance(event, dict):
            raise UpstreamProtocolError(f"{self._provider} sent an event that is no object")
        kind = event.get("type") if isinstance(event.get("type"), str) else name
        error = find_error(event)
        if error is not None or kind == "error":
            raise payload_error(error or event, self._context)
        handle = _HANDLERS.get(kind or "")
        if handle is not None:
            handle(self, event, payload)
        elif self._started and kind:
            self._out.append(encode_event(kind, payload))

    def _finish(self) -> None:
        if not self.finished:
            raise self._cut_short()
        self.complete = True

    # -- events ----------------------------------------------------------------------------------------

    def _message_start(self, event: JSON, payload: bytes) -> None:
        message = event.get("message")
        if self._start is not None or self._started or not isinstance(message, dict):
            raise UpstreamProtocolError(f"{self._provider} sent a wrong message_start")
        ours = message_start(self._message_id, self._context.asked, self._estimate)["message"]
        usage = message.get("usage")
        usage = dict(usage) if isinstance(usage, dict) else {}
        self.usage = from_anthropic(usage, self.usage)
        if not self.usage.prompt_tokens:
            usage["input_tokens"] = self._estimate
        usage["output_tokens"] = count(usage.get("output_tokens")) or 1
        merged = {**ours, **message, "model": self._context.asked, "usage": usage, "content": [], "role": "assistant"}
        if not isinstance(merged.get("id"), str):
            merged["id"] = self._message_id
        self._drop_safeguards(merged)
        self._start = {**event, "message": merged}

    def _block_start(self, event: JSON, payload: bytes) -> None:
        index, block = event.get("index"), event.get("content_block")
        if self._open is not None or self._delta_seen or not isinstance(block, dict):
            raise UpstreamProtocolError(f"{self._provider} sent a content_block_start out of turn")
        if not isinstance(index, int) or index <= self._last_index or not isinstance(block.get("type"), str):
            raise UpstreamProtocolError(f"{self._provider} sent a wrong content_block_start")
        self._open = (index, block["type"])
        self._last_index = index
        self._begin()
        self._out.append(encode_event("content_block_start", payload))

    def _block_delta(self, event: JSON, payload: bytes) -> None:
        delta = event.get("delta")
        if self._open is None or event.get("index") != self._open[0] or not isinstance(delta, dict):
            raise UpstreamProtocolError(f"{self._provider} sent a delta for a block that is not open")
        kind = delta.get("type")
        if not isinstance(kind, str) or _DELTAS.get(kind, self._open[1]) != self._open[1]:
            raise UpstreamProtocolError(f"{self._provider} sent a delta that does not fit its block")
        if kind in _FIELD_OF_DELTA and not isinstance(delta.get(_FIELD_OF_DELTA[kind]), str):
            raise UpstreamProtocolError(f"{self._provider} sent a {kind} without its text")
        self._out.append(encode_event("content_block_delta", payload))

    def _block_stop(self, event: JSON, payload: bytes) -> None:
        if self._open is None or event.get("index") != self._open[0]:
            raise UpstreamProtocolError(f"{self._provider} closed a block that is not open")
        self._open = None
        self._out.append(encode_event("content_block_stop", payload))

    def _message_delta(self, event: JSON, payload: bytes) -> None:
        delta = event.get("delta")
        if self._open is not None or self._delta_seen or not isinstance(delta, dict):
            raise UpstreamProtocolError(f"{self._provider} sent a wrong message_delta")
        self._begin()
        self._delta_seen = True
        self.usage = from_anthropic(event.get("usage"), self.usage)
        reason = delta.get("stop_reason")
        self.stop_reason = reason if isinstance(reason, str) else None
        reported = event.get("usage") if isinstance(event.get("usage"), dict) else {}
        usage = {"output_tokens": self.usage.output_tokens, **(reported or {})}
        if not usage["output_tokens"]:
            usage["output_tokens"] = max(1, self.usage.output_tokens)
        wire = {**event, "delta": {"stop_sequence": None, **delta}, "usage": usage}
        self._drop_safeguards(wire)
        self._drop_safeguards(wire["delta"])
        self._out.append(encode_event("message_delta", orjson.dumps(wire)))

    def _message_stop(self, event: JSON, payload: bytes) -> None:
        if not self._delta_seen:
            raise UpstreamProtocolError(f"{self._provider} ended its answer without a stop reason")
        self.finished = self.complete = True
        self._out.append(encode_event("message_stop", payload))

    def _ping(self, event: JSON, payload: bytes) -> None:
        if self._started:
            self._out.append(PING)

    def _begin(self) -> None:
        """Writes ``message_start``, which was held until there was something to say."""
        if self._started:
            return
        self._started = True
        start = self._start or message_start(self._message_id, self._context.asked, self._estimate)
        self._out.append(encode_event("message_start", orjson.dumps(start)))

    def _drop_safeguards(self, holder: JSON) -> None:
        if not self._first_party:
            holder.pop("safeguard_results", None)


_HANDLERS = {
    "message_start": PassthroughTranslator._message_start,
    "content_block_start": PassthroughTranslator._block_start,
    "content_block_delta": PassthroughTranslator._block_delta,
    "content_block_stop": PassthroughTranslator._block_stop,
    "message_delta": PassthroughTranslator._message_delta,
    "message_stop": PassthroughTranslator._message_stop,
    "ping": PassthroughTranslator._ping,
}
