"""Endpoints, methods, bodies, models and counts, as clients see them."""

from __future__ import annotations

import asyncio
from typing import Any

import orjson
import pytest

from tests.server.faulty_upstream import FaultyUpstream, answer_by_path, reply, stream, whole
from tests.server.gateway_process import STOP_SECONDS, TOKEN, Gateway, Reply, turn

MIB = 1024 * 1024
PLAIN = {"x-api-key": TOKEN}


# -- endpoints ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("query", ["", "?beta=true", "?beta=true&beta=false&x=%00%ff&", "?" + "a" * 2000])
async def test_messages_take_any_query(gateway: Gateway, query: str) -> None:
    answer = await gateway.send("POST", f"/v1/messages{query}", turn("sonnet"))
    assert answer.status == 200
    assert answer.json["content"] == [{"type": "text", "text": "echo: Hello"}]
    assert answer.json["model"] == "sonnet"


async def test_the_stream_and_the_fold_say_the_same(gateway: Gateway) -> None:
    folded = await gateway.ask("claude-sonnet-5", stream=False)
    streamed = (await gateway.ask("claude-sonnet-5")).reading()
    assert [block["text"] for block in streamed.content] == [block["text"] for block in folded.json["content"]]
    assert streamed.stop_reason == folded.json["stop_reason"] == "end_turn"
    assert folded.json["usage"]["input_tokens"] >= 1
    assert folded.json["usage"]["output_tokens"] >= 1


async def test_a_success_says_where_it_came_from(gateway: Gateway) -> None:
    streamed, folded = await gateway.ask("sonnet"), await gateway.ask("sonnet", stream=False)
    for answer in (streamed, folded):
        assert answer.headers["x-gateway-target"] == "echo/echo"
        assert "x-gateway-changes" not in answer.headers
    assert streamed.headers["cache-control"] == "no-cache"
    assert streamed.headers["x-accel-buffering"] == "no"


async def test_changes_are_told_on_demand(gateway: Gateway, upstream: FaultyUpstream) -> None:
    script = upstream.script(stream(*whole("chat", "Hi")))
    headers = {**gateway.headers(), "x-gateway-explain": "1"}
    answer = await gateway.ask(f"lab/{script.model}", headers=headers, top_k=5, nonsense={"a": 1})
    assert "top_k" in answer.headers["x-gateway-changes"]
    assert "nonsense" in answer.headers["x-gateway-changes"]


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("HEAD", "/"),
        ("GET", "/"),
        ("HEAD", "/?beta=true"),
        ("HEAD", "/api/hello"),
        ("GET", "/api/hello?x=1"),
        ("POST", "/api/event_logging/batch"),
        ("GET", "/healthz"),
        ("HEAD", "/healthz"),
        ("GET", "/readyz?verbose"),
        ("HEAD", "/readyz"),
    ],
)
async def test_what_needs_no_token(gateway: Gateway, method: str, path: str) -> None:
    answer = await gateway.send(method, path, {"events": [{"a": 1}]} if method == "POST" else None, headers={})
    assert answer.status == 200
    assert answer.headers["request-id"].startswith("req_")
    assert "aiohttp" not in answer.headers.get("server", "").lower()
    assert "Python" not in answer.headers.get("server", "")


async def test_health_and_readiness(gateway: Gateway) -> None:
    assert (await gateway.send("GET", "/healthz")).json == {"status": "ok"}
    assert (await gateway.send("GET", "/readyz")).json == {"status": "ready"}


@pytest.mark.parametrize(
    ("method", "path", "status", "kind"),
    [
        ("GET", "/v1/nothing", 404, "not_found_error"),
        ("POST", "/", 405, "invalid_request_error"),
        ("GET", "/v1/messages", 405, "invalid_request_error"),
        ("DELETE", "/v1/messages", 405, "invalid_request_error"),
        ("OPTIONS", "/v1/messages", 405, "invalid_request_error"),
        ("GET", "/v1/messages/count_tokens?beta=true", 405, "invalid_request_error"),
        ("POST", "/v1/models", 405, "invalid_request_error"),
        ("PUT", "/healthz", 405, "invalid_request_error"),
        ("POST", "/v1/messages/", 404, "not_found_error"),
        ("POST", "/v1/messages/batches", 404, "not_found_error"),
        ("POST", "//v1/messages", 404, "not_found_error"),
        ("POST", "/V1/MESSAGES", 404, "not_found_error"),
        ("GET", "/v1/models/no-such-model", 404, "not_found_error"),
        ("GET", "/%00%0a%ff", 404, "not_found_error"),
        ("GET", "/" + "x" * 3000, 404, "not_found_error"),
    ],
)
async def test_unknown_paths_and_methods(gateway: Gateway, method: str, path: str, status: int, kind: str) -> None:
    answer = await gateway.send(method, path, turn("sonnet") if method == "POST" else None)
    message = answer.error(status, kind)
    assert len(message) < 1000
    if status == 405:
        assert answer.headers["allow"]


