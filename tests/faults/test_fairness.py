"""What one user takes, and what the others notice of it (O7); what a provider may take, and who answers then (X17)."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing, suppress
from http.client import HTTPConnection
from pathlib import Path
from statistics import quantiles

import orjson
import pytest
from aiohttp import ClientError, ClientResponse, ClientSession

from tests.faults.footprint import Stopwatch
from tests.faults.metered import takes
from tests.faults.team import providers, settled, team, x_api_key
from tests.server.faulty_upstream import Connection, FaultyUpstream, beginning, stream, whole
from tests.server.gateway_process import PATIENCE, Gateway, turn, until
from tests.server.service import ask_often
from tests.server.test_admin import ADMIN, scrape
from tests.server.test_metrics import value
from tests.server.test_workers import workers

STREAMS, OTHERS_SECONDS = 60, 0.25
QUESTIONS = 50
PLACES = 12


# -- the other users (O7) ----------------------------------------------------------------------------------


async def ticking(connection: Connection) -> None:
    """Ten events a second, for as long as somebody listens."""
    await connection.start()
    while not connection.gone.is_set():
        await connection.chunk(b"".join(beginning("chat", "tick ")))
        await asyncio.sleep(0.1)


@asynccontextmanager
async def streams_of(gateway: Gateway, key: str, model: str) -> AsyncIterator[list[int]]:
    """STREAMS of one user, which are read; how many reads each has had."""
    reads = [0] * STREAMS
    flowing = asyncio.Event()

    async def read(session: ClientSession, number: int) -> None:
        body = turn(model, stream=True)
        async with session.post(f"{gateway.url}/v1/messages", json=body, headers=x_api_key(key)) as answer:
            assert answer.status == 200
            async for _ in answer.content.iter_any():
                reads[number] += 1
                if min(reads) > 1:
                    flowing.set()

    async with ClientSession(timeout=PATIENCE) as session:
        readers = [asyncio.create_task(read(session, number)) for number in range(STREAMS)]
        await asyncio.wait((asyncio.ensure_future(flowing.wait()), *readers), return_when=asyncio.FIRST_COMPLETED)
        assert flowing.is_set()
        yield reads
        assert not [reader for reader in readers if reader.done()]
        for reader in readers:
            reader.cancel()
        await asyncio.wait(readers)


def wait_of_others(gateway: Gateway, key: str, model: str) -> list[float]:
    """Another user's questions, one after the other: the seconds until each answer was there."""
    waits = []
    connection = HTTPConnection("127.0.0.1", gateway.port, timeout=20)
    for number in range(QUESTIONS):
        watch = Stopwatch(gateway.pid)
        body = turn(model, stream=number % 2 == 0)
        connection.request("POST", "/v1/messages", orjson.dumps(body), {"x-api-key": key})
        response = connection.getresponse()
        assert response.status == 200
        response.read()
        waits.append(watch.seconds())
    connection.close()
    return waits


async def test_sixty_streams_of_one_user_hold_no_other_up(upstream: FaultyUpstream, tmp_path: Path) -> None:
    """O7: the ninth in ten of another user's answers is there within a quarter of a second."""
    ticks, answers = upstream.script(ticking), upstream.script(stream(*whole("chat", "Hi")))
    config = f"providers:\n{providers(upstream.url)}models: {{sonnet: echo/echo}}\n"
    with team(tmp_path, config, anna="", ben="--concurrency 2") as (gateway, texts):
        async with streams_of(gateway, texts["anna"], f"lab/{ticks.model}") as reads:
            before = list(reads)
            waits = await asyncio.to_thread(wait_of_others, gateway, texts["ben"], f"lab/{answers.model}")
            assert all(now > then for now, then in zip(reads, before, strict=True)), "a stream stood still"
        assert quantiles(waits, n=10)[-1] < OTHERS_SECONDS


