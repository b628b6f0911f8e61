"""What llama.cpp's server does that nobody expects, seen without the gateway: docs/real-server.md lists it.

A test that fails here after an upgrade is good news: one workaround less, and a line less in that document.
"""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.llamacpp.conftest import LlamaServer
from tests.llamacpp.server import ANSWER
from tests.llamacpp.test_wires import COUNT, LIST, PIXEL

Body = dict[str, Any]

PROMPT = [{"role": "user", "content": "Say it."}]
MESSAGES: Body = {"max_tokens": 200, "messages": PROMPT}
RESPONSES: Body = {"max_output_tokens": 200, "input": PROMPT}
RESPONSES_PATH = "/v1/responses"
PATHS = {"/v1/chat/completions": MESSAGES, "/v1/messages": MESSAGES, RESPONSES_PATH: RESPONSES}


def function(tool: Body) -> Body:
    """The tool for the Responses API."""
    return {"type": "function", "name": tool["name"], "parameters": tool["input_schema"]}


def answered(llama: LlamaServer, path: str, body: Body) -> Any:
    status, text = llama.post(path, body)
    assert status == 200, text
    return json.loads(text)


def test_no_message_start_before_an_answer_that_begins_with_a_character_of_several_tokens(llama: LlamaServer) -> None:
    kinds = [event["type"] for event in llama.events("/v1/messages", MESSAGES)]
    assert kinds[0] == "content_block_start"
    assert "message_start" not in kinds
    first, *_ = llama.events("/v1/chat/completions", MESSAGES)
    assert "role" not in first["choices"][0]["delta"]


def test_the_response_is_created_again_before_every_delta_of_such_an_answer(llama: LlamaServer) -> None:
    kinds = [event["type"] for event in llama.events(RESPONSES_PATH, RESPONSES)]
    assert kinds.count("response.created") > kinds.count("response.output_text.delta") > 1


def test_nothing_but_the_end_where_such_an_answer_is_cut_in_its_first_character(llama: LlamaServer) -> None:
    cut = llama.events("/v1/messages", {**MESSAGES, "max_tokens": 1})
    assert [event["type"] for event in cut] == ["message_delta", "message_stop"]
    cut = llama.events(RESPONSES_PATH, {**RESPONSES, "max_output_tokens": 1})
    assert [event["type"] for event in cut] == ["response.completed"]


def test_responses_has_no_indices_and_numbers(llama: LlamaServer) -> None:
    names = {name for event in llama.events(RESPONSES_PATH, RESPONSES) for name in event}
    assert names.isdisjoint(("output_index", "content_index", "sequence_number"))


def test_responses_never_ends_incomplete(llama: LlamaServer) -> None:
    *_, last = llama.events(RESPONSES_PATH, {**RESPONSES, "max_output_tokens": 20})
    assert (last["type"], last["response"]["status"]) == ("response.completed", "completed")
    assert last["response"]["usage"]["output_tokens"] == 20
    assert "incomplete_details" not in last["response"]


def test_half_a_call_is_completed(llama: LlamaServer) -> None:
    asked = {**RESPONSES, "tools": [function(COUNT)], "tool_choice": "required", "max_output_tokens": 40}
    *_, done, last = llama.events(RESPONSES_PATH, asked)
    assert (done["type"], done["item"]["status"]) == ("response.output_item.done", "completed")
    assert last["response"]["status"] == "completed"
    with pytest.raises(json.JSONDecodeError):
        json.loads(done["item"]["arguments"])


def test_a_stop_sequence_is_named_but_not_the_reason(llama: LlamaServer) -> None:
    message = answered(llama, "/v1/messages", {**MESSAGES, "stop_sequences": ["世界"]})
    assert (message["stop_reason"], message["stop_sequence"]) == ("end_turn", "世界")


def test_a_tool_call_starts_without_its_input(llama: LlamaServer) -> None:
    events = llama.events("/v1/messages", {**MESSAGES, "tools": [LIST], "tool_choice": {"type": "any"}})
    start = next(event for event in events if event["type"] == "content_block_start")
    assert sorted(start["content_block"]) == ["id", "name", "type"]


