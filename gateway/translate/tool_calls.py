"""ToolCalls: the tool-call deltas of a Chat Completions stream, joined into calls.

Rules (R77-R80), each from an upstream that does it:
* A delta belongs to the call with its id, else with its index, else at its place in the array, else to
  the latest call.
* A new id on a used index is a new call, if the delta also names a function; without a name it is a
  continuation whose id rotates.
* Without an id, a name on top of whole arguments starts a new call (every call on index 0).
* An empty id or name says nothing. Names are set once and never joined.
* A call is announced when its name is known, and its id is known or arguments have begun; a missing id
  is made from the message id.
* Arguments that come as objects are merged and leave once, at the end.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from gateway.errors import UpstreamProtocolError
from gateway.translate.opaque import encode_tool_id
from gateway.translate.writer import MessageStreamWriter
from gateway.wire.json_text import dumps

_ID_CHARACTERS = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-")


@dataclass(slots=True, eq=False)
class _Call:
    number: int
    upstream_id: str | None = None
    client_id: str = ""
    name: str | None = None
    extra: Any = None
    waiting: list[str] = field(default_factory=list)
    merged: dict[str, Any] | None = None
    announced: bool = False


class ToolCalls:
    """The calls of one answer; pushes them to the writer."""

    __slots__ = (
        "_calls",
        "_known",
        "_message_id",
        "_names",
        "_past_ids",
        "_provider",
        "_used_ids",
        "_writer",
    )

    def __init__(
        self,
        writer: MessageStreamWriter,
        *,
        provider: str,
        message_id: str,
        names: Mapping[str, str],
        used_ids: Collection[str],
    ) -> None:
        """``names``: the upstream's name -> the client's, where they differ. ``used_ids``: ids in the history, kept."""
        self._writer = writer
        self._provider = provider
        self._message_id = message_id
        self._names = names
        self._past_ids = used_ids
        self._used_ids: dict[str, _Call] = {}
        self._calls: list[_Call] = []
        self._known: dict[str | int, _Call] = {}
        """By the upstream's id, and by its index."""

    def feed(self, deltas: list[Any]) -> None:
        """One ``tool_calls`` array. Raises UpstreamProtocolError when it makes no sense."""
        alone = len(deltas) == 1
        for position, delta in enumerate(deltas):
            if not isinstance(delta, dict):
                raise UpstreamProtocolError("the upstream sent a tool call that is no object")
            function = delta.get("function")
            if not isinstance(function, dict):
                function = delta
            self._delta(delta, function, position, alone=alone)

    def whole(self, name: str, arguments: Any) -> None:
        """A call that came in one piece, outside ``tool_calls``."""
        call = self._new(None, None)
        self._extend(call, {"name": name, "arguments": arguments})

    def finish(self) -> None:
        """The answer ends: announce what waited. Raises UpstreamProtocolError for a call without a name."""
        for call in self._calls:
            if call.name is None:
                if call.upstream_id is None and not call.waiting and call.merged is None:
                    continue
                raise UpstreamProtocolError("the upstream sent a tool call without a name")
            if call.merged is not None:
                call.waiting.append(dumps(call.merged).decode())
            self._announce(call)

    def _delta(self, delta: dict[str, Any], function: dict[str, Any], position: int, *, alone: bool) -> None:
        call_id = delta.get("id")
        if not isinstance(call_id, str) or not call_id:
            call_id = None
        index = delta.get("index")
        if isinstance(index, bool) or not isinstance(index, int):
            index = None
        call = self._find(call_id, index, function, position, alone=alone)
        if call is None:
            call = self._new(call_id, index)
        if call_id is not None:
            self._known[call_id] = call
            call.upstream_id = call.upstream_id or call_id
        if call.extra is None and "extra_content" in delta:
            call.extra = delta["extra_content"]
        self._extend(call, function)

    def _find(
        self, call_id: str | None, index: int | None, function: dict[str, Any], position: int, *, alone: bool
    ) -> _Call | None:
        if call_id is not None and call_id in self._known:
            return self._known[call_id]
        name = function.get("name")
        named = isinstance(name, str) and name != ""
        if index is not None:
            call = self._known.get(index)
        elif alone:
            call = self._calls[-1] if self._calls else None
        else:
            call = self._calls[position] if position < len(self._calls) and not named else None
        if call is None or not isinstance(name, str) or not named:
            return call
        if call_id is not None:
            return call if call.upstream_id is None and not self._is_whole(call) else None
        other = call.name is not None and call.name != self._names.get(name, name)
        if self._is_whole(call):
            return None if other or function.get("arguments") else call
        return None if other and index is None else call

    def _is_whole(self, call: _Call) -> bool:
        return call.announced and self._writer.is_whole(call)

    def _new(self, call_id: str | None, index: int | None) -> _Call:
        call = _Call(number=len(self._calls), upstream_id=call_id)
        self._calls.append(call)
        if index is not None:
            self._known[index] = call
        return call

    def _extend(self, call: _Call, function: dict[str, Any]) -> None:
        arguments = function.get("arguments")
        if call.announced and isinstance(arguments, str):
            self._writer.tool_call(call, call.client_id, call.name or "", arguments)
            return
        name = function.get("name")
        if call.name is None and isinstance(name, str) and name:
            call.name = self._names.get(name, name)
        if isinstance(arguments, dict):
            call.merged = {**(call.merged or {}), **arguments}
            return
        if isinstance(arguments, list):
            arguments = dumps(arguments).decode()
        if isinstance(arguments, str) and arguments:
            call.waiting.append(arguments)
        if call.name is not None and (call.upstream_id is not None or call.waiting):
            self._announce(call)

    def _announce(self, call: _Call) -> None:
        if not call.announced:
            call.announced = True
            call.client_id = self._client_id(call)
        arguments = "".join(call.waiting)
        call.waiting.clear()
        self._writer.tool_call(call, call.client_id, call.name or "", arguments)

    def _client_id(self, call: _Call) -> str:
        """The id for the client: the upstream's own, or one that hides it (opaque.py)."""
        if call.upstream_id is None:
            call_id = f"toolu_{self._message_id.removeprefix('msg_')[:28]}{call.number}"
        elif call.extra is not None or not _ID_CHARACTERS.issuperset(call.upstream_id):
            call_id = encode_tool_id(call.upstream_id, self._provider, call.extra)
        else:
            call_id = call.upstream_id
        salt = 0
        while call_id in self._past_ids or call_id in self._used_ids:
            salt += 1
            call_id = encode_tool_id(call.upstream_id or call_id, self._provider, call.extra, salt)
        self._used_ids[call_id] = call
        return call_id
