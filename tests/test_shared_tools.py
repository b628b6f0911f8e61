"""Tools that many requests share are described once, and nobody can tell: the same bodies, records and errors."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson
import pytest

import gateway.adapters
from gateway.adapters.base import MessagesRequest
from gateway.errors import GatewayError
from gateway.profile import Profile
from gateway.routing import Target
from gateway.translate import chat_tools
from gateway.translate.changes import Changes
from gateway.translate.chat_tools import offer_tools
from gateway.wire.request_reader import RequestReader
from tests import test_requests
from tests.fakes.upstream_rules import Upstream, upstreams
from tests.recordings import target_of, with_profile
from tests.targets import preset_target

JSON = dict[str, Any]
Loads = Callable[[bytes], JSON]

CAPTURES = {
    name: body
    for path in sorted((Path(__file__).parent / "captures").glob("*.json"))
    for name, body in [(path.stem, json.loads(path.read_bytes()).get("body"))]
    if isinstance(body, dict) and body.get("tools") and body.get("messages")
}
FEW = ["08-second-tool-result-turn", "41-new-tool-reference-turn", "37-mcp-tool-search", "51-new-web-search"]


def outcome(target: Target, body: JSON, loads: Loads) -> object:
    """Everything that comes of a request."""
    request = MessagesRequest(loads(orjson.dumps(body)), {}, "", "msg_1", 9)
    try:
        upstream = gateway.adapters.get(target.api).prepare(request, target)
    except GatewayError as error:
        return type(error), error.message
    return upstream.url, dict(upstream.headers), upstream.body, list(upstream.changes)


@pytest.mark.parametrize("upstream", upstreams(), ids=lambda upstream: upstream.name)
def test_every_profile(upstream: Upstream) -> None:
    target = preset_target(upstream.provider, upstream.api, upstream.model)
    reader = RequestReader()
    for name in FEW:
        alone = outcome(target, CAPTURES[name], orjson.loads)
        assert outcome(target, CAPTURES[name], reader.loads) == alone
        assert outcome(target, CAPTURES[name], reader.loads) == alone, "the second time"


@pytest.mark.parametrize("name", CAPTURES)
def test_every_capture(name: str) -> None:
    for api in ("openai-chat", "openai-responses", "ollama"):
        target = target_of("generic", api)
        reader = RequestReader()
        alone = outcome(target, CAPTURES[name], orjson.loads)
        assert outcome(target, CAPTURES[name], reader.loads) == alone
        assert outcome(target, CAPTURES[name], reader.loads) == alone


def with_tools() -> list[Any]:
    return [param for param in test_requests.cases() if "tools" in param.values[0].get("request", {})]


@pytest.mark.parametrize("case", with_tools())
def test_every_case(case: JSON, monkeypatch: pytest.MonkeyPatch) -> None:
    reader = RequestReader()
    monkeypatch.setattr(test_requests, "loads_request", reader.loads)
    for _ in range(2):
        test_requests.test_request(case)


# -- what is described, and when -----------------------------------------------------------------------------


def tool(number: int, **fields: Any) -> JSON:
    schema = {"type": "object", "properties": {"a": {"type": "string", "description": "What it is. " * 40}}}
    return {"name": f"tool_{number}", "description": "What it does.", "input_schema": schema, **fields}


TOOLS = [tool(number) for number in range(4)]
HELLO = [{"role": "user", "content": "Hello"}]


@pytest.fixture
def described(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """Grows by one for each list of tools that is walked over."""
    calls: list[object] = []
    real = chat_tools._described

    def counted(tools: Any, *rest: Any) -> Any:
        calls.append(tools)
        return real(tools, *rest)

    monkeypatch.setattr(chat_tools, "_described", counted)
    return calls


def offered(reader: RequestReader, profile: Profile, tools: list[JSON], messages: list[JSON] = HELLO) -> list[str]:
    body = reader.loads(orjson.dumps({"model": "m", "messages": messages, "tools": tools, "max_tokens": 1}))
    return [tool.name for tool in offer_tools(body, profile, Changes()).tools]


def loading(*names: str) -> list[JSON]:
    found = [{"type": "tool_reference", "tool_name": name} for name in names]
    return [*HELLO, {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "t", "content": found}]}]


PROFILE = target_of("generic").profile


def test_the_same_tools_are_walked_over_once(described: list[object]) -> None:
    reader = RequestReader()
    for _ in range(3):
        assert offered(reader, PROFILE, TOOLS) == ["tool_0", "tool_1", "tool_2", "tool_3"]
    assert len(described) == 1
    other = [*TOOLS[:3], tool(3, description="What it dies.")]
    for _ in range(3):
        offered(reader, PROFILE, other)
    assert len(described) == 2


@pytest.mark.parametrize(
    "fields",
    [
        {"tool_name_max": 5},
        {"reserved_tool_names": ("tool_1",)},
        {"schema_rewrites": ("object_root",)},
        {"schema_dropped": ("description",)},
        {"leaked_calls": ({"open": "<", "close": ">", "form": "json"},)},
    ],
)
def test_another_profile_has_its_own(fields: JSON, described: list[object]) -> None:
    reader = RequestReader()
    other = with_profile(target_of("generic"), fields).profile
    for _ in range(2):
        plain, fitted = offered(reader, PROFILE, TOOLS), offered(reader, other, TOOLS)
        assert (plain, fitted) == (offered(RequestReader(), PROFILE, TOOLS), offered(RequestReader(), other, TOOLS))
    assert len([tools for tools in described if tools is described[0]]) == 2


def test_what_the_history_loads_counts(described: list[object]) -> None:
    reader = RequestReader()
    tools = [*TOOLS, tool(4, defer_loading=True), tool(5, defer_loading=True)]
    always = ["tool_0", "tool_1", "tool_2", "tool_3"]
    for _ in range(2):
        assert offered(reader, PROFILE, tools) == always
        assert offered(reader, PROFILE, tools, loading("tool_5")) == [*always, "tool_5"]
        assert offered(reader, PROFILE, tools, loading("tool_5", "tool_4")) == [*always, "tool_5", "tool_4"]
        assert offered(reader, PROFILE, tools, loading("tool_4", "tool_5")) == [*always, "tool_4", "tool_5"]
    assert len(described) == 4


def changing(kind: str, tool: JSON) -> list[JSON]:
    return [*HELLO, {"role": "user", "content": [{"type": kind, "tool": tool}]}]


def test_what_the_history_adds_and_withdraws_counts() -> None:
    reader = RequestReader()
    always = ["tool_0", "tool_1", "tool_2", "tool_3"]
    for _ in range(2):
        assert offered(reader, PROFILE, TOOLS) == always
        assert offered(reader, PROFILE, TOOLS, changing("tool_removal", {"name": "tool_1"})) == [
            "tool_0", "tool_2", "tool_3",
        ]  # fmt: skip
        for number in (7, 8):
            added = changing("tool_addition", {"definition": tool(number)})
            assert offered(reader, PROFILE, TOOLS, added) == [*always, f"tool_{number}"]
        short = changing("tool_addition", {"definition": {"name": "tool_7", "input_schema": {"type": "object"}}})
        assert offered(reader, PROFILE, TOOLS, short) == [*always, "tool_7"]


def test_a_definition_in_the_history_is_the_requests_own() -> None:
    """Two requests that add a tool of the same name may mean two tools."""
    reader = RequestReader()
    written = []
    for description in ("One.", "Two."):
        definition = {"name": "tool_7", "description": description, "input_schema": {"type": "object"}}
        messages = changing("tool_addition", {"definition": definition})
        body = reader.loads(orjson.dumps({"model": "m", "messages": messages, "tools": TOOLS, "max_tokens": 1}))
        written.append(offer_tools(body, PROFILE, Changes()).tools[-1].data)
    assert [json.loads(data)["function"]["description"] for data in written] == ["One.", "Two."]


def test_names_without_end_are_not_kept(described: list[object]) -> None:
    reader = RequestReader()
    for _ in range(2):
        offered(reader, PROFILE, TOOLS, loading("x" * 100_000))
    assert len(described) == 2


def test_tools_that_grow_without_measure_are_not_kept(described: list[object]) -> None:
    big = {"type": "object", "properties": {f"p{number}": {"type": "string"} for number in range(200)}}
    properties = {f"q{number}": {"$ref": "#/$defs/big"} for number in range(20)}
    growing = tool(0, input_schema={"type": "object", "properties": properties, "$defs": {"big": big}})
    profile = with_profile(target_of("generic"), {"schema_rewrites": ("inline_refs",)}).profile
    reader = RequestReader()
    offered(reader, profile, [growing])
    before = len(described)
    offered(reader, profile, [growing])
    assert len(described) == before + 1


def test_a_choice_among_them_is_for_one_request() -> None:
    reader = RequestReader()
    target = with_profile(target_of("generic"), {"tool_choice": "string", "tool_choice_none": False})

    def names(**fields: Any) -> list[str]:
        body = {"model": "m", "messages": HELLO, "tools": TOOLS, "max_tokens": 1, **fields}
        request = MessagesRequest(reader.loads(orjson.dumps(body)), {}, "", "msg_1", 9)
        wire = json.loads(gateway.adapters.get(target.api).prepare(request, target).body)
        return [tool["function"]["name"] for tool in wire.get("tools", [])]

    assert len(names()) == 4
    assert names(tool_choice={"type": "tool", "name": "tool_2"}) == ["tool_2"]
    assert names(tool_choice={"type": "none"}) == []
    assert len(names()) == 4
