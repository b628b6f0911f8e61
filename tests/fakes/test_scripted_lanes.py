"""Each lane takes what a gateway should send, answers in its own words, and refuses what its original refuses."""

from __future__ import annotations

import copy
import json
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from aiohttp.test_utils import TestClient, TestServer

from gateway import adapters
from gateway.adapters.base import MessagesRequest
from gateway.config import loads
from gateway.errors import GatewayError
from gateway.routing import Target
from gateway.translate.fold import MessageFold
from tests.e2e.processes import lane_model, providers_yaml
from tests.fakes.openai_upstream import KEY
from tests.fakes.script import Call, Reply, Text, Think, Trouble, say
from tests.fakes.scripted_lanes import LANES, Lane, LaneUpstream

JSON = dict[str, Any]
Defect = Callable[[JSON], None]

NOWHERE = "http://127.0.0.1:9"

THOUGHT = 'First I look — 🎉.\n\nThen I "write".  '
CALLS = (Call("Bash", {"command": "printf '\\t終'"}), Call("Bash", {"command": "true"}))
TOOL = {"name": "Bash", "input_schema": {"type": "object", "properties": {"command": {"type": "string"}}}}
ASKED = {
    "model": "claude-sonnet-5-5", "max_tokens": 9000, "stream": True, "tools": [TOOL],
    "thinking": {"type": "adaptive"}, "output_config": {"effort": "high"},
}  # fmt: skip
each = pytest.mark.parametrize("lane", LANES.values(), ids=list(LANES))


class Client:
    """A conversation with one lane through the gateway's own adapters."""

    def __init__(self, lane: Lane, http: TestClient[Any, Any]) -> None:
        self._http = http
        self._adapter = adapters.get(lane.api)
        config = loads(providers_yaml(NOWHERE).encode(), "providers.yaml", {"LAB_KEY": KEY})
        self._target: Target = config.table.resolve(lane_model(lane.name)).targets[0]
        self.messages: list[JSON] = [{"role": "user", "content": "do it [[s:work]]"}]

    def prepared(self) -> tuple[str, dict[str, str], JSON]:
        """Path, headers and body of the next request."""
        upstream = self._adapter.prepare(self._request(), self._target)
        return upstream.url.removeprefix(NOWHERE), dict(upstream.headers), json.loads(upstream.body)

    async def post(self, path: str, headers: dict[str, str], body: JSON) -> tuple[int, bytes]:
        async with self._http.post(path, headers=headers, data=json.dumps(body).encode()) as response:
            return response.status, await response.read()

    async def turn(self) -> JSON:
        """One answer, which goes into the history; its calls get results."""
        status, body = await self.post(*self.prepared())
        assert status == 200, body
        translator, fold = self._adapter.stream_translator(self._request(), self._target), MessageFold()
        fold.feed(translator.feed(body))
        fold.feed(translator.close())
        message = fold.message()
        content = message["content"]
        results = [
            {"type": "tool_result", "tool_use_id": block["id"], "content": "x"}
            for block in content
            if block["type"] == "tool_use"
        ]
        self.messages += [{"role": "assistant", "content": content}, {"role": "user", "content": results}]
        return message

    def failure(self, status: int, body: bytes) -> GatewayError:
        """What an error of the lane is to the gateway's clients."""
        return self._adapter.translate_error(status, {}, body, self._request(), self._target)

    def _request(self) -> MessagesRequest:
        return MessagesRequest({**ASKED, "messages": copy.deepcopy(self.messages)}, {}, "", "msg_1", 100)


@pytest.fixture
def upstream() -> LaneUpstream:
    made = LaneUpstream()
    made.scenarios["work"] = [Reply((Think(THOUGHT), Text("I do. "), *CALLS), interleaved=True), say("Done.")]
    return made


@pytest.fixture
async def http(upstream: LaneUpstream) -> AsyncIterator[TestClient[Any, Any]]:
    async with TestClient(TestServer(upstream.app())) as client:
        yield client


