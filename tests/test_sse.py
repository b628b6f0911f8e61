"""SSEDecoder: one meaning for a stream, whatever its line ends and however its bytes are split."""

from __future__ import annotations

import random
import tracemalloc

import pytest

from gateway.errors import UpstreamProtocolError
from gateway.wire.sse import SSEDecoder, encode_event

Events = list[tuple[str | None, bytes]]

CASES: dict[str, tuple[bytes, Events]] = {
    "line feeds": (b"data: a\n\ndata: b\n\n", [(None, b"a"), (None, b"b")]),
    "carriage returns": (b"data: a\r\rdata: b\r\r", [(None, b"a"), (None, b"b")]),
    "both": (b"data: a\r\n\r\ndata: b\r\n\r\n", [(None, b"a"), (None, b"b")]),
    "mixed line ends": (b"data: a\r\n\ndata: b\n\r\n", [(None, b"a"), (None, b"b")]),
    "byte order mark": (b"\xef\xbb\xbfdata: a\n\n", [(None, b"a")]),
    "a second byte order mark is no mark": (b"\xef\xbb\xbf\xef\xbb\xbfdata: a\n\ndata: b\n\n", [(None, b"b")]),
    "no space after the colon": (b"data:a\n\n", [(None, b"a")]),
    "only one space is taken off": (b"data:  a \n\n", [(None, b" a ")]),
    "several data lines": (b"data: a\ndata: b\ndata:\ndata: c\n\n", [(None, b"a\nb\n\nc")]),
    "event name": (b"event: ping\ndata: {}\n\n", [("ping", b"{}")]),
    "event name after the data": (b"data: {}\nevent: ping\n\n", [("ping", b"{}")]),
    "the last event name counts": (b"event: a\nevent: b\ndata: 1\n\n", [("b", b"1")]),
    "an event name holds for one event": (b"event: a\ndata: 1\n\ndata: 2\n\n", [("a", b"1"), (None, b"2")]),
    "an event without data is none": (b"event: ping\n\ndata: 1\n\n", [(None, b"1")]),
    "comments": (b": keep-alive\n\n:\n: x\ndata: a\n: y\n\n", [(None, b"a")]),
    "id and retry": (b"id: 7\nretry: 100\ndata: a\n\n", [(None, b"a")]),
    "unknown fields": (b"colour: red\ndata: a\n\n", [(None, b"a")]),
    "many empty lines": (b"\n\n\n\ndata: a\n\n\n\n", [(None, b"a")]),
    "colons in the data": (b"data: a: b: c\n\n", [(None, b"a: b: c")]),
    "unicode line separators end nothing": (
        "data: a\u2028b\u0085c\x0bd\x0ce\x1cf\n\n".encode(),
        [(None, "a\u2028b\u0085c\x0bd\x0ce\x1cf".encode())],
    ),
    "characters of many bytes": ("data: Zoë 🙂日本\n\n".encode(), [(None, "Zoë 🙂日本".encode())]),
    "broken UTF-8 is handed on": (b"data: \xff\xfe\n\n", [(None, b"\xff\xfe")]),
    "names that change": (
        b"event: a\ndata: 1\n\nevent: b\ndata: 2\n\ndata: 3\n\nevent: a\ndata: 4\n\nevent:\ndata: 5\n\n",
        [("a", b"1"), ("b", b"2"), (None, b"3"), ("a", b"4"), ("", b"5")],
    ),
    "usual events between others": (
        b"data: a\n\nid: 1\nevent: x\ndata: b\n\nevent: y\ndata: c\n\n: hi\n\n"
        b"data: d\ndata: e\n\ndata: f\n\ndata:g\n\n\ndata: h\n\n",
        [(None, b"a"), ("x", b"b"), ("y", b"c"), (None, b"d\ne"), (None, b"f"), (None, b"g"), (None, b"h")],
    ),
    "an event that begins like a usual one": (b"data: a\nevent: x\n\ndata: b\n\n", [("x", b"a"), (None, b"b")]),
    "no empty line at the end": (b"data: a\n\ndata: b\n", [(None, b"a"), (None, b"b")]),
    "no line end at all": (b"data: a", [(None, b"a")]),
    "nothing": (b"", []),
    "only a byte order mark": (b"\xef\xbb\xbf", []),
    "half a byte order mark": (b"\xef\xbb", []),
    "an error field of an older server": (b'error: {"code":500}\n\n', [("error", b'{"code":500}')]),
}


