"""Tool calls in the text: healed where the profile says so and the tool is offered, else text (R92).

The table is ``tests/cases/leaked_calls.yaml``; every case is fed whole, character by character, and in random cuts.
"""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.translate.leaked_calls import MAX_CLOSINGS, MAX_SECTION, PATIENCE, LeakedCalls
from gateway.translate.leaked_forms import FORMS
from tests.recordings import load_yaml

TABLE = load_yaml(Path(__file__).parent / "cases" / "leaked_calls.yaml")
MARKUPS = TABLE["markups"]
OFFERED = TABLE["offered"]
HERMES = MARKUPS["hermes"]
CALL = '<tool_call>{"name":"now"}</tool_call>'


def run(chunks: list[str], markups: list[dict[str, str]], offered: Any = OFFERED) -> list[Any]:
    """All pieces, texts that follow each other joined, arguments read."""
    healer = LeakedCalls(markups, offered)
    raw = [piece for chunk in chunks for piece in healer.feed(chunk)] + healer.close()
    pieces: list[Any] = []
    for piece in raw:
        if piece[0] == "call":
            pieces.append({"call": piece[1], "arguments": json.loads(piece[2])})
        elif pieces and isinstance(pieces[-1], str):
            pieces[-1] += piece[1]
        else:
            assert piece[1], "an empty piece"
            pieces.append(piece[1])
    return pieces


def cuts(text: str, seed: int) -> list[str]:
    chance = random.Random(seed)
    at = sorted(chance.sample(range(len(text) + 1), min(len(text), chance.randrange(1, 12))))
    return [text[start:end] for start, end in zip([0, *at], [*at, len(text)], strict=True)]


@pytest.mark.parametrize("case", TABLE["cases"], ids=lambda case: case["name"])
def test_table(case: dict[str, Any]) -> None:
    text = case["text"]
    markups = [MARKUPS[name] for name in case["markups"]]
    expected = case.get("pieces", [text])
    assert run([text], markups) == expected
    assert run(list(text), markups) == expected
    for seed in range(20):
        assert run(cuts(text, seed), markups) == expected


def test_every_form_is_in_the_table() -> None:
    healed = [case for case in TABLE["cases"] if any(isinstance(piece, dict) for piece in case.get("pieces", []))]
    assert {MARKUPS[name]["form"] for case in healed for name in case["markups"]} == set(FORMS)


def test_without_offered_tools_everything_is_text() -> None:
    assert run([CALL], [HERMES], {}) == [CALL]


def test_text_leaves_at_once() -> None:
    healer = LeakedCalls([HERMES], OFFERED)
    assert healer.feed("Hello") == [("text", "Hello")]
    assert healer.feed(" world <b> <tool") == [("text", " world <b>")]
    assert healer.feed("s>") == [("text", " <tools>")]
    assert healer.close() == []


def test_what_cannot_be_a_section_leaves_at_once() -> None:
    healer = LeakedCalls([HERMES, MARKUPS["glm"]], OFFERED)
    assert healer.feed("<tool_call>now") == []
    assert healer.feed("here") == [("text", "<tool_call>"), ("text", "nowhere")]


def test_a_call_leaves_when_it_is_closed() -> None:
    healer = LeakedCalls([HERMES], OFFERED)
    assert healer.feed(CALL[:-1]) == []
    assert healer.feed(">") == [("call", "now", "{}")]


def test_a_long_call_leaves_when_it_is_closed() -> None:
    """While only a closing marker matters nothing is searched twice; a marker in two halves is still seen."""
    healer = LeakedCalls([HERMES], OFFERED)
    text = long_call(5000)
    head, tail = text[:-6], text[-6:]
    assert healer.feed(head[:4000]) + healer.feed(head[4000:-7]) + healer.feed(head[-7:]) == []
    assert [piece[0] for piece in healer.feed(tail)] == ["call"]


def test_arguments_keep_their_text() -> None:
    """Where the markup holds the arguments as JSON text, not a byte of it changes."""
    arguments = '{"b" : 1.0, "a":1e2,"é":"\\u00e9"}'
    text = f"<|tool_calls_section_begin|><|tool_call_begin|>now:0<|tool_call_argument_begin|>{arguments}"
    healer = LeakedCalls([MARKUPS["kimi"]], OFFERED)
    pieces = healer.feed(f"{text}<|tool_call_end|><|tool_calls_section_end|>")
    assert pieces == [("call", "now", arguments)]


def long_call(size: int) -> str:
    return '<tool_call>{"name":"Write","arguments":{"content":"' + "x" * size + '"}}</tool_call>'


@pytest.mark.parametrize("step", [None, 4096, 1000])
def test_a_long_section(step: int | None) -> None:
    overhead = len(long_call(0))
    just = long_call(MAX_SECTION - overhead)
    over = long_call(MAX_SECTION - overhead + 1)
    for text, expected in (
        (just, [{"call": "Write", "arguments": {"content": "x" * (MAX_SECTION - overhead)}}]),
        (over, [over]),
        (over + CALL, [over, {"call": "now", "arguments": {}}]),
    ):
        size = step or len(text)
        assert run([text[at : at + size] for at in range(0, len(text), size)], [HERMES]) == expected


