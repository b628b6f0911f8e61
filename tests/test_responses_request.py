"""Requests to the Responses API: the strict fake is content, and what was said before stays byte for byte."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import gateway.adapters
from gateway.adapters.base import MessagesRequest
from gateway.translate.opaque import decode_signature, encode_signature
from gateway.translate.responses_reasoning import restore_items, sign_items
from tests.fakes import strict_responses
from tests.fakes.strict_chat import Violation
from tests.recordings import load_yaml, target_of
from tests.test_requests import prepared

API = "openai-responses"
CASES = [
    case
    for case in load_yaml(Path(__file__).parent / "cases" / "requests" / "responses.yaml")
    if "error" not in case and "lenient" not in case
]
CAPTURES = [
    path
    for path in sorted((Path(__file__).parent / "captures").glob("*.json"))
    if b'"messages"' in path.read_bytes()
]
GPT = {
    "effort_field": "reasoning.effort",
    "efforts": ("none", "low", "medium", "high", "xhigh", "max"),
    "thinking_on": {"reasoning": {"summary": "auto"}},
    "sampling": "without_reasoning",
    "encrypted_reasoning": True,
    "developer_role": True,
    "mid_system": "system",
    "cache": "breakpoints",
    "cache_limit": 3,
    "session_field": "prompt_cache_key",
    "user_field": "safety_identifier",
}
"""What a profile says of OpenAI's newest models."""
ITEM = {"type": "reasoning", "id": "rs", "summary": [{"type": "summary_text", "text": "Hm"}], "encrypted_content": "E"}


def checked(case: dict[str, Any]) -> dict[str, Any]:
    upstream = prepared({"api": API, **case})
    assert upstream.url.endswith("/v1/responses")
    return strict_responses.check(upstream.body, upstream.headers, key="test-key")


def conversation(*content: dict[str, Any]) -> dict[str, Any]:
    turns = [
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": list(content)},
        {"role": "user", "content": "Go"},
    ]
    return {"request": {"messages": turns}}


def said(role: str, kind: str) -> dict[str, Any]:
    message = {"type": "message", "id": "msg_0", "role": role, "status": "completed"}
    return {**message, "content": [{"type": kind, "text": "x", "annotations": []}]}


def thinking(provider: str = "generic-server", model: str = "up-model", **item: Any) -> dict[str, Any]:
    signature = sign_items(provider, model, [{**ITEM, **item}], "Hm")
    return {"type": "thinking", "thinking": "Hm", "signature": signature}


def answered(case: dict[str, Any]) -> list[dict[str, Any]]:
    return [item for item in checked(case)["input"] if item.get("role") != "user"]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["name"])
def test_a_strict_server_takes_it(case: dict[str, Any]) -> None:
    checked(case)


@pytest.mark.parametrize("path", CAPTURES, ids=lambda path: path.stem)
def test_a_strict_server_takes_what_claude_code_sends(path: Path) -> None:
    checked({"request": json.loads(path.read_text())["body"], "profile": GPT})


def test_reasoning_stands_right_before_what_followed_it() -> None:
    """R59"""
    call = {"type": "tool_use", "id": "t1", "name": "Read", "input": {}}
    text = {"type": "text", "text": "I look."}
    items = answered(conversation(thinking(id="a"), text, thinking(id="b"), call))
    kinds = [item.get("id") or item["type"] for item in items]
    assert kinds == ["a", "msg_0", "b", "function_call", "function_call_output"]


@pytest.mark.parametrize(
    "block", [thinking(provider="other"), thinking(model="other"), thinking(encrypted_content=None)]
)
def test_foreign_reasoning_stays_here(block: dict[str, Any]) -> None:
    """R60: nor does an item go back that the upstream could not read."""
    case = conversation(block, {"type": "text", "text": "Hello"})
    assert [item["type"] for item in answered(case)] == ["message"]
    assert [change.action for change in prepared({"api": API, **case}).changes] == ["dropped"]


def test_the_reasoning_of_another_wire_stays_here() -> None:
    signature = encode_signature({"p": "generic-server", "m": "up-model", "f": "reasoning_content"})
    block = {"type": "thinking", "thinking": "Hm", "signature": signature}
    assert [item["type"] for item in answered(conversation(block, {"type": "text", "text": "Hello"}))] == ["message"]


def test_reasoning_that_nothing_follows_stays_here() -> None:
    case = conversation({"type": "text", "text": "Hello"}, thinking())
    assert [item["type"] for item in answered(case)] == ["message"]
    assert [change.action for change in prepared({"api": API, **case}).changes] == ["dropped"]
    assert answered(conversation(thinking())) == []


def test_an_item_goes_back_once() -> None:
    """A client may repeat a block; the API refuses an id that comes twice."""
    text = {"type": "text", "text": "Hello"}
    assert [item["type"] for item in answered(conversation(thinking(), text, thinking(), text))] == [
        "reasoning",
        "message",
        "message",
    ]


def test_a_profile_may_keep_reasoning_back() -> None:
    case = {**conversation(thinking(), {"type": "text", "text": "Hello"}), "profile": {"reasoning_back": "none"}}
    assert [item["type"] for item in answered(case)] == ["message"]


