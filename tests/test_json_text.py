"""JSON that orjson alone refuses: half characters, NUL, depth."""

from __future__ import annotations

import json
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.errors import InvalidRequest, UpstreamProtocolError
from gateway.wire.json_text import (
    dumps,
    dumps_body,
    dumps_item,
    dumps_request,
    encoded_items,
    loads_request,
    loads_upstream,
    without_nul,
    without_surrogates,
)

DEEPER_THAN_ANYBODY = 3000

# JSON text -> what a client meant by it
REQUESTS = {
    "plain": (b'{"a": 1}', {"a": 1}),
    "a pair": (rb'"\ud83d\ude00"', "\U0001f600"),
    "a high half": (rb'"a\ud83db"', "a\ufffdb"),
    "a low half": (rb'"a\ude00b"', "a\ufffdb"),
    "in capitals": (rb'"\uD83D"', "\ufffd"),
    "two high halves": (rb'"\ud83d\ud83d"', "\ufffd\ufffd"),
    "the halves swapped": (rb'"\ude00\ud83d"', "\ufffd\ufffd"),
    "a half before a pair": (rb'"\ud83d\ud83d\ude00"', "\ufffd\U0001f600"),
    "an escaped backslash before ud83d": (rb'["\\ud83d", "\ud83d"]', ["\\ud83d", "\ufffd"]),
    "two escaped backslashes": (rb'["\\\\ud83d", "\\\ud83d"]', ["\\\\ud83d", "\\\ufffd"]),
    "a half in a key": (rb'{"\ud83d": "\n"}', {"\ufffd": "\n"}),
    "a half before another escape": (rb'"\ud83d\n\u0041"', "\ufffd\nA"),
    "a private-use neighbour": (rb'"\ue000\ud800"', "\ue000\ufffd"),
}
NO_JSON = {
    "nothing": b"",
    "a word": b"hello",
    "cut": b'{"a": ',
    "two values": b"{} {}",
    "a comma too many": b'{"a": 1,}',
    "NaN": b'{"a": NaN}',
    "broken UTF-8": b'"\xff"',
    "a surrogate in UTF-8": b'"\xed\xa0\xbd"',
    "a half and a mistake": rb'{"a": "\ud83d",}',
    "half an escape": rb'"\ud8"',
    "too deep": b"[" * DEEPER_THAN_ANYBODY + b"]" * DEEPER_THAN_ANYBODY,
    "too deep, with a half": b"[" * DEEPER_THAN_ANYBODY + rb'"\ud83d"' + b"]" * DEEPER_THAN_ANYBODY,
}

TAKEN_FROM_UPSTREAMS = {"NaN", "a surrogate in UTF-8"}
"""Harmless mistakes of servers; what goes on to a client is valid all the same (``dumps``)."""


@pytest.mark.parametrize(("data", "meant"), REQUESTS.values(), ids=REQUESTS)
def test_a_request_is_read_with_whole_characters(data: bytes, meant: Any) -> None:
    value = loads_request(data)
    assert value == meant
    assert orjson.loads(orjson.dumps(value)) == meant


