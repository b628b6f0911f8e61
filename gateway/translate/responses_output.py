"""OutputItems: which output item an event of a Responses stream speaks of, and what of it was said already.

Rules (R93):
* ``output_index`` names an item; ids rotate on some hosts. Where it is absent, or used for several items,
  the item's id decides, then its call id, then the order.
* A ``done`` event, or the ``output`` of the whole response, brings only what no delta brought: the rest of
  a text that it continues, never a text twice.
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

    def add(self, place: Place, delta: str, *, cumulative: bool) -> str:
        """What ``delta`` adds to the part at ``place``."""
        self.streamed = True
        if cumulative:
            delta = self._cumulative.setdefault(place, Cumulative()).new_part(delta)
        return self._say(place, delta)

    def fill(self, place: Place, whole: Any) -> str:
        """What is still missing of the part at ``place``, of which ``whole`` is the full text."""
        if not isinstance(whole, str) or not whole:
            return ""
        said = self.text(place)
        if said:
            return self._say(place, whole[len(said) :]) if whole.startswith(said) else ""
        if self.streamed and any(whole in self.text(other) for other in self.said if other[0] == place[0]):
            return ""
        return self._say(place, whole)

    def text(self, place: Place) -> str:
        """What was said of the part at ``place``."""
        pieces = self.said.get(place)
        if not pieces:
            return ""
        if len(pieces) > 1:
            pieces[:] = ["".join(pieces)]
        return pieces[0]

    def _say(self, place: Place, text: str) -> str:
        if text:
            self.said.setdefault(place, []).append(text)
        return text


class OutputItems:
    """The items of one answer, in order of arrival."""

    def __init__(self, *, cumulative: bool) -> None:
        self.items: list[OutputItem] = []
        self._cumulative = cumulative
        self._by_index: dict[int, OutputItem] = {}
        self._by_id: dict[str, OutputItem] = {}
        self._kept = 0

    def added(self, event: JSON, item: JSON) -> OutputItem:
        """The item of ``output_item.added``."""
        kind = _kind(item)
        index, item_id = _index(event), _string(item.get("id"))
        known = self._by_index.get(index) if index is not None else self._by_id.get(item_id or "")
        if known is None or known.kind != kind or known.done or (known.whole and not _same(item, [known])):
            known = self._new(kind, index)
        return self._told(known, item)

    def of_delta(self, event: JSON, kind: str) -> OutputItem:
        """The item that a delta, or the end of a part, belongs to."""
        index, item_id = _index(event), _string(event.get("item_id"))
        item = self._by_id.get(item_id or "")
        if item is not None and item.kind == kind and index in (None, item.index):
            return item
        item = self._by_index.get(index) if index is not None else None
        if item is None or item.kind != kind:
            same = (other for other in reversed(self.items) if other.kind == kind and not other.done)
            item = next((other for other in same if index in (None, other.index)), None)
            if item is None:
                item = self._new(kind, index)
                self._by_id[item_id or ""] = item
        return item

    def done(self, event: JSON, item: JSON) -> OutputItem:
        """The item of ``output_item.done``."""
        kind, index = _kind(item), _index(event)
        found = _same(item, [other for other in self.items if other.kind == kind and index in (None, other.index)])
        if found is None:
            waiting = [other for other in self.items if other.kind == kind and not other.done]
            if index is not None:
                waiting = [other for other in waiting if other.index == index]
            elif item.get("call_id"):
                waiting = [other for other in waiting if other.call_id is None]
            found = waiting[0] if waiting else self._new(kind, index)
        return self._told(found, item, done=True)

    def of_response(self, output: Iterable[Any]) -> list[OutputItem]:
        """The items of a whole response, each matched with what was streamed of it."""
        wanted = [(place, item) for place, item in enumerate(output) if isinstance(item, dict)]
        left = list(self.items)
        found: dict[int, OutputItem] = {}
        for exact in (True, False):
            for place, item in wanted:
                if place in found:
                    continue
                candidates = [other for other in left if other.kind == _kind(item)]
                match = _same(item, candidates) if exact else _likely(place, item, candidates)
                if match is not None:
                    found[place] = match
                    left.remove(match)
        return [
            self._told(found.get(place) or self._new(_kind(item), place), item, done=True) for place, item in wanted
        ]

    def add(self, item: OutputItem, place: Place, delta: Any) -> str:
        """The new text of a delta."""
        if not isinstance(delta, str) or not delta:
            return ""
        return self._keep(item.add(place, delta, cumulative=self._cumulative))

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
        if index is not None:
            self._by_index[index] = item
        return item

    def _told(self, known: OutputItem, item: JSON, *, done: bool = False) -> OutputItem:
        known.whole = item
        known.done = known.done or done
        known.call_id = known.call_id or _string(item.get("call_id"))
        item_id = _string(item.get("id"))
        if item_id is not None:
            known.ids.add(item_id)
            self._by_id[item_id] = known
        return known


def _same(item: JSON, candidates: list[OutputItem]) -> OutputItem | None:
    """The candidate with the item's own call id or id."""
    call_id, item_id = _string(item.get("call_id")), _string(item.get("id"))
    for other in candidates:
        if call_id is not None and other.call_id is not None:
            if other.call_id == call_id:
                return other
        elif item_id is not None and item_id in other.ids:
            return other
    return None


def _likely(place: int, item: JSON, candidates: list[OutputItem]) -> OutputItem | None:
    """Where ids rotate: the candidate at the same place, else the first."""
    there = next((other for other in candidates if other.index == place), None)
    if there is None and item.get("call_id"):
        candidates = [other for other in candidates if other.call_id is None]
    return there or (candidates[0] if candidates else None)


def _kind(item: JSON) -> str:
    return _string(item.get("type")) or ""


def _index(event: JSON) -> int | None:
    index = event.get("output_index")
    return index if isinstance(index, int) and not isinstance(index, bool) else None


def _string(value: Any) -> str | None:
    return value if isinstance(value, str) and value else None
