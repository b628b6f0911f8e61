"""Whatever an upstream does, a client gets Anthropic's error in time; streaming or not, on both wires."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

import pytest

from tests.server.faulty_upstream import (
    Answer,
    Connection,
    FaultyUpstream,
    beginning,
    chat_event,
    reply,
    stream,
    whole,
)
from tests.server.gateway_process import KEYS, SECRETS, Gateway, open_stream, turn

HTML = b"<html><head><title>502</title></head><body><h1>Bad Gateway</h1>" + b"<p>nginx</p>" * 500 + b"</body></html>"
WIRES = {"lab": "chat", "ant": "anthropic"}
"""Provider -> wire."""


def refusal(status: int, headers: dict[str, str] | None = None, message: str = "because of it") -> Answer:
    return reply(status, headers or {}, b'{"type":"error","error":{"type":"x","message":"%b"}}' % message.encode())


@dataclass(frozen=True)
class Refused:
    """What an upstream answers instead of a stream, and what the client must see."""

    answer: Answer
    status: int
    kind: str
    says: str = ""
    headers: tuple[tuple[str, str | None], ...] = ()


PERMANENT = (("x-should-retry", "false"),)
REFUSALS = {
    "400": Refused(refusal(400), 400, "invalid_request_error", "because of it"),
    "401": Refused(refusal(401), 502, "api_error", "_KEY", PERMANENT),
    "403": Refused(refusal(403), 502, "api_error", "_KEY", PERMANENT),
    "402": Refused(refusal(402), 402, "billing_error", "because of it", PERMANENT),
    "404": Refused(refusal(404), 404, "not_found_error", "model: "),
    "405": Refused(refusal(405), 400, "invalid_request_error", "because of it"),
    "408": Refused(refusal(408), 504, "timeout_error", "because of it"),
    "413": Refused(refusal(413), 413, "request_too_large", "because of it"),
    "422": Refused(refusal(422), 400, "invalid_request_error", "because of it"),
    "429": Refused(refusal(429), 429, "rate_limit_error", "because of it", (("retry-after", None),)),
    "429 in seconds": Refused(
        refusal(429, {"retry-after": "600"}), 429, "rate_limit_error", "", (("retry-after", "600"),)
    ),
    "429 in milliseconds": Refused(
        refusal(429, {"retry-after-ms": "1500"}), 429, "rate_limit_error", "", (("retry-after", "2"),)
    ),
    "429 with a date": Refused(
        refusal(429, {"date": "Sat, 21 Nov 2026 10:00:00 GMT", "retry-after": "Sat, 21 Nov 2026 10:00:07 GMT"}),
        429,
        "rate_limit_error",
        "",
        (("retry-after", "7"),),
    ),
    "429 with nonsense": Refused(
        refusal(429, {"retry-after": "soon"}), 429, "rate_limit_error", "", (("retry-after", None),)
    ),
    "500": Refused(refusal(500), 500, "api_error", "because of it"),
    "502 with HTML": Refused(reply(502, {"content-type": "text/html"}, HTML), 502, "api_error", "HTML"),
    "503": Refused(refusal(503, {"retry-after": "3"}), 529, "overloaded_error", "", (("retry-after", "3"),)),
    "504": Refused(refusal(504), 504, "timeout_error", "because of it"),
    "529": Refused(refusal(529), 529, "overloaded_error", "because of it"),
    "status 599": Refused(refusal(599), 599, "api_error", "because of it"),
    "302": Refused(reply(302, {"location": "http://127.0.0.1:1/v1/chat/completions"}, b""), 502, "api_error", "302"),
    "204": Refused(reply(204, {}, b""), 502, "api_error"),
    "500 without a word": Refused(reply(500, {}, b""), 500, "api_error", "no reason"),
    "500 with noise": Refused(reply(500, {}, bytes(range(256)) * 100), 500, "api_error"),
    "prompt too long": Refused(
        refusal(400, message="This model's maximum context length is 8192 tokens, however you requested 9000 tokens"),
        400,
        "invalid_request_error",
        "prompt is too long: 9000 tokens > 8192 maximum",
    ),
    "200 with an error": Refused(
        reply(200, {}, b'{"error":{"message":"because","type":"server_error"}}'), 500, "api_error", "because"
    ),
    "200 with an error in a stream": Refused(
        stream(b'data: {"error":{"message":"because of it","code":429}}\n\n'), 429, "rate_limit_error", "because of it"
    ),
    "200 with HTML": Refused(reply(200, {"content-type": "text/html"}, HTML), 502, "api_error", "HTML"),
    "200 with JSON that says nothing": Refused(reply(200, {}, b"{}"), 502, "api_error"),
    "200 with half a JSON": Refused(reply(200, {}, b'{"choices":[{"mes'), 502, "api_error"),
    "200 with nothing": Refused(reply(200, {}, b""), 502, "api_error", "early"),
    "200 with blank lines": Refused(stream(b"\n\n", b"\r\n"), 502, "api_error", "early"),
    "200 with comments": Refused(stream(b": hello\n\n"), 502, "api_error", "early"),
    "200 with noise": Refused(stream(b"data: \x00\xff\n\n"), 502, "api_error"),
}


@pytest.mark.parametrize("provider", WIRES)
@pytest.mark.parametrize("case", REFUSALS.values(), ids=REFUSALS)
async def test_a_refusal_is_an_http_error(
    gateway: Gateway, upstream: FaultyUpstream, case: Refused, provider: str
) -> None:
    script = upstream.script(case.answer)
    for streamed in (True, False):
        answer = await gateway.ask(f"{provider}/{script.model}", stream=streamed)
        message = answer.error(case.status, case.kind)
        assert case.says in message
        assert provider in message
        assert len(message) < 2300
        assert "<html" not in message
        assert all(letter.isprintable() or letter in "\n\t" for letter in message)
        for name, value in case.headers:
            assert answer.headers.get(name) == value
    assert len(script.visits) == 2


@pytest.mark.parametrize("provider", WIRES)
async def test_a_refused_key_names_the_provider_and_the_variable(
    gateway: Gateway, upstream: FaultyUpstream, provider: str
) -> None:
    variable = f"{provider.upper()}_KEY"
    script = upstream.script(refusal(401, message=f"Incorrect API key provided: {KEYS[variable]}"))
    answer = await gateway.ask(f"{provider}/{script.model}")
    message = answer.error(502, "api_error")
    assert variable in message
    assert provider in message
    assert not [secret for secret in SECRETS if secret in str(answer)]


# -- no answer at all --------------------------------------------------------------------------------------


@pytest.mark.parametrize("streamed", [True, False])
@pytest.mark.parametrize(("provider", "reason"), [("refused", "refused"), ("nowhere", "host name")])
async def test_nobody_there(gateway: Gateway, provider: str, reason: str, streamed: bool) -> None:
    message = (await gateway.ask(f"{provider}/m", stream=streamed)).error(502, "api_error")
    assert message.startswith(f"could not reach {provider}: ")
    assert reason in message.lower()
    assert "127.0.0.1" not in message
    assert ".invalid" not in message


def bytes_then(data: bytes, how: str) -> Answer:
    async def answer(connection: Connection) -> None:
        await connection.send(data)
        await connection.end("cut" if how == "cut" else "reset")

    return answer


DEAD = {
    "closed": bytes_then(b"", "cut"),
    "reset": bytes_then(b"", "reset"),
    "half a header": bytes_then(b"HTTP/1.1 200 OK\r\ncontent-ty", "cut"),
    "no HTTP": bytes_then(b"\x15\x03\x01\x00\x02\x02\x28\r\n\r\n", "cut"),
    "a bad chunk": bytes_then(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nzzz\r\n", "cut"),
    "a header line too long": bytes_then(b"HTTP/1.1 200 OK\r\nx-a: " + b"a" * 70_000 + b"\r\n\r\n", "cut"),
    "less than promised": bytes_then(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n", "cut"),
}


@pytest.mark.parametrize("streamed", [True, False])
@pytest.mark.parametrize("provider", WIRES)
@pytest.mark.parametrize("answer", DEAD.values(), ids=DEAD)
async def test_the_connection_dies_before_the_first_event(
    gateway: Gateway, upstream: FaultyUpstream, answer: Answer, provider: str, streamed: bool
) -> None:
    script = upstream.script(answer)
    message = (await gateway.ask(f"{provider}/{script.model}", stream=streamed)).error(502, "api_error")
    assert provider in message


async def test_silence_before_the_headers_ends_at_the_limit(gateway: Gateway, upstream: FaultyUpstream) -> None:
    async def answer(connection: Connection) -> None:
        await connection.gone.wait()

    script = upstream.script(answer)
    for streamed in (True, False):
        message = (await gateway.ask(f"impatient/{script.model}", stream=streamed)).error(504, "timeout_error")
        assert "impatient" in message
        await (await script.visit()).closed()


# -- after the first content -------------------------------------------------------------------------------


@dataclass(frozen=True)
class Broken:
    """How a stream goes wrong after ``beginning(wire, "Hello", " wor")``."""

    pieces: tuple[bytes, ...]
    ending: str
    kind: str = "api_error"


OVERLOADED = b'{"type":"error","error":{"type":"overloaded_error","message":"full"}}'
BROKEN = {
    "cut in an event": Broken((b'data: {"choices":[{"delta":{"content":"ld',), "cut"),
    "cut in a character": Broken((b'data: {"choices":[{"delta":{"content":"\xe2\x82',), "cut"),
    "cut between events": Broken((), "cut"),
    "reset": Broken((), "reset"),
    "a clean end that is none": Broken((), "whole"),
    "a whole event, unterminated": Broken((b'data: {"type":"ping"}',), "whole"),
    "an error object": Broken((b'data: {"error":{"message":"because","type":"server_error"}}\n\n',), "open"),
    "an overload": Broken((b"event: error\ndata: %b\n\n" % OVERLOADED,), "open", "overloaded_error"),
    "a bare error object": Broken((b'{"error":{"message":"because","code":429}}\n\n',), "whole", "rate_limit_error"),
    "an event that is no JSON": Broken((b"data: {\n\n",), "open"),
    "HTML": Broken((b"data: <html>502</html>\n\n",), "open"),
    "an event of 8 MiB": Broken((b"data: ", *([b"x" * 1048576] * 8), b"\n\n"), "open"),
}  # fmt: skip


@pytest.mark.parametrize("provider", WIRES)
@pytest.mark.parametrize("case", BROKEN.values(), ids=BROKEN)
async def test_a_broken_stream_is_no_answer(
    gateway: Gateway, upstream: FaultyUpstream, case: Broken, provider: str
) -> None:
    """All whole deltas, then one error event, never message_stop; a client that does not stream gets the error only."""
    wire = WIRES[provider]
    pieces = (*beginning(wire, "Hello", " wor"), *case.pieces)
    script = upstream.script(stream(*pieces, ending=case.ending))  # type: ignore[arg-type]
    reading = (await gateway.ask(f"{provider}/{script.model}")).reading(passed_through=provider == "ant")
    assert reading.error is not None
    assert reading.error["type"] == case.kind
    assert not reading.finished
    assert reading.content[0]["text"].startswith("Hello")
    assert "\ufffd" not in reading.content[0]["text"]
    folded = await gateway.ask(f"{provider}/{script.model}", stream=False)
    folded.error(kind=case.kind)
    if case.ending != "whole":
        for visit in script.visits:
            await visit.closed()
        for visit in script.visits:
            await visit.closed()


async def test_half_a_tool_call_is_not_closed_as_if_it_were_whole(gateway: Gateway, upstream: FaultyUpstream) -> None:
    call = {"index": 0, "id": "c1", "type": "function", "function": {"name": "write", "arguments": '{"path":"/et'}}
    script = upstream.script(stream(chat_event({"tool_calls": [call]}), ending="whole"))
    tools = [{"name": "write", "input_schema": {"type": "object"}}]
    reading = (await gateway.ask(f"lab/{script.model}", tools=tools)).reading()
    assert reading.error is not None
    assert reading.open
    (await gateway.ask(f"lab/{script.model}", stream=False, tools=tools)).error(502, "api_error")


@pytest.mark.parametrize("provider", WIRES)
async def test_an_endless_line_is_cut_in_bounded_memory(
    gateway: Gateway, upstream: FaultyUpstream, provider: str
) -> None:
    async def answer(connection: Connection) -> None:
        await connection.start()
        await connection.chunk(b"data: ")
        while not connection.gone.is_set():
            await connection.chunk(b"x" * 65536)

    script = upstream.script(answer)
    before = gateway.resident_mib()
    for streamed in (True, False):
        message = (await gateway.ask(f"{provider}/{script.model}", stream=streamed)).error(502, "api_error")
        assert "bytes" in message
        await (await script.visit()).closed()
    assert gateway.resident_mib() - before < 64


async def test_an_upstream_that_floods_does_not_fill_the_memory_for_a_client_that_does_not_read(
    gateway: Gateway, upstream: FaultyUpstream
) -> None:
    """Back-pressure: the upstream is paused long before its 200 MiB are out."""
    sent = 0
    text = chat_event({"content": "x" * 65536})
    stuck = asyncio.Event()
    loop = asyncio.get_running_loop()

    async def answer(connection: Connection) -> None:
        nonlocal sent
        await connection.start()
        while sent < 200 << 20:
            try:
                async with asyncio.timeout(0.5):
                    await connection.chunk(text)
            except TimeoutError:
                break
            sent += len(text)
        loop.call_soon_threadsafe(stuck.set)
        await connection.gone.wait()

    script = upstream.script(answer)
    before = gateway.resident_mib()
    async with open_stream(gateway, f"lab/{script.model}") as response:
        assert response.status == 200
        async with asyncio.timeout(20):
            await stuck.wait()
        assert sent < 32 << 20
        assert gateway.resident_mib() - before < 32
    await (await script.visit()).closed()


# -- what goes up ------------------------------------------------------------------------------------------


SENT_BY_A_CLIENT = {
    "authorization": "Bearer sk-ant-oat-of-the-client",
    "cookie": "session=of-the-client",
    "proxy-authorization": "Basic b2Y6Y2xpZW50",
    "x-forwarded-for": "10.1.2.3",
    "forwarded": "for=10.1.2.3",
    "te": "trailers",
    "x-internal": "of-the-client",
    "accept-encoding": "gzip, deflate, br",
    "user-agent": "claude-cli/2.1 of-the-client",
    "anthropic-beta": "some-beta-2026-01-01",
}


@pytest.mark.parametrize("provider", WIRES)
async def test_nothing_of_the_clients_goes_up_but_what_is_allowed(
    gateway: Gateway, upstream: FaultyUpstream, provider: str
) -> None:
    script = upstream.script(stream(*whole(WIRES[provider], "Hi")))
    evil = "http://evil.example"
    more = {"api_base": evil, "api_key": "x", "base_url": evil, "extra_headers": {"a": "b"}}
    headers = {**gateway.headers(), **SENT_BY_A_CLIENT, "connection": "keep-alive, x-internal"}
    answer = await gateway.ask(f"{provider}/{script.model}", headers=headers, **more)
    assert answer.reading(passed_through=provider == "ant").finished
    (visit,) = script.visits
    names = {name for name, _ in visit.headers}
    allowed = {"host", "content-type", "content-length", "user-agent", "accept", "accept-encoding"}
    own = {"authorization"} if provider == "lab" else {"x-api-key", "anthropic-version", "anthropic-beta"}
    assert names == allowed | own
    assert visit.header("authorization" if provider == "lab" else "x-api-key") in (
        f"Bearer {KEYS['LAB_KEY']}",
        KEYS["ANT_KEY"],
    )
    assert visit.header("accept-encoding") == "identity"
    assert visit.header("host") == upstream.url.removeprefix("http://")
    sent = str((visit.line, visit.headers)) + (visit.body.decode() if provider == "lab" else "")
    assert "of-the-client" not in sent
    assert "evil" not in sent
    assert gateway.token is not None
    assert gateway.token not in sent


async def test_cookies_of_an_upstream_are_nobodys(gateway: Gateway, upstream: FaultyUpstream) -> None:
    fields = {"content-type": "text/event-stream", "set-cookie": "id=1; Path=/", "x-upstream-internal": "secret"}
    script = upstream.script(stream(*whole("chat", "Hi"), headers=fields))
    for streamed in (True, False):
        answer = await gateway.ask(f"named/{script.model}", stream=streamed)
        assert answer.status == 200
        assert "set-cookie" not in answer.headers
        assert "x-upstream-internal" not in answer.headers
    assert [visit.header("cookie") for visit in script.visits] == [None, None]


async def test_only_anthropics_own_word_on_its_limits_is_relayed(gateway: Gateway, upstream: FaultyUpstream) -> None:
    fields = {"content-type": "text/event-stream", "anthropic-ratelimit-requests-remaining": "7", "anthropic-x": "y"}
    script = upstream.script(stream(*whole("anthropic", "Hi"), headers=fields))
    for provider, expected in (("official", "7"), ("ant", None)):
        for streamed in (True, False):
            answer = await gateway.ask(f"{provider}/{script.model}", stream=streamed)
            assert answer.headers.get("anthropic-ratelimit-requests-remaining") == expected
            assert "anthropic-x" not in answer.headers


async def test_the_paths_that_are_asked(gateway: Gateway, upstream: FaultyUpstream) -> None:
    chat, anthropic = upstream.script(stream(*whole("chat", "Hi"))), upstream.script(stream(*whole("anthropic", "Hi")))
    await gateway.ask(f"lab/{chat.model}")
    await gateway.ask(f"ant/{anthropic.model}")
    assert chat.visits[0].line == "POST /v1/chat/completions HTTP/1.1"
    assert anthropic.visits[0].line == "POST /v1/messages?beta=true HTTP/1.1"


@pytest.mark.parametrize("provider", WIRES)
async def test_the_answer_keeps_the_name_that_was_asked_for(
    gateway: Gateway, upstream: FaultyUpstream, provider: str
) -> None:
    script = upstream.script(stream(*whole(WIRES[provider], "Hi")))
    asked = f"{provider}/{script.model}"
    reading = (await gateway.ask(asked)).reading(passed_through=provider == "ant")
    assert reading.start is not None
    assert reading.start["model"] == asked
    assert (await gateway.send("POST", "/v1/messages", turn(asked))).json["model"] == asked


# -- oddities that are none --------------------------------------------------------------------------------


async def byte_by_byte(connection: Connection) -> None:
    await connection.start()
    for byte in b"".join(whole("chat", "Grüße, ", "€ 🎉")):
        await connection.chunk(bytes((byte,)))
    await connection.end("whole")


LEGAL = {
    "byte by byte": byte_by_byte,
    "CRLF": stream(b"".join(whole("chat", "Grüße, ", "€ 🎉")).replace(b"\n", b"\r\n")),
    "comments": stream(*(b": keep-alive\n\n" + piece for piece in whole("chat", "Grüße, ", "€ 🎉"))),
    "no [DONE]": stream(*whole("chat", "Grüße, ", "€ 🎉")[:-1]),
    "not called an event stream": stream(*whole("chat", "Grüße, ", "€ 🎉"), headers={"content-type": "text/plain"}),
    "cut after the end": stream(*whole("chat", "Grüße, ", "€ 🎉"), ending="reset"),
    "left open after the end": stream(*whole("chat", "Grüße, ", "€ 🎉"), ending="open"),
    "no length and no chunks": bytes_then(
        b"HTTP/1.1 200 OK\r\n\r\n" + b"".join(whole("chat", "Grüße, ", "€ 🎉")), "cut"
    ),
    "not a stream": reply(
        200,
        {},
        '{"choices":[{"message":{"content":"Grüße, € 🎉"},"finish_reason":"stop"}],"usage":{"prompt_tokens":11,'
        '"completion_tokens":5}}'.encode(),
    ),
}


@pytest.mark.parametrize("answer", LEGAL.values(), ids=LEGAL)
async def test_legal_oddities_are_whole_answers(gateway: Gateway, upstream: FaultyUpstream, answer: Answer) -> None:
    script = upstream.script(answer)
    reading = (await gateway.ask(f"lab/{script.model}")).reading()
    assert reading.finished
    assert reading.content[0]["text"] == "Grüße, € 🎉"
    folded = await gateway.ask(f"lab/{script.model}", stream=False)
    assert folded.json["content"] == [{"type": "text", "text": "Grüße, € 🎉"}]
    assert folded.json["stop_reason"] == reading.stop_reason == "end_turn"
    assert folded.json["usage"]["input_tokens"] == reading.usage["input_tokens"] == 11
