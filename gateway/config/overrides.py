"""Adds fields to the profile of a provider's model in the text of a providers.yaml that somebody wrote by hand.

Rules:
* Text is only inserted: order, comments, quoting and line ends of the file stay as they are. Only a
  written ``~`` gives way to what comes in its place.
* What the file already says is the user's word; it is never changed.
* The new text is parsed again, and must say exactly what the old one said and the new field.
* What anchors and aliases share is not touched: the field would land in other places, too.
"""

from __future__ import annotations

import glob
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import yaml

from gateway.config.document import core_value

_PLAIN = re.compile(r"[A-Za-z][A-Za-z0-9._/-]*")
_YAML_1_1 = frozenset(("y", "n", "yes", "no", "on", "off"))
_UNPRINTABLE = re.compile("[\x7f-\xa0\xad\u2028\u2029\ud800-\udfff\ufeff\ufffe\uffff]")
_BREAK = re.compile(r"\r\n|[\n\r\x85\u2028\u2029]")
_DEPTH = 5
"""How many keys lead to a field: ``Override.path``."""
_STEP = 2
"""Columns of a level of indentation where the file shows none."""


class CannotInsert(ValueError):
    """Why a field cannot be added to this file; one line, without any value of the file."""


@dataclass(frozen=True, slots=True)
class Override:
    """A field of the profile of one model of one provider."""

    provider: str
    model: str
    """The exact id at the upstream."""
    field: str
    value: Any
    """What YAML's plain types can hold; tuples are lists."""

    @property
    def pattern(self) -> str:
        """The key under ``providers.NAME.models`` that means this model and no other."""
        return glob.escape(self.model)

    @property
    def path(self) -> tuple[str, ...]:
        """The keys that lead to the field."""
        return ("providers", self.provider, "models", self.pattern, self.field)


def insert_overrides(text: str, overrides: Iterable[Override], comment: str) -> str:
    """``text`` with the overrides, each marked ``# comment``. Raises CannotInsert; yaml.YAMLError for no YAML.

    ``text`` is the whole file; a byte order mark stays.
    """
    mark = "\ufeff" if text.startswith("\ufeff") else ""
    text = text.removeprefix(mark)
    for override in overrides:
        before = _parse(text)
        after = _insert(text, before, override, f"# {comment}")
        expected = _plain(before)
        _put(expected, override.path, _plain(_parse(value_text(override.value))))
        try:
            found = _plain(_parse(after))
        except yaml.YAMLError:
            found = None
        if found != expected:
            raise CannotInsert("the file is laid out in a way that leaves no place for it")
        text = after
    return mark + text


def snippet(overrides: Iterable[Override], comment: str) -> str:
    """The overrides as YAML of their own, for pasting."""
    tree: dict[str, Any] = {}
    for override in overrides:
        _put(tree, override.path, override.value)
    return "\n".join(_lines(tree, _DEPTH, 0, _STEP, f"# {comment}"))


def value_text(value: Any) -> str:
    """A value on one line, as providers.yaml takes it; ``${`` in a text stays what it is."""
    if isinstance(value, str):
        return _word(value.replace("$", "$$"))
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{_word(str(name))}: {value_text(item)}" for name, item in value.items()) + "}"
    if isinstance(value, Sequence):
        return "[" + ", ".join(map(value_text, value)) + "]"
    return json.dumps(value)


def _word(text: str) -> str:
    """A text, in quotes unless every reader of YAML takes it for a text without them."""
    if _PLAIN.fullmatch(text) and isinstance(core_value(text), str) and text.lower() not in _YAML_1_1:
        return text
    return _UNPRINTABLE.sub(lambda found: f"\\u{ord(found[0]):04x}", json.dumps(text, ensure_ascii=False))


def _lines(tree: Mapping[str, Any], depth: int, column: int, step: int, comment: str) -> list[str]:
    """``depth`` levels of mappings in block style; the values on one line each, with the comment."""
    lines: list[str] = []
    for name, value in tree.items():
        head = " " * column + _word(name) + ":"
        if depth > 1:
            lines += [head, *_lines(value, depth - 1, column + step, step, comment)]
        else:
            lines.append(f"{head} {value_text(value)}  {comment}")
    return lines


# -- where what stands -----------------------------------------------------------------------------------


@dataclass(slots=True)
class _Place:
    """One node of the file; offsets count characters."""

    start: int
    end: int
    """Behind the last character; of a block, behind its last value."""
    column: int
    kind: str
    """``scalar``, ``list``, ``map`` or ``alias``."""
    content: Any = None
    """(text, plain) of a scalar; the items of a list; key -> value of a mapping; the name of an alias."""
    flow: bool = False
    anchored: bool = False

    @property
    def is_null(self) -> bool:
        return self.kind == "scalar" and self.content[1] and core_value(self.content[0]) is None


def _parse(text: str) -> _Place:
    loader: Any = yaml.CSafeLoader if yaml.__with_libyaml__ else yaml.SafeLoader
    events = iter(yaml.parse(text, Loader=loader))
    next(events)
    next(events)
    return _place(next(events), events)


