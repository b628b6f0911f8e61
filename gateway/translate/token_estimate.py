"""TokenEstimator: how many tokens a request has, learnt from what upstreams report.

Rules:
* Local and fast: the bytes of the text, divided by the bytes per token of the upstream model.
* That figure starts at a value for English text and code and follows the upstream's reports, smoothed.
* Images and documents are counted apart; their base64 says nothing about tokens.
* Never zero: Claude Code's context meter needs a number.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from gateway.wire.json_text import dumps_request

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


@dataclass(frozen=True, slots=True)
class PromptSize:
    """What a prompt consists of."""

    text_bytes: int
    other_tokens: int
    """Images and documents."""


def measure(body: dict[str, Any]) -> PromptSize:
    """The size of a request's system prompt, messages and tools. Raises InvalidRequest for one nested too deeply."""
    text = 0
    other = 0
    tools = body.get("tools")
    if tools:
        text += len(dumps_request(tools))
    for block in _blocks(body):
        kind = block.get("type")
        source = block.get("source")
        if kind == "image":
            other += IMAGE_TOKENS
        elif kind == "document" and isinstance(source, dict) and source.get("type") != "text":
            other += len(str(source.get("data", ""))) * 3 // 4 // PDF_BYTES_PER_TOKEN + 1
        else:
            text += _text_bytes(block)
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


def _blocks(body: dict[str, Any]) -> Iterable[dict[str, Any]]:
    stack: list[Any] = [body.get("system"), *(body.get("messages") or [])]
    while stack:
        item = stack.pop()
        if isinstance(item, str):
            yield {"type": "text", "text": item}
        elif isinstance(item, list):
            stack.extend(item)
        elif isinstance(item, dict):
            if "role" in item or item.get("type") == "tool_result":
                stack.append(item.get("content"))
            else:
                yield item


def _text_bytes(block: dict[str, Any]) -> int:
    kind = block.get("type")
    value = block.get(kind) if kind in ("text", "thinking") else None
    if isinstance(value, str):
        return len(value) if value.isascii() else len(value.encode("utf-8", "replace"))
    return len(dumps_request(block))