def test_a_section_that_never_ends_is_not_hoarded() -> None:
    healer = LeakedCalls([HERMES], OFFERED)
    begin = '<tool_call>{"name":"Write","arguments":{"content":"'
    out = healer.feed(begin)
    chunk = "x" * 1024
    for _ in range(3 * MAX_SECTION // len(chunk)):
        out += healer.feed(chunk)
    sent = sum(len(piece[1]) for piece in out)
    assert sent >= 2 * MAX_SECTION
    out += healer.close()
    assert "".join(piece[1] for piece in out) == begin + "x" * (3 * MAX_SECTION)


def test_too_many_closing_markers() -> None:
    fine = (
        '<tool_call>{"name":"Write","arguments":{"content":"' + "</tool_call>" * (MAX_CLOSINGS - 1) + '"}}</tool_call>'
    )
    assert [type(piece) for piece in run([fine], [HERMES])] == [dict]
    many = fine.replace("</tool_call>", "</tool_call></tool_call>", 1)
    assert run([many], [HERMES]) == run(list(many), [HERMES]) == [many]


@pytest.mark.parametrize("fragment", ["<tool_call>x ", '<tool_call>{"a', '<tool_call>{"a"}</tool_call>', "<tool_call>"])
def test_an_answer_full_of_markers(fragment: str) -> None:
    text = fragment * 5000
    assert run([text], [HERMES, MARKUPS["glm"]]) == [text]
    assert run(cuts(text, 1), [HERMES]) == [text]


@pytest.mark.parametrize(("fragment", "often"), [('<tool_call>{"a"}</tool_call>', 16), ("<tool_call>x ", PATIENCE)])
def test_patience_ends(fragment: str, often: int) -> None:
    """An answer with many sections that are none talks about markup: a call in it is text, too."""
    healed = run([fragment * (often - 1) + CALL], [HERMES])
    assert healed == [(fragment * (often - 1)).rstrip(), {"call": "now", "arguments": {}}]
    text = fragment * often + CALL
    assert run([text], [HERMES]) == run(cuts(text, 2), [HERMES]) == [text]


def test_long_whitespace_does_not_wait() -> None:
    healer = LeakedCalls([HERMES], OFFERED)
    out = healer.feed(" " * 5000)
    assert sum(len(piece[1]) for piece in out) >= 4000
    assert "".join(piece[1] for piece in out + healer.close()) == " " * 5000


@pytest.mark.parametrize(
    "schema",
    [
        {"properties": []},
        {"properties": {"a": True}},
        {"properties": {"a": {"type": [[], None]}}},
        {"properties": {"a": {"anyOf": 3, "oneOf": [4]}}},
        {"properties": {"a": {"$ref": "#/properties/a"}}},
        {"properties": {"a": {"enum": [[1]], "const": 1}}},
        {},
    ],
)
def test_odd_schemas(schema: dict[str, Any]) -> None:
    text = '<minimax:tool_call><invoke name="f"><parameter name="a">1</parameter></invoke></minimax:tool_call>'
    assert run([text], [MARKUPS["minimax"]], {"f": schema}) == [{"call": "f", "arguments": {"a": 1}}]


def test_incomplete_markups_are_ignored() -> None:
    assert run([CALL], [{"open": "<tool_call>"}, {"open": "", "close": "", "form": "json"}, {}]) == [CALL]


PARTS = st.sampled_from(
    [
        *{word for item in MARKUPS.values() for word in (item["open"], item["close"])},
        *(
            "<tool_call>",
            "</tool_call>",
            CALL,
            '{"name":"now"}',
            '{"name":"now","arguments":{"a":"',
            '"}}',
            "now",
            "\n",
        ),
        *('<invoke name="now">', "</invoke>", '<parameter name="a">', "</parameter>", "]<]minimax[>[", "<a>", "</a>"),
        *("<function=now>", "</function>", "<parameter=a>", "<arg_key>a</arg_key>", "<arg_value>", "</arg_value>"),
        *(
            "<|tool_call_begin|>now:0<|tool_call_argument_begin|>",
            "{}",
            "<|tool_call_end|>",
            " ",
            "x",
            "<",
            "\ud83d",
        ),
    ]
)


@settings(max_examples=100, deadline=None)
@given(st.lists(PARTS, max_size=14).map("".join), st.integers(0, 1000))
def test_cuts_make_no_difference_and_nothing_is_lost(text: str, seed: int) -> None:
    markups = list(MARKUPS.values())
    whole = run([text], markups)
    assert run(list(text), markups) == whole
    assert run(cuts(text, seed), markups) == whole
    at = 0
    for piece in whole:  # every text stands in the original, in order
        if isinstance(piece, str):
            found = text.find(piece, at)
            assert found >= at
            at = found + len(piece)
        else:
            assert piece["call"] in OFFERED
    if not any(isinstance(piece, dict) for piece in whole):
        assert "".join(whole) == text
