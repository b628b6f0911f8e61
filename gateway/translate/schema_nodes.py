"""The parts of a JSON schema: where its subschemas stand, how two merge into one, how references resolve.

Rules:
* A subschema is where a keyword says so. A property called ``items`` is a name, and what stands in ``enum``,
  ``const``, ``default`` or ``examples`` is a value: neither is ever taken for a schema.
* Nothing is changed in place; what need not change stays the same object.
* No input is too deep, too cyclic or too large once expanded: what exceeds a bound is cut to an untyped object.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from typing import Any
from urllib.parse import unquote

JSON = dict[str, Any]

MAX_DEPTH = 64
"""Subschemas within each other; far above any real schema, far below the interpreter's stack."""
MAX_INLINED = 256 * 1024
"""Characters that all references of one schema may expand to."""
MAX_ALTERNATIVES = 64
"""Different schemas for one thing that are listed before it counts as anything."""
MAX_VALUES = 256
"""The same for single values."""


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


ONE = _words(
    "additionalItems additionalProperties contains contentSchema else if items not propertyNames then "
    "unevaluatedItems unevaluatedProperties"
)
"""Keywords that hold a schema (``items``: or a list of them)."""
LISTED = frozenset(("allOf", "anyOf", "oneOf", "prefixItems"))
"""Keywords that hold a list of schemas."""
NAMED = _words("properties patternProperties dependentSchemas dependencies $defs definitions")
"""Keywords that hold schemas by name."""
DEFINITIONS = ("$defs", "definitions")
COMBINERS = ("allOf", "anyOf", "oneOf")
BESIDE = frozenset((*COMBINERS, "not", "if", "then", "else"))
"""Keywords whose subschemas speak about the same value, so that they add no level."""

ANNOTATIONS = _words(
    "description title default examples example deprecated readOnly writeOnly $comment $schema $id id $anchor"
)
"""Keywords that constrain nothing."""
OF_OBJECTS = _words(
    "properties required additionalProperties patternProperties propertyNames minProperties maxProperties "
    "dependentRequired dependentSchemas dependencies unevaluatedProperties propertyOrdering"
)
OF_ARRAYS = _words(
    "items prefixItems additionalItems minItems maxItems uniqueItems contains minContains maxContains unevaluatedItems"
)
OF_STRINGS = _words("minLength maxLength pattern format contentEncoding contentMediaType contentSchema")
OF_NUMBERS = _words("minimum maximum exclusiveMinimum exclusiveMaximum multipleOf format")
OF_TYPE = {
    "object": OF_OBJECTS,
    "array": OF_ARRAYS,
    "string": OF_STRINGS,
    "number": OF_NUMBERS,
    "integer": OF_NUMBERS,
    "boolean": frozenset[str](),
    "null": frozenset[str](),
}
"""JSON type -> the keywords that mean something for it."""

_LOWER_BOUNDS = _words("minimum exclusiveMinimum minLength minItems minProperties minContains")
_UPPER_BOUNDS = _words("maximum exclusiveMaximum maxLength maxItems maxProperties maxContains")
_NOTE_LENGTH = 200
_TYPE_DEPTH = 8


def map_children(node: JSON, visit: Callable[[str, Any], Any]) -> JSON:
    """``node`` with ``visit(keyword, subschema)`` for each subschema; the same object when none changed."""
    changed: JSON = {}
    for key, value in node.items():
        new: Any = value
        if isinstance(value, dict):
            if key in NAMED:
                named = {name: visit(key, child) for name, child in value.items()}
                new = named if any(named[name] is not child for name, child in value.items()) else value
            elif key in ONE:
                new = visit(key, value)
        elif isinstance(value, list) and (key in LISTED or key == "items"):
            listed = [visit(key, child) for child in value]
            new = listed if any(one is not child for one, child in zip(listed, value, strict=True)) else value
        if new is not value:
            changed[key] = new
    return {**node, **changed} if changed else node


def without(node: JSON, keys: Iterable[str]) -> JSON:
    """``node`` less some keywords; the same object when it has none of them."""
    gone = node.keys() & keys if isinstance(keys, frozenset | set) else set(node).intersection(keys)
    return {key: value for key, value in node.items() if key not in gone} if gone else node


def replaced(node: JSON, old: str, new: str, value: Any) -> JSON:
    """``node`` with ``new: value`` at the place of ``old``, and nowhere else."""
    kept = node if old == new else without(node, [new])
    return {new if key == old else key: value if key == old else item for key, item in kept.items()}


