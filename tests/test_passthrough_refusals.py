"""What an Anthropic-type upstream may not send: each broken rule ends the stream, before or after the first content."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from gateway.errors import GatewayError, RateLimited, UpstreamProtocolError
from gateway.translate.passthrough_stream import PassthroughTranslator
from gateway.translate.upstream_errors import ErrorContext
from tests.grammar import check_stream

START = {"type": "message_start", "message": {"id": "msg_up", "role": "assistant", "content": []}}
STOP = {"type": "content_block_stop", "index": 0}
DELTA = {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 3}}
END = {"type": "message_stop"}


def block(kind: Any = "text", index: Any = 0, **fields: Any) -> dict[str, Any]:
    fields = fields or {"text": {"text": ""}, "thinking": {"thinking": ""}}.get(kind, {})
    return {"type": "content_block_start", "index": index, "content_block": {"type": kind, **fields}}


def delta(kind: Any = "text_delta", index: Any = 0, **fields: Any) -> dict[str, Any]:
    return {"type": "content_block_delta", "index": index, "delta": {"type": kind, **(fields or {"text": "hi"})}}


CALL = {"id": "toolu_1", "name": "search", "input": {}}

# What comes, and a word of the message.
BROKEN: dict[str, tuple[list[Any], str]] = {
    "a second message_start": ([START, START], "message_start out of turn"),
    "message_start after a block": ([block(), STOP, START], "message_start out of turn"),
    "message_start without a message": ([{"type": "message_start"}], "message_start out of turn"),
    "a block inside a block": ([START, block(), block(index=1)], "content_block_start out of turn"),
    "a block after message_delta": ([START, DELTA, block()], "content_block_start out of turn"),
    "a block without a number": ([START, block(index=None)], "content_block_start out of turn"),
    "a block numbered true": ([START, block(index=True)], "content_block_start out of turn"),
    "a start without its block": ([START, {"type": "content_block_start", "index": 0}], "without its block"),
    "a block without a type": ([START, block(None)], "without its block"),
    "a text block without text": ([START, block("text", text=None)], "text block without its text"),
    "a call without a name": ([START, block("tool_use", id="toolu_1")], "tool_use block without its name"),
    "a call without an id": ([START, block("tool_use", name="search")], "tool_use block without its id"),
    "two calls with one id": (
        [START, block("tool_use", **CALL), STOP, block("tool_use", 1, **CALL)],
        "two tool calls with one id",
    ),
    "a delta without a block": ([START, delta()], "not open"),
    "a delta for another block": ([START, block(), delta(index=1)], "not open"),
    "a delta without its content": ([START, block(), {"type": "content_block_delta", "index": 0}], "not open"),
    "a delta of another kind": ([START, block(), delta("thinking_delta", thinking="x")], "does not fit"),
    "a delta without a kind": ([START, block(), delta(None)], "does not fit"),
    "a delta without text": ([START, block(), delta(text=7)], "without its text"),
    "an end without a block": ([START, STOP], "not open"),
    "an end of another block": ([START, block(), {**STOP, "index": 1}], "not open"),
    "message_delta inside a block": ([START, block(), DELTA], "message_delta out of turn"),
    "a second message_delta": ([START, DELTA, DELTA], "message_delta out of turn"),
    "message_delta without a delta": ([START, {"type": "message_delta"}], "message_delta out of turn"),
    "message_delta without a reason": ([START, {**DELTA, "delta": {}}], "without a stop_reason"),
    "a reason that is no text": ([START, {**DELTA, "delta": {"stop_reason": ["end_turn"]}}], "without a stop_reason"),
    "an end without a reason": ([START, block(), STOP, END], "without a stop reason"),
    "an event that is no object": ([START, []], "no object"),
    "an event without a type": ([START, {"type": None}], "without a type"),
    "an event with an odd type": ([START, {"type": "x\ny"}], "without a type"),
    "no end": ([START, block(), delta(), STOP, DELTA], ""),
    "an end in mid-block": ([START, block(), delta()], ""),
    "nothing": ([], ""),
}


def translated(events: list[Any], *, names: bool = True) -> bytes:
    translator = PassthroughTranslator(
        ErrorContext("lab", "up", "sonnet"), message_id="msg_1", input_tokens=7, first_party=False
    )
    out = b""
    for event in events:
        kind = event.get("type") if isinstance(event, dict) else "x"
        name = b"event: %b\n" % kind.encode() if names and isinstance(kind, str) and "\n" not in kind else b""
        out += translator.feed(b"%bdata: %b\n\n" % (name, orjson.dumps(event)))
    return out + translator.close()


@pytest.mark.parametrize(("events", "said"), BROKEN.values(), ids=BROKEN)
@pytest.mark.parametrize("names", [True, False], ids=["named", "unnamed"])
def test_a_broken_rule_is_an_error(events: list[Any], said: str, names: bool) -> None:
    with pytest.raises(UpstreamProtocolError) as caught:
        translated(events, names=names)
    assert said in caught.value.message
    assert "lab" in caught.value.message


@pytest.mark.parametrize("before", [[], [START], [START, block(), delta()]], ids=["first", "early", "late"])
@pytest.mark.parametrize("wrapped", [True, False])
def test_an_error_event_is_that_error(before: list[Any], wrapped: bool) -> None:
    error = {"type": "rate_limit_error", "message": "slow down"}
    event = {"type": "error", "error": error} if wrapped else {"error": error}
    with pytest.raises(RateLimited, match="lab: slow down"):
        translated([*before, event])


def test_json_instead_of_a_stream() -> None:
    for body, kind in ((b'{"error": {"type": "rate_limit_error"}}', RateLimited), (b"{}", UpstreamProtocolError)):
        translator = PassthroughTranslator(
            ErrorContext("lab", "up", "sonnet"), message_id="msg_1", input_tokens=7, first_party=False
        )
        with pytest.raises(GatewayError) as caught:
            translator.feed(body) + translator.close()
        assert type(caught.value) is kind


def test_what_keeps_the_rules_passes() -> None:
    events = [START, block(), delta(), STOP, block("tool_use", 1, **CALL), {**STOP, "index": 1}, DELTA, END]
    reading = check_stream(translated(events), passed_through=True)
    assert [entry["type"] for entry in reading.content] == ["text", "tool_use"]
    assert reading.start is not None
    assert reading.start["model"] == "sonnet"


def test_an_event_that_came_in_several_lines_goes_on_in_one() -> None:
    """A line break inside the JSON would end the line for the client too."""
    translator = PassthroughTranslator(
        ErrorContext("lab", "up", "sonnet"), message_id="msg_1", input_tokens=7, first_party=False
    )
    events = [START, block(), delta(text="a\nb"), STOP, {"type": "brand_new", "x": [1]}, DELTA, END]
    out = b""
    for event in events:
        lines = orjson.dumps(event, option=orjson.OPT_INDENT_2).splitlines()
        out += translator.feed(b"".join(b"data: %b\n" % line for line in lines) + b"\n")
    assert out + translator.close() == translated(events)
