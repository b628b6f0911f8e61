"""The embedded echo: each line of its docstring, through the same translator and fold as any answer."""

from __future__ import annotations

from typing import Any

import pytest

import gateway.adapters
from gateway.adapters.base import MessagesRequest
from gateway.adapters.echo import MAX_REPEATED
from gateway.config import demo
from gateway.translate.fold import MessageFold
from tests.grammar import Reading, check_stream

TARGET = demo().table.resolve("sonnet").targets[0]
WEATHER = {"name": "get_weather", "input_schema": {"type": "object", "properties": {"city": {"type": "string"}}}}
SEARCH = {"name": "search", "input_schema": {"type": "object"}}
TOOLS = [WEATHER, SEARCH]


def request(*content: Any, **more: Any) -> MessagesRequest:
    """Whose last user message is ``content``: one string, or blocks."""
    words = content[0] if len(content) == 1 and isinstance(content[0], str) else list(content)
    body = {"model": "sonnet", "max_tokens": 1000, "messages": [{"role": "user", "content": words}], **more}
    return MessagesRequest(body, {}, "", "msg_01Echo", 25)


def answer_to(asked: MessagesRequest) -> tuple[Reading, dict[str, Any]]:
    """The answer as a stream and folded; both say the same."""
    adapter = gateway.adapters.get("echo")
    upstream = adapter.prepare(asked, TARGET)
    assert upstream.answer is not None
    chunks = list(upstream.answer)
    streams = []
    for pieces in (chunks, [b"".join(chunks)], [bytes([byte]) for chunk in chunks for byte in chunk]):
        translator = adapter.stream_translator(asked, TARGET)
        streams.append(b"".join([*map(translator.feed, pieces), translator.close()]))
        assert translator.complete
    assert len(set(streams)) == 1
    fold = MessageFold()
    fold.feed(streams[0])
    reading, message = check_stream(streams[0]), fold.message()
    assert message["stop_reason"] == reading.stop_reason
    assert [block["type"] for block in message["content"]] == [block["type"] for block in reading.content]
    return reading, message


def content_of(*content: Any, **more: Any) -> list[dict[str, Any]]:
    blocks: list[dict[str, Any]] = answer_to(request(*content, **more))[1]["content"]
    return blocks


def text_of(*content: Any, **more: Any) -> str:
    """The answer that is one text block."""
    (block,) = content_of(*content, **more)
    assert block["type"] == "text"
    return str(block["text"])


def result(content: Any) -> dict[str, Any]:
    return {"type": "tool_result", "tool_use_id": "toolu_1", "content": content}


def words(text: str) -> dict[str, Any]:
    return {"type": "text", "text": text}


# -- anything else ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (["say hi"], "echo: say hi"),
        (["  two\n\n lines é \U0001f600 "], "echo:   two\n\n lines é \U0001f600 "),
        ([words("first"), words("last")], "echo: last"),
        ([words("asked"), words("<system-reminder>\nnot a word of the user's\n</system-reminder>")], "echo: asked"),
        ([{"type": "image", "source": {"type": "base64", "data": "AA"}}], "echo: [image]"),
        ([""], "echo: "),
        ([words("")], "echo: "),
    ],
)
def test_the_prompt_comes_back(content: list[Any], text: str) -> None:
    assert text_of(*content) == text


def test_the_last_user_message_counts() -> None:
    turns = [
        {"role": "user", "content": "one"},
        {"role": "assistant", "content": "two"},
        {"role": "user", "content": "three"},
        {"role": "assistant", "content": "four"},
        {"role": "system", "content": "five"},
    ]
    assert text_of(messages=turns) == "echo: three"
    assert text_of(messages=turns[1:2]) == "echo: "


def test_the_message_is_whole() -> None:
    reading, message = answer_to(request("say hi"))
    assert message["id"] == "msg_01Echo"
    assert message["model"] == "sonnet"
    assert (message["stop_reason"], message["stop_sequence"]) == ("end_turn", None)
    assert reading.usage["input_tokens"] == 25
    assert reading.usage["output_tokens"] == len("echo: say hi") // 4


def test_it_comes_in_pieces() -> None:
    upstream = gateway.adapters.get("echo").prepare(request("one two three"), TARGET)
    assert upstream.answer is not None
    assert len([chunk for chunk in upstream.answer if b"text_delta" in chunk]) == 4
    assert (upstream.url, upstream.headers, upstream.body) == ("echo:", {}, b"")


