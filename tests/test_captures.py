"""Every request that the real Claude Code sent (tests/captures) goes up: the table ``tests/cases/captures.yaml``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import gateway.adapters
from gateway.adapters.base import MessagesRequest, UpstreamRequest
from gateway.routing import Target
from tests.fakes import strict_chat
from tests.recordings import load_yaml, target_of
from tests.test_requests import MISSING, look_up

CAPTURES = Path(__file__).parent / "captures"
TABLE = load_yaml(Path(__file__).parent / "cases" / "captures.yaml")
ROWS = TABLE["captures"]
BILLING = "x-anthropic-billing-header:"
every_capture = pytest.mark.parametrize("row", ROWS, ids=[row["file"] for row in ROWS])


def capture(name: str) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads((CAPTURES / f"{name}.json").read_text())
    return loaded


def prepared(name: str, target: Target, api: str = "openai-chat") -> UpstreamRequest:
    taken = capture(name)
    headers = {key.lower(): value for key, value in taken["headers"].items()}
    query = taken["path"].partition("?")[2]
    return gateway.adapters.get(api).prepare(MessagesRequest(taken["body"], headers, query, "msg_1", 9), target)


def checked(upstream: UpstreamRequest) -> dict[str, Any]:
    """The body, as a strict server reads it."""
    headers = {name.lower(): value for name, value in upstream.headers.items()}
    return strict_chat.check(upstream.body, headers, key="test-key")


def test_the_table_has_every_capture() -> None:
    posted = []
    for path in sorted(CAPTURES.glob("*.json")):
        taken = json.loads(path.read_text())
        if taken["method"] == "POST" and taken["path"].partition("?")[0] == "/v1/messages":
            posted.append(path.stem)
    assert [row["file"] for row in ROWS] == posted
    assert len(posted) == 49


@every_capture
def test_goes_up_as_chat(row: dict[str, Any]) -> None:
    upstream = prepared(row["file"], target_of("generic"))
    body = checked(upstream)
    assert roles(body) == row["roles"]
    assert [tool["function"]["name"] for tool in body.get("tools", ())] == TABLE["tools"][row["tools"]]
    assert body["max_tokens"] == row["max_tokens"]
    assert body.get("temperature") == row.get("temperature")
    assert "tool_choice" not in body
    results = [message["tool_call_id"] for message in body["messages"] if message["role"] == "tool"]
    assert results == row.get("results", [])
    assert BILLING not in upstream.body.decode()
    dropped = {change.path for change in upstream.changes if change.action == "dropped"}
    assert set(row["dropped"]) <= dropped
    for path, text in row.get("has", {}).items():
        found = look_up(body, path)
        assert found is not MISSING, path
        assert text in found, path
    known = {"file", "roles", "roles_in_place", "tools", "max_tokens", "temperature", "results", "dropped", "has"}
    assert set(row) <= known


@every_capture
def test_goes_up_to_a_server_that_takes_more(row: dict[str, Any]) -> None:
    target = target_of("generic", mid_system="system", pdf="file", max_tokens_field="max_completion_tokens")
    body = checked(prepared(row["file"], target))
    pdf = "pdf" in row["file"]
    expected = row.get("roles_in_place", row["roles"])
    assert roles(body) == (expected + " user" if pdf and not expected.endswith("user") else expected)
    assert ('"type": "file"' in json.dumps(body)) == pdf
    assert body["max_completion_tokens"] == row["max_tokens"]


@every_capture
def test_goes_up_to_a_server_that_takes_little(row: dict[str, Any]) -> None:
    target = target_of(
        "generic", images=False, empty_content=True, tool_id_max=9, tool_name_max=12, max_output_tokens=8192,
        stream_usage=False, parallel_tool_calls=False, response_format="none", stop_limit=0,
    )  # fmt: skip
    body = checked(prepared(row["file"], target))
    assert "image_url" not in json.dumps(body["messages"])
    assert body["max_tokens"] == min(8192, row["max_tokens"])


@every_capture
def test_goes_to_anthropic_as_it_came(row: dict[str, Any]) -> None:
    taken = capture(row["file"])
    upstream = prepared(row["file"], target_of("anthropic", "anthropic"), "anthropic")
    expected = {**taken["body"], "model": "up-model", "stream": True}
    expected["messages"] = [without_unsigned_thinking(message) for message in expected["messages"]]
    assert json.loads(upstream.body) == expected
    assert upstream.url.endswith("/v1/messages?beta=true")
    assert upstream.headers["anthropic-beta"] == taken["headers"]["anthropic-beta"]


def without_unsigned_thinking(message: dict[str, Any]) -> dict[str, Any]:
    """Thinking that another model gave without a signature: Anthropic's API would refuse it (R131)."""
    if not isinstance(message["content"], list):
        return message
    kept = [block for block in message["content"] if (block["type"], block.get("signature")) != ("thinking", "")]
    return {**message, "content": kept}


@every_capture
def test_goes_to_servers_like_it_without_the_billing_block(row: dict[str, Any]) -> None:
    body = capture(row["file"])["body"]
    system = [block for block in body["system"] if not block["text"].startswith(BILLING)]
    expected = {**body, "model": "up-model", "stream": True, "system": system}
    expected.pop("safeguards", None)
    if not expected.get("tools"):
        expected.pop("tools", None)  # R46
    upstream = prepared(row["file"], target_of("generic", "anthropic"), "anthropic")
    assert json.loads(upstream.body) == expected
    assert any(change.path == "system[0]" for change in upstream.changes)


def roles(body: dict[str, Any]) -> str:
    return " ".join(message["role"] for message in body["messages"])


def test_thinking_of_another_model_does_not_go_up() -> None:
    for name in ("10-thinking-replay", "11-thinking-replay-no-signature", "47-new-thinking-replay"):
        upstream = prepared(name, target_of("generic"))
        body = checked(upstream)
        assistant = next(message for message in body["messages"] if message["role"] == "assistant")
        assert set(assistant) == {"role", "content", "tool_calls"}
        changes = [(change.action, change.path) for change in upstream.changes]
        assert ("dropped", "messages[2].content[0]") in changes


def test_the_history_of_a_growing_conversation_stays_the_same() -> None:
    """R31: the second tool turn begins with exactly the messages of the first."""
    for first, second in (
        ("07-tool-result-turn", "08-second-tool-result-turn"),
        ("41-new-tool-reference-turn", "42-new-referenced-tool-called"),
    ):
        target = target_of("generic")
        before, after = checked(prepared(first, target)), checked(prepared(second, target))
        assert before["tools"] == after["tools"]
        # The last message is written anew each time: the client moves its cache_control there.
        assert after["messages"][: len(before["messages"])] == before["messages"]