async def test_every_answer_has_an_id_of_its_own(gateway: Gateway, upstream: FaultyUpstream) -> None:
    broken = upstream.script(reply(500, {}, b"no"))
    sent: list[Any] = [
        gateway.send("GET", "/healthz"),
        gateway.send("GET", "/nothing"),
        gateway.send("GET", "/v1/models"),
        gateway.send("POST", "/v1/messages", b"{"),
        gateway.ask("sonnet"),
        gateway.ask("sonnet", stream=False),
        gateway.ask(f"lab/{broken.model}"),
        gateway.ask("sonnet", headers={}),
    ]
    answers: list[Reply] = await asyncio.gather(*sent)
    ids = [answer.headers["request-id"] for answer in answers]
    assert len(set(ids)) == len(ids)
    assert all(request_id.startswith("req_") for request_id in ids)


# -- bodies ------------------------------------------------------------------------------------------------


MESSAGES = [{"role": "user", "content": "Hello"}]
BAD_BODIES: dict[str, tuple[Any, str]] = {
    "empty": (b"", "body"),
    "blank": (b"   ", "body"),
    "half": (b'{"model": "son', "body"),
    "not UTF-8": (b'{"model": "\xff\xfe"}', "body"),
    "NaN": (b'{"model": "sonnet", "max_tokens": NaN}', "body"),
    "BOM and nothing": (b"\xef\xbb\xbf", "body"),
    "a list": ([], "body"),
    "a string": ("sonnet", "body"),
    "null": (b"null", "body"),
    "deep": (b'{"model":' + b"[" * 100_000, "body"),
    "no model": ({"max_tokens": 1, "messages": MESSAGES}, "model"),
    "model null": ({"model": None, "max_tokens": 1, "messages": MESSAGES}, "model"),
    "model a number": ({"model": 7, "max_tokens": 1, "messages": MESSAGES}, "model"),
    "model empty": ({"model": "", "max_tokens": 1, "messages": MESSAGES}, "model"),
    "no max_tokens": ({"model": "sonnet", "messages": MESSAGES}, "max_tokens"),
    "max_tokens text": (turn("sonnet", max_tokens="5"), "max_tokens"),
    "max_tokens true": (turn("sonnet", max_tokens=True), "max_tokens"),
    "max_tokens 0": (turn("sonnet", max_tokens=0), "max_tokens"),
    "max_tokens 1.5": (turn("sonnet", max_tokens=1.5), "max_tokens"),
    "no messages": ({"model": "sonnet", "max_tokens": 1}, "messages"),
    "messages an object": (turn("sonnet", messages={}), "messages"),
    "messages empty": (turn("sonnet", messages=[]), "messages"),
    "message a string": (turn("sonnet", messages=["Hello"]), "messages[0]"),
    "no role": (turn("sonnet", messages=[{"content": "x"}]), "messages[0].role"),
    "role a number": (turn("sonnet", messages=[{"role": 1, "content": "x"}]), "messages[0].role"),
    "no content": (turn("sonnet", messages=[{"role": "user"}]), "messages[0].content"),
    "content a number": (turn("sonnet", messages=[{"role": "user", "content": 5}]), "messages[0].content"),
    "block a string": (turn("sonnet", messages=[{"role": "user", "content": ["x"]}]), "messages[0].content[0]"),
    "block without type": (turn("sonnet", messages=[{"role": "user", "content": [{}]}]), "messages[0].content[0]"),
    "text without text": (
        turn("sonnet", messages=[*MESSAGES, {"role": "user", "content": [{"type": "text"}]}]),
        "messages[1].content[0].text",
    ),
    "stream text": (turn("sonnet", stream="yes"), "stream"),
    "system a number": (turn("sonnet", system=3), "system"),
    "tools an object": (turn("sonnet", tools={}), "tools"),
    "tool_choice text": (turn("sonnet", tool_choice="auto"), "tool_choice"),
    "stop_sequences text": (turn("sonnet", stop_sequences="x"), "stop_sequences"),
    "temperature text": (turn("sonnet", temperature="hot"), "temperature"),
    "top_k half": (turn("sonnet", top_k=0.5), "top_k"),
    "metadata a list": (turn("sonnet", metadata=[]), "metadata"),
    "thinking true": (turn("sonnet", thinking=True), "thinking"),
    "output_config text": (turn("sonnet", output_config="x"), "output_config"),
}


