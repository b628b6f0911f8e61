"""Nodes -> typed values, checked against the annotations of our own dataclasses.

Rules:
* The annotation is the schema: a new Profile field needs nothing here.
* A mistake is collected and INVALID returned; reading goes on, so that all are found.
* What was resolved from a variable or a file is remembered as a secret, and never shown.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import MISSING, fields, is_dataclass
from enum import Enum
from functools import cache
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Final, Literal, Union, get_args, get_origin, get_type_hints

from gateway.access.limits import Budget
from gateway.config.amounts import budgets, count
from gateway.config.document import ListNode, MapNode, Node, ScalarNode, core_value
from gateway.config.mistakes import Mistakes, listed, quoted
from gateway.config.variables import Expanded, MalformedReference, expand
from gateway.profile import APIS, Profile


class _Invalid(Enum):
    INVALID = 0


INVALID: Final = _Invalid.INVALID
"""Stands for a value that could not be read; the mistake is already recorded."""

PROFILE_HINTS: Final[Mapping[str, Any]] = get_type_hints(Profile)

_hints = cache(get_type_hints)  # as slow as the rest of a key of keys.yaml together
_SMALLEST = {"stop_limit": 0, "port": 0, "max_retry_after": 0}
"""The others: 1, and numbers that need not be whole more than 0."""
_LARGEST = {"port": 65535, "budget": 1, "weight": 1000}
_COUNTS = frozenset(("rpm", "tpm", "concurrency"))
"""Whole numbers that may be written ``400k``."""
_WORDS: Mapping[Any, str] = {
    str: "text",
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    NoneType: "nothing",
    tuple: "a list",
    Mapping: "a mapping",
}
_HEADER_NAME = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
_CREDENTIAL_HEADER = re.compile(r"auth|key|token|secret|cookie", re.IGNORECASE)
_SHORTEST_GUESSED_SECRET = 8
"""Shorter values of variables outside ``api_key`` and ``token`` are rather settings than secrets."""


def is_header_value(text: str) -> bool:
    """Visible ASCII, with blanks only inside: what every HTTP stack sends unchanged."""
    return text.isascii() and text.isprintable() and text == text.strip()


class FieldReader:
    """Reads the values of one file."""

    def __init__(
        self, mistakes: Mistakes, env: Mapping[str, str], directory: Path, apis: Collection[str] = APIS
    ) -> None:
        self.mistakes = mistakes
        self.env = env
        self.directory = directory
        self.apis = apis
        self.secrets: set[str] = set()
        self.files: set[Path] = set()
        self.inline: list[str] = []
        """Where a secret stands in the file itself."""

    # -- mappings ---------------------------------------------------------------------------------

    def section(self, node: Node, path: str, known: Collection[str] | None = None) -> MapNode:
        """A mapping; an empty value is an empty one. Keys that are not ``known`` are mistakes and left out."""
        if isinstance(node, ScalarNode) and node.is_null:
            return MapNode(node.mark, {}, {})
        if not isinstance(node, MapNode):
            self.expected("a mapping", node, path)
            return MapNode(node.mark, {}, {})
        if known is None:
            return node
        for key, mark in node.keys.items():
            if key not in known:
                hint = self.mistakes.did_you_mean(key, known) or f"known here: {listed(sorted(known))}"
                self.mistakes.add(mark, f"unknown key {quoted(key)} in {shown(path)}", hint)
        return MapNode(node.mark, {key: value for key, value in node.entries.items() if key in known}, node.keys)

    def profile(self, node: Node, path: str) -> dict[str, Any]:
        """Fields of a Profile, as a layer for ``merge``."""
        layer = self.typed(node, path, PROFILE_HINTS)
        if layer.get("api", APIS[0]) not in self.apis:
            self.unknown_api(layer.pop("api"), self.section(node, path).entries["api"], path)
        return layer

    def unknown_api(self, api: str, node: Node, path: str) -> None:
        """Records an API that no adapter speaks."""
        hint = self.mistakes.did_you_mean(api, self.apis) or f"known: {listed(sorted(self.apis))}"
        self.mistakes.add(node.mark, f"{shown(path)}: unknown api {written(node)}", hint)

    def typed(self, node: Node, path: str, hints: Mapping[str, Any]) -> dict[str, Any]:
        """The entries of a mapping whose keys and types are ``hints``; invalid ones are left out."""
        layer: dict[str, Any] = {}
        for key, child in self.section(node, path, hints).entries.items():
            here = f"{path}.{key}"
            value = self.headers(child, here) if key == "extra_headers" else self.value(child, hints[key], here)
            if value is not INVALID:
                layer[key] = value
        return layer

    def headers(self, node: Node, path: str) -> dict[str, str]:
        """Header name -> value."""
        found: dict[str, str] = {}
        section = self.section(node, path)
        for name, child in section.entries.items():
            value = self.value(child, str, f"{path}.{name}")
            if not _HEADER_NAME.fullmatch(name):
                self.mistakes.add(section.keys[name], f"{quoted(name)} in {shown(path)} cannot be a header's name")
            elif value is not INVALID and not is_header_value(value):
                self.mistakes.add(
                    child.mark, f"{shown(path)}.{shown(name)} holds characters that a header cannot carry"
                )
            elif value is not INVALID:
                found[name] = value
                if _CREDENTIAL_HEADER.search(name):
                    self.secrets.add(value)
        return found

    # -- values -----------------------------------------------------------------------------------

    def value(self, node: Node, kind: Any, path: str) -> Any:
        """``node`` as the annotated type ``kind``, or INVALID."""
        origin, args = get_origin(kind), get_args(kind)
        if origin in (Union, UnionType):
            if isinstance(node, ScalarNode) and node.is_null:
                return None
            return self.value(node, args[0], path)
        if origin is Literal:
            return self._choice(node, args, path)
        if origin is tuple:
            return self._budgets(node, path) if args[0] is Budget else self._list(node, args[0], path)
        if kind is Any:
            return self._json(node, path)
        if isinstance(kind, type) and is_dataclass(kind):
            return self._dataclass(node, kind, path)
        if origin is not None:
            return self._mapping(node, args[1], path)
        return self._scalar(node, kind, path)

    def expand(self, node: ScalarNode, path: str) -> Expanded | None:
        """The text with its references put in; missing ones are the caller's to report."""
        try:
            expanded = expand(node.text, self.env, self.directory)
        except MalformedReference:
            self.mistakes.add(
                node.mark,
                f"{shown(path)}: '${{' begins no reference",
                "write ${VAR}, ${VAR:-default} or ${file:/path}; a literal $ is $$",
            )
            return None
        self.files.update(expanded.files)
        self.secrets.update(value for value in expanded.values if len(value) >= _SHORTEST_GUESSED_SECRET)
        return expanded

    def resolved(self, node: ScalarNode, path: str) -> Expanded | None:
        """As ``expand``, where a missing reference is a mistake."""
        expanded = self.expand(node, path)
        if expanded is None or not expanded.missing:
            return expanded
        for source in expanded.missing:
            what = f"file {quoted(source)} cannot be read" if source not in _names(expanded) else f"{source} is not set"
            self.mistakes.add(node.mark, f"{shown(path)}: {what}", "set it, or give a default: ${VAR:-default}")
        return None

    def expected(self, what: str, node: Node, path: str) -> _Invalid:
        """Records a wrong type; the value itself is not shown."""
        self.mistakes.add(node.mark, f"{shown(path)}: expected {what}, found {_found(node)}")
        return INVALID

    def _dataclass(self, node: Node, kind: Any, path: str) -> Any:
        """INVALID also when a field that has no default is missing."""
        before = len(self.mistakes.found)
        values = self.typed(node, path, _hints(kind))
        written = node.entries if isinstance(node, MapNode) else {}
        required = [each.name for each in fields(kind) if each.default is MISSING and each.default_factory is MISSING]
        if len(self.mistakes.found) == before or isinstance(node, MapNode):
            for name in required:
                if name not in written:
                    self.mistakes.add(node.mark, f"{shown(path)} has no '{name}'")
        return kind(**values) if values.keys() >= set(required) else INVALID

    def _budgets(self, node: Node, path: str) -> Any:
        """One budget or a list of them; those that are right."""
        texts: list[str] = []
        found: tuple[Budget, ...] = ()
        for item in node.items if isinstance(node, ListNode) else (node,):
            text = self.value(item, str, path)
            read = INVALID if text is INVALID else self._amount(lambda text: budgets((*texts, text)), item, text, path)
            if read is not INVALID:
                texts.append(text)
                found = read
        return found

    def _amount(self, read: Callable[[str], Any], node: Node, text: str, path: str) -> Any:
        """``text``, the resolved one of ``node``, as ``read`` reads it; its ValueError is a mistake."""
        try:
            return read(text)
        except ValueError as error:
            # The error shows the text, which may come from a variable.
            written = isinstance(node, ScalarNode) and text == node.text
            what = str(error) if written else "what the variable holds is no amount"
            self.mistakes.add(node.mark, f"{shown(path)}: {what}")
            return INVALID

    def _scalar(self, node: Node, kind: type, path: str) -> Any:
        if not isinstance(node, ScalarNode) or node.is_null:
            return self.expected(_WORDS.get(kind, "a number"), node, path)
        expanded = self.resolved(node, path)
        if expanded is None:
            return INVALID
        if kind is str:
            return expanded.text
        read = count if path.rpartition(".")[2] in _COUNTS else getattr(kind, "from_text", None)
        if read is not None:
            return self._amount(read, node, expanded.text, path)
        # A quoted "${PORT}" may be a number: flow mappings leave no other way to write it.
        value = core_value(expanded.text) if node.plain or expanded.sources else expanded.text
        fits = isinstance(value, (int, float) if kind is float else kind)
        if not fits or (isinstance(value, bool) and kind is not bool):
            return self.expected(_WORDS.get(kind, "a number"), node, path)
        return value if kind is bool else self._in_range(kind(value), node, path)

    def _in_range(self, value: Any, node: Node, path: str) -> Any:
        name = path.rpartition(".")[2]
        smallest = _SMALLEST.get(name, 1)
        largest = _LARGEST.get(name)
        if isinstance(value, float) and name not in _SMALLEST:
            if value <= 0:
                self.mistakes.add(node.mark, f"{shown(path)} must be more than 0")
                return INVALID
        elif value < smallest:
            self.mistakes.add(node.mark, f"{shown(path)} must be at least {smallest}")
            return INVALID
        if largest is not None and value > largest:
            self.mistakes.add(node.mark, f"{shown(path)} must be at most {largest}")
            return INVALID
        return value

    def _choice(self, node: Node, choices: tuple[str, ...], path: str) -> Any:
        value = self._scalar(node, str, path)
        if value is INVALID or value in choices:
            return value
        hint = self.mistakes.did_you_mean(value, choices)
        self.mistakes.add(node.mark, f"{shown(path)}: expected one of {', '.join(choices)}", hint)
        return INVALID

    def _list(self, node: Node, kind: Any, path: str) -> Any:
        if not isinstance(node, ListNode):
            return self.expected("a list", node, path)
        values = [self.value(item, kind, f"{path}[{number}]") for number, item in enumerate(node.items)]
        return INVALID if INVALID in values else tuple(values)

    def _mapping(self, node: Node, kind: Any, path: str) -> Any:
        if not isinstance(node, MapNode):
            return self.expected("a mapping", node, path)
        values = {key: self.value(child, kind, f"{path}.{key}") for key, child in node.entries.items()}
        return INVALID if INVALID in values.values() else values

    def _json(self, node: Node, path: str) -> Any:
        """Whatever JSON can hold."""
        if isinstance(node, ListNode):
            items = [self._json(item, f"{path}[{number}]") for number, item in enumerate(node.items)]
            return INVALID if any(item is INVALID for item in items) else items
        if isinstance(node, MapNode):
            return self._mapping(node, Any, path)
        if node.is_null:
            return None
        expanded = self.resolved(node, path)
        if expanded is None:
            return INVALID
        return core_value(expanded.text) if node.plain else expanded.text


def shown(path: str) -> str:
    """A key path on one line and not too long."""
    return quoted(path)[1:-1]


def written(node: Node) -> str:
    """The text of a scalar before its variables were put in, quoted."""
    return quoted(node.text) if isinstance(node, ScalarNode) else ""


def _names(expanded: Expanded) -> set[str]:
    """The sources that are variables."""
    return {source for source in expanded.sources if re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", source)}


def _found(node: Node) -> str:
    if isinstance(node, ListNode):
        return "a list"
    if isinstance(node, MapNode):
        return "a mapping"
    return _WORDS[type(core_value(node.text))] if node.plain else "text"
