"""NDJSONDecoder: one meaning for a stream of lines, whatever its line ends and however its bytes are split."""

from __future__ import annotations

import random
import tracemalloc

import pytest

from gateway.errors import UpstreamProtocolError
from gateway.wire.ndjson import NDJSONDecoder

CASES: dict[str, tuple[bytes, list[bytes]]] = {
    "line feeds": (b'{"a":1}\n{"b":2}\n', [b'{"a":1}', b'{"b":2}']),
    "carriage returns before them": (b'{"a":1}\r\n{"b":2}\r\n', [b'{"a":1}', b'{"b":2}']),
    "blank lines": (b'\n\r\n  \n{"a":1}\n\t\n\n{"b":2}\n', [b'{"a":1}', b'{"b":2}']),
    "blanks around": (b'  {"a":1} \t\r\n', [b'{"a":1}']),
    "byte order mark": (b'\xef\xbb\xbf{"a":1}\n', [b'{"a":1}']),
    "a second byte order mark is no mark": (b"\xef\xbb\xbf\xef\xbb\xbfa\n", [b"\xef\xbb\xbfa"]),
    "no line end at the end": (b'{"a":1}\n{"b":2}', [b'{"a":1}', b'{"b":2}']),
    "a second byte order mark at the very end is none either": (b"\xef\xbb\xbf\xef\xbb\xbfa", [b"\xef\xbb\xbfa"]),
    "half a line at the end": (b'{"a":1}\n{"b"', [b'{"a":1}', b'{"b"']),
    "unicode line separators end nothing": (
        '{"a":"\u2028\u2029\u0085\x0b\x0c\x1c"}\n'.encode(),
        ['{"a":"\u2028\u2029\u0085\x0b\x0c\x1c"}'.encode()],
    ),
    "characters of many bytes": ('{"a":"Zoë 🙂日本"}\n'.encode(), ['{"a":"Zoë 🙂日本"}'.encode()]),
    "broken UTF-8 is handed on": (b"\xff\xfe\n", [b"\xff\xfe"]),
    "a carriage return inside": (b'{"a":\r1}\n', [b'{"a":\r1}']),
    "nothing": (b"", []),
    "only a byte order mark": (b"\xef\xbb\xbf", []),
    "half a byte order mark": (b"\xef\xbb", [b"\xef\xbb"]),
}


def decode(chunks: list[bytes], decoder: NDJSONDecoder | None = None) -> list[bytes]:
    decoder = decoder or NDJSONDecoder()
    events = [event for chunk in chunks for event in decoder.feed(chunk)] + decoder.close()
    assert {name for name, _ in events} <= {None}
    return [line for _, line in events]


@pytest.mark.parametrize(("body", "lines"), CASES.values(), ids=CASES.keys())
def test_decodes_in_any_two_pieces_and_byte_by_byte(body: bytes, lines: list[bytes]) -> None:
    assert decode([body]) == lines
    assert decode([body[at : at + 1] for at in range(len(body))]) == lines
    for at in range(len(body) + 1):
        assert decode([body[:at], b"", body[at:]]) == lines


def test_decodes_in_any_split() -> None:
    draw = random.Random(20261121)
    alphabet = [b'{"a":1}', b" ", b"\xe2\x80\xa8", b"{", b"\r", b"\n", b"\r\n", b"\n\n", b"\xef\xbb\xbf"]
    for _ in range(1500):
        body = b"".join(draw.choices(alphabet, k=draw.randrange(1, 14)))
        cuts = sorted(draw.randrange(len(body) + 1) for _ in range(draw.randrange(1, 5)))
        pieces = [body[start:end] for start, end in zip([0, *cuts], [*cuts, len(body)], strict=True)]
        assert decode(pieces) == decode([body]), pieces


def test_a_line_is_returned_as_soon_as_its_end_is_there() -> None:
    decoder = NDJSONDecoder()
    assert decoder.feed(b'{"a":1}') == []
    assert decoder.feed(b'\n{"b"') == [(None, b'{"a":1}')]
    assert decoder.feed(b":2}\n") == [(None, b'{"b":2}')]
    assert decoder.close() == []


@pytest.mark.parametrize("piece", [b"x" * 4096, b"\r" * 4096, b"\xef\xbb\xbf" * 512], ids=["x", "blanks", "marks"])
def test_an_endless_line_is_refused_before_it_fills_the_memory(piece: bytes) -> None:
    decoder = NDJSONDecoder(max_line=1 << 16)
    tracemalloc.start()
    try:
        with pytest.raises(UpstreamProtocolError):
            decode([piece] * 1024, decoder)
        assert tracemalloc.get_traced_memory()[1] < 4 << 20
    finally:
        tracemalloc.stop()


def test_the_usual_limit_is_four_mebibytes() -> None:
    decoder = NDJSONDecoder()
    long = b"x" * (3 << 20)
    assert decoder.feed(long + b"\n") == [(None, long)]
    with pytest.raises(UpstreamProtocolError):
        decoder.feed(b"x" * (5 << 20) + b"\n")


def test_the_limit_is_per_line() -> None:
    decoder = NDJSONDecoder(max_line=1000)
    for _ in range(100):
        assert decoder.feed(b"x" * 600) == []
        assert decoder.feed(b"x" * 300 + b"\n") == [(None, b"x" * 900)]
    decoder.feed(b"x" * 600)
    with pytest.raises(UpstreamProtocolError):
        decoder.feed(b"x" * 600 + b"\n")


def test_a_long_line_costs_linear_time() -> None:
    """If each read joined what was there before, this would copy five gigabytes."""
    decoder = NDJSONDecoder()
    for _ in range(100_000):
        decoder.feed(b"x")
    assert decoder.feed(b"\n") == [(None, b"x" * 100_000)]