@pytest.mark.parametrize(("body", "field"), BAD_BODIES.values(), ids=BAD_BODIES)
async def test_a_bad_body_is_told_by_its_field(gateway: Gateway, body: Any, field: str) -> None:
    message = (await gateway.send("POST", "/v1/messages", body)).error(400, "invalid_request_error")
    assert message.startswith(f"{field}: ")
    if field != "max_tokens":
        counted = await gateway.send("POST", "/v1/messages/count_tokens", body)
        assert counted.error(400, "invalid_request_error").startswith(f"{field}: ")


DEEP: dict[str, dict[str, Any]] = {
    "a schema": {"tools": [{"name": "t", "input_schema": {"type": "object", "properties": "DEEP"}}]},
    "an input": {
        "messages": [
            *MESSAGES,
            {"role": "assistant", "content": [{"type": "tool_use", "id": "t1", "name": "t", "input": "DEEP"}]},
            {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "t1", "content": "x"}]},
        ]
    },
    "a block": {"messages": [{"role": "user", "content": [{"type": "new", "x": "DEEP"}]}]},
    "metadata": {"metadata": {"user_id": "DEEP"}},
    "an unknown field": {"new": "DEEP"},
    "system": {"system": [{"type": "new", "x": "DEEP"}]},
}


@pytest.mark.parametrize("fields", DEEP.values(), ids=DEEP)
@pytest.mark.parametrize("provider", ["echo", "lab", "ant"])
async def test_depth_is_no_defect(
    gateway: Gateway, upstream: FaultyUpstream, provider: str, fields: dict[str, Any]
) -> None:
    """Taken, or refused by name; JSON is read to a greater depth than it can be written."""
    script = upstream.script(answer_by_path(stream(*whole("chat", "Hi")), stream(*whole("anthropic", "Hi"))))
    for depth in (100, 120, 130, 250, 500):
        nest = b'{"a":[' * depth + b"0" + b"]}" * depth
        body = orjson.dumps({**turn(f"{provider}/{script.model}"), **fields}).replace(b'"DEEP"', nest)
        for path in ("/v1/messages", "/v1/messages/count_tokens"):
            answer = await gateway.send("POST", path, body)
            if answer.status != 200:
                answer.error(400, "invalid_request_error")


async def test_a_body_is_json_whatever_its_content_type_says(gateway: Gateway) -> None:
    headers = {**gateway.headers(), "content-type": "text/plain; charset=utf-16"}
    assert (await gateway.send("POST", "/v1/messages", turn("sonnet"), headers)).status == 200


async def test_a_lone_surrogate_is_served(gateway: Gateway, upstream: FaultyUpstream) -> None:
    script = upstream.script(stream(*whole("chat", "Hi")))
    body = b'{"model":"lab/%b","max_tokens":5,"messages":[{"role":"user","content":"a\\ud83d b \\u0000"}]}'
    answer = await gateway.send("POST", "/v1/messages", body % script.model.encode())
    assert answer.status == 200
    sent = script.visits[0].json["messages"][-1]["content"]
    assert sent == "a\ufffd b \ufffd"


async def test_twenty_mebibytes_pass(gateway: Gateway) -> None:
    body = turn("sonnet", messages=[{"role": "user", "content": "x" * (20 * MIB)}, {"role": "user", "content": "ok"}])
    assert (await gateway.send("POST", "/v1/messages", body)).status == 200


async def test_a_body_over_the_limit_is_refused_before_it_came(gateway: Gateway) -> None:
    """By its content-length; not a byte of the 33 MiB is sent."""
    reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
    writer.write(
        b"POST /v1/messages HTTP/1.1\r\nhost: localhost\r\nx-api-key: %b\r\ncontent-length: %d\r\n\r\n"
        % (TOKEN.encode(), 33 * MIB)
    )
    async with asyncio.timeout(STOP_SECONDS):
        head = (await reader.readuntil(b"\r\n\r\n")).lower()
    assert head.startswith(b"http/1.1 413")
    body = await reader.readexactly(int(head.partition(b"content-length:")[2].split()[0]))
    assert b'"request_too_large"' in body
    assert b'"Input is too long."' in body
    writer.close()


