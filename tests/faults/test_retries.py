"""Group R: what is tried again, what never is, and who is asked instead.

The routes are of the shape ``name: [one/name, two/name]``. A test has a name of its own, so that no test meets
what another one taught the gateway about a target.
"""

from __future__ import annotations

import asyncio
import statistics
from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from tests.faults.conftest import PROVIDERS
from tests.faults.footprint import Stopwatch
from tests.server.faulty_upstream import Answer, Connection, FaultyUpstream, Script, beginning, reply, stream, whole
from tests.server.gateway_process import KEYS, Gateway, Reply, running_gateway, until
from tests.server.raw_upstream import Peer, make_tls, raw_upstream

ROUTES = 64
FALLBACK = """\
providers:
  one: {{api: openai-chat, base_url: "{url}/one/v1", api_key: "${{LAB_KEY}}"}}
  two: {{api: openai-chat, base_url: "{url}/two/v1", api_key: "${{LAB_KEY}}"}}
  few: {{api: openai-chat, base_url: "{url}/few/v1", profile: {{max_tools: 1}}}}
  dead: {{api: openai-chat, base_url: "http://127.0.0.1:{closed}/v1"}}
  echo: {{}}
models:
  sonnet: echo/echo
  dead-first: [dead/m, two/dead-second]
  few-second: [one/few-1, few/few-2, two/few-3]
  few-last: [one/few-1, few/few-2]
"""


@pytest.fixture(scope="module")
def pairs(
    upstream: FaultyUpstream, closed_port: int, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Gateway, Iterator[str]]]:
    """A gateway with many routes of two targets each, and their names that nobody used yet."""
    names = [f"pair-{number}" for number in range(ROUTES)]
    routes = "".join(f"  {name}: [one/{name}-1, two/{name}-2]\n" for name in names)
    config = FALLBACK.format(url=upstream.url, closed=closed_port) + routes
    with running_gateway(tmp_path_factory.mktemp("pairs"), config) as gateway:
        yield gateway, iter(names)


class Pair:
    """A route whose first target misbehaves and whose second is well."""

    def __init__(self, pairs: tuple[Gateway, Iterator[str]], upstream: FaultyUpstream, first: Answer) -> None:
        self.gateway, names = pairs
        self.name = next(names)
        self.first = upstream.script(first, f"{self.name}-1")
        self.second = upstream.script(stream(*whole("chat", "Second")), f"{self.name}-2")

    async def ask(self, streamed: bool = True) -> Reply:
        return await self.gateway.ask(self.name, stream=streamed)


def refusal(status: int, **headers: str) -> Answer:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return reply(status, named, b'{"error":{"message":"because of it"}}')


async def dies(connection: Connection) -> None:
    await connection.end("cut")


def after(failures: int, failure: Answer) -> Callable[[Connection], Awaitable[None]]:
    """So many failures, then good answers."""
    left = failures

    async def answer(connection: Connection) -> None:
        nonlocal left
        left -= 1
        await (failure if left >= 0 else stream(*whole("chat", "Fine")))(connection)

    return answer


def text_of(answer: Reply) -> str:
    content = answer.reading().content if b"event: " in answer.body else answer.json["content"]
    return str(content[0]["text"])


IN_BAND = stream(b'data: {"error":{"message":"full","code":529}}\n\n')
TRANSIENT = {
    "500": refusal(500),
    "503": refusal(503),
    "529": refusal(529),
    "408": refusal(408),
    "connection closed": dies,
    "closed after the headers": stream(ending="cut"),
    "an error in the stream": IN_BAND,
    "a body without an event": stream(b": hello\n\n"),
}
PERMANENT = {str(status): refusal(status) for status in (400, 401, 402, 403, 404, 405, 413, 422)}
BUSY = {"429": refusal(429), "429 with a second": refusal(429, retry_after="1")}


