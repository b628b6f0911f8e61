"""ToolList: the tools that an upstream is offered, written as its wire takes them.

Rule: requests that bring the same tools share one list (wire/request_reader.py), so it is for reading only, and
holds text and names, no object of a request.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from gateway.translate.changes import Change
from gateway.wire.json_text import Encoded, encoded_items

JSON = dict[str, Any]


class OfferedTool(NamedTuple):
    """One tool."""

    name: str
    """As the upstream knows it."""
    data: bytes
    """JSON: an item of the wire's list."""
    changes: tuple[Change, ...] = ()
    """What this wire cannot say of it."""


@dataclass(frozen=True, slots=True)
class ToolList:
    """All that go up, before the tool choice."""

    tools: tuple[OfferedTool, ...]
    upstream_names: Mapping[str, str]
    """Client name -> upstream name."""
    client_names: dict[str, str]
    """Upstream name -> client name."""
    schemas: Mapping[str, JSON]
    """Upstream name -> the types of the arguments, as a schema; only where calls may leak into text."""
    changes: tuple[Change, ...]
    """What happened to the tools."""
    wire: Encoded = field(init=False, repr=False, compare=False)
    """All of them, as the wire's body holds them."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "wire", encoded_items(tool.data for tool in self.tools))

    @property
    def size(self) -> int:
        """Bytes of the text."""
        return sum(len(tool.data) for tool in self.tools)


NO_TOOLS = ToolList((), {}, {}, {}, ())