def test_what_was_said_before_stays_the_same() -> None:
    """R31, with cache marks that move on."""
    path = Path(__file__).parent / "captures" / "42-new-referenced-tool-called.json"
    body = json.loads(path.read_text())["body"]
    target = target_of("generic", API, cache="breakpoints")
    before: list[Any] = []
    turns = [place for place, message in enumerate(body["messages"]) if message["role"] == "assistant"]
    for count in [*turns, len(body["messages"])]:
        request = MessagesRequest({**body, "messages": body["messages"][:count]}, {}, "", f"msg_{count}", count)
        first = gateway.adapters.get(API).prepare(request, target)
        assert first.body == gateway.adapters.get(API).prepare(request, target).body
        items = json.loads(first.body.replace(b',"prompt_cache_breakpoint":{"mode":"explicit"}', b""))["input"]
        assert items[: len(before)] == before
        before = items


@pytest.mark.parametrize(
    "item",
    [
        {"id": "a", "type": "reasoning", "encrypted_content": "E", "summary": []},
        {"id": "a", "encrypted_content": "E", "type": "reasoning", "summary": [{"text": "x", "type": "summary_text"}]},
        {"type": "reasoning", "summary": [], "content": [{"type": "reasoning_text", "text": "not shown"}]},
        {"type": "reasoning", "summary": [], "encrypted_content": "E", "format": "brand-new", "extra": {"a": [1]}},
        {"type": "reasoning", "summary": [{"type": "summary_text", "text": "ha"}] * 3, "encrypted_content": "E"},
        {"type": "reasoning", "summary": [{"type": "summary_text", "text": " "}], "encrypted_content": "E"},
    ],
)
@pytest.mark.parametrize("shown", ["", " ", "x", "ha\n\nha\n\nha", "other"])
def test_an_item_comes_back_byte_for_byte(item: dict[str, Any], shown: str) -> None:
    signature = sign_items("p", "m", [item], shown)
    assert signature is not None
    state = decode_signature(signature)
    assert state is not None
    back = shown if shown.strip() else ""  # blanks alone make no text
    assert json.dumps(restore_items(state, back)) == json.dumps([item])


@pytest.mark.parametrize(
    "state",
    [
        {},
        {"d": 7},
        {"d": [7]},
        {"d": [{}]},
        {"d": [{"type": "message", "role": "system"}]},
        {"d": [{"type": "reasoning", "id": 7, "summary": 7}]},
        {"d": [{"type": "reasoning", "summary": [{"text": [0, "x"]}, {"text": [-5, 99]}]}], "n": 7},
        {"d": [{"type": "reasoning"}], "after": [None]},
        {"d": [{"type": "reasoning"}], "after": [99]},
    ],
)
def test_a_forged_state_breaks_nothing(state: dict[str, Any]) -> None:
    restore_items(state, "text")
    signature = encode_signature({"p": "generic-server", "m": "up-model", "f": "item", **state})
    block = {"type": "thinking", "thinking": "Hm", "signature": signature}
    prepared({"api": API, **conversation(block, {"type": "text", "text": "Hello"})})


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"stop": ["a"]}, "Unknown parameter"),
        ({"messages": []}, "Unknown parameter"),
        ({"store": True}, "store=false"),
        ({"max_output_tokens": 1}, "expected a value >= 16"),
        ({"reasoning": {"effort": "low"}, "temperature": 1}, "Unsupported parameter"),
        ({"tools": [{"type": "function", "name": "a", "parameters": {"type": "object"}}]}, "strict"),
        ({"tools": [{"type": "function", "function": {"name": "a"}}]}, "Unknown parameter"),
        ({"input": [{"type": "function_call_output", "call_id": "c", "output": "x"}]}, "No tool call found"),
        ({"input": [{"type": "function_call", "call_id": "c", "name": "a", "arguments": "{}"}]}, "No tool output"),
        ({"input": [{"type": "function_call", "call_id": "c" * 65, "name": "a", "arguments": "{}"}]}, "too long"),
        ({"input": [ITEM]}, "without its required following item"),
        ({"input": [ITEM, {"type": "message", "role": "user", "content": "x"}]}, "without its required following item"),
        ({"input": [ITEM, ITEM, {"type": "message", "role": "assistant", "content": "x"}]}, "Duplicate item"),
        ({"input": [{**ITEM, "encrypted_content": ""}]}, "not found"),
        ({"input": [{**ITEM, "status": "completed"}]}, "Unknown parameter"),
        ({"input": [said("assistant", "input_text")]}, "none of"),
        ({"input": [said("user", "output_text")]}, "none of"),
        ({"input": [{**said("assistant", "output_text"), "id": "x"}]}, "needs an id"),
        ({"input": [{**said("assistant", "output_text"), "status": None}]}, "a status"),
        ({"input": [{"role": "user", "content": "x"}]}, "Invalid value"),
    ],
)
def test_the_strict_server_refuses(change: dict[str, Any], words: str) -> None:
    legal = {"model": "m", "store": False, "input": [{"type": "message", "role": "user", "content": "Hi"}]}
    headers = {"authorization": "Bearer k", "content-type": "application/json"}
    strict_responses.check(json.dumps(legal).encode(), headers, key="k")
    with pytest.raises(Violation, match=words):
        strict_responses.check(json.dumps({**legal, **change}).encode(), headers, key="k")
