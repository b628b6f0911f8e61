"""Each strict rule of the fake upstream fires, a legal request passes, and answers have OpenAI's shape."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import Awaitable, Callable
from copy import deepcopy
from typing import Any

import aiohttp
import pytest
from aiohttp.test_utils import TestClient, TestServer

from tests.fakes.openai_upstream import KEY, ScriptedUpstream
from tests.fakes.script import Call, Refuse, Reply, Text, Think, call, say
from tests.fakes.strict_chat import Violation, check

HEADERS = {"authorization": f"Bearer {KEY}", "content-type": "application/json"}
PNG = "data:image/png;base64," + base64.b64encode(b"\x89PNG\r\n\x1a\nrest").decode()
PDF = "data:application/pdf;base64," + base64.b64encode(b"%PDF-1.4").decode()


def tool(name: str, **function: Any) -> dict[str, Any]:
    schema = {"type": "object", "properties": {}}
    return {"type": "function", "function": {"name": name, "parameters": schema, **function}}


def called(*ids: str, arguments: str = "{}") -> dict[str, Any]:
    function = {"name": "a", "arguments": arguments}
    calls = [{"id": identity, "type": "function", "function": dict(function)} for identity in ids]
    return {"role": "assistant", "content": None, "tool_calls": calls}


def result(identity: str, content: Any = "x") -> dict[str, Any]:
    return {"role": "tool", "tool_call_id": identity, "content": content}


TEXT = {"type": "text", "text": "x"}
IMAGE = {"type": "image_url", "image_url": {"url": PNG}}
USER = {"role": "user", "content": "hi"}
LEGAL: dict[str, Any] = {
    "model": "m",
    "stream": True,
    "stream_options": {"include_usage": True},
    "max_tokens": 5,
    "temperature": 1,
    "stop": ["x"],
    "tools": [tool("a"), tool("b")],
    "tool_choice": "auto",
    "parallel_tool_calls": False,
    "response_format": {"type": "json_schema", "json_schema": {"name": "n", "schema": {"type": "object"}}},
    "messages": [
        {"role": "system", "content": "s"},
        {"role": "user", "content": [{"type": "text", "text": "hi"}, {"type": "image_url", "image_url": {"url": PNG}}]},
        {"role": "user", "content": [{"type": "file", "file": {"filename": "a.pdf", "file_data": PDF}}]},
        called("one", "two"),
        result("two"),
        result("one", [{"type": "text", "text": "x"}]),
        {"role": "system", "content": "mid"},
        {"role": "assistant", "content": "bye"},
        USER,
    ],
}


def checked(body: Any, *, reasoning: str | None = None, **headers: str) -> dict[str, Any]:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    return check(raw, {**HEADERS, **headers}, key=KEY, reasoning=reasoning)


def test_a_legal_request_passes() -> None:
    assert checked(LEGAL) == LEGAL


FORMAT = {"type": "json_schema", "json_schema": {"name": "n", "strict": True}}
OPEN = {"type": "object", "properties": {"a": {"type": "string"}}, "required": ["a"]}
OPTIONAL = {"type": "object", "properties": {"a": {"type": "string"}}, "additionalProperties": False}


def formatted(schema: dict[str, Any]) -> dict[str, Any]:
    return {"response_format": {"type": "json_schema", "json_schema": {**FORMAT["json_schema"], "schema": schema}}}  # type: ignore[dict-item]


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"top_k": 5}, "top_k"),
        ({"thinking": {"type": "enabled"}}, "thinking"),
        ({"model": ""}, "model"),
        ({"messages": []}, "messages"),
        ({"stream": False}, "stream_options"),
        ({"stream_options": {"usage": True}}, "stream_options.usage"),
        ({"max_completion_tokens": 5}, "max_tokens"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": 5.0}, "max_tokens"),
        ({"temperature": 2.5}, "temperature"),
        ({"top_p": 1.1}, "top_p"),
        ({"stop": ["1", "2", "3", "4", "5"]}, "stop"),
        ({"stop": []}, "stop"),
        ({"stop": [""]}, "stop"),
        ({"user": "u" * 65}, "user"),
        ({"metadata": {"user_id": "x"}}, "metadata"),
        ({"reasoning_effort": "max"}, "reasoning_effort"),
        ({"tools": []}, "tools"),
        ({"tools": [tool(f"t{n}") for n in range(129)]}, "tools"),
        ({"tools": [tool("a"), tool("a")]}, "tools[1].function.name"),
        ({"tools": [tool("a.b")]}, "tools[0].function.name"),
        ({"tools": [tool("a" * 65)]}, "tools[0].function.name"),
        ({"tools": [{"type": "web_search_20250305", "name": "web_search"}]}, "tools[0].type"),
        ({"tools": [{**tool("a"), "cache_control": {}}]}, "tools[0].cache_control"),
        ({"tools": [tool("a", defer_loading=True)]}, "tools[0].function.defer_loading"),
        ({"tools": [tool("a", parameters={"type": "string"})]}, "tools[0].function.parameters"),
        ({"tools": [tool("a", parameters={})]}, "tools[0].function.parameters"),
        ({"tools": [tool("a", parameters={"type": "object", "anyOf": []})]}, "tools[0].function.parameters"),
        ({"tools": [tool("a", parameters=OPEN, strict=True)]}, "tools[0].function.parameters"),
        ({"tool_choice": "any"}, "tool_choice"),
        ({"tool_choice": {"type": "tool", "name": "a"}}, "tool_choice.type"),
        ({"tool_choice": {"type": "function", "function": {"name": "z"}}}, "tool_choice.function.name"),
        ({"response_format": {"type": "json"}}, "response_format.type"),
        ({"response_format": {"type": "json_schema", "schema": {}}}, "response_format.schema"),
        ({"response_format": {"type": "json_schema"}}, "response_format.json_schema"),
        (formatted(OPEN), "response_format.json_schema.schema"),
        (formatted(OPTIONAL), "response_format.json_schema.schema"),
    ],
)
def test_a_bad_parameter_is_refused(change: dict[str, Any], param: str) -> None:
    with pytest.raises(Violation) as caught:
        checked({**LEGAL, **change})
    assert caught.value.param == param


@pytest.mark.parametrize("name", ["tool_choice", "parallel_tool_calls"])
def test_what_needs_tools_is_refused_without_them(name: str) -> None:
    body = {key: value for key, value in LEGAL.items() if key not in {"tools", "tool_choice", "parallel_tool_calls"}}
    with pytest.raises(Violation) as caught:
        checked({**body, name: LEGAL[name]})
    assert caught.value.param == name


@pytest.mark.parametrize(
    ("messages", "param"),
    [
        ([{"role": "human", "content": "x"}], "messages[0].role"),
        ([{"role": "user", "content": "x", "cache_control": {}}], "messages[0].cache_control"),
        ([{"role": "user", "content": None}], "messages[0].content"),
        ([{"role": "user", "content": []}], "messages[0].content"),
        ([{"role": "user", "content": [{"type": "text", "text": ""}]}], "messages[0].content[0].text"),
        ([{"role": "user", "content": [{**TEXT, "citations": []}]}], "messages[0].content[0].citations"),
        ([{"role": "user", "content": [{"type": "image", "source": {}}]}], "messages[0].content[0].type"),
        ([{"role": "system", "content": [IMAGE]}], "messages[0].content[0].type"),
        ([USER, {"role": "assistant", "content": None}], "messages[1].content"),
        ([USER, {"role": "assistant", "content": "x", "tool_calls": []}], "messages[1].tool_calls"),
        ([USER, {"role": "assistant", "content": "x", "reasoning_content": "r"}], "messages[1].reasoning_content"),
        ([USER, called("one")], "messages"),
        ([USER, called("one"), USER], "messages[2]"),
        ([USER, called("one", "two"), result("one"), USER], "messages[3]"),
        ([USER, called("one"), result("one"), result("one")], "messages[3]"),
        ([USER, result("one")], "messages[1]"),
        ([USER, called("one"), result("two")], "messages[2]"),
        ([USER, called("one", "one"), result("one")], "messages[1].tool_calls[1].id"),
        ([USER, called("one"), result("one"), called("one"), result("one")], "messages[3].tool_calls[0].id"),
        ([USER, called("i" * 41), result("i" * 41)], "messages[1].tool_calls[0].id"),
        ([USER, called("one", arguments='{"a":'), result("one")], "messages[1].tool_calls[0].function.arguments"),
        ([USER, called("one", arguments="[]"), result("one")], "messages[1].tool_calls[0].function.arguments"),
        ([USER, called("one"), result("one", None)], "messages[2].content"),
        ([USER, called("one"), {**result("one"), "is_error": True}], "messages[2].is_error"),
        ([USER, called("one"), result("one", [IMAGE])], "messages[2].content[0].type"),
    ],
)  # fmt: skip
def test_a_bad_message_is_refused(messages: list[Any], param: str) -> None:
    with pytest.raises(Violation) as caught:
        checked({**LEGAL, "messages": messages})
    assert caught.value.param == param


@pytest.mark.parametrize(
    "part",
    [
        {"type": "image_url", "image_url": {"url": "data:image/bmp;base64,AAAA"}},
        {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}},
        {"type": "image_url", "image_url": {"url": "data:image/png;base64,§"}},
        {"type": "image_url", "image_url": PNG},
        {"type": "file", "file": {"file_data": PDF}},
        {"type": "file", "file": {"filename": "a", "file_data": "AAAA"}},
        {"type": "file", "file": {"filename": "a", "file_data": "data:application/pdf;base64,AAAA"}},
    ],
)
def test_a_bad_image_or_file_is_refused(part: dict[str, Any]) -> None:
    with pytest.raises(Violation, match=r"messages\[0\].content\[0\]"):
        checked({**LEGAL, "messages": [{"role": "user", "content": [part]}]})


@pytest.mark.parametrize(
    "raw",
    [b"{", b"[]", b'{"model": "a", "model": "b"}', b'{"model": NaN}', b'{"model": "\xff"}', b'{"model": "\\ud800"}'],
)
def test_bad_json_is_refused(raw: bytes) -> None:
    with pytest.raises(Violation):
        checked(raw)


@pytest.mark.parametrize(
    ("headers", "status"),
    [({"authorization": "Bearer other"}, 401), ({"authorization": KEY}, 401), ({"content-type": "text/plain"}, 400)],
)
def test_bad_headers_are_refused(headers: dict[str, str], status: int) -> None:
    with pytest.raises(Violation) as caught:
        checked(LEGAL, **headers)
    assert caught.value.status == status


def test_reasoning_is_allowed_only_where_it_is_configured() -> None:
    body = {**LEGAL, "messages": [USER, {"role": "assistant", "content": "x", "reasoning_content": "r"}, USER]}
    assert checked(body, reasoning="reasoning_content") == body
    with pytest.raises(Violation, match="reasoning_content"):
        checked({**LEGAL, "messages": [{**USER, "reasoning_content": "r"}]}, reasoning="reasoning_content")


# -- answers --------------------------------------------------------------------------------------

Client = Callable[[Any], Awaitable[TestClient[Any, Any]]]


async def posted(client: TestClient[Any, Any], body: dict[str, Any]) -> tuple[int, Any]:
    """The status, and the JSON body or the data of each event."""
    async with client.post("/v1/chat/completions", json=body, headers=HEADERS) as response:
        if response.content_type == "application/json":
            return response.status, await response.json()
        lines = (await response.text()).split("\n\n")
        return response.status, [line.removeprefix("data: ") for line in lines if line]


def tagged(name: str, *after: dict[str, Any], **options: Any) -> dict[str, Any]:
    messages = [{"role": "user", "content": f"go [[s:{name}]]"}, *after]
    return {"model": "m", "stream": True, "stream_options": {"include_usage": True}, "messages": messages, **options}


@pytest.fixture
def upstream() -> ScriptedUpstream:
    return ScriptedUpstream()


async def test_two_calls_take_turns_in_three_character_fragments(
    upstream: ScriptedUpstream, aiohttp_client: Client
) -> None:
    parts = (Text("hello"), Call("a", {"x": "äöü"}), Call("b", {"y": [1, 2]}))
    upstream.scenarios["both"] = [Reply(parts, interleaved=True), say("done")]
    status, events = await posted(await aiohttp_client(upstream.app()), tagged("both"))
    chunks = [json.loads(event) for event in events[:-1]]
    made = [delta for chunk in chunks if chunk["choices"] for delta in [chunk["choices"][0]["delta"]]]
    calls = [item for delta in made for item in delta.get("tool_calls", ())]
    joined = ["".join(item["function"]["arguments"] for item in calls if item["index"] == index) for index in (0, 1)]
    assert (status, events[-1]) == (200, "[DONE]")
    assert [json.loads(arguments) for arguments in joined] == [{"x": "äöü"}, {"y": [1, 2]}]
    assert [item["index"] for item in calls[:4]] == [0, 1, 0, 1]
    assert max(len(item["function"]["arguments"]) for item in calls) == 3
    assert chunks[-1]["choices"] == []
    assert chunks[-1]["usage"]["prompt_tokens"] > 0
    assert chunks[-2]["choices"][0]["finish_reason"] == "tool_calls"


async def test_the_step_follows_the_assistant_turns_and_attempts_follow_each_other(
    upstream: ScriptedUpstream, aiohttp_client: Client
) -> None:
    refusal = Refuse(429, {"message": "slow down", "code": "rate_limit_exceeded"}, {"retry-after": "1"})
    upstream.scenarios["two"] = [call("a", x=1), (refusal, say("second"))]
    client = await aiohttp_client(upstream.app())
    plain = {"stream": False}
    first = tagged("two", **plain)
    del first["stream_options"]
    second = deepcopy(first)
    second["messages"] += [called("one"), result("one")]
    _, answer = await posted(client, first)
    assert answer["choices"][0]["message"]["tool_calls"][0]["function"] == {"name": "a", "arguments": '{"x": 1}'}
    assert (await posted(client, second))[0] == 429
    _, answer = await posted(client, second)
    assert answer["choices"][0]["message"]["content"] == "second"
    assert [(seen.step, seen.status) for seen in upstream.seen] == [(0, 200), (1, 429), (1, 200)]


@pytest.mark.parametrize("ending", ["eof", "cut"])
async def test_a_broken_stream_has_no_finish_reason(
    upstream: ScriptedUpstream, aiohttp_client: Client, ending: Any
) -> None:
    upstream.scenarios["broken"] = [say("abcdefghi", ending=ending, breaks_after=2)]
    client = await aiohttp_client(upstream.app())
    received = b""
    cut = False
    async with client.post("/v1/chat/completions", json=tagged("broken"), headers=HEADERS) as response:
        try:
            async for chunk in response.content.iter_any():
                received += chunk
        except aiohttp.ClientPayloadError:
            cut = True
    assert cut == (ending == "cut")
    assert b'"abc"' in received
    assert b'"def"' in received
    assert b'"ghi"' not in received
    assert b'"finish_reason": "' not in received
    assert b"[DONE]" not in received


async def test_a_held_stream_notes_that_its_client_left(upstream: ScriptedUpstream) -> None:
    upstream.scenarios["held"] = [say("abcdef", hold=asyncio.Event())]
    async with TestClient(TestServer(upstream.app())) as client:
        async with client.post("/v1/chat/completions", json=tagged("held"), headers=HEADERS) as response:
            received = b""
            while b'"abc"' not in received:
                received += await response.content.readany()
            response.close()
        assert await asyncio.to_thread(upstream.seen[0].left.wait, 10)
    assert b'"def"' not in received


async def test_reasoning_must_come_back_unchanged(upstream: ScriptedUpstream, aiohttp_client: Client) -> None:
    upstream.reasoning = "reasoning_content"
    upstream.scenarios["think"] = [Reply((Think("because …"), Call("a", {}))), say("done")]
    client = await aiohttp_client(upstream.app())
    _, events = await posted(client, tagged("think"))
    chunks = [json.loads(event) for event in events[:-1]]
    identity = next(
        delta["tool_calls"][0]["id"]
        for chunk in chunks
        if chunk["choices"] and "tool_calls" in (delta := chunk["choices"][0]["delta"])
    )
    turn = called(identity)
    status, answer = await posted(client, tagged("think", turn, result(identity)))
    assert status == 400
    assert "must be passed back" in answer["error"]["message"]
    assert len(upstream.violations) == 1
    turn["reasoning_content"] = "because …"
    assert (await posted(client, tagged("think", turn, result(identity))))[0] == 200


async def test_a_violation_is_answered_in_openais_shape_and_recorded(
    upstream: ScriptedUpstream, aiohttp_client: Client
) -> None:
    status, answer = await posted(await aiohttp_client(upstream.app()), tagged("x", top_k=3))
    assert status == 400
    assert answer["error"] == {
        "message": "top_k: Unknown parameter", "type": "invalid_request_error", "param": "top_k", "code": None,
    }  # fmt: skip
    assert upstream.violations == ["top_k: Unknown parameter"]


@pytest.mark.parametrize(
    ("options", "kind"),
    [
        ({"stop": ["</severity>"], "max_tokens": 64}, "classifier"),
        ({"stop": ["</block>"], "max_tokens": 64}, "classifier"),
        ({"max_tokens": 1}, "probe"),
        (
            formatted({"type": "object", "properties": {"title": {"type": "string"}}, "required": ["title"],
                       "additionalProperties": False}),
            "title",
        ),
        ({"messages": [{"role": "user", "content": "… create a detailed summary of …"}]}, "compact"),
        ({"messages": [{"role": "user", "content": "Perform a web search for the query: x"}]}, "search"),
        ({}, "unknown"),
    ],
)  # fmt: skip
async def test_background_requests_are_recognised(
    upstream: ScriptedUpstream, aiohttp_client: Client, options: dict[str, Any], kind: str
) -> None:
    status, _ = await posted(await aiohttp_client(upstream.app()), tagged("x", **options))
    assert status == 200
    assert [seen.kind for seen in upstream.seen] == [kind]
