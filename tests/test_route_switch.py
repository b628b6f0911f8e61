"""A conversation that moves to another provider: the content goes along, what only the first understands does not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import orjson
import pytest

from gateway import adapters
from gateway.adapters.base import MessagesRequest
from gateway.profile import Profile
from gateway.routing import Provider, Target
from gateway.translate.fold import MessageFold

STREAMS = Path(__file__).parent / "streams"
WITH_STATE = [
    "gemini/gemini_thought_signature",
    "openrouter/openrouter_reasoning_details",
    "deepseek/deepseek_reasoning_tool",
    "moonshot/moonshot_choice_usage_ids",
]


def target(provider: str) -> Target:
    return Target(Provider(provider, "openai-chat", "http://127.0.0.1:1/v1", "key"), "model", Profile())


def request(*history: dict[str, Any]) -> MessagesRequest:
    tools = [{"name": "get_weather", "input_schema": {"type": "object"}}]
    messages = [{"role": "user", "content": "Hi"}, *history]
    return MessagesRequest({"model": "m", "max_tokens": 9, "messages": messages, "tools": tools}, {}, "", "msg_1", 1)


def next_turn(name: str, provider: str) -> dict[str, Any]:
    """The assistant message that goes up to ``provider`` after "first" gave the recorded answer."""
    adapter = adapters.get("openai-chat")
    translator = adapter.stream_translator(request(), target("first"))
    fold = MessageFold()
    fold.feed(translator.feed((STREAMS / f"{name}.sse").read_bytes()))
    fold.feed(translator.close())
    content = fold.message()["content"]
    results = [{"type": "tool_result", "tool_use_id": block["id"]} for block in content if block["type"] == "tool_use"]
    history = ({"role": "assistant", "content": content}, {"role": "user", "content": results})
    body = orjson.loads(adapter.prepare(request(*history), target(provider)).body)
    answer: dict[str, Any] = body["messages"][1]
    ids = [call["id"] for call in answer["tool_calls"]]
    assert ids == [message["tool_call_id"] for message in body["messages"][2:]]
    return answer


@pytest.mark.parametrize("name", WITH_STATE)
def test_another_provider_gets_no_foreign_state(name: str) -> None:
    answer = next_turn(name, "second")
    assert set(answer) == {"role", "content", "tool_calls"}
    for call in answer["tool_calls"]:
        assert set(call) == {"id", "type", "function"}
        assert len(call["id"]) <= 40
        assert call["id"].replace("_", "").replace("-", "").isalnum()


@pytest.mark.parametrize("name", WITH_STATE)
def test_the_same_provider_gets_its_state_back(name: str) -> None:
    answer = next_turn(name, "first")
    assert {"reasoning_content", "reasoning_details"} & set(answer) or "extra_content" in answer["tool_calls"][0]