@pytest.mark.parametrize("sessions", [False, True], ids=["no session", "a session for each"])
async def test_who_waits_with_many_delays_another_by_one(
    upstream: FaultyUpstream, tmp_path: Path, sessions: bool
) -> None:
    """A target with one place, and twenty requests of one user before it: another user's is the next but one."""
    gate = upstream.gate()
    order: list[str] = []

    async def one_by_one(connection: Connection) -> None:
        assert connection.visit is not None
        order.append(connection.visit.json["messages"][0]["content"])
        await gate.wait()
        await stream(*whole("chat", "Hi"))(connection)

    script = upstream.script(one_by_one)
    one = f"{{use: lab/{script.model}, profile: {{max_concurrency: 1, queue_timeout: 20}}}}"
    config = f"{ADMIN}providers:\n{providers(upstream.url)}models: {{sonnet: {one}}}\n"
    with team(tmp_path, config, anna="", ben="") as (gateway, texts):

        def ask(name: str, number: int) -> asyncio.Task[int]:
            session = orjson.dumps({"session_id": f"{name}-{number}"}).decode()
            more = {"metadata": {"user_id": session}} if sessions else {}
            body = turn("sonnet", f"{name} {number}", **more)

            async def asking() -> int:
                return (await gateway.send("POST", "/v1/messages", body, x_api_key(texts[name]))).status

            return asyncio.create_task(asking())

        async def under_way(count: int) -> bool:
            return value(await scrape(gateway), "gateway_inflight_streams") == count

        asked = [ask("anna", number) for number in range(20)]
        await until(lambda: under_way(20))
        asked.append(ask("ben", 0))
        await until(lambda: under_way(21))
        gate.open()
        assert await asyncio.gather(*asked) == [200] * 21
    assert order.index("ben 0") <= 2, order


# -- limits of a provider ----------------------------------------------------------------------------------

LIMITED = """\
providers:
  small: {{api: openai-chat, base_url: "{url}/v1", limits: {limits}}}
{providers}\
models:
  sonnet: [small/{model}, lab/{model}]
  haiku: small/{model}
"""
PROVIDER_LIMITS = {
    "rpm": ("{rpm: 1}", 429, "rate_limit_error", "1 request a minute"),
    "tpm": ("{tpm: 900}", 429, "rate_limit_error", "900 tokens a minute"),
    "budget": ("{budget: 1ktokens/day}", 402, "billing_error", "1,000 tokens a day"),
}


@pytest.mark.parametrize(("limits", "status", "kind", "words"), PROVIDER_LIMITS.values(), ids=PROVIDER_LIMITS)
async def test_where_a_provider_has_no_room_the_next_target_answers(
    upstream: FaultyUpstream, tmp_path: Path, limits: str, status: int, kind: str, words: str
) -> None:
    script = upstream.script(stream(*takes(500, 1000)))
    config = LIMITED.format(url=upstream.url, limits=limits, providers=providers(upstream.url), model=script.model)
    with team(tmp_path, config, anna="", ben="") as (gateway, texts):
        first, second = f"small/{script.model}", f"lab/{script.model}"
        answers = [await gateway.ask("sonnet", headers=x_api_key(texts["anna"])) for _ in range(4)]
        answers += [await gateway.ask("sonnet", stream=False, headers=x_api_key(texts["ben"])) for _ in range(2)]
        assert [answer.headers.get("x-gateway-target") for answer in answers] == [first, *[second] * 5]
        assert all(first in answer.headers["x-gateway-tried"] for answer in answers[1:])
        # Whoever has no other target is told, and it is the provider's limit, not the key's.
        for streamed in (True, False):
            refused = await gateway.ask("haiku", stream=streamed, headers=x_api_key(texts["anna"]))
            message = refused.error(status, kind)
            assert "of provider small" in message
            assert words in message
        assert len(script.visits) == 6
        found = await settled(tmp_path, 8)
    assert [row["provider"] for row in found] == ["small", *["lab"] * 5, "small", "small"]
    assert [row["outcome"] for row in found] == [*["ok"] * 6, "limited", "limited"]
    assert sum(row["input_tokens"] + row["output_tokens"] for row in found) == 6 * 1500


