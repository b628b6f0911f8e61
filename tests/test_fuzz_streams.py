"""Broken upstream streams: only a GatewayError comes out, what went down before it is correct, memory is bounded."""

from __future__ import annotations

import tracemalloc
from functools import cache

import pytest

import gateway.adapters
from gateway.errors import GatewayError
from gateway.translate.fold import MessageFold
from tests import recordings as recordings_module
from tests.chat_streams import chat_stream, mutate
from tests.grammar import check_stream
from tests.recordings import Answer, Recording, compare_reading, cut, recordings, target_of, translate
from tests.test_properties import REQUEST

MUTATIONS = 1_000
"""For each wire."""
BATCH = 250
APIS = {wire: recordings_module.APIS[wire] for wire in ("chat", "anthropic")}
"""The wires whose streams are made and broken here; the others have tests of their own."""


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
    api = recordings_module.APIS[wire]
    return translate(gateway.adapters.get(api), REQUEST, target_of("generic", api), chunks)


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


DEEP = {levels: '{"a":' * levels + "1" + "}" * levels for levels in (300, 1000)}


def calling(arguments: str, before: str = "") -> str:
    """A delta with one call, whose arguments are the given JSON."""
    return f'{{{before}"tool_calls":[{{"id":"a","function":{{"name":"search","arguments":{arguments}}}}}]}}'


HOSTILE_DELTAS = {
    "arguments, deep": calling(DEEP[300]),
    "arguments, deepest": calling(DEEP[1000]),
    "arguments, half a character": calling(r'{"q":"\ud83d"}'),
    "arguments, a list with half a character": calling(r'["\ud83d"]'),
    "arguments, a large number": calling('{"q":1000000000000000000000000}', '"x":"\\ud83d",'),
    "extra_content, deep": '{"tool_calls":[{"id":"a","function":{"name":"f"},"extra_content":' + DEEP[300] + "}]}",
    "extra_content, half a character": r'{"tool_calls":[{"id":"a","extra_content":"\ud83d","function":{"name":"f"}}]}',
    "id, half a character": r'{"tool_calls":[{"id":"a\ud83d","function":{"name":"f","arguments":"{}"}}]}',
    "name, half a character": r'{"tool_calls":[{"id":"a","function":{"name":"f\ud83d","arguments":"{}"}}]}',
    "details, deep": '{"reasoning_details":[{"type":"reasoning.text","text":"x","z":' + DEEP[300] + "}]}",
    "details, half a character": r'{"reasoning_details":[{"type":"reasoning.text","text":"x\ud83d","z":"\ud83d"}]}',
    "details, odd keys": '{"reasoning_details":[{"type":["a"],"text":"x","index":[1]},{"type":{},"text":"y"}]}',
    "details, a text that was none": calling("{}", '"reasoning_details":[{"type":"reasoning.text","text":5},'
    '{"type":"reasoning.text","text":"x"},{"type":"reasoning.text","text":"y"}],'),
    "details, odd texts": '{"reasoning_details":[{"type":"reasoning.text","text":5,"summary":"x"},{"text":null}]}',
}
HOSTILE_EVENTS = {
    "error, deep": '{"error":' + DEEP[300] + "}",
    "error, deepest": '{"error":' + DEEP[1000] + "}",
    "error, half a character": r'{"error":{"message":"\ud83d","code":{"a":1}}}',
    "failed generation": r'{"error":{"failed_generation":"{\"name\":\"search\",\"arguments\":[\"\\ud83d\"]}"}}',
    "usage, large": '{"choices":[],"usage":{"prompt_tokens":1e300,"completion_tokens":-5,"total_tokens":1e999}}',
    "usage, no numbers": '{"choices":[],"usage":{"prompt_tokens":NaN,"completion_tokens":[1]}}',
}


def hostile_answer(provider: str, *events: str) -> None:
    """It must come to a correct stream or to a GatewayError, nothing else."""
    body = "".join(f"data: {event}\n\n" for event in events).encode()
    adapter, target = gateway.adapters.get("openai-chat"), target_of(provider)
    answer = translate(adapter, REQUEST, target, [body])
    reading = check_stream(answer.client_bytes(), ended=bool(answer.output))
    if answer.error is None:
        assert reading.finished
        fold(answer.output)
    else:
        answer.error.envelope("req_1")


@pytest.mark.parametrize("provider", ["generic", "minimax"])
@pytest.mark.parametrize("delta", HOSTILE_DELTAS.values(), ids=HOSTILE_DELTAS.keys())
def test_hostile_deltas(provider: str, delta: str) -> None:
    finish = '{"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}'
    hostile_answer(provider, f'{{"choices":[{{"index":0,"delta":{delta}}}]}}', finish)


@pytest.mark.parametrize("event", HOSTILE_EVENTS.values(), ids=HOSTILE_EVENTS.keys())
def test_hostile_events(event: str) -> None:
    finish = '{"choices":[{"index":0,"delta":{"content":"x"},"finish_reason":"stop"}]}'
    hostile_answer("generic", event, finish)
    hostile_answer("generic", finish, event)


@pytest.mark.parametrize("value", [DEEP[300], r'"\ud83d"', "1" + "0" * 30], ids=["deep", "half a character", "large"])
@pytest.mark.parametrize("place", ["start", "block", "delta"])
def test_hostile_values_on_the_anthropic_wire(place: str, value: str) -> None:
    values = {name: value if name == place else "1" for name in ("start", "block", "delta")}
    events = {
        "message_start": f'"message":{{"id":"m","usage":{{}},"x":{values["start"]}}}',
        "content_block_start": f'"index":0,"content_block":{{"type":"text","text":"","x":{values["block"]}}}',
        "content_block_stop": '"index":0',
        "message_delta": f'"delta":{{"stop_reason":"end_turn"}},"usage":{{"output_tokens":1}},"x":{values["delta"]}',
        "message_stop": '"x":1',
    }
    body = "".join(f'event: {name}\ndata: {{"type":"{name}",{rest}}}\n\n' for name, rest in events.items())
    answer = answer_to("anthropic", [body.encode()])
    check_stream(answer.client_bytes(), ended=bool(answer.output), passed_through=True)


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
