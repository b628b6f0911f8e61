"""``<think>…</think>`` in the text is reasoning, at the very start only, wherever the deltas are cut (R75)."""

from __future__ import annotations

import json
from typing import Any

import orjson
import pytest

import gateway.adapters
from gateway.adapters.base import MessagesRequest
from tests.grammar import Reading, check_stream, joined, read_events
from tests.recordings import ASKED, MESSAGE_ID, next_turn, target_of, translate

REQUEST = MessagesRequest({"model": ASKED, "max_tokens": 9, "messages": []}, {}, "", MESSAGE_ID, 3)

CASES = {
    "tags": ("<think>hm</think>Hi", "hm", "Hi"),
    "newlines at the edges": ("<think>\nhm\n</think>\n\nHi", "hm", "Hi"),
    "newlines inside": ("<think>a\n\nb</think>Hi\n", "a\n\nb", "Hi\n"),
    "whitespace in front": ("\n <think>hm</think>Hi", "hm", "Hi"),
    "no tags": ("Hi", "", "Hi"),
    "a tag later on is text": ("Hi <think>hm</think>", "", "Hi <think>hm</think>"),
    "a second pair is text": ("<think>a</think>b<think>c</think>", "a", "b<think>c</think>"),
    "only a closing tag is text": ("hm</think>Hi", "", "hm</think>Hi"),
    "something like a tag is text": ("<thinking>hm</thinking>", "", "<thinking>hm</thinking>"),
    "the beginning of a tag is text": ("<thi", "", "<thi"),
    "angle brackets are text": ("<b>Hi</b>", "", "<b>Hi</b>"),
    "something like an end stays inside": ("<think>a </thin b</think>c", "a </thin b", "c"),
    "an empty pair": ("<think></think>Hi", "", "Hi"),
    "an empty pair with newlines": ("<think>\n\n</think>\n\nHi", "", "Hi"),
    "never closed": ("<think>hm", "hm", ""),
    "never closed, cut in the closing tag": ("<think>hm</thi", "hm</thi", ""),
    "nothing after it": ("<think>hm</think>", "hm", ""),
    "spaces after it stay": ("<think>hm</think>  Hi", "hm", "  Hi"),
}


def deltas(*contents: dict[str, Any]) -> bytes:
    lines = [{"choices": [{"index": 0, "delta": delta}]} for delta in contents]
    lines.append({"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]})
    return b"".join(b"data: " + orjson.dumps(line) + b"\n\n" for line in lines)


def reading_of(*contents: str, **profile: Any) -> Reading:
    body = deltas(*({"content": content} for content in contents))
    answer = translate(gateway.adapters.get("openai-chat"), REQUEST, target_of("generic", **profile), [body])
    assert answer.error is None
    return check_stream(answer.output)


@pytest.mark.parametrize(("content", "thinking", "text"), CASES.values(), ids=CASES.keys())
def test_splits_reasoning_from_text_wherever_the_deltas_are_cut(content: str, thinking: str, text: str) -> None:
    ways = [[content], list(content)] + [[content[:at], content[at:]] for at in range(1, len(content))]
    for pieces in ways:
        reading = reading_of(*pieces)
        assert (joined(reading, "thinking"), joined(reading, "text")) == (thinking, text), pieces


def test_tags_are_text_where_the_profile_says_so() -> None:
    assert joined(reading_of("<think>hm</think>Hi", think_tags=False), "text") == "<think>hm</think>Hi"


@pytest.mark.parametrize(
    "content",
    ["<think>\nhm\n</think>\n\nHi", "<think>hm</think>Hi", "\n<think>\n\nhm</think>\nHi", "<think>hm\n\n</think>Hi"],
)
def test_the_turn_goes_back_byte_for_byte(content: str) -> None:
    messages = next_turn(reading_of(*content))
    request = MessagesRequest({"model": ASKED, "max_tokens": 9, "messages": messages}, {}, "", "msg_2", 3)
    body = json.loads(gateway.adapters.get("openai-chat").prepare(request, target_of("generic")).body)
    assert body["messages"][1] == {"role": "assistant", "content": content}


def test_no_character_waits_without_need() -> None:
    translator = gateway.adapters.get("openai-chat").stream_translator(REQUEST, target_of("generic"))
    out = b""
    seen = []
    for piece in ("<think>", "one ", "two <", "b", "</think>", "Hi"):
        chunk = {"choices": [{"index": 0, "delta": {"content": piece}}]}
        out += translator.feed(b"data: " + orjson.dumps(chunk) + b"\n\n")
        seen.append("".join(body["delta"].get("thinking", "") for name, body in read_events(out) if "delta" in body))
    assert seen[1:4] == ["one ", "one two ", "one two <b"]


def test_reasoning_fields_and_tags_do_not_disturb_each_other() -> None:
    body = deltas({"reasoning_content": "hm"}, {"content": "Hi "}, {"content": "<think>x</think>"})
    answer = translate(gateway.adapters.get("openai-chat"), REQUEST, target_of("generic"), [body])
    reading = check_stream(answer.output)
    assert (joined(reading, "thinking"), joined(reading, "text")) == ("hm", "Hi <think>x</think>")


@pytest.mark.parametrize("field", ["reasoning_content", "reasoning", "reasoning_text"])
def test_each_reasoning_field_is_thinking_and_goes_back_in_itself(field: str) -> None:
    body = deltas({field: "h"}, {field: "m"}, {"content": "Hi"})
    target = target_of("generic")
    reading = check_stream(translate(gateway.adapters.get("openai-chat"), REQUEST, target, [body]).output)
    assert reading.content[0]["thinking"] == "hm"
    request = MessagesRequest({"model": ASKED, "max_tokens": 9, "messages": next_turn(reading)}, {}, "", "msg_2", 3)
    upstream = json.loads(gateway.adapters.get("openai-chat").prepare(request, target).body)
    assert upstream["messages"][1] == {"role": "assistant", "content": "Hi", field: "hm"}


@pytest.mark.parametrize("at", [0, 4, 12, -9, -1])
def test_reasoning_with_an_altered_signature_does_not_go_up(at: int) -> None:
    adapter, target = gateway.adapters.get("openai-chat"), target_of("generic")
    body = deltas({"reasoning_content": "hm"}, {"content": "Hi"})
    messages = next_turn(check_stream(translate(adapter, REQUEST, target, [body]).output))
    block = messages[1]["content"][0]
    letters = list(block["signature"])
    letters[at] = "A" if letters[at] != "A" else "B"
    block["signature"] = "".join(letters)
    request = MessagesRequest({"model": ASKED, "max_tokens": 9, "messages": messages}, {}, "", "msg_2", 3)
    upstream = json.loads(adapter.prepare(request, target).body)
    assert upstream["messages"][1] == {"role": "assistant", "content": "Hi"}


def test_reasoning_of_another_provider_does_not_go_up() -> None:
    """R60: a route that switched its target, or another gateway's or Anthropic's own signature."""
    body = deltas({"reasoning_content": "hm"}, {"content": "Hi"})
    adapter = gateway.adapters.get("openai-chat")
    reading = check_stream(translate(adapter, REQUEST, target_of("deepseek"), [body]).output)
    messages = next_turn(reading)
    request = MessagesRequest({"model": ASKED, "max_tokens": 9, "messages": messages}, {}, "", "msg_2", 3)
    prepared = adapter.prepare(request, target_of("generic"))
    assert json.loads(prepared.body)["messages"][1] == {"role": "assistant", "content": "Hi"}
    assert [(change.action, change.path) for change in prepared.changes] == [("dropped", "messages[1].content[0]")]
