"""The bench measures what it says: a wrong stream is found, a figure is what it claims to be."""

from __future__ import annotations

import asyncio
import json
import re
import shlex
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

import gateway.adapters
from bench.answer_check import faults
from bench.gateways import ROOT
from bench.goals import GOALS, Goal, goals, verdict
from bench.load import Connection, Load, messages_request
from bench.processes import cpu_seconds, family, memory_mb
from bench.report import Results, added, ratio, sections
from bench.run import options
from bench.sections import SECTIONS, Record
from bench.streams import FAULTS, STAMP_DIGITS, encoded, events, script
from bench.upstream import UpstreamProtocol, serve
from gateway.adapters.base import MessagesRequest
from gateway.errors import UpstreamProtocolError
from tests.recordings import target_of

linux_only = pytest.mark.skipif(sys.platform != "linux", reason="the bench reads /proc")
GOOD = ("short", "tools", "flood-50", "args-20", "paced-500x20")
WRONG = {
    "short~cut": "the connection was lost",
    "short~ended": "it ends before its end",
    "short~corrupt": "text differ",
    "short~swapped": "text differ",
    "tools~lost": "arguments differ",
    "tools~overlap": "content_block_start out of turn",
    "short~twice": "message_start out of turn",
    "short~unfinished": "message_stop out of turn",
    "short~endless": "it ends before its message_stop",
}


@pytest.fixture
async def upstream() -> AsyncIterator[int]:
    """The port of a mock upstream."""
    acceptor, port = await serve()
    yield port
    acceptor.close()


def body_for(stream: str, padding: int = 0) -> bytes:
    messages = [{"role": "user", "content": "x" * padding}]
    return json.dumps({"model": stream, "max_tokens": 9, "stream": True, "messages": messages}).encode()


def load(port: int, stream: str, **how: Any) -> Load:
    return Load(port, messages_request(stream, body_for(stream)), limit=20, **how)


# -- streams: what is sent is what is expected ---------------------------------------------------------


@pytest.mark.parametrize("stream", GOOD)
def test_a_whole_stream_has_no_fault(stream: str) -> None:
    assert faults(script(stream), b"".join(events(stream, "messages"))) == []


def test_every_fault_has_a_row() -> None:
    assert {name.partition("~")[2] for name in WRONG} == set(FAULTS)


@pytest.mark.parametrize("place", range(len(events("tools", "messages"))))
def test_any_missing_event_is_found(place: int) -> None:
    whole = events("tools", "messages")
    empty = b'"partial_json":""' in whole[place]
    assert bool(faults(script("tools"), b"".join(whole[:place] + whole[place + 1 :]))) is not empty


@pytest.mark.parametrize("stream", GOOD)
def test_a_translated_stream_has_no_fault(stream: str) -> None:
    assert translated(stream) == []


@pytest.mark.parametrize("stream", ["short~corrupt", "short~swapped", "tools~lost", "tools~ended"])
def test_a_translated_stream_does_not_hide_a_fault(stream: str) -> None:
    assert translated(stream)


def translated(stream: str) -> list[str]:
    """The faults of a chat stream once the gateway has translated it."""
    request = MessagesRequest(json.loads(body_for(stream)), {}, "", "msg_1", 9)
    translator = gateway.adapters.get("openai-chat").stream_translator(request, target_of("generic"))
    body = translator.feed(b"".join(events(stream, "chat")))
    try:
        body += translator.close()
    except UpstreamProtocolError as error:
        return [str(error)]
    return faults(script(stream), body)


def test_what_a_name_means() -> None:
    assert len(script("paced-50x60").deltas) == 60
    assert script("paced-50x60").rate == 50
    assert len(script("args-100").deltas) == 101
    assert [block.kind for block in script("tools").blocks()] == ["thinking", "text", "tool_use", "tool_use"]
    json.loads(script("args-100").blocks()[0].content)
    stamp = re.compile(rf"\d{{{STAMP_DIGITS}}}")
    assert not any(stamp.search(delta.text) for name in GOOD for delta in script(name).deltas)


@pytest.mark.parametrize("name", ["shorter", "paced-50", "flood-", "", "short~"])
def test_an_unknown_name_is_refused(name: str) -> None:
    with pytest.raises(KeyError):
        script(name)


# -- load and mock, on a socket ------------------------------------------------------------------------


