"""Group S, what the other tests have no figure for: an upstream that dies, hangs or babbles, and clients that leave."""

from __future__ import annotations

import asyncio
import gzip
import time

import pytest
from aiohttp import ClientResponse, ClientSession, TCPConnector

from tests.faults.footprint import Footprint, Stopwatch, connections_to
from tests.server.faulty_upstream import (
    Answer,
    Connection,
    FaultyUpstream,
    Visit,
    beginning,
    chat_event,
    reply,
    stream,
    whole,
)
from tests.server.gateway_process import PATIENCE, Gateway, Reply, turn, until

WIRES = {"lab": "chat", "ant": "anthropic"}
PROVIDERS = ["lab", "ant", "replies"]
ABORTED = 200
GONE_SECONDS, DEAD_SECONDS, SILENCE_SECONDS, SILENCE_MORE = 0.5, 3.0, 1.0, 2.0


async def never(connection: Connection) -> None:
    """No headers, ever."""
    await connection.gone.wait()


# -- clients that leave ------------------------------------------------------------------------------------


@pytest.mark.parametrize("streamed", [True, False], ids=["S2", "S3"])
async def test_each_upstream_hears_of_it_in_time(gateway: Gateway, upstream: FaultyUpstream, streamed: bool) -> None:
    """Before the first token, and without streaming; the slowest of ten on each wire."""

    async def leave(provider: str) -> float:
        script = upstream.script(never)
        async with ClientSession() as session:
            body = turn(f"{provider}/{script.model}", stream=streamed)
            asking = asyncio.create_task(session.post(f"{gateway.url}/v1/messages", json=body))
            visit = await script.visit()
            left = time.monotonic()
            asking.cancel()
            await asyncio.wait([asking])
            return await visit.closed() - left

    waits = [await leave(provider) for provider in PROVIDERS for _ in range(10)]
    assert max(waits) <= GONE_SECONDS


async def test_two_hundred_aborted_streams_leave_nothing_behind(
    gateway: Gateway, upstream: FaultyUpstream, footprint: Footprint
) -> None:
    """S4: two seconds later their sockets are gone, on both sides."""
    scripts = {name: upstream.script(stream(*beginning(wire, "Hi"), ending="open")) for name, wire in WIRES.items()}
    port = int(upstream.url.rpartition(":")[2])
    await asyncio.gather(*(gateway.ask("sonnet") for _ in range(5)))
    sockets, descriptors = connections_to(port), footprint.descriptors()
    async with ClientSession(connector=TCPConnector(limit=0)) as session:

        async def begin(provider: str) -> ClientResponse:
            body = turn(f"{provider}/{scripts[provider].model}", stream=True)
            response = await session.post(f"{gateway.url}/v1/messages", json=body)
            await response.content.readany()
            return response

        open_ones = await asyncio.gather(*(begin(list(WIRES)[number % 2]) for number in range(ABORTED)))
        assert connections_to(port) >= sockets + ABORTED
        assert len(open_ones) == ABORTED
        for response in open_ones:
            response.close()
    watch = Stopwatch(gateway.pid)

    async def back() -> bool:
        return connections_to(port) <= sockets + 4 and footprint.descriptors() <= descriptors + 8

    await until(back)
    assert watch.seconds() <= 2.0
    assert sum(len(script.visits) for script in scripts.values()) == ABORTED


# -- an upstream that dies ---------------------------------------------------------------------------------


def bytes_then(data: bytes, reset: bool = False) -> Answer:
    async def answer(connection: Connection) -> None:
        if data:
            await connection.send(data)
        await connection.end("reset" if reset else "cut")

    return answer


CHUNKED = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
DEATHS = {
    "S6 closed": bytes_then(b""),
    "S6 reset": bytes_then(b"", reset=True),
    "S6 half a status line": bytes_then(b"HTTP/1.1 2"),
    "S7 after the headers": bytes_then(CHUNKED),
    "S7 reset after the headers": bytes_then(CHUNKED, reset=True),
    "S7 after a comment": bytes_then(CHUNKED + b"6\r\n: hi\n\n\r\n"),
    "S7 in a chunk": bytes_then(CHUNKED + b"ff\r\ndata: {"),
}


