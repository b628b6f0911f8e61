"""Errors: the table ``tests/cases/errors.yaml``. Adding a case needs no Python."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import gateway.adapters
from gateway.adapters.base import MessagesRequest
from gateway.errors import GatewayError
from tests.recordings import ASKED, MESSAGE_ID, load_yaml, retried, splits, target_of, translate

CASES = load_yaml(Path(__file__).parent / "cases" / "errors.yaml")
REQUEST = MessagesRequest(
    {"model": ASKED, "max_tokens": 9, "messages": [{"role": "user", "content": "Hi"}]}, {}, "", MESSAGE_ID, 7
)


def errors_of(case: dict[str, Any]) -> list[GatewayError]:
    """The error, once for each way of feeding a stream."""
    api = case.get("api", "openai-chat")
    adapter, target = gateway.adapters.get(api), target_of(case.get("provider", "generic"), api)
    if "stream" not in case:
        body = case["body"] if isinstance(case["body"], str) else json.dumps(case["body"])
        headers = {name.lower(): value for name, value in case.get("headers", {}).items()}
        data = body.encode() * case.get("body_repeat", 1)
        return [adapter.translate_error(case.get("status", 400), headers, data, REQUEST, target)]
    found = []
    for chunks in splits(case["stream"].encode()).values():
        answer = translate(adapter, REQUEST, target, chunks)
        assert answer.output == b"", "something came out before the error"
        assert answer.error is not None, "no error"
        found.append(answer.error)
    assert len({(type(error), error.message) for error in found}) == 1
    return found


@pytest.mark.parametrize("case", CASES, ids=[case["name"] for case in CASES])
def test_error(case: dict[str, Any]) -> None:
    expect = case["expect"]
    assert set(expect) <= {"type", "status", "message", "not", "retry", "retry_after", "longest"}
    for error in errors_of(case):
        assert error.error_type == expect["type"], error.message
        if "status" in expect:
            assert error.status == expect["status"]
        for text in expect.get("message", ()):
            assert text in error.message
        for text in [*expect.get("not", ()), "test-key"]:
            assert text not in error.message
        if "retry" in expect:
            assert retried(error) == expect["retry"]
        if "retry_after" in expect:
            assert error.retry_after == expect["retry_after"]
        assert len(error.message) <= expect.get("longest", 3000)
        envelope = json.loads(error.envelope("req_1"))
        assert envelope["error"] == {"type": error.error_type, "message": error.message}


def test_every_case_has_its_own_name() -> None:
    names = [case["name"] for case in CASES]
    assert len(set(names)) == len(names)
