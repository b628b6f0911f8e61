"""MessageFold: a client that does not stream gets the same message as one that does."""

from __future__ import annotations

import json
from typing import Any

import orjson
import pytest

import gateway.adapters
from gateway.errors import GatewayError, Overloaded, UpstreamProtocolError
from gateway.translate.fold import MessageFold
from gateway.translate.usage import Usage
from gateway.translate.writer import PING, MessageStreamWriter, error_event
from tests.chat_streams import chat_stream
from tests.grammar import Reading, check_stream
from tests.recordings import cut, target_of, translate
from tests.test_properties import REQUEST


def event(name: str, **body: Any) -> bytes:
    return b"event: %b\ndata: %b\n\n" % (name.encode(), orjson.dumps({"type": name, **body}))


def folded(*chunks: bytes) -> dict[str, Any]:
    fold = MessageFold()
    for chunk in chunks:
        fold.feed(chunk)
    return fold.message()


def agree(message: dict[str, Any], reading: Reading) -> None:
    """A folded message and a strictly read stream say the same."""
    assert reading.start is not None
    blocks = []
    for block in reading.content:
        block = dict(block)
        if block["type"] == "tool_use":
            block["input"] = json.loads(block.pop("partial_json") or "{}")
        blocks.append(block)
    assert message == {
        **reading.start,
        "content": blocks,
        "stop_reason": reading.stop_reason,
        "stop_sequence": reading.stop_sequence,
        "usage": message["usage"],
    }
    for name, value in reading.usage.items():
        assert message["usage"][name] == (value or reading.start["usage"].get(name, 0)), name


def written() -> bytes:
    writer = MessageStreamWriter("msg_1", "sonnet", 12)
    writer.thinking("hm")
    writer.signature("sig")
    writer.text("Hello\n")
    writer.tool_call(0, "call_1", "get", '{"a":[1,"\\u00e9"]}')
    writer.tool_call(1, "call_2", "get", "")
    writer.usage(Usage(5, 3, 2, 9))
    writer.finish("tool_use")
    return writer.take()


def test_folds_a_whole_answer() -> None:
    assert folded(written()) == {
        "id": "msg_1",
        "type": "message",
        "role": "assistant",
        "model": "sonnet",
        "content": [
            {"type": "thinking", "thinking": "hm", "signature": "sig"},
            {"type": "text", "text": "Hello\n"},
            {"type": "tool_use", "id": "call_1", "name": "get", "input": {"a": [1, "é"]}},
            {"type": "tool_use", "id": "call_2", "name": "get", "input": {}},
        ],
        "stop_reason": "tool_use",
        "stop_sequence": None,
        "usage": {
            "input_tokens": 5,
            "cache_creation_input_tokens": 2,
            "cache_read_input_tokens": 3,
            "output_tokens": 9,
        },
    }


def test_pings_and_splits_change_nothing() -> None:
    stream = PING + written().replace(b"event: content_block_stop", PING + b"event: content_block_stop")
    assert folded(*cut(stream, 3)) == folded(written())


def test_the_same_as_the_stream_for_generated_answers() -> None:
    adapter, target = gateway.adapters.get("openai-chat"), target_of("generic")
    for seed in range(300):
        output = translate(adapter, REQUEST, target, [chat_stream(seed).body]).output
        agree(folded(output), check_stream(output))


def test_a_stream_that_failed_is_no_message() -> None:
    fold = MessageFold()
    begun = written().partition(b"event: message_delta")[0]
    fold.feed(begun + error_event(Overloaded("busy"), "req_1"))
    with pytest.raises(GatewayError):
        fold.message()


@pytest.mark.parametrize(
    "end", [b"event: content_block_stop", b"event: message_delta", b"event: message_stop", b"event: message_start"]
)
def test_a_stream_without_its_end_is_no_message(end: bytes) -> None:
    stream = written()
    with pytest.raises(UpstreamProtocolError):
        folded(stream[: stream.index(end)])


def test_nothing_is_no_message() -> None:
    with pytest.raises(UpstreamProtocolError):
        MessageFold().message()


@pytest.mark.parametrize("arguments", ['{"path":"a.txt","text":"aa', "[1]", "not json", '"x"'])
def test_arguments_that_are_no_object_are_handed_on_as_text(arguments: str) -> None:
    writer = MessageStreamWriter("msg_1", "sonnet", 12)
    writer.tool_call(0, "call_1", "get", arguments)
    writer.finish("max_tokens")
    assert folded(writer.take())["content"][0]["input"] == {"__unparsedToolInput": arguments}


def test_what_nobody_here_knows_is_kept() -> None:
    """Pass-through: blocks, fields of the message and of the closing delta."""
    start: dict[str, Any] = {
        "id": "msg_1", "type": "message", "role": "assistant", "model": "m", "content": [],
        "stop_reason": None, "stop_sequence": None, "container": {"id": "c"},
        "usage": {"input_tokens": 3, "output_tokens": 1, "service_tier": "standard"},
    }  # fmt: skip
    server_tool = {"type": "server_tool_use", "id": "s", "name": "w", "input": {}}
    message = folded(
        event("message_start", message=start),
        event("content_block_start", index=0, content_block={"type": "web_search_tool_result", "content": [1]}),
        event("content_block_stop", index=0),
        event("content_block_start", index=1, content_block={"type": "text", "text": "", "citations": []}),
        event("content_block_delta", index=1, delta={"type": "citations_delta", "citation": {"url": "u"}}),
        event("content_block_delta", index=1, delta={"type": "text_delta", "text": "x"}),
        event("content_block_stop", index=1),
        event("content_block_start", index=2, content_block=server_tool),
        event("content_block_delta", index=2, delta={"type": "input_json_delta", "partial_json": '{"q":1}'}),
        event("content_block_stop", index=2),
        event("brand_new_event", hello=1),
        event(
            "message_delta",
            delta={"stop_reason": "end_turn", "stop_sequence": None, "stop_details": {"why": "so"}},
            usage={"output_tokens": 8, "input_tokens": 0},
            context_management={"applied_edits": []},
        ),
        event("message_stop"),
    )
    assert message["container"] == {"id": "c"}
    assert message["stop_details"] == {"why": "so"}
    assert message["context_management"] == {"applied_edits": []}
    assert message["usage"] == {"input_tokens": 3, "output_tokens": 8, "service_tier": "standard"}
    assert message["content"] == [
        {"type": "web_search_tool_result", "content": [1]},
        {"type": "text", "text": "x", "citations": [{"url": "u"}]},
        {"type": "server_tool_use", "id": "s", "name": "w", "input": {"q": 1}},
    ]
