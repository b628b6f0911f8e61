"""The relay: order, flow control, silence and the end; and that nothing of a request is left behind."""

from __future__ import annotations

import asyncio
import gc
from collections import Counter
from collections.abc import AsyncIterator, Callable
from types import SimpleNamespace
from typing import Any

import pytest

from gateway.errors import GatewayError, UpstreamFailed, UpstreamProtocolError, UpstreamTimeout
from gateway.server import relay
from gateway.server.client_stream import ClientStream
from gateway.server.direct_upstream import DirectAnswer
from gateway.server.pipeline import Exchange
from gateway.server.relay import FoldSink, Relay
from gateway.server.upstream import Consumer, EmbeddedAnswer, SessionAnswer, UpstreamAnswer
from gateway.translate.usage import Usage
from tests.server.faulty_upstream import ANTHROPIC_START, FaultyUpstream, anthropic_texts, stream, whole
from tests.server.gateway_process import gateway_in_process

pytestmark = pytest.mark.asyncio(loop_factories=["asyncio", "uvloop"])

CUT = UpstreamProtocolError("far cut the connection in mid-answer")


class Translator:
    """Upper-cases; ``$`` is the finish reason, ``.`` the last byte of a complete answer, ``!`` breaks it."""

    def __init__(self) -> None:
        self.usage = Usage()
        self.stop_reason: str | None = None
        self.finished = self.complete = False
        self.failure: Exception = UpstreamProtocolError("far sent no event")
        self.close_failure: Exception | None = None
        self.closed = 0

    def feed(self, data: bytes) -> bytes:
        assert not self.closed, "fed after the end"
        if b"!" in data:
            raise self.failure
        self.finished = self.finished or b"$" in data
        self.complete = b"." in data
        return data.upper().strip(b"~")

    def close(self) -> bytes:
        self.closed += 1
        if self.close_failure is not None:
            raise self.close_failure
        if not self.finished and not self.complete:
            raise UpstreamProtocolError("far ended too early")
        return b"<end>"


class Answer(UpstreamAnswer):
    """An answer that the test feeds; keeps what the relay says to it."""

    status = 200

    def __init__(self, *before: bytes) -> None:
        self.headers = {}
        self.said: list[str] = []
        self.consumer: Consumer | None = None
        self.attached = asyncio.Event()
        self._before = before

    def attach(self, consumer: Consumer) -> None:
        self.consumer = consumer
        for data in self._before:
            consumer.feed(data)
        self.attached.set()

    def feed(self, data: bytes) -> None:
        assert self.consumer is not None
        self.consumer.feed(data)

    def pause(self) -> None:
        self.said.append("pause")

    def resume(self) -> None:
        self.said.append("resume")

    def close(self) -> None:
        self.said.append("close")

    def finish(self) -> None:
        self.said.append("finish")


class Sink:
    """Keeps what is written; full when the test says so."""

    def __init__(self) -> None:
        self.on_room: Callable[[], None] | None = None
        self.written: list[bytes] = []
        self.room = True
        self.ended = False

    def write(self, data: bytes, last: bool = False) -> bool:
        assert data
        assert not self.ended, "written to after the end"
        self.written.append(data)
        self.ended = last
        return self.room

    def make_room(self) -> None:
        self.room = True
        assert self.on_room is not None
        self.on_room()


class Running:
    """A relay at work."""

    def __init__(self, *before: bytes, idle_timeout: float | None = None) -> None:
        self.translator, self.sink, self.answer = Translator(), Sink(), Answer(*before)
        self.firsts: list[list[bytes]] = []
        """What was written when the first output was told of."""
        self.relay = Relay(
            self.translator,
            self.sink,
            on_first=lambda: self.firsts.append(self.sink.written[:]),
            provider="far",
            idle_timeout=idle_timeout,
        )
        self.task = asyncio.create_task(self.relay.run(self.answer))

    async def begun(self) -> Running:
        await self.answer.attached.wait()
        return self

    async def over(self) -> list[bytes]:
        """What was written, once the relay has ended well."""
        async with asyncio.timeout(5):
            await self.task
        assert self.answer.said[-1] == "finish"
        assert self.sink.on_room is None
        assert self.sink.ended
        return self.sink.written

    async def failed(self) -> BaseException:
        """With what it ended; the answer was closed."""
        async with asyncio.timeout(5):
            await asyncio.wait([self.task])
        error = self.task.exception()
        assert error is not None
        assert self.answer.said[-1] == "close"
        assert self.sink.on_room is None
        assert not self.sink.ended, "an error event may follow"
        return error


