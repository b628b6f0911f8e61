"""What happens while nothing happens: pings, patience, and that no event waits for another."""

from __future__ import annotations

from typing import Any

import pytest

from gateway.server import client_stream, relay
from tests.server.faulty_upstream import (
    ANTHROPIC_END,
    CHAT_END,
    Connection,
    FaultyUpstream,
    Gate,
    beginning,
    chat_event,
    chat_texts,
    reply,
    stream,
    whole,
)
from tests.server.gateway_process import Gateway, Reply, gateway_in_process, open_stream

CONFIG = """\
providers:
  lab: {{api: openai-chat, base_url: "{url}/v1"}}
models: {{sonnet: lab/m}}
"""


def silent(gate: Gate, before: list[bytes] | None, after: list[bytes]) -> Any:
    """An answer that stops until the gate opens; ``before`` None: not even headers."""

    async def answer(connection: Connection) -> None:
        if before is not None:
            await connection.start()
            for piece in before:
                await connection.chunk(piece)
        await gate.wait()
        if before is None:
            await connection.start()
        for piece in after:
            await connection.chunk(piece)
        await connection.end("whole")

    return answer


async def read_until(response: Any, words: bytes, received: bytes = b"") -> bytes:
    """What came up to and with ``words``."""
    while words not in received:
        data = await response.content.readany()
        assert data, received
        received += data
    return received


SILENCES = {
    "before the headers": (None, whole("chat", "Hi")),
    "before the first event": ([], whole("chat", "Hi")),
    "in mid-stream": (chat_texts(["H"]), whole("chat", "i")),
}


@pytest.mark.parametrize(("before", "after"), SILENCES.values(), ids=SILENCES)
async def test_a_waiting_client_hears_pings(
    upstream: FaultyUpstream, before: list[bytes] | None, after: list[bytes]
) -> None:
    gate = upstream.gate()
    script = upstream.script(silent(gate, before, after))
    async with (
        gateway_in_process(CONFIG.format(url=upstream.url), ping_interval=0.05) as gateway,
        open_stream(gateway, f"lab/{script.model}") as response,
    ):
        received = await read_until(response, b"event: ping")
        gate.open()
        reply = Reply(response.status, response.headers, received + await response.read())
    reading = reply.reading()
    assert reading.finished
    assert reading.content[0]["text"] == "Hi"


@pytest.mark.parametrize(("before", "after"), SILENCES.values(), ids=SILENCES)
async def test_a_client_that_takes_pings_for_silence_gets_an_event(
    upstream: FaultyUpstream, monkeypatch: pytest.MonkeyPatch, before: list[bytes] | None, after: list[bytes]
) -> None:
    monkeypatch.setattr(client_stream, "EVENT_SECONDS", 0.08)
    gate = upstream.gate()
    script = upstream.script(silent(gate, before, after))
    async with (
        gateway_in_process(CONFIG.format(url=upstream.url), ping_interval=0.02) as gateway,
        open_stream(gateway, f"lab/{script.model}") as response,
    ):
        received = b""
        for _ in range(3):
            received += await read_until(response, b'":""}}')
        gate.open()
        reply = Reply(response.status, response.headers, received + await response.read())
    assert b"event: ping" in received
    reading = reply.reading()
    assert reading.finished
    assert [block["text"] for block in reading.content if block["type"] == "text"] == ["Hi"]
    assert [block["thinking"] for block in reading.content if block["type"] == "thinking"] in ([], [""])


@pytest.mark.parametrize("refusal", [503, 400])
async def test_after_such_an_event_no_other_attempt_is_made(
    upstream: FaultyUpstream, monkeypatch: pytest.MonkeyPatch, refusal: int
) -> None:
    """A second ``message_start`` would follow the first."""
    monkeypatch.setattr(client_stream, "EVENT_SECONDS", 0.04)
    gate = upstream.gate()

    async def answer(connection: Connection) -> None:
        await gate.wait()
        message = b'{"error": {"message": "Unsupported parameter: \'temperature\' is not supported."}}'
        await reply(refusal, {}, message)(connection)

    script = upstream.script(answer)
    async with (
        gateway_in_process(CONFIG.format(url=upstream.url), ping_interval=0.02) as gateway,
        open_stream(gateway, f"lab/{script.model}", temperature=0.5) as response,
    ):
        received = await read_until(response, b'":""}}')
        gate.open()
        answered = Reply(response.status, response.headers, received + await response.read())
    reading = answered.reading()
    assert reading.error is not None
    assert [block["type"] for block in reading.content] == ["thinking"]
    assert len(script.visits) == 1


