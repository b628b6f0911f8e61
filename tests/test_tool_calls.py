"""Tool calls of Chat Completions streams, in every form in which upstreams send them (R77-R80, R85)."""

from __future__ import annotations

import json
from typing import Any

import orjson
import pytest

import gateway.adapters
from gateway.adapters.base import MessagesRequest
from gateway.errors import UpstreamProtocolError
from tests.grammar import TOOL_ID, Reading, check_stream
from tests.recordings import ASKED, MESSAGE_ID, TOOLS, Answer, target_of, translate

Chunk = list[dict[str, Any]]


def call(arguments: Any = None, *, name: Any = None, **entry: Any) -> dict[str, Any]:
    """One element of ``tool_calls``."""
    function = {key: value for key, value in (("name", name), ("arguments", arguments)) if value is not None}
    return {"type": "function", **entry, "function": function}


def answer_to(
    *chunks: Chunk | str, finish: str = "tool_calls", tools: Any = TOOLS, messages: Any = None, **profile: Any
) -> Answer:
    """Each chunk is a ``tool_calls`` array, or a string of text."""
    lines: list[dict[str, Any]] = []
    for chunk in chunks:
        delta: dict[str, Any] = {"content": chunk} if isinstance(chunk, str) else {"tool_calls": chunk}
        lines.append({"choices": [{"index": 0, "delta": delta, "finish_reason": None}]})
    lines.append({"choices": [{"index": 0, "delta": {}, "finish_reason": finish}]})
    body = b"".join(b"data: " + orjson.dumps(line) + b"\n\n" for line in lines) + b"data: [DONE]\n\n"
    messages = messages or [{"role": "user", "content": "Hi"}]
    request = MessagesRequest(
        {"model": ASKED, "max_tokens": 9, "tools": tools, "messages": messages}, {}, "", MESSAGE_ID, 3
    )
    return translate(gateway.adapters.get("openai-chat"), request, target_of("generic", **profile), [body])


def reading_of(*chunks: Chunk | str, **options: Any) -> Reading:
    answer = answer_to(*chunks, **options)
    assert answer.error is None, repr(answer.error)
    return check_stream(answer.output)


def calls_of(*chunks: Chunk | str, **options: Any) -> list[tuple[str, str]]:
    """(name, arguments) of each call."""
    return [(block["name"], block["partial_json"]) for block in reading_of(*chunks, **options).content]


def ids_of(*chunks: Chunk | str, **options: Any) -> list[str]:
    ids = [block["id"] for block in reading_of(*chunks, **options).content if block["type"] == "tool_use"]
    assert all(TOOL_ID.match(tool_id) for tool_id in ids)
    assert len(set(ids)) == len(ids)
    return ids


A, B = '{"city":"Oslo"}', '{"q":"b"}'

