"""``server.relay``: what must hold by both ways to an upstream, and what happens where only one works.

The rest of this folder runs by the direct way. The most telling of it run here again, by the session's: pytest collects
the imported tests, with the ``gateway`` of this module.
"""

from __future__ import annotations

import asyncio
import logging
import re
from contextlib import AsyncExitStack

import pytest

from gateway.config import ConfigError, loads
from gateway.server import aiohttp_build, run
from gateway.server.direct_upstream import DirectUpstream
from gateway.server.upstream import SessionAnswer, new_session
from tests.server import (
    test_client_gone,
    test_one_attempt,
    test_second_attempt,
    test_stream_timing,
    test_upstream_faults,
)
from tests.server.faulty_upstream import CHAT_END, Connection, FaultyUpstream, chat_event, stream, whole
from tests.server.gateway_process import Gateway, gateway_in_process, open_stream

test_refusals = test_upstream_faults.test_a_refusal_is_an_http_error
test_nobody_there = test_upstream_faults.test_nobody_there
test_dead_connections = test_upstream_faults.test_the_connection_dies_before_the_first_event
test_no_headers = test_upstream_faults.test_silence_before_the_headers_ends_at_the_limit
test_broken_streams = test_upstream_faults.test_a_broken_stream_is_no_answer
test_an_endless_line = test_upstream_faults.test_an_endless_line_is_cut_in_bounded_memory
test_what_goes_up = test_upstream_faults.test_nothing_of_the_clients_goes_up_but_what_is_allowed
test_cookies = test_upstream_faults.test_cookies_of_an_upstream_are_nobodys
test_relayed_headers = test_upstream_faults.test_only_anthropics_own_word_on_its_limits_is_relayed
test_legal_oddities = test_upstream_faults.test_legal_oddities_are_whole_answers
test_silence = test_stream_timing.test_an_upstream_that_fell_silent_is_given_up
test_at_once = test_stream_timing.test_no_event_waits_for_another
test_gone_before_the_answer = test_client_gone.test_before_the_first_token
test_gone_while_folding = test_client_gone.test_while_an_answer_is_folded
test_no_socket_is_left_behind = test_client_gone.test_no_socket_is_left_behind
test_a_second_attempt = test_second_attempt.test_a_refused_parameter_is_left_out_from_then_on
test_no_third_attempt = test_second_attempt.test_one_attempt_more_and_no_third
test_one_attempt_only = test_one_attempt.test_after_the_first_content_there_is_no_second_attempt


@pytest.fixture
def gateway(session_gateway: Gateway) -> Gateway:
    return session_gateway


# -- the switch --------------------------------------------------------------------------------------------


CONFIG = """\
server: {{relay: {way}}}
providers:
  lab: {{api: openai-chat, base_url: "{url}/v1", profile: {{max_attempts: 1}}}}
models: {{sonnet: lab/m}}
"""


