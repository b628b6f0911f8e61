"""What one request costs on its way up: a bound on the Python calls behind it, which no slow machine can blur."""

from __future__ import annotations

import sys
from typing import Any

import orjson
import pytest

import gateway.adapters
from gateway.adapters.base import MessagesRequest
from gateway.translate.request_check import check_request
from gateway.translate.token_estimate import measure
from gateway.wire.request_reader import RequestReader
from tests.recordings import target_of

TURNS = 20
HEADERS = {"host": "h", "content-type": "application/json", "anthropic-version": "2023-06-01"}

# api -> the most calls for a request of one message, and for each further turn
COSTS = {"openai-chat": (68, 32), "openai-responses": (85, 36), "ollama": (105, 47), "anthropic": (50, 10)}


def turn(number: int) -> list[dict[str, Any]]:
    call = {"type": "tool_use", "id": f"toolu_{number}", "name": "Read", "input": {"file_path": "/src/a.py"}}
    result = {"type": "tool_result", "tool_use_id": f"toolu_{number}", "content": "def feed(): ..."}
    return [
        {"role": "assistant", "content": [{"type": "text", "text": "The next one."}, call]},
        {"role": "user", "content": [result]},
    ]


def calls_of(api: str, turns: int) -> int:
    """Python functions entered from the body to what goes up and the translator of the answer."""
    messages = [{"role": "user", "content": "hello"}, *(message for number in range(turns) for message in turn(number))]
    data = orjson.dumps({"model": "m", "max_tokens": 64, "stream": True, "messages": messages})
    reader, adapter, target = RequestReader(), gateway.adapters.get(api), target_of("lab", api)
    entered = 0

    def count(frame: Any, what: str, argument: Any) -> None:
        nonlocal entered
        entered += what == "call"

    def request() -> None:
        body = check_request(reader.loads(data))
        measure(body)
        upstream = adapter.prepare(MessagesRequest(body, HEADERS, "beta=true", "msg_1", 9), target)
        assert upstream.translator is not None
        upstream.translator()

    request()
    before = sys.getprofile()
    sys.setprofile(count)
    try:
        request()
    finally:
        sys.setprofile(before)
    return entered


@pytest.mark.parametrize("api", COSTS)
def test_a_request_takes_few_calls(api: str) -> None:
    once, each = COSTS[api]
    least = calls_of(api, 0)
    assert least <= once
    assert (calls_of(api, TURNS) - least) / TURNS <= each