@pytest.mark.parametrize("data", NO_JSON.values(), ids=NO_JSON)
def test_what_is_no_json_is_a_value_error(data: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        loads_request(data)


@pytest.mark.parametrize("name", [name for name in NO_JSON if name not in TAKEN_FROM_UPSTREAMS])
def test_what_is_no_json_of_an_upstreams(name: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        loads_upstream(NO_JSON[name])


def test_a_request_says_where_it_is_wrong() -> None:
    with pytest.raises(ValueError, match="line 2 column"):
        loads_request(b'{"a":\n }')


def test_an_upstreams_half_character_waits_for_its_other_half() -> None:
    first, second = loads_upstream(rb'"\ud83d"'), loads_upstream(rb'"\ude00"')
    assert (first, second) == ("\ud83d", "\ude00")
    assert without_surrogates(first + second) == "\U0001f600"


@pytest.mark.parametrize("levels", [100, 250, 300, 900])
@pytest.mark.parametrize(("before", "after"), [(b"[", b"]"), (b'{"a":', b"}")])
@pytest.mark.parametrize("middle", [b"1", rb'"\ud83d"'], ids=["plain", "half a character"])
def test_what_was_read_is_written_or_refused(levels: int, before: bytes, after: bytes, middle: bytes) -> None:
    """orjson reads four times as deep as it writes: that is the sender's fault, never a crash of ours."""
    data = before * levels + middle + after * levels
    for value, dump, refusal in (
        (loads_request(data), dumps_request, InvalidRequest),
        (loads_upstream(data), dumps, UpstreamProtocolError),
    ):
        try:
            written = dump(value)
        except refusal:
            assert levels > 250
            continue
        assert written.count(before) == levels


def test_a_refusal_says_why() -> None:
    value = loads_request(b"[" * 1000 + b"]" * 1000)
    with pytest.raises(InvalidRequest, match="deep"):
        dumps_request(value)
    with pytest.raises(UpstreamProtocolError, match="deep"):
        dumps(value)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ({"a": "\ud83d"}, '{"a":"\ufffd"}'),
        ({"\ud83d": [1, None, True, "\ude00"]}, '{"\ufffd":[1,null,true,"\ufffd"]}'),
        (["\ud83d\ude00"], '["\U0001f600"]'),
        ({"a": "é\x00"}, '{"a":"é\\u0000"}'),
        (["\ud83d", float("nan"), {"a": float("inf")}, 1.5], '["\ufffd",null,{"a":null},1.5]'),
        ({"a": "\ud83d", "b": 10**30}, '{"a":"\ufffd","b":1000000000000000000000000000000}'),
    ],
)
def test_written_json_is_valid(value: Any, text: str) -> None:
    assert dumps(value).decode() == text


@settings(max_examples=40)
@given(
    st.recursive(
        st.none() | st.booleans() | st.text(max_size=9),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner, max_size=3),
        max_leaves=8,
    )
)
def test_whatever_it_is_it_can_be_written(value: Any) -> None:
    json.loads(dumps(value))


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (rb'"a\u0000b"', rb'"a\ufffdb"'),
        (rb'"\\u0000"', rb'"\\u0000"'),
        (rb'"\\\u0000"', rb'"\\\ufffd"'),
        (rb'"\u0000\u0000"', rb'"\ufffd\ufffd"'),
        (rb'"\u0001\n"', rb'"\u0001\n"'),
        (b'"plain"', b'"plain"'),
    ],
)
def test_nul_becomes_a_mark(before: bytes, after: bytes) -> None:
    assert without_nul(before) == after


@settings(max_examples=60)
@given(st.text(st.sampled_from("\\u0ad\x00\"n"), max_size=20))
def test_nul_and_nothing_else(text: str) -> None:
    assert orjson.loads(without_nul(orjson.dumps(text))) == text.replace("\x00", "\ufffd")


TEXTS = st.text(st.sampled_from('\\u0ad\x00"né'), max_size=9)
VALUES = st.none() | st.integers(0, 9) | TEXTS | st.lists(TEXTS, max_size=3) | st.dictionaries(TEXTS, TEXTS, max_size=2)


@settings(max_examples=100)
@given(st.dictionaries(TEXTS, VALUES, max_size=6), st.sets(st.integers(0, 5)))
def test_a_body_in_pieces_is_the_same_body(fields: dict[str, Any], places: set[int]) -> None:
    pieces = {
        name: encoded_items(map(dumps_item, value)) if isinstance(value, list) and place in places else value
        for place, (name, value) in enumerate(fields.items())
    }
    assert dumps_body(pieces) == without_nul(dumps_request(fields))


@pytest.mark.parametrize("levels", range(249, 256))
def test_a_piece_is_as_deep_as_in_its_body(levels: int) -> None:
    value: Any = "x"
    for _ in range(levels):
        value = [value]

    def whole() -> bytes:
        return dumps_request({"tools": [value]})

    def in_pieces() -> bytes:
        return dumps_body({"tools": encoded_items([dumps_item(value)])})

    if levels > 252:
        for write in (whole, in_pieces):
            with pytest.raises(InvalidRequest, match="deep"):
                write()
    else:
        assert in_pieces() == whole()
