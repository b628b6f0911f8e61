"""Requests up: the tables of ``tests/cases/requests``. Adding a case needs no Python.

A case: ``name``; ``request`` (the client's body; model, max_tokens and one user message are filled in);
``provider`` (default: an unknown server), ``profile`` (overrides), ``api``; ``model``, the upstream's id of it, where
the built-in profile of ``provider`` is meant as it is; and what must come of it:

* ``upstream``: path -> exact value; ``contains``: path -> text within it; ``absent``: paths; ``roles``: of the
  messages, in order;
* ``sent_headers``: name -> value, null for absent; ``url``;
* ``changes``: "ACTION PATH" for each change that must be on record (a part of PATH suffices); ``unchanged``: none;
* or ``error``: texts that the 400 must contain.

Paths are like ``messages[1].content[0].text``; ``[-1]`` counts from the end, ``a.*.b`` gives the list of all ``b``.
A thinking block with ``signed: STATE`` has the signature that the gateway makes of that state (opaque.py: ``p`` the
provider, ``m`` the model, ``f`` the field, ``d`` details), and a call with ``id: [ID, PROVIDER, EXTRA]`` such an id.
Whatever comes out must also pass the strict checks of the fake upstream (``lenient: true`` says why not);
``reasoning_field`` is the one field beyond OpenAI's that the provider takes.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import gateway.adapters
from gateway.adapters.base import MessagesRequest, UpstreamRequest
from gateway.errors import InvalidRequest
from gateway.translate.opaque import encode_signature, encode_tool_id
from gateway.translate.request_check import check_request
from gateway.wire.json_text import loads_request
from tests.fakes import strict_chat
from tests.recordings import load_yaml, target_of, with_profile
from tests.targets import preset_target

CASES_DIR = Path(__file__).parent / "cases" / "requests"
MISSING = object()


def cases() -> list[Any]:
    found = []
    for path in sorted(CASES_DIR.glob("*.yaml")):
        for case in load_yaml(path):
            found.append(pytest.param(case, id=f"{path.stem}: {case['name']}"))
    return found


def prepared(case: dict[str, Any]) -> UpstreamRequest:
    body = {
        "model": "sonnet",
        "max_tokens": 100,
        "messages": [{"role": "user", "content": "Hi"}],
        **with_state(case.get("request", {})),
    }
    api = case.get("api", "openai-chat")
    provider = case.get("provider", "generic")
    base = preset_target(provider, api, case["model"]) if "model" in case else target_of(provider, api)
    target = with_profile(base, tuples(case.get("profile", {})))
    headers = {"anthropic-version": "2023-06-01", **case.get("headers", {})}
    request = MessagesRequest(loads_request(json.dumps(body).encode()), headers, case.get("query", ""), "msg_1", 9)
    return gateway.adapters.get(api).prepare(request, target)


def with_state(value: Any) -> Any:
    """``value`` with the signatures and tool ids that carry the state told in it."""
    if isinstance(value, list):
        return [with_state(item) for item in value]
    if not isinstance(value, dict):
        return value
    made = {name: with_state(item) for name, item in value.items() if name != "signed"}
    if "signed" in value:
        made["signature"] = encode_signature(value["signed"])
    for name in ("id", "tool_use_id"):
        if isinstance(value.get(name), list):
            made[name] = encode_tool_id(*value[name])
    return made


def tuples(profile: dict[str, Any]) -> dict[str, Any]:
    return {name: tuple(value) if isinstance(value, list) else value for name, value in profile.items()}


def look_up(value: Any, path: str) -> Any:
    """The value at ``path``, MISSING where there is none."""
    for step in re.findall(r"[^.\[\]]+", path):
        if step == "*":
            continue
        if isinstance(value, list) and re.fullmatch(r"-?\d+", step):
            value = value[int(step)] if -len(value) <= int(step) < len(value) else MISSING
        elif isinstance(value, list):
            value = [item.get(step, None) for item in value]
        elif isinstance(value, dict) and step in value:
            value = value[step]
        else:
            return MISSING
    return value


@pytest.mark.parametrize("case", cases())
def test_request(case: dict[str, Any]) -> None:
    unknown = set(case) - {
        "name", "request", "provider", "profile", "api", "headers", "query",
        "upstream", "contains", "absent", "roles", "changes", "unchanged", "error", "lenient", "reasoning_field",
        "model", "sent_headers", "url",
    }  # fmt: skip
    assert not unknown, f"no such key in a case: {unknown}"
    if "error" in case:
        with pytest.raises(InvalidRequest) as caught:
            prepared(case)
        for text in case["error"]:
            assert text in caught.value.message
        return
    upstream = prepared(case)
    body = json.loads(upstream.body)
    compare(case, body)
    sent = {name.lower(): value for name, value in upstream.headers.items()}
    for name, value in case.get("sent_headers", {}).items():
        assert sent.get(name) == value, name
    assert case.get("url", upstream.url) == upstream.url
    changes = [f"{change.action} {change.path}" for change in upstream.changes]
    for wanted in case.get("changes", ()):
        action, _, path = wanted.partition(" ")
        assert any(change.startswith(action + " ") and path in change for change in changes), (wanted, changes)
    if case.get("unchanged"):
        assert changes == []
    if case.get("api", "openai-chat") == "openai-chat" and not case.get("lenient"):
        strict_chat.check(upstream.body, sent, key="test-key", reasoning=case.get("reasoning_field"))


def compare(case: dict[str, Any], body: dict[str, Any]) -> None:
    for path, value in case.get("upstream", {}).items():
        assert look_up(body, path) == value, path
    for path, texts in case.get("contains", {}).items():
        found = look_up(body, path)
        for text in [texts] if isinstance(texts, str) else texts:
            assert isinstance(found, str), f"{path}: {found!r}"
            assert text in found, path
    for path in case.get("absent", ()):
        assert look_up(body, path) is MISSING, path
    if "roles" in case:
        assert " ".join(message["role"] for message in body["messages"]) == case["roles"]


def test_the_same_conversation_gives_the_same_bytes() -> None:
    """R31: when a conversation grows, what was there stays, byte for byte."""
    path = Path(__file__).parent / "captures" / "42-new-referenced-tool-called.json"
    body = json.loads(path.read_text())["body"]
    target = target_of("generic")
    adapter = gateway.adapters.get("openai-chat")
    before: list[Any] = []
    for count in (2, 4, 6):
        request = MessagesRequest({**body, "messages": body["messages"][:count]}, {}, "", f"msg_{count}", count)
        first, second = adapter.prepare(request, target), adapter.prepare(request, target)
        assert first.body == second.body
        messages = json.loads(first.body)["messages"]
        assert messages[: len(before)] == before
        before = messages


def test_two_requests_that_differ_in_the_billing_block_are_the_same() -> None:
    """R1: the block's hash differs between conversations and would empty the prefix cache."""
    bodies = set()
    for suffix in ("f57", "d89"):
        block = {"type": "text", "text": f"x-anthropic-billing-header: cc_version=2.1.197.{suffix}; cc_entrypoint=cli;"}
        case = {"request": {"system": [block, {"type": "text", "text": "You are"}]}}
        bodies.add(prepared(case).body)
    assert len(bodies) == 1


