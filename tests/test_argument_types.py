"""What a tool's arguments may be: enough of its schema to read a call that leaked into the text, and no more."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.translate import chat_tools, schema_nodes
from gateway.translate.leaked_calls import LeakedCalls
from gateway.translate.schema_nodes import argument_types
from tests.recordings import load_yaml

TABLE = load_yaml(Path(__file__).parent / "cases" / "leaked_calls.yaml")

# a property's schema -> the types that it allows; none: unknown
SCHEMAS: list[tuple[Any, set[str]]] = [
    ({"type": "string"}, {"string"}),
    ({"type": ["integer", "null"]}, {"integer", "null"}),
    ({"type": ["integer", 3, None]}, {"integer"}),
    ({}, set()),
    (True, set()),
    ("string", set()),
    ({"enum": ["a", "b"]}, {"string"}),
    ({"enum": ["a", 1]}, set()),
    ({"const": "a"}, {"string"}),
    ({"const": 1}, set()),
    ({"anyOf": [{"type": "string"}, {"type": "number"}]}, {"string", "number"}),
    ({"anyOf": [{"type": "string"}, {}]}, set()),
    ({"oneOf": [{"const": "a"}], "allOf": [{"type": "object"}]}, {"string", "object"}),
    ({"anyOf": 3, "oneOf": [4]}, set()),
    ({"$ref": "#/$defs/number"}, {"number"}),
    ({"$ref": "#/$defs/either"}, {"number", "boolean"}),
    ({"$ref": "#/$defs/nothing"}, set()),
    ({"$ref": "#/properties/a"}, set()),
    ({"type": "string", "$ref": "#/$defs/number"}, {"number"}),
]
DEFINITIONS = {
    "number": {"type": "number"},
    "either": {"anyOf": [{"$ref": "#/$defs/number"}, {"type": "boolean"}]},
}


@pytest.mark.parametrize(("schema", "types"), SCHEMAS)
def test_table(schema: Any, types: set[str]) -> None:
    assert argument_types({"properties": {"a": schema}, "$defs": DEFINITIONS}) == {"a": types}


@pytest.mark.parametrize("schema", [{}, {"properties": []}, {"properties": None}])
def test_without_properties(schema: Any) -> None:
    assert argument_types(schema) == {}


def test_references_do_not_explode(monkeypatch: pytest.MonkeyPatch) -> None:
    """64 ways, eight levels deep, to one and the same node."""
    followed = []
    resolve = schema_nodes.resolve

    def counted(root: Any, pointer: str) -> Any:
        followed.append(pointer)
        assert len(followed) < 1000
        return resolve(root, pointer)

    monkeypatch.setattr(schema_nodes, "resolve", counted)
    many = {"anyOf": [{"$ref": "#/$defs/many"}] * 64}
    assert argument_types({"properties": {"a": many, "b": many}, "$defs": {"many": many}}) == {"a": set(), "b": set()}


def healed(case: dict[str, Any], offered: dict[str, Any]) -> list[Any]:
    healer = LeakedCalls([TABLE["markups"][name] for name in case["markups"]], offered)
    return [*healer.feed(case["text"]), *healer.close()]


@pytest.mark.parametrize("case", TABLE["cases"], ids=lambda case: case["name"])
def test_leaked_calls_need_nothing_else(case: dict[str, Any]) -> None:
    short = {name: chat_tools._argument_types(schema) for name, schema in TABLE["offered"].items()}
    assert healed(case, short) == healed(case, TABLE["offered"])


@settings(max_examples=150)
@given(
    st.sampled_from([schema for schema, _ in SCHEMAS]),
    st.sampled_from(["1", "1.5", "true", "TRUE", "null", "{}", "[1]", "x", " 2 ", ""]),
)
def test_values_mean_the_same(schema: Any, text: str) -> None:
    whole = {"properties": {"a": schema}, "$defs": DEFINITIONS}
    call = f'<invoke name="f"><parameter name="a">{text}</parameter></invoke>'
    case = {"markups": ["minimax"], "text": f"<minimax:tool_call>{call}</minimax:tool_call>"}
    pieces = healed(case, {"f": whole})
    assert pieces[0][0] == "call"
    json.loads(pieces[0][2])
    assert healed(case, {"f": chat_tools._argument_types(whole)}) == pieces