@pytest.mark.parametrize("answer", DEATHS.values(), ids=DEATHS)
async def test_a_death_before_content_is_an_error_at_once(
    gateway: Gateway, upstream: FaultyUpstream, answer: Answer
) -> None:
    async def ask(provider: str, streamed: bool) -> float:
        watch = Stopwatch(gateway.pid)
        reply = await gateway.ask(f"{provider}/{upstream.script(answer).model}", stream=streamed)
        reply.error(502, "api_error")
        assert b"message_stop" not in reply.body
        return watch.seconds()

    waits = await asyncio.gather(*(ask(provider, streamed) for provider in PROVIDERS for streamed in (True, False)))
    assert max(waits) <= DEAD_SECONDS


SILENCES = {
    "S11b no headers": None,
    "S11 nothing but headers": (),
    "S11 in mid-stream": ("Hel", "lo"),
}


@pytest.mark.parametrize("said", SILENCES.values(), ids=SILENCES)
async def test_a_silent_upstream_is_given_up_in_time(
    gateway: Gateway, upstream: FaultyUpstream, said: tuple[str, ...] | None
) -> None:
    """The limit T is one second: the error is there within T + 2 s, and the upstream's connection is closed."""

    async def ask(provider: str, wire: str, streamed: bool) -> tuple[Reply, float, Visit]:
        pieces = beginning(wire, *said) if said else []
        script = upstream.script(never if said is None else stream(*pieces, ending="open"))
        watch = Stopwatch(gateway.pid)
        reply = await gateway.ask(f"{provider}/{script.model}", stream=streamed)
        waited = watch.seconds()
        visit = await script.visit()
        await visit.closed()
        assert watch.seconds() <= SILENCE_SECONDS + SILENCE_MORE
        return reply, waited, visit

    wires = {"hasty": "chat", "hasty-ant": "anthropic"}
    asked = [(provider, wire, streamed) for provider, wire in wires.items() for streamed in (True, False)]
    for (provider, _, streamed), (answer, waited, _) in zip(
        asked, await asyncio.gather(*(ask(*each) for each in asked)), strict=True
    ):
        assert waited <= SILENCE_SECONDS + SILENCE_MORE
        if said and streamed:
            reading = answer.reading(passed_through=provider == "hasty-ant")
            assert reading.error is not None
            assert reading.error["type"] == "timeout_error"
            assert reading.content[0]["text"] == "Hello"
            assert not reading.finished
        else:
            answer.error(504, "timeout_error")


# -- an upstream that babbles ------------------------------------------------------------------------------

PAGE = b"<!DOCTYPE html><html><body>" + b"<p>nginx/1.18.0 upstream-internal-10.0.0.7</p>" * 3000 + b"</body></html>"
BABBLE = {
    "502 HTML": reply(502, {"content-type": "text/html", "x-powered-by": "internal"}, PAGE),
    "200 HTML": reply(200, {"content-type": "text/html", "x-powered-by": "internal"}, PAGE),
}
LONG = {
    "text": reply(500, {"content-type": "text/plain", "x-powered-by": "internal"}, b"at internal.Handler\n" * 5000),
    "JSON": reply(503, {}, b'{"error": {"message": "' + b"full " * 20_000 + b'"}}'),
    "three bytes a letter": reply(503, {}, b'{"error": {"message": "' + "满".encode() * 20_000 + b'"}}'),
    "an event": stream(b'data: {"error":{"message":"' + b"full " * 20_000 + b'","code":503}}\n\n'),
}


@pytest.mark.parametrize("provider", PROVIDERS)
@pytest.mark.parametrize("answer", BABBLE.values(), ids=BABBLE)
async def test_a_page_is_no_error_text(
    gateway: Gateway, upstream: FaultyUpstream, provider: str, answer: Answer
) -> None:
    """S14: nothing of it is passed through."""
    await is_short(gateway, f"{provider}/{upstream.script(answer).model}")


@pytest.mark.parametrize("provider", PROVIDERS)
@pytest.mark.parametrize("answer", LONG.values(), ids=LONG)
async def test_no_error_is_longer_than_two_kilobytes(
    gateway: Gateway, upstream: FaultyUpstream, provider: str, answer: Answer
) -> None:
    """S14, for words that are worth passing on."""
    await is_short(gateway, f"{provider}/{upstream.script(answer).model}")


async def is_short(gateway: Gateway, model: str) -> None:
    for streamed in (True, False):
        mapped = await gateway.ask(model, stream=streamed)
        mapped.error()
        assert len(mapped.body) <= 2048
        assert b"<p>" not in mapped.body
        assert "x-powered-by" not in mapped.headers


