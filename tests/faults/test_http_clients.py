"""Group H, what the other tests have no figure for: clients that send nonsense get their answer in time."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from tests.faults.footprint import Stopwatch
from tests.server.faulty_upstream import FaultyUpstream, answer_by_path, stream, whole
from tests.server.gateway_process import Gateway, turn

SECOND = 1.0
USER = {"role": "user", "content": "Hello"}


def wrapped(messages: bytes) -> bytes:
    return b'{"model":"sonnet","max_tokens":5,"messages":' + messages + b"}"


SHAPES: dict[str, bytes | Any] = {
    "nothing": b"",
    "no JSON": b"{" * 1000,
    "half a string": b'{"model": "' + b"x" * 1_000_000,
    "a list": [turn("sonnet")],
    "no messages": {"model": "sonnet", "max_tokens": 5},
    "messages an object": turn("sonnet", messages={"0": USER}),
    "no model": {"max_tokens": 5, "messages": [USER]},
    "deep": wrapped(b"[" * 1_000_000),
    "deep and closed": wrapped(b"[" * 900 + b"]" * 900),
    "NaN": wrapped(b"[NaN]"),
    "a number too large": wrapped(b"[1e400]"),
    "not UTF-8": wrapped(b'[{"role":"user","content":"\xff"}]'),
    "a million times null": wrapped(b"[" + b"null," * 999_999 + b"null]"),
    "300,000 messages without content": wrapped(b"[" + b'{"role":"user"},' * 299_999 + b'{"role":"user"}]'),
    "a block of no type": wrapped(b'[{"role":"user","content":[{"text":"x"}]}]'),
}


@pytest.mark.parametrize("body", SHAPES.values(), ids=SHAPES)
async def test_a_malformed_body_is_refused_within_a_second(gateway: Gateway, body: Any) -> None:
    """H5."""
    data = body if isinstance(body, bytes) else orjson.dumps(body)
    watch = Stopwatch(gateway.pid)
    reply = await gateway.send("POST", "/v1/messages", data)
    assert watch.seconds() < SECOND
    reply.error(400, "invalid_request_error")


@pytest.mark.parametrize("provider", ["lab", "ant", "replies"])
async def test_lone_surrogates_go_up_as_valid_utf8(gateway: Gateway, upstream: FaultyUpstream, provider: str) -> None:
    """H7: in a text, a system prompt, a tool's result and its input, whichever half is missing."""
    script = upstream.script(answer_by_path(stream(*whole("chat", "Hi")), stream(*whole("anthropic", "Hi"))))
    call = {"type": "tool_use", "id": "t1", "name": "x", "input": {"a": "LONE"}}
    result = {"type": "tool_result", "tool_use_id": "t1", "content": "LONE"}
    messages = [
        {"role": "user", "content": "LONE"},
        {"role": "assistant", "content": [call]},
        {"role": "user", "content": [result, {"type": "text", "text": "LONE"}]},
    ]
    body = orjson.dumps(turn(f"{provider}/{script.model}", messages=messages, system="LONE"))
    for half in (b"\\ud83d", b"\\udc00", b"\\udc00\\ud83d", b"x\\ud83dx"):
        reply = await gateway.send("POST", "/v1/messages", body.replace(b"LONE", half))
        sent = script.visits[-1].body.decode("utf-8")
        assert orjson.loads(sent), "valid by the strict reader"
        assert "\\ud83d" not in sent.lower()
        if provider != "replies":  # whose answer is in another dialect
            assert reply.status == 200
    assert len(script.visits) == 4
