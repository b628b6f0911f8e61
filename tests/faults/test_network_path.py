"""An upstream that is killed, and a way to it that breaks: what clients see, within which limit, and when it is over.

Gateway and upstream are processes. Where the way breaks, each is on a machine of its own (namespaces.py).
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from itertools import count, product
from pathlib import Path
from typing import Any

import pytest

from tests.faults.footprint import Stopwatch
from tests.faults.namespaces import FAR, NEAR, WORDS, NotPermittedError, UpstreamProcess, two_machines
from tests.server.gateway_process import Gateway, Reply, running_gateway, until

WAYS = list(product([True, False], [True, False]))
"""(streamed, with a fallback)"""
CONNECT_SECONDS, LIMIT_SECONDS, MORE_SECONDS = 0.3, 0.5, 2.0
"""connect_timeout; first_byte_timeout and idle_timeout; how much later than that a client must know (S11)."""
DEAD_SECONDS, BACK_SECONDS, DEADLINE_SECONDS = 3.0, 2.0, 4.0
REST_SECONDS = 1.5
"""How long a breaker stays open here, instead of thirty seconds."""
HURRY = f"import gateway.resilience.circuit_breaker as breaker; breaker.SECONDS = {REST_SECONDS}"
CONFIG = """\
server: {{relay: {relay}, retry: {{deadline: {deadline}}}}}
providers:
  lab: {{api: openai-chat, base_url: "{url}/v1"}}
  ant: {{api: anthropic, base_url: "{url}"}}
  hasty:
    api: openai-chat
    base_url: "{url}/v1"
    profile: {{connect_timeout: {connect}, first_byte_timeout: {limit}, idle_timeout: {limit}, max_attempts: 1}}
  echo: {{}}
models:
  "*-lab": [lab, echo/echo]
  "*-ant": [ant, echo/echo]
  "*-hasty": [hasty, echo/echo]
