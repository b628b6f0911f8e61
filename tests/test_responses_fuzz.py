"""Broken streams of the Responses API: only a GatewayError comes out, what went down before it is correct."""

from __future__ import annotations

import json
import tracemalloc
from typing import Any

import pytest

import gateway.adapters
from gateway.errors import GatewayError
from gateway.translate.fold import MessageFold
from tests.chat_streams import mutate
from tests.grammar import check_stream
from tests.recordings import Answer, compare_reading, cut, recordings, target_of, translate
from tests.responses_streams import responses_stream
from tests.test_properties import REQUEST

API = "openai-responses"
ADAPTER = gateway.adapters.get(API)
MUTATIONS = 1_500
BATCH = 500
BODIES = [
    *(recording.body for recording in recordings("message") if recording.wire == "responses"),
    *(responses_stream(seed).body for seed in range(60)),
]


def answer_to(*chunks: bytes) -> Answer:
    """Raises whatever is no GatewayError."""
    return translate(ADAPTER, REQUEST, target_of("generic", API), chunks)


def check(answer: Answer) -> None:
    reading = check_stream(answer.client_bytes(), ended=bool(answer.output))
    if answer.error is not None:
        assert 400 <= answer.error.status < 600
        assert answer.error.message
        assert "test-key" not in answer.error.message
        answer.error.envelope("req_1")
        return
    assert reading.finished
    fold = MessageFold()
    fold.feed(answer.output)
    fold.message()


@pytest.mark.parametrize("first", range(0, MUTATIONS, BATCH))
def test_a_broken_stream_gives_an_error_or_a_correct_answer(first: int) -> None:
    for seed in range(first, first + BATCH):
        body = mutate(BODIES[seed % len(BODIES)], seed)
        try:
            answer = answer_to(body)
            check(answer)
            if seed % 5 == 0:
                other = answer_to(*cut(body, seed))
                assert type(other.error) is type(answer.error), (other.error, answer.error)
                assert bool(other.output) == bool(answer.output)
                if answer.output:
                    compare_reading(check_stream(other.client_bytes()), check_stream(answer.client_bytes()))
        except Exception as failure:
            raise AssertionError(f"seed {seed}: {failure!r}\n{body[:3000]!r}") from failure


