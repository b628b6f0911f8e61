"""The guarded YAML reader: bytes -> a tree of nodes that know their line and column.

Rules:
* Only the event stream of the parser is used; no constructor ever runs, so no tag can do anything.
  libyaml's event parser is quick and does not recurse, so that a bomb is refused within half a second, and
  the largest file is read within two. Where PyYAML has no libyaml, its pure parser reads files up to 64 KiB,
  and the worst of them takes about a second.
* Refused: files over 1 MiB, other encodings than UTF-8, several documents, directives, tags, merge keys,
  duplicate keys, keys that are not plain text, more than 64 levels, and more than 25,000 nodes, counting
  what aliases repeat.
* Plain scalars are read by the core schema of YAML 1.2: ``no``, ``on``, ``12:30`` and ``010`` are never
  turned into something else.
"""

from __future__ import annotations

import re
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from yaml.reader import Reader

from gateway.config.mistakes import NOWHERE, Mark, Mistakes, quoted

MAX_BYTES = 1 << 20
MAX_BYTES_PURE = 1 << 16
MAX_DEPTH = 64
MAX_NODES = 25_000

_NOT_ALLOWED = Reader.NON_PRINTABLE  # takes long to compile, so not twice
_SURROGATE = re.compile("[\ud800-\udfff]")
_DIRECTIVE = re.compile(r"^%", re.MULTILINE)
_NULL = frozenset(("", "~", "null", "Null", "NULL"))
_BOOL = {"true": True, "True": True, "TRUE": True, "false": False, "False": False, "FALSE": False}
_INT = re.compile(r"[-+]?[0-9]{1,18}")
_FLOAT = re.compile(r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]{1,3})?")


class ScalarNode(NamedTuple):
    """One value as written. ``plain``: without quotes."""

    mark: Mark
    text: str
    plain: bool

    @property
    def is_null(self) -> bool:
        return self.plain and self.text in _NULL


class ListNode(NamedTuple):
    """A list."""

    mark: Mark
    items: tuple[Node, ...]


class MapNode(NamedTuple):
    """A mapping; ``keys`` holds the place of each key."""

    mark: Mark
    entries: Mapping[str, Node]
    keys: Mapping[str, Mark]


Node = ScalarNode | ListNode | MapNode


def core_value(text: str) -> str | int | float | bool | None:
    """A plain scalar by the core schema: null, bool, integer and finite number; the rest is text."""
    if text in _NULL:
        return None
    if text in _BOOL:
        return _BOOL[text]
    if _INT.fullmatch(text):
        return int(text)
    if _FLOAT.fullmatch(text):
        number = float(text)
        return number if abs(number) != float("inf") else text
    return text


def read_file(path: Path, mistakes: Mistakes) -> tuple[bytes, int]:
    """The content of ``path``, of a file that is too large its beginning, and its mode.

    Raises FileNotFoundError, and ConfigError for what cannot be read.
    """
    try:
        mode = path.stat().st_mode
        if not stat.S_ISREG(mode):
            raise mistakes.error(NOWHERE, "this is not a file")
        with path.open("rb") as stream:
            return stream.read(MAX_BYTES + 1), mode
    except FileNotFoundError:
        raise
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "the path is not valid"
        raise mistakes.error(NOWHERE, f"cannot be read: {reason}") from None


def read(data: bytes, mistakes: Mistakes, limit: int | None = None) -> Node:
    """The tree of a whole file of at most ``limit`` bytes (None: what is quick to read here).

    Raises ConfigError when it cannot be read on; lesser mistakes are collected.
    """
    if limit is None:
        limit = MAX_BYTES if _has_libyaml() else MAX_BYTES_PURE
    if len(data) > limit:
        raise mistakes.error(Mark(1, 1), f"the file is larger than {limit} bytes")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        before = data[: error.start]
        mark = Mark(before.count(b"\n") + 1, error.start - before.rfind(b"\n"))
        raise mistakes.error(mark, "this is not UTF-8", "save the file as UTF-8") from None
    bad = _NOT_ALLOWED.search(text)
    if bad:
        raise mistakes.error(_mark_at(text, bad.start()), "a control character, which YAML does not allow")
    directive = _DIRECTIVE.search(text)
    if directive:
        raise mistakes.error(_mark_at(text, directive.start()), "YAML directives are not supported", "delete the line")
    try:
        return _Composer(_events(text), mistakes).document()
    except yaml.MarkedYAMLError as error:
        # Only the parser's fixed phrase is shown: the snippet around it may hold a key.
        mark = _mark(error.problem_mark)
        raise mistakes.error(mark, f"not valid YAML: {_phrase(error)}", _syntax_hint(text, mark)) from None


def _has_libyaml() -> bool:
    return bool(yaml.__with_libyaml__)


def _events(text: str) -> Iterator[Any]:
    loader: Any = yaml.CSafeLoader if _has_libyaml() else yaml.SafeLoader
    return iter(yaml.parse(text, Loader=loader))