"""
TEXT = "".join(WORDS)


def config(relay: str, url: str, deadline: float) -> str:
    return CONFIG.format(relay=relay, url=url, deadline=deadline, connect=CONNECT_SECONDS, limit=LIMIT_SECONDS)


@dataclass(frozen=True, slots=True)
class Lab:
    """A gateway, and the upstream behind it."""

    gateway: Gateway
    upstream: UpstreamProcess
    relay: str
    idle: int
    """Sockets of the gateway when it has served, and one connection is kept open."""
    numbers: Iterator[int] = field(default_factory=lambda: count(1))

    def model(self, kind: str, provider: str, fallback: bool = False) -> str:
        """What a client asks for; a target that nobody has asked before."""
        name = f"{kind}-{next(self.numbers)}"
        return f"{name}-{provider}" if fallback else f"{provider}/{name}"

    def ask(self, kind: str, provider: str, **more: Any) -> Sequence[asyncio.Task[Reply]]:
        """One turn for each of WAYS, begun."""
        return [
            asyncio.create_task(self.gateway.ask(self.model(kind, provider, fallback), stream=streamed, **more))
            for streamed, fallback in WAYS
        ]

    async def begin(self, *asked: tuple[str, str]) -> Sequence[Sequence[asyncio.Task[Reply]]]:
        """``ask`` for each (kind, provider); the upstream has come as far as these answers go."""
        tasks = [self.ask(kind, provider) for kind, provider in asked]
        await self.upstream.wait_for(len(WAYS) * len(asked))
        return tasks

    async def fill_pool(self, provider: str, size: int) -> None:
        """So many connections are kept open then."""
        answers = await asyncio.gather(*(self.gateway.ask(f"{provider}/together-{size}") for _ in range(size)))
        assert {text_of(answer) for answer in answers} == {"Fine"}

    async def returned(self) -> None:
        """Until the gateway holds no more sockets than at the start."""
        await until(lambda: asyncio.sleep(0, sockets(self.gateway.pid) <= self.idle))

    async def serves_again(self, model: str, seconds: float) -> None:
        """Within so many seconds the first target answers."""
        watch = Stopwatch(self.gateway.pid)

        async def back() -> bool:
            answer = await self.gateway.ask(model)
            return answer.status == 200 and text_of(answer) == "Fine"

        await until(back)
        assert watch.seconds() <= seconds


async def new_lab(gateway: Gateway, upstream: UpstreamProcess, relay: str) -> Lab:
    for provider in ("echo", "lab"):
        for _ in range(3):
            assert (await gateway.ask(f"{provider}/whole")).status == 200
    return Lab(gateway, upstream, relay, sockets(gateway.pid))


def sockets(pid: int) -> int:
    """Of all descriptors those that a broken way can leave behind; the gateway opens files when it likes."""
    count = 0
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(FileNotFoundError):
            count += os.readlink(entry).startswith("socket:")
    return count


def text_of(answer: Reply) -> str:
    """Of a whole answer."""
    assert answer.status == 200, answer.body
    if not answer.body.startswith(b"event: "):
        return str(answer.json["content"][0]["text"])
    reading = answer.reading()
    assert reading.finished
    return str(reading.content[0]["text"])


def are_second(answers: Sequence[Reply], tried: str) -> Sequence[Reply]:
    """Those that have a fallback are whole and say why it was asked. Returns the others."""
    for (_, fallback), answer in zip(WAYS, answers, strict=True):
        if fallback:
            assert text_of(answer) == "echo: Hello"
            assert answer.headers["x-gateway-target"] == "echo/echo"
            assert tried in answer.headers["x-gateway-tried"]
    return [answer for (_, fallback), answer in zip(WAYS, answers, strict=True) if not fallback]


def are_cut(answers: Sequence[Reply], error: tuple[int, str, str], passed_through: bool = False) -> set[str]:
    """In mid-answer, with this status, type and message; fallback or not. The texts of those that stream."""
    status, kind, message = error
    texts = set()
    for (streamed, _), answer in zip(WAYS, answers, strict=True):
        if not streamed:
            assert answer.error(status, kind) == message
            continue
        reading = answer.reading(passed_through=passed_through)
        assert reading.error is not None
        assert (reading.error["type"], reading.error["message"]) == (kind, message)
        assert not reading.finished
        texts.add(reading.content[0]["text"])
    return texts


# -- kill -9 -----------------------------------------------------------------------------------------------

WIRES = ["lab", "ant"]
CLOSED = "could not reach {}: it closed the connection without an answer"
REFUSED = "could not reach {}: connection refused"
CUT = "{} cut the connection in mid-answer"

pytestmark = pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="sockets are counted by /proc")


@pytest.fixture(scope="module", params=["direct", "session"])
def killable(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    with UpstreamProcess() as upstream:
        text = config(request.param, upstream.url, 600)
        with running_gateway(tmp_path_factory.mktemp("killed"), text, before=HURRY) as gateway:
            yield asyncio.run(new_lab(gateway, upstream, request.param))
            assert "Traceback" not in gateway.log()


@pytest.fixture
def lab(killable: Lab) -> Lab:
    """Its upstream is alive."""
    if not killable.upstream.alive:
        killable.upstream.start()
    return killable


async def is_back_at_once(lab: Lab) -> None:
    """The first request after the upstream listens again is served, and nothing is left of those before."""
    lab.upstream.start()
    assert text_of(await lab.gateway.ask(lab.model("whole", "lab"))) == "Fine"
    await lab.returned()


@pytest.mark.parametrize("kept", [0, 8], ids=["on new connections", "on kept ones"])
async def test_killed_before_the_answer(lab: Lab, kept: int) -> None:
    """The second attempt finds nobody. A client without a fallback is told what failed first.

    That a kept connection was closed is no failure (R11); aiohttp's client does not tell one from a new one.
    """
    if kept:
        await lab.fill_pool("lab", kept)
    asked = await lab.begin(*(("never", wire) for wire in WIRES))
    watch = Stopwatch(lab.gateway.pid)
    lab.upstream.kill()
    for wire, tasks in zip(WIRES, asked, strict=True):
        message = (REFUSED if kept and lab.relay == "direct" else CLOSED).format(wire)
        for answer in are_second(await asyncio.gather(*tasks), "502 api_error"):
            assert answer.error(502, "api_error") == message
    assert watch.seconds() <= DEAD_SECONDS
    await is_back_at_once(lab)


async def test_killed_in_mid_answer(lab: Lab) -> None:
    """What came is kept, and nobody takes it for the whole; nobody else is asked, for there is content (R5)."""
    asked = await lab.begin(*(("held", wire) for wire in WIRES))
    watch = Stopwatch(lab.gateway.pid)
    lab.upstream.kill()
    for wire, tasks in zip(WIRES, asked, strict=True):
        error = (502, "api_error", CUT.format(wire))
        assert are_cut(await asyncio.gather(*tasks), error, passed_through=wire == "ant") == {"Hel"}
    assert watch.seconds() <= DEAD_SECONDS
    for wire in WIRES:
        assert lab.gateway.log().count(f"failed in mid-stream: {CUT.format(wire)}") == 2
    await is_back_at_once(lab)


async def test_killed_while_connections_wait(lab: Lab) -> None:
    """They are closed at once; who comes next is refused, or goes to the fallback."""
    await lab.fill_pool("lab", 8)
    lab.upstream.kill()
    await lab.returned()
    watch = Stopwatch(lab.gateway.pid)
    for wire, tasks in [(wire, lab.ask("whole", wire)) for wire in WIRES]:
        for answer in are_second(await asyncio.gather(*tasks), "502 api_error"):
            assert answer.error(502, "api_error") == REFUSED.format(wire)
    assert watch.seconds() <= DEAD_SECONDS
    await is_back_at_once(lab)


async def test_killed_and_back_before_anybody_asks(lab: Lab) -> None:
    """Nobody notices."""
    await lab.fill_pool("lab", 8)
    lab.upstream.kill()
    lab.upstream.start()
    await lab.fill_pool("lab", 8)


async def test_a_dead_upstream_is_left_alone_where_another_can_answer(lab: Lab) -> None:
    """R10: and it is asked again when its rest is over."""
    lab.upstream.kill()
    model = lab.model("whole", "lab", fallback=True)
    answers = [await lab.gateway.ask(model) for _ in range(6)]
    assert {text_of(answer) for answer in answers} == {"echo: Hello"}
    assert answers[0].headers["x-gateway-tried"].endswith(" 502 api_error")
    assert answers[-1].headers["x-gateway-tried"].endswith(" resting")
    lab.upstream.start()
    await lab.serves_again(model, REST_SECONDS + BACK_SECONDS)


async def test_an_open_breaker_does_not_stand_before_the_only_target(lab: Lab) -> None:
    lab.upstream.kill()
    model = lab.model("whole", "lab")
    answers = [await lab.gateway.ask(model) for _ in range(6)]
    assert {answer.error(502, "api_error") for answer in answers} == {REFUSED.format("lab")}
    lab.upstream.start()
    assert text_of(await lab.gateway.ask(model)) == "Fine"


# -- a way that breaks -------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Break:
    """One way to break it, at one of its ends; and what a client is told who needs a new connection meanwhile."""

    at: str
    cut: str
    mend: str
    told: str


LATE, NOT_IN_TIME = "hasty did not answer in time", "hasty did not accept a connection in time"
SILENT = f"hasty sent nothing for {LIMIT_SECONDS:g} seconds"
UNREACHABLE = "could not reach hasty: "
VANISH = "answers vanish"
LINK = ("link set cable down", "link set cable up")
BREAKS = {
    "link down at the gateway": Break(NEAR, *LINK, UNREACHABLE + "network is unreachable"),
    "link down at the upstream": Break(FAR, *LINK, NOT_IN_TIME),
    "blackhole": Break(
        NEAR, f"route add blackhole {FAR}", f"route del blackhole {FAR}", UNREACHABLE + "invalid argument"
    ),
    "no route": Break(
        NEAR, f"route add unreachable {FAR}", f"route del unreachable {FAR}", UNREACHABLE + "no route to host"
    ),
    VANISH: Break(FAR, f"route add blackhole {NEAR}", f"route del blackhole {NEAR}", NOT_IN_TIME),
}


class Way:
    """Two machines: an upstream on the one, and gateways on the other, started when they are asked for."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self.near, far = stack.enter_context(two_machines())
        self._machines = {NEAR: self.near, FAR: far}
        self._folder, self._stack = folder, stack
        with far.entered():
            self._upstream = stack.enter_context(UpstreamProcess(FAR))
        self.labs: dict[str, Lab] = {}

    async def lab(self, relay: str = "direct") -> Lab:
        if relay not in self.labs:
            folder = self._folder / relay
            folder.mkdir()
            text = config(relay, self._upstream.url, DEADLINE_SECONDS)
            gateway = self._stack.enter_context(running_gateway(folder, text))
            self.labs[relay] = await new_lab(gateway, self._upstream, relay)
        return self.labs[relay]

    @contextmanager
    def broken(self, how: str = VANISH) -> Iterator[None]:
        machine = self._machines[BREAKS[how].at]
        machine.ip(*BREAKS[how].cut.split())
        try:
            yield
        finally:
            machine.ip(*BREAKS[how].mend.split())


