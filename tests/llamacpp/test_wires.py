"""The gateway in front of a real llama.cpp server, through each API that both speak.

What the model would like to say decides nothing: text is fixed by a grammar (``server.ANSWER``), tool calls by
llama.cpp's grammar of the tools' schemas.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Callable
from typing import Any

import anthropic
import pytest
from anthropic import Anthropic, AsyncAnthropic

from tests.grammar import check_stream, inputs, joined
from tests.llamacpp.conftest import SECONDS, LlamaServer
from tests.llamacpp.server import ANSWER, SLOTS

Body = dict[str, Any]

CITIES = ["Paris", "Rome"]
WEATHER = {
    "name": "get_weather",
    "description": "The weather in one city.",
    "input_schema": {
        "type": "object",
        "properties": {"city": {"type": "string", "enum": CITIES}},
        "required": ["city"],
    },
}
LIST = {
    "name": "list_files",
    "description": "The files in one place.",
    "input_schema": {"type": "object", "properties": {"place": {"enum": ["here"]}}, "required": ["place"]},
}
COUNT = {
    "name": "count",
    "description": "Counts for minutes.",
    "input_schema": {
        "type": "object",
        "properties": {"numbers": {"type": "array", "items": {"enum": [1]}, "minItems": 500}},
        "required": ["numbers"],
    },
}
PIXEL = {"type": "base64", "media_type": "image/png", "data": "iVBORw0KGgo="}
RESULT = "Nineteen degrees, light rain from the west, and a rainbow over the river until the evening."


def body(wire: str, prompt: str = "Say it.", **fields: Any) -> Body:
    return {"model": wire, "max_tokens": 200, "messages": [{"role": "user", "content": prompt}], **fields}


def forced(wire: str, *tools: Body, choice: Body | None = None, **fields: Any) -> Body:
    asked = {"type": "any"} if choice is None else choice
    return body(wire, "How is the weather in Paris?", tools=list(tools), tool_choice=asked, **fields)


def text_of(message: Any) -> str:
    return "".join(block.text for block in message.content if block.type == "text")


def calls_of(message: Any) -> list[Any]:
    return [block for block in message.content if block.type == "tool_use"]


def prompt_tokens(usage: Any) -> int:
    return int(usage.input_tokens + (usage.cache_read_input_tokens or 0) + (usage.cache_creation_input_tokens or 0))


def streamed(client: Anthropic, asked: Body) -> bytes:
    """The bytes of a stream, as they came."""
    with client.messages.with_streaming_response.create(**asked, stream=True) as answer:
        return answer.read()


async def until(state: Callable[[], bool]) -> None:
    """Returns once it is so; fails when that takes too long."""

    def watch() -> None:
        end = time.monotonic() + SECONDS
        while not state():
            assert time.monotonic() < end, "it did not happen"
            time.sleep(0.02)

    await asyncio.to_thread(watch)


@pytest.fixture
async def sdk(gateway_url: str) -> Any:
    async with AsyncAnthropic(base_url=gateway_url, api_key="x", max_retries=0, timeout=SECONDS) as client:
        yield client


# -- text ------------------------------------------------------------------------------------------------


def test_message(client: Anthropic, llama: LlamaServer, wire: str) -> None:
    message = client.messages.create(**body(wire))
    assert text_of(message) == ANSWER
    assert (message.stop_reason, message.stop_sequence, message.model) == ("end_turn", None, wire)
    assert message.usage.output_tokens >= llama.tokens(ANSWER) // 2
    assert prompt_tokens(message.usage) > 0


def test_stream(client: Anthropic, wire: str) -> None:
    """It begins with a character of several tokens, where llama.cpp forgets the first event (test_surprises.py)."""
    reading = check_stream(streamed(client, body(wire)), passed_through=wire == "anthropic")
    assert joined(reading, "text") == ANSWER
    assert (reading.stop_reason, reading.error) == ("end_turn", None)
    with client.messages.stream(**body(wire)) as stream:
        pieces = list(stream.text_stream)
        message = stream.get_final_message()
    assert text_of(message) == "".join(pieces) == ANSWER
    assert len(pieces) > len(ANSWER) // 2, "it comes token by token"
    assert prompt_tokens(message.usage) > 0


@pytest.mark.parametrize("limit", [1, 20], ids=["inside the first character", "between words"])
def test_cut_by_max_tokens(client: Anthropic, wire: str, limit: int) -> None:
    asked = body(wire, max_tokens=limit)
    whole = client.messages.create(**asked)
    reading = check_stream(streamed(client, asked), passed_through=wire == "anthropic")
    assert whole.stop_reason == reading.stop_reason == "max_tokens"
    assert text_of(whole) == joined(reading, "text") != ANSWER
    assert ANSWER.startswith(text_of(whole))


def test_stop_sequence(client: Anthropic, wire: str) -> None:
    asked = body(wire, stop_sequences=["never", "世界"])
    whole = client.messages.create(**asked)
    reading = check_stream(streamed(client, asked), passed_through=wire == "anthropic")
    assert text_of(whole) == joined(reading, "text") == ANSWER.partition("世界")[0]
    assert (whole.stop_reason, whole.stop_sequence) == ("stop_sequence", "世界")
    assert (reading.stop_reason, reading.stop_sequence) == ("stop_sequence", "世界")


def test_prefill(client: Anthropic, wire: str) -> None:
    """llama.cpp repeats it in a message, and does not in a stream."""
    asked = body(wire)
    asked["messages"].append({"role": "assistant", "content": "Well,"})
    assert text_of(client.messages.create(**asked)) == ANSWER
    reading = check_stream(streamed(client, asked), passed_through=wire == "anthropic")
    assert joined(reading, "text") == ANSWER


def test_the_same_prompt_is_read_from_the_cache(client: Anthropic, wire: str) -> None:
    asked = forced(wire, LIST)
    first = client.messages.create(**asked).usage
    second = client.messages.create(**asked).usage
    assert prompt_tokens(first) == prompt_tokens(second)
    assert second.cache_read_input_tokens == prompt_tokens(second) - 1, "llama.cpp reads at least one token anew"


async def test_more_requests_than_slots(sdk: AsyncAnthropic, wire: str) -> None:
    messages = await asyncio.gather(*(sdk.messages.create(**body(wire)) for _ in range(SLOTS + 1)))
    assert [text_of(message) for message in messages] == [ANSWER] * (SLOTS + 1)


def test_count_tokens(client: Anthropic, wire: str) -> None:
    prompt = body(wire)["messages"]
    short = client.messages.count_tokens(model=wire, messages=prompt)
    long = client.messages.count_tokens(model=wire, messages=prompt, tools=[WEATHER])
    assert 0 < short.input_tokens < long.input_tokens


# -- tools -----------------------------------------------------------------------------------------------


def check_calls(calls: list[tuple[str, Any]], names: set[str]) -> None:
    """At least one call, and each as its schema wants it."""
    assert calls
    assert {name for name, _ in calls} <= names
    for name, arguments in calls:
        if name == "get_weather":
            assert list(arguments) == ["city"]
            assert arguments["city"] in CITIES
        else:
            assert arguments == {"place": "here"}


@pytest.mark.parametrize(
    ("choice", "names"),
    [
        ({"type": "any", "disable_parallel_tool_use": True}, {"get_weather", "list_files"}),
        ({"type": "tool", "name": "get_weather"}, {"get_weather"}),
        ({"type": "tool", "name": "list_files"}, {"list_files"}),
    ],
    ids=["any", "one", "and the other, as the model would choose the same twice"],
)
def test_forced_tools(client: Anthropic, wire: str, choice: Body, names: set[str]) -> None:
    asked = forced(wire, WEATHER, LIST, choice=choice)
    whole = client.messages.create(**asked)
    check_calls([(call.name, call.input) for call in calls_of(whole)], names)
    reading = check_stream(streamed(client, asked), passed_through=wire == "anthropic")
    check_calls(inputs(reading), names)
    assert whole.stop_reason == reading.stop_reason == "tool_use"


def test_no_tools_where_none_are_wanted(client: Anthropic, wire: str) -> None:
    message = client.messages.create(**forced(wire, WEATHER, choice={"type": "none"}))
    assert calls_of(message) == []
    assert text_of(message) == ANSWER


def test_conversation_with_a_tool_result(client: Anthropic, llama: LlamaServer, wire: str) -> None:
    asked = forced(wire, WEATHER)
    with client.messages.stream(**asked) as stream:
        first = stream.get_final_message()
    check_calls([(call.name, call.input) for call in calls_of(first)], {"get_weather"})
    answer = [block.model_dump(exclude_none=True) for block in first.content]
    results = [{"type": "tool_result", "tool_use_id": call.id, "content": RESULT} for call in calls_of(first)]
    turns = [*asked["messages"], {"role": "assistant", "content": answer}, {"role": "user", "content": results}]
    second = client.messages.create(**{**asked, "messages": turns})
    check_calls([(call.name, call.input) for call in calls_of(second)], {"get_weather"})
    assert {call.id for call in calls_of(first)}.isdisjoint(call.id for call in calls_of(second))
    assert prompt_tokens(second.usage) >= prompt_tokens(first.usage) + llama.tokens(RESULT), "the result went up"
    assert second.usage.cache_read_input_tokens >= prompt_tokens(first.usage) - 1, "the prefix stayed as it was"


def test_schema_that_llamacpp_refuses(client: Anthropic, wire: str) -> None:
    """A bare ``true`` is JSON Schema, and a 400 from llama.cpp."""
    schema = {"type": "object", "properties": {"place": {"enum": ["here"]}, "any": True}, "required": ["place"]}
    tool = {**LIST, "input_schema": schema}
    message = client.messages.create(**forced(wire, tool, choice={"type": "any"}))
    assert [call.name for call in calls_of(message)][:1] == ["list_files"]
    assert calls_of(message)[0].input["place"] == "here"


def test_call_cut_by_max_tokens(client: Anthropic, wire: str) -> None:
    """llama.cpp ends half a call like a whole one; the answer must say that it was cut."""
    asked = forced(wire, COUNT, max_tokens=40)
    reading = check_stream(streamed(client, asked), passed_through=wire == "anthropic")
    assert reading.stop_reason == "max_tokens"
    assert client.messages.create(**asked).stop_reason == "max_tokens"


# -- refusals --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stream", [False, True], ids=["message", "stream"])
def test_overflow(client: Anthropic, llama: LlamaServer, wire: str, stream: bool) -> None:
    long = body(wire, "word " * (llama.context + 1000))
    with pytest.raises(anthropic.BadRequestError) as caught:
        client.messages.create(**long, stream=stream)
    error: Any = caught.value.body
    assert error["error"]["type"] == "invalid_request_error"
    said = re.match(r"prompt is too long: (\d+) tokens > (\d+) maximum", error["error"]["message"])
    assert said, error
    assert int(said[1]) >= llama.context + 1000
    assert int(said[2]) == llama.context


def test_picture_that_the_model_cannot_see(client: Anthropic, wire: str) -> None:
    """llama.cpp calls it an error of its own (500), which clients would try again."""
    content = [{"type": "text", "text": "What is this?"}, {"type": "image", "source": PIXEL}]
    asked = {**body(wire), "messages": [{"role": "user", "content": content}]}
    with pytest.raises(anthropic.BadRequestError, match="image input is not supported"):
        client.messages.create(**asked)
    blind = client.messages.create(**{**asked, "model": f"{wire}-blind"})
    assert text_of(blind) == ANSWER, "`images: false` puts a placeholder there"


# -- disconnects -----------------------------------------------------------------------------------------


async def test_the_slot_is_free_when_the_reader_of_a_stream_leaves(
    sdk: AsyncAnthropic, llama: LlamaServer, wire: str
) -> None:
    await until(lambda: not llama.busy())
    async with sdk.messages.stream(**forced(wire, COUNT, max_tokens=3000)) as stream:
        async for event in stream:
            if event.type == "input_json":
                break
        (slot,) = llama.busy()
    await until(lambda: not llama.busy())
    assert llama.was_stopped(slot)


async def test_the_slot_is_free_when_one_who_waits_for_a_message_leaves(
    sdk: AsyncAnthropic, llama: LlamaServer, wire: str
) -> None:
    await until(lambda: not llama.busy())
    task = asyncio.create_task(sdk.messages.create(**forced(wire, COUNT, max_tokens=3000)))
    await until(lambda: bool(llama.busy()))
    (slot,) = llama.busy()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await until(lambda: not llama.busy())
    assert llama.was_stopped(slot)
