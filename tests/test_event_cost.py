"""What one streamed event costs: a bound on the Python calls behind it, which no slow machine can blur."""

from __future__ import annotations

import sys
from dataclasses import replace
from typing import Any

import orjson
import pytest

import gateway.adapters
from gateway.adapters.base import MessagesRequest, StreamTranslator
from gateway.profile import merge
from tests.recordings import ASKED, MESSAGE_ID, TOOLS, target_of

EVENTS = 20
"""Counted together, after as many that find everything set up."""


def chat(**delta: Any) -> bytes:
    choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": None}
    return b"data: %b\n\n" % orjson.dumps({"id": "c", "object": "chat.completion.chunk", "choices": [choice]})


def named(kind: str, **fields: Any) -> bytes:
    return b"event: %b\ndata: %b\n\n" % (kind.encode(), orjson.dumps({"type": kind, **fields}))


def line(**message: Any) -> bytes:
    return orjson.dumps({"model": "m", "message": {"role": "assistant", **message}, "done": False}) + b"\n"


def call(arguments: str, **entry: Any) -> bytes:
    return chat(tool_calls=[{"index": 0, **entry, "function": {"arguments": arguments, **entry.get("function", {})}}])


def block(**content: Any) -> list[bytes]:
    start = named("message_start", message={"id": "msg_a", "role": "assistant", "content": [], "usage": {}})
    return [start, named("content_block_start", index=0, content_block=content)]


def added(**item: Any) -> list[bytes]:
    return [named("response.output_item.added", output_index=0, item=item)]


def block_delta(**delta: Any) -> bytes:
    return named("content_block_delta", index=0, delta=delta)


def response_delta(kind: str, item_id: str) -> bytes:
    return named(f"response.{kind}.delta", item_id=item_id, output_index=0, content_index=0, delta=" word")


BEGUN = chat(
    tool_calls=[{"index": 0, "id": "call_1", "type": "function", "function": {"name": "search", "arguments": '{"q":"'}}]
)
MARKUP = [{"open": "<tool_call>", "close": "</tool_call>", "form": "json"}]
FUNCTION = {"type": "function_call", "id": "fc_1", "call_id": "c1", "name": "search", "arguments": ""}

COSTS: dict[str, tuple[str, dict[str, Any], list[bytes], bytes, int]] = {
    "chat text": ("openai-chat", {}, [], chat(content=" word"), 8),
    "chat text, role and nulls": ("openai-chat", {}, [], chat(role="a", content=" w", reasoning_content=None), 10),
    "chat text, no tags": ("openai-chat", {"think_tags": False}, [], chat(content=" word"), 8),
    "chat text, stop sequences": ("openai-chat", {"stop_limit": 0}, [], chat(content=" word"), 14),
    "chat text, leaked calls": ("openai-chat", {"leaked_calls": MARKUP}, [], chat(content=" word"), 13),
    "chat reasoning": ("openai-chat", {}, [], chat(content=None, reasoning_content=" word"), 14),
    "chat reasoning in tags": ("openai-chat", {}, [chat(content="<think>a")], chat(content=" word"), 22),
    "chat arguments": ("openai-chat", {}, [BEGUN], call(" word"), 17),
    "lines of text": ("ollama", {}, [], line(content=" word"), 17),
    "messages, text": ("anthropic", {}, block(type="text", text=""), block_delta(type="text_delta", text=" w"), 6),
    "messages, arguments": (
        "anthropic", {}, block(type="tool_use", id="t", name="search", input={}),
        block_delta(type="input_json_delta", partial_json=" word"), 6,
    ),
    "responses, text": (
        "openai-responses", {}, added(type="message", id="m", content=[]), response_delta("output_text", "m"), 20,
    ),
    "responses, arguments": (
        "openai-responses", {}, added(**FUNCTION), response_delta("function_call_arguments", "fc_1"), 22,
    ),
}  # fmt: skip
"""Wire, profile, what came before, the event, the most calls that it may cost."""


def translator(api: str, profile: dict[str, Any]) -> StreamTranslator:
    target = target_of("lab", api)
    body = {
        "model": ASKED,
        "max_tokens": 9,
        "tools": TOOLS,
        "stop_sequences": ["</answer>", "STOP"],
        "messages": [{"role": "user", "content": "Hi"}],
    }
    request = MessagesRequest(body, {}, "", MESSAGE_ID, 7)
    target = replace(target, profile=merge(target.profile, profile)) if profile else target
    return gateway.adapters.get(api).stream_translator(request, target)


def calls_of(stream: StreamTranslator, event: bytes) -> float:
    """Python functions entered for one event, on average."""
    entered = 0

    def count(frame: Any, what: str, argument: Any) -> None:
        nonlocal entered
        entered += what == "call"

    before = sys.getprofile()
    sys.setprofile(count)
    try:
        for _ in range(EVENTS):
            stream.feed(event)
    finally:
        sys.setprofile(before)
    return entered / EVENTS


@pytest.mark.parametrize("name", COSTS)
def test_an_event_takes_few_calls(name: str) -> None:
    api, profile, before, event, most = COSTS[name]
    stream = translator(api, profile)
    for earlier in [*before, *[event] * EVENTS]:
        stream.feed(earlier)
    assert b"word" in stream.feed(event) or b"w" in event
    assert calls_of(stream, event) <= most


@pytest.mark.parametrize("name", COSTS)
def test_events_of_one_read_leave_in_one_write_for_less(name: str) -> None:
    api, profile, before, event, most = COSTS[name]
    alone, together = translator(api, profile), translator(api, profile)
    for earlier in before:
        assert alone.feed(earlier) == together.feed(earlier)
    written = b"".join([alone.feed(event) for _ in range(EVENTS)])
    assert together.feed(event * EVENTS) == written
    assert calls_of(together, event * EVENTS) / EVENTS <= most - 1.8