async def test_places_of_a_provider(upstream: FaultyUpstream, tmp_path: Path) -> None:
    gate = upstream.gate()

    async def waiting(connection: Connection) -> None:
        await gate.wait()
        await stream(*whole("chat", "Hi"))(connection)

    script = upstream.script(waiting)
    config = LIMITED.format(
        url=upstream.url, limits="{concurrency: 2}", providers=providers(upstream.url), model=script.model
    )
    with team(tmp_path, config, anna="") as (gateway, texts):
        gateway.token = texts["anna"]
        asking = asyncio.create_task(ask_often(gateway, 6, 6))
        for _ in range(6):
            await script.visit()
        gate.open()
        assert await asking == {f"small/{script.model}": 2, f"lab/{script.model}": 4}
        assert await ask_often(gateway, 2, 2) == {f"small/{script.model}": 2}


# -- several workers ---------------------------------------------------------------------------------------


async def test_a_budget_is_one_for_all_workers(upstream: FaultyUpstream, tmp_path: Path) -> None:
    """Two requests spend it, whichever worker has them."""
    script = upstream.script(stream(*takes(500, 1000)))
    config = f"providers:\n{providers(upstream.url)}models: {{sonnet: lab/{script.model}}}\n"
    with team(tmp_path, config, "--workers", "2", anna="--budget 2ktokens/day") as (gateway, texts):
        gateway.token = texts["anna"]
        assert [(await gateway.ask("sonnet")).status for _ in range(2)] == [200, 200]
        await settled(tmp_path, 2)
        for _ in range(10):
            assert "key anna, 2,000 tokens a day, is spent (3,000 tokens)" in (await gateway.ask("sonnet")).error(402)
        assert len(script.visits) == 2


async def test_a_rate_is_one_for_all_workers(upstream: FaultyUpstream, tmp_path: Path) -> None:
    script = upstream.script(stream(*whole("chat", "Hi")))
    config = f"providers:\n{providers(upstream.url)}models: {{sonnet: lab/{script.model}}}\n"
    with team(tmp_path, config, "--workers", "2", anna="--rpm 20", ben="") as (gateway, texts):
        gateway.token = texts["anna"]
        watch = Stopwatch(gateway.pid)
        answered = await ask_often(gateway, 80, 8)
        earned = watch.seconds() * 20 / 60
        assert 20 <= answered[f"lab/{script.model}"] <= 20 + earned + 1
        gateway.token = texts["ben"]
        assert await ask_often(gateway, 10, 8) == {f"lab/{script.model}": 10}


async def test_places_are_one_for_all_workers_and_free_when_one_is_killed(
    upstream: FaultyUpstream, tmp_path: Path
) -> None:
    script = upstream.script(ticking)
    config = f"providers:\n{providers(upstream.url)}models: {{sonnet: lab/{script.model}}}\n"
    options = f"--concurrency {PLACES}"
    with team(tmp_path, config, "--workers", "2", anna=options) as (gateway, texts):
        async with ClientSession(timeout=PATIENCE) as session, asyncio.TaskGroup() as group:
            reads: list[int] = []

            async def begin() -> bool:
                """On a connection of its own, by either worker."""
                url, body = f"{gateway.url}/v1/messages", turn("sonnet", stream=True)
                answer = await session.post(url, json=body, headers=x_api_key(texts["anna"]))
                if answer.status == 429:
                    answer.close()
                    return False
                readers.append(group.create_task(read(answer, len(readers))))
                reads.append(0)
                return True

            async def read(answer: ClientResponse, number: int) -> None:
                with suppress(ClientError), closing(answer):
                    async for _ in answer.content.iter_any():
                        reads[number] += 1

            readers: list[asyncio.Task[None]] = []
            assert [await begin() for _ in range(PLACES)] == [True] * PLACES
            assert not any([await begin() for _ in range(10)])
            seen = list(reads)
            os.kill(workers(gateway)[0], signal.SIGKILL)

            async def told() -> bool:
                """Of each stream it is known whether it goes on."""
                states = zip(readers, reads, seen, strict=True)
                return all(reader.done() or now > before + 5 for reader, now, before in states)

            await until(told)
            lost = sum(reader.done() for reader in readers)
            assert 0 < lost < PLACES
            for _ in range(lost):
                await until(begin)
            assert not any([await begin() for _ in range(10)])
            for reader in readers:
                reader.cancel()
