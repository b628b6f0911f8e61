"""Garbage from either side: an Anthropic error or a correct answer, never a failure of our own."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager

import orjson
import pytest
from aiohttp import ClientSession

from tests.chat_streams import mutate
from tests.recordings import TOOLS, recordings
from tests.server.faulty_upstream import FaultyUpstream, answer_by_path, stream, whole
from tests.server.gateway_process import Gateway, Reply, turn
from tests.server.mutated_requests import mutated

REQUESTS = 2_000
STREAMS = 2_000
BATCH = 500
CLIENTS = 6
ROUTES = ["sonnet", "lab/any", "ant/any"]
WIRES = {"lab": "chat", "ant": "anthropic"}
LARGEST_GROWTH_MIB = 64


async def in_parallel(seeds: range, one: Callable[[ClientSession, int], Awaitable[None]]) -> None:
    """A few clients that share the seeds. Raises AssertionError with every seed that failed."""
    left = iter(seeds)
    failed: dict[int, Exception] = {}

    async def client(session: ClientSession) -> None:
        for seed in left:
            try:
                await one(session, seed)
            except Exception as failure:
                failed[seed] = failure

    async with ClientSession() as session:
        await asyncio.gather(*(client(session) for _ in range(CLIENTS)))
    if failed:
        raise AssertionError("\n".join(f"seed {seed}: {failure!r}"[:600] for seed, failure in failed.items()))


async def post(session: ClientSession, gateway: Gateway, body: bytes) -> Reply:
    async with session.post(f"{gateway.url}/v1/messages", data=body, headers=gateway.headers()) as response:
        return Reply(response.status, response.headers, await response.read())


def check(reply: Reply, *, passed_through: bool) -> None:
    """A whole answer, or an error in Anthropic's shape that is no defect of ours."""
    if reply.status != 200:
        assert "a defect of the gateway" not in reply.error()
    elif reply.headers["content-type"].startswith("text/event-stream"):
        reply.reading(passed_through=passed_through)
    else:
        message = reply.json
        assert message["type"] == "message"
        assert message["role"] == "assistant"
        assert isinstance(message["content"], list)
        assert isinstance(message["stop_reason"], str)
        assert message["usage"]["input_tokens"] >= 0


@contextmanager
def clean(gateway: Gateway) -> Iterator[None]:
    """The process lives on, logs no traceback, and does not grow."""
    logged, memory = len(gateway.log()), gateway.resident_mib()
    yield
    assert gateway.process is not None
    assert gateway.process.poll() is None
    log = gateway.log()[logged:]
    assert "Traceback" not in log, log[log.index("Traceback") :][:6000]
    assert gateway.resident_mib() - memory < LARGEST_GROWTH_MIB


@pytest.mark.parametrize("first", range(0, REQUESTS, BATCH))
async def test_broken_requests(gateway: Gateway, upstream: FaultyUpstream, first: int) -> None:
    """The upstreams answer every one of them with 200, so a 5xx could only be ours."""
    script = upstream.script(answer_by_path(stream(*whole("chat", "Hi")), stream(*whole("anthropic", "Hi"))), "*")
    taken = 0

    async def one(session: ClientSession, seed: int) -> None:
        nonlocal taken
        route = ROUTES[seed % 3]
        reply = await post(session, gateway, mutated(seed, route))
        assert reply.status < 500, reply
        check(reply, passed_through=route.startswith("ant"))
        taken += reply.status == 200

    try:
        with clean(gateway):
            await in_parallel(range(first, first + BATCH), one)
    finally:
        upstream.forget(script)
    # Neither all refused nor all taken: the damage reaches the translators.
    assert BATCH // 10 < taken < BATCH - BATCH // 10


@pytest.mark.parametrize("first", range(0, STREAMS, BATCH))
async def test_broken_upstream_streams(gateway: Gateway, upstream: FaultyUpstream, first: int) -> None:
    recorded = recordings("message", "error_mid_stream")
    bodies = {wire: [recording.body for recording in recorded if recording.wire == wire] for wire in WIRES.values()}
    finished = 0

    async def one(session: ClientSession, seed: int) -> None:
        nonlocal finished
        provider = ("lab", "lab", "ant")[seed % 3]
        originals = bodies[WIRES[provider]]
        body = mutate(originals[seed % len(originals)], seed)
        middle = len(body) * (seed % 7) // 7
        pieces = [piece for piece in (body[:middle], body[middle:]) if piece]
        script = upstream.script(stream(*pieces, ending="cut" if seed % 5 == 0 else "whole"))
        request = turn(f"{provider}/{script.model}", stream=seed % 4 != 0, tools=TOOLS)
        reply = await post(session, gateway, orjson.dumps(request))
        upstream.forget(script)
        check(reply, passed_through=provider == "ant")
        finished += b"message_stop" in reply.body or b'"role":"assistant"' in reply.body

    with clean(gateway):
        await in_parallel(range(first, first + BATCH), one)
    assert BATCH // 10 < finished < BATCH - BATCH // 10
