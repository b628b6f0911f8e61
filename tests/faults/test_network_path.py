"""An upstream that is killed, and a way to it that breaks: what clients see, within which limit, and when it is over.

Gateway and upstream are processes. Where the way breaks, each is on a machine of its own (namespaces.py).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import cache
from itertools import count, product
from pathlib import Path

import pytest

from tests.faults.footprint import Footprint, Stopwatch
from tests.faults.namespaces import FAR, NEAR, WORDS, Machine, NotPermittedError, UpstreamProcess, two_machines
from tests.server.gateway_process import Gateway, Reply, running_gateway, until

RELAYS = ["direct", "session"]
LIMIT_SECONDS, MORE_SECONDS = 0.5, 2.0
"""Of connect_timeout, first_byte_timeout and idle_timeout; how much later the client must know (S11)."""
DEAD_SECONDS, BACK_SECONDS, DEADLINE_SECONDS = 3.0, 1.0, 2.0
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
    profile: {{connect_timeout: {limit}, first_byte_timeout: {limit}, idle_timeout: {limit}, max_attempts: 1}}
  echo: {{}}
models:
  "*-lab": [lab, echo/echo]
  "*-ant": [ant, echo/echo]
  "*-hasty": [hasty, echo/echo]
"""
SECOND = "echo/echo"
TEXT = "".join(WORDS)


@dataclass(frozen=True, slots=True)
class Lab:
    """A gateway, and the upstream behind it."""

    gateway: Gateway
    upstream: UpstreamProcess
    numbers: Iterator[int] = field(default_factory=lambda: count(1))

    def model(self, kind: str, provider: str, fallback: bool = False) -> str:
        """What a client asks for; a target that nobody has asked before."""
        name = f"{kind}-{next(self.numbers)}"
        return f"{name}-{provider}" if fallback else f"{provider}/{name}"

    async def fill_pool(self, provider: str, size: int) -> None:
        """So many connections are kept open then."""
        answers = await asyncio.gather(*(self.gateway.ask(f"{provider}/together-{size}") for _ in range(size)))
        assert {text_of(answer) for answer in answers} == {"Fine"}

    async def begin(self, *models: tuple[str, bool]) -> list[asyncio.Task[Reply]]:
        """Asks for each, streamed or not, and waits until the upstream is as far as its answers go."""
        tasks = [asyncio.create_task(self.gateway.ask(model, stream=streamed)) for model, streamed in models]
        await self.upstream.wait_for(*(model.rpartition("/")[2] for model, _ in models))
        return tasks


@cache
def lab_config(relay: str, url: str, deadline: float) -> str:
    return CONFIG.format(relay=relay, url=url, deadline=deadline, limit=LIMIT_SECONDS)


def text_of(answer: Reply) -> str:
    assert answer.status == 200, answer.body
    content = answer.reading().content if b"event: " in answer.body else answer.json["content"]
    return str(content[0]["text"])


def is_fallback(answer: Reply, tried: str) -> None:
    """Whole, by the second target, and the header says why."""
    assert text_of(answer)
    assert b"event: " not in answer.body or answer.reading().finished
    assert answer.headers["x-gateway-target"] == SECOND
    assert tried in answer.headers["x-gateway-tried"]


def is_cut(answer: Reply, kind: str, message: str, passed_through: bool = False) -> str:
    """A stream that ends with this error; the text before it."""
    reading = answer.reading(passed_through=passed_through)
    assert reading.error is not None
    assert (reading.error["type"], reading.error["message"]) == (kind, message)
    assert not reading.finished
    return str(reading.content[0]["text"])


# -- kill -9 -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=RELAYS)
def killable(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    with UpstreamProcess() as upstream:
        config = lab_config(request.param, upstream.url, 600)
        with running_gateway(tmp_path_factory.mktemp("killed"), config, before=HURRY) as gateway:
            yield Lab(gateway, upstream)
            assert "Traceback" not in gateway.log()


@pytest.fixture
def lab(killable: Lab) -> Lab:
    if not killable.upstream.alive:
        killable.upstream.start()
    return killable


@pytest.mark.parametrize("kept", [0, 8], ids=["on new connections", "on kept ones"])
async def test_killed_before_the_answer(lab: Lab, kept: int) -> None:
    cases = list(product(["lab", "ant"], [True, False], [True, False]))
    if kept:
        await lab.fill_pool("lab", kept)
    asked = await lab.begin(*((lab.model("never", name, fallback), streamed) for name, streamed, fallback in cases))
    watch = Stopwatch(lab.gateway.pid)
    lab.upstream.kill()
    for (name, _, fallback), answer in zip(cases, await asyncio.gather(*asked), strict=True):
        print(name, fallback, answer.status, answer.body[:200], answer.headers, watch.seconds())


async def test_killed_in_mid_answer(lab: Lab) -> None:
    cases = list(product(["lab", "ant"], [True, False], [True, False]))
    asked = await lab.begin(*((lab.model("held", name, fallback), streamed) for name, streamed, fallback in cases))
    watch = Stopwatch(lab.gateway.pid)
    lab.upstream.kill()
    for (name, _, fallback), answer in zip(cases, await asyncio.gather(*asked), strict=True):
        print(name, fallback, answer.status, answer.body[-300:], answer.headers, watch.seconds())
