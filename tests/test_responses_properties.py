"""Thousands of legal streams of the Responses API: nothing is lost, nothing said twice, and all of it goes back."""

from __future__ import annotations

import gc
import json
from collections.abc import Iterator
from typing import Any

import pytest

import gateway.adapters
from gateway.adapters.base import MessagesRequest
from gateway.translate.fold import MessageFold
from tests.fakes import strict_responses
from tests.grammar import Reading, check_stream
from tests.recordings import ASKED, MESSAGE_ID, TOOLS, compare_reading, cut, target_of, translate
from tests.responses_streams import ResponsesStream, responses_stream

API = "openai-responses"
STREAMS = 1_500
BATCH = 500
ADAPTER = gateway.adapters.get(API)


@pytest.fixture(scope="module", autouse=True)
def _quick_collections() -> Iterator[None]:
    """Keeps what pytest holds out of the garbage collections, which would take a fifth of the time."""
    gc.freeze()
    yield
    gc.unfreeze()


def request(*turns: dict[str, Any]) -> MessagesRequest:
    messages = [{"role": "user", "content": "Hi"}, *turns]
    body = {"model": ASKED, "max_tokens": 9999, "tools": TOOLS, "messages": messages}
    return MessagesRequest(body, {}, "", MESSAGE_ID, 7)


def output_of(chunks: list[bytes]) -> bytes:
    answer = translate(ADAPTER, request(), target_of("generic", API), chunks)
    assert answer.error is None, repr(answer.error)
    return answer.output


@pytest.mark.parametrize("first", range(0, STREAMS, BATCH))
def test_nothing_is_lost_and_nothing_said_twice(first: int) -> None:
    for seed in range(first, first + BATCH):
        stream = responses_stream(seed)
        try:
            output = output_of([stream.body])
            reading = check_stream(output)
            check(stream, reading)
            check_next_turn(stream, output)
            if seed % 6 == 0:
                compare_reading(check_stream(output_of(cut(stream.body, seed))), reading)
            elif seed % 100 == 1:
                single = [stream.body[at : at + 1] for at in range(len(stream.body))]
                compare_reading(check_stream(output_of(single)), reading)
        except AssertionError as failure:
            raise AssertionError(f"see responses_stream({seed}), {stream.way}: {failure}") from failure


def check(stream: ResponsesStream, reading: Reading) -> None:
    shown = [{name: value for name, value in block.items() if name != "signature"} for block in reading.content]
    assert shown == stream.content
    assert reading.stop_reason == stream.stop_reason
    if stream.usage is not None:
        names = ("input_tokens", "cache_read_input_tokens", "cache_creation_input_tokens", "output_tokens")
        assert tuple(reading.usage[name] for name in names) == stream.usage


def check_next_turn(stream: ResponsesStream, output: bytes) -> None:
    fold = MessageFold()
    fold.feed(output)
    content = fold.message()["content"]
    results = [
        {"type": "tool_result", "tool_use_id": block["id"], "content": "ok"}
        for block in content
        if block["type"] == "tool_use"
    ]
    again = request(
        {"role": "assistant", "content": content},
        {"role": "user", "content": [*results, {"type": "text", "text": "Go on"}]},
    )
    upstream = ADAPTER.prepare(again, target_of("generic", API))
    items = strict_responses.check(upstream.body, upstream.headers, key="test-key", reasoning_text=True)["input"]
    turn = [item for item in items if item.get("role") != "user" and item["type"] != "function_call_output"]
    for item in turn:
        if item["type"] == "function_call":
            [block] = [block for block in content if block.get("id") == item["call_id"]]
            assert json.loads(item.pop("arguments")) == block["input"]
    told = [{key: value for key, value in item.items() if key != "id"} for item in turn]
    assert told == [{key: value for key, value in item.items() if key != "id"} for item in stream.sent_back]


def test_the_generator_makes_what_it_promises() -> None:
    """A generator that never interleaves or splits would prove nothing."""
    streams = [responses_stream(seed) for seed in range(600)]
    bodies = [stream.body for stream in streams]
    assert {stream.way for stream in streams} == {"both", "deltas", "ends", "late ends", "response", "json"}
    assert sum(sum(item["type"] == "function_call" for item in stream.items) > 1 for stream in streams) > 60
    assert sum(b'"cap-' in body for body in bodies) > 50
    assert sum(b"output_index" not in body and b".delta" in body for body in bodies) > 50
    assert sum(b'\\ud83d"' in body for body in bodies) > 5, "a fragment that is half a character"
    assert sum(b"reasoning_text.delta" in body for body in bodies) > 20
    assert sum(any(item["type"] == "reasoning" for item in stream.sent_back) for stream in streams) > 60
    assert any(b"\r\n" in body for body in bodies)
    assert responses_stream(7).body == responses_stream(7).body
