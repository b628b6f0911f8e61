"""MessageStreamWriter: the only owner of the event grammar of the Anthropic Messages stream.

    message_start  (content_block_start  content_block_delta*  content_block_stop)*  message_delta  message_stop

Rules, whatever the order of the calls:
* One ``message_start``, indices 0, 1, 2…, one open block at a time, one ``message_delta``, one
  ``message_stop``. An ``error`` event (``error_event``) ends a stream instead: open blocks stay open,
  because a client runs a tool as soon as its block is closed.
* Clients ignore the content of ``content_block_start``; everything goes by deltas (client.md, finding 9).
* Calls that arrive interleaved leave one after another, none lost. A call is closed when something
  else starts and its arguments are a whole JSON object; until then what follows is held back.
* Arguments go on byte for byte. Only an argument text of ``null`` or nothing becomes no delta: ``{}``.
* A run of whitespace alone makes no block: Anthropic refuses such a block when it comes back.
* Nothing is written before there is something to say: ``take`` returns b"" until the first block, so
  that an early failure can still be an HTTP error.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Literal

import orjson

from gateway.errors import GatewayError, UpstreamProtocolError
from gateway.translate.json_progress import JsonProgress
from gateway.translate.usage import Usage, estimated_usage
from gateway.wire.json_text import dumps, without_surrogates
from gateway.wire.sse import encode_event

PING = b'event: ping\ndata: {"type":"ping"}\n\n'

MAX_WAITING_CHARACTERS = 64 * 1024 * 1024
"""What may be held back behind one open call."""


def error_event(error: GatewayError, request_id: str) -> bytes:
    """The event that ends a stream which already began."""
    return encode_event("error", error.envelope(request_id))


def message_start(message_id: str, model: str, input_tokens: int) -> dict[str, Any]:
    """The first event of a stream; ``input_tokens`` is an estimate."""
    return {
        "type": "message_start",
        "message": {
            "id": message_id,
            "type": "message",
            "role": "assistant",
            "model": model,
            "content": [],
            "stop_reason": None,
            "stop_sequence": None,
            "usage": Usage(input_tokens, output_tokens=1).to_wire(),
        },
    }


@dataclass(slots=True)
class _Call:
    id: str
    name: str
    pieces: list[str] = field(default_factory=list)
    """Arguments not written yet."""
    progress: JsonProgress = field(default_factory=JsonProgress)
    live: bool | None = None
    """Whether the arguments began with ``{`` (each piece is written at once) or not (all at the end)."""
    closed: bool = False

    def add(self, arguments: str) -> None:
        self.pieces.append(arguments)
        self.progress.feed(arguments)
        if self.live is None and (start := arguments.lstrip()):
            self.live = start[0] == "{"


@dataclass(slots=True)
class _Held:
    kind: Literal["text", "thinking", "signature", "call", "end"]
    values: list[str]
    call: _Call | None = None


class MessageStreamWriter:
    """Writes one answer; one object per request."""

    __slots__ = (
        "_blank_kind",
        "_blanks",
        "_calls",
        "_delta_head",
        "_ended",
        "_estimate",
        "_held",
        "_index",
        "_message_id",
        "_model",
        "_open",
        "_open_call",
        "_started",
        "_surrogate",
        "_usage",
        "_waiting",
        "_written",
        "out",
    )

    def __init__(self, message_id: str, model: str, input_tokens: int) -> None:
        """``input_tokens``: the estimate for ``message_start``; upstreams report the real number last."""
        self._message_id = message_id
        self._model = model
        self._estimate = input_tokens
        self.out: list[bytes] = []
        """The events that wait for ``take``; the same list for as long as the writer lives."""
        self._started = self._ended = False
        self._index = 0
        self._open: Literal["text", "thinking", "call"] | None = None
        self._open_call: _Call | None = None
        self._delta_head = b""
        """The beginning of each delta of the open block, as far as its content."""
        self._blanks: list[str] | None = None
        """Whitespace that the next block will begin with, if it becomes one; below, whose it is."""
        self._blank_kind: str | None = None
        self._surrogate = ""
        self._calls: dict[Hashable, _Call] = {}
        self._held: deque[_Held] | None = None
        self._waiting = 0
        self._usage: Usage | None = None
        self._written = 0

    # -- what an answer consists of ------------------------------------------------------------------

    @property
    def has_calls(self) -> bool:
        """A tool call was pushed."""
        return bool(self._calls)

    def text(self, text: str) -> None:
        """Visible text."""
        if text:
            if self._open == "text":
                self._append(text)
            elif self._must_wait():
                self._hold(_Held("text", [text]))
            else:
                self._write_run("text", text)

    def thinking(self, text: str) -> None:
        """Reasoning."""
        if text:
            if self._open == "thinking":
                self._append(text)
            elif self._must_wait():
                self._hold(_Held("thinking", [text]))
            else:
                self._write_run("thinking", text)

    def signature(self, signature: str) -> None:
        """The signature of the thinking so far; makes an empty thinking block when there is none."""
        self._push(_Held("signature", [signature]))

    def end_block(self) -> None:
        """What comes next begins a block of its own, also when it is of the same kind."""
        self._push(_Held("end", []))

    def tool_call(self, key: Hashable, call_id: str, name: str, arguments: str) -> None:
        """A piece of a call's arguments. ``call_id`` and ``name`` count when ``key`` is seen first.

        Raises UpstreamProtocolError for arguments after the call's JSON was whole and closed.
        """
        call = self._calls.get(key)
        if call is None:
            call = self._calls[key] = _Call(call_id, name)
            self._push(_Held("call", [], call))
        if not arguments:
            return
        if call.closed:
            if arguments.strip():
                raise UpstreamProtocolError(f"the upstream went on with the arguments of {name} after their end")
            return
        if call is self._open_call:
            if call.live:
                call.progress.feed(arguments)
                self._append(arguments)
            else:
                call.add(arguments)
                self._write_arguments(call)
            if self._held and call.progress.complete:
                self._release()
        else:
            call.add(arguments)
            self._wait(len(arguments))

    def is_whole(self, key: Hashable) -> bool:
        """Whether the arguments of a call are a whole JSON object by now."""
        call = self._calls.get(key)
        return call is not None and call.progress.complete

    @property
    def usage_so_far(self) -> Usage:
        """The token counts, as far as they are known."""
        return self._usage or estimated_usage(self._estimate, self._written)

    def usage(self, usage: Usage) -> None:
        """The final token counts; without them they are estimated."""
        self._usage = usage

    def finish(self, stop_reason: str, stop_sequence: str | None = None) -> Usage:
        """Everything held back, then the closing events. Returns the usage that was written."""
        if self._ended:
            raise AssertionError("finish is called once")
        self._ended = True
        while self._held:
            self._write(self._held.popleft())
        self._close()
        self._start()
        usage = self.usage_so_far
        delta = {
            "type": "message_delta",
            "delta": {"stop_reason": stop_reason, "stop_sequence": stop_sequence},
            "usage": usage.to_wire(),
        }
        self.out.append(encode_event("message_delta", dumps(delta)))
        self.out.append(b'event: message_stop\ndata: {"type":"message_stop"}\n\n')
        return usage

    def keep_alive(self) -> None:
        """A delta without content; where no block is open, in a thinking block that begins with it."""
        if self._ended or self._blanks is not None:
            return
        if self._open is None:
            self._open_block("thinking", _EMPTY_BLOCK["thinking"])
        self.out += (self._delta_head, b'""', _DELTA_END)

    def take(self) -> bytes:
        """The events since the last call."""
        if not self.out:
            return b""
        out = b"".join(self.out)
        self.out.clear()
        return out

    # -- order -----------------------------------------------------------------------------------------

    def _wait(self, size: int) -> None:
        """Counts what must wait; an upstream that never closes a call does not fill the memory."""
        self._waiting += size
        if self._waiting > MAX_WAITING_CHARACTERS:
            raise UpstreamProtocolError("the upstream opened a tool call and sent too much else before its end")

    def _push(self, item: _Held) -> None:
        if self._must_wait():
            self._hold(item)
        else:
            self._write(item)

    def _must_wait(self) -> bool:
        return bool(self._held) or not self._may_leave_call()

    def _hold(self, item: _Held) -> None:
        if self._held is None:
            self._held = deque()
        last = self._held[-1] if self._held else None
        self._wait(sum(map(len, item.values)))
        if last is not None and last.kind == item.kind and item.kind in ("text", "thinking"):
            last.values.extend(item.values)
        else:
            self._held.append(item)
        if self._may_leave_call():
            self._release()

    def _may_leave_call(self) -> bool:
        return self._open_call is None or self._open_call.progress.complete

    def _release(self) -> None:
        while self._held and self._may_leave_call():
            self._write(self._held.popleft())
        if not self._held:
            self._waiting = 0

    # -- blocks ------------------------------------------------------------------------------------------

    def _write(self, item: _Held) -> None:
        if item.kind == "text" or item.kind == "thinking":
            self._write_run(item.kind, "".join(item.values))
        elif item.kind == "signature":
            self._write_signature(item.values[0])
        elif item.kind == "end":
            if self._open in ("text", "thinking"):
                self._close()
        elif item.call is not None:
            self._open_tool_use(item.call)

    def _write_run(self, kind: Literal["text", "thinking"], value: str) -> None:
        if self._open != kind:
            if self._blanks is not None and self._blank_kind != kind:
                self._blanks = None
            if not value.strip():
                self._blanks, self._blank_kind = self._blanks or [], kind
                self._blanks.append(value)
                return
            if self._blanks is not None:
                value = "".join([*self._blanks, value])
            self._open_block(kind, _EMPTY_BLOCK[kind])
        self._append(value)

    def _write_signature(self, signature: str) -> None:
        if self._open != "thinking":
            self._open_block("thinking", _EMPTY_BLOCK["thinking"])
        self.out.append(_SIGNATURE % (self._index, orjson.dumps(signature)))

    def _open_tool_use(self, call: _Call) -> None:
        block = {"type": "tool_use", "id": call.id, "name": call.name, "input": {}}
        self._open_block("call", dumps(block))
        self._open_call = call
        self._write_arguments(call)

    def _write_arguments(self, call: _Call, *, last: bool = False) -> None:
        if not call.pieces or not (call.live or last):
            return
        arguments = "".join(call.pieces)
        call.pieces.clear()
        if not call.live and arguments.strip() in ("", "null"):
            return
        self._append(arguments)

    def _open_block(self, kind: Literal["text", "thinking", "call"], block: bytes) -> None:
        self._close()
        self._start()
        self._open = kind
        self._delta_head = _delta_head(kind, self._index)
        self.out.append(
            b'event: content_block_start\ndata: {"type":"content_block_start","index":%d,"content_block":%b}\n\n'
            % (self._index, block)
        )

    def _append(self, text: str) -> None:
        """A delta of the open block."""
        try:
            data = self._encode(text) if self._surrogate else orjson.dumps(text)
        except TypeError:
            data = self._encode(text)
        if data:
            self._written += len(data)
            self.out += (self._delta_head, data, _DELTA_END)

    def _close(self) -> None:
        self._blanks = None
        if self._open is None:
            return
        if self._open_call is not None:
            self._write_arguments(self._open_call, last=True)
            self._open_call.closed = True
            self._open_call = None
        if self._surrogate:
            self.out.append(self._delta_head + b'"\xef\xbf\xbd"' + _DELTA_END)
            self._surrogate = ""
        self._open = None
        self.out.append(b'event: content_block_stop\ndata: {"type":"content_block_stop","index":%d}\n\n' % self._index)
        self._index += 1

    def _start(self) -> None:
        if self._started:
            return
        self._started = True
        start = message_start(self._message_id, self._model, self._estimate)
        self.out.append(encode_event("message_start", dumps(start)))

    def _encode(self, text: str) -> bytes:
        """``text`` as JSON; half a surrogate pair waits for its other half (b"": all of it waits)."""
        text = self._surrogate + text
        self._surrogate = ""
        if "\ud800" <= text[-1] <= "\udbff":
            text, self._surrogate = text[:-1], text[-1]
        return orjson.dumps(without_surrogates(text)) if text else b""


_DELTA = b'event: content_block_delta\ndata: {"type":"content_block_delta","index":%d,"delta":{"type":'
_DELTA_END = b"}}\n\n"
_DELTA_HEADS = {
    "text": _DELTA + b'"text_delta","text":',
    "thinking": _DELTA + b'"thinking_delta","thinking":',
    "call": _DELTA + b'"input_json_delta","partial_json":',
}
@lru_cache(maxsize=64)
def _delta_head(kind: str, index: int) -> bytes:
    """The beginning of each delta of a block; one object for all streams that are at the same place."""
    return _DELTA_HEADS[kind] % index


_SIGNATURE = _DELTA + b'"signature_delta","signature":%b' + _DELTA_END
_EMPTY_BLOCK = {
    "text": b'{"type":"text","text":""}',
    "thinking": b'{"type":"thinking","thinking":"","signature":""}',
}
