"""An event that adds nothing may come anywhere, and the answer stays what it is."""

from __future__ import annotations

from typing import Any

import pytest

from gateway.translate.writer import MessageStreamWriter
from tests.grammar import Reading, check_stream
from tests.recordings import Answer, Recording, cut, read, recordings, translate

NOTHING = {"type": "thinking", "thinking": "", "signature": ""}


def kept_alive(recording: Recording, chunks: list[bytes]) -> tuple[Reading, int]:
    """The answer with such an event at every place, and how many there were."""
    translator = recording.adapter().stream_translator(recording.request(), recording.target())
    output, count = b"", 0
    for chunk in chunks:
        event = translator.keep_alive()
        output += event + translator.feed(chunk)
        count += bool(event)
    output += translator.keep_alive() + translator.close()
    assert translator.keep_alive() == b"", "after the end there is nothing to add"
    return read(Answer(output, None), recording), count


def said(reading: Reading) -> list[dict[str, Any]]:
    return [block for block in reading.content if block != NOTHING]


@pytest.mark.parametrize("recording", recordings("message"), ids=lambda recording: recording.name)
def test_the_answer_stays_what_it_is(recording: Recording) -> None:
    answer = translate(recording.adapter(), recording.request(), recording.target(), [recording.body])
    plain = read(answer, recording)
    for seed in range(3):
        reading, count = kept_alive(recording, cut(recording.body, seed))
        assert count, "not a single one"
        assert said(reading) == said(plain)
        assert (reading.stop_reason, reading.stop_sequence) == (plain.stop_reason, plain.stop_sequence)
        assert plain.usage.items() <= reading.usage.items()


def test_each_open_block_gets_an_empty_delta_of_its_kind() -> None:
    writer = MessageStreamWriter("msg_1", "sonnet", 1)
    output = b""
    for push, delta in (
        (lambda: None, b'"type":"thinking_delta","thinking":""'),
        (lambda: writer.thinking("hm"), b'"type":"thinking_delta","thinking":""'),
        (lambda: writer.text("Hi"), b'"type":"text_delta","text":""'),
        (lambda: writer.tool_call(0, "toolu_1", "search", '{"q":'), b'"type":"input_json_delta","partial_json":""'),
    ):
        push()
        output += writer.take()
        writer.keep_alive()
        event = writer.take()
        assert event.count(delta) == 1
        output += event
    writer.tool_call(0, "", "", ' "x"}')
    writer.finish("tool_use")
    writer.keep_alive()
    reading = check_stream(output + writer.take())
    assert [block["type"] for block in reading.content] == ["thinking", "text", "tool_use"]
    assert reading.content[2]["partial_json"] == '{"q": "x"}'


def test_whitespace_that_waits_is_not_lost() -> None:
    writer = MessageStreamWriter("msg_1", "sonnet", 1)
    writer.text("\n\n")
    writer.keep_alive()
    assert writer.take() == b""
    writer.text("Hi")
    writer.finish("end_turn")
    assert check_stream(writer.take()).content == [{"type": "text", "text": "\n\nHi"}]