@pytest.mark.parametrize("streamed", [True, False], ids=["stream", "fold"])
@pytest.mark.parametrize("failure", TRANSIENT.values(), ids=TRANSIENT)
async def test_one_failure_before_content_is_hidden(
    gateway: Gateway, upstream: FaultyUpstream, failure: Answer, streamed: bool
) -> None:
    """R4: where there is no other target."""
    script = upstream.script(after(1, failure))
    answer = await gateway.ask(f"lab/{script.model}", stream=streamed)
    assert answer.status == 200, answer.body
    assert text_of(answer) == "Fine"
    assert len(script.visits) == 2


@pytest.mark.parametrize("name", ["few-second", "few-last"])
async def test_a_fallback_that_cannot_take_the_request_is_passed_over(
    pairs: tuple[Gateway, Iterator[str]], upstream: FaultyUpstream, name: str
) -> None:
    """And what is wrong with the fallback is not what the client is told."""
    first = upstream.script(refusal(503), "few-1")
    second, third = (upstream.script(stream(*whole("chat", "Fine")), f"few-{place}") for place in (2, 3))
    tools = [{"name": f"tool_{place}", "input_schema": {"type": "object"}} for place in (1, 2)]
    answer = await pairs[0].ask(name, tools=tools)
    if name == "few-second":
        assert text_of(answer) == "Fine"
        assert len(third.visits) == 1
    else:
        answer.error(status=529, kind="overloaded_error")
    assert first.visits
    assert not second.visits


BREAKS = {
    "an overload": (b'data: {"error":{"message":"full","code":529}}\n\n', "open"),
    "a rate limit": (b'data: {"error":{"message":"slow down","code":429}}\n\n', "open"),
    "cut": (b"", "cut"),
    "reset": (b"", "reset"),
    "the end without an end": (b"", "whole"),
}


@pytest.mark.parametrize("ending", BREAKS.values(), ids=BREAKS)
async def test_once_content_was_sent_nobody_else_is_asked(
    pairs: tuple[Gateway, Iterator[str]], upstream: FaultyUpstream, ending: tuple[bytes, str]
) -> None:
    """R5: although each of these would be tried again before it, and there is a fallback."""
    piece, how = ending
    pieces = [*beginning("chat", "Hello"), *([piece] if piece else [])]
    pair = Pair(pairs, upstream, stream(*pieces, ending=how))  # type: ignore[arg-type]
    reading = (await pair.ask()).reading()
    assert reading.error is not None
    assert reading.content[0]["text"] == "Hello"
    assert (len(pair.first.visits), len(pair.second.visits)) == (1, 0)


FALLS_BACK = {"503": refusal(503), "429": refusal(429), "429 for long": refusal(429, retry_after="600"),
              "closed": dies, "in-band": IN_BAND, "401": refusal(401)}  # fmt: skip


@pytest.mark.parametrize("streamed", [True, False], ids=["stream", "fold"])
@pytest.mark.parametrize("failure", FALLS_BACK.values(), ids=FALLS_BACK)
async def test_the_next_target_answers(
    pairs: tuple[Gateway, Iterator[str]], upstream: FaultyUpstream, failure: Answer, streamed: bool
) -> None:
    """R6: under the asked name, and the header says who it was."""
    pair = Pair(pairs, upstream, failure)
    answer = await pair.ask(streamed)
    assert answer.status == 200, answer.body
    assert text_of(answer) == "Second"
    assert answer.headers["x-gateway-target"] == f"two/{pair.second.model}"
    if not streamed:
        assert answer.json["model"] == pair.name
    assert len(pair.second.visits) == 1


@pytest.mark.parametrize("streamed", [True, False], ids=["stream", "fold"])
async def test_a_refused_connection_falls_back(
    pairs: tuple[Gateway, Iterator[str]], upstream: FaultyUpstream, streamed: bool
) -> None:
    """R6."""
    upstream.script(stream(*whole("chat", "Second")), "dead-second")
    answer = await pairs[0].ask("dead-first", stream=streamed)
    assert answer.status == 200, answer.body
    assert text_of(answer) == "Second"