@pytest.mark.parametrize("chunked", [False, True])
async def test_a_client_that_sends_too_much_reads_why(gateway: Gateway, chunked: bool) -> None:
    """33 MiB are really sent; the answer arrives, not a reset."""
    reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
    length = "transfer-encoding: chunked" if chunked else f"content-length: {33 * MIB}"
    writer.write(f"POST /v1/messages HTTP/1.1\r\nhost: localhost\r\nx-api-key: {TOKEN}\r\n{length}\r\n\r\n".encode())
    block = b"10000\r\n" + b"x" * 65536 + b"\r\n" if chunked else b"x" * 65536

    async def push() -> None:
        for _ in range(33 * 16):
            writer.write(block)
            await writer.drain()

    pushing = asyncio.create_task(push())
    async with asyncio.timeout(STOP_SECONDS):
        head = (await reader.readuntil(b"\r\n\r\n")).lower()
    assert head.startswith(b"http/1.1 413")
    assert b'"request_too_large"' in await reader.readexactly(int(head.partition(b"content-length:")[2].split()[0]))
    pushing.cancel()
    await asyncio.wait([pushing])
    writer.transport.abort()


async def test_compressed_bodies_are_refused(gateway: Gateway) -> None:
    for encoding in ("gzip", "GZIP", "br", "deflate", "identity, gzip"):
        headers = {**gateway.headers(), "content-encoding": encoding}
        answer = await gateway.send("POST", "/v1/messages", b"\x1f\x8b\x08junk", headers)
        assert "content-encoding" in answer.error(415, "invalid_request_error")
    headers = {**gateway.headers(), "content-encoding": "identity"}
    assert (await gateway.send("POST", "/v1/messages", turn("sonnet"), headers)).status == 200


# -- models ------------------------------------------------------------------------------------------------


async def test_models_in_anthropic_shape(gateway: Gateway) -> None:
    answer = await gateway.send("GET", "/v1/models?beta=true")
    page = answer.json
    ids = [model["id"] for model in page["data"]]
    assert {"sonnet", "claude-sonnet", "haiku", "claude-haiku", "opus", "claude-opus", "unset"} <= set(ids)
    assert "lab-*" not in ids
    assert len(set(ids)) == len(ids)
    assert page["has_more"] is False
    assert (page["first_id"], page["last_id"]) == (ids[0], ids[-1])
    for model in page["data"]:
        assert model["type"] == "model"
        assert model["display_name"]
        assert model["created_at"] == "1970-01-01T00:00:00Z"


async def test_models_in_openai_shape(gateway: Gateway) -> None:
    listed = (await gateway.send("GET", "/v1/models", headers=PLAIN)).json
    assert listed["object"] == "list"
    assert all(model["object"] == "model" for model in listed["data"])
    one = (await gateway.send("GET", "/v1/models/sonnet", headers=PLAIN)).json
    assert one in listed["data"]


@pytest.mark.parametrize("limit", [1, 2, 3])
async def test_pages_join_to_the_whole_in_both_directions(gateway: Gateway, limit: int) -> None:
    whole_list = [model["id"] for model in (await gateway.send("GET", "/v1/models?limit=1000")).json["data"]]
    forward: list[str] = []
    query = f"limit={limit}"
    while True:
        page = (await gateway.send("GET", f"/v1/models?{query}")).json
        assert len(page["data"]) <= limit
        forward += [model["id"] for model in page["data"]]
        if not page["has_more"]:
            break
        query = f"limit={limit}&after_id={page['last_id']}"
    assert forward == whole_list
    backward = [whole_list[-1]]
    while True:
        page = (await gateway.send("GET", f"/v1/models?limit={limit}&before_id={backward[0]}")).json
        backward = [model["id"] for model in page["data"]] + backward
        if not page["has_more"]:
            break
    assert backward == whole_list


async def test_odd_pages(gateway: Gateway) -> None:
    for limit in ("0", "-1", "1001", "x", "", "1e3", "9" * 30, "\u0661"):
        answer = await gateway.send("GET", f"/v1/models?limit={limit}")
        assert answer.error(400, "invalid_request_error").startswith("limit: ")
    assert (await gateway.send("GET", "/v1/models?after_id=nobody&before_id=nobody&limit=1")).status == 200
    retired = (await gateway.send("GET", "/v1/models?lifecycle%5B%5D=retired")).json
    assert retired == {"data": [], "has_more": False, "first_id": None, "last_id": None}


