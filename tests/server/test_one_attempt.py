"""When an upstream is asked at all, and when never again (R32, R120)."""

from __future__ import annotations

import json

import pytest

from tests.server.faulty_upstream import FaultyUpstream, beginning, stream
from tests.server.gateway_process import Gateway


@pytest.mark.parametrize("streamed", [True, False], ids=["stream", "fold"])
@pytest.mark.parametrize("provider", ["lab", "ant"])
async def test_after_the_first_content_there_is_no_second_attempt(
    gateway: Gateway, upstream: FaultyUpstream, provider: str, streamed: bool
) -> None:
    """R120: also not when the error names a parameter that could be left out."""
    wire = "chat" if provider == "lab" else "anthropic"
    error = {"type": "invalid_request_error", "message": "Unknown parameter: 'temperature'."}
    event = b"data: " + json.dumps({"type": "error", "error": error}).encode() + b"\n\n"
    script = upstream.script(stream(*beginning(wire, "Hello", " wor"), event, ending="open"))
    answer = await gateway.ask(f"{provider}/{script.model}", stream=streamed, temperature=0.5)
    if streamed:
        assert answer.reading(passed_through=provider == "ant").error is not None
    else:
        answer.error(kind="invalid_request_error")
    await (await script.visit()).closed()
    assert len(script.visits) == 1


@pytest.mark.parametrize("provider", ["lab", "ant"])
async def test_counting_asks_no_upstream(gateway: Gateway, upstream: FaultyUpstream, provider: str) -> None:
    """R32: it is an estimate of our own, never a chat call."""
    script = upstream.script(stream(*beginning("chat", "no"), ending="open"))
    body = {"model": f"{provider}/{script.model}", "messages": [{"role": "user", "content": "How much?"}]}
    answer = await gateway.send("POST", "/v1/messages/count_tokens", body)
    assert answer.json["input_tokens"] >= 1
    assert script.visits == []
