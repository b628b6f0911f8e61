"""Streams of the Responses API: the table ``tests/cases/responses_streams.yaml``. Adding a case needs no Python."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import gateway.adapters
from gateway.adapters.base import MessagesRequest
from gateway.routing import Target
from gateway.translate.fold import MessageFold
from tests.fakes import strict_responses
from tests.grammar import Reading, check_stream
from tests.recordings import (
    ASKED,
    MESSAGE_ID,
    Answer,
    compare_reading,
    load_yaml,
    splits,
    target_of,
    translate,
    with_profile,
)

API = "openai-responses"
CASES = load_yaml(Path(__file__).parent / "cases" / "responses_streams.yaml")
KEYS = {
    *("name", "events", "json", "raw", "end", "request", "tools", "profile"),
    *("content", "stop_reason", "stop_sequence", "usage", "error", "input", "call_ids"),
}
ADAPTER = gateway.adapters.get(API)


def event(kind: str, fields: dict[str, Any]) -> bytes:
    kind = kind if kind == "error" else f"response.{kind}"
    data = json.dumps({"type": kind, **fields}, ensure_ascii=False)
    return f"event: {kind}\ndata: {data}\n\n".encode()


def body_of(case: dict[str, Any]) -> bytes:
    if "raw" in case:
        return str(case["raw"]).encode()
    if "json" in case:
        return json.dumps(case["json"]).encode()
    events = list(case["events"])
    end = case.get("end", {})
    if end is not False:
        events.append(["completed", {"response": {"id": "r", "object": "response", "status": "completed", **end}}])
    return b"".join(event(*one) for one in events)


def target(case: dict[str, Any]) -> Target:
    return with_profile(target_of("generic", API), case.get("profile", {}))


def request(case: dict[str, Any], messages: list[dict[str, Any]] | None = None) -> MessagesRequest:
    names = case.get("tools", ["search", "write"])
    body = {
        "model": ASKED,
        "max_tokens": 1000,
        "tools": [{"name": name, "input_schema": {"type": "object"}} for name in names],
        "messages": messages or [{"role": "user", "content": "Hello"}],
        **case.get("request", {}),
    }
    return MessagesRequest(body, {}, "", MESSAGE_ID, 7)


def answer(case: dict[str, Any], chunks: list[bytes]) -> Answer:
    return translate(ADAPTER, request(case), target(case), chunks)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["name"])
def test_stream(case: dict[str, Any]) -> None:
    assert not set(case) - KEYS
    body = body_of(case)
    first = answer(case, [body])
    if "error" in case:
        compare_error(case, first)
    else:
        assert first.error is None
        reading = check_stream(first.output)
        compare(case, reading)
        if "input" in case or "call_ids" in case:
            compare_next_turn(case, first.output)
    for way, chunks in splits(body).items():
        other = answer(case, chunks)
        assert (type(other.error), str(other.error)) == (type(first.error), str(first.error)), way
        if first.output:
            compare_reading(check_stream(other.client_bytes()), check_stream(first.client_bytes()))


def compare_error(case: dict[str, Any], got: Answer) -> None:
    wanted = case["error"]
    assert got.error is not None
    assert (got.error.error_type, got.error.status) == (wanted["type"], wanted["status"])
    assert wanted["contains"] in got.error.message
    if "content" in case:
        compare_content(check_stream(got.client_bytes()), case["content"])
    else:
        assert got.output == b""


def compare(case: dict[str, Any], reading: Reading) -> None:
    compare_content(reading, case["content"])
    assert reading.stop_reason == case.get("stop_reason", "end_turn")
    assert reading.stop_sequence == case.get("stop_sequence")
    for name, value in case.get("usage", {}).items():
        assert reading.usage[name] == value, name


def compare_content(reading: Reading, wanted: list[dict[str, Any]]) -> None:
    shown = [{name: block.get(name) for name in want} for block, want in zip(reading.content, wanted, strict=False)]
    assert shown == wanted
    assert len(reading.content) == len(wanted), reading.content


def compare_next_turn(case: dict[str, Any], output: bytes) -> None:
    """What came down goes up again, and a strict server takes it."""
    fold = MessageFold()
    fold.feed(output)
    content = fold.message()["content"]
    results = [
        {"type": "tool_result", "tool_use_id": block["id"], "content": "done"}
        for block in content
        if block["type"] == "tool_use"
    ]
    messages = [
        {"role": "user", "content": "Hello"},
        {"role": "assistant", "content": content},
        {"role": "user", "content": [*results, {"type": "text", "text": "Go on"}]},
    ]
    upstream = ADAPTER.prepare(request({}, messages), target(case))
    checked = strict_responses.check(upstream.body, upstream.headers, key="test-key", reasoning_text=True)
    if "input" in case:
        turn = [item for item in checked["input"] if item.get("role") not in ("user", "system", "developer")]
        assert [plain(item) for item in turn if item["type"] != "function_call_output"] == case["input"]
    if "call_ids" in case:
        ids = [item["call_id"] for item in checked["input"] if item["type"] == "function_call"]
        assert len(ids) == len(case["call_ids"])
        assert all(wanted in (None, call_id) for wanted, call_id in zip(case["call_ids"], ids, strict=True))


def plain(item: dict[str, Any]) -> dict[str, Any]:
    """A message without what is the same in all."""
    if item["type"] != "message":
        return item
    content = [{key: value for key, value in part.items() if key != "annotations"} for part in item["content"]]
    return {**{key: value for key, value in item.items() if key not in ("id", "status")}, "content": content}


def test_the_text_comes_at_once() -> None:
    """A text delta leaves with the read that brought it."""
    translator = ADAPTER.stream_translator(request({}), target({}))
    translator.feed(event("output_item.added", {"output_index": 0, "item": {"id": "m", "type": "message"}}))
    for word in ("One ", "two ", "three"):
        out = translator.feed(event("output_text.delta", {"output_index": 0, "delta": word}))
        assert json.dumps(word).encode() in out
    assert not translator.finished


def test_reading_stops_at_the_end() -> None:
    translator = ADAPTER.stream_translator(request({}), target({}))
    translator.feed(event("output_text.delta", {"delta": "Hi"}) + event("completed", {"response": {}}))
    assert translator.finished
    assert translator.complete
    assert translator.feed(event("output_text.delta", {"delta": " more"})) == b""
    translator.close()
    assert translator.stop_reason == "end_turn"