@pytest.fixture
async def running() -> AsyncIterator[Callable[..., Any]]:
    """Starts relays, and ends them with the test."""
    relays: list[Running] = []

    async def start(*before: bytes, **options: Any) -> Running:
        relays.append(Running(*before, **options))
        return await relays[-1].begun()

    yield start
    for one in relays:
        one.task.cancel()
    await asyncio.gather(*(one.task for one in relays), return_exceptions=True)


Start = Callable[..., Any]


# -- order and the end ---------------------------------------------------------------------------------------


async def test_what_comes_in_goes_out_in_order_and_at_once(running: Start) -> None:
    one = await running(b"a", b"b")
    assert one.sink.written == [b"A", b"B"]
    for data in (b"c", b"~", b"d"):
        one.answer.feed(data)
    assert one.sink.written == [b"A", b"B", b"C", b"D"], "before any task runs; and nothing for nothing"
    one.answer.feed(b"e$.")
    assert await one.over() == [b"A", b"B", b"C", b"D", b"E$.<end>"]
    assert one.answer.said == ["finish"]


async def test_the_handler_sleeps_while_events_pass(running: Start) -> None:
    """It wakes up for the end alone; no event makes a task."""
    one = await running(b"~")
    for _ in range(5):
        await asyncio.sleep(0)
    asleep = one.relay._end
    tasks = asyncio.all_tasks()
    for _ in range(100):
        one.answer.feed(b"b")
    await asyncio.sleep(0)
    assert one.relay._end is asleep
    assert not asleep.done()
    assert asyncio.all_tasks() == tasks


async def test_nothing_is_written_after_the_end(running: Start) -> None:
    one = await running()
    one.answer.feed(b"a.")
    for data in (b"b", b"$.", b"!"):
        one.answer.feed(data)
    one.answer.consumer.end()
    one.answer.consumer.fail(CUT)
    assert await one.over() == [b"A.<end>"]
    assert one.translator.closed == 1
    one.relay.feed(b"c")
    one.relay.end()
    assert one.sink.written == [b"A.<end>"]


async def test_all_was_there_before(running: Start) -> None:
    """An answer that is whole when it is attached."""
    one = await running(b"a", b"b.")
    assert await one.over() == [b"A", b"B.<end>"]


async def test_the_upstreams_end_is_the_end(running: Start) -> None:
    one = await running(b"a$")
    one.answer.consumer.end()
    assert await one.over() == [b"A$", b"<end>"]


async def test_what_came_in_the_read_of_a_broken_end_is_written(running: Start) -> None:
    one = await running(b"a")
    error = one.translator.close_failure = UpstreamProtocolError("far left a call open")
    one.answer.feed(b"b.")
    assert await one.failed() is error
    assert one.sink.written == [b"A", b"B."]


async def test_an_end_that_is_too_early_fails(running: Start) -> None:
    one = await running(b"a")
    one.answer.consumer.end()
    assert str(await one.failed()) == "far ended too early"
    assert one.sink.written == [b"A"]


async def test_a_failure_in_mid_answer_fails(running: Start) -> None:
    one = await running(b"a")
    one.answer.consumer.fail(CUT)
    one.answer.consumer.fail(UpstreamFailed("another"))
    assert await one.failed() is CUT
    assert one.translator.closed == 0


async def test_a_failure_after_the_finish_reason_is_an_end(running: Start) -> None:
    one = await running(b"a$")
    one.answer.consumer.fail(CUT)
    assert await one.over() == [b"A$", b"<end>"]


@pytest.mark.parametrize("error", [UpstreamProtocolError("far sent no event"), ValueError("a defect")])
@pytest.mark.parametrize("when", ["at once", "later"])
async def test_what_a_translator_raises_is_raised(running: Start, error: Exception, when: str) -> None:
    """Never into the callback of the connection; also a defect of ours."""
    one = await running(b"a")
    one.translator.failure = error
    one.answer.feed(b"!")
    if when == "later":
        one.answer.feed(b"more")
    assert await one.failed() is error
    assert one.sink.written == [b"A"]


