"""Conversations through a real gateway with a server as strict as OpenAI's ``/v1/responses``, which keeps nothing."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import pytest

from gateway.translate.fold import MessageFold
from tests.fakes import strict_responses
from tests.fakes.strict_chat import Violation
from tests.server.faulty_upstream import Answer, Connection, FaultyUpstream, reply, stream
from tests.server.gateway_process import KEYS, Gateway, Reply, gateway_in_process, open_stream

JSON = dict[str, Any]

CONFIG = """\
providers:
  lab:
    api: openai-responses
    base_url: "{url}/v1"
    api_key: "${{LAB_KEY}}"
    profile:
      effort_field: reasoning.effort
      efforts: [none, low, medium, high]
      thinking_on: {{reasoning: {{summary: auto}}}}
      sampling: without_reasoning
      encrypted_reasoning: true
      developer_role: true
      cache: breakpoints
      cache_limit: 3
      session_field: prompt_cache_key
models: {{sonnet: lab/unused}}
"""
PNG = "iVBORw0KGgo="
SCHEMA = {"type": "object", "properties": {"at": {"type": "string"}}}
TOOLS = [{"name": "look", "description": "Looks", "input_schema": SCHEMA}]


def event(kind: str, **fields: Any) -> bytes:
    kind = kind if kind == "error" else f"response.{kind}"
    return f"event: {kind}\ndata: {json.dumps({'type': kind, **fields})}\n\n".encode()


def events(items: list[JSON]) -> list[bytes]:
    """An answer of these items, as OpenAI streams it."""
    out = [event("created", response={"id": "r", "status": "in_progress", "output": []})]
    for index, item in enumerate(items):
        place = {"output_index": index, "item_id": item["id"]}
        provisional = {**item, "encrypted_content": "provisional", "summary": []}
        out.append(event("output_item.added", output_index=index, item=provisional))
        for number, part in enumerate(item.get("summary", ())):
            out.append(event("reasoning_summary_text.delta", **place, summary_index=number, delta=part["text"]))
        for number, part in enumerate(item.get("content", ())):
            out.extend(event("output_text.delta", **place, content_index=number, delta=char) for char in part["text"])
        if "arguments" in item:
            out.append(event("function_call_arguments.delta", **place, delta=item["arguments"]))
        out.append(event("output_item.done", output_index=index, item={**item, "status": "completed"}))
    usage = {"input_tokens": 100, "input_tokens_details": {"cached_tokens": 60}, "output_tokens": 9}
    return [*out, event("completed", response={"id": "r", "status": "completed", "output": [], "usage": usage})]


def thought(number: int) -> JSON:
    parts = [{"type": "summary_text", "text": f"**Step {number}**"}, {"type": "summary_text", "text": "go on"}]
    return {"id": f"rs_{number}", "type": "reasoning", "summary": parts, "encrypted_content": f"gAAA{number}"}


def call(number: int, letter: str) -> JSON:
    return {
        "id": f"fc_{number}{letter}",
        "type": "function_call",
        "call_id": f"call_{number:024d}{letter}",
        "name": "look",
        "arguments": json.dumps({"at": f"{number}{letter}"}),
    }


def said(number: int, phase: str) -> JSON:
    content = [{"type": "output_text", "text": f"Text{number}"}]
    return {"id": f"msg_{number}", "type": "message", "role": "assistant", "phase": phase, "content": content}


def turn(number: int) -> list[JSON]:
    """What the model says in its turn of this number; the sixth is the last."""
    if number == 6:
        return [thought(number), said(number, "final_answer")]
    if number == 4:
        return [{**thought(number), "summary": []}, call(number, "a"), thought(44), call(number, "b")]
    return [thought(number), said(number, "commentary"), call(number, "a"), call(number, "b")]


@dataclass
class StrictModel:
    """Checks each request, and that its own items come back as it told them; then says the next turn."""

    violations: list[str] = field(default_factory=list)
    inputs: list[list[JSON]] = field(default_factory=list)

    async def __call__(self, connection: Connection) -> None:
        visit = connection.visit
        assert visit is not None
        assert visit.line == "POST /v1/responses HTTP/1.1"
        try:
            body = strict_responses.check(visit.body, dict(visit.headers), key=KEYS["LAB_KEY"])
            self.check_replay(body["input"])
        except Violation as violation:
            self.violations.append(str(violation))
            await reply(violation.status, {}, violation.body())(connection)
            return
        self.inputs.append(body["input"])
        await stream(*events(turn(len(self.inputs))))(connection)

    def check_replay(self, items: list[JSON]) -> None:
        """The reasoning of every turn, each item before what it led to, byte for byte."""
        told = [item for number in range(1, len(self.inputs) + 1) for item in turn(number)]
        back = [item for item in items if item.get("role", "assistant") == "assistant"]
        back = [item for item in back if item["type"] != "function_call_output"]
        if [item["type"] for item in back] != [item["type"] for item in told]:
            raise Violation("input", f"other items than were told: {[item['type'] for item in back]}")
        for mine, theirs in zip(told, back, strict=True):
            if mine["type"] == "reasoning" and json.dumps(mine) != json.dumps({key: theirs[key] for key in mine}):
                raise Violation("input", f"not as told: {theirs}")
            if mine.get("phase") not in (None, theirs.get("phase")):
                raise Violation("input", f"the phase is lost: {theirs}")


@pytest.fixture
async def gateway(upstream: FaultyUpstream) -> AsyncIterator[Gateway]:
    async with gateway_in_process(CONFIG.format(url=upstream.url)) as running:
        yield running


async def converse(gateway: Gateway, model: str, *, streaming: bool) -> list[list[JSON]]:
    """As Claude Code does it: every call gets a result, until the model has no more. Returns the answers."""
    messages: list[JSON] = [{"role": "user", "content": [{"type": "text", "text": "Go"}]}]
    answers = []
    for _ in range(9):
        marked = [*messages[:-1], {**messages[-1], "content": [dict(block) for block in messages[-1]["content"]]}]
        marked[-1]["content"][-1]["cache_control"] = {"type": "ephemeral"}
        answer = await gateway.ask(
            f"lab/{model}",
            stream=streaming,
            messages=marked,
            tools=TOOLS,
            system=[{"type": "text", "text": "You are", "cache_control": {"type": "ephemeral"}}],
            thinking={"type": "adaptive"},
            output_config={"effort": "high"},
            temperature=1,
            metadata={"user_id": json.dumps({"device_id": "d", "session_id": "3f0b3c2e-0000-4000-8000-000000000001"})},
        )
        message = folded(answer) if streaming else answer.json
        answers.append(message["content"])
        messages.append({"role": "assistant", "content": message["content"]})
        calls = [block for block in message["content"] if block["type"] == "tool_use"]
        assert message["stop_reason"] == ("tool_use" if calls else "end_turn")
        assert (message["usage"]["input_tokens"], message["usage"]["cache_read_input_tokens"]) == (40, 60)
        if not calls:
            break
        image = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": PNG}}
        results = [[{"type": "text", "text": "ok"}, image], "plain"]
        messages.append(
            {
                "role": "user",
                "content": [
                    {"type": "tool_result", "tool_use_id": block["id"], "content": result}
                    for block, result in zip(calls, results, strict=True)
                ],
            }
        )
    return answers


def folded(answer: Reply) -> JSON:
    answer.reading()
    fold = MessageFold()
    fold.feed(answer.body)
    return fold.message()


@pytest.mark.parametrize("streaming", [True, False])
async def test_a_conversation_with_reasoning_and_tools(
    gateway: Gateway, upstream: FaultyUpstream, streaming: bool
) -> None:
    model = StrictModel()
    answers = await converse(gateway, upstream.script(model).model, streaming=streaming)
    assert model.violations == []
    assert len(answers) == 6
    kinds = [[block["type"] for block in answer] for answer in answers]
    assert kinds[0] == ["thinking", "text", "tool_use", "tool_use"]
    assert kinds[3] == ["thinking", "tool_use", "thinking", "tool_use"]
    assert kinds[5] == ["thinking", "text"]
    assert answers[0][0]["thinking"] == "**Step 1**\n\ngo on"
    for before, after in zip(model.inputs, model.inputs[1:], strict=False):
        assert unmarked(after)[: len(before)] == unmarked(before), "the prefix has changed"


def unmarked(items: list[JSON]) -> list[JSON]:
    text = json.dumps(items).replace(', "prompt_cache_breakpoint": {"mode": "explicit"}', "")
    found: list[JSON] = json.loads(text)
    return found


FAILURES = {
    "a refusal": (reply(400, {}, b'{"error":{"message":"bad"}}'), 400, "invalid_request_error"),
    "a refused key": (reply(401, {}, b'{"error":{"message":"Incorrect API key provided"}}'), 502, "api_error"),
    "a quota in the stream": (
        stream(
            event("created", response={"status": "in_progress"}),
            event("error", error={"code": "insufficient_quota", "message": "You exceeded your current quota"}),
        ),
        402,
        "billing_error",
    ),
    "a full context": (
        stream(event("failed", response={"error": {"code": "context_length_exceeded", "message": "too long"}})),
        400,
        "invalid_request_error",
    ),
    "nothing at all": (stream(), 502, "api_error"),
    "only a beginning": (stream(event("created", response={"status": "in_progress"}), ending="cut"), 502, "api_error"),
}  # fmt: skip


@pytest.mark.parametrize(("answer", "status", "kind"), FAILURES.values(), ids=FAILURES)
async def test_a_failure_before_content_is_an_http_error(
    gateway: Gateway, upstream: FaultyUpstream, answer: Answer, status: int, kind: str
) -> None:
    failed = await gateway.ask(f"lab/{upstream.script(answer).model}")
    message = failed.error(status, kind)
    assert KEYS["LAB_KEY"] not in message


async def test_a_failure_after_content_is_an_error_event(gateway: Gateway, upstream: FaultyUpstream) -> None:
    broken = event("failed", response={"error": {"code": "server_error", "message": "it broke"}})
    text = event("output_text.delta", output_index=0, delta="Hi")
    reading = (await gateway.ask(f"lab/{upstream.script(stream(text, broken)).model}")).reading()
    assert reading.error is not None
    assert "it broke" in reading.error["message"]
    assert not reading.finished
    assert reading.content[0]["text"] == "Hi"


async def test_who_goes_frees_the_upstream(gateway: Gateway, upstream: FaultyUpstream) -> None:
    """R91"""
    script = upstream.script(stream(event("output_text.delta", output_index=0, delta="Hi"), ending="open"))
    async with open_stream(gateway, f"lab/{script.model}") as response:
        assert b"message_start" in await response.content.readany()
    visit = await script.visit()
    await visit.closed()