async def test_after_a_ping_a_failure_is_an_event(upstream: FaultyUpstream) -> None:
    """The status line is out: the error cannot be an HTTP status any more."""
    gate = upstream.gate()
    script = upstream.script(silent(gate, [], [b'data: {"error":{"message":"full","code":529}}\n\n']))
    async with (
        gateway_in_process(CONFIG.format(url=upstream.url), ping_interval=0.05) as gateway,
        open_stream(gateway, f"lab/{script.model}") as response,
    ):
        received = await read_until(response, b"event: ping")
        gate.open()
        reading = Reply(response.status, response.headers, received + await response.read()).reading()
    assert reading.start is None
    assert reading.error is not None
    assert reading.error["type"] == "overloaded_error"


@pytest.mark.parametrize("left", ["finish without [DONE]", "finish and usage without [DONE]"])
async def test_an_answer_without_done_ends_after_a_grace(
    upstream: FaultyUpstream, monkeypatch: pytest.MonkeyPatch, left: str
) -> None:
    """The upstream said that it is finished and keeps the connection open all the same."""
    monkeypatch.setattr(relay, "GRACE_SECONDS", 0.05)
    usage = b'data: {"choices":[],"usage":{"prompt_tokens":77,"completion_tokens":5}}\n\n'
    pieces = [*beginning("chat", "Hi"), chat_event({}, "stop"), *([usage] if "usage" in left else [])]
    script = upstream.script(stream(*pieces, ending="open"))
    async with gateway_in_process(CONFIG.format(url=upstream.url)) as gateway:
        for _ in range(2):
            reading = (await gateway.ask(f"lab/{script.model}")).reading()
            assert reading.finished
            assert reading.content[0]["text"] == "Hi"
            assert "usage" not in left or reading.usage["input_tokens"] == 77
            await (await script.visit()).closed()
        folded = await gateway.ask(f"lab/{script.model}", stream=False)
        assert folded.json["stop_reason"] == "end_turn"
        await (await script.visit()).closed()


@pytest.mark.parametrize("before", [[], chat_texts(["Hel", "lo"])], ids=["before the first event", "in mid-stream"])
async def test_an_upstream_that_fell_silent_is_given_up(
    gateway: Gateway, upstream: FaultyUpstream, before: list[bytes]
) -> None:
    """After ``idle_timeout``, and its connection is closed."""
    script = upstream.script(stream(*before, ending="open"))
    answer = await gateway.ask(f"impatient/{script.model}")
    if before:
        reading = answer.reading()
        assert reading.error is not None
        assert reading.error["type"] == "timeout_error"
        assert reading.content[0]["text"] == "Hello"
    else:
        assert "impatient" in answer.error(504, "timeout_error")
    await (await script.visit()).closed()
    (await gateway.ask(f"impatient/{script.model}", stream=False)).error(504, "timeout_error")
    await (await script.visit()).closed()


@pytest.mark.parametrize("provider", ["lab", "ant"])
async def test_no_event_waits_for_another(gateway: Gateway, upstream: FaultyUpstream, provider: str) -> None:
    """Each piece is sent only when the client has read the one before."""
    wire = "chat" if provider == "lab" else "anthropic"
    gates = [upstream.gate() for _ in range(12)]
    words = [f"word{number}" for number in range(12)]

    async def answer(connection: Connection) -> None:
        await connection.start()
        pieces = beginning(wire, *words)
        if pieces[:-12]:
            await connection.chunk(b"".join(pieces[:-12]))
        for piece, gate in zip(pieces[-12:], gates, strict=True):
            await gate.wait()
            await connection.chunk(piece)
        await connection.chunk(b"".join(CHAT_END if wire == "chat" else ANTHROPIC_END))
        await connection.end("whole")

    script = upstream.script(answer)
    # The gateway holds its headers until the first event, so that one is not held back.
    gates[0].open()
    received = b""
    async with open_stream(gateway, f"{provider}/{script.model}") as response:
        for word, gate in zip(words, [*gates[1:], gates[0]], strict=True):
            received = await read_until(response, word.encode(), received)
            gate.open()
        received += await response.read()
    assert Reply(200, response.headers, received).reading(passed_through=wire == "anthropic").finished
