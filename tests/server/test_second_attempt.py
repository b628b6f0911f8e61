"""A refusal that names what to leave out is answered by one attempt without it, and remembered (R22, R30)."""

from __future__ import annotations

import json

import pytest

from tests.server.faulty_upstream import Connection, FaultyUpstream, Script, beginning, chat_event, reply, stream
from tests.server.gateway_process import Gateway

ANSWER = [*beginning("chat", "fine"), chat_event({}, "stop"), b"data: [DONE]\n\n"]


def picky(upstream: FaultyUpstream, message: str, field: str) -> Script:
    """An upstream that refuses every request with ``field`` in it."""

    async def answer(connection: Connection) -> None:
        assert connection.visit is not None
        if field in connection.visit.json:
            body = json.dumps({"error": {"message": message, "type": "invalid_request_error"}}).encode()
            await reply(400, {}, body)(connection)
        else:
            await stream(*ANSWER)(connection)

    return upstream.script(answer)


@pytest.mark.parametrize("streamed", [True, False])
async def test_a_refused_parameter_is_left_out_from_then_on(
    gateway: Gateway, upstream: FaultyUpstream, streamed: bool
) -> None:
    script = picky(upstream, "Unsupported parameter: 'temperature' is not supported with this model.", "temperature")
    model = f"lab/{script.model}"
    for _ in range(2):
        answer = await gateway.ask(model, stream=streamed, temperature=0.5)
        assert answer.status == 200
        assert b"fine" in answer.body
    sent = ["temperature" in visit.json for visit in script.visits]
    assert sent == [True, False, False]
    advice = [line for line in gateway.log().splitlines() if f"{script.model}: it refuses temperature" in line]
    assert len(advice) == 1
    assert f'providers.lab.models: {{"{script.model}": {{drop_fields: ["temperature"]}}}}' in advice[0]


async def test_the_room_that_is_left_is_used_once(gateway: Gateway, upstream: FaultyUpstream) -> None:
    """What fits depends on the prompt: nothing is remembered."""
    refusal = (
        "This model's maximum context length is 32768 tokens. However, you requested 33280 tokens "
        "(30720 in the messages, 2560 in the completion)."
    )

    async def answer(connection: Connection) -> None:
        assert connection.visit is not None
        if connection.visit.json["max_tokens"] > 2048:
            await reply(400, {}, json.dumps({"error": {"message": refusal}}).encode())(connection)
        else:
            await stream(*ANSWER)(connection)

    script = upstream.script(answer)
    for _ in range(2):
        assert b"fine" in (await gateway.ask(f"lab/{script.model}", max_tokens=2560)).body
    assert [visit.json["max_tokens"] for visit in script.visits] == [2560, 2048, 2560, 2048]


async def test_one_attempt_more_and_no_third(gateway: Gateway, upstream: FaultyUpstream) -> None:
    async def answer(connection: Connection) -> None:
        assert connection.visit is not None
        name = "temperature" if "temperature" in connection.visit.json else "stream_options"
        body = json.dumps({"error": {"message": f"Unknown parameter: '{name}'."}}).encode()
        await reply(400, {}, body)(connection)

    script = upstream.script(answer)
    reply_ = await gateway.ask(f"lab/{script.model}", temperature=0.5)
    assert "stream_options" in reply_.error(400, "invalid_request_error")
    assert len(script.visits) == 2


async def test_a_refusal_that_names_nothing_of_ours_stands(gateway: Gateway, upstream: FaultyUpstream) -> None:
    script = upstream.script(reply(400, {}, b'{"error": {"message": "Unknown parameter: \'frobnicate\'."}}'))
    assert "frobnicate" in (await gateway.ask(f"lab/{script.model}")).error(400, "invalid_request_error")
    assert len(script.visits) == 1