# -- after a tool result ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ([result("22 degrees")], "Tool result: 22 degrees"),
        ([result([words("a"), words("b")])], "Tool result: a\nb"),
        ([result("a"), result("b")], "Tool result: a\nb"),
        ([result(None)], "Tool result: "),
        ([result([{"type": "image", "source": {}}])], "Tool result: [image]"),
        ([result("a"), words('call search {"q": 1}\nthink: hmm')], "Tool result: a"),
    ],
)
def test_a_tool_result(content: list[Any], text: str) -> None:
    assert text_of(*content, tools=TOOLS, tool_choice={"type": "any"}, thinking={"type": "adaptive"}) == text


# -- calls -----------------------------------------------------------------------------------------------


def calls_of(*content: Any, **more: Any) -> list[tuple[str, Any]]:
    reading, message = answer_to(request(*content, **more))
    calls = [block for block in message["content"] if block["type"] == "tool_use"]
    assert message["content"] == calls
    assert reading.stop_reason == "tool_use"
    assert len({call["id"] for call in calls}) == len(calls)
    return [(call["name"], call["input"]) for call in calls]


def test_a_line_plays_a_call() -> None:
    assert calls_of('please\ncall get_weather {"city": "Bern"}\nthanks', tools=TOOLS) == [
        ("get_weather", {"city": "Bern"})
    ]


def test_several_lines_play_several_calls() -> None:
    prompt = 'call search {"q": {"deep": [1, "}"]}}\ncall get_weather {}  \ncall search {"q": "é"}'
    assert calls_of(prompt, tools=TOOLS) == [
        ("search", {"q": {"deep": [1, "}"]}}),
        ("get_weather", {}),
        ("search", {"q": "é"}),
    ]


def test_broken_arguments_go_on_as_they_are() -> None:
    assert calls_of("call search {broken}", tools=TOOLS) == [("search", {"__unparsedToolInput": "{broken}"})]


@pytest.mark.parametrize(
    "prompt",
    ['call delete {"a": 1}', "call search", 'I call search {"q": 1}', 'call search {"q": 1} now', "call search []"],
)
def test_what_is_no_call(prompt: str) -> None:
    assert text_of(prompt, tools=TOOLS) == f"echo: {prompt}"


def test_without_tools_a_call_is_text() -> None:
    assert text_of("call search {}") == "echo: call search {}"


@pytest.mark.parametrize(
    ("choice", "calls"),
    [
        ({"type": "any"}, [("get_weather", {})]),
        ({"type": "tool", "name": "search"}, [("search", {})]),
        ({"type": "tool", "name": "gone"}, [("get_weather", {})]),
    ],
)
def test_a_forced_call(choice: dict[str, Any], calls: list[Any]) -> None:
    assert calls_of("hello", tools=TOOLS, tool_choice=choice) == calls


def test_a_played_call_comes_before_a_forced_one() -> None:
    choice = {"type": "tool", "name": "get_weather"}
    assert calls_of('call search {"q": 1}', tools=TOOLS, tool_choice=choice) == [("search", {"q": 1})]


@pytest.mark.parametrize("more", [{"tool_choice": {"type": "auto"}}, {"tool_choice": {"type": "none"}}, {}])
def test_no_call_unless_it_is_forced(more: dict[str, Any]) -> None:
    assert text_of("hello", tools=TOOLS, **more) == "echo: hello"


def test_nothing_can_be_forced_without_tools() -> None:
    assert text_of("hello", tool_choice={"type": "any"}) == "echo: hello"


# -- thinking --------------------------------------------------------------------------------------------


def test_a_line_of_thinking_comes_first() -> None:
    thinking, text = content_of("think: let me see\nhello")
    assert thinking == {"type": "thinking", "thinking": "let me see", "signature": "echo"}
    assert text["text"] == "echo: think: let me see\nhello"


@pytest.mark.parametrize("kind", ["enabled", "adaptive"])
def test_thinking_switched_on(kind: str) -> None:
    thinking, text = content_of("hello", thinking={"type": kind, "budget_tokens": 1024})
    assert thinking["type"] == "thinking"
    assert thinking["thinking"]
    assert thinking["signature"]
    assert text["text"] == "echo: hello"


def test_thinking_switched_off() -> None:
    assert text_of("hello", thinking={"type": "disabled"}) == "echo: hello"


def test_thinking_before_a_call() -> None:
    blocks = content_of("think: look it up\ncall search {}", tools=TOOLS)
    assert [block["type"] for block in blocks] == ["thinking", "tool_use"]


# -- structured output -----------------------------------------------------------------------------------


