"""fit_schema: a tool's JSON schema, rewritten for upstreams that take only a part of the language (R43, R44).

Rules:
* Only what the profile names is rewritten; a schema that needs nothing stays the same object.
* A constraint that has to go is told in the description of its own subschema, in one stable form:
  `` (pattern: ^a+$; minimum: 1)``. What constrains nothing goes without a word.
* The result depends on the input alone and keeps its order, so that prefixes stay cached.
* Keywords are found where a schema stands, never among the names of properties (schema_nodes.py).
* No schema makes it fail: deep, cyclic and exploding ones are cut to an untyped object that says so.
"""

from __future__ import annotations

from collections.abc import Container, Sequence
from functools import lru_cache
from typing import Any

import orjson

from gateway.translate.schema_nodes import (
    ANNOTATIONS,
    BESIDE,
    COMBINERS,
    DEFINITIONS,
    JSON,
    MAX_DEPTH,
    NAMED,
    ONE,
    cut,
    described,
    inline_refs,
    map_children,
    told,
    without,
)
from gateway.translate.schema_steps import STEPS, Notes, Step, one_object, typed_branches

MAX_LEVELS = 10
"""How deep values may be described within values for ``shallow``; the root is level 0."""
_REMEMBERED_LENGTH = 32 * 1024

REWRITES: tuple[str, ...] = (
    "inline_refs",
    "object_root",
    "well_formed",
    "no_boolean_schemas",
    "flat_all_of",
    "any_of",
    "const_as_enum",
    "no_tuples",
    "single_types",
    "typed_enums",
    "string_enums",
    "typed_branches",
    "own_keywords",
    "declared_required",
    "array_items",
    "explicit_any",
    "shallow",
)
"""The known rewrites. They are applied in this order, in whatever order a profile names them.

* ``inline_refs``: a ``$ref`` becomes its target, with what stood beside it; definitions go. A recursive one
  becomes ``{"type": "object"}`` with a description.
* ``object_root``: ``anyOf``, ``oneOf`` and ``allOf`` at the root become one object: all properties; required is
  what every branch requires (``allOf``: what any requires).
* ``well_formed``: a keyword whose value is of the wrong kind (``format: null``, ``enum: []``, ``type: any``) goes.
* ``no_boolean_schemas``: ``true`` becomes ``{}``, ``false`` ``{"not": {}}`` or is left out where that says the same.
  ``additionalProperties`` and ``unevaluatedProperties`` may stay boolean.
* ``flat_all_of``: ``allOf`` is merged into the schema it stands in.
* ``any_of``: ``oneOf`` becomes ``anyOf``.
* ``const_as_enum``: ``const`` becomes an ``enum`` of one.
* ``no_tuples``: ``prefixItems`` and lists of ``items`` become one schema for all items.
* ``single_types``: a list of types becomes ``anyOf`` with one type each, every keyword with the type it is about.
* ``typed_enums``: an ``enum`` has a type, and values of that type only; objects and arrays are told instead.
* ``string_enums``: an ``enum`` of anything but strings is told instead.
* ``typed_branches``: what stands beside ``anyOf`` moves into its branches; object unions become one object.
* ``own_keywords``: a keyword that means nothing for the declared type goes.
* ``declared_required``: ``required`` names declared properties only.
* ``array_items``: an array without ``items`` gets ``{}``.
* ``explicit_any``: a schema that allows anything lists the JSON types.
* ``shallow``: at most ``MAX_LEVELS`` levels of values; what is deeper is an untyped object that says so.
"""

_JSON_TYPES = ("string", "number", "boolean", "object", "array", "null")
_ROUNDS = 4
_TOO_DEEP = "nested too deeply to be described"


def fit_schema(schema: dict[str, Any], rewrites: Sequence[str], dropped_keywords: Sequence[str] = ()) -> dict[str, Any]:
    """``schema`` without what the upstream refuses; the same object if nothing had to change.

    ``rewrites``: names from ``REWRITES``; others are ignored (the configuration is checked elsewhere).
    ``dropped_keywords``: keywords to take out wherever a schema stands. Never changes ``schema``, never raises.
    The result may be shared with other calls: it is for reading only.
    """
    if not (rewrites or dropped_keywords):
        return schema
    try:
        data = orjson.dumps(schema)
    except TypeError:  # what is nested too deeply to be written never reaches an upstream
        return schema
    fit = _remembered if len(data) <= _REMEMBERED_LENGTH else _fitted
    fitted = fit(data, tuple(rewrites), tuple(dropped_keywords))
    return schema if fitted is None else fitted