def test_a_request_is_not_changed_by_its_translation() -> None:
    for path in sorted((Path(__file__).parent / "captures").glob("4*.json")):
        body = json.loads(path.read_text())["body"]
        before = json.dumps(body)
        for api in ("openai-chat", "anthropic"):
            target = target_of("generic", api)
            dropping = replace(target.profile, drop_fields=("output_config.effort", "metadata.user_id", "top_p"))
            for each in (target, replace(target, profile=dropping)):
                gateway.adapters.get(api).prepare(MessagesRequest(body, {}, "", "msg_1", 1), each)
                assert json.dumps(body) == before


def deep(levels: int) -> Any:
    """An object in an object in an object…"""
    value: Any = 1
    for _ in range(levels):
        value = {"a": value}
    return value


def deep_results(levels: int) -> Any:
    content: Any = "x"
    for _ in range(levels // 2):
        content = [{"type": "tool_result", "tool_use_id": "t", "content": content}]
    return content


@pytest.mark.parametrize("api", ["openai-chat", "anthropic"])
@pytest.mark.parametrize("levels", [100, 300, 600, 900])
@pytest.mark.parametrize(
    "fill",
    [
        lambda levels: {"tools": [{"name": "a", "input_schema": deep(levels)}]},
        lambda levels: {"output_config": {"format": {"type": "json_schema", "schema": deep(levels)}}},
        lambda levels: {"messages": [{"role": "user", "content": [{"type": "hologram", "x": deep(levels)}]}]},
        lambda levels: {
            "messages": [
                {"role": "user", "content": "Hi"},
                {"role": "assistant", "content": [{"type": "tool_use", "id": "t", "name": "a", "input": deep(levels)}]},
            ]
        },
        lambda levels: {"messages": [{"role": "user", "content": deep_results(levels)}]},
        lambda levels: {"brand_new": deep(levels)},
    ],
    ids=["tool", "schema", "block", "input", "results", "unknown field"],
)
def test_deep_nesting_goes_up_or_is_refused(fill: Callable[[int], dict[str, Any]], levels: int, api: str) -> None:
    """Never a crash: what is parsed must also be written, or refused."""
    body = {"model": "m", "max_tokens": 9, "messages": [{"role": "user", "content": "Hi"}], **fill(levels)}
    try:
        checked = check_request(loads_request(json.dumps(body).encode()))
        gateway.adapters.get(api).prepare(MessagesRequest(checked, {}, "", "msg_1", 1), target_of("generic", api))
    except (InvalidRequest, ValueError):
        assert levels > 100


@pytest.mark.parametrize("schema", [{"required": 7}, {"required": [[1]]}, {"properties": 7}, {"properties": [1]}])
def test_an_odd_schema_is_not_strict(schema: dict[str, Any]) -> None:
    full = {"type": "object", "additionalProperties": False, **schema}
    case = {"request": {"output_config": {"format": {"type": "json_schema", "schema": full}}}}
    body = json.loads(prepared(case).body)
    assert body["response_format"]["json_schema"]["strict"] is False


@pytest.mark.parametrize("provider", ["anthropic", "generic"])
def test_our_own_signature_does_not_reach_an_anthropic_type_upstream(provider: str) -> None:
    """It would be refused there: "Invalid signature in thinking block"."""
    signature = encode_signature({"p": "some-chat-server", "m": "x", "f": "reasoning"})
    thinking = {"type": "thinking", "thinking": "hm", "signature": signature}
    turns = [
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": [thinking, {"type": "text", "text": "Hello"}]},
        {"role": "user", "content": "Go"},
    ]
    case = {"api": "anthropic", "provider": provider, "request": {"messages": turns, "stream": True}}
    upstream = prepared(case)
    assert json.loads(upstream.body)["messages"] == [
        turns[0],
        {"role": "assistant", "content": [{"type": "text", "text": "Hello"}]},
        turns[2],
    ]
    assert [change.action for change in upstream.changes] == ["dropped"]


def test_headers_and_query_of_the_anthropic_wire() -> None:
    case = {
        "api": "anthropic",
        "query": "beta=true",
        "headers": {
            "anthropic-beta": "a-2026-01-01,b-2026-01-01",
            "anthropic-brand-new": "x",
            "x-api-key": "the client's own",
            "authorization": "Bearer the client's own",
            "cookie": "c=1",
        },
    }
    upstream = prepared(case)
    headers = {name.lower(): value for name, value in upstream.headers.items()}
    assert upstream.url.endswith("/v1/messages?beta=true")
    assert "/v1/v1" not in upstream.url
    assert headers["anthropic-beta"] == "a-2026-01-01,b-2026-01-01"
    assert headers["anthropic-brand-new"] == "x"
    assert headers["anthropic-version"] == "2023-06-01"
    assert headers["x-api-key"] == "test-key"
    assert "cookie" not in headers
    assert "the client's own" not in str(headers)


def test_headers_of_the_chat_wire() -> None:
    headers = {"x-api-key": "the client's own", "anthropic-beta": "b", "x-custom": "x", "cookie": "c=1"}
    upstream = prepared({"headers": headers, "query": "beta=true"})
    lower = {name.lower(): value for name, value in upstream.headers.items()}
    assert upstream.url.endswith("/v1/chat/completions")
    assert lower["authorization"] == "Bearer test-key"
    assert not {"x-api-key", "anthropic-beta", "anthropic-version", "x-custom", "cookie"} & set(lower)


def test_a_lone_surrogate_is_replaced() -> None:
    """R14: no upstream takes half a character."""
    raw = rb'{"system":"s\ud83d","messages":[{"role":"user","content":"a\ud83db \ud83d\ude42 \\ud83d"}],"max_tokens":9}'
    request = MessagesRequest(loads_request(raw), {}, "", "msg_1", 1)
    upstream = gateway.adapters.get("openai-chat").prepare(request, target_of("generic"))
    contents = [message["content"] for message in json.loads(upstream.body)["messages"]]
    assert contents == ["s\ufffd", "a\ufffdb 🙂 \\ud83d"]