async def test_what_a_sink_raises_is_raised(running: Start) -> None:
    one = await running()
    error = UpstreamProtocolError("the answer is too large")
    one.sink.write = lambda data, last=False: (_ for _ in ()).throw(error)
    one.answer.feed(b"a")
    assert await one.failed() is error


async def test_a_cancelled_relay_closes_the_answer(running: Start) -> None:
    one = await running(b"a")
    one.task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await one.task
    assert one.answer.said == ["close"]
    one.relay.feed(b"b")
    one.relay.fail(CUT)
    assert one.sink.written == [b"A"]


async def test_the_first_output_is_told_of_once_and_before_it_is_written(running: Start) -> None:
    one = await running(b"~")
    assert one.firsts == []
    one.answer.feed(b"a")
    assert one.firsts == [[]]
    one.answer.feed(b"b.")
    await one.over()
    assert one.firsts == [[]]


# -- flow control --------------------------------------------------------------------------------------------


async def test_a_full_sink_pauses_the_answer_and_room_resumes_it(running: Start) -> None:
    one = await running(b"a")
    one.sink.room = False
    one.answer.feed(b"b")
    one.answer.feed(b"c")
    assert one.answer.said == ["pause"], "once"
    one.sink.make_room()
    one.sink.make_room()
    assert one.answer.said == ["pause", "resume"], "once"
    one.sink.room = False
    one.answer.feed(b"d")
    one.sink.make_room()
    assert one.answer.said == ["pause", "resume"] * 2
    one.answer.feed(b"e.")
    assert await one.over() == [b"A", b"B", b"C", b"D", b"E.<end>"]


async def test_a_full_sink_does_not_hold_up_the_end(running: Start) -> None:
    """What is left to write is the sink's."""
    one = await running(b"a")
    one.sink.room = False
    one.answer.feed(b"b.")
    assert await one.over() == [b"A", b"B.<end>"]


# -- silence -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("before", [(), (b"a",)], ids=["nothing yet", "in mid-answer"])
async def test_silence_is_cut(running: Start, before: tuple[bytes, ...]) -> None:
    one = await running(*before, idle_timeout=0.02)
    error = await one.failed()
    assert isinstance(error, UpstreamTimeout)
    assert str(error) == "far sent nothing for 0.02 seconds"


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """What the relay takes for the loop's time, and the delay of its last timer. The test calls ``_look``."""
    now = [100.0]

    def call_later(delay: float, callback: Callable[[], None]) -> asyncio.TimerHandle:
        now[1:] = [delay]
        return asyncio.get_running_loop().call_later(3600, callback)

    loop = SimpleNamespace(
        time=lambda: now[0], call_later=call_later, create_future=lambda: asyncio.get_running_loop().create_future()
    )
    monkeypatch.setattr(relay, "asyncio", SimpleNamespace(get_running_loop=lambda: loop))
    return now


async def test_every_byte_is_a_sign_of_life(running: Start, clock: list[float]) -> None:
    """Also one that brings no event; the timer is set anew only when it has run out."""
    one = await running(idle_timeout=10.0)
    assert clock == [100.0, 10.0]
    clock[0] = 108.0
    one.answer.feed(b"~")
    assert clock == [108.0, 10.0]
    clock[0] = 110.0
    one.relay._look()
    assert clock == [110.0, 8.0]
    clock[0] = 118.0
    one.relay._look()
    assert isinstance(await one.failed(), UpstreamTimeout)


async def test_a_paused_answer_is_not_silent(running: Start, clock: list[float]) -> None:
    one = await running(b"a", idle_timeout=10.0)
    one.sink.room = False
    one.answer.feed(b"b")
    for clock[0] in (110.0, 200.0, 5000.0):
        one.relay._look()
        assert clock[1] == 10.0
    one.sink.make_room()
    clock[0] = 5009.0
    one.relay._look()
    assert clock[1] == 1.0, "counted from the moment when it may speak again"
    clock[0] = 5010.0
    one.relay._look()
    assert isinstance(await one.failed(), UpstreamTimeout)


