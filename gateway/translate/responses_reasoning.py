"""Reasoning items of the Responses API inside the signature of a thinking block, and back (R59).

Rules:
* The whole item goes back: its id, its ``encrypted_content``, its parts in their form. Text that the block
  shows is not carried twice: the state holds where in the block it stands.
* ``status`` and null fields stay out: the API refuses them on the way in.
* Only an item that a stateless request can use goes back: one with encrypted content or with reasoning text.
* Each item has a thinking block of its own, also when it shows nothing: clients send such a block back, as
  they do with Anthropic's own omitted thinking.
"""

from __future__ import annotations

from typing import Any

from gateway.translate.opaque import encode_signature
from gateway.translate.responses_output import OutputItem, Place
from gateway.translate.writer import MessageStreamWriter
from gateway.wire.json_text import without_surrogates

JSON = dict[str, Any]

ITEM = "item"
"""The name of the place, in a signature's state, of reasoning that came as an item of its own."""

_PART_LISTS = ("summary", "content")
_NOT_SENT = ("status",)


class ThinkingBlocks:
    """Writes the reasoning items of one answer."""

    __slots__ = ("_forms", "_item", "_last_part", "_model", "_provider", "_shown", "_writer")

    def __init__(self, writer: MessageStreamWriter, provider: str, model: str) -> None:
        self._writer = writer
        self._provider = provider
        self._model = model
        self._item: OutputItem | None = None
        """The item whose signature is due."""
        self._shown: list[str] = []
        """Its text in the thinking block."""
        self._forms: dict[OutputItem, str] = {}
        """Which of its two texts (summary or content) an item shows: the first that came."""
        self._last_part: Place | None = None

    def begin(self, item: OutputItem) -> None:
        """A new item."""
        self.sign(None)
        self._writer.end_block()
        self._item = item

    def say(self, item: OutputItem, place: Place, text: str) -> None:
        """Text of an item; parts are told apart by a blank line."""
        if self._forms.setdefault(item, place[0]) != place[0]:
            return  # the same thoughts in their other form; they go back, but are not shown twice
        if item is not self._item:
            self.begin(item)
        if self._shown and self._last_part != place:
            text = "\n\n" + text
        self._last_part = place
        self._shown.append(text)
        self._writer.thinking(text)

    def sign(self, phase: Any) -> None:
        """Closes the item. ``phase``: of the message that follows."""
        if self._item is not None:
            item, shown = self._item, "".join(self._shown)
            self._item, self._shown = None, []
            self._sign([item], shown, phase=phase)

    def sign_late(self, items: list[OutputItem]) -> None:
        """Items whose encrypted content came only after what followed them: a last block keeps their state.

        Some servers tell it with the whole response (earendil-works/pi#6409).
        """
        late = [item for item in items if item.kind == "reasoning" and item.done and not item.closed]
        after = {item: sum(_follows(other, item) for other in items) for item in late}
        late = [item for item in late if item.whole.get("encrypted_content") and after[item]]
        if late:
            self._writer.end_block()
            self._sign(late, "", after=[after[item] for item in late])

    def _sign(self, items: list[OutputItem], shown: str, *, phase: Any = None, after: list[int] | None = None) -> None:
        for item in items:
            item.closed = item.done and bool(item.whole.get("encrypted_content"))
        told = [item.whole if item.done else _as_said(item) for item in items]
        signature = sign_items(self._provider, self._model, told, shown, phase=phase, after=after)
        if signature is not None:
            self._writer.signature(signature)


def _follows(other: OutputItem, item: OutputItem) -> bool:
    """Whether ``other`` is a message or a call that stands behind ``item``, and that the client knows."""
    if other.kind == "reasoning" or not (other.announced or other.said):
        return False
    if other.index is not None and item.index is not None and other.index != item.index:
        return other.index > item.index
    return other.number > item.number


def sign_items(
    provider: str,
    model: str,
    items: list[JSON],
    shown: str,
    *,
    phase: Any = None,
    after: list[int] | None = None,
) -> str | None:
    """The signature of a thinking block with the text ``shown``; None where there is nothing to sign.

    ``items``: the upstream's reasoning items behind it, as they came last. ``phase``: of the message after it.
    ``after``: the block stands behind what followed the items; how many messages and calls followed each.
    """
    shown = without_surrogates(shown)
    if not shown.strip():
        shown = ""  # such a block has no text
    packed = _packed([_sent(item) for item in items], shown)
    if not packed and not shown:
        return None
    state: JSON = {"p": provider, "m": model, "f": ITEM, "d": packed}
    if isinstance(phase, str):
        state["n"] = phase
    if after is not None:
        state["after"] = after
    return encode_signature(state)


def restore_items(state: JSON, text: str) -> list[JSON]:
    """The items of a signature's state; ``text`` is the block's."""
    items = state.get("d")
    if not isinstance(items, list):
        return []
    return [_unpacked(item, text) for item in items if isinstance(item, dict) and item.get("type") == "reasoning"]


def _sent(item: JSON) -> JSON:
    kept = {key: value for key, value in item.items() if value is not None and key not in _NOT_SENT}
    if not kept.get("content"):
        kept.pop("content", None)
    if not isinstance(kept.get("summary"), list):
        kept["summary"] = []
    return kept


def _usable(item: JSON) -> bool:
    content = item.get("content")
    return bool(item.get("encrypted_content")) or (
        isinstance(content, list) and any(isinstance(part, dict) and part.get("text") for part in content)
    )


def _packed(items: list[JSON], shown: str) -> list[JSON]:
    packed: list[JSON] = []
    at = 0
    for item in items:
        item = dict(item)
        for name in _PART_LISTS:
            parts = item.get(name)
            if not isinstance(parts, list):
                continue
            item[name] = []
            for part in parts:
                text = part.get("text") if isinstance(part, dict) else None
                text = without_surrogates(text) if isinstance(text, str) else ""
                start = shown.find(text, at) if text else -1
                if start >= 0:
                    at = start + len(text)
                    part = {**part, "text": [start, at]}
                item[name].append(part)
        if _usable(item):
            packed.append(item)
    return packed


def _unpacked(item: JSON, shown: str) -> JSON:
    item = dict(item)
    for name in _PART_LISTS:
        if isinstance(item.get(name), list):
            item[name] = [_part(part, shown) for part in item[name]]
    return item


def _part(part: Any, shown: str) -> Any:
    place = part.get("text") if isinstance(part, dict) else None
    if isinstance(place, list) and len(place) == 2 and all(isinstance(edge, int) for edge in place):
        return {**part, "text": shown[place[0] : place[1]]}
    return part


def _as_said(item: OutputItem) -> JSON:
    """A reasoning item that was never told whole; what ``added`` says of its encryption is provisional."""
    told: JSON = {"type": item.kind, **{key: value for key, value in item.whole.items() if key != "encrypted_content"}}
    for name, kind in (("summary", "summary_text"), ("content", "reasoning_text")):
        places = sorted(place for place in item.said if place[0] == name)
        told[name] = [{"type": kind, "text": item.text(place)} for place in places]
    return told