def _syntax_hint(text: str, mark: Mark) -> str:
    lines = text.splitlines()[max(mark.line - 2, 0) : mark.line]
    if any("${" in line for line in lines):
        return 'inside { } or [ ], a reference needs quotes: "${VAR}"'
    return "look at this line and the one before: indentation, quotes, brackets"


def _phrase(error: yaml.MarkedYAMLError) -> str:
    """What is wrong. libyaml's phrases are fixed; the pure parser's quote the file, which may hold a key."""
    problem = str(error.problem)
    return problem if _has_libyaml() else problem.partition("'")[0].strip()


def _mark(mark: Any) -> Mark:
    return Mark(mark.line + 1, mark.column + 1)


def _mark_at(text: str, offset: int) -> Mark:
    return Mark(text.count("\n", 0, offset) + 1, offset - text.rfind("\n", 0, offset))


class _Composer:
    """Builds the tree from parser events and counts while it does."""

    def __init__(self, events: Iterator[Any], mistakes: Mistakes) -> None:
        self._events = events
        self._mistakes = mistakes
        self._anchors: dict[str, tuple[Node, int]] = {}
        self._count = 0

    def document(self) -> Node:
        """The only document of the stream."""
        next(self._events)  # the stream's start
        event = next(self._events)
        if isinstance(event, yaml.StreamEndEvent):
            raise self._mistakes.error(Mark(1, 1), "the file is empty", "it needs 'providers' and 'models'")
        node = self._node(next(self._events), 0)
        next(self._events)  # the document's end
        event = next(self._events)
        if not isinstance(event, yaml.StreamEndEvent):
            raise self._mistakes.error(_mark(event.start_mark), "a second document", "delete the '---' line")
        return node

    def _node(self, event: Any, depth: int) -> Node:
        mark = _mark(event.start_mark)
        before = self._count
        self._add(1, mark)
        if isinstance(event, yaml.AliasEvent):
            return self._repeat(event, mark)
        if event.tag is not None:
            raise self._mistakes.error(mark, "YAML tags ('!…') are not supported", "put the value in quotes")
        node: Node
        if isinstance(event, yaml.ScalarEvent):
            node = self._scalar(event, mark)
        elif depth == MAX_DEPTH:
            raise self._mistakes.error(mark, f"nested deeper than {MAX_DEPTH} levels")
        elif isinstance(event, yaml.SequenceStartEvent):
            node = self._list(mark, depth + 1)
        else:
            node = self._map(mark, depth + 1)
        if event.anchor is not None:
            self._anchors[event.anchor] = (node, self._count - before)
        return node

    def _add(self, nodes: int, mark: Mark) -> None:
        self._count += nodes
        if self._count > MAX_NODES:
            raise self._mistakes.error(mark, f"more than {MAX_NODES} values, counting what aliases repeat")

    def _repeat(self, event: Any, mark: Mark) -> Node:
        known = self._anchors.get(event.anchor)
        if known is None:
            # The name is not shown: an unquoted key that begins with '*' looks like an alias.
            raise self._mistakes.error(
                mark, "a YAML alias ('*…') to something not defined before it", "text that begins with * needs quotes"
            )
        node, size = known
        self._add(size - 1, mark)
        return node

    def _scalar(self, event: Any, mark: Mark) -> ScalarNode:
        if not event.value.isascii() and _SURROGATE.search(event.value):
            self._mistakes.add(mark, "half of a surrogate pair, which is no character")
            return ScalarNode(mark, "", plain=False)
        return ScalarNode(mark, event.value, plain=bool(event.implicit[0]))

    def _list(self, mark: Mark, depth: int) -> ListNode:
        items: list[Node] = []
        while not isinstance(event := next(self._events), yaml.SequenceEndEvent):
            items.append(self._node(event, depth))
        return ListNode(mark, tuple(items))

    def _map(self, mark: Mark, depth: int) -> MapNode:
        entries: dict[str, Node] = {}
        keys: dict[str, Mark] = {}
        while not isinstance(event := next(self._events), yaml.MappingEndEvent):
            key = self._node(event, depth)
            key_mark = _mark(event.start_mark)
            value = self._node(next(self._events), depth)
            name = self._key(key, key_mark, keys)
            if name is not None:
                keys[name] = key_mark
                entries[name] = value
        return MapNode(mark, entries, keys)

    def _key(self, key: Node, mark: Mark, keys: Mapping[str, Mark]) -> str | None:
        """The key's text; None when the entry is refused."""
        if not isinstance(key, ScalarNode) or not key.text:
            self._mistakes.add(mark, "a key must be plain text", "a value that begins with { or [ needs quotes")
        elif key.plain and key.text == "<<":
            self._mistakes.add(mark, "merge keys ('<<') are not supported", "write the fields out, or use an alias")
        elif key.text in keys:
            self._mistakes.add(mark, f"{quoted(key.text)} stands here twice", f"first in line {keys[key.text].line}")
        else:
            return key.text
        return None