CASES: dict[str, tuple[list[Chunk], list[tuple[str, str]]]] = {
    "one in fragments": (
        [[call("", name="get_weather", id="a", index=0)], [call('{"city":', index=0)], [call('"Oslo"}', index=0)]],
        [("get_weather", A)],
    ),
    "one whole": ([[call(A, name="get_weather", id="a", index=0)]], [("get_weather", A)]),
    "one after another": (
        [
            [call(A[:5], name="get_weather", id="a", index=0)], [call(A[5:], index=0)],
            [call(B[:3], name="search", id="b", index=1)], [call(B[3:], index=1)],
        ],
        [("get_weather", A), ("search", B)],
    ),
    "interleaved by index": (
        [
            [call("", name="get_weather", id="a", index=0), call("", name="search", id="b", index=1)],
            [call(B[:3], index=1)], [call(A[:3], index=0)], [call(B[3:], index=1), call(A[3:], index=0)],
        ],
        [("get_weather", A), ("search", B)],
    ),
    "interleaved by id, without an index": (
        [
            [call(A[:3], name="get_weather", id="a")], [call(B[:3], name="search", id="b")],
            [call(A[3:], id="a")], [call(B[3:], id="b")],
        ],
        [("get_weather", A), ("search", B)],
    ),
    "neither id nor index, whole, in one array": (
        [[call(A, name="get_weather"), call(B, name="search")]],
        [("get_weather", A), ("search", B)],
    ),
    "neither id nor index, one in fragments": (
        [[call("", name="get_weather")], [call(A[:4])], [call(A[4:])]],
        [("get_weather", A)],
    ),
    "neither id nor index, whole, one after another": (
        [[call(A, name="get_weather")], [call(B, name="search")]],
        [("get_weather", A), ("search", B)],
    ),
    "a new id on a used index": (
        [[call(A, name="get_weather", id="a", index=0)], [call(B, name="search", id="b", index=0)]],
        [("get_weather", A), ("search", B)],
    ),
    "a new name on a used index, without ids": (
        [[call(A, name="get_weather", index=0)], [call(B, name="search", index=0)]],
        [("get_weather", A), ("search", B)],
    ),
    "a late id": (
        [[call("", name="search", index=0)], [call(B[:2], id="late", index=0)], [call(B[2:], index=0)]],
        [("search", B)],
    ),
    "a late id, the name again": (
        [[call(B[:2], name="search", index=0)], [call(B[2:], name="search", id="late", index=0)]],
        [("search", B)],
    ),
    "a late name": (
        [[call(B[:2], id="a", index=0)], [call("", name="search", index=0)], [call(B[2:], index=0)]],
        [("search", B)],
    ),
    "empty ids and names say nothing": (
        [
            [call("", name="search", id="a", index=0)], [call(B[:2], name="", id="", index=0)],
            [call(B[2:], id="", index=0)],
        ],
        [("search", B)],
    ),
    "null ids, names and arguments": (
        [
            [call("", name="search", id="a", index=0)],
            [{"index": 0, "id": None, "function": {"name": None, "arguments": None}}], [call(B, index=0)],
        ],
        [("search", B)],
    ),
    "the name in each fragment": (
        [[call(B[:2], name="search", id="a", index=0)], [call(B[2:4], name="search", id="a", index=0)],
         [call(B[4:], name="search", index=0)]],
        [("search", B)],
    ),
    "arguments as an object": ([[call({"q": "b"}, name="search", id="a", index=0)]], [("search", '{"q":"b"}')]),
    "arguments as an object in pieces": (
        [[call({"city": "Oslo"}, name="get_weather", id="a", index=0)], [call({"unit": "c"}, index=0)]],
        [("get_weather", '{"city":"Oslo","unit":"c"}')],
    ),
    "indices with a gap": (
        [[call(A, name="get_weather", id="a", index=3)], [call(B, name="search", id="b", index=9)]],
        [("get_weather", A), ("search", B)],
    ),
    "indices backwards": (
        [[call(A, name="get_weather", id="a", index=1)], [call(B, name="search", id="b", index=0)]],
        [("get_weather", A), ("search", B)],
    ),
    "four at once, resumed out of order": (
        [
            [call("{", name="search", id=f"i{number}", index=number) for number in range(4)],
            *[[call(f'"n":{number}}}', index=number)] for number in (3, 1, 0, 2)],
        ],
        [("search", f'{{"n":{number}}}') for number in range(4)],
    ),
    "cut inside an escape": (
        [
            [call('{"q":"\\', name="search", id="a", index=0)], [call("u00", index=0)],
            [call("e9\\\\", index=0)], [call('"}', index=0)],
        ],
        [("search", '{"q":"\\u00e9\\\\"}')],
    ),
    "braces in strings do not end a call": (
        [
            [call('{"q":"}"', name="search", id="a", index=0), call(A, name="get_weather", id="b", index=1)],
            [call("}", index=0)],
        ],
        [("search", '{"q":"}"}'), ("get_weather", A)],
    ),
    "malformed arguments are handed on": (
        [[call('{"q": nope', name="search", id="a", index=0)]],
        [("search", '{"q": nope')],
    ),
    "without a type": ([[{"index": 0, "id": "a", "function": {"name": "search", "arguments": B}}]], [("search", B)]),
}  # fmt: skip


@pytest.mark.parametrize(("chunks", "calls"), CASES.values(), ids=CASES.keys())
def test_calls(chunks: list[Chunk], calls: list[tuple[str, str]]) -> None:
    assert calls_of(*chunks) == calls


@pytest.mark.parametrize("arguments", ["", None, "{}", " "])
def test_a_call_without_arguments_has_an_empty_object(arguments: str | None) -> None:
    [(name, text)] = calls_of([call(arguments, name="search", id="a", index=0)])
    assert name == "search"
    assert json.loads(text or "{}") == {}


def test_the_old_function_call_field() -> None:
    chunks = [
        {"choices": [{"index": 0, "delta": {"function_call": {"name": "search", "arguments": B[:3]}}}]},
        {"choices": [{"index": 0, "delta": {"function_call": {"arguments": B[3:]}}, "finish_reason": "function_call"}]},
    ]
    body = b"".join(b"data: " + orjson.dumps(chunk) + b"\n\n" for chunk in chunks)
    request = MessagesRequest({"model": ASKED, "max_tokens": 9, "tools": TOOLS, "messages": []}, {}, "", MESSAGE_ID, 3)
    reading = check_stream(translate(gateway.adapters.get("openai-chat"), request, target_of("generic"), [body]).output)
    assert [(block["name"], block["partial_json"]) for block in reading.content] == [("search", B)]
    assert reading.stop_reason == "tool_use"


def test_ids_are_the_upstreams() -> None:
    calls = [call(A, name="get_weather", id="call_1", index=0), call(B, name="search", id="toolu_2", index=1)]
    assert ids_of(calls) == ["call_1", "toolu_2"]


