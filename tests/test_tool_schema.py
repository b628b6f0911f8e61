"""Tool schemas for upstreams that take a part of the language (R43, R44).

The table is ``tests/cases/tool_schemas.yaml``; what no table can hold (depth, size, cycles, anything at all) is here.
"""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.translate.schema_nodes import LISTED, MAX_ALTERNATIVES, MAX_DEPTH, MAX_INLINED, MAX_VALUES, NAMED, ONE
from gateway.translate.tool_schema import MAX_LEVELS, REWRITES, fit_schema
from tests.recordings import load_yaml

TABLE = load_yaml(Path(__file__).parent / "cases" / "tool_schemas.yaml")
FLAVOURS: dict[str, dict[str, list[str]]] = TABLE["flavours"]
JSON = dict[str, Any]


def of(case: JSON) -> tuple[list[str], list[str]]:
    """Rewrites and dropped keywords of a case or a flavour."""
    case = FLAVOURS[case["flavour"]] if "flavour" in case else case
    rewrites = case.get("rewrites", [])
    return list(REWRITES) if rewrites == "all" else rewrites, case.get("dropped", [])


def subschemas(node: Any) -> Iterator[Any]:
    """Whatever stands where a schema may stand, the root included. Written without the code under test."""
    yield node
    for key, value in node.items() if isinstance(node, dict) else ():
        children: Any = ()
        if key in NAMED and isinstance(value, dict):
            children = value.values()
        elif (key in LISTED or key == "items") and isinstance(value, list):
            children = value
        elif key in ONE:
            children = [value]
        for child in children:
            yield from subschemas(child)


@pytest.mark.parametrize("case", TABLE["cases"], ids=lambda case: case["name"])
def test_table(case: JSON) -> None:
    schema = case["schema"]
    before = copy.deepcopy(schema)
    fitted = fit_schema(schema, *of(case))
    assert schema == before
    if "expected" in case:
        assert json.dumps(fitted) == json.dumps(case["expected"])
        assert json.dumps(fit_schema(schema, *of(case))) == json.dumps(fitted)
        assert json.dumps(fit_schema(fitted, *of(case))) == json.dumps(fitted), "not yet done"
    else:
        assert fitted is schema


def test_every_rewrite_is_in_the_table() -> None:
    alone = [case["rewrites"] for case in TABLE["cases"] if "expected" in case and len(case.get("rewrites", [])) == 1]
    rest = {"explicit_any", "shallow"}  # together with another one, and below
    assert {name for names in alone for name in names} | rest == set(REWRITES)


def test_flavours_name_known_rewrites() -> None:
    assert {name for flavour in FLAVOURS.values() for name in flavour["rewrites"]} <= set(REWRITES)


def test_the_order_in_which_rewrites_are_named_does_not_matter() -> None:
    for case in TABLE["cases"]:
        rewrites, dropped = of(case)
        forward, backward = (fit_schema(case["schema"], names, dropped) for names in (rewrites, rewrites[::-1]))
        assert json.dumps(forward) == json.dumps(backward)


def nested(levels: int, keyword: str, leaf: Any) -> JSON:
    for _ in range(levels):
        leaf = {"type": "object", keyword: {"a": leaf}} if keyword in NAMED else {keyword: leaf}
    return {"type": "object", "properties": {"root": leaf}}


def test_shallow() -> None:
    fits = nested(MAX_LEVELS - 1, "properties", {"type": "string"})
    assert fit_schema(fits, ["shallow"]) is fits
    fitted = fit_schema(nested(MAX_LEVELS, "properties", {"type": "string"}), ["shallow"])
    for _ in range(MAX_LEVELS - 1):
        fitted = next(iter(fitted["properties"].values()))
    assert fitted["properties"] == {"a": {"type": "object", "description": "(nested too deeply to be described)"}}


def test_shallow_keeps_arrays_and_counts_no_branches() -> None:
    deep: Any = {"type": "array", "items": {"type": "string"}, "description": "d"}
    for _ in range(MAX_LEVELS):
        deep = {"anyOf": [{"type": "array", "items": deep}]}
    schema = {"type": "object", "properties": {"a": deep}}
    text = json.dumps(fit_schema(schema, ["shallow"]))
    assert text.count('"items"') == MAX_LEVELS - 1
    assert '{"anyOf": [{"type": "array", "description": "(nested too deeply to be described)"}]}' in text