@pytest.mark.parametrize("stream", GOOD)
async def test_direct(upstream: int, stream: str) -> None:
    outcome = await load(upstream, stream, connections=3, requests=12).run()
    assert outcome.faults == {}
    assert outcome.requests == len(outcome.first_token) == 12
    assert min(outcome.first_token) > 0
    assert outcome.events == 12 * len(script(stream).deltas)
    assert len(outcome.latencies) == (outcome.events if script(stream).stamped else 0)
    assert min(outcome.latencies, default=1) > 0


@pytest.mark.parametrize("stream", WRONG)
async def test_a_wrong_stream_fails(upstream: int, stream: str) -> None:
    outcome = await load(upstream, stream, requests=2).run()
    assert outcome.failed == outcome.requests == 2
    assert WRONG[stream] in next(iter(outcome.faults))
    assert outcome.first_token == []


async def test_a_wrong_answer_after_right_ones_fails(upstream: int) -> None:
    """An answer is compared with those that were checked; a new one is checked itself."""
    run = load(upstream, "short", requests=2)
    await run.run()
    assert run._fault(b"".join(events("short", "messages"))) == ""
    assert run._fault(b"".join(events("short~corrupt", "messages")))


async def test_a_stream_that_never_ends_fails(upstream: int) -> None:
    run = Load(upstream, messages_request("paced-1x9", body_for("paced-1x9")), requests=1, limit=0.2)
    outcome = await run.run()
    assert outcome.faults == {"not ended after 0.2 s": 1}
    assert run.arrived == len(outcome.latencies) == 1


async def test_a_refusal_fails_with_its_words(upstream: int) -> None:
    outcome = await Load(upstream, messages_request("short", body_for("nothing")), requests=1).run()
    assert re.match("status 400: .*no such stream", next(iter(outcome.faults)))


async def test_events_that_arrive_are_counted_while_streams_are_open(upstream: int) -> None:
    run = load(upstream, "paced-200x40", connections=4, requests=4, ramp=0.01)
    task = asyncio.create_task(run.run())
    await run.started.wait()
    assert run.arrived < 160
    assert (await task).failed == 0
    assert run.arrived == 160


@pytest.mark.parametrize("split", [1, 2, 7, 1000])
async def test_bytes_may_arrive_in_any_pieces(split: int) -> None:
    connection = Connection()
    connection.connection_made(asyncio.Transport())
    connection._transport = _Discarding()
    done = connection.ask(messages_request("short", b"{}"), script("short"))
    whole = events("short", "messages")
    chunks = b"".join(b"%x\r\n%b\r\n" % (len(event), event) for event in whole) + b"0\r\n\r\n"
    answer = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + chunks
    for start in range(0, len(answer), split):
        connection.data_received(answer[start : start + split])
    assert done.done()
    assert done.result() == b"".join(whole)


async def test_each_event_of_a_paced_stream_has_its_own_time() -> None:
    """One that is late does not push those behind it."""
    planned = []

    class Late:
        def call_at(self, when: float, *what: Any) -> None:
            planned.append((when, what))

    protocol = UpstreamProtocol()
    protocol._loop = Late()  # type: ignore[assignment]
    protocol._transport = _Discarding()
    protocol._paced(encoded("paced-50x4", "chat").slots, 0, 100.0, 0.02)
    for _, (step, *arguments) in planned:  # grows meanwhile
        step(*arguments)
    assert [when for when, _ in planned] == pytest.approx([100.02, 100.04, 100.06])


class _Discarding(asyncio.Transport):
    def write(self, data: object) -> None:
        pass


@pytest.mark.parametrize("path", ["/v1/messages?beta=true", "/v1/chat/completions"])
async def test_the_mock_reads_large_bodies_in_pieces_and_keeps_the_connection(upstream: int, path: str) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", upstream)
    body = body_for("short", padding=3_000_000)
    chunked = b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)
    for head, sent in ((f"content-length: {len(body)}", body), ("transfer-encoding: chunked", chunked)):
        writer.write(f"POST {path} HTTP/1.1\r\nhost: h\r\n{head}\r\n\r\n".encode() + sent)
        assert (await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 10)).startswith(b"HTTP/1.1 200")
        streamed = await asyncio.wait_for(reader.readuntil(b"0\r\n\r\n"), 10)
        assert b"words" in streamed
    writer.close()
    await writer.wait_closed()


# -- figures -------------------------------------------------------------------------------------------


def records(section: str, gateway: str, figure: str, *values: float) -> list[Record]:
    return [Record(section, gateway, number, {figure: value}) for number, value in enumerate(values, 1)]


