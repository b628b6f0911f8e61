"""OutputItems: which output item an event of a Responses stream speaks of, and what of it was said already.

Rules (R93):
* ``output_index`` names an item; ids rotate on some hosts. Where it is absent, or used for several items,
  the item's id decides, then its call id, then the order.
* A ``done`` event, or the ``output`` of the whole response, brings only what no delta brought: the rest of
  a text that it continues, never a text twice.
* An item is looked up, not looked for, wherever its ids are known: answers have hundreds of items.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from gateway.errors import UpstreamProtocolError
from gateway.translate.cumulative import Cumulative

JSON = dict[str, Any]
Place = tuple[str, int]
"""(``text``, ``refusal``, ``summary``, ``content``, ``arguments`` or ``input``; number of the part)"""

MAX_ITEMS = 2000
"""Of one answer; many times what any has."""

MAX_KEPT_CHARACTERS = 64 * 1024 * 1024
"""What is remembered of one answer, to tell repetitions; some hundred times the longest answer of any model."""


@dataclass(slots=True, eq=False)
class OutputItem:
    """One item of the answer."""

    kind: str
    """``message``, ``reasoning``, ``function_call``…"""
    number: int
    """Its place in the order of arrival."""
    index: int | None = None
    """Its ``output_index``."""
    ids: set[str] = field(default_factory=set)
    call_id: str | None = None
    whole: JSON = field(default_factory=dict)
    """The item as the upstream told it last: provisional until ``done``."""
    done: bool = False
    said: dict[Place, list[str]] = field(default_factory=dict)
    streamed: bool = False
    """A delta came for it."""
    announced: bool = False
    """The client knows of it."""
    closed: bool = False
    """Nothing more is to be done about its end."""
    _cumulative: dict[Place, Cumulative] = field(default_factory=dict)

    def new_part(self, place: Place, delta: str) -> str:
        """``delta`` without what a cumulative upstream already sent."""
        return self._cumulative.setdefault(place, Cumulative()).new_part(delta)

    def fill(self, place: Place, whole: Any) -> str:
        """What is still missing of the part at ``place``, of which ``whole`` is the full text."""
        if not isinstance(whole, str) or not whole:
            return ""
        said = self.text(place)
        if said:
            return self.say(place, whole[len(said) :]) if whole.startswith(said) else ""
        if self.streamed and any(whole in self.text(other) for other in self.said if other[0] == place[0]):
            return ""
        return self.say(place, whole)

    def text(self, place: Place) -> str:
        """What was said of the part at ``place``."""
        pieces = self.said.get(place)
        if not pieces:
            return ""
        if len(pieces) > 1:
            pieces[:] = ["".join(pieces)]
        return pieces[0]

    def say(self, place: Place, text: str) -> str:
        """Files new text of the part at ``place``."""
        if text:
            pieces = self.said.get(place)
            if pieces is None:
                self.said[place] = [text]
            else:
                pieces.append(text)
        return text


class OutputItems:
    """The items of one answer, in order of arrival."""

    __slots__ = ("_by_call", "_by_id", "_by_index", "_cumulative", "_kept", "_open", "_told_ids", "items")

    def __init__(self, *, cumulative: bool) -> None:
        self.items: list[OutputItem] = []
        self._cumulative = cumulative
        self._by_index: dict[int, OutputItem] = {}
        self._by_id: dict[str, OutputItem] = {}
        """The item that was last spoken of under an id."""
        self._told_ids: dict[str, list[OutputItem]] = {}
        """The items that were told with an id."""
        self._by_call: dict[str, list[OutputItem]] = {}
        self._open: dict[int, OutputItem] = {}
        """Number -> item that is not done."""
        self._kept = 0

    def added(self, event: JSON, item: JSON) -> OutputItem:
        """The item of ``output_item.added``."""
        kind = _kind(item)
        index, item_id = _index(event), _string(item.get("id"))
        known = self._by_index.get(index) if index is not None else self._by_id.get(item_id or "")
        if known is None or known.kind != kind or known.done or (known.whole and not _is_same(item, known)):
            known = self._new(kind, index)
        return self._told(known, item)

    def of_delta(self, event: JSON, kind: str) -> OutputItem:
        """The item that a delta, or the end of a part, belongs to."""
        index, item_id = _index(event), event.get("item_id")
        if not isinstance(item_id, str):
            item_id = ""
        item = self._by_id.get(item_id)
        if item is not None and item.kind == kind and index in (None, item.index):
            return item
        item = self._by_index.get(index) if index is not None else None
        if item is None or item.kind != kind:
            same = (other for other in reversed(self._open.values()) if other.kind == kind)
            item = next((other for other in same if index in (None, other.index)), None)
            if item is None:
                item = self._new(kind, index)
                self._by_id[item_id] = item
        return item

    def done(self, event: JSON, item: JSON) -> OutputItem:
        """The item of ``output_item.done``."""
        kind, index = _kind(item), _index(event)
        found = next((other for other in self._same(item) if index in (None, other.index)), None)
        if found is None:
            waiting = [other for other in self._open.values() if other.kind == kind]
            if index is not None:
                waiting = [other for other in waiting if other.index == index]
            elif item.get("call_id"):
                waiting = [other for other in waiting if other.call_id is None]
            found = waiting[0] if waiting else self._new(kind, index)
        return self._told(found, item, done=True)

    def of_response(self, output: Iterable[Any]) -> list[OutputItem]:
        """The items of a whole response, each matched with what was streamed of it."""
        wanted = [(place, item) for place, item in enumerate(output) if isinstance(item, dict)]
        left = {item.number: item for item in self.items}
        found: dict[int, OutputItem] = {}
        for place, item in wanted:
            match = next((other for other in self._same(item) if other.number in left), None)
            if match is not None:
                found[place] = left.pop(match.number)
        there = {(other.kind, other.index): other for other in reversed(left.values())}
        for place, item in wanted:
            if place not in found:
                match = there.get((_kind(item), place))
                if match is None or match.number not in left:
                    match = _first(item, left.values())
                if match is not None:
                    found[place] = left.pop(match.number)
        return [
            self._told(found.get(place) or self._new(_kind(item), place), item, done=True) for place, item in wanted
        ]

    def _same(self, item: JSON) -> list[OutputItem]:
        """The items with ``item``'s own call id or id."""
        kind, call_id, item_id = _kind(item), _string(item.get("call_id")), _string(item.get("id"))
        same = self._by_call.get(call_id, []) if call_id is not None else []
        told = self._told_ids.get(item_id, []) if item_id is not None else []
        same = same + [other for other in told if call_id is None or other.call_id is None]
        return sorted((other for other in same if other.kind == kind), key=lambda other: other.number)

    def add(self, item: OutputItem, place: Place, delta: Any) -> str:
        """The new text of a delta."""
        if not isinstance(delta, str) or not delta:
            return ""
        item.streamed = True
        return self._keep(item.say(place, item.new_part(place, delta) if self._cumulative else delta))

    def fill(self, item: OutputItem, place: Place, whole: Any) -> str:
        """The text that no delta brought."""
        return self._keep(item.fill(place, whole))

    def _keep(self, text: str) -> str:
        self._kept += len(text)
        if self._kept > MAX_KEPT_CHARACTERS:
            raise UpstreamProtocolError(f"the answer has more than {MAX_KEPT_CHARACTERS >> 20} Mi characters")
        return text

    def _new(self, kind: str, index: int | None) -> OutputItem:
        if len(self.items) >= MAX_ITEMS:
            raise UpstreamProtocolError(f"the answer has more than {MAX_ITEMS} output items")
        item = OutputItem(kind, len(self.items), index)
        self.items.append(item)
        self._open[item.number] = item
        if index is not None:
            self._by_index[index] = item
        return item

    def _told(self, known: OutputItem, item: JSON, *, done: bool = False) -> OutputItem:
        known.whole = item
        if done:
            known.done = True
            self._open.pop(known.number, None)
        call_id, item_id = _string(item.get("call_id")), _string(item.get("id"))
        if call_id is not None and known.call_id is None:
            known.call_id = call_id
            self._by_call.setdefault(call_id, []).append(known)
        if item_id is not None:
            self._by_id[item_id] = known
            if item_id not in known.ids:
                known.ids.add(item_id)
                self._told_ids.setdefault(item_id, []).append(known)
        return known


def _is_same(item: JSON, other: OutputItem) -> bool:
    """Whether they have one call id, or one id where a call id is unknown."""
    call_id, item_id = _string(item.get("call_id")), _string(item.get("id"))
    if call_id is not None and other.call_id is not None:
        return other.call_id == call_id
    return item_id is not None and item_id in other.ids


def _first(item: JSON, candidates: Iterable[OutputItem]) -> OutputItem | None:
    """Where ids rotate: the first of the kind, for a call the first whose call id is unknown."""
    kind, called = _kind(item), bool(item.get("call_id"))
    return next((other for other in candidates if other.kind == kind and not (called and other.call_id)), None)


def _kind(item: JSON) -> str:
    return _string(item.get("type")) or ""


def _index(event: JSON) -> int | None:
    index = event.get("output_index")
    return index if isinstance(index, int) and not isinstance(index, bool) else None


def _string(value: Any) -> str | None:
    return value if isinstance(value, str) and value else None