@each
async def test_a_conversation(upstream: LaneUpstream, http: TestClient[Any, Any], lane: Lane) -> None:
    client = Client(lane, http)
    first = await client.turn()
    thinking, text, *calls = first["content"]
    assert (thinking["thinking"], text["text"]) == (THOUGHT, "I do. ")
    assert [call["input"] for call in calls] == [call.arguments for call in CALLS]
    assert first["stop_reason"] == "tool_use"
    second = await client.turn()
    assert [block["text"] for block in second["content"]] == ["Done."]
    usage = upstream.seen[1].usage
    assert usage is not None
    assert second["usage"]["input_tokens"] == usage.prompt - usage.cached
    assert second["usage"]["cache_read_input_tokens"] == usage.cached
    assert (usage.cached > 0) is lane.caches
    assert upstream.violations == []
    assert [(seen.lane, seen.kind, seen.step) for seen in upstream.seen] == [
        (lane.name, "scenario", 0), (lane.name, "scenario", 1),
    ]  # fmt: skip


def without_reasoning(body: JSON) -> None:
    if "input" in body:
        body["input"] = [item for item in body["input"] if item["type"] != "reasoning"]
    for message in body.get("messages", ()):
        for name in ("reasoning_content", "thinking"):
            if name in message:
                message[name] = ""
        if message["role"] == "assistant" and isinstance(message["content"], list):
            message["content"] = [part for part in message["content"] if part["type"] != "thinking"] or ""


def with_altered_reasoning(body: JSON) -> None:
    told = json.dumps(body).replace("Then I", "then I")
    body.clear()
    body.update(json.loads(told))


def with_foreign_thought(body: JSON) -> None:
    said = body["input"][-1] if "input" in body else body["messages"][-1]
    name = "output" if "output" in said else "content"
    if isinstance(said[name], list):
        said[name][-1]["content"] = "a foreign thought"
    else:
        said[name] = "a foreign thought"


def with_state_of_the_gateway(body: JSON) -> None:
    body["model"] = "gw1.e30.00000000"


def with_unknown_field(body: JSON) -> None:
    body["context_hint"] = {}


def without_a_result(body: JSON) -> None:
    for messages in (body[name] for name in ("input", "messages") if name in body):
        last = messages[-1]
        if isinstance(last.get("content"), list):
            last["content"].pop()
        elif "input" in body:
            messages.pop()
        else:
            messages[-1] = {"role": "user", "content": "go on"}


@each
@pytest.mark.parametrize(
    "defect",
    [
        without_reasoning, with_altered_reasoning, with_foreign_thought, with_state_of_the_gateway, with_unknown_field,
        without_a_result,
    ],
)  # fmt: skip
async def test_a_defect_is_a_violation(
    upstream: LaneUpstream, http: TestClient[Any, Any], lane: Lane, defect: Defect
) -> None:
    client = Client(lane, http)
    await client.turn()
    other = next(name for name in LANES if name != lane.name)
    upstream.tell(other, "a foreign thought")
    path, headers, body = client.prepared()
    defect(body)
    status, answer = await client.post(path, headers, body)
    assert status == 400, answer
    assert [text.split(":")[0] for text in upstream.violations] == [lane.name] * len(upstream.violations)
    assert upstream.violations


@each
async def test_headers(upstream: LaneUpstream, http: TestClient[Any, Any], lane: Lane) -> None:
    path, headers, body = Client(lane, http).prepared()
    wrong = [{**headers, "cookie": "x=1"}]
    if lane.key_header:
        wrong.append({name: value for name, value in headers.items() if name != lane.key_header})
    if lane.api == "anthropic":
        wrong.append({**headers, "anthropic-beta": "claude-code-20250219"})
    for number, tried in enumerate(wrong, 1):
        assert (await Client(lane, http).post(path, tried, body))[0] == 400
        assert len(upstream.violations) == number


@each
@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("overflow", [(400, "invalid_request_error")]),
        ("quota", [(402, "billing_error")]),
        ("busy", [(429, "rate_limit_error"), (529, "overloaded_error")]),
    ],
)
async def test_troubles_are_known_to_the_gateway(
    upstream: LaneUpstream, http: TestClient[Any, Any], lane: Lane, kind: Any, expected: list[tuple[int, str]]
) -> None:
    upstream.scenarios["work"] = [Trouble(kind)]
    client = Client(lane, http)
    failure = client.failure(*await client.post(*client.prepared()))
    assert (failure.status, failure.error_type) in expected
    assert kind != "overflow" or failure.message.startswith("prompt is too long")
    assert upstream.violations == []