# -- oddities that are none --------------------------------------------------------------------------------

PACKED = gzip.compress(b"".join(whole("chat", "Grüße, ", "€ 🎉")))
BEGUN, ENDED = whole("chat", "Grüße, ", "€ 🎉")[:2], whole("chat")
NO_CHOICES = b'data: {"id":"c","object":"chat.completion.chunk","choices":[],"usage":null}\n\n'
LEGAL = {
    "packed with gzip": stream(PACKED, headers={"content-type": "text/event-stream", "content-encoding": "gzip"}),
    "gzip in small pieces": stream(
        *(PACKED[at : at + 7] for at in range(0, len(PACKED), 7)),
        headers={"content-type": "text/event-stream", "content-encoding": "gzip"},
    ),
    "usage null": stream(*(piece.replace(b'"choices"', b'"usage": null, "choices"', 1) for piece in BEGUN), *ENDED),
    "no choices": stream(NO_CHOICES, BEGUN[0], NO_CHOICES, BEGUN[1], NO_CHOICES, *ENDED),
    "choices null": stream(NO_CHOICES.replace(b"[]", b"null"), *BEGUN, *ENDED),
    "an empty delta first": stream(chat_event({"role": "assistant", "content": ""}), *BEGUN, *ENDED),
    "fields of tomorrow": stream(*(piece.replace(b'{"id"', b'{"new":{"a":[1]},"id"', 1) for piece in BEGUN), *ENDED),
}


@pytest.mark.parametrize("answer", LEGAL.values(), ids=LEGAL)
async def test_more_legal_oddities(gateway: Gateway, upstream: FaultyUpstream, answer: Answer) -> None:
    """S20, as far as tests/server/test_upstream_faults.py has them not."""
    script = upstream.script(answer)
    reading = (await gateway.ask(f"lab/{script.model}")).reading()
    assert reading.finished
    assert reading.content[0]["text"] == "Grüße, € 🎉"
    assert reading.usage["input_tokens"] == 11
    folded = await gateway.ask(f"lab/{script.model}", stream=False)
    assert folded.json["content"][0]["text"] == "Grüße, € 🎉"


@pytest.mark.parametrize("provider", WIRES)
async def test_a_character_over_two_deltas_does_not_break_the_stream(
    gateway: Gateway, upstream: FaultyUpstream, provider: str
) -> None:
    """S24: each half of a surrogate pair is escaped in an event of its own."""
    pieces = whole(WIRES[provider], "before ", "HIGH", "LOW", " after")
    halves = [piece.replace(b"HIGH", b"\\ud83c").replace(b"LOW", b"\\udf89") for piece in pieces]
    script = upstream.script(stream(*halves))
    answer = await gateway.ask(f"{provider}/{script.model}")
    reading = answer.reading(passed_through=provider == "ant")
    assert reading.finished
    text = reading.content[0]["text"]
    assert text.startswith("before ")
    assert text.endswith(" after")
    folded = await gateway.ask(f"{provider}/{script.model}", stream=False)
    assert folded.json["content"][0]["text"].startswith("before ")


async def test_three_hundred_streams_are_open_at_once(gateway: Gateway, upstream: FaultyUpstream) -> None:
    """S28: no pool makes the last of them wait for the first."""
    gate = upstream.gate()

    async def held(connection: Connection) -> None:
        await connection.start()
        await connection.chunk(b"".join(beginning("chat", "Hi")))
        await gate.wait()
        await connection.chunk(b"".join(whole("chat", " there")))
        await connection.end("whole")

    script = upstream.script(held)
    waiting = 300

    async def client(session: ClientSession) -> str:
        nonlocal waiting
        body = turn(f"lab/{script.model}", stream=True)
        async with session.post(f"{gateway.url}/v1/messages", json=body) as response:
            received = await response.content.readany()
            assert received
            waiting -= 1
            if waiting == 0:
                gate.open()
            whole_body = received + await response.read()
        return str(Reply(response.status, response.headers, whole_body).reading().content[0]["text"])

    async with ClientSession(connector=TCPConnector(limit=0), timeout=PATIENCE) as session:
        texts = await asyncio.gather(*(client(session) for _ in range(300)))
    assert set(texts) == {"Hi there"}


