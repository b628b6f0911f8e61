"""Ten thousand legal streams: the grammar holds, and no byte of text, thinking or arguments is lost."""

from __future__ import annotations

import gc
from collections import Counter
from collections.abc import Iterator

import pytest

import gateway.adapters
from gateway.adapters.base import MessagesRequest
from tests.chat_streams import BLANKS, ChatStream, chat_stream
from tests.grammar import Reading, check_stream, joined
from tests.recordings import ASKED, MESSAGE_ID, TOOLS, compare_reading, cut, target_of, translate

STREAMS = 10_000
BATCH = 1_000
REQUEST = MessagesRequest(
    {"model": ASKED, "max_tokens": 99, "tools": TOOLS, "messages": [{"role": "user", "content": "Hi"}]},
    {},
    "",
    MESSAGE_ID,
    7,
)


@pytest.fixture(scope="module", autouse=True)
def _quick_collections() -> Iterator[None]:
    """Keeps what pytest holds out of the garbage collections, which would take a fifth of the time."""
    gc.freeze()
    yield
    gc.unfreeze()


def reading_of(stream: ChatStream, chunks: list[bytes]) -> Reading:
    answer = translate(gateway.adapters.get("openai-chat"), REQUEST, target_of("generic"), chunks)
    assert answer.error is None, f"seed {stream.seed}: {answer.error!r}"
    return check_stream(answer.output)


@pytest.mark.parametrize("first", range(0, STREAMS, BATCH))
def test_nothing_is_lost_and_the_grammar_holds(first: int) -> None:
    for seed in range(first, first + BATCH):
        stream = chat_stream(seed)
        try:
            reading = reading_of(stream, [stream.body])
            check(stream, reading)
            if seed % 6 == 0:
                compare_reading(reading_of(stream, cut(stream.body, seed)), reading)
            elif seed % 100 == 1:
                single = [stream.body[at : at + 1] for at in range(len(stream.body))]
                compare_reading(reading_of(stream, single), reading)
        except AssertionError as failure:
            raise AssertionError(f"see chat_stream({seed}): {failure}") from failure


def check(stream: ChatStream, reading: Reading) -> None:
    tools = [block for block in reading.content if block["type"] == "tool_use"]
    wanted = Counter((call.name, "" if call.arguments == "" else call.arguments) for call in stream.calls)
    assert Counter((block["name"], block["partial_json"]) for block in tools) == wanted
    if stream.ids_given:
        assert sorted((block["id"], block["partial_json"]) for block in tools) == sorted(
            (call.id, call.arguments) for call in stream.calls
        )
    assert without_blanks(joined(reading, "text")) == without_blanks(stream.text)
    assert joined(reading, "thinking") == stream.thinking
    for block in reading.content:
        if block["type"] in ("text", "thinking"):
            assert block[block["type"]].strip(), "a block of whitespace alone"
    assert reading.stop_reason == stream.stop_reason
    usage = reading.usage
    if stream.usage is not None:
        seen = (usage["input_tokens"], usage["cache_read_input_tokens"], usage["output_tokens"])
        assert seen == stream.usage
    else:
        assert usage["input_tokens"] >= 1
        assert usage["output_tokens"] >= 1


def without_blanks(text: str) -> str:
    """Text without the characters of the generated runs of whitespace; a gateway may drop such a run or keep it."""
    return text.translate(dict.fromkeys(map(ord, "".join(BLANKS))))


def test_the_generator_makes_what_it_promises() -> None:
    """A generator that never interleaves or splits would prove nothing."""
    streams = [chat_stream(seed) for seed in range(1000)]
    assert sum(len(stream.calls) > 1 for stream in streams) > 100
    assert sum(b'\\\\"}' in stream.body for stream in streams) > 3, "a fragment that is half an escape"
    assert sum(b'\\ud83d"' in stream.body for stream in streams) > 5, "a fragment that is half a character"
    assert any(b"\r\n" in stream.body for stream in streams)
    assert any(stream.usage is None for stream in streams)
    assert chat_stream(7).body == chat_stream(7).body
    for stream in streams:
        assert all(call.sent for call in stream.calls)
