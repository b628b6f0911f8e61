"""No key, no token and no word of a prompt in any answer or log line, whatever fails."""

from __future__ import annotations

import base64
import json
import signal
from pathlib import Path

from tests.server.conftest import providers_yaml
from tests.server.faulty_upstream import Answer, FaultyUpstream, beginning, reply, stream, whole
from tests.server.gateway_process import KEYS, SECRETS, TOKEN, Gateway, Reply, raw, running_gateway, turn, until

PROMPT, ANSWER, TOOL_INPUT = "words-of-the-prompt", "words-of-the-answer", "words-of-a-tool-input"


def failures(wire: str, key: str) -> list[Answer]:
    """Upstreams that repeat the key that they were sent."""
    error = json.dumps({"error": {"message": f"the key {key} is not good", "type": "server_error"}}).encode()
    event = b"data: %b\n\n" % error
    named = json.dumps({"type": "error", "error": {"type": "api_error", "message": f"Bearer {key}"}}).encode()
    leak = {"x-leak": key, "set-cookie": f"k={key}", "www-authenticate": f"Bearer {key}", "request-id": key}
    answers = [reply(status, leak, error) for status in (400, 401, 403, 404, 402, 413, 429, 500, 503, 529)]
    answers += [reply(502, leak, f"<html>{key}</html>".encode()), reply(500, leak, f"plain {key}".encode())]
    answers += [reply(401, leak, key.encode() * 200), reply(302, {"location": f"http://127.0.0.1:1/?{key}"}, b"")]
    answers += [reply(200, leak, error), stream(event), stream(*beginning(wire, ANSWER), event)]
    answers += [stream(*beginning(wire, ANSWER), b"event: error\ndata: %b\n\n" % named)]
    answers += [stream(*beginning(wire, ANSWER), f"data: {{{key}\n\n".encode())]
    answers += [stream(*beginning(wire, ANSWER), ending="cut"), stream(*whole(wire, ANSWER), headers=leak)]
    return answers


async def ask_all(gateway: Gateway, upstream: FaultyUpstream) -> list[Reply]:
    history = [
        {"role": "user", "content": PROMPT},
        {"role": "assistant", "content": [{"type": "tool_use", "id": "t1", "name": "x", "input": {"a": TOOL_INPUT}}]},
        {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "t1", "content": PROMPT}]},
    ]
    more = {"messages": history, "top_k": 3, "unknown": {"a": PROMPT}, "metadata": {"user_id": PROMPT}}
    headers = {**gateway.headers(), "x-gateway-explain": "1"}
    replies = []
    for provider, wire in (("lab", "chat"), ("ant", "anthropic")):
        for answer in failures(wire, KEYS[f"{provider.upper()}_KEY"]):
            model = f"{provider}/{upstream.script(answer).model}"
            for streamed in (True, False):
                replies += [await gateway.ask(model, stream=streamed, headers=headers, **more)]
    for model in ("refused/m", "nowhere/m", "unset", "nobody", "sonnet"):
        replies += [await gateway.ask(model, headers=headers, **more)]
    return replies


async def odd_requests(gateway: Gateway) -> list[Reply]:
    body = json.dumps(turn("sonnet", PROMPT)).encode()
    bearer = {"authorization": f"Bearer {TOKEN}"}
    replies = [
        await gateway.send("GET", f"/{PROMPT}", headers=bearer),
        await gateway.send("GET", "/v1/models", headers=bearer),
        await gateway.send("GET", "/readyz"),
        await gateway.send("POST", "/v1/messages", body[:-4]),
        await gateway.send("POST", "/v1/messages", turn("sonnet", messages=[{"role": PROMPT, "content": 5}])),
        await gateway.send("POST", "/v1/messages", body, {"x-api-key": TOKEN[:-1]}),
        await gateway.send("POST", "/v1/messages", body, {**gateway.headers(), "content-encoding": "gzip"}),
    ]
    replies += await raw(gateway, f"GET /healthz HTTP/1.1\r\nx-api-key: {TOKEN}\r\nbad field {TOKEN}\r\n\r\n".encode())
    replies += await raw(gateway, f"GET /{TOKEN} HTTP/1.1\nauthorization: Bearer {TOKEN}\n\n".encode())
    return replies


async def test_nothing_secret_comes_out(upstream: FaultyUpstream, closed_port: int, tmp_path: Path) -> None:
    config = providers_yaml(upstream, closed_port)
    with running_gateway(tmp_path, config, "--log-level", "debug", token=TOKEN) as gateway:
        replies = await ask_all(gateway, upstream) + await odd_requests(gateway)
        # The client's own word comes back to it, but stays out of the log.
        (await gateway.ask(TOKEN)).error(404, "not_found_error")
        gateway.signal(signal.SIGTERM)
        assert await gateway.exit_status() == 0
        assert gateway.process is not None
        assert gateway.process.stdout is not None
        printed = gateway.process.stdout.read().decode()
        log = gateway.log()
    forms = [*SECRETS, *(base64.b64encode(secret.encode()).decode() for secret in SECRETS)]
    for secret in forms:
        assert secret not in log
        assert secret not in printed
        for answer in replies:
            assert secret.encode() not in answer.body
            assert secret not in str(answer.headers)
    for words in (PROMPT, ANSWER, TOOL_INPUT):
        assert words not in log
        assert words not in printed
    assert len(replies) > 90
    assert "Traceback" not in log


async def test_a_client_cannot_forge_a_log_line(gateway: Gateway) -> None:
    """Line ends, escapes and characters that turn the direction of writing stay out of the log."""
    evil = "x\n2026-01-01 00:00:00,000 INFO forged\r\x1b[2J\x9b\u202e\u2028\u2066"
    start = len(gateway.log())
    await gateway.ask(evil)
    await gateway.ask(f"echo/{evil}")
    await gateway.send("GET", "/%0a2026-01-01%20INFO%20forged%1b%5b2J%e2%80%ae")
    await gateway.send("POST", "/v1/messages", turn(evil, max_tokens="x"))

    async def told() -> bool:
        return gateway.log().count("\n", start) >= 3

    await until(told)
    log = gateway.log()[start:]
    assert not [line for line in log.splitlines() if line.startswith("2026-01-01")]
    assert not [letter for letter in log if letter != "\n" and not letter.isprintable()]