def test_tool_choice_none_offers_the_tools_all_the_same(llama: LlamaServer) -> None:
    message = answered(llama, "/v1/messages", {**MESSAGES, "tools": [LIST], "tool_choice": {"type": "none"}})
    assert "tool_use" in [block["type"] for block in message["content"]]


def test_a_document_vanishes(llama: LlamaServer) -> None:
    text = {"type": "text", "text": "Say it."}
    document = {"type": "document", "source": {"type": "text", "media_type": "text/plain", "data": "word " * 50}}
    counts = [
        answered(llama, "/v1/messages/count_tokens", {"messages": [{"role": "user", "content": content}]})
        for content in ([text], [text, document])
    ]
    assert counts[0] == counts[1]


def test_a_format_is_ignored(llama: LlamaServer) -> None:
    wanted = {"type": "json_schema", "name": "x", "schema": {"enum": ["x"]}}
    response = answered(llama, RESPONSES_PATH, {**RESPONSES, "text": {"format": wanted}})
    assert response["output"][0]["content"][0]["text"] == ANSWER
    message = answered(llama, "/v1/messages", {**MESSAGES, "output_config": {"format": wanted}})
    assert message["content"][0]["text"] == ANSWER
    chat = {"response_format": {"type": "json_schema", "json_schema": wanted}}
    completion = answered(llama, "/v1/chat/completions", {**MESSAGES, "max_tokens": 20, **chat})
    assert completion["choices"][0]["message"]["content"] == '"x"', "there it holds"


def test_a_prefill_is_repeated_in_a_message_only(llama: LlamaServer) -> None:
    asked = {**MESSAGES, "messages": [*PROMPT, {"role": "assistant", "content": "Well,"}]}
    assert answered(llama, "/v1/messages", asked)["content"][0]["text"] == f"Well,{ANSWER}"
    events = llama.events("/v1/messages", asked)
    deltas = [event["delta"]["text"] for event in events if event["type"] == "content_block_delta"]
    assert "".join(deltas) == ANSWER


def test_past_reasoning_without_its_text_is_refused(llama: LlamaServer) -> None:
    reasoning = {"type": "reasoning", "id": "rs_1", "summary": [], "encrypted_content": "x"}
    status, body = llama.post(RESPONSES_PATH, {**RESPONSES, "input": [*PROMPT, reasoning, *PROMPT]})
    assert status == 400
    assert "item['content'] is not an array" in body


def test_a_picture_is_an_internal_error(llama: LlamaServer) -> None:
    content = [{"type": "image", "source": PIXEL}]
    status, body = llama.post("/v1/messages", {**MESSAGES, "messages": [{"role": "user", "content": content}]})
    assert status == 500
    assert json.loads(body)["error"]["type"] == "server_error"


def test_a_bare_boolean_is_no_schema(llama: LlamaServer) -> None:
    tool = {"name": "any", "input_schema": {"type": "object", "properties": {"any": True}}}
    status, body = llama.post("/v1/messages", {**MESSAGES, "tools": [tool]})
    assert status == 400
    assert "schema must be an object" in body


@pytest.mark.parametrize("path", PATHS)
def test_an_overflow_looks_the_same_on_every_path(llama: LlamaServer, path: str) -> None:
    """Also on /v1/messages: not Anthropic's envelope."""
    long = [{"role": "user", "content": "word " * (llama.context + 1000)}]
    field = "input" if path == RESPONSES_PATH else "messages"
    status, body = llama.post(path, {**PATHS[path], field: long, "stream": True})
    envelope = json.loads(body)
    assert (status, list(envelope)) == (400, ["error"])
    assert envelope["error"]["type"] == "exceed_context_size_error"
    assert envelope["error"]["n_prompt_tokens"] > envelope["error"]["n_ctx"] == llama.context