async def test_a_sick_upstream_is_not_multiplied(gateway: Gateway, upstream: FaultyUpstream) -> None:
    """R7: a hundred requests, eight at a time."""
    script = upstream.script(refusal(500))
    left = iter(range(100))

    async def client() -> None:
        for _ in left:
            (await gateway.ask(f"lab/{script.model}")).error(500, "api_error")

    await asyncio.gather(*(client() for _ in range(8)))
    assert 100 <= len(script.visits) <= 150


@pytest.mark.parametrize("failure", PERMANENT.values(), ids=PERMANENT)
async def test_what_will_not_change_is_asked_once(
    gateway: Gateway, upstream: FaultyUpstream, failure: Answer
) -> None:
    """R8."""
    script = upstream.script(failure)
    (await gateway.ask(f"lab/{script.model}")).error()
    assert len(script.visits) == 1


async def test_no_failure_is_asked_more_than_thrice(
    pairs: tuple[Gateway, Iterator[str]], upstream: FaultyUpstream
) -> None:
    """R8: on a route of two sick targets."""

    async def ask(failure: Answer) -> int:
        pair = Pair(pairs, upstream, failure)
        second = upstream.script(failure, pair.second.model)
        (await pair.ask()).error()
        return len(pair.first.visits) + len(second.visits)

    asked = await asyncio.gather(*map(ask, (TRANSIENT | BUSY | PERMANENT).values()))
    assert max(asked) <= 3


async def test_a_long_wait_is_the_clients(gateway: Gateway, upstream: FaultyUpstream) -> None:
    """R9: ten minutes are not slept here."""
    for status, kind in ((429, "rate_limit_error"), (503, "overloaded_error")):
        script = upstream.script(refusal(status, retry_after="600"))
        for streamed in (True, False):
            watch = Stopwatch(gateway.pid)
            answer = await gateway.ask(f"lab/{script.model}", stream=streamed)
            assert watch.seconds() <= 5
            answer.error(kind=kind)
            assert answer.headers["retry-after"] == "600"


async def test_a_target_that_keeps_failing_is_left_alone(
    pairs: tuple[Gateway, Iterator[str]], upstream: FaultyUpstream
) -> None:
    """R10: five failures open the breaker; from then on the fallback costs nothing."""
    pair = Pair(pairs, upstream, refusal(500))
    for _ in range(6):
        assert text_of(await pair.ask()) == "Second"
    asked = len(pair.first.visits)
    waits, alone = [], []
    for _ in range(15):
        watch = Stopwatch(pair.gateway.pid)
        assert text_of(await pair.ask()) == "Second"
        waits.append(watch.seconds())
        watch = Stopwatch(pair.gateway.pid)
        await pair.gateway.ask(f"two/{pair.second.model}")
        alone.append(watch.seconds())
    assert len(pair.first.visits) == asked
    assert statistics.median(waits) - statistics.median(alone) <= 0.02


async def test_after_its_rest_a_target_is_probed_once_and_serves_again(
    upstream: FaultyUpstream, closed_port: int, tmp_path: Path
) -> None:
    """R10: the half-open breaker; with a rest of a second and a half instead of thirty."""
    hurry = "import gateway.resilience.circuit_breaker as breaker; breaker.SECONDS = 1.5"
    config = FALLBACK.format(url=upstream.url, closed=closed_port) + "  rested: [one/rested-1, two/rested-2]\n"
    sick = True

    async def answer(connection: Connection) -> None:
        await (refusal(500) if sick else stream(*whole("chat", "First")))(connection)

    first = upstream.script(answer, "rested-1")
    upstream.script(stream(*whole("chat", "Second")), "rested-2")
    with running_gateway(tmp_path, config, before=hurry) as gateway:
        for _ in range(6):
            assert text_of(await gateway.ask("rested")) == "Second"
        asked, sick = len(first.visits), False

        async def probed() -> bool:
            return text_of(await gateway.ask("rested")) == "First"

        await until(probed)
        assert len(first.visits) == asked + 1
        assert text_of(await gateway.ask("rested")) == "First"