@pytest.mark.parametrize("name", ["sonnet", "claude-sonnet-4-6-20260101", "claude-opus-4-8%5B1m%5D", "lab/a/b:1b"])
async def test_one_model(gateway: Gateway, name: str) -> None:
    model = (await gateway.send("GET", f"/v1/models/{name}")).json
    assert model["id"] == name.replace("%5B", "[").replace("%5D", "]")
    assert model["type"] == "model"


async def test_an_unknown_model_lists_the_known_ones(gateway: Gateway) -> None:
    for answer in (
        await gateway.ask("gpt-2"),
        await gateway.send("GET", "/v1/models/gpt-2"),
        await gateway.send("POST", "/v1/messages/count_tokens", turn("gpt-2")),
        await gateway.ask("x" * 5000),
    ):
        message = answer.error(404, "not_found_error")
        assert message.startswith("model: ")
        assert "sonnet" in message
        assert "lab-*" in message
        assert len(message) < 1000


ODD_NAMES = [
    "x\ny: z", "x\r\n\r\nHTTP/1.1 200 OK", "x\x00", "x\x1b[2J", "\u2028", "模型", "🎉", "ü", " x ", "a/b/c?d#e", "../x",
    "%0a",
]  # fmt: skip


@pytest.mark.parametrize("name", ODD_NAMES, ids=ascii)
@pytest.mark.parametrize("provider", ["echo", "lab"])
async def test_odd_model_names(gateway: Gateway, upstream: FaultyUpstream, provider: str, name: str) -> None:
    """Refused by name, or taken and handed on unchanged; never a header or a path of their own."""
    script = upstream.script(stream(*whole("chat", "Hi")), name)
    asked = f"{provider}/{name}"
    for streamed in (True, False):
        answer = await gateway.ask(asked, stream=streamed)
        if answer.status != 200:
            assert answer.error(kind=None).startswith("model: ")
            assert answer.status in (400, 404)
            continue
        assert "y" not in answer.headers
        if streamed:
            reading = answer.reading()
            assert reading.start is not None
            assert reading.start["model"] == asked
        else:
            assert answer.json["model"] == asked
    assert all(visit.json["model"] == name for visit in script.visits)
    upstream.forget(script)


async def test_a_provider_without_its_key_names_the_variable(gateway: Gateway) -> None:
    answer = await gateway.ask("unset")
    message = answer.error(502, "api_error")
    assert "NO_SUCH_VARIABLE" in message
    assert "keyless" in message
    assert answer.headers["x-should-retry"] == "false"


# -- count_tokens ------------------------------------------------------------------------------------------


async def test_seventeen_counts_at_once(gateway: Gateway) -> None:
    """As Claude Code does it at its start: one for each group of tools."""
    tool = {"name": "t", "description": "d" * 400, "input_schema": {"type": "object"}}
    path = "/v1/messages/count_tokens?beta=true"
    bodies = [{"model": "sonnet", "messages": MESSAGES, "tools": [tool] * (number + 1)} for number in range(17)]
    answers = await asyncio.gather(*(gateway.send("POST", path, body) for body in bodies))
    counts = [answer.json["input_tokens"] for answer in answers]
    assert all(set(answer.json) == {"input_tokens"} for answer in answers)
    assert counts == sorted(set(counts))


async def test_a_count_is_never_zero_and_needs_no_key(gateway: Gateway) -> None:
    body = {"model": "unset", "messages": [{"role": "user", "content": ""}]}
    assert (await gateway.send("POST", "/v1/messages/count_tokens", body)).json["input_tokens"] >= 1


async def test_counting_gets_right_with_use(gateway: Gateway, upstream: FaultyUpstream) -> None:
    """After answers that report 1,000 tokens for a prompt, the count of that prompt is about 1,000."""
    usage = b'data: {"choices":[],"usage":{"prompt_tokens":1000,"completion_tokens":5}}\n\n'
    pieces = [*whole("chat", "Hi")[:-1], usage, b"data: [DONE]\n\n"]
    script = upstream.script(stream(*pieces))
    body = turn(f"lab/{script.model}", "word " * 400)
    before = (await gateway.send("POST", "/v1/messages/count_tokens", body)).json["input_tokens"]
    assert before < 900
    for _ in range(3):
        folded = await gateway.send("POST", "/v1/messages", body)
        assert folded.json["usage"]["input_tokens"] == 1000
    after = (await gateway.send("POST", "/v1/messages/count_tokens", body)).json["input_tokens"]
    assert 950 <= after <= 1050