@pytest.mark.parametrize("keyword", ["properties", "items", "additionalProperties", "not", "$defs"])
def test_depth_is_bounded(keyword: str) -> None:
    schema = nested(MAX_DEPTH + 20, keyword, {"type": "string", "pattern": "x"})
    fitted = fit_schema(schema, ["no_boolean_schemas"], ["pattern"])
    assert "nested too deeply" in json.dumps(fitted)
    assert orjson.dumps(fitted)


def test_what_is_too_deep_for_json_stays() -> None:
    schema = nested(2000, "items", True)
    assert fit_schema(schema, REWRITES, ["pattern"]) is schema


def bomb(levels: int, width: int) -> JSON:
    """A schema of a few hundred bytes that means ``width ** levels`` properties."""
    definitions: JSON = {
        f"d{level}": {
            "type": "object",
            "properties": {f"p{branch}": {"$ref": f"#/$defs/d{level + 1}"} for branch in range(width)},
        }
        for level in range(levels)
    }
    definitions[f"d{levels}"] = {"type": "string"}
    return {"type": "object", "properties": {"a": {"$ref": "#/$defs/d0"}}, "$defs": definitions}


@pytest.mark.parametrize("rewrites", [["inline_refs"], ["inline_refs", "object_root"], list(REWRITES)])
def test_references_do_not_explode(rewrites: list[str]) -> None:
    text = json.dumps(fit_schema(bomb(40, 8), rewrites))
    assert "too large to repeat: as #/$defs/d" in text or "nested too deeply" in text
    assert len(text) < 3 * MAX_INLINED
    assert "$ref" not in text


def test_references_that_fit_are_all_inlined() -> None:
    text = json.dumps(fit_schema(bomb(3, 8), ["inline_refs"]))
    assert text.count('"string"') == 8**3
    assert "too large" not in text


def test_unions_at_the_root_do_not_explode_either() -> None:
    levels = {f"d{level}": {"anyOf": [{"$ref": f"#/$defs/d{level + 1}"}] * 3} for level in range(60)}
    schema = {"type": "object", "anyOf": [{"$ref": "#/$defs/d0"}], "$defs": {**levels, "d60": {"type": "object"}}}
    fitted = fit_schema(schema, ["object_root"])
    assert fitted == {"type": "object", "properties": {}}


def test_many_different_alternatives_mean_anything() -> None:
    branches = [{"properties": {"a": {"minLength": size}, "b": {"const": size}}} for size in range(2 * MAX_VALUES)]
    some = fit_schema({"type": "object", "oneOf": branches[:20]}, ["object_root"])["properties"]
    assert [len(some["a"]["anyOf"]), len(some["b"]["enum"])] == [20, 20]
    assert len(branches) > MAX_ALTERNATIVES
    assert fit_schema({"type": "object", "oneOf": branches}, ["object_root"])["properties"] == {"a": {}, "b": {}}


def test_a_long_constraint_is_cut() -> None:
    schema = {"type": "object", "properties": {"a": {"type": "string", "enum": ["x" * 50] * 50}}}
    description = fit_schema(schema, [], ["enum"])["properties"]["a"]["description"]
    assert description.startswith('(enum: ["xxx')
    assert description.endswith("…)")
    assert len(description) < 250


def test_no_schema_of_the_first_call_leaks_into_the_second() -> None:
    first = fit_schema({"type": "object", "properties": {"a": True}}, ["no_boolean_schemas"])
    second = fit_schema({"type": "object", "properties": {"a": True}}, [], ["pattern"])
    third = fit_schema({"properties": {"a": True}, "type": "object"}, ["no_boolean_schemas"])
    assert first == {"type": "object", "properties": {"a": {}}}
    assert second == {"type": "object", "properties": {"a": True}}
    assert list(third) == ["properties", "type"]