def test_a_stream_cut_anywhere_is_no_answer() -> None:
    """An error, unless the answer was already whole. Never an invented end."""
    for seed in range(20):
        stream = responses_stream(seed)
        if stream.way == "json":
            continue
        usual = check_stream(answer_to(stream.body).output)
        for at in range(0, len(stream.body), 1 + len(stream.body) // 25):
            answer = answer_to(stream.body[:at])
            reading = check_stream(answer.output, ended=False)
            if answer.error is None:
                assert reading.content == usual.content, f"responses_stream({seed}) cut at {at}"
            else:
                assert not reading.finished


DEEP = '{"a":' * 300 + "1" + "}" * 300
DEEPEST = '{"a":' * 1000 + "1" + "}" * 1000
ODD: list[str] = ["7", "null", "[]", '"x"', "[7]", r'"\ud83d"', "1" + "0" * 30, "{}", DEEP, DEEPEST]


def event(kind: str, fields: str) -> bytes:
    return f'data: {{"type":"response.{kind}",{fields}}}\n\n'.encode()


ENDED = event("completed", '"response":{"status":"completed"}')
TEXT = event("output_text.delta", '"delta":"Hi"')
PLACES = {
    "index": ("output_item.done", '"output_index":%s,"item":{"type":"message","content":[]}'),
    "item": ("output_item.done", '"item":%s'),
    "added": ("output_item.added", '"item":%s'),
    "id": ("output_item.added", '"item":{"type":"message","id":%s}'),
    "kind": ("output_item.done", '"item":{"type":%s}'),
    "content": ("output_item.done", '"item":{"type":"message","content":%s}'),
    "part": ("output_item.done", '"item":{"type":"message","content":[{"type":"output_text","text":%s}]}'),
    "refusal": ("output_item.done", '"item":{"type":"message","content":[{"type":"refusal","refusal":%s}]}'),
    "summary": ("output_item.done", '"item":{"type":"reasoning","id":"r","encrypted_content":"E","summary":%s}'),
    "thought": ("output_item.done", '"item":{"type":"reasoning","content":[{"type":"reasoning_text","text":%s}]}'),
    "encrypted": ("output_item.done", '"item":{"type":"reasoning","summary":[],"encrypted_content":%s}'),
    "extra": ("output_item.done", '"item":{"type":"reasoning","summary":[],"encrypted_content":"E","x":%s}'),
    "call id": ("output_item.done", '"item":{"type":"function_call","call_id":%s,"name":"search","arguments":"{}"}'),
    "name": ("output_item.done", '"item":{"type":"function_call","call_id":"c","name":%s,"arguments":"{}"}'),
    "arguments": ("output_item.done", '"item":{"type":"function_call","call_id":"c","name":"f","arguments":%s}'),
    "input": ("output_item.done", '"item":{"type":"custom_tool_call","call_id":"c","name":"f","input":%s}'),
    "wrapped": ("output_item.done", '"item":{"type":"function_call","call_id":"c","name":"parallel","arguments":%s}'),
    "phase": ("output_item.added", '"item":{"type":"message","phase":%s}'),
    "delta": ("output_text.delta", '"delta":%s'),
    "item id": ("output_text.delta", '"item_id":%s,"delta":"x"'),
    "number": ("reasoning_summary_text.delta", '"summary_index":%s,"delta":"x"'),
    "whole": ("output_text.done", '"text":%s'),
    "end of part": ("content_part.done", '"part":%s'),
    "response": ("completed", '"response":%s'),
    "output": ("completed", '"response":{"output":%s}'),
    "items": ("completed", '"response":{"output":[%s,{"type":"message","content":[]}]}'),
    "usage": ("completed", '"response":{"usage":%s}'),
    "counts": ("completed", '"response":{"usage":{"input_tokens":%s,"output_tokens":1}}'),
    "status": ("completed", '"response":{"status":%s}'),
    "reason": ("incomplete", '"response":{"incomplete_details":%s}'),
    "error": ("failed", '"response":{"error":%s}'),
    "code": ("failed", '"response":{"error":{"code":%s,"message":"m"}}'),
    "message": ("failed", '"response":{"error":{"code":"c","message":%s}}'),
}


@pytest.mark.parametrize("place", PLACES)
def test_odd_values(place: str) -> None:
    kind, fields = PLACES[place]
    for value in ODD:
        hostile = event(kind, fields % value)
        for body in (hostile + ENDED, TEXT + hostile + ENDED, hostile + TEXT + ENDED):
            check(answer_to(body))


@pytest.mark.parametrize("uses", [7, [7, {}], [{"recipient_name": 7}]])
def test_an_odd_wrapper_is_a_call(uses: Any) -> None:
    text = json.dumps({"tool_uses": uses})
    item = {"type": "function_call", "call_id": "c", "name": "parallel", "arguments": text}
    answer = answer_to(event("output_item.done", f'"item":{json.dumps(item)}') + ENDED)
    check(answer)
    assert [(block["name"], block["partial_json"]) for block in check_stream(answer.output).content] == [
        ("parallel", text)
    ]


ENDLESS = {
    "beginnings": event("created", '"response":{"status":"in_progress"}') * 100,
    "unknown events": event("brand_new", '"x":1') * 100,
    "empty deltas": event("output_text.delta", '"output_index":0,"delta":""') * 100,
    "rotating ids": b"".join(event("output_text.delta", f'"item_id":"cap-{at}","delta":""') for at in range(100)),
    "whitespace": event("output_text.delta", '"delta":" "') * 100,
}


@pytest.mark.parametrize("piece", ENDLESS.values(), ids=ENDLESS)
def test_an_endless_stream_of_nothing_does_not_fill_the_memory(piece: bytes) -> None:
    translator = ADAPTER.stream_translator(REQUEST, target_of("generic", API))
    tracemalloc.start()
    try:
        for _ in range(100):
            translator.feed(piece)
    except GatewayError:
        pass
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peak < 4 << 20


@pytest.mark.parametrize(
    "body",
    [TEXT * 501, b"".join(event("output_text.delta", f'"output_index":{at},"delta":"x"') for at in range(21))],
    ids=["text", "items"],
)
def test_what_is_remembered_is_bounded(monkeypatch: pytest.MonkeyPatch, body: bytes) -> None:
    monkeypatch.setattr("gateway.translate.responses_output.MAX_KEPT_CHARACTERS", 1000)
    monkeypatch.setattr("gateway.translate.responses_output.MAX_ITEMS", 20)
    answer = answer_to(body + ENDED)
    assert answer.error is not None
    assert answer.error.status == 502
