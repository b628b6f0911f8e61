"""State that rides through the client: round trips, and None for whatever is not ours."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.translate.opaque import decode_signature, decode_tool_id, encode_signature, encode_tool_id
from tests.grammar import TOOL_ID

CHARACTERS = st.characters(exclude_categories=["Cs"])
TEXTS = st.text(CHARACTERS, max_size=40)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False, allow_infinity=False) | TEXTS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXTS, inner, max_size=4),
    max_leaves=6,
)
SIGNATURE = encode_signature({"field": "reasoning_details", "data": ["é", 1]})
CALL_ID = encode_tool_id("functions.search:0", "lab", {"thought": "x"}, 2)

FOREIGN: list[Any] = [
    *("", "gw1", "gw1.", "gw1_", "gw1.a", "gw1_x", "gw1..", "gw1.12345678", "gw1..12345678", "gw1_1234567_"),
    *("gw2.e30.", "ErUBCkYIBxgCIkAxyz==", "toolu_01A", "call_abc", "gw1.é.12345678", "gw1.\ud800.12345678"),
    *("\x00" * 50, "=" * 5000),
    *(None, 7, 7.5, True, b"gw1.e30.x", [], {}, [SIGNATURE]),
]


@settings(max_examples=40)
@given(st.dictionaries(TEXTS, JSON, max_size=5))
def test_a_signature_gives_its_state_back(state: dict[str, Any]) -> None:
    assert decode_signature(encode_signature(state)) == state


@settings(max_examples=40)
@given(TEXTS, JSON, st.integers(0, 1000))
def test_a_tool_id_gives_its_state_back_in_letters_that_clients_take(upstream_id: str, extra: Any, salt: int) -> None:
    tool_id = encode_tool_id(upstream_id, "lab", extra, salt)
    assert TOOL_ID.match(tool_id)
    assert decode_tool_id(tool_id, "lab") == (upstream_id, extra)


def test_salt_tells_equal_ids_apart() -> None:
    ids = [encode_tool_id("call_1", "lab", None, salt) for salt in range(5)]
    assert len(set(ids)) == 5
    assert {decode_tool_id(tool_id, "lab") for tool_id in ids} == {("call_1", None)}


def test_another_providers_tool_id_is_nothing() -> None:
    assert decode_tool_id(CALL_ID, "lab") is not None
    assert decode_tool_id(CALL_ID, "elsewhere") is None


def test_the_same_state_gives_the_same_bytes() -> None:
    assert encode_signature({"b": 1, "a": 2}) == encode_signature({"b": 1, "a": 2})


@pytest.mark.parametrize("value", FOREIGN, ids=lambda value: repr(value)[:30])
def test_what_is_not_ours_is_nothing(value: Any) -> None:
    assert decode_signature(value) is None
    assert decode_tool_id(value, "lab") is None


@pytest.mark.parametrize("whole", [SIGNATURE, CALL_ID])
def test_what_was_cut_short_is_nothing(whole: str) -> None:
    for size in range(len(whole)):
        assert decode_signature(whole[:size]) is None
        assert decode_tool_id(whole[:size], "lab") is None
        assert decode_signature(whole[size + 1 :]) is None


@pytest.mark.parametrize("whole", [SIGNATURE, CALL_ID])
def test_what_was_altered_is_nothing(whole: str) -> None:
    for position in range(len(whole)):
        other = "B" if whole[position] != "B" else "C"
        altered = whole[:position] + other + whole[position + 1 :]
        assert decode_signature(altered) is None
        assert decode_tool_id(altered, "lab") is None


def test_a_signature_is_no_tool_id_and_the_reverse() -> None:
    assert decode_tool_id(SIGNATURE, "lab") is None
    assert decode_signature(CALL_ID) is None
    assert decode_tool_id(SIGNATURE.replace(".", "_"), "lab") is None
    assert decode_signature(CALL_ID.replace("_", ".")) is None


@settings(max_examples=40)
@given(st.text(max_size=60), st.sampled_from(["", "gw1.", "gw1_"]))
def test_garbage_never_raises(text: str, prefix: str) -> None:
    assert decode_signature(prefix + text) is None
    assert decode_tool_id(prefix + text, "lab") is None