def test_ratios_and_differences_are_formed_within_a_round() -> None:
    results = Results(
        [
            *records("requests-small", "nginx", "cpu_us_per_request", 100, 200, 400),
            *records("requests-small", "translated", "cpu_us_per_request", 300, 400, 800),
            *records("latency-small", "direct", "first_token_p50_us", 10, 1000, 20),
            *records("latency-small", "translated", "first_token_p50_us", 110, 1200, 320),
        ]
    )
    assert ratio(results, "requests-small", "translated", "nginx", "cpu_us_per_request") == 2
    assert added(results, "latency-small", "translated", "first_token_p50_us") == 200
    assert ratio(results, "requests-small", "translated", "smg", "cpu_us_per_request") is None
    table = "\n".join([*sections(results, {"small": 900}), *goals(results)])
    assert re.search(r"translated +400 +125% +2.00 +1.00", table)
    assert re.search(r"added to first token, 1 KB, us +350 +200 +200 +aim met", table)
    assert re.search(r"by nginx's +4.00 +2.00 +met", table)


def test_a_failed_stream_is_shown() -> None:
    record = Record("flood", "peer", 1, {"events_per_s": 5.0}, 3, {"text differ": 3})
    assert "  peer: 3 streams failed: text differ" in list(sections(Results([record]), {}))


@pytest.mark.parametrize(
    ("must", "aim", "at_least", "value", "said"),
    [
        (10, 5, False, 5, "aim met"),
        (10, 5, False, 6, "met"),
        (10, 5, False, 12, "missed by 20%"),
        (10, 5, False, 30, "missed: 3.00 times that"),
        (10, None, False, 10, "met"),
        (None, 5, False, 6, "aim missed by 20%"),
        (0, None, False, 0, "met"),
        (0, None, False, 4, "missed"),
        (100, 150, True, 150, "aim met"),
        (100, 150, True, 120, "met"),
        (100, 150, True, 80, "missed by 20%"),
    ],
)
def test_verdict(must: float | None, aim: float | None, at_least: bool, value: float, said: str) -> None:
    assert verdict(Goal("", "", "", must, aim, at_least=at_least), value) == said


def test_goals_name_sections_that_exist() -> None:
    assert {goal.section for goal in GOALS} <= {*SECTIONS, "start"}


@linux_only
def test_cpu_time_and_memory_count_children() -> None:
    work = "x = b'x' * 30_000_000\nwhile __import__('time').process_time() < 0.2: pass\nprint(1, flush=True)\ninput()"
    parent = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {work!r}])"
    with subprocess.Popen([sys.executable, "-c", parent], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        assert len(family(process.pid)) == 2
        assert cpu_seconds(process.pid) > 0.2
        assert memory_mb(process.pid) > 30
        process.communicate(b"\n")

    alone = "import time\nwhile time.process_time() < 0.3: pass\nprint(time.process_time(), flush=True)\ninput()"
    with subprocess.Popen([sys.executable, "-c", alone], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        said = float(process.stdout.readline())
        assert cpu_seconds(process.pid) == pytest.approx(said, abs=0.05)
        process.communicate(b"\n")


# -- the command ---------------------------------------------------------------------------------------


@linux_only
def test_a_small_run(tmp_path: Path) -> None:
    """Ours is started, pinned and measured, both ways; every stream arrives whole."""
    target = tmp_path / "figures.json"
    command = [
        *(sys.executable, "-m", "bench.run", "--rounds", "1", "--seconds", "0.05", "--rest", "0"),
        *("--open-streams", "10", "--targets", "direct,translated,passthrough", "--json", str(target)),
        *("--sections", "latency-real,requests-small,requests-tools,flood"),
    ]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=True)
    figures = [record for record in json.loads(target.read_bytes()) if record["gateway"] != "direct"]
    assert len(figures) == 8, ended.stdout
    assert [record for record in figures if record["failed"]] == []
    for record in figures:
        assert min(record["figures"].values()) > 0
    assert "CPU us/request" in ended.stdout
    assert "Goals" in ended.stdout


def documented() -> list[str]:
    """The ARGS of each `make bench` in the README."""
    text = (ROOT / "bench" / "README.md").read_text(encoding="utf-8")
    return re.findall(r"make bench ARGS=\"([^\"]*)\"", text)


@pytest.mark.parametrize("arguments", documented())
def test_documented_arguments(arguments: str) -> None:
    assert options(shlex.split(arguments)).rounds > 0


@pytest.mark.parametrize("arguments", ["--sections speed", "--targets netscape"])
def test_an_unknown_word_is_refused(arguments: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        options(arguments.split())
    assert "known are" in capsys.readouterr().err
