"""What crosses the gateway, either way, and what does not: keys, headers, addresses. By both ways to an upstream."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest

from tests.faults.guarded import (
    PATHS,
    REFUSES,
    SECOND_KEY,
    SECRETS,
    TEAM_SECRET,
    any_model,
    asked,
    forms,
    guarded_gateway,
    nobody_asks,
)
from tests.server.faulty_upstream import (
    Answer,
    Connection,
    FaultyUpstream,
    anthropic_event,
    beginning,
    reply,
    stream,
    whole,
)
from tests.server.gateway_process import KEYS, TOKEN, Gateway, Reply, raw, turn


@pytest.fixture(scope="module", params=["direct", "session"])
def gateway(
    request: pytest.FixtureRequest, upstream: FaultyUpstream, closed_port: int, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Gateway]:
    """Says all that it has to say."""
    folder = tmp_path_factory.mktemp("security")
    yield from guarded_gateway(folder, upstream, closed_port, "--log-level", "debug", relay=request.param)


@pytest.fixture
def elsewhere() -> Iterator[str]:
    with nobody_asks() as url:
        yield url


# -- what goes up (X2) -------------------------------------------------------------------------------------

OF_THE_CLIENT = "of-the-client-5f4dcc3b"
CLIENT_HEADERS = {
    name: OF_THE_CLIENT
    for name in (
        "cookie", "cookie2", "proxy-authorization", "proxy-connection", "forwarded", "x-forwarded-for", "via",
        "x-forwarded-host", "x-forwarded-proto", "x-real-ip", "referer", "user-agent", "x-auth-token", "x-app",
        "x-goog-api-key", "api-key", "x-stainless-os", "x-internal", "x-hop", "keep-alive", "upgrade", "te", "trailer",
        "x-request-id", "x-csrf-token", "x-amz-security-token", "openai-organization", "openai-project", "x-title",
        "http-referer", "traceparent", "baggage", "x-original-url", "accept-language", "range", "if-none-match",
    )
}  # fmt: skip
EVERY_WIRE = {"host", "content-type", "content-length", "user-agent", "accept-encoding", "accept"}
MAY_GO_UP = {
    "lab": {*EVERY_WIRE, "authorization", "x-team"},
    "ant": {*EVERY_WIRE, "x-api-key", "anthropic-version", "anthropic-beta"},
    "replies": {*EVERY_WIRE, "authorization"},
    "oll": {*EVERY_WIRE, "authorization"},
}
CREDENTIALS = {
    "x-api-key": {"x-api-key": TOKEN},
    "Bearer": {"authorization": f"Bearer {TOKEN}"},
    "and one of somebody's": {"x-api-key": TOKEN, "authorization": f"Bearer {OF_THE_CLIENT}"},
    "or the other way round": {"x-api-key": OF_THE_CLIENT, "authorization": f"Bearer {TOKEN}"},
}


@pytest.mark.parametrize("provider", PATHS)
@pytest.mark.parametrize("credentials", CREDENTIALS.values(), ids=CREDENTIALS)
async def test_no_header_of_the_clients_goes_up(
    gateway: Gateway, upstream: FaultyUpstream, provider: str, credentials: dict[str, str]
) -> None:
    script = upstream.script(REFUSES)
    named = {"connection": "x-hop, x-internal", "anthropic-beta": "some-beta-2026-01-01"}
    answer = await gateway.ask(f"{provider}/{script.model}", headers={**CLIENT_HEADERS, **credentials, **named})
    answer.error(400)
    (visit,) = asked(script)
    assert {name for name, _ in visit.headers} <= MAY_GO_UP[provider]
    sent = f"{visit.line} {visit.headers} {visit.body.decode()}"
    assert OF_THE_CLIENT not in sent
    assert TOKEN not in sent
    assert KEYS["ANT_KEY" if provider == "ant" else "LAB_KEY"] in sent


# -- keys (X3) ---------------------------------------------------------------------------------------------


def repeats(key: str) -> Iterator[Answer]:
    """Upstreams that say what they were sent, in whatever failure."""
    words = f"Incorrect API key provided: {key} ({TEAM_SECRET}). You can find it at http://h/?key={key}"
    leak = {"x-leak": key, "set-cookie": f"k={key}", "www-authenticate": f"Bearer {key}", "request-id": key}
    leak["retry-after"] = key
    error = {"message": words, "type": key, "code": key, "param": TEAM_SECRET}
    event = b"data: %b\n\n" % json.dumps({"error": error}).encode()
    for status in (400, 401, 402, 403, 404, 408, 409, 413, 422, 429, 500, 502, 503, 529):
        yield reply(status, leak, json.dumps({"error": error}).encode())
        yield reply(status, leak, words.encode())
    for body in ({"error": words}, {"detail": words}, {"message": words}, {"type": "error", "error": error}, [error]):
        yield reply(400, leak, json.dumps(body).encode())
        yield reply(200, leak, json.dumps(body).encode())
    yield reply(401, leak, f"<html><title>{key}</title>{key}</html>".encode())
    escaped = "".join(f"\\u{ord(letter):04x}" for letter in key)
    yield reply(400, leak, b'{"error": {"message": "%b"}}' % escaped.encode())
    yield reply(307, {**leak, "location": f"http://127.0.0.1:1/?{key}"}, b"")
    yield stream(event, headers=leak)
    for wire in ("chat", "anthropic"):
        yield stream(*beginning(wire, "Hi"), event, headers=leak)
        yield stream(*beginning(wire, "Hi"), f"data: {{{key}\n\n".encode())
        yield stream(*beginning(wire, "Hi"), f"event: {key}\ndata: {key}\n\n".encode())
    yield stream(*beginning("anthropic", "Hi"), anthropic_event("error", error=error))
    yield stream(json.dumps({"error": words}).encode() + b"\n")


@pytest.mark.parametrize("provider", [*PATHS, "pool", "official"])
async def test_no_key_comes_out(gateway: Gateway, upstream: FaultyUpstream, provider: str) -> None:
    """In no answer; in no log line either, which is looked at when the gateway is gone."""
    used = KEYS["ANT_KEY"] if provider in ("ant", "official") else KEYS["LAB_KEY"]
    count = 0
    for key in (used, SECOND_KEY) if provider == "pool" else (used,):
        for answer in repeats(key):
            script = upstream.script(answer)
            for streamed in (True, False):
                told = await gateway.ask(f"{provider}/{script.model}", stream=streamed)
                said = told.body.decode() + str(told.headers)
                assert not [secret for secret in forms(SECRETS) if secret in said], said
                count += 1
    assert count >= 90


# -- addresses (X9) ----------------------------------------------------------------------------------------

ROUTING_FIELDS = ("api_base", "base_url", "api_key", "extra_headers", "custom_llm_provider")
"""With which clients of other gateways say where a request goes."""


def routing_fields(url: str) -> dict[str, Any]:
    there = {"api_base": url, "base_url": url, "api_key": OF_THE_CLIENT}
    deep = {"extra_body": there, "litellm_params": there, "model_list": [there], "user_config": {"model_list": [there]}}
    plain = dict.fromkeys(("proxy", "endpoint", "upstream", "host", "url", "azure_endpoint"), url)
    extra = {"host": url, "x-evil": OF_THE_CLIENT, "authorization": OF_THE_CLIENT}
    return {**there, **deep, **plain, "provider": there, "extra_headers": extra, "custom_llm_provider": "openai"}


@pytest.mark.parametrize("provider", PATHS)
async def test_no_field_chooses_the_upstream(
    gateway: Gateway, upstream: FaultyUpstream, elsewhere: str, provider: str
) -> None:
    script = upstream.script(REFUSES)
    await gateway.ask(f"{provider}/{script.model}", **routing_fields(elsewhere))
    (visit,) = asked(script)
    assert visit.line.split()[1].partition("?")[0] == PATHS[provider]
    assert OF_THE_CLIENT not in str(visit.headers)
    assert not set(ROUTING_FIELDS) & set(visit.json), "the next gateway might obey"
    if provider != "ant":  # which gets all fields that nobody knows
        assert elsewhere not in visit.body.decode()


ROUTING_HEADERS = (
    "x-forwarded-host", "x-host", "x-original-url", "x-rewrite-url", "x-original-host", "x-base-url", "x-api-base",
    "api-base", "openai-base-url", "x-upstream", "x-upstream-url", "x-target-url", "x-litellm-api-base", "x-provider",
    "x-portkey-custom-host", "x-envoy-original-path", "proxy", "destination", "x-forwarded-server",
)  # fmt: skip


@pytest.mark.parametrize("provider", ["lab", "ant"])
async def test_no_header_chooses_the_upstream(
    gateway: Gateway, upstream: FaultyUpstream, elsewhere: str, provider: str
) -> None:
    script = upstream.script(REFUSES)
    headers = {**gateway.headers(), **dict.fromkeys(ROUTING_HEADERS, elsewhere), "forwarded": f"host={elsewhere[7:]}"}
    (await gateway.ask(f"{provider}/{script.model}", headers=headers)).error(400)
    (visit,) = asked(script)
    assert visit.header("host") == upstream.url.removeprefix("http://")
    assert elsewhere not in f"{visit.line} {visit.headers}"


UNKNOWN_NAMES = (
    "{}", "{}/v1/m", "//{}/m", "openai-chat/{}", "openai/{}", "{}#lab/m", "lab@{}/m", "lab:{}", "file:///etc/passwd",
)  # fmt: skip
MODELS_OF_A_PROVIDER = ("{}/m", "../../../admin", "@{}/", "m?x={}", "m#{}", "{}", "..%2f..%2fadmin", "m HTTP/1.1 {}")


async def test_no_model_name_is_an_address(gateway: Gateway, upstream: FaultyUpstream, elsewhere: str) -> None:
    for name in UNKNOWN_NAMES:
        for place in (elsewhere, elsewhere.removeprefix("http://")):
            (await gateway.ask(name.format(place))).error(404, "not_found_error")
    with any_model(upstream, REFUSES) as script:
        for name in MODELS_OF_A_PROVIDER:
            for provider, path in PATHS.items():
                (await gateway.ask(f"{provider}/{name.format(elsewhere)}")).error(400)
                (visit,) = asked(script)
                script.visits.clear()
                assert visit.line.split()[1].partition("?")[0] == path
                assert visit.header("host") == upstream.url.removeprefix("http://")


async def test_nothing_in_a_request_is_fetched(gateway: Gateway, upstream: FaultyUpstream, elsewhere: str) -> None:
    source = {"type": "url", "url": f"{elsewhere}/picture.png"}
    content = [{"type": kind, "source": source} for kind in ("image", "document")]
    schema = {"$ref": f"{elsewhere}/schema.json", "$schema": elsewhere, "type": "object"}
    more = {
        "messages": [{"role": "user", "content": [*content, {"type": "text", "text": "Hi"}]}],
        "tools": [{"name": "t", "input_schema": schema}],
    }
    for provider in PATHS:
        script = upstream.script(REFUSES)
        (await gateway.ask(f"{provider}/{script.model}", **more)).error(400)


async def test_it_is_no_proxy(gateway: Gateway, upstream: FaultyUpstream, elsewhere: str) -> None:
    script = upstream.script(stream(*whole("chat", "Hi")))
    body = json.dumps(turn(f"lab/{script.model}")).encode()
    fields = f"host: localhost\r\nx-api-key: {TOKEN}\r\nconnection: close\r\ncontent-length: {len(body)}\r\n\r\n"

    async def ask(line: str) -> Reply:
        (answer,) = await raw(gateway, f"{line} HTTP/1.1\r\n{fields}".encode() + body)
        return answer

    host = elsewhere.removeprefix("http://")
    for line in (f"GET {elsewhere}/", f"POST {elsewhere}/secret", f"CONNECT {host}", f"GET //{host}/"):
        answer = await ask(line)
        assert answer.status in (200, 400, 403, 404, 405), line
        assert answer.status != 200 or answer.body == b"messages-gateway\n"
    answer = await ask(f"POST {elsewhere}/v1/messages")
    assert answer.headers["x-gateway-target"] == f"lab/{script.model}", "an absolute address is a path of ours"


# -- redirects (X10) ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [300, 301, 302, 303, 307, 308])
async def test_no_redirect_is_followed(gateway: Gateway, upstream: FaultyUpstream, elsewhere: str, status: int) -> None:
    for provider in PATHS:
        for location in (f"{elsewhere}/v1", f"{elsewhere.removeprefix('http:')}/v1", "/v1/elsewhere"):
            script = upstream.script(reply(status, {"location": location, "refresh": f"0; {elsewhere}"}, b"{}"))
            for streamed in (True, False):
                answer = await gateway.ask(f"{provider}/{script.model}", stream=streamed)
                assert elsewhere not in answer.error(502, "api_error")
                assert not {"location", "refresh"} & {name.lower() for name in answer.headers}
            assert len(asked(script)) == 2


# -- what comes down (X20) ---------------------------------------------------------------------------------

INTERNAL = "internal-1a79a4d6"
UPSTREAM_HEADERS = {
    name: INTERNAL
    for name in (
        "set-cookie", "set-cookie2", "server", "x-powered-by", "via", "x-request-id", "request-id", "cf-ray", "trailer",
        "openai-organization", "openai-version", "x-ratelimit-remaining-requests", "x-litellm-model-id", "keep-alive",
        "x-litellm-key-spend", "x-envoy-upstream-service-time", "x-internal", "x-backend-server", "www-authenticate",
        "proxy-authenticate", "strict-transport-security", "alt-svc", "nel", "report-to", "link", "location", "etag",
        "access-control-allow-origin", "access-control-allow-credentials", "content-disposition", "x-gateway-target",
        "anthropic-organization-id", "x-should-retry", "upgrade", "x-accel-redirect", "refresh", "cf-cache-status",
    )
}  # fmt: skip
LIMITS = {"anthropic-ratelimit-requests-remaining": "7"}
OWN_HEADERS = {
    "content-type", "content-length", "transfer-encoding", "request-id", "date", "server", "x-gateway-target",
    "cache-control", "x-accel-buffering", "retry-after", "x-should-retry", "connection",
}  # fmt: skip


async def with_trailers(connection: Connection) -> None:
    assert connection.visit is not None
    await connection.start(200, {"content-type": "text/event-stream", **UPSTREAM_HEADERS})
    for piece in whole("anthropic" if "/messages" in connection.visit.line else "chat", "Hi"):
        await connection.chunk(piece)
    await connection.send(f"0\r\nset-cookie: {INTERNAL}\r\nx-internal: {INTERNAL}\r\n\r\n".encode())


@pytest.mark.parametrize("provider", ["lab", "ant", "official"])
async def test_no_header_of_an_upstream_comes_down(gateway: Gateway, upstream: FaultyUpstream, provider: str) -> None:
    headers = {**UPSTREAM_HEADERS, **LIMITS}
    events = whole("chat" if provider == "lab" else "anthropic", "Hi")
    answers = [(200, stream(*events, headers={"content-type": "text/event-stream", **headers})), (200, with_trailers)]
    answers += [(status, reply(status, headers, b'{"error": {"message": "no"}}')) for status in (400, 429, 500)]
    limits = set()
    for status, answer in answers:
        script = upstream.script(answer)
        for streamed in (True, False):
            told = await gateway.ask(f"{provider}/{script.model}", stream=streamed)
            assert told.status == status
            names = {name.lower() for name in told.headers}
            limits |= names - OWN_HEADERS
            assert INTERNAL not in str(told.headers) + told.body.decode()
            assert told.headers["server"] == "messages-gateway"
        assert [visit.header("cookie") for visit in script.visits] == [None, None]
    assert limits == (set(LIMITS) if provider == "official" else set())


NO_REQUESTS = (
    b"nonsense\r\n\r\n",
    b"GET / HTTP/9.9\r\nhost: localhost\r\n\r\n",
    b"GET / HTTP/1.1\r\nhost: a\r\nhost: b\r\n\r\n",
    b"GET / HTTP/1.1\r\nhost: localhost\r\ncontent-length: 1\r\ntransfer-encoding: chunked\r\n\r\n",
)


async def test_no_answer_names_the_programs_behind_it(gateway: Gateway) -> None:
    answers = [await gateway.send("GET", path) for path in ("/", "/healthz", "/nowhere", "/v1/models")]
    answers += [await gateway.ask("sonnet", stream=streamed) for streamed in (True, False)]
    for data in NO_REQUESTS:
        answers += await raw(gateway, data)
    assert len(answers) == 6 + len(NO_REQUESTS)
    for answer in answers:
        assert answer.headers["server"] == "messages-gateway"
        assert not re.search(r"aiohttp|python|uvloop", str(answer.headers) + answer.body.decode(), re.IGNORECASE)


def test_no_file_it_writes_holds_a_secret(gateway: Gateway) -> None:
    assert gateway.log_file is not None
    written = [file for file in gateway.log_file.parent.iterdir() if file.name != "providers.yaml"]
    assert gateway.log_file in written
    for file in written:
        assert not [secret for secret in SECRETS if secret.encode() in file.read_bytes()], file.name