def type_of(value: Any) -> str:
    """The JSON type of a value; whole numbers are ``integer``."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "boolean"
    if isinstance(value, int):
        return "integer"
    if isinstance(value, float):
        return "number"
    return "string" if isinstance(value, str) else "array" if isinstance(value, list) else "object"


def fits(value: Any, kind: str) -> bool:
    """Whether ``value`` is of the JSON type ``kind``."""
    found = type_of(value)
    return found == kind or (kind == "number" and found == "integer")


def told(keyword: str, value: Any) -> str:
    """``keyword: value`` for a description, cut to a bearable length."""
    text = value if isinstance(value, str) else _as_json(value)
    return f"{keyword}: {text if len(text) <= _NOTE_LENGTH else text[:_NOTE_LENGTH] + '…'}"


def _as_json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"), default=str)


def described(node: JSON, notes: Sequence[str]) -> JSON:
    """``node`` with the notes at the end of its description: `` (pattern: ^a+$; minimum: 1)``."""
    notes = list(dict.fromkeys(notes))
    if not notes:
        return node
    before = node.get("description")
    note = f"({'; '.join(notes)})"
    return {**node, "description": f"{before} {note}" if isinstance(before, str) and before else note}


def cut(node: Any, *why: str) -> JSON:
    """What stands for a schema that cannot be spelled out."""
    node = node if isinstance(node, dict) else {}
    kind = "array" if node.get("type") == "array" else "object"
    before = node.get("description")
    return described({"type": kind, **({"description": before} if isinstance(before, str) else {})}, why)


# -- two schemas that both hold, or either of which holds -----------------------------------------------------


def both(first: JSON, second: JSON, depth: int = 0) -> JSON:
    """One schema for what satisfies both, as far as keywords can say it; where they cannot, ``first`` wins."""
    merged = dict(first)
    for key, value in second.items():
        if key not in merged:
            merged[key] = value
            continue
        mine = merged[key]
        if key in ("properties", "patternProperties") and isinstance(mine, dict) and isinstance(value, dict):
            merged[key] = _both_named(mine, value, depth)
        elif key == "required" and isinstance(mine, list) and isinstance(value, list):
            merged[key] = union(mine, value)
        elif key == "enum" and isinstance(mine, list) and isinstance(value, list):
            known = {_key(item) for item in value}
            merged[key] = [item for item in mine if _key(item) in known] or mine
        elif key in _LOWER_BOUNDS and fits(mine, "number") and fits(value, "number"):
            merged[key] = max(mine, value)
        elif key in _UPPER_BOUNDS and fits(mine, "number") and fits(value, "number"):
            merged[key] = min(mine, value)
        elif key == "items" and isinstance(mine, dict) and isinstance(value, dict) and depth < MAX_DEPTH:
            merged[key] = both(mine, value, depth + 1)
    return merged


def _both_named(mine: JSON, others: JSON, depth: int) -> JSON:
    merged = dict(mine)
    for name, schema in others.items():
        known = merged.get(name)
        if name not in merged or known is True:
            merged[name] = schema
        elif isinstance(known, dict) and isinstance(schema, dict) and depth < MAX_DEPTH:
            merged[name] = both(known, schema, depth + 1)
    return merged


def either(first: Any, second: Any) -> Any:
    """One schema for what satisfies at least one of two; {} once there are too many to list."""
    if first == second or not isinstance(second, dict) or first == {}:
        return first
    if not isinstance(first, dict) or not second:
        return second
    values, more = _only_values(first), _only_values(second)
    if values is not None and more is not None and first.get("type") == second.get("type"):
        kind = {"type": first["type"]} if "type" in first else {}
        return {**kind, "enum": union(values, more)} if len(values) < MAX_VALUES else kind
    choices = first["anyOf"] if set(first) == {"anyOf"} and isinstance(first["anyOf"], list) else [first]
    if second in choices:
        return first
    return {"anyOf": [*choices, second]} if len(choices) < MAX_ALTERNATIVES else {}


def _only_values(node: JSON) -> list[Any] | None:
    """The values that ``node`` lists, if that is all it says apart from a type."""
    if set(node) <= {"type", "enum"} and isinstance(node.get("enum"), list):
        return list(node["enum"])
    return [node["const"]] if "const" in node and set(node) <= {"type", "const"} else None


def union(first: Sequence[Any], second: Sequence[Any] = ()) -> list[Any]:
    """Both lists in order, each value once; ``True`` and ``1`` are two values."""
    found: dict[tuple[str, Any], Any] = {}
    for value in (*first, *second):
        found.setdefault(_key(value), value)
    return list(found.values())


def _key(value: Any) -> tuple[str, Any]:
    return type_of(value), _as_json(value) if isinstance(value, dict | list) else value


# -- references -------------------------------------------------------------------------------------------------


def inline_refs(root: JSON) -> JSON:
    """``root`` with every reference replaced by what it means, and without definitions.

    A reference within its own expansion, one past ``MAX_INLINED`` characters or ``MAX_DEPTH`` levels is cut to an
    untyped object; one that leads nowhere says so in the description.
    """
    inlined = _Inliner(root).schema(root, (), 0)
    return inlined if isinstance(inlined, dict) else {}


class _Inliner:
    """The references of one schema."""

    def __init__(self, root: JSON) -> None:
        self._root = root
        self._left = MAX_INLINED
        self._sizes: dict[str, int] = {}

    def schema(self, node: Any, open_refs: tuple[str, ...], depth: int) -> Any:
        """``node`` without references; ``open_refs`` are those it stands in."""
        if not isinstance(node, dict):
            return node
        if depth > MAX_DEPTH:
            return cut(node, "nested too deeply")
        pointer = node.get("$ref")
        node = without(node, DEFINITIONS)
        if isinstance(pointer, str):
            return self._reference(node, pointer, open_refs, depth)
        return map_children(node, lambda _, child: self.schema(child, open_refs, depth + 1))

    def _reference(self, node: JSON, pointer: str, open_refs: tuple[str, ...], depth: int) -> Any:
        beside = without(node, ["$ref"])
        found, target = resolve(self._root, pointer)
        if not found:
            return self.schema(described(beside, [told("$ref", pointer)]), open_refs, depth)
        why = []
        if pointer in open_refs:
            why = [f"recursive: as {pointer}"]
        elif self._is_too_large(pointer, target):
            why = [f"too large to repeat: as {pointer}"]
        else:
            target = self.schema(target, (*open_refs, pointer), depth + 1)
        if why:
            target = cut(target)
        if beside:
            beside = self.schema(beside, open_refs, depth)
            if isinstance(target, dict):
                target = {**both(target, beside), **{key: beside[key] for key in ANNOTATIONS & set(beside)}}
            else:
                target = {"not": {}, **beside} if target is False else beside
        return described(target, why) if why else target

    def _is_too_large(self, pointer: str, target: Any) -> bool:
        if pointer not in self._sizes:
            self._sizes[pointer] = _size(target)
        if self._sizes[pointer] > self._left:
            return True
        self._left -= self._sizes[pointer]
        return False


def resolve(root: JSON, pointer: str) -> tuple[bool, Any]:
    """(found, the schema that a local reference ``#/…`` or ``#`` means)."""
    fragment = unquote(pointer[1:]) if pointer.startswith("#") else None
    if fragment is None or (fragment and not fragment.startswith("/")):
        return False, None
    target: Any = root
    for step in fragment.split("/")[1:]:
        step = step.replace("~1", "/").replace("~0", "~")
        if isinstance(target, dict) and step in target:
            target = target[step]
        elif isinstance(target, list) and step.isascii() and step.isdigit() and int(step[:9]) < len(target):
            target = target[int(step[:9])]
        else:
            return False, None
    return isinstance(target, dict | bool), target


def _size(value: Any) -> int:
    """About how many characters ``value`` has as JSON."""
    total = 0
    waiting = [value]
    while waiting:
        item = waiting.pop()
        total += len(item) + 2 if isinstance(item, str) else 4
        if isinstance(item, dict):
            total += sum(len(key) + 4 for key in item)
            waiting.extend(item.values())
        elif isinstance(item, list):
            waiting.extend(item)
    return total


def argument_types(schema: JSON) -> dict[str, frozenset[str]]:
    """Property of an object -> the JSON types that its schema allows; none: unknown."""
    known: dict[tuple[int, int], frozenset[str]] = {}

    def types(node: Any, depth: int) -> frozenset[str]:
        if not isinstance(node, dict) or depth > _TYPE_DEPTH:
            return frozenset()
        place = (id(node), depth)
        if place not in known:  # references may lead to one node in very many ways
            known[place] = found(node, depth)
        return known[place]

    def found(node: JSON, depth: int) -> frozenset[str]:
        if isinstance(node.get("$ref"), str):
            return types(resolve(schema, node["$ref"])[1], depth + 1)
        kind = node.get("type")
        if kind is not None:
            return frozenset(item for item in (kind if isinstance(kind, list) else [kind]) if isinstance(item, str))
        values = node.get("enum", [node["const"]] if "const" in node else None)
        if isinstance(values, list):
            return frozenset(("string",)) if all(isinstance(item, str) for item in values) else frozenset()
        lists = [node.get(key) for key in ("anyOf", "oneOf", "allOf")]
        branches = [item for items in lists if isinstance(items, list) for item in items[:MAX_ALTERNATIVES]]
        allowed = [types(item, depth + 1) for item in branches]
        return frozenset().union(*allowed) if all(allowed) else frozenset()

    properties = schema.get("properties")
    return {name: types(child, 0) for name, child in properties.items()} if isinstance(properties, dict) else {}
