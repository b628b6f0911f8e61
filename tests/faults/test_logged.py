"""What a log line may say, whoever wrote into it: one line of plain characters (X11), and no word of a prompt (X13)."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import ClientSession

from tests.faults.guarded import (
    PATHS,
    REFUSES,
    SECOND_KEY,
    TEAM_SECRET,
    WIRES,
    any_model,
    asked,
    guarded_gateway,
)
from tests.server.faulty_upstream import (
    Answer,
    Connection,
    FaultyUpstream,
    answer_by_path,
    beginning,
    chat_event,
    reply,
    stream,
    whole,
)
from tests.server.gateway_process import PATIENCE, Gateway, raw, turn, until
from tests.server.service import ECHO, service


@pytest.fixture(scope="module", params=["text", "json"])
def gateway(
    request: pytest.FixtureRequest, upstream: FaultyUpstream, closed_port: int, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Gateway]:
    folder = tmp_path_factory.mktemp("logged")
    yield from guarded_gateway(folder, upstream, closed_port, "--log-format", request.param)


@pytest.fixture(scope="module", params=["text", "json"])
def talkative(
    request: pytest.FixtureRequest, upstream: FaultyUpstream, closed_port: int, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Gateway]:
    folder = tmp_path_factory.mktemp("talkative")
    yield from guarded_gateway(
        folder, upstream, closed_port, "--log-level", "debug", "--log-format", request.param
    )


async def logged(gateway: Gateway, start: int, *words: str) -> str:
    """What was logged after ``start``, once ``words`` are among it."""

    async def told() -> bool:
        return all(word in gateway.log()[start:] for word in words)

    await until(told)
    return gateway.log()[start:]


# -- forged lines (X11) ------------------------------------------------------------------------------------

EVIL = (
    "x\n2026-01-01 00:00:00,000 INFO forged\r\x1b[2J\x9b31m\x07\x00\x7f\u0085\u200b\u202e\u2028\u2066\ufeff\U000e0041"
)
LINE = re.compile(
    r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3} (DEBUG|INFO|WARNING|ERROR) |"
    r'\{"time":"[\d:.T+-]+","level":"(debug|info|warning|error)","logger":"[\w.]+",.*\}$'
)


async def test_no_line_of_the_log_is_forged(talkative: Gateway, upstream: FaultyUpstream) -> None:
    """By a client or by an upstream, in whatever may be logged of theirs."""
    start = len(talkative.log())
    body = json.dumps({"error": {"message": EVIL, "type": EVIL, "code": EVIL}}).encode()
    for provider in PATHS:
        for answer in (reply(400, {}, body), reply(500, {}, EVIL.encode()), reply(200, {}, body)):
            await talkative.ask(f"{provider}/{upstream.script(answer).model}")
        answer = stream(*beginning(WIRES[provider], "Hi"), b"data: %b\n\n" % body)
        await talkative.ask(f"{provider}/{upstream.script(answer).model}")
        with any_model(upstream, answer_by_path(stream(chat_event({"content": EVIL}, model=EVIL)), REFUSES)):
            await talkative.ask(f"{provider}/{EVIL}")
    headers = dict.fromkeys(("user-agent", "x-forwarded-for", "x-gateway-explain", "referer"), "\u202eforged\u2066")
    tools = [{"name": EVIL, "input_schema": {"type": "object", EVIL: EVIL}}]
    more = {"metadata": {"user_id": EVIL}, "tools": tools, EVIL: EVIL}
    for model in ("lab/nobody", EVIL, f"echo/{EVIL}", f"refused/{EVIL}", f"{EVIL}/m"):
        await talkative.ask(model, headers={**talkative.headers(), **headers}, **more)
    await talkative.send("GET", "/%0a2026-01-01%20INFO%20forged%1b%5b2J%e2%80%ae")
    await raw(talkative, "GET /\u202e\u2028 HTTP/1.1\r\nhost: \u202e\r\nconnection: close\r\n\r\n".encode())
    await talkative.ask("the-last-one")
    log = await logged(talkative, start, "forged", "the-last-one")
    assert not [line for line in log.split("\n") if line and not LINE.match(line)]
    assert not {letter for letter in log if letter != "\n" and not letter.isprintable()}


async def test_no_header_of_an_answer_is_forged(talkative: Gateway, upstream: FaultyUpstream) -> None:
    headers = {**talkative.headers(), "x-gateway-explain": "1"}
    with any_model(upstream, stream(*whole("chat", "Hi"))):
        for model in (f"lab/{EVIL}", f"echo/{EVIL}", "lab/a\r\nset-cookie: forged=1", "lab/ä€\U0001f600", "lab/plain"):
            for streamed in (True, False):
                answer = await talkative.ask(model, stream=streamed, headers=headers, **{EVIL: 1})
                assert answer.status == 200 if model == "lab/plain" else answer.status in (200, 400)
                assert "set-cookie" not in answer.headers
                assert all(value.isascii() and value.isprintable() for value in answer.headers.values())


CLIENTS = {
    "nobody is trusted": ("[]", "127.0.0.1"),
    "the proxy is": ("[127.0.0.1]", "203.0.113.9"),
    "its network is": ("[127.0.0.0/8, '::1']", "203.0.113.9"),
    "another is": ("[192.0.2.1]", "127.0.0.1"),
}


@pytest.mark.parametrize(("trusted", "client"), CLIENTS.values(), ids=CLIENTS)
async def test_whose_address_is_logged(tmp_path: Path, trusted: str, client: str) -> None:
    """What a client itself wrote into the header is not."""
    config = f"server: {{trusted_proxies: {trusted}}}\n{ECHO}"
    with service(tmp_path, "--log-format", "json", config=config) as gateway:
        await gateway.ask("sonnet", headers={"x-forwarded-for": "198.51.100.6, 203.0.113.9"})
        await gateway.ask("sonnet", headers={"x-forwarded-for": "\u202eforged, x"})
        log = await logged(gateway, 0, f'"client":"{client}"', '"client":"127.0.0.1"')
    assert "198.51.100.6" not in log
    assert "forged" not in log


# -- prompts (X13) -----------------------------------------------------------------------------------------

PROMPT = "zebra-words-of-the-prompt"
ANSWER = "zebra-words-of-the-answer"


async def unfinished(connection: Connection) -> None:
    await connection.start()
    for piece in beginning("chat", ANSWER):
        await connection.chunk(piece)
    await connection.end("open")


async def silent(connection: Connection) -> None:
    await connection.gone.wait()


def trouble(wire: str) -> dict[str, Answer]:
    """Upstreams that fail, and most of them repeat what they were asked."""
    words = json.dumps({"error": {"message": f"Invalid prompt: {PROMPT}", "type": "invalid_request_error"}}).encode()
    long = json.dumps({"error": {"message": f"{PROMPT} " * 1000}}).encode()
    overflow = json.dumps({"error": {"message": f"maximum context length is 9 tokens: {PROMPT}"}}).encode()
    return {
        "refused": reply(400, {}, words),
        "refused at length": reply(400, {}, long),
        "too long": reply(400, {}, overflow),
        "a refused key": reply(401, {}, words),
        "no such model": reply(404, {}, words),
        "failed": reply(500, {}, words),
        "a page": reply(502, {}, f"<html><body>{PROMPT}</body></html>".encode()),
        "words alone": reply(429, {}, PROMPT.encode()),
        "not JSON": reply(200, {}, f"{{{PROMPT}".encode()),
        "an error in a 200": reply(200, {}, words),
        "an error in the stream": stream(*beginning(wire, ANSWER), b"data: %b\n\n" % words),
        "garbage in the stream": stream(*beginning(wire, ANSWER), f"data: {{{PROMPT}\n\n".encode()),
        "cut": stream(*beginning(wire, ANSWER), ending="cut"),
        "with a secret": reply(400, {}, json.dumps({"error": {"message": f"{TEAM_SECRET}: {PROMPT}"}}).encode()),
        "with a secret in the stream": stream(
            *beginning(wire, ANSWER),
            b"data: %b\n\n" % json.dumps({"error": {"message": f"{SECOND_KEY}: {PROMPT}"}}).encode(),
        ),
    }


def conversation() -> dict[str, Any]:
    call = {"type": "tool_use", "id": "t1", "name": "x", "input": {"a": PROMPT}}
    return {
        "system": PROMPT,
        "messages": [
            {"role": "user", "content": PROMPT},
            {"role": "assistant", "content": [{"type": "text", "text": PROMPT}, call]},
            {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "t1", "content": PROMPT}]},
        ],
        "tools": [{"name": "x", "description": PROMPT, "input_schema": {"type": "object", "title": PROMPT}}],
        "top_k": 3,
    }


MALFORMED: list[bytes | dict[str, Any]] = [
    json.dumps(turn("sonnet", PROMPT)).encode()[:-2],
    f"{PROMPT}{{".encode(),
    turn("sonnet", messages=[{"role": "user", "content": [{"type": PROMPT}]}]),
    turn("sonnet", messages=[{"role": PROMPT, "content": "x"}]),
    turn("sonnet", messages=PROMPT),
    turn("sonnet", PROMPT, max_tokens=PROMPT),
    turn("sonnet", PROMPT, tools=[{"name": PROMPT, "input_schema": PROMPT}]),
    turn("sonnet", PROMPT, tool_choice={"type": PROMPT}),
    turn("sonnet", PROMPT, thinking={"type": PROMPT}),
    turn("sonnet", PROMPT, system=[{"type": "text", "text": 5, "x": PROMPT}]),
]


@pytest.mark.parametrize("provider", PATHS)
async def test_no_word_of_a_prompt_is_logged(gateway: Gateway, upstream: FaultyUpstream, provider: str) -> None:
    start, failures = len(gateway.log()), trouble(WIRES[provider])
    for answer in failures.values():
        script = upstream.script(answer)
        for streamed in (True, False):
            await gateway.ask(f"{provider}/{script.model}", stream=streamed, **conversation())
        assert asked(script)
    await gateway.ask("the-last-turn")
    log = await logged(gateway, start, "the-last-turn")
    assert log.count("\n") > 2 * len(failures)
    assert not [line for line in log.splitlines() if PROMPT in line or ANSWER in line]


async def test_nor_when_something_else_fails(gateway: Gateway, upstream: FaultyUpstream) -> None:
    start = len(gateway.log())
    (await gateway.ask(f"hasty/{upstream.script(silent).model}", **conversation())).error(504)
    await gateway.ask(f"hasty/{upstream.script(unfinished).model}", **conversation())
    (await gateway.ask("refused/m", **conversation())).error(502)
    (await gateway.send("POST", "/v1/messages", turn("sonnet", PROMPT), {})).error(401)
    for body in MALFORMED:
        for path in ("/v1/messages", "/v1/messages/count_tokens"):
            await gateway.send("POST", path, body)
    body = turn(f"lab/{upstream.script(unfinished).model}", stream=True, **conversation())
    async with (
        ClientSession(timeout=PATIENCE) as client,
        client.post(f"{gateway.url}/v1/messages", json=body, headers=gateway.headers()) as answer,
    ):
        await answer.content.readany()
        answer.close()
    log = await logged(gateway, start, "client_closed")
    assert not [line for line in log.splitlines() if PROMPT in line or ANSWER in line]


def test_nor_is_one_in_any_file(gateway: Gateway) -> None:
    """Its ledger among them; the tests above have filled it."""
    assert gateway.log_file is not None
    for file in gateway.log_file.parent.iterdir():
        held = file.read_bytes()
        assert PROMPT.encode() not in held, file.name
        assert ANSWER.encode() not in held, file.name
