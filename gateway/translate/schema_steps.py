"""The rewrites that look at one schema at a time, as tool_schema.py applies them from the root down.

Rules:
* A step takes a schema and gives it back: the same object when it has nothing to do, else a new one.
* It may leave the schemas below in any state; they come next.
* What it takes away goes into the notes, which end up in the description.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from gateway.translate.schema_nodes import (
    ANNOTATIONS,
    COMBINERS,
    DEFINITIONS,
    JSON,
    MAX_ALTERNATIVES,
    MAX_DEPTH,
    NAMED,
    OF_OBJECTS,
    OF_TYPE,
    ONE,
    both,
    either,
    fits,
    replaced,
    told,
    type_of,
    union,
    without,
)

Notes = list[str]
Step = Callable[[JSON, Notes], JSON]

_BOOLEAN_IS_FINE = frozenset(("additionalProperties", "unevaluatedProperties"))
_TYPED = frozenset[str]().union(*OF_TYPE.values())
_FOREIGN = {kind: _TYPED - own for kind, own in OF_TYPE.items()}
_BESIDE_ANY_OF = ANNOTATIONS | {"anyOf", "$ref", *DEFINITIONS}
_OF_ITEMS = frozenset(("items", "additionalItems", "unevaluatedItems"))


# -- what is no schema at all -----------------------------------------------------------------------------------


def well_formed(node: JSON, notes: Notes) -> JSON:
    """No keyword whose value is not of its kind, no empty list of choices, no type that JSON does not know."""
    wrong = [key for key, value in node.items() if key in _KINDS and type_of(value) not in _KINDS[key]]
    wrong += [key for key in (*COMBINERS, "prefixItems", "enum", "type") if node.get(key) == []]
    notes += [told(key, node[key]) for key in wrong if node[key]]
    node = without(node, wrong) if wrong else node
    kind = node.get("type")
    if not isinstance(kind, str) or kind in OF_TYPE:
        return node
    if kind.lower() in OF_TYPE:  # as some other API spells it
        return {**node, "type": kind.lower()}
    notes.append(told("type", kind))
    return without(node, ["type"])


_KINDS: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(NAMED | {"dependentRequired"}, ("object",)),
    **dict.fromkeys(ONE, ("object", "boolean")),
    **dict.fromkeys((*COMBINERS, "prefixItems", "enum", "required"), ("array",)),
    **dict.fromkeys(("description", "title", "pattern", "format", "$ref"), ("string",)),
    **dict.fromkeys(("minLength", "maxLength", "minItems", "maxItems", "minProperties", "maxProperties"), ("integer",)),
    **dict.fromkeys(
        ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"), ("integer", "number")
    ),
    "items": ("object", "boolean", "array"),
    "type": ("string", "array"),
}
"""Keyword -> the JSON types that its value may have."""


# -- booleans -------------------------------------------------------------------------------------------------


def no_boolean_schemas(node: JSON, notes: Notes) -> JSON:
    """``true`` and ``false`` where a schema stands. A forbidden property is left out."""
    changed: JSON = {}
    gone: list[str] = []
    for key, value in node.items():
        if key in NAMED and isinstance(value, dict):
            named = _named_schemas(key, value, notes)
            if named is not value:
                changed[key] = named
        elif isinstance(value, list) and (key in COMBINERS or key in ("items", "prefixItems")):
            if not all(isinstance(item, dict) for item in value):
                possible = [item for item in value if item is not False] if key in ("anyOf", "oneOf") else value
                changed[key] = [_as_schema(item) for item in possible or value[:1]]
        elif key in ONE and not isinstance(value, dict) and not (key in _BOOLEAN_IS_FINE and isinstance(value, bool)):
            if not isinstance(value, bool) or (key in _OF_ITEMS and (not value or key != "items")):
                gone.append(key)
                notes += [told(key, value)] if value is False else []
            else:
                changed[key] = _as_schema(value)
    names = node.get("required")
    if "properties" in changed and isinstance(names, list):
        forbidden = node["properties"].keys() - changed["properties"].keys()
        changed["required"] = [name for name in names if not isinstance(name, str) or name not in forbidden]
    return without({**node, **changed}, gone) if changed or gone else node


def _named_schemas(key: str, schemas: JSON, notes: Notes) -> JSON:
    if all(isinstance(child, dict) for child in schemas.values()):
        return schemas
    if key == "dependencies":  # lists of names may stand there
        return {name: _as_schema(child) if isinstance(child, bool) else child for name, child in schemas.items()}
    if key == "properties":
        notes += [f"{name}: not allowed" for name, child in schemas.items() if child is False]
        schemas = {name: child for name, child in schemas.items() if child is not False}
    return {name: _as_schema(child) for name, child in schemas.items()}


def _as_schema(child: Any) -> JSON:
    return child if isinstance(child, dict) else {"not": {}} if child is False else {}


# -- combiners ------------------------------------------------------------------------------------------------


def flat_all_of(node: JSON, notes: Notes) -> JSON:
    """``allOf`` merged into ``node``; members that are references stay."""
    for _ in range(MAX_DEPTH):
        members = node.get("allOf")
        if not isinstance(members, list):
            return node
        open_members = [item for item in members if isinstance(item, dict) and "$ref" not in item]
        if not open_members:
            return node if members else without(node, ["allOf"])
        kept: list[Any] = [item for item in members if item is False or (isinstance(item, dict) and "$ref" in item)]
        node = without(node, ["allOf"])
        for member in open_members:
            inner = member.get("allOf")
            kept += inner if isinstance(inner, list) else []
            notes += [
                told(key, member[key]) for key in ("anyOf", "oneOf", "not", "if") if key in member and key in node
            ]
            node = both(node, without(member, ["allOf"]))
        if kept:
            node = {**node, "allOf": kept}
    return without(node, ["allOf"])


def any_of(node: JSON, notes: Notes) -> JSON:
    """``oneOf`` as ``anyOf``."""
    if "oneOf" not in node:
        return node
    if "anyOf" in node:
        notes.append(told("oneOf", node["oneOf"]))
        return without(node, ["oneOf"])
    return replaced(node, "oneOf", "anyOf", node["oneOf"])


def typed_branches(node: JSON, notes: Notes) -> JSON:
    """Nothing but annotations beside ``anyOf``, and no keyword on both levels."""
    branches = node.get("anyOf")
    if not isinstance(branches, list):
        return node
    if any(key in OF_OBJECTS for key in node):
        return one_object(node, notes)
    if "type" in node:
        shared = {key: value for key, value in node.items() if key == "type" or (key in _TYPED and _is_small(value))}
        bare = [isinstance(item, dict) and not {"type", "anyOf", "$ref"} & set(item) for item in branches]
        typed = [{**shared, **item} if plain else item for item, plain in zip(branches, bare, strict=True)]
        node = {**without(node, shared if all(bare) else ["type"]), "anyOf": typed}
    taken = {key for item in branches if isinstance(item, dict) for key in item} - {"anyOf", "description", "title"}
    gone = [key for key in node if key in taken or key not in _BESIDE_ANY_OF]
    notes += [told(key, node[key]) for key in gone]
    return without(node, gone)


def _is_small(value: Any) -> bool:
    return not isinstance(value, dict | list) and len(str(value)) < 100


def one_object(node: JSON, notes: Notes, depth: int = 0) -> JSON:
    """``node`` with its unions merged into one object schema."""
    combiners = [key for key in COMBINERS if isinstance(node.get(key), list)]
    if not combiners:
        return node
    merged: JSON = {**without(node, combiners), "type": "object"}
    own = merged["properties"] if isinstance(merged.get("properties"), dict) else {}
    properties = dict(own)
    required = _names(merged)
    for key in combiners:
        branches = [branch for item in node[key] if (branch := _object_branch(item, depth)) is not None]
        for name, schema in ((name, schema) for branch in branches for name, schema in branch["properties"].items()):
            known = properties.get(name)
            if not isinstance(known, dict) or (not known and name in own):
                properties[name] = schema
            elif key == "allOf" and isinstance(schema, dict):
                properties[name] = both(known, schema)
            elif not own.get(name):
                properties[name] = either(known, schema)
        needs = [_names(branch) for branch in branches]
        if key == "allOf":
            required = union(required, [name for names in needs for name in names])
        elif needs:
            required = union(required, _in_all(needs))
            notes += _alternatives(key, needs)
    return {**merged, "properties": properties, **({"required": required} if required else {})}


def _object_branch(item: Any, depth: int) -> JSON | None:
    """One branch of a union as one object, with ``properties``; None for what no object can be."""
    if item is True:
        return {"properties": {}}
    if not isinstance(item, dict) or item.get("type", "object") != "object":
        return None
    branch = one_object(item, [], depth + 1) if depth < MAX_DEPTH else item
    return branch if isinstance(branch.get("properties"), dict) else {**branch, "properties": {}}


def _names(node: JSON) -> list[str]:
    names = node.get("required")
    return [name for name in names if isinstance(name, str)] if isinstance(names, list) else []


def _in_all(needs: list[list[str]]) -> list[str]:
    shared = set(needs[0]).intersection(*needs[1:])
    return [name for name in needs[0] if name in shared]


def _alternatives(key: str, needs: list[list[str]]) -> Notes:
    """Which properties go together, where that differs from branch to branch."""
    sets = list(dict.fromkeys("+".join(names) or "nothing" for names in needs))
    return [told(f"{key} of", " | ".join(sets))] if 1 < len(sets) <= MAX_ALTERNATIVES else []


# -- values and types -----------------------------------------------------------------------------------------


def const_as_enum(node: JSON, notes: Notes) -> JSON:
    """``const`` as an ``enum`` of one."""
    return replaced(node, "const", "enum", [node["const"]]) if "const" in node else node


def no_tuples(node: JSON, notes: Notes) -> JSON:
    """One schema for all items; which stands where is told."""
    place = "prefixItems" if isinstance(node.get("prefixItems"), list) else "items"
    listed = node.get(place)
    if not isinstance(listed, list):
        return node
    rest = node.get("items" if place == "prefixItems" else "additionalItems")
    node = without(node, ["additionalItems", *(["items"] if place == "prefixItems" else [])])
    if not listed:
        return without(node, [place]) if not isinstance(rest, dict) else replaced(node, place, "items", rest)
    notes.append(told("items in order", ", ".join(_type_name(item) for item in listed)))
    one: Any = listed[0]
    for item in [*listed[1:], *([rest] if isinstance(rest, dict) else [])]:
        one = either(one, item)
    return replaced(node, place, "items", one)


def _type_name(item: Any) -> str:
    kind = item.get("type") if isinstance(item, dict) else None
    return kind if isinstance(kind, str) else " or ".join(map(str, kind)) if isinstance(kind, list) else "any"


def single_types(node: JSON, notes: Notes) -> JSON:
    """One type for each schema; several become ``anyOf``."""
    types = node.get("type")
    if not isinstance(types, list):
        return node
    known = [kind for kind in dict.fromkeys(item for item in types if isinstance(item, str)) if kind in OF_TYPE]
    if len(known) < 2:
        return {**node, "type": known[0]} if known else without(node, ["type"])
    if any(key in node for key in (*COMBINERS, "$ref")):
        notes.append(f"type: {' or '.join(known)}")
        return without(node, ["type"])
    values = [node["const"]] if "const" in node else node.get("enum")
    branches = [branch for kind in known if (branch := _of_type(node, kind, values))]
    if not branches:
        notes.append(told("enum", values))
    rest = without(node, {"enum", "const"} | _TYPED)
    if len(branches) < 2:
        return {**rest, **(branches[0] if branches else {"type": known[0]})}
    return replaced(rest, "type", "anyOf", branches)


def _of_type(node: JSON, kind: str, values: Any) -> JSON:
    """What ``node`` says about values of one type; {} if it lists values, and none of that type."""
    branch = {"type": kind, **{key: value for key, value in node.items() if key in OF_TYPE[kind]}}
    if isinstance(values, list):
        fitting = [value for value in values if fits(value, kind)]
        if not fitting:
            return {}
        if kind != "null":
            branch["enum"] = fitting
    return branch


def typed_enums(node: JSON, notes: Notes) -> JSON:
    """An ``enum`` of plain values of one declared type."""
    values = node.get("enum")
    declared = node.get("type")
    if not isinstance(values, list) or isinstance(declared, list):
        return node
    plain = union([value for value in values if not isinstance(value, dict | list)])
    fitting = [value for value in plain if isinstance(declared, str) and fits(value, declared)]
    if isinstance(declared, str) and plain and not fitting:  # as it stands nothing fits: the values are right
        node, declared = without(node, ["type"]), None
    if isinstance(declared, str):
        plain = fitting
    elif any(isinstance(value, dict | list) for value in values):
        plain = []
    if not plain:
        notes.append(told("enum", values))
        return without(node, ["enum"])
    if isinstance(declared, str):
        return node if len(plain) == len(values) else {**node, "enum": plain}
    types = list(dict.fromkeys(type_of(value) for value in plain))
    if "number" in types:
        types = [kind for kind in types if kind != "integer"]
    if len(types) > 1 and any(key in node for key in (*COMBINERS, "$ref")):
        notes.append(told("enum", values))
        return without(node, ["enum"])
    typed: JSON = {}
    for key, value in node.items():
        typed |= {"type": types, "enum": plain} if key == "enum" else {key: value}
    return single_types(typed, notes)


def string_enums(node: JSON, notes: Notes) -> JSON:
    """Only strings in an ``enum``."""
    values = node.get("enum")
    if not isinstance(values, list) or all(isinstance(value, str) for value in values):
        return node
    notes.append(told("enum", values))
    return without(node, ["enum"])


def declared_required(node: JSON, notes: Notes) -> JSON:
    """No required property that is not declared."""
    names = node.get("required")
    if not isinstance(names, list):
        return node
    properties = node.get("properties")
    declared = properties if isinstance(properties, dict) else {}
    left = [name for name in names if isinstance(name, str) and name in declared]
    if len(left) == len(names):
        return node
    notes.append(told("required", [name for name in names if not isinstance(name, str) or name not in declared]))
    return {**node, "required": left} if left else without(node, ["required"])


def own_keywords(node: JSON, notes: Notes) -> JSON:
    """Only keywords that mean something for the declared type; the others constrain nothing."""
    kind = node.get("type")
    return without(node, _FOREIGN[kind]) if isinstance(kind, str) and kind in _FOREIGN else node


def array_items(node: JSON, notes: Notes) -> JSON:
    """``items`` for every array."""
    return {**node, "items": {}} if node.get("type") == "array" and not {"items", "prefixItems"} & set(node) else node


STEPS: dict[str, Step] = {
    step.__name__: step
    for step in (
        well_formed,
        no_boolean_schemas,
        flat_all_of,
        any_of,
        const_as_enum,
        no_tuples,
        single_types,
        typed_enums,
        string_enums,
        typed_branches,
        own_keywords,
        declared_required,
        array_items,
    )
}
"""Rewrite -> what it does to one schema, in the order in which they are applied."""
