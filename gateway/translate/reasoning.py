"""Reasoning: found in a chat delta, collected for the next turn, put back where it came from.

Rules (R59, R60, R73):
* The text comes from the first non-empty of ``reasoning_content``, ``reasoning``, ``reasoning_text``,
  else from ``reasoning_details`` or from ``thinking`` parts of the content.
* What must go back rides in the thinking block's signature (opaque.py): the provider, the field, and
  details that have no text of their own. A block of another provider is never sent as this one's.
"""

from __future__ import annotations

from typing import Any

from gateway.translate.cumulative import Cumulative
from gateway.translate.opaque import encode_signature

FIELDS = ("reasoning_content", "reasoning", "reasoning_text")
DETAILS = "reasoning_details"
TAGS = "tags"
"""The field name that stands for ``<think>`` tags in the content."""


class ReasoningCollector:
    """The reasoning of one answer; one object per stream."""

    def __init__(self, provider: str, model: str, *, cumulative: bool) -> None:
        self._provider = provider
        self._model = model
        self._cumulative: dict[Any, Cumulative] | None = {} if cumulative else None
        self._field: str | None = None
        self._details: list[dict[str, Any]] = []
        self._text: list[str] = []

    def delta(self, delta: dict[str, Any]) -> str:
        """The new reasoning text of a chat delta."""
        text = ""
        for name in FIELDS:
            value = delta.get(name)
            if isinstance(value, str) and value:
                self._field = self._field or name
                text = self.new_part(name, value)
                break
        else:
            value = None
        details = delta.get(DETAILS)
        if isinstance(details, list):
            repeated = "".join(self._detail(item) for item in details if isinstance(item, dict))
            text = text if value else repeated
        self.add(text)
        return text

    def new_part(self, name: Any, value: str) -> str:
        """``value`` without what a cumulative upstream already sent."""
        if self._cumulative is None:
            return value
        return self._cumulative.setdefault(name, Cumulative()).new_part(value)

    def add(self, text: str, name: str | None = None) -> None:
        """Reasoning text that was found elsewhere, in the place called ``name``."""
        if text:
            self._text.append(text)
            self._field = self._field or name

    def take_signature(self, gaps: list[str] | None = None) -> str | None:
        """The signature of the reasoning since the last call; None when there was none."""
        text = "".join(self._text)
        if not text.strip() and not self._details:
            self._text = []
            return None
        state: dict[str, Any] = {"p": self._provider, "m": self._model, "f": DETAILS if self._details else self._field}
        if self._details:
            state["d"] = [_without_text(item, text) for item in self._details]
        if gaps is not None:
            state["g"] = gaps
        self._text = []
        self._details = []
        return encode_signature(state)

    def _detail(self, item: dict[str, Any]) -> str:
        """Files one detail, joined to the one before where both are pieces of one text; its new text."""
        text = item.get("text") if isinstance(item.get("text"), str) else item.get("summary")
        place = (DETAILS, str(item.get("index")), str(item.get("type")))
        text = self.new_part(place, text) if isinstance(text, str) else ""
        last = self._details[-1] if self._details else None
        name = "summary" if "summary" in item else "text"
        if last is not None and _same_text(last, item):
            if text:
                last[name] = last.get(name, "") + text
            last.update({k: v for k, v in item.items() if k != name and v is not None})
        else:
            self._details.append({**item, name: text} if text else dict(item))
        return text


def restore_details(state: dict[str, Any], text: str) -> list[dict[str, Any]]:
    """``reasoning_details`` as the upstream sent them, from a signature's state and the block's text."""
    details = state.get("d")
    if not isinstance(details, list):
        return [{"type": "reasoning.text", "text": text}]
    return [{**item, "text": text} if "text" in item and item["text"] is None else item for item in details]


def tagged(text: str, gaps: Any) -> str:
    """``text`` between ``<think>`` tags, with the blanks that the upstream had around them."""
    before, opened, closing, after = gaps if isinstance(gaps, list) and len(gaps) == 4 else ("", "\n", "\n", "\n\n")
    return f"{before}<think>{opened}{text}{closing}</think>{after}"


def _same_text(last: dict[str, Any], item: dict[str, Any]) -> bool:
    return (
        item.get("type") == last.get("type")
        and item.get("type") in ("reasoning.text", "reasoning.summary")
        and item.get("index") == last.get("index")
    )


def _without_text(item: dict[str, Any], text: str) -> dict[str, Any]:
    """Text that the block holds anyway is not carried twice."""
    return {**item, "text": None} if item.get("text") == text and text else item