def _fitted(data: bytes, rewrites: tuple[str, ...], dropped: tuple[str, ...]) -> JSON | None:
    """The schema in ``data``, fitted; None if nothing had to change."""
    wanted = frozenset(rewrites) & frozenset(REWRITES)
    schema = orjson.loads(data)
    fitted = schema
    if "inline_refs" in wanted or ("object_root" in wanted and any(key in schema for key in COMBINERS)):
        fitted = inline_refs(schema)
    fitter = _Fitter(wanted, frozenset(dropped))
    result: JSON = fitter.fit(fitter.root(fitted), 0, 0)
    return None if result is schema else result


_remembered = lru_cache(maxsize=512)(_fitted)
"""A session sends the same tools with every request."""


class _Fitter:
    """One run over one schema, from the root down."""

    def __init__(self, wanted: frozenset[str], dropped: frozenset[str]) -> None:
        self._wanted = wanted
        self._dropped = dropped
        self._explicit_any = "explicit_any" in wanted and not {"anyOf", "type"} & dropped
        self._steps = [step for name, step in STEPS.items() if name in wanted]

    def root(self, schema: JSON) -> JSON:
        """``schema`` as an object, which arguments always are."""
        notes: Notes = []
        if "object_root" in self._wanted:
            schema = one_object(schema, notes)
            schema = schema if schema.get("type") == "object" else {**schema, "type": "object"}
        if "typed_enums" in self._wanted:
            schema = _without_keywords(schema, ("enum", "const"), notes)
        if "single_types" in self._wanted and isinstance(schema.get("type"), list) and "object" in schema["type"]:
            schema = {**schema, "type": "object"}
        return self._described(schema, notes)

    def fit(self, node: Any, level: int, depth: int) -> Any:
        """``node`` and all below it. ``level``: values within values; ``depth``: schemas within schemas."""
        if not isinstance(node, dict):
            return node
        if depth > MAX_DEPTH:
            return cut(node, _TOO_DEEP)
        notes: Notes = []
        fitted = _without_keywords(_fitted_by(self._steps, node, notes), self._dropped, notes)
        if "shallow" in self._wanted and level >= MAX_LEVELS:
            fitted = _leaf(fitted, notes)
        if depth and self._explicit_any and not set(fitted) - ANNOTATIONS:
            return self._described({**fitted, "anyOf": [{"type": kind} for kind in _JSON_TYPES]}, notes)

        def below(keyword: str, child: Any) -> Any:
            return self.fit(child, level if keyword in BESIDE else level + 1, depth + 1)

        fitted = map_children(fitted, below)
        if "typed_branches" in self._wanted:  # once more: the branches have their final keywords only now
            fitted = typed_branches(fitted, notes)
        return self._described(fitted, notes)

    def _described(self, node: JSON, notes: Notes) -> JSON:
        return node if "description" in self._dropped else described(node, notes)


def _leaf(node: JSON, notes: Notes) -> JSON:
    """``node`` without a word about the values in it."""
    inside = (ONE | NAMED | {"prefixItems"}) - BESIDE - set(DEFINITIONS)
    below = [key for key, value in node.items() if key in inside and not isinstance(value, bool)]
    if not below:
        return node
    notes.append(_TOO_DEEP)
    leaf = without(node, [*below, "required", "additionalProperties"])
    return leaf if "type" in leaf or any(key in leaf for key in COMBINERS) else {"type": "object", **leaf}


def _fitted_by(steps: Sequence[Step], node: JSON, notes: Notes) -> JSON:
    """``node`` after all steps, until none finds anything more to do (a merge can bring work for an earlier one)."""
    for _ in range(_ROUNDS):
        before = node
        for step in steps:
            node = step(node, notes)
        if node is before:
            break
    return node


def _without_keywords(node: JSON, gone: Container[str], notes: Notes) -> JSON:
    """``node`` less keywords that the upstream refuses; what they constrained is told."""
    found = [key for key in node if key in gone]
    notes += [told(key, node[key]) for key in found if not _says_nothing(key, node[key])]
    return without(node, found) if found else node


_SILENT = frozenset(("title", "description", "$schema", "$id", "id", "$comment", "$anchor", "$defs", "definitions"))
_NO_CONSTRAINT: dict[str, tuple[Any, ...]] = {
    "additionalProperties": (True, {}),
    "unevaluatedProperties": (True, {}),
    "additionalItems": (True, {}),
    "unevaluatedItems": (True, {}),
    "items": (True, {}),
    "uniqueItems": (False,),
    "nullable": (False,),
    "deprecated": (False,),
    "readOnly": (False,),
    "writeOnly": (False,),
    "required": ([],),
}


def _says_nothing(key: str, value: Any) -> bool:
    if key in _SILENT or key.startswith("x-"):
        return True
    return any(type(value) is type(nothing) and value == nothing for nothing in _NO_CONSTRAINT.get(key, ()))