@pytest.fixture(scope="module")
def machines(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Way]:
    with ExitStack() as stack:
        try:
            way = Way(tmp_path_factory.mktemp("way"), stack)
        except NotPermittedError as error:
            pytest.skip(f"needs root, iproute2 and Linux' network namespaces: {error}")
        yield way
        for lab in way.labs.values():
            assert "Traceback" not in lab.gateway.log()


@pytest.fixture
def way(machines: Way) -> Iterator[Way]:
    """The test is where the gateway is."""
    with machines.near.entered():
        yield machines


@pytest.mark.parametrize(
    ("relay", "how"), [*(("direct", how) for how in BREAKS), ("session", "no route"), ("session", VANISH)]
)
async def test_a_way_that_breaks(way: Way, relay: str, how: str) -> None:
    """Within the limits of the profile every client knows; when the way is back, answers are whole again."""
    lab = await way.lab(relay)
    said_before = lab.gateway.log().count(f"failed in mid-stream: {SILENT}")
    await lab.fill_pool("lab", 3 * len(WAYS))
    waiting, begun = await lab.begin(("never", "hasty"), ("words", "hasty"))
    with way.broken(how):
        watch = Stopwatch(lab.gateway.pid)
        # On connections that were kept open, and look as if they were well.
        late = lab.ask("whole", "hasty")
        texts = are_cut(await asyncio.gather(*begun), (504, "timeout_error", SILENT))
        for answers in (waiting, late):
            for answer in are_second(await asyncio.gather(*answers), "504 timeout_error"):
                assert answer.error(504, "timeout_error") == LATE
        assert watch.seconds() <= LIMIT_SECONDS + MORE_SECONDS
        watch = Stopwatch(lab.gateway.pid)
        for answer in are_second(await asyncio.gather(*lab.ask("whole", "hasty")), "502 api_error"):
            assert answer.error(502, "api_error") == BREAKS[how].told
        assert watch.seconds() <= CONNECT_SECONDS + MORE_SECONDS
        await lab.returned()
    for text in texts:
        assert text
        assert TEXT.startswith(text)
        assert text != TEXT
    assert lab.gateway.log().count(f"failed in mid-stream: {SILENT}") == said_before + 2
    await lab.serves_again(lab.model("whole", "hasty"), BACK_SECONDS)


