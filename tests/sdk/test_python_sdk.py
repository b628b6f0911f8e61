"""The official Python SDK, sync and async, with strict validation of every answer."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, cast

import anthropic
import pytest
from anthropic import Anthropic, AsyncAnthropic

MODEL = "claude-sonnet-5"
PROMPT = [{"role": "user", "content": "Say the word marmalade."}]
WEATHER = {
    "name": "get_weather",
    "description": "The weather in one city.",
    "input_schema": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
}
ASKS: dict[str, dict[str, Any]] = {
    "text": {},
    "blocks": {
        "messages": [{"role": "user", "content": [{"type": "text", "text": "Say the word marmalade."}]}],
        "system": [{"type": "text", "text": "Be brief.", "cache_control": {"type": "ephemeral"}}],
    },
    "not ASCII": {"messages": [{"role": "user", "content": "Say «marmalade» — 水 🍊."}]},
    "tool": {"tools": [WEATHER], "messages": [{"role": "user", "content": 'call get_weather {"city": "Zürich"}'}]},
    "tools": {
        "tools": [WEATHER],
        "messages": [{"role": "user", "content": 'call get_weather {"city": "Bern"}\ncall get_weather {"city": ""}'}],
    },
    "tool result": {
        "tools": [WEATHER],
        "messages": [
            *PROMPT,
            {
                "role": "assistant",
                "content": [{"type": "tool_use", "id": "toolu_1", "name": "get_weather", "input": {"city": "Bern"}}],
            },
            {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "toolu_1", "content": "21 degrees"}]},
        ],
    },
    "thinking": {
        "thinking": {"type": "enabled", "budget_tokens": 1024},
        "messages": [{"role": "user", "content": "think: oranges, sugar\nSay the word marmalade."}],
    },
}
BLOCKS = {"tool": ["tool_use"], "tools": ["tool_use", "tool_use"], "thinking": ["thinking", "text"]}
CALLS = {"tool": [{"city": "Zürich"}], "tools": [{"city": "Bern"}, {"city": ""}]}


def body(ask: str) -> dict[str, Any]:
    return {"model": MODEL, "max_tokens": 2048, "messages": PROMPT, **ASKS[ask]}


@pytest.fixture(scope="module")
def client(gateway_url: str) -> Iterator[Any]:
    with Anthropic(
        base_url=gateway_url, api_key="not-checked", max_retries=0, _strict_response_validation=True
    ) as client:
        yield client


@pytest.fixture(scope="module")
def few_names(strict_gateway_url: str) -> Iterator[Any]:
    with Anthropic(base_url=strict_gateway_url, api_key="not-checked", max_retries=0) as client:
        yield client


def error_of(caught: anthropic.APIStatusError) -> dict[str, Any]:
    envelope = cast("dict[str, Any]", caught.body)
    assert envelope["type"] == "error"
    assert envelope["request_id"] == caught.request_id
    return cast("dict[str, Any]", envelope["error"])


def check_message(ask: str, message: Any) -> None:
    """What every answer of this kind must hold; types were validated by the SDK."""
    assert message.id.startswith("msg_")
    assert message.model == MODEL
    assert [block.type for block in message.content] == BLOCKS.get(ask, ["text"])
    assert message.stop_reason == ("tool_use" if ask in CALLS else "end_turn")
    calls = [block for block in message.content if block.type == "tool_use"]
    assert [block.input for block in calls] == CALLS.get(ask, [])
    assert len({block.id for block in calls}) == len(calls)
    assert message.usage.input_tokens > 0
    assert message.usage.output_tokens > 0
    for block in message.content:
        if block.type == "tool_use":
            assert block.name == "get_weather"
        elif block.type == "thinking":
            assert block.thinking == "oranges, sugar"
            assert block.signature
        else:
            assert ("21 degrees" if ask == "tool result" else "marmalade") in block.text


def contents(message: Any) -> list[Any]:
    """The blocks without the ids, which differ from answer to answer."""
    return [block.model_dump(exclude={"id"}, exclude_none=True) for block in message.content]


@pytest.mark.parametrize("ask", ASKS)
def test_message(client: Any, ask: str) -> None:
    message = client.messages.create(**body(ask))
    check_message(ask, message)
    assert message._request_id


@pytest.mark.parametrize("ask", ASKS)
def test_stream_accumulates_to_the_same_message(client: Any, ask: str) -> None:
    whole = client.messages.create(**body(ask))
    with client.messages.stream(**body(ask)) as stream:
        types = [event.type for event in stream]
        streamed = stream.get_final_message()
    check_message(ask, streamed)
    assert contents(streamed) == contents(whole)
    assert streamed.usage.input_tokens == whole.usage.input_tokens
    assert types.count("message_start") == 1
    assert types[-1] == "message_stop"


@pytest.mark.parametrize("ask", ASKS)
async def test_async_stream_accumulates_to_the_same_message(gateway_url: str, ask: str) -> None:
    async with AsyncAnthropic(
        base_url=gateway_url, api_key="not-checked", max_retries=0, _strict_response_validation=True
    ) as client:
        whole = await client.messages.create(**body(ask))
        async with client.messages.stream(**body(ask)) as stream:
            streamed = await stream.get_final_message()
        raw = [event.type async for event in await client.messages.create(**body(ask), stream=True)]
    check_message(ask, whole)
    check_message(ask, streamed)
    assert contents(streamed) == contents(whole)
    assert raw[0] == "message_start"
    assert raw[-1] == "message_stop"


def test_beta_messages(client: Any) -> None:
    message = client.beta.messages.create(**body("text"), betas=["context-1m-2025-08-07"])
    check_message("text", message)


def test_the_prompt_reaches_the_answer(client: Any) -> None:
    message = client.messages.create(**body("not ASCII"))
    assert "«marmalade» — 水 🍊" in message.content[0].text


def test_count_tokens_grows_with_the_prompt(client: Any) -> None:
    sizes = [
        client.messages.count_tokens(model=MODEL, messages=[{"role": "user", "content": "marmalade " * words}])
        for words in (1, 50, 500)
    ]
    counts = [size.input_tokens for size in sizes]
    assert counts == sorted(set(counts))
    with_tool = client.messages.count_tokens(model=MODEL, messages=PROMPT, tools=[WEATHER])
    assert with_tool.input_tokens > client.messages.count_tokens(model=MODEL, messages=PROMPT).input_tokens


def test_models_are_listed_page_by_page(client: Any) -> None:
    everything = [model.id for model in client.models.list(limit=1000)]
    assert len(everything) > 1
    assert len(set(everything)) == len(everything)
    assert [model.id for model in client.models.list(limit=1)] == everything
    last = everything[-1]
    assert [model.id for model in client.models.list(before_id=last, limit=1).data] == everything[-2:-1]
    assert client.models.retrieve(last).id == last


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"messages": "none"}, "messages"),
        ({"messages": []}, "messages"),
        ({"max_tokens": -1}, "max_tokens"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"model": 7}, "model"),
        ({"messages": [{"role": 7, "content": "x"}]}, "role"),
        ({"messages": [{"role": "user", "content": [{"type": "text"}]}]}, "text"),
    ],
    ids=str,
)
def test_bad_body(client: Any, change: dict[str, Any], field: str) -> None:
    with pytest.raises(anthropic.BadRequestError) as caught:
        client.messages.create(**{**body("text"), **change})
    assert error_of(caught.value)["type"] == "invalid_request_error"
    assert field in error_of(caught.value)["message"]


@pytest.mark.parametrize(
    "call",
    [
        lambda client: client.messages.create(**{**body("text"), "model": "no-such-model"}),
        lambda client: client.messages.stream(**{**body("text"), "model": "no-such-model"}).__enter__(),
        lambda client: client.messages.count_tokens(model="no-such-model", messages=PROMPT),
        lambda client: client.models.retrieve("no-such-model"),
    ],
    ids=["create", "stream", "count_tokens", "retrieve"],
)
def test_unknown_model(few_names: Any, call: Any) -> None:
    with pytest.raises(anthropic.NotFoundError) as caught:
        call(few_names)
    assert error_of(caught.value)["type"] == "not_found_error"
    assert "sonnet" in error_of(caught.value)["message"]


def test_what_is_not_offered_is_not_found(client: Any) -> None:
    with pytest.raises(anthropic.NotFoundError) as caught:
        client.messages.batches.list()
    assert error_of(caught.value)["type"] == "not_found_error"