def schema(**properties: Any) -> dict[str, Any]:
    return {"format": {"type": "json_schema", "schema": {"type": "object", "properties": properties}}}


@pytest.mark.parametrize(
    ("properties", "text"),
    [
        ({"name": {"type": "string"}, "age": {"type": "integer"}}, '{"name":"echo","age":0}'),
        ({"a": {"type": "number"}, "b": {"type": "boolean"}, "c": {"type": "null"}}, '{"a":0,"b":false,"c":null}'),
        ({"a": {"type": "array"}, "b": {"type": "object"}}, '{"a":[],"b":{}}'),
        ({"a": {}, "b": {"enum": ["x"]}, "c": True}, '{"a":"echo","b":"echo","c":"echo"}'),
        ({}, "{}"),
    ],
)
def test_a_schema_is_filled(properties: dict[str, Any], text: str) -> None:
    assert text_of("hello", output_config=schema(**properties)) == text


def test_a_schema_with_a_choice_of_types() -> None:
    assert text_of("hello", output_config=schema(a={"type": ["string", "null"]})) in ('{"a":"echo"}', '{"a":null}')


@pytest.mark.parametrize("config", [{}, {"effort": "high"}, {"format": None}, {"format": {"schema": []}}])
def test_no_schema_no_object(config: dict[str, Any]) -> None:
    assert text_of("hello", output_config=config) == "echo: hello"


# -- cutting ---------------------------------------------------------------------------------------------


def test_max_tokens_cuts() -> None:
    _, message = answer_to(request("a long prompt", max_tokens=2))
    assert (message["content"][0]["text"], message["stop_reason"]) == ("echo: a ", "max_tokens")


@pytest.mark.parametrize(
    ("stops", "text", "met"),
    [
        (["two"], "echo: one ", "two"),
        (["three", "two"], "echo: one ", "two"),
        (["gone"], "echo: one two three", None),
        (["", 7, None], "echo: one two three", None),
    ],
)
def test_a_stop_sequence_cuts(stops: list[Any], text: str, met: str | None) -> None:
    reading, message = answer_to(request("one two three", stop_sequences=stops))
    assert message["content"][0]["text"] == text
    assert reading.stop_sequence == met
    assert message["stop_reason"] == ("stop_sequence" if met else "end_turn")


def test_a_stop_sequence_at_the_very_beginning_leaves_nothing() -> None:
    _, message = answer_to(request("hello", stop_sequences=["echo"]))
    assert (message["content"], message["stop_reason"]) == ([], "stop_sequence")


# -- bounds ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("more", [0, 1, 1000])
def test_so_much_is_repeated_and_the_rest_is_counted(more: int) -> None:
    whole, note = "x" * MAX_REPEATED, f" … ({more} more characters)" if more else ""
    long = whole + "y" * more
    assert text_of(long, max_tokens=9000) == f"echo: {whole}{note}"
    assert text_of(result(long), max_tokens=9000) == f"Tool result: {whole}{note}"


def test_what_is_not_repeated_is_not_looked_at() -> None:
    filling = "x" * MAX_REPEATED
    (text,) = content_of(f"{filling}\nthink: hmm\ncall search {{}}", tools=TOOLS, max_tokens=9000)
    assert text["text"] == f"echo: {filling} … (26 more characters)"
    (call,) = content_of(f"call search {{}}\n{filling}", tools=TOOLS)
    assert call["name"] == "search"


def test_a_huge_prompt_makes_a_small_answer() -> None:
    upstream = gateway.adapters.get("echo").prepare(request("word " * 4_000_000, max_tokens=10**9), TARGET)
    assert upstream.answer is not None
    assert len(list(upstream.answer)) < MAX_REPEATED


# -- odd requests ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "more",
    [
        {"tools": [{"name": ["a"]}, {"name": {}}, {"name": None}, {}, "tool", None]},
        {"tools": [{"name": 5}], "tool_choice": {"type": "tool", "name": ["a"]}},
        {"tools": [{"name": 5}], "tool_choice": {"type": "any"}},
        {"tools": None, "thinking": {"type": ["enabled"]}, "output_config": {"format": {"schema": {"properties": []}}}},
        {"output_config": schema(a={"type": {}}), "stop_sequences": None},
        {"messages": [{"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "x", "text": {"b": 1}}]}]},
        {"messages": [{"role": "user", "content": [{"type": "tool_result", "content": {"type": "text"}}]}]},
        {"max_tokens": 10**30},
    ],
)
def test_odd_fields_are_no_crash(more: dict[str, Any]) -> None:
    answer_to(request("hello", **more))