async def test_a_large_request_does_not_wait_for_ever_to_be_sent(way: Way) -> None:
    """Its connection is closed with all that was not sent yet."""
    lab = await way.lab()
    await lab.fill_pool("lab", len(WAYS))
    with way.broken():
        watch = Stopwatch(lab.gateway.pid)
        answers = await asyncio.gather(*lab.ask("whole", "hasty", system="x" * 4_000_000))
        for answer in are_second(answers, "504 timeout_error"):
            assert answer.error(504, "timeout_error") == LATE
        assert watch.seconds() <= LIMIT_SECONDS + MORE_SECONDS
        await lab.returned()
    await lab.serves_again(lab.model("whole", "hasty"), BACK_SECONDS)


async def test_the_deadline_ends_what_no_other_limit_ends(way: Way) -> None:
    """A profile without a first_byte_timeout, which is the default, and a way on which nobody says no."""
    lab = await way.lab()
    await lab.fill_pool("lab", 2 * len(WAYS))
    (waiting,) = await lab.begin(("never", "lab"))
    with way.broken():
        watch = Stopwatch(lab.gateway.pid)
        for answer in await asyncio.gather(*waiting, *lab.ask("whole", "lab")):
            message = answer.error(504, "timeout_error")
            assert message.endswith(f" did not begin to answer within {DEADLINE_SECONDS:g} seconds")
        assert watch.seconds() <= DEADLINE_SECONDS + MORE_SECONDS
        await lab.returned()
    await lab.serves_again(lab.model("whole", "lab"), BACK_SECONDS)


async def test_a_short_break_costs_nothing_but_time(way: Way) -> None:
    """What is lost on the way is sent again below us; the answers are whole."""
    lab = await way.lab()
    (begun,) = await lab.begin(("words", "lab"))
    with way.broken():
        await asyncio.sleep(LIMIT_SECONDS)
    assert {text_of(answer) for answer in await asyncio.gather(*begun)} == {TEXT}
