"""Every recorded upstream answer gives its expected result, however its bytes are split, streaming and folded."""

from __future__ import annotations

import json
from typing import Any

import pytest

from gateway.errors import GatewayError
from gateway.translate.fold import MessageFold
from tests.grammar import Reading
from tests.recordings import (
    APIS,
    STREAMS,
    Recording,
    compare_content,
    compare_error,
    compare_folded,
    compare_items,
    compare_message,
    compare_reading,
    expected_ids,
    next_turn,
    read,
    recordings,
    splits,
    translate,
)


def named(*outcomes: str) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("recording", recordings(*outcomes), ids=lambda recording: recording.name)


def answer_of(recording: Recording, chunks: list[bytes]) -> Any:
    return translate(recording.adapter(), recording.request(), recording.target(), chunks)


def reading_of(recording: Recording) -> Reading:
    return read(answer_of(recording, [recording.body]), recording)


def test_every_recording_is_found() -> None:
    bodies = [path for path in STREAMS.glob("*/*") if not path.name.endswith(".expected.json")]
    expected = [json.loads(path.read_text()) for path in STREAMS.glob("*/*.expected.json")]
    assert sorted(path.name for path in bodies) == sorted(entry["file"] for entry in expected)
    assert len(recordings()) == sum(entry["wire"] in APIS for entry in expected) >= 56


@named("message")
def test_message(recording: Recording) -> None:
    first = reading_of(recording)
    compare_message(first, recording)
    for way, chunks in splits(recording.body).items():
        answer = answer_of(recording, chunks)
        assert answer.error is None, f"{way}: {answer.error!r}"
        compare_reading(read(answer, recording), first)


@named("message")
def test_folded_message(recording: Recording) -> None:
    for chunks in splits(recording.body).values():
        translator = recording.adapter().stream_translator(recording.request(), recording.target())
        fold = MessageFold()
        for chunk in chunks:
            fold.feed(translator.feed(chunk))
        fold.feed(translator.close())
        compare_folded(fold.message(), recording)


@named("message")
def test_translator_knows_the_end(recording: Recording) -> None:
    translator = recording.adapter().stream_translator(recording.request(), recording.target())
    translator.feed(recording.body)
    translator.close()
    assert translator.finished
    assert translator.complete
    assert translator.stop_reason == recording.expected["stop_reason"]


@named("error_mid_stream")
def test_error_after_content(recording: Recording) -> None:
    first = answer_of(recording, [recording.body])
    reading = read(first, recording)
    compare_content(reading.content, recording)
    compare_error(first.error, recording)
    assert not reading.finished
    for way, chunks in splits(recording.body).items():
        answer = answer_of(recording, chunks)
        assert (type(answer.error), str(answer.error)) == (type(first.error), str(first.error)), way
        compare_reading(read(answer, recording), reading)


@named("error_mid_stream")
def test_a_failed_answer_folds_to_nothing(recording: Recording) -> None:
    """A client that does not stream gets the error alone, never the stump."""
    fold = MessageFold()
    fold.feed(answer_of(recording, [recording.body]).output)
    with pytest.raises(GatewayError):
        fold.message()


@named("error")
def test_error_before_content(recording: Recording) -> None:
    adapter, request, target = recording.adapter(), recording.request(), recording.target()
    if recording.status != 200:
        error = adapter.translate_error(recording.status, recording.headers, recording.body, request, target)
        compare_error(error, recording)
        return
    for chunks in splits(recording.body).values():
        answer = translate(adapter, request, target, chunks)
        assert answer.output == b""
        compare_error(answer.error, recording)


@named("message")
def test_the_next_turn_takes_it_back(recording: Recording) -> None:
    """What came down goes up again: tool ids as the upstream knows them, reasoning in its own field."""
    reading = reading_of(recording)
    if "input_partial_json" in str(recording.expected["content"]):
        return  # a call that was cut short is not sent back
    messages = next_turn(reading)
    prepared = recording.adapter().prepare(recording.request(messages), recording.target())
    body = json.loads(prepared.body)
    if recording.wire == "anthropic":
        assert body["messages"] == messages
        return
    if recording.wire == "responses":
        compare_items(recording, body["input"])
        return
    assistants = [message for message in body["messages"] if message["role"] == "assistant"]
    calls = [call for message in assistants for call in message.get("tool_calls", ())]
    answered = [message["tool_call_id"] for message in body["messages"] if message["role"] == "tool"]
    assert [call["id"] for call in calls] == answered
    assert all(len(tool_id) <= recording.target().profile.tool_id_max for tool_id in answered)
    ids = expected_ids(recording)
    length = recording.target().profile.tool_id_length
    if ids and length is None:
        assert answered == ids
    elif ids:
        # It gives ids that it would not take back.
        assert all(len(tool_id) == length and tool_id.isalnum() for tool_id in answered)
    check_replay(recording, assistants, calls)


def check_replay(recording: Recording, assistants: list[dict[str, Any]], calls: list[dict[str, Any]]) -> None:
    for path, value in recording.expected.get("replay_next_turn", {}).items():
        if path == "tool_call_ids":
            continue
        if path.startswith("tool_calls["):
            index, name = path.removeprefix("tool_calls[").split("].")
            assert calls[int(index)][name] == value
        else:
            assert len(assistants) == 1
            assert assistants[0].get(path.removeprefix("assistant.")) == value