class Maker:
    """Any schema, right or wrong, from a seed: hypothesis' own recursive strategies take seconds for as much."""

    names = ("a", "b", "pattern", "items", "type", "$ref", "properties", "anyOf", "enum")
    types = ("string", "integer", "number", "boolean", "null", "array", "object", "what", 3)

    def __init__(self, seed: int) -> None:
        self.chance = random.Random(seed)

    def value(self, depth: int = 0) -> Any:
        pick = self.chance.choice
        if depth < 2 and self.chance.random() < 0.3:
            return pick(([self.value(depth + 1)], {pick(self.names): self.value(depth + 1)}))
        return pick((None, True, False, 1, 2.5, "a", "", "#/$defs/a"))

    def schema(self, depth: int) -> Any:
        if self.chance.random() < 0.1:
            return self.chance.choice((True, False, None, 7))
        return self.object(depth)

    def object(self, depth: int) -> JSON:
        pick = self.chance.choice
        some = range(self.chance.randrange(3))
        keys = self.chance.sample(self.keys, self.chance.randrange(1, 6 if depth else 3))
        node: JSON = {}
        for key in keys:
            below = self.schema(depth - 1) if depth else {"type": pick(self.types)}
            if self.chance.random() < 0.05:
                node[key] = self.value()
            elif key in NAMED:
                node[key] = {
                    pick(self.names): below,
                    **{pick(self.names): self.schema(depth - 1) for _ in some if depth},
                }
            elif key in LISTED or (key == "items" and pick((True, False))):
                node[key] = [below, *(self.schema(depth - 1) for _ in some if depth)]
            elif key in ONE:
                node[key] = below
            elif key == "type":
                node[key] = pick((pick(self.types), [pick(self.types) for _ in some]))
            elif key == "$ref":
                node[key] = pick(("#", "#/$defs/a", "#/definitions/b", "#/properties/a", "#/nowhere", "http://x"))
            elif key in ("required", "enum"):
                node[key] = [pick((pick(self.names), self.value())) for _ in some]
            else:
                node[key] = self.value()
        return node

    keys = (
        sorted(NAMED | LISTED | ONE)
        + 4 * ["type", "properties", "items", "anyOf"]
        + 2
        * [
            *("$ref", "required", "enum", "const", "default", "pattern", "minLength", "minimum", "description", "x-y"),
            *("allOf", "oneOf", "$defs", "title", "format"),
        ]
    )


SEEDS = st.integers(0, 2**32)
DROPPED = st.sets(st.sampled_from(["pattern", "items", "enum", "$ref", "anyOf", "type", "description", "required"]))


@settings(max_examples=80, deadline=None)
@given(SEEDS, st.sets(st.sampled_from(REWRITES)), DROPPED)
def test_any_schema(seed: int, rewrites: set[str], dropped: set[str]) -> None:
    schema = Maker(seed).object(4)
    before = json.dumps(schema)
    fitted = fit_schema(schema, sorted(rewrites), sorted(dropped))
    assert json.dumps(schema) == before
    assert len(json.dumps(fitted)) < 40 * len(before) + 20_000
    for node in subschemas(fitted):
        if isinstance(node, dict):
            assert not dropped & set(node)
            if "no_boolean_schemas" in rewrites:
                for key in ("items", "not", "if", "contains", "propertyNames"):
                    assert not isinstance(node.get(key), bool)
            if "any_of" in rewrites:
                assert "oneOf" not in node
            if "const_as_enum" in rewrites:
                assert "const" not in node
            if "single_types" in rewrites:
                assert not isinstance(node.get("type"), list)
    if fitted == schema and list(fitted) == list(schema):
        assert json.dumps(fitted) == before


@settings(max_examples=80, deadline=None)
@given(SEEDS, st.sampled_from(sorted(FLAVOURS)))
def test_what_is_fitted_stays_fitted(seed: int, flavour: str) -> None:
    schema = {"type": "object", "properties": {"p": Maker(seed).schema(4)}}
    fitted = fit_schema(schema, *of({"flavour": flavour}))
    again = fit_schema(fitted, *of({"flavour": flavour}))
    assert json.dumps(again) == json.dumps(fitted)


@settings(max_examples=100, deadline=None)
@given(SEEDS)
def test_the_strictest_flavour_holds_its_rules(seed: int) -> None:
    """The rules of R44's "MFJS", checked without the code under test."""
    schema = {**Maker(seed).object(4), "type": "object"}
    rewrites, dropped = of({"flavour": "moonshot"})
    fitted = fit_schema(schema, rewrites, dropped)
    assert fitted["type"] == "object"
    assert not {"anyOf", "oneOf", "allOf", "$ref", "enum"} & set(fitted)
    forbidden = {*dropped, "$ref", "$defs", "definitions", "const", "oneOf", "allOf", "prefixItems"}
    for node in subschemas(fitted):
        assert isinstance(node, dict | bool)
        if isinstance(node, bool):
            continue
        assert not forbidden & set(node)
        assert not ("anyOf" in node and {"type", "enum", "items", "properties"} & set(node))
        assert set(node.get("required", [])) <= set(node.get("properties", {}))
        assert all(isinstance(child, dict) for child in node.get("properties", {}).values())
        if "enum" in node:
            assert isinstance(node["type"], str)
