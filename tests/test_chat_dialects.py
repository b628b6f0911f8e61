"""Dialects of Chat Completions that no recording shows: where text, reasoning, usage and the end may stand."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

import gateway.adapters
from gateway.adapters.base import MessagesRequest
from gateway.errors import GatewayError, UpstreamFailed, UpstreamProtocolError
from tests.grammar import Reading, check_stream, inputs, joined
from tests.recordings import ASKED, MESSAGE_ID, TOOLS, splits, target_of, translate

ADAPTER = gateway.adapters.get("openai-chat")


def request(**more: Any) -> MessagesRequest:
    body = {"model": ASKED, "max_tokens": 9, "messages": [{"role": "user", "content": "Hi"}], "tools": TOOLS, **more}
    return MessagesRequest(body, {}, "", MESSAGE_ID, 3)


def chunk(delta: dict[str, Any] | None = None, finish: str | None = None, **choice: Any) -> dict[str, Any]:
    return {"choices": [{"index": 0, "delta": delta or {}, "finish_reason": finish, **choice}]}


def events(*chunks: dict[str, Any]) -> bytes:
    return b"".join(b"data: " + orjson.dumps(line) + b"\n\n" for line in chunks) + b"data: [DONE]\n\n"


def outcome(body: bytes, **more: Any) -> Reading | GatewayError:
    """What the client gets; the same however the bytes are cut."""
    found: list[Reading | GatewayError] = []
    for chunks in splits(body).values():
        answer = translate(ADAPTER, request(**more), target_of("generic"), chunks)
        found.append(answer.error or check_stream(answer.output))
    assert len({repr(entry) for entry in found}) == 1
    return found[0]


def reading(body: bytes, **more: Any) -> Reading:
    found = outcome(body, **more)
    assert isinstance(found, Reading), found
    return found


def error(body: bytes) -> GatewayError:
    found = outcome(body)
    assert isinstance(found, GatewayError), found
    return found


CALL = {"id": "call_1", "type": "function", "function": {"name": "search", "arguments": '{"q": 1}'}}


@pytest.mark.parametrize(
    ("parts", "thinking", "text"),
    [
        ([{"type": "text", "text": "a"}, {"type": "text", "text": "b"}], "", "ab"),
        ([{"type": "thinking", "thinking": [{"type": "text", "text": "hm"}]}, {"text": "a"}], "hm", "a"),
        ([{"type": "thinking", "thinking": "hm"}, {"type": "text", "text": "a"}], "hm", "a"),
        ([None, "x", {"type": "text", "text": None}, {"type": "thinking", "thinking": [7]}, {"text": "a"}], "", "a"),
    ],
)
def test_content_in_parts(parts: list[Any], thinking: str, text: str) -> None:
    found = reading(events(chunk({"content": parts}), chunk(finish="stop")))
    assert (joined(found, "thinking"), joined(found, "text")) == (thinking, text)
    assert found.stop_reason == "end_turn"


def test_a_refusal_is_text_and_its_own_stop_reason() -> None:
    found = reading(events(chunk({"refusal": "I will "}), chunk({"refusal": "not."}), chunk(finish="stop")))
    assert (joined(found, "text"), found.stop_reason) == ("I will not.", "refusal")


@pytest.mark.parametrize("field", ["stop_reason", "matched_stop"])
def test_the_stop_sequence_that_the_upstream_names(field: str) -> None:
    body = events(chunk({"content": "a"}), chunk(finish="stop", **{field: "END"}))
    found = reading(body, stop_sequences=["END"])
    assert (found.stop_reason, found.stop_sequence) == ("stop_sequence", "END")
    other = reading(body, stop_sequences=["STOP"])
    assert (other.stop_reason, other.stop_sequence) == ("end_turn", None)


def test_more_stop_sequences_than_the_upstream_takes_are_cut_here() -> None:
    body = events(chunk({"content": "one tw"}), chunk({"content": "o three"}), chunk(finish="stop"))
    found = reading(body, stop_sequences=["a", "b", "c", "d", "two"])
    assert (joined(found, "text"), found.stop_reason, found.stop_sequence) == ("one ", "stop_sequence", "two")
    whole = reading(body, stop_sequences=["a1", "b1", "c1", "d1", "threee"])
    assert (joined(whole, "text"), whole.stop_reason) == ("one two three", "end_turn")


@pytest.mark.parametrize(
    "last",
    [
        {**chunk(finish="stop"), "usage": {"prompt_tokens": 11, "completion_tokens": 5}},
        chunk(finish="stop", usage={"prompt_tokens": 11, "completion_tokens": 5}),
        {**chunk(finish="stop"), "x_groq": {"usage": {"prompt_tokens": 11, "completion_tokens": 5}}},
    ],
    ids=["of the chunk", "of the choice", "under a name of its own"],
)
def test_usage_in_three_places(last: dict[str, Any]) -> None:
    found = reading(events(chunk({"content": "a"}), last))
    assert (found.usage["input_tokens"], found.usage["output_tokens"]) == (11, 5)


def test_a_whole_completion_instead_of_a_stream() -> None:
    message = {"role": "assistant", "content": "a", "reasoning_content": "hm", "tool_calls": [CALL]}
    body = {"choices": [{"index": 0, "message": message, "finish_reason": "tool_calls"}]}
    for data in (orjson.dumps(body), events(body)):
        found = reading(data)
        assert (joined(found, "thinking"), joined(found, "text")) == ("hm", "a")
        assert (inputs(found), found.stop_reason) == ([("search", {"q": 1})], "tool_use")


def test_a_whole_message_after_its_deltas_is_no_second_answer() -> None:
    again = {"choices": [{"index": 0, "message": {"content": "abc"}, "finish_reason": "stop"}]}
    assert joined(reading(events(chunk({"content": "abc"}), again)), "text") == "abc"


def test_only_the_first_choice_counts() -> None:
    other = {"choices": [{"index": 1, "delta": {"content": "no"}}, {"index": 0, "delta": {"content": "yes"}}]}
    for odd in ({"choices": [{"index": 2, "delta": {"content": "no"}}]}, {"choices": ["x", None]}, {"choices": {}}, {}):
        assert joined(reading(events(other, odd, chunk(finish="stop"))), "text") == "yes"


@pytest.mark.parametrize("data", [b"{}", b"[]", b"7", b'{"choices": []}', b'{"object": "list"}'])
def test_json_that_is_no_completion(data: bytes) -> None:
    assert isinstance(error(data), UpstreamProtocolError)


@pytest.mark.parametrize("data", [b"data: 7\n\n", b'data: "x"\n\n', b"data: []\n\n", b"data: nonsense\n\n"])
def test_an_event_that_is_no_object(data: bytes) -> None:
    assert isinstance(error(data), UpstreamProtocolError)


@pytest.mark.parametrize("finish", ["error", "ERROR"])
def test_an_upstream_that_gave_up(finish: str) -> None:
    found = error(events(chunk({"content": "half an ans"}), chunk(finish=finish)))
    assert isinstance(found, UpstreamFailed)
    assert "gave up" in found.message


# -- a call that the upstream itself refused ---------------------------------------------------------------


def failed(generation: Any) -> bytes:
    return events({"error": {"message": "tool call validation failed", "code": 400, "failed_generation": generation}})


@pytest.mark.parametrize("field", ["arguments", "parameters"])
def test_a_refused_call_is_handed_to_the_client(field: str) -> None:
    found = reading(failed(f'{{"name": "search", "{field}": {{"wrong": 1}}}}'))
    assert (inputs(found), found.stop_reason) == ([("search", {"wrong": 1})], "tool_use")


@pytest.mark.parametrize(
    "generation",
    [None, 7, "", "no JSON", "[]", "{}", '{"name": 7}', '{"name": "never_offered", "arguments": {}}'],
)
def test_a_refusal_without_a_call_is_an_error(generation: Any) -> None:
    assert "tool call validation failed" in error(failed(generation)).message


@pytest.mark.parametrize("blank", ["\n", " \n\n", "\t"])
def test_reasoning_of_nothing_but_blanks_makes_no_block(blank: str) -> None:
    found = reading(events(chunk({"reasoning_content": blank}), chunk({"content": "Hello"}), chunk(finish="stop")))
    assert [block["type"] for block in found.content] == ["text"]
    assert joined(found, "text") == "Hello"
