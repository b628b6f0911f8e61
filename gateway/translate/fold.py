"""MessageFold: an event stream folded into the Message that a client gets when it does not stream.

Rules:
* One code path: what a streaming client would have been sent is what is folded.
* Open lists: fields of the message, the blocks and the closing delta that nobody here knows are kept.
* A later usage value replaces an earlier one unless it is zero (R106); the numbers of the prompt count together.
* Arguments that are no JSON object go on as ``{"__unparsedToolInput": text}``, the form in which
  Claude Code itself hands broken arguments on (client.md, section 2).
"""

from __future__ import annotations

from typing import Any

from gateway.errors import UpstreamProtocolError
from gateway.wire.json_text import loads_upstream
from gateway.wire.sse import SSEDecoder

MAX_ANSWER_CHARACTERS = 64 * 1024 * 1024
"""Some hundred times the longest answer of any model."""

_JOINED = {"text_delta": "text", "thinking_delta": "thinking", "input_json_delta": "partial_json"}

_PROMPT_TOKENS = ("input_tokens", "cache_read_input_tokens", "cache_creation_input_tokens")



class MessageFold:
    """Folds one stream; one object per request."""

    __slots__ = ("_blocks", "_decoder", "_message", "_pieces", "_size", "_whole")

    def __init__(self) -> None:
        self._size = 0
        self._decoder = SSEDecoder(max_event=1 << 30)
        self._message: dict[str, Any] | None = None
        self._blocks: dict[int, dict[str, Any]] = {}
        self._pieces: dict[int, list[str]] = {}
        self._whole = False

    def feed(self, data: bytes) -> None:
        """Whole events, as a translator returns them."""
        for name, payload in self._decoder.feed(data):
            self._event(name, loads_upstream(payload))

    def message(self) -> dict[str, Any]:
        """The Message. Raises UpstreamProtocolError when the stream had no end."""
        if self._message is None or not self._whole:
            raise UpstreamProtocolError("the upstream's answer ended early")
        self._message["content"] = [self._block(index) for index in sorted(self._blocks)]
        return self._message

    def _event(self, name: str | None, event: dict[str, Any]) -> None:
        if name == "message_start":
            self._message = dict(event["message"])
        elif name == "content_block_start":
            self._blocks[event["index"]] = dict(event["content_block"])
            self._pieces[event["index"]] = []
        elif name == "content_block_delta":
            self._delta(event["index"], event["delta"])
        elif name == "message_delta" and self._message is not None:
            self._message.update(event.get("delta") or {})
            usage = self._message["usage"] = dict(self._message.get("usage") or {})
            told = event.get("usage") or {}
            # A prompt that came from the cache alone has no fresh tokens, and says so.
            whole = any(told.get(field) for field in _PROMPT_TOKENS)
            for field, value in told.items():
                if value or field not in usage or (whole and field in _PROMPT_TOKENS):
                    usage[field] = value
            self._message.update({k: v for k, v in event.items() if k not in ("type", "delta", "usage")})
        elif name == "message_stop":
            self._whole = True

    def _delta(self, index: int, delta: dict[str, Any]) -> None:
        kind = delta.get("type", "")
        field = _JOINED.get(kind)
        if field is not None:
            self._size += len(delta[field])
            if self._size > MAX_ANSWER_CHARACTERS:
                raise UpstreamProtocolError(f"the answer has more than {MAX_ANSWER_CHARACTERS >> 20} Mi characters")
            self._pieces[index].append(delta[field])
        elif kind == "citations_delta":
            block = self._blocks[index]
            if not isinstance(block.get("citations"), list):
                block["citations"] = []
            block["citations"].append(delta["citation"])
        else:
            self._blocks[index].update({k: v for k, v in delta.items() if k != "type"})

    def _block(self, index: int) -> dict[str, Any]:
        block = self._blocks[index]
        joined = "".join(self._pieces[index])
        if not joined:
            return block
        if block["type"] in ("text", "thinking"):
            block[block["type"]] = block.get(block["type"], "") + joined
        else:
            block["input"] = _arguments(joined)
        return block


def _arguments(text: str) -> dict[str, Any]:
    try:
        value = loads_upstream(text)
    except ValueError:
        value = None
    return value if isinstance(value, dict) else {"__unparsedToolInput": text}