@pytest.fixture
def sessions(monkeypatch: pytest.MonkeyPatch) -> list[SessionAnswer]:
    """The answers that came by way of ClientSession."""
    answers: list[SessionAnswer] = []
    made = SessionAnswer.__init__

    def note(self: SessionAnswer, *arguments: object) -> None:
        answers.append(self)
        made(self, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(SessionAnswer, "__init__", note)
    return answers


@pytest.mark.parametrize(("way", "by_session"), [("direct", 0), ("session", 2)])
async def test_the_switch(
    upstream: FaultyUpstream, sessions: list[SessionAnswer], way: str, by_session: int
) -> None:
    script = upstream.script(stream(*whole("chat", "Hi")))
    async with gateway_in_process(CONFIG.format(url=upstream.url, way=way)) as gateway:
        assert (await gateway.ask(f"lab/{script.model}")).reading().content[0]["text"] == "Hi"
        assert (await gateway.ask(f"lab/{script.model}", stream=False)).json["content"][0]["text"] == "Hi"
    assert len(sessions) == by_session


async def test_an_aiohttp_that_lacks_something_serves_by_its_client(
    upstream: FaultyUpstream,
    sessions: list[SessionAnswer],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(run, "unsupported", lambda: "Connection has no protocol")
    script = upstream.script(stream(*whole("chat", "Hi")))
    with caplog.at_level(logging.WARNING, "gateway"):
        async with gateway_in_process(CONFIG.format(url=upstream.url, way="direct")) as gateway:
            assert (await gateway.ask(f"lab/{script.model}")).reading().finished
    assert len(sessions) == 1
    (record,) = caplog.records
    assert "server.relay: direct" in record.getMessage()
    assert "Connection has no protocol" in record.getMessage()


async def test_direct_is_what_this_aiohttp_can() -> None:
    async with new_session() as session:
        assert isinstance(run.direct_upstream(session), DirectUpstream)


LACKING = [
    ("aiohttp.connector.Connection.protocol", "Connection has no protocol"),
    ("aiohttp.connector.Connection.transport", "Connection has no transport"),
    ("aiohttp.client_proto.ResponseHandler.should_close", "ResponseHandler has no should_close"),
    ("aiohttp.StreamReader._buffer", "StreamReader has no _buffer"),
]


@pytest.mark.parametrize(("name", "told"), LACKING)
def test_what_is_missing_is_named(name: str, told: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(name)
    assert aiohttp_build.unsupported() == told


def test_other_arguments_are_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("aiohttp.TCPConnector.connect", lambda self, request, timeout: None)
    assert aiohttp_build.unsupported() == "TCPConnector.connect takes other arguments"


def test_a_third_way_is_a_mistake() -> None:
    with pytest.raises(ConfigError, match="relay"):
        loads(b"server: {relay: tunnel}\nproviders: {echo: {}}\nmodels: {sonnet: echo/echo}\n", "providers.yaml", {})


# -- a client that does not read -----------------------------------------------------------------------------


PIECES = 1024
"""64 MiB of text, each piece with its number."""


@pytest.mark.parametrize("way", ["gateway", "session_gateway"])
async def test_a_client_that_does_not_read_holds_up_only_itself(
    request: pytest.FixtureRequest, upstream: FaultyUpstream, way: str
) -> None:
    gateway: Gateway = request.getfixturevalue(way)
    loop = asyncio.get_running_loop()
    stuck = asyncio.Event()
    sent = 0

    async def flood(connection: Connection) -> None:
        nonlocal sent
        await connection.start()
        for number in range(PIECES):
            piece = chat_event({"content": f"{number:05}" + "x" * 65536})
            try:
                async with asyncio.timeout(0.3):
                    await connection.chunk(piece)
            except TimeoutError:
                loop.call_soon_threadsafe(stuck.set)
                await connection.chunk(piece)
            sent += 1
        for piece in CHAT_END:
            await connection.chunk(piece)
        await connection.end("whole")

    flooding = upstream.script(flood)
    others = [upstream.script(stream(*whole("chat", *(f"{number}" for number in range(200))))) for _ in range(5)]
    before = gateway.resident_mib()
    async with AsyncExitStack() as stack:
        response = await stack.enter_async_context(open_stream(gateway, f"lab/{flooding.model}"))
        async with asyncio.timeout(20):
            await stuck.wait()
        taken = sent
        assert taken < PIECES // 2
        replies = await asyncio.gather(*(gateway.ask(f"lab/{other.model}") for other in others))
        for reply in replies:
            assert reply.reading().content[0]["text"] == "".join(map(str, range(200)))
        assert sent == taken, "it is paused still"
        assert gateway.resident_mib() - before < 24
        body = await response.read()
    assert sent == PIECES
    texts = [f"{number:05}".encode() for number in range(PIECES)]
    assert re.findall(rb'"text":"(\d{5})x{65536}"', body) == texts
    assert b"event: message_stop" in body