def decode(chunks: list[bytes], decoder: SSEDecoder | None = None) -> Events:
    decoder = decoder or SSEDecoder()
    events: Events = []
    for chunk in chunks:
        events += decoder.feed(chunk)
    return events + decoder.close()


@pytest.mark.parametrize(("body", "events"), CASES.values(), ids=CASES.keys())
def test_decodes(body: bytes, events: Events) -> None:
    assert decode([body]) == events


@pytest.mark.parametrize(("body", "events"), CASES.values(), ids=CASES.keys())
def test_decodes_in_any_two_pieces_and_byte_by_byte(body: bytes, events: Events) -> None:
    assert decode([body[at : at + 1] for at in range(len(body))]) == events
    for at in range(len(body) + 1):
        assert decode([body[:at], b"", body[at:]]) == events


def test_decodes_in_any_split() -> None:
    draw = random.Random(20261121)
    lines = [b"data: x", b"data:", b"event: e", b": c", b"id: 1", b"\xe2\x80\xa8", b"{"]
    alphabet = [*lines, b"\n", b"\r", b"\r\n", b"\n\n"]
    for _ in range(1500):
        body = b"".join(draw.choices(alphabet, k=draw.randrange(1, 14)))
        cuts = sorted(draw.randrange(len(body) + 1) for _ in range(draw.randrange(1, 5)))
        pieces = [body[start:end] for start, end in zip([0, *cuts], [*cuts, len(body)], strict=True)]
        assert decode(pieces) == decode([body]), pieces


def test_an_event_is_returned_as_soon_as_its_empty_line_is_there() -> None:
    decoder = SSEDecoder()
    assert decoder.feed(b"data: a\n") == []
    assert decoder.feed(b"\n") == [(None, b"a")]
    assert decoder.feed(b"data: b\r\n\r\ndata: c") == [(None, b"b")]


def test_what_is_encoded_decodes() -> None:
    assert decode([encode_event("ping", b'{"type":"ping"}')]) == [("ping", b'{"type":"ping"}')]


@pytest.mark.parametrize(
    "piece",
    [b"x" * 4096, b"data: " + b"x" * 4090, b"data: xy\n" * 512, b"data:\n" * 512, b"\xef\xbb\xbf" * 512],
    ids=["no line end", "fields in one line", "data lines", "empty data lines", "byte order marks"],
)
def test_an_endless_event_is_refused_before_it_fills_the_memory(piece: bytes) -> None:
    decoder = SSEDecoder(max_event=1 << 16)
    tracemalloc.start()
    try:
        with pytest.raises(UpstreamProtocolError):
            decode([piece] * 1024, decoder)
        assert tracemalloc.get_traced_memory()[1] < 4 << 20
    finally:
        tracemalloc.stop()


def test_the_usual_limit_is_four_mebibytes() -> None:
    decoder = SSEDecoder()
    long = b"x" * (3 << 20)
    assert decoder.feed(b"data: " + long + b"\n\n") == [(None, long)]
    with pytest.raises(UpstreamProtocolError):
        decode([b"x" * (1 << 20)] * 5, decoder)


def test_the_limit_is_per_event() -> None:
    decoder = SSEDecoder(max_event=1000)
    for _ in range(100):
        assert len(decoder.feed(b"data: " + b"x" * 500 + b"\n\n")) == 1
        assert len(decoder.feed(b": " + b"c" * 400 + b"\n")) == 0
    with pytest.raises(UpstreamProtocolError):
        decoder.feed(b"data: " + b"x" * 2000 + b"\n\n")


def test_a_long_event_costs_linear_time() -> None:
    """If each read joined what was there before, this would copy five gigabytes."""
    decoder = SSEDecoder()
    decoder.feed(b"data: ")
    for _ in range(100_000):
        decoder.feed(b"x")
    assert decoder.feed(b"\n\n") == [(None, b"x" * 100_000)]
