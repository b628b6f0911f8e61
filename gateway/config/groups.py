"""The section ``groups`` -> Group: what the keys of a group may ask for, where it goes, and how much they may take.

Rule: bounded. The routes of all groups, the configuration's counted for each group that has some of its own,
are at most MAX_ROUTES.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from fnmatch import translate
from itertools import islice
from typing import Any, get_type_hints

from gateway.access.limits import Limits
from gateway.config.document import ListNode, Node, ScalarNode
from gateway.config.fields import INVALID, FieldReader
from gateway.config.mistakes import quoted
from gateway.config.models import Names
from gateway.config.settings import Group
from gateway.errors import NotFound
from gateway.routing import RoutingTable

LIMIT_KEYS = tuple(each.name for each in fields(Limits))
KEYS = ("models", "routes", *LIMIT_KEYS)
MAX_ROUTES = 10_000
MAX_WARNINGS = 20

_NAME = re.compile(r"\w[\w.@+-]{0,63}")
_HINTS: Mapping[str, Any] = {**get_type_hints(Limits), "models": tuple[str, ...]}
_WILD = re.compile(r"\[[^]]*\]|[*?]")


@dataclass(frozen=True, slots=True, eq=False)
class WrittenGroup:
    """One section of ``groups``, read and linked; its table is built when nothing in the file is wrong."""

    name: str
    models: tuple[str, ...] | None
    limits: Limits
    names: Names | None
    """With its own routes; None: it has none."""
    written: tuple[str, ...] = ()
    """``models`` before variables were put in; messages show this."""

    def group(self, table: RoutingTable) -> Group:
        """The group of a configuration that has ``table``."""
        return Group(self.name, self.models, self.names.table_on(table) if self.names else table, self.limits)


def read_groups(node: Node | None, reader: FieldReader, names: Names) -> list[WrittenGroup]:
    """The groups, on top of the ``names`` under ``models``; what is wrong with them is recorded."""
    if node is None:
        return []
    root = reader.section(node, "groups")
    groups: list[WrittenGroup] = []
    routes = 0
    for name, child in root.entries.items():
        if not _NAME.fullmatch(name):
            hint = "letters, digits and . _ @ + -, at most 64"
            reader.mistakes.add(root.keys[name], f"{quoted(name)} cannot be a group's name", hint)
            continue
        group = _group(name, child, reader, names)
        groups.append(group)
        routes += len(group.names.entries) if group.names else 0
        if routes > MAX_ROUTES:
            hint = "each group with routes counts those under 'models', too"
            reader.mistakes.add(root.keys[name], f"groups: more than {MAX_ROUTES} routes in all", hint)
            break
    return groups


def _group(name: str, node: Node, reader: FieldReader, names: Names) -> WrittenGroup:
    path = f"groups.{name}"
    entries = reader.section(node, path, KEYS).entries
    values: dict[str, Any] = {}
    own = None
    for key, child in entries.items():
        if key == "routes":
            own = names.on_top(child, f"{path}.routes")
        elif (value := reader.value(child, _HINTS[key], f"{path}.{key}")) is not INVALID:
            values[key] = value
    models = values.pop("models", None)
    if models == ():
        reader.mistakes.add(entries["models"].mark, f"{path}.models is an empty list", "leave it out to allow all")
    listed = entries.get("models")
    written = (
        tuple(item.text for item in listed.items if isinstance(item, ScalarNode))
        if isinstance(listed, ListNode)
        else ()
    )
    return WrittenGroup(name, models, Limits(**values), own, written)


def idle_names(written: Sequence[WrittenGroup], groups: Mapping[str, Group]) -> list[str]:
    """A warning for every entry of a group's ``models`` that opens nothing, up to MAX_WARNINGS."""
    found = (
        f"groups.{each.name}.models: {quoted(text)} is no name under 'models', and matches none"
        for each in written
        for entry, text in zip(each.models or (), each.written, strict=True)
        if not _opens_something(entry, groups[each.name].table)
    )
    return list(islice(found, MAX_WARNINGS))


def _opens_something(entry: str, table: RoutingTable) -> bool:
    try:
        # Of what it stands for, an example that is no name: ``claude-sonnet-*``, ``provider/*``.
        if entry in table.routes or table.resolve(_WILD.sub("x", entry)).name != "default":
            return True
    except NotFound:
        pass
    return any(map(re.compile(translate(entry)).match, table.routes))
