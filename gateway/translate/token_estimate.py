"""TokenEstimator: how many tokens a request has, learnt from what upstreams report.

Rules:
* Local and fast: the bytes of the text, divided by the bytes per token of the upstream model.
* That figure starts at a value for English text and code and follows the upstream's reports, smoothed.
* Images and documents are counted apart; their base64 says nothing about tokens.
* Never zero: Claude Code's context meter needs a number.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from gateway.wire.json_text import dumps_request
from gateway.wire.request_reader import tools_json

DEFAULT_BYTES_PER_TOKEN = 3.6
"""English prose and code mixed with JSON schemas; calibration replaces it after the first answer."""
IMAGE_TOKENS = 1600
"""What Anthropic counts for a full-size image (docs.claude.com/en/docs/build-with-claude/vision)."""
PDF_BYTES_PER_TOKEN = 30
"""A PDF page takes 1,500-3,000 tokens and some 60 KiB; an order of magnitude, no more."""

MAX_MODELS = 1000
"""Clients may spell any model of a provider; the one that was not seen for longest is forgotten."""

_SMOOTHING = 0.3
_LOWEST, _HIGHEST = 1.0, 12.0
_ENOUGH_TOKENS = 50
"""Below this an upstream's fixed overhead hides the ratio."""


class PromptSize(NamedTuple):
    """What a prompt consists of."""

    text_bytes: int
    other_tokens: int
    """Images and documents."""


def measure(body: dict[str, Any]) -> PromptSize:
    """The size of a request's system prompt, messages and tools. Raises InvalidRequest for one nested too deeply."""
    tools = body.get("tools")
    text = len(tools_json(tools)) if tools else 0
    other = 0
    found: list[Any] = [body.get("system"), *(body.get("messages") or ())]
    for item in found:  # it grows meanwhile
        if isinstance(item, dict):
            kind = item.get("type")
            if "role" in item or kind == "tool_result":
                found.append(item.get("content"))
            elif (kind == "text" or kind == "thinking") and isinstance(words := item.get(kind), str):
                text += len(words) if words.isascii() else _encoded_length(words)
            elif kind == "image":
                other += IMAGE_TOKENS
            elif kind == "document" and (tokens := _document_tokens(item.get("source"))):
                other += tokens
            else:
                text += len(dumps_request(item))
        elif isinstance(item, str):
            text += len(item) if item.isascii() else _encoded_length(item)
        elif isinstance(item, list):
            found += item
    return PromptSize(text, other)


class TokenEstimator:
    """Bytes per token of each upstream model; lives as long as the process."""

    def __init__(self) -> None:
        self._ratios: dict[str, float] = {}

    def estimate(self, target: str, size: PromptSize) -> int:
        """Tokens of a prompt, at least 1; ``target`` is ``provider/model``."""
        ratio = self._ratios.get(target, DEFAULT_BYTES_PER_TOKEN)
        return max(1, round(size.text_bytes / ratio) + size.other_tokens)

    def learn(self, target: str, size: PromptSize, prompt_tokens: int) -> None:
        """What the upstream reported for a prompt of ``size``. Ignored where images blur the figure."""
        if prompt_tokens < _ENOUGH_TOKENS or size.other_tokens > prompt_tokens // 10:
            return
        ratio = min(_HIGHEST, max(_LOWEST, size.text_bytes / (prompt_tokens - size.other_tokens)))
        known = self._ratios.pop(target, None)
        if len(self._ratios) >= MAX_MODELS:
            del self._ratios[next(iter(self._ratios))]
        self._ratios[target] = ratio if known is None else known + _SMOOTHING * (ratio - known)


def _encoded_length(text: str) -> int:
    return len(text.encode("utf-8", "replace"))


def _document_tokens(source: Any) -> int:
    """0 for one that is text."""
    if not isinstance(source, dict) or source.get("type") == "text":
        return 0
    return len(str(source.get("data", ""))) * 3 // 4 // PDF_BYTES_PER_TOKEN + 1
