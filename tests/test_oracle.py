"""The official SDK is the judge: what it accumulates from a stream is what a client that does not stream gets."""

from __future__ import annotations

import json
from typing import Any

import anthropic
import httpx2
import pytest

import gateway.adapters
from gateway.translate.fold import MessageFold
from tests.chat_streams import chat_stream
from tests.recordings import Recording, recordings, target_of, translate
from tests.test_properties import REQUEST

BODY = b""
"""What the mocked server answers next."""


def answer(request: httpx2.Request) -> httpx2.Response:
    return httpx2.Response(200, headers={"content-type": "text/event-stream"}, content=BODY)


CLIENT = anthropic.Anthropic(
    api_key="test-key",
    base_url="http://127.0.0.1:1",
    max_retries=0,
    http_client=httpx2.Client(transport=httpx2.MockTransport(answer)),
)


def accumulated(stream: bytes) -> dict[str, Any]:
    """The message that the SDK makes of a stream, without fields that are null."""
    global BODY
    BODY = stream
    with CLIENT.messages.stream(model="m", max_tokens=9, messages=[{"role": "user", "content": "Hi"}]) as events:
        message: dict[str, Any] = without_nulls(json.loads(events.get_final_message().to_json(warnings=False)))
    return message


def folded(stream: bytes) -> dict[str, Any]:
    fold = MessageFold()
    fold.feed(stream)
    message: dict[str, Any] = without_nulls(fold.message())
    return message


def without_nulls(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: without_nulls(item) for name, item in value.items() if item is not None}
    if isinstance(value, list):
        return [without_nulls(item) for item in value]
    return value


def compare(ours: dict[str, Any], theirs: dict[str, Any]) -> None:
    for block, other in zip(ours["content"], theirs["content"], strict=True):
        if block["type"] == "tool_use" and set(block["input"]) == {"__unparsedToolInput"}:
            # Half a JSON object: the SDK guesses at the rest, a message says plainly that it is none.
            other["input"] = block["input"]
    usage, their_usage = ours.pop("usage"), theirs.pop("usage")
    assert ours == theirs
    for name in ("input_tokens", "output_tokens", "cache_read_input_tokens", "cache_creation_input_tokens"):
        # The SDK takes a later zero over an estimate; the fold, like Claude Code, does not (R106).
        assert their_usage.get(name, 0) in (usage.get(name, 0), 0), name


def same(stream: bytes) -> None:
    compare(folded(stream), accumulated(stream))


@pytest.mark.parametrize("recording", recordings("message"), ids=lambda recording: recording.name)
def test_recordings(recording: Recording) -> None:
    output = translate(recording.adapter(), recording.request(), recording.target(), [recording.body]).output
    same(output)


@pytest.mark.parametrize("first", range(0, 200, 50))
def test_generated_streams(first: int) -> None:
    for seed in range(first, first + 50):
        body = chat_stream(seed).body
        same(translate(gateway.adapters.get("openai-chat"), REQUEST, target_of("generic"), [body]).output)


@pytest.mark.parametrize("recording", recordings("error_mid_stream"), ids=lambda recording: recording.name)
def test_an_error_event_is_an_error_to_the_sdk(recording: Recording) -> None:
    output = translate(recording.adapter(), recording.request(), recording.target(), [recording.body])
    with pytest.raises(anthropic.APIStatusError) as caught:
        accumulated(output.client_bytes())
    assert output.error is not None
    body = caught.value.body
    assert isinstance(body, dict)
    assert body["error"]["type"] == output.error.error_type
    assert body["error"]["message"] == output.error.message


@pytest.mark.parametrize(("old", "new"), [(b"Hello", b"Hallo"), (b'"end_turn"', b'"max_tokens"'), (b":76,", b":75,")])
def test_the_oracle_sees_a_difference(old: bytes, new: bytes) -> None:
    """An oracle that takes everything would prove nothing."""
    [recording] = [one for one in recordings("message") if one.name == "openai_chat_text"]
    stream = translate(recording.adapter(), recording.request(), recording.target(), [recording.body]).output
    assert old in stream
    with pytest.raises(AssertionError):
        compare(folded(stream), accumulated(stream.replace(old, new)))
