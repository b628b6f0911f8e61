"""What is no valid HTTP: refused with Anthropic's envelope, the connection closed, nothing smuggled."""

from __future__ import annotations

import asyncio

import orjson
import pytest

from tests.server.gateway_process import TOKEN, Gateway, raw, turn

BODY = orjson.dumps(turn("sonnet"))
START = b"POST /v1/messages HTTP/1.1\r\nhost: localhost\r\n"
HEAD = START + b"x-api-key: %b\r\ncontent-length: %d\r\n" % (TOKEN.encode(), len(BODY))
POST = HEAD + b"\r\n" + BODY
SMUGGLED = b"GET /v1/models HTTP/1.1\r\nhost: localhost\r\nx-api-key: %b\r\n\r\n" % TOKEN.encode()


def chunked(*fields: bytes, body: bytes = b"0\r\n\r\n") -> bytes:
    return b"POST /v1/messages HTTP/1.1\r\nhost: localhost\r\n" + b"".join(f + b"\r\n" for f in fields) + b"\r\n" + body


MALFORMED = {
    "no HTTP at all": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
    "one word": b"HELLO\r\n\r\n",
    "no version": b"GET /healthz\r\n\r\n",
    "unknown version": b"GET /healthz HTTP/9.9\r\nhost: localhost\r\n\r\n",
    "not HTTP but alike": b"GET /healthz ICY/1.1\r\nhost: localhost\r\n\r\n",
    "blank in the path": b"GET /heal thz HTTP/1.1\r\nhost: localhost\r\n\r\n",
    "unknown method": b"G\x00T /healthz HTTP/1.1\r\nhost: localhost\r\n\r\n",
    "bare LF": b"GET /healthz HTTP/1.1\nhost: localhost\n\n",
    "bare LF in a field": b"GET /healthz HTTP/1.1\r\nhost: localhost\nx-a: b\r\n\r\n",
    "bare CR": b"GET /healthz HTTP/1.1\r\nhost: x\rx-a: b\r\n\r\n",
    "NUL in a field": b"GET /healthz HTTP/1.1\r\nhost: localhost\r\nx-a: \x00b\r\n\r\n",
    "field without colon": b"GET /healthz HTTP/1.1\r\nhost: localhost\r\nnonsense\r\n\r\n",
    "blank before the colon": b"GET /healthz HTTP/1.1\r\nhost : x\r\n\r\n",
    "folded field": b"GET /healthz HTTP/1.1\r\nhost: localhost\r\nx-a: b\r\n c\r\n\r\n",
    "two hosts": b"GET /healthz HTTP/1.1\r\nhost: localhost\r\nhost: y\r\n\r\n",
    "length and chunks": chunked(b"content-length: 4", b"transfer-encoding: chunked"),
    "chunks and length": chunked(b"transfer-encoding: chunked", b"content-length: 4"),
    "two lengths": chunked(b"content-length: 5", b"content-length: 0"),
    "length with a sign": chunked(b"content-length: +5"),
    "negative length": chunked(b"content-length: -1"),
    "length in hexadecimal": chunked(b"content-length: 0x5"),
    "length that overflows": chunked(b"content-length: 99999999999999999999999"),
    "unknown coding": chunked(b"transfer-encoding: xchunked"),
    "coding after chunked": chunked(b"transfer-encoding: chunked, identity"),
    "two codings": chunked(b"transfer-encoding: chunked", b"transfer-encoding: identity"),
    "vertical tab in the coding": chunked(b"transfer-encoding: \x0bchunked"),
    "a huge field": b"GET /healthz HTTP/1.1\r\nhost: localhost\r\nx-a: " + b"b" * 65536 + b"\r\n\r\n",
    "a huge path": b"GET /" + b"b" * 65536 + b" HTTP/1.1\r\nhost: localhost\r\n\r\n",
    "500 fields": b"GET /healthz HTTP/1.1\r\nhost: localhost\r\n" + b"x-a: b\r\n" * 500 + b"\r\n",
}


