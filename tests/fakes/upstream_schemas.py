"""Tool schemas against what an upstream takes of JSON Schema: ``schema`` in tests/cases/upstream_rules.yaml.

``refused``: keywords; ``refused_at_root``: keywords of the outermost schema; ``booleans``: ``refused``; ``type_lists``:
``refused``; ``depth``: levels of values at most; ``typed``: every schema has a type; ``items``: every array has items.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

NAMED = ("properties", "patternProperties", "$defs", "definitions", "dependentSchemas")
OPEN = ("additionalProperties", "unevaluatedProperties")
"""Where a boolean is no schema but a switch that everybody knows."""
ONE = ("items", "not", "if", "then", "else", "contains", "propertyNames", *OPEN)
LISTS = ("anyOf", "oneOf", "allOf", "prefixItems")


def schema_breaches(schema: Any, rules: Mapping[str, Any]) -> Iterator[str]:
    """What of ``rules`` a tool's schema breaks."""
    if not isinstance(schema, dict) or schema.get("type") != "object":
        yield "the schema is no object"
        return
    for name in rules.get("refused_at_root", ()):
        if name in schema:
            yield f"{name} at the root"
    yield from _walk(schema, rules, "", 0)


def _walk(schema: Any, rules: Mapping[str, Any], path: str, level: int) -> Iterator[str]:
    if isinstance(schema, bool):
        if rules.get("booleans") == "refused" and path.rpartition(".")[2] not in OPEN:
            yield f"{path}: a bare boolean"
        return
    if not isinstance(schema, dict):
        yield f"{path}: no schema"
        return
    yield from (f"{path}.{name}: not taken" for name in rules.get("refused", ()) if name in schema)
    if rules.get("type_lists") == "refused" and isinstance(schema.get("type"), list):
        yield f"{path}.type: a list"
    if rules.get("items") and schema.get("type") == "array" and "items" not in schema:
        yield f"{path}: an array without items"
    if level > rules.get("depth", 1000):
        yield f"{path}: deeper than {rules['depth']} levels"
    for name, value in schema.items():
        where = f"{path}.{name}"
        if name in NAMED and isinstance(value, dict):
            for key, inner in value.items():
                yield from _walk(inner, rules, f"{where}.{key}", level + 1)
        elif name in LISTS and isinstance(value, list):
            for at, inner in enumerate(value):
                yield from _walk(inner, rules, f"{where}[{at}]", level)
        elif name in ONE and isinstance(value, dict | bool):
            yield from _walk(value, rules, where, level + 1)
        elif name == "items":
            yield f"{where}: a list"