def _place(event: Any, events: Iterator[Any]) -> _Place:
    start = event.start_mark
    node = _Place(start.index, event.end_mark.index, start.column, "scalar", anchored=event.anchor is not None)
    if isinstance(event, yaml.AliasEvent):
        node.kind, node.content = "alias", event.anchor
    elif isinstance(event, yaml.ScalarEvent):
        node.content = (event.value, bool(event.implicit[0]))
    elif isinstance(event, yaml.SequenceStartEvent):
        node.kind, node.content, node.flow = "list", [], bool(event.flow_style)
        while not isinstance(event := next(events), yaml.SequenceEndEvent):
            node.content.append(_place(event, events))
            node.end = node.content[-1].end
    else:
        node.kind, node.content, node.flow = "map", {}, bool(event.flow_style)
        while not isinstance(event := next(events), yaml.MappingEndEvent):
            key = _place(event, events)
            value = _place(next(events), events)
            node.content[key.content[0] if key.kind == "scalar" else str(key.start)] = (key, value)
            node.end = value.end
    if node.flow:
        node.end = event.end_mark.index
    return node


def _plain(node: _Place) -> Any:
    """What a node says, wherever it stands."""
    if node.kind == "map":
        return {name: _plain(value) for name, (_, value) in node.content.items()}
    if node.kind == "list":
        return [_plain(item) for item in node.content]
    return ("null",) if node.is_null else (node.kind, node.content, node.anchored)


def _put(tree: Any, path: Sequence[str], value: Any) -> None:
    """Sets ``value`` at ``path`` in nested dicts; what is null on the way becomes a dict."""
    for name in path[:-1]:
        inner = tree.get(name)
        if not isinstance(inner, dict):
            inner = tree[name] = {}
        tree = inner
    tree[path[-1]] = value


# -- inserting -------------------------------------------------------------------------------------------


def _insert(text: str, root: _Place, override: Override, comment: str) -> str:
    """The text with one field more."""
    node, key, step = root, root, _STEP
    rest = list(override.path)
    while rest:
        _refuse_shared(node)
        if node.kind != "map" or rest[0] not in node.content:
            break
        above, (key, node) = node, node.content[rest.pop(0)]
        if above.kind == node.kind == "map" and not above.flow and not node.flow:
            step = max(1, node.column - above.column)
    if not rest:
        raise CannotInsert(f"{override.field} stands there already")
    inner: Any = override.value
    for name in reversed(rest[1:]):
        inner = {name: inner}
    tree = {rest[0]: inner}
    if node.kind == "map" and not node.flow and node.content:
        return _after_line(text, node.end, _lines(tree, len(rest), node.column, step, comment))
    if node.kind == "map":
        return _in_flow(text, node, tree, comment)
    if not node.is_null:
        raise CannotInsert("a part of the way to it is no mapping")
    if node.start == node.end and not _inside_flow(root, node.start):
        return _after_line(text, node.start, _lines(tree, len(rest), key.column + step, step, comment))
    colon = "" if text[: node.start].rstrip().endswith(":") or node.start < node.end else ":"
    space = "" if text[node.start - 1].isspace() else " "
    return _with_comment(text, node.start, node.end, f"{colon}{space}{value_text(tree)}", comment)


def _refuse_shared(node: _Place) -> None:
    if node.anchored or node.kind == "alias":
        raise CannotInsert("it stands inside a YAML anchor or alias, which other parts of the file share")


def _inside_flow(root: _Place, offset: int) -> bool:
    """Whether a place is between the braces of some flow mapping."""
    node = root
    while node.kind == "map":
        if node.flow:
            return True
        inner = [value for _, value in node.content.values() if value.start <= offset <= value.end]
        if not inner:
            return False
        node = inner[0]
    return False


def _in_flow(text: str, node: _Place, tree: Mapping[str, Any], comment: str) -> str:
    entry = value_text(tree)[1:-1]
    if not node.content:
        # Behind the brace; what else stands between the braces can only be blanks and comments.
        return _with_comment(text, node.start + 1, node.start + 1, entry, comment)
    last = [value for _, value in node.content.values()][-1]
    at = len(text[: last.end].rstrip()) if last.start == last.end else last.end
    return _with_comment(text, at, at, f", {entry}", comment)


def _with_comment(text: str, start: int, end: int, new: str, comment: str) -> str:
    """``new`` in place of ``text[start:end]``, with the comment at the end of the line, or in a line above."""
    stop = _line_end(text, end)
    rest = text[end:stop]
    if rest.rstrip().endswith(comment):
        return text[:start] + new + text[end:]
    if "#" not in rest:
        bare = rest.rstrip()
        return f"{text[:start]}{new}{bare}  {comment}{rest[len(bare):]}{text[stop:]}"
    begin = _line_begin(text, start)
    line = text[begin:start]
    above = f"{line[: len(line) - len(line.lstrip(' '))]}{comment}{_newline(text, stop)}"
    if text[_line_begin(text, max(0, begin - 1)) : begin] == above:
        above = ""
    return f"{text[:begin]}{above}{line}{new}{text[end:]}"


def _after_line(text: str, offset: int, lines: Sequence[str]) -> str:
    """``lines`` below the line of the last visible character before ``offset``."""
    stop = _line_end(text, len(text[:offset].rstrip()))
    newline = _newline(text, stop)
    return text[:stop] + "".join(newline + line for line in lines) + text[stop:]


def _line_begin(text: str, offset: int) -> int:
    begin = 0
    for found in _BREAK.finditer(text, 0, offset):
        begin = found.end()
    return begin


def _line_end(text: str, offset: int) -> int:
    found = _BREAK.search(text, offset)
    return found.start() if found else len(text)


def _newline(text: str, offset: int) -> str:
    """How lines end here."""
    found = _BREAK.search(text, offset) or _BREAK.search(text)
    return found[0] if found else "\n"