def test_missing_ids_are_made_and_the_same_every_time() -> None:
    chunks: list[Chunk] = [[call(A, name="get_weather"), call(B, name="search")]]
    first = ids_of(*chunks)
    assert len(first) == 2
    assert ids_of(*chunks) == first


def test_an_id_that_stands_in_the_history_is_not_used_again() -> None:
    """Servers that count from zero in each answer would give two calls of a conversation one id."""
    messages = [
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": [{"type": "tool_use", "id": "call_0", "name": "search", "input": {}}]},
        {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "call_0", "content": "x"}]},
    ]
    assert ids_of([call(A, name="get_weather", id="call_0", index=0)], messages=messages) != ["call_0"]


@pytest.mark.parametrize("tool_id", ["functions.search:0", "a b", "ü", "x" * 300, "a/b"])
def test_an_id_that_clients_refuse_is_hidden_and_restored(tool_id: str) -> None:
    [shown] = ids_of([call(B, name="search", id=tool_id, index=0)])
    messages = [
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": [{"type": "tool_use", "id": shown, "name": "search", "input": {}}]},
        {"role": "user", "content": [{"type": "tool_result", "tool_use_id": shown, "content": "x"}]},
    ]
    request = MessagesRequest({"model": "m", "max_tokens": 9, "tools": TOOLS, "messages": messages}, {}, "", "msg_2", 3)
    target = target_of("generic", tool_id_max=400)
    body = json.loads(gateway.adapters.get("openai-chat").prepare(request, target).body)
    assert body["messages"][1]["tool_calls"][0]["id"] == tool_id
    assert body["messages"][2]["tool_call_id"] == tool_id


def test_a_shortened_name_comes_back_in_full() -> None:
    """R40: what goes up under another name comes down under its own."""
    name = "mcp__server.with.dots__" + "x" * 60
    tools = [{"name": name, "input_schema": {"type": "object"}}, {"name": "Bash", "input_schema": {"type": "object"}}]
    asked = {"model": "m", "max_tokens": 9, "tools": tools, "messages": [{"role": "user", "content": "Hi"}]}
    request = MessagesRequest(asked, {}, "", "msg_2", 3)
    body = json.loads(gateway.adapters.get("openai-chat").prepare(request, target_of("generic")).body)
    upstream = body["tools"][0]["function"]["name"]
    assert upstream != name
    assert calls_of([call("{}", name=upstream, id="a", index=0)], tools=tools) == [(name, "{}")]
    assert calls_of([call("{}", name="Bash", id="a", index=0)], tools=tools) == [("Bash", "{}")]


def test_a_name_that_was_never_offered_is_handed_on() -> None:
    """The client tells the model that there is no such tool; the gateway must not fail the turn."""
    assert calls_of([call("{}", name="invented", id="a", index=0)]) == [("invented", "{}")]


@pytest.mark.parametrize(
    ("finish", "reason"),
    [("tool_calls", "tool_use"), ("stop", "tool_use"), ("function_call", "tool_use"),
     ("length", "max_tokens"), ("TOOL_CALLS", "tool_use"), ("end_turn", "tool_use"),
     ("content_filter", "refusal"), ("something_new", "tool_use")],
)  # fmt: skip
def test_the_stop_reason_knows_of_the_calls(finish: str, reason: str) -> None:
    assert reading_of([call(B, name="search", id="a", index=0)], finish=finish).stop_reason == reason


def test_tool_calls_without_any_call_end_the_turn() -> None:
    assert reading_of("Hello", finish="tool_calls").stop_reason == "end_turn"


def test_text_between_the_fragments_is_kept() -> None:
    start, rest = call(B[:3], name="search", id="a", index=0), call(B[3:], index=0)
    reading = reading_of("Look: ", [start], "note", [rest], " end")
    assert [block.get("text") or block["partial_json"] for block in reading.content] == ["Look: ", B, "note end"]


def test_a_call_that_never_gets_a_name_is_an_error() -> None:
    answer = answer_to([call(B, id="a", index=0)])
    assert isinstance(answer.error, UpstreamProtocolError)
    assert answer.output == b""


def test_each_fragment_leaves_at_once() -> None:
    """Streaming means now: the second fragment is not held until the call is whole."""
    request = MessagesRequest({"model": ASKED, "max_tokens": 9, "tools": TOOLS, "messages": []}, {}, "", MESSAGE_ID, 3)
    translator = gateway.adapters.get("openai-chat").stream_translator(request, target_of("generic"))
    outputs = []
    for chunk in ([call('{"q":"', name="search", id="a", index=0)], [call("x", index=0)], [call("y", index=0)]):
        line = {"choices": [{"index": 0, "delta": {"tool_calls": chunk}}]}
        outputs.append(translator.feed(b"data: " + orjson.dumps(line) + b"\n\n"))
    assert all(b"input_json_delta" in output for output in outputs)