# -- connections -------------------------------------------------------------------------------------------


def serving_once_each(meanwhile: str) -> tuple[Answer, dict[Connection, int]]:
    """Each connection serves one request; it is closed after it, or when the next one comes."""
    served: dict[Connection, int] = {}

    async def answer(connection: Connection) -> None:
        served[connection] = served.get(connection, 0) + 1
        if served[connection] > 1:
            await connection.end("reset" if meanwhile == "reset at the next request" else "cut")
            return
        await stream(*whole("chat", "Fine"))(connection)
        if meanwhile == "closed after the answer":
            await connection.end("cut")

    return answer, served


async def thirty(gateway: Gateway, script: Script) -> list[str]:
    texts = []
    for number in range(30):
        answer = await gateway.ask(f"lab/{script.model}", stream=number % 2 == 0)
        texts.append(text_of(answer) if answer.status == 200 else answer.error())
    return texts


async def test_connections_that_the_upstream_closed_are_not_used_again(
    gateway: Gateway, upstream: FaultyUpstream
) -> None:
    """R11: it did so after each answer."""
    answer, _ = serving_once_each("closed after the answer")
    assert await thirty(gateway, upstream.script(answer)) == ["Fine"] * 30


@pytest.mark.parametrize("how", ["closed at the next request", "reset at the next request"])
async def test_a_connection_that_dies_when_it_is_used_again_is_no_failure(
    gateway: Gateway, upstream: FaultyUpstream, how: str
) -> None:
    """R11: the request and the end of the connection cross on their way."""
    answer, served = serving_once_each(how)
    assert await thirty(gateway, upstream.script(answer)) == ["Fine"] * 30
    assert 2 in served.values(), "no connection was ever used again"


@pytest.mark.parametrize(("provider", "reason"), [("refused", "refused"), ("nowhere", "host name")])
async def test_who_cannot_be_reached_is_named_in_time(gateway: Gateway, provider: str, reason: str) -> None:
    """R12, with its figure."""
    for streamed in (True, False):
        watch = Stopwatch(gateway.pid)
        message = (await gateway.ask(f"{provider}/m", stream=streamed)).error(502, "api_error")
        assert watch.seconds() <= 8
        assert provider in message
        assert reason in message


async def test_a_certificate_that_nobody_vouches_for(tmp_path: Path) -> None:
    """R12: the request, with its key, is never sent."""
    heard: list[bytes] = []

    async def answer(peer: Peer) -> None:
        with suppress(ConnectionError):
            heard.append(await peer.reader.read(1))

    async with raw_upstream(answer, make_tls(tmp_path)) as server:
        config = PROVIDERS.format(url=server.url, closed=1)
        with running_gateway(tmp_path, config) as gateway:
            for streamed in (True, False):
                watch = Stopwatch(gateway.pid)
                message = (await gateway.ask("lab/m", stream=streamed)).error(502, "api_error")
                assert watch.seconds() <= 8
                assert message.startswith("could not reach lab: its TLS certificate")
            assert KEYS["LAB_KEY"] not in gateway.log()
    assert set(heard) <= {b""}


async def test_one_deadline_holds_over_all_attempts(
    upstream: FaultyUpstream, closed_port: int, tmp_path: Path
) -> None:
    """R13: two seconds in all, where each of two targets would take ten."""

    async def never(connection: Connection) -> None:
        await connection.gone.wait()

    text = FALLBACK.format(url=upstream.url, closed=closed_port) + "  slow: [one/slow-1, two/slow-2]\n"
    for name in ("slow-1", "slow-2"):
        upstream.script(never, name)
    with running_gateway(tmp_path, "server: {retry: {deadline: 2}}\n" + text) as gateway:
        for streamed in (True, False):
            watch = Stopwatch(gateway.pid)
            async with asyncio.timeout(20):
                (await gateway.ask("slow", stream=streamed)).error(504, "timeout_error")
            assert watch.seconds() <= 3