@pytest.mark.parametrize("data", MALFORMED.values(), ids=MALFORMED)
async def test_refused_and_closed(gateway: Gateway, data: bytes) -> None:
    """One error, and the request that was hidden behind it is not answered."""
    replies = await raw(gateway, data + SMUGGLED)
    assert len(replies) == 1
    message = replies[0].error(kind="invalid_request_error")
    assert replies[0].status in (400, 417, 431)
    assert replies[0].headers["request-id"].startswith("req_")
    assert len(message) < 500
    assert "\n" not in message
    assert TOKEN not in message


BAD_CHUNKS = {
    "size that is no number": b"zz\r\n{}\r\n0\r\n\r\n",
    "negative size": b"-1\r\n{}\r\n0\r\n\r\n",
    "size with a prefix": b"0x2\r\n{}\r\n0\r\n\r\n",
    "size that overflows": b"fffffffffffffffff\r\n{}\r\n0\r\n\r\n",
    "no end of the chunk": b"2\r\n{}XX0\r\n\r\n",
    "bare LF": b"2\n{}\n0\n\n",
}


@pytest.mark.parametrize("chunks", BAD_CHUNKS.values(), ids=BAD_CHUNKS)
async def test_a_broken_chunk_is_refused(gateway: Gateway, chunks: bytes) -> None:
    data = chunked(b"x-api-key: " + TOKEN.encode(), b"transfer-encoding: chunked", body=chunks)
    replies = await raw(gateway, data + SMUGGLED)
    assert len(replies) == 1
    replies[0].error(400, "invalid_request_error")


async def test_the_edge_of_what_is_taken(gateway: Gateway) -> None:
    """Long lists of betas and corporate headers pass."""
    fields = b"anthropic-beta: " + b"some-beta-2026-01-01," * 150 + b"\r\ncookie: " + b"c" * 16_000 + b"\r\n"
    fields += b"".join(b"x-corporate-%d: y\r\n" % number for number in range(100))
    replies = await raw(gateway, HEAD + b"connection: close\r\n" + fields + b"\r\n" + BODY)
    assert [reply.status for reply in replies] == [200]


async def test_bodies_may_be_chunked(gateway: Gateway) -> None:
    body = b"".join(b"%x\r\n%b\r\n" % (len(BODY[at : at + 7]), BODY[at : at + 7]) for at in range(0, len(BODY), 7))
    fields = (b"x-api-key: " + TOKEN.encode(), b"transfer-encoding: chunked", b"connection: close")
    replies = await raw(gateway, chunked(*fields, body=body + b"0\r\n\r\n"))
    assert replies[0].json["content"][0]["text"] == "echo: Hello"


async def test_pipelined_requests_are_answered_in_order(gateway: Gateway) -> None:
    replies = await raw(gateway, POST + SMUGGLED + HEAD + b"connection: close\r\n\r\n" + BODY)
    assert [reply.status for reply in replies] == [200, 200, 200]
    assert replies[1].json["object"] == "list"
    assert len({reply.headers["request-id"] for reply in replies}) == 3


async def test_expect_100_continue(gateway: Gateway) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
    writer.write(HEAD + b"connection: close\r\nexpect: 100-continue\r\n\r\n")
    assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 100 ")
    writer.write(BODY)
    assert (await reader.read()).startswith(b"HTTP/1.1 200 ")
    writer.close()


async def test_another_expectation_is_refused_in_the_same_shape(gateway: Gateway) -> None:
    replies = await raw(gateway, HEAD + b"connection: close\r\nexpect: the-impossible\r\n\r\n" + BODY)
    assert len(replies) == 1
    replies[0].error(417, "invalid_request_error")


@pytest.mark.parametrize("sent", [b"", b"POST /v1/messages HT", HEAD, HEAD + b"\r\n", POST[:-5]])
async def test_a_client_that_leaves_early_harms_nobody(gateway: Gateway, sent: bytes) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
    writer.write(sent)
    await writer.drain()
    writer.transport.abort()
    assert (await gateway.ask("sonnet")).status == 200
    assert await reader.read() == b""


async def test_http_1_0(gateway: Gateway) -> None:
    data = HEAD.replace(b"HTTP/1.1", b"HTTP/1.0") + b"\r\n" + BODY
    assert [reply.status for reply in await raw(gateway, data)] == [200]