async def test_after_the_finish_reason_there_is_a_grace(
    running: Start, clock: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    """For trailing usage; then the answer is whole."""
    monkeypatch.setattr(relay, "GRACE_SECONDS", 2.0)
    one = await running(b"a", idle_timeout=10.0)
    one.answer.feed(b"b$")
    assert clock == [100.0, 2.0]
    clock[0] = 101.0
    one.answer.feed(b"~")
    clock[0] = 102.0
    one.relay._look()
    assert clock == [102.0, 1.0]
    clock[0] = 103.0
    one.relay._look()
    assert await one.over() == [b"A", b"B$", b"<end>"]


async def test_no_timer_is_left_running(running: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever was there when the answer was attached."""
    loop = asyncio.get_running_loop()
    handles: list[asyncio.TimerHandle] = []

    def call_later(delay: float, callback: Callable[[], None]) -> asyncio.TimerHandle:
        handles.append(loop.call_later(delay, callback))
        return handles[-1]

    own = SimpleNamespace(time=loop.time, call_later=call_later, create_future=loop.create_future)
    monkeypatch.setattr(relay, "asyncio", SimpleNamespace(get_running_loop=lambda: own))
    for before, after in ((b"a", b"b."), (b"a$", b"b."), (b"a", b"b$."), (b"a", b"b$"), (b"a.", b"")):
        one = await running(before, idle_timeout=100.0)
        one.answer.feed(after)
        one.answer.consumer.end()
        await one.over()
        assert all(handle.cancelled() for handle in handles), (before, after)
    assert handles


async def test_grace_comes_without_an_idle_timeout_too(running: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(relay, "GRACE_SECONDS", 0.01)
    one = await running(b"a$")
    assert await one.over() == [b"A$", b"<end>"]


# -- folding -------------------------------------------------------------------------------------------------


async def test_a_fold_sink_makes_a_message() -> None:
    sink = FoldSink()
    events = [*whole("anthropic", "Hel", "lo")]
    for event in events:
        assert sink.write(event), "it is never full"
    message = sink.fold.message()
    assert message["content"] == [{"type": "text", "text": "Hello"}]
    assert message["stop_reason"] == "end_turn"


async def test_a_fold_that_grows_too_large_fails() -> None:
    sink = FoldSink()
    sink.write(b"".join(ANTHROPIC_START))
    text = b"".join(anthropic_texts(["x" * (1 << 20)]))
    with pytest.raises(GatewayError, match="64 Mi"):  # noqa: PT012
        for _ in range(1000):
            sink.write(text)


# -- nothing is left -----------------------------------------------------------------------------------------


KEPT = (Relay, DirectAnswer, SessionAnswer, EmbeddedAnswer, ClientStream, FoldSink, Exchange)


def left() -> Counter[str]:
    """The objects of requests that are alive."""
    return Counter(type(thing).__name__ for thing in gc.get_objects() if isinstance(thing, KEPT))


CONFIG = """\
server: {{relay: {way}}}
providers:
  lab: {{api: openai-chat, base_url: "{url}/v1", profile: {{max_attempts: 1}}}}
  ant: {{api: anthropic, base_url: "{url}", profile: {{max_attempts: 1}}}}
  echo: {{}}
models: {{sonnet: echo/echo}}
"""


@pytest.mark.parametrize("streamed", [True, False], ids=["stream", "fold"])
@pytest.mark.parametrize("way", ["direct", "session"])
@pytest.mark.parametrize("kind", ["chat", "anthropic", "echo"])
async def test_nothing_of_a_request_needs_the_garbage_collector(
    upstream: FaultyUpstream, kind: str, way: str, streamed: bool
) -> None:
    """No reference cycles: what belongs to a request goes when the request does."""
    script = upstream.script(stream(*whole(kind, "Hi")))
    model = {"anthropic": f"ant/{script.model}", "echo": "sonnet"}.get(kind, f"lab/{script.model}")
    async with gateway_in_process(CONFIG.format(url=upstream.url, way=way)) as gateway:
        await gateway.ask(model, stream=streamed)
        gc.collect()
        before = left()
        gc.disable()
        try:
            for _ in range(20):
                await gateway.ask(model, stream=streamed)
            # The last body's end may still be on its way; a cycle would stay however long one waits.
            for _ in range(100):
                if not left() - before:
                    break
                await asyncio.sleep(0.02)
            assert left() - before == Counter()
        finally:
            gc.enable()
