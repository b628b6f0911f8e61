"""Broken upstream streams: only a GatewayError comes out, what went down before it is correct, memory is bounded."""

from __future__ import annotations

import tracemalloc
from functools import cache

import pytest

import gateway.adapters
from gateway.errors import GatewayError
from gateway.translate.fold import MessageFold
from tests.chat_streams import chat_stream, mutate
from tests.grammar import check_stream
from tests.recordings import Answer, Recording, compare_reading, cut, recordings, target_of, translate
from tests.test_properties import REQUEST

MUTATIONS = 1_000
"""For each wire."""
BATCH = 250
APIS = {"chat": "openai-chat", "anthropic": "anthropic"}


@cache
def originals(wire: str) -> list[bytes]:
    """The streams that are broken: the recordings of a wire, and what the gateway itself makes for the other."""
    bodies = [recording.body for recording in recordings("message") if recording.wire == wire]
    for seed in range(40):
        body = chat_stream(seed).body
        if wire == "anthropic":
            body = translate(gateway.adapters.get("openai-chat"), REQUEST, target_of("generic"), [body]).output
        bodies.append(body)
    return bodies


def answer_to(wire: str, chunks: list[bytes]) -> Answer:
    """Raises whatever is no GatewayError."""
    return translate(gateway.adapters.get(APIS[wire]), REQUEST, target_of("generic", APIS[wire]), chunks)


@pytest.mark.parametrize("first", range(0, MUTATIONS, BATCH))
@pytest.mark.parametrize("wire", APIS)
def test_a_broken_stream_gives_an_error_or_a_correct_answer(wire: str, first: int) -> None:
    bodies = originals(wire)
    for seed in range(first, first + BATCH):
        body = mutate(bodies[seed % len(bodies)], seed)
        try:
            check(wire, body, seed)
        except Exception as failure:
            raise AssertionError(f"{wire} seed {seed}: {failure!r}\n{body[:3000]!r}") from failure


def check(wire: str, body: bytes, seed: int) -> None:
    passed_through = wire == "anthropic"
    answer = answer_to(wire, [body])
    reading = check_stream(answer.client_bytes(), ended=bool(answer.output), passed_through=passed_through)
    assert len(answer.output) <= 60 * len(body) + 10_000
    if answer.error is not None:
        assert 400 <= answer.error.status < 600
        assert answer.error.message
        assert "test-key" not in answer.error.message
        answer.error.envelope("req_1")
    else:
        fold(answer.output)
    if seed % 5 == 0:
        other = answer_to(wire, cut(body, seed))
        assert type(other.error) is type(answer.error), (other.error, answer.error)
        assert bool(other.output) == bool(answer.output)
        if answer.output:
            compare_reading(check_stream(other.client_bytes(), passed_through=passed_through), reading)


def fold(output: bytes) -> None:
    folded = MessageFold()
    try:
        folded.feed(output)
        folded.message()
    except GatewayError:
        raise AssertionError("a whole stream does not fold") from None


@pytest.mark.parametrize("recording", recordings("message"), ids=lambda recording: recording.name)
def test_a_stream_cut_anywhere_is_no_answer(recording: Recording) -> None:
    """Whatever the place of the cut: an error, unless the answer was already whole. Never an invented end."""
    body, step = recording.body, max(1, len(recording.body) // 40)
    whole = answer_to(recording.wire, [body])
    usual = check_stream(whole.output, passed_through=recording.wire == "anthropic")
    for at in range(0, len(body), step):
        answer = answer_to(recording.wire, [body[:at]])
        reading = check_stream(answer.output, ended=False, passed_through=recording.wire == "anthropic")
        if answer.error is None:
            assert reading.finished
            assert reading.content == usual.content
            assert reading.stop_reason == usual.stop_reason
        else:
            assert not reading.finished


ENDLESS = {
    "one line": b"data: " + b"x" * 4090,
    "one event": b'data: {"a":1},\n' * 200,
    "one JSON body": b'{"a":' * 800,
    "comments": b": keep-alive\n\n" * 300,
    "empty deltas": b'data: {"choices":[{"index":0,"delta":{}}]}\n\n' * 80,
    "unknown chunks": b'data: {"hello":"world"}\n\n' * 150,
    "HTML": b"<p>Bad Gateway</p>\n" * 200,
    "blank lines": b"\n" * 4096,
    "whitespace text": b'data: {"choices":[{"index":0,"delta":{"content":" "}}]}\n\n' * 60,
    "calls without names": b'data: {"choices":[{"index":0,"delta":{"tool_calls":[{}]}}]}\n\n' * 60,
    "event names": b"event: ping\n" * 300,
}


@pytest.mark.parametrize("wire", APIS)
@pytest.mark.parametrize("piece", ENDLESS.values(), ids=ENDLESS.keys())
def test_an_endless_stream_of_nothing_does_not_fill_the_memory(wire: str, piece: bytes) -> None:
    """What says nothing may keep at most what one event may hold."""
    translator = gateway.adapters.get(APIS[wire]).stream_translator(REQUEST, target_of("generic", APIS[wire]))
    rounds = (8 << 20) // len(piece) if len(piece.splitlines()) < 10 else 60
    tracemalloc.start()
    try:
        for _ in range(rounds):
            translator.feed(piece)
    except GatewayError:
        pass
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peak < 16 << 20
