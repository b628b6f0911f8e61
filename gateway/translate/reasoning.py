"""Reasoning: found in a chat delta, collected for the next turn, put back where it came from.

Rules (R59, R60, R73):
* The text comes from the first non-empty of ``reasoning_content``, ``reasoning``, ``reasoning_text``,
  else from ``reasoning_details`` or from ``thinking`` parts of the content.
* What must go back rides in the thinking block's signature (opaque.py): the provider, the field, and
  details that have no text of their own. A block of another provider is never sent as this one's.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from gateway.translate.cumulative import Cumulative
from gateway.translate.opaque import encode_signature

FIELDS = ("reasoning_content", "reasoning", "reasoning_text")
DETAILS = "reasoning_details"
TAGS = "tags"
"""The field name that stands for ``<think>`` tags in the content."""


@dataclass(slots=True)
class _Detail:
    """One of the ``reasoning_details``, put together from its deltas."""

    told: dict[str, Any]
    pieces: dict[str, list[str]] = field(default_factory=dict)
    """Field -> its text, where more than one delta brought it."""

    def extend(self, item: dict[str, Any], name: str, text: str) -> None:
        """A later delta, whose ``text`` belongs to the field ``name``."""
        if text:
            before = self.told.setdefault(name, "")
            self.pieces.setdefault(name, [before] if isinstance(before, str) else []).append(text)
        for key, value in item.items():
            if key != name and value is not None:
                self.told[key] = value
                self.pieces.pop(key, None)

    def whole(self, shown: str) -> dict[str, Any]:
        """The detail; text that the block shows anyway is not carried twice."""
        for name, pieces in self.pieces.items():
            self.told[name] = "".join(pieces)
        return {**self.told, "text": None} if self.told.get("text") == shown and shown else self.told


class ReasoningCollector:
    """The reasoning of one answer; one object per stream."""

    __slots__ = ("_cumulative", "_details", "_field", "_model", "_provider", "_text")

    def __init__(self, provider: str, model: str, *, cumulative: bool) -> None:
        self._provider = provider
        self._model = model
        self._cumulative: dict[Any, Cumulative] | None = {} if cumulative else None
        self._field: str | None = None
        self._details: list[_Detail] = []
        self._text: list[str] = []

    def delta(self, delta: dict[str, Any]) -> str:
        """The new reasoning text of a chat delta."""
        text = ""
        for name in FIELDS:
            value = delta.get(name)
            if isinstance(value, str) and value:
                self._field = self._field or name
                text = value if self._cumulative is None else self.new_part(name, value)
                break
        else:
            value = None
        details = delta.get(DETAILS)
        if isinstance(details, list):
            repeated = [self._detail(item) for item in details if isinstance(item, dict)]
            text = text if value else "".join(repeated)
        if text:
            self._text.append(text)
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
            state["d"] = [detail.whole(text) for detail in self._details]
        if gaps is not None:
            state["g"] = gaps
        self._text = []
        self._details = []
        return encode_signature(state)

    def _detail(self, item: dict[str, Any]) -> str:
        """Files one detail, joined to the one before where both are pieces of one text; its new text."""
        text = item.get("text")
        if not isinstance(text, str):
            text = item.get("summary")
        if not isinstance(text, str):
            text = ""
        if self._cumulative is not None:
            text = self.new_part((DETAILS, str(item.get("index")), str(item.get("type"))), text)
        name = "summary" if "summary" in item else "text"
        if self._details and _same_text(self._details[-1].told, item):
            self._details[-1].extend(item, name, text)
        else:
            self._details.append(_Detail({**item, name: text} if text else dict(item)))
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
