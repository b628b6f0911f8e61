"""RequestReader: a client's JSON body, parsed; a list of tools that came before is not parsed again.

An agent sends the same tools with every request. In a real one of 123 KB they are 88 KB, and four fifths of
the time to parse it.

Rules:
* What comes out, and what is raised, is what ``loads_request`` says of the same bytes. Whatever is unclear is
  left to it.
* Tools are known by all their bytes, at the one place where they can be the body's own. They are shared
  between requests: for reading only.
* Known are only tools whose bytes are those that ``dumps_request`` writes; so to send them as they came, or
  encoded anew, makes no difference.
* Bounded: MAX_SETS lists, MAX_BYTES of their text; those not seen for longest go first. Each takes as much again
  as objects, and as what was made of it for each kind of upstream that it went to, at most MAX_MADE.

Why it is exact: an object that is cut behind one member and before another leaves two objects. The body is
``{`` HEAD ``,"tools":`` TOOLS ``,`` REST ``}``. Where ``{HEAD}`` and ``{REST}`` are each a whole object with members,
the cuts were between members of the outermost object and in no string; TOOLS is a whole value; so the body is
their members in this order, and a name that comes again replaces what it named before. ``,`` REST may be missing.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any, TypeVar

import orjson

from gateway.wire.json_text import dumps_request, loads_request

MAX_SETS = 32
MAX_BYTES = 2 << 20
LEAST_BYTES = 1024
"""A shorter list is parsed as fast as it is found."""
MAX_MADE = 8
"""Results that one list of tools keeps; more are made anew."""

_NAME = b',"tools":'
_END = b"}]"
_WINDOW = 4096
"""Behind the tools stand only parameters; every client known sends messages and system prompt before them."""
_MAX_ENDS = 16

Made = TypeVar("Made")


class SharedTools(list[Any]):
    """The ``tools`` of a request, which others may share: for reading only."""

    __slots__ = ("_made", "json")

    def __init__(self, tools: list[Any], json: bytes) -> None:
        super().__init__(tools)
        self.json = json
        """The list as ``dumps_request`` writes it."""
        self._made: dict[Hashable, Any] = {}

    def once(self, key: Hashable, make: Callable[[], Made]) -> Made:
        """What ``make`` gives, from the second call with ``key`` on without calling it.

        ``key`` names the maker and holds everything that the result depends on besides the tools.
        """
        if key in self._made:
            made: Made = self._made[key]
            return made
        if len(self._made) >= MAX_MADE:
            self._made.clear()
        made = self._made[key] = make()
        return made


class RequestReader:
    """One per process."""

    def __init__(self) -> None:
        self._known: list[SharedTools] = []
        """The last seen one last."""
        self._bytes = 0

    def loads(self, data: bytes) -> Any:
        """A client's JSON; ``tools`` that are a list of something are a SharedTools. Raises ValueError."""
        place = self._find(data) if len(data) > LEAST_BYTES else None
        body = _with_tools(data, *place) if place is not None else None
        if body is None:
            body = loads_request(data)
            tools = body.get("tools") if isinstance(body, dict) else None
            if tools and isinstance(tools, list):
                known = body["tools"] = _as_shared(tools)
                if place is None and isinstance(known, SharedTools):
                    self._remember(known, data)
        return body

    def _find(self, data: bytes) -> tuple[int, SharedTools] | None:
        """Where known tools stand, and which."""
        end = len(data) if self._known else -1
        floor = max(0, end - _WINDOW)
        for _ in range(_MAX_ENDS):
            end = data.rfind(_END, floor, end) if end >= 0 else -1
            if end < 0:
                return None
            for place in range(len(self._known) - 1, -1, -1):
                tools = self._known[place]
                start = end + len(_END) - len(tools.json)
                if _stands_at(data, start, tools.json):
                    self._known.append(self._known.pop(place))
                    return start, tools
        return None

    def _remember(self, tools: SharedTools, data: bytes) -> None:
        if not LEAST_BYTES <= len(tools.json) <= MAX_BYTES // 4:
            return
        self._known.append(tools)
        if self._find(data) is None:  # spelled otherwise, or elsewhere: they would never be found
            del self._known[-1]
            return
        self._bytes += len(tools.json)
        while len(self._known) > MAX_SETS or self._bytes > MAX_BYTES:
            self._bytes -= len(self._known.pop(0).json)


def tools_json(tools: list[Any]) -> bytes:
    """``tools`` as JSON. Raises InvalidRequest for one nested too deeply."""
    return tools.json if isinstance(tools, SharedTools) else dumps_request(tools)


def dumps_with_tools(wire: dict[str, Any]) -> bytes:
    """``dumps_request(wire)``, for which shared ``tools`` are not encoded again."""
    tools = wire.get("tools")
    if isinstance(tools, SharedTools):
        wire = {**wire, "tools": orjson.Fragment(tools.json)}
    return dumps_request(wire)


def _as_shared(tools: list[Any]) -> list[Any]:
    try:
        return SharedTools(tools, orjson.dumps(tools))
    except TypeError:  # nested too deeply to go anywhere; whoever needs it will say so
        return tools


def _stands_at(data: bytes, start: int, text: bytes) -> bool:
    return start >= len(_NAME) and data.startswith(text, start) and data.endswith(_NAME, 0, start)


def _with_tools(data: bytes, start: int, tools: SharedTools) -> dict[str, Any] | None:
    """The body whose tools stand at ``start``; None where they are not surely the body's own."""
    stop = start + len(tools.json)
    more = data[stop : stop + 1] == b","
    try:
        body = orjson.loads(data[: start - len(_NAME)] + b"}")
        rest = orjson.loads(b"{" + data[stop + more :])
    except orjson.JSONDecodeError:
        return None
    if not body or more != bool(rest):  # a comma without members on both sides, or members without a comma
        return None
    body["tools"] = tools
    body.update(rest)
    result: dict[str, Any] = body
    return result
