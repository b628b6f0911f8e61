"""A gateway that wants a token, in front of an upstream of four wires: what the tests of security share."""

from __future__ import annotations

import base64
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.server.faulty_upstream import Answer, FaultyUpstream, Script, Visit, reply
from tests.server.gateway_process import KEYS, TOKEN, Gateway
from tests.server.service import service

TEAM_SECRET = "team-7d865e959b2466918c98"
SECOND_KEY = "sk-second-3c9909afec25354d551d"
SECRETS = (TOKEN, TEAM_SECRET, SECOND_KEY, *KEYS.values())
ENVIRONMENT = {"GATEWAY_TOKEN": TOKEN, "TEAM_SECRET": TEAM_SECRET, "SECOND_KEY": SECOND_KEY}
CONFIG = """\
server: {{token: "${{GATEWAY_TOKEN}}", relay: {relay}}}
providers:
  lab:
    api: openai-chat
    base_url: "{url}/v1"
    api_key: "${{LAB_KEY}}"
    profile: {{max_attempts: 1, extra_headers: {{x-team: "${{TEAM_SECRET}}"}}}}
  ant: {{api: anthropic, base_url: "{url}", api_key: "${{ANT_KEY}}", profile: {{max_attempts: 1}}}}
  official:
    {{api: anthropic, base_url: "{url}", api_key: "${{ANT_KEY}}", profile: {{first_party: true, max_attempts: 1}}}}
  replies: {{api: openai-responses, base_url: "{url}/v1", api_key: "${{LAB_KEY}}", profile: {{max_attempts: 1}}}}
  oll: {{api: ollama, base_url: "{url}", api_key: "${{LAB_KEY}}", profile: {{max_attempts: 1}}}}
  pool:
    api: openai-chat
    base_url: "{url}/v1"
    api_key: ["${{LAB_KEY}}", "${{SECOND_KEY}}"]
    profile: {{max_attempts: 1}}
  hasty:
    {{api: openai-chat, base_url: "{url}/v1", profile: {{idle_timeout: 0.3, first_byte_timeout: 0.3, max_attempts: 1}}}}
  refused: {{api: openai-chat, base_url: "http://127.0.0.1:{closed}/v1", api_key: "${{LAB_KEY}}"}}
  echo: {{}}
models: {{sonnet: echo/echo}}
"""
PATHS = {"lab": "/v1/chat/completions", "ant": "/v1/messages", "replies": "/v1/responses", "oll": "/api/chat"}
"""Provider -> where its wire is asked."""
WIRES = {"lab": "chat", "ant": "anthropic", "replies": "chat", "oll": "chat"}
"""Provider -> the wire of its streams, as faulty_upstream.py has them; where it has none, any other is garbage."""
REFUSES = reply(400, {}, b'{"error": {"message": "no", "type": "invalid_request_error"}}')


def guarded_gateway(
    folder: Path, upstream: FaultyUpstream, closed_port: int, *options: str, relay: str = "direct"
) -> Iterator[Gateway]:
    """Whatever is done to it, no secret and no traceback is in its log, and it lives."""
    config = CONFIG.format(url=upstream.url, closed=closed_port, relay=relay)
    with service(folder, *options, config=config, env=ENVIRONMENT) as process:
        process.token = TOKEN
        yield process
        assert process.process is not None
        assert process.process.poll() is None, process.log()
        log = process.log()
        assert "Traceback" not in log
        assert not [secret for secret in forms(SECRETS) if secret in log]


def forms(secrets: tuple[str, ...]) -> list[str]:
    """As they are, and as they could hide."""
    return [*secrets, *(base64.b64encode(secret.encode()).decode() for secret in secrets)]


@contextmanager
def nobody_asks() -> Iterator[str]:
    """The address of somebody whom nobody may ask."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        listener.setblocking(False)
        with pytest.raises(BlockingIOError):
            listener.accept()


@contextmanager
def any_model(upstream: FaultyUpstream, answer: Answer) -> Iterator[Script]:
    """Whatever is asked for is answered so."""
    script = upstream.script(answer, "*")
    try:
        yield script
    finally:
        upstream.forget(script)


def asked(script: Script) -> list[Visit]:
    """The turns; an Ollama server is also asked what its models can take."""
    return [visit for visit in script.visits if not visit.line.startswith("POST /api/show")]
