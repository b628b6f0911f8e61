"""S29: a stream with one event in ten seconds goes on for half an hour, on both wires, and completes.

    python -m tests.soak.long_stream [--minutes 30]

Beside it, two streams say nothing for as long as they may (idle_timeout is 300 s), then go on: their clients hear
pings all the while. Prints figures; ends with 1 when a promise broke.
"""

from __future__ import annotations

import asyncio
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

from aiohttp import ClientSession, ClientTimeout

from tests.server.faulty_upstream import (
    ANTHROPIC_END,
    CHAT_END,
    Answer,
    Connection,
    FaultyUpstream,
    beginning,
)
from tests.server.gateway_process import Gateway, Reply, running_gateway, turn
from tests.soak.figures import Verdict, minutes_asked

EVERY = 10.0
LONGEST_SILENCE = 10.5
QUIET = 290.0
CONFIG = """\
providers:
  lab: {{api: openai-chat, base_url: "{url}/v1"}}
  ant: {{api: anthropic, base_url: "{url}"}}
models: {{sonnet: lab/m}}
"""
WIRES = {"lab": "chat", "ant": "anthropic"}


def slow(wire: str, words: list[str], every: float) -> Answer:
    """One word in ``every`` seconds."""

    async def answer(connection: Connection) -> None:
        await connection.start()
        pieces = beginning(wire, *words)
        await connection.chunk(b"".join(pieces[: -len(words)]) or b": begun\n\n")
        for piece in pieces[-len(words) :]:
            await connection.chunk(piece)
            await asyncio.sleep(every)
        await connection.chunk(b"".join(CHAT_END if wire == "chat" else ANTHROPIC_END))
        await connection.end("whole")

    return answer


@dataclass
class Listened:
    """What one client heard."""

    body: bytes = b""
    silences: list[float] = field(default_factory=list)
    seconds: float = 0.0


async def listen(gateway: Gateway, model: str) -> Listened:
    heard = Listened()
    began = last = time.monotonic()
    async with ClientSession(timeout=ClientTimeout(total=None)) as session:
        url = f"{gateway.url}/v1/messages"
        async with session.post(url, json=turn(model, stream=True)) as response:
            async for data in response.content.iter_any():
                heard.silences.append(time.monotonic() - last)
                last = time.monotonic()
                heard.body += data
    heard.seconds = time.monotonic() - began
    return heard


async def run(gateway: Gateway, upstream: FaultyUpstream, seconds: float, verdict: Verdict) -> None:
    words = [f"[{number}]" for number in range(max(2, round(seconds / EVERY)))]
    quiet = min(QUIET, seconds / 2)
    streams: dict[str, tuple[str, list[str], float]] = {}
    for provider in WIRES:
        streams[f"{provider}, one event in {EVERY:g} s"] = (provider, words, EVERY)
        streams[f"{provider}, silent for {quiet:g} s"] = (provider, ["[0]", "[1]"], quiet)

    async def one(provider: str, said: list[str], every: float) -> Listened:
        script = upstream.script(slow(WIRES[provider], said, every))
        return await listen(gateway, f"{provider}/{script.model}")

    for (name, (provider, said, _)), heard in zip(
        streams.items(), await asyncio.gather(*(one(*stream) for stream in streams.values())), strict=True
    ):
        reply = Reply(200, {"content-type": "text/event-stream"}, heard.body)
        reading = reply.reading(passed_through=provider == "ant")
        whole = reading.finished and reading.content[0]["text"] == "".join(said)
        verdict.figure(f"{name}: seconds", heard.seconds)
        verdict.figure(f"{name}: events", len(said), whole, "all of them, and a whole end")
        longest = max(heard.silences)
        verdict.figure(f"{name}: longest silence", longest, longest <= LONGEST_SILENCE, f"at most {LONGEST_SILENCE} s")


def main() -> None:
    minutes = minutes_asked("S29: a stream of half an hour completes.", 30.0)
    verdict = Verdict()
    with (
        FaultyUpstream() as upstream,
        tempfile.TemporaryDirectory() as folder,
        running_gateway(Path(folder), CONFIG.format(url=upstream.url)) as gateway,
    ):
        asyncio.run(run(gateway, upstream, minutes * 60, verdict))
    verdict.exit()


if __name__ == "__main__":
    main()
