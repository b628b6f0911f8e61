"""Error bodies of every shape: what is said reaches the client, what cannot be read is no crash."""

from __future__ import annotations

from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.errors import GatewayError
from gateway.translate.upstream_errors import ErrorContext, find_error, http_error, payload_error

SECRET = "sk-upstream-1234567890"
CONTEXT = ErrorContext("lab", "up", "sonnet", key_source="LAB_KEY", secret=SECRET)

# body -> what must stand in the message
SHAPES: dict[str, tuple[Any, str]] = {
    "OpenAI": ({"error": {"message": "because", "type": "x", "code": None}}, "lab: because"),
    "Anthropic": ({"type": "error", "error": {"type": "x", "message": "because"}}, "lab: because"),
    "a string": ({"error": "because"}, "lab: because"),
    "FastAPI": ({"detail": "because"}, "lab: because"),
    "FastAPI, validation": ({"detail": [{"loc": ["body", "x"], "msg": "because"}]}, "because"),
    "a message alone": ({"message": "because"}, "lab: because"),
    "msg": ({"msg": "because", "code": 7}, "lab: because"),
    "vLLM": ({"object": "error", "message": "because"}, "lab: because"),
    "base_resp": ({"base_resp": {"status_code": 1000, "status_msg": "because"}}, "lab: because"),
    "a list": ([{"error": {"message": "because"}}], "lab: because"),
    "an empty list": ([], "lab: []"),
    "twice wrapped": ({"error": {"error": {"message": "because"}}}, "lab: because"),
    "with the raw cause": (
        {"error": {"message": "Provider returned error", "metadata": {"raw": "because"}}},
        "lab: Provider returned error: because",
    ),
    "the raw cause alone": ({"error": {"metadata": {"raw": "because"}}}, "lab: because"),
    "metadata of another kind": ({"error": {"message": "because", "metadata": ["x"]}}, "lab: because"),
    "a message that is no text": ({"error": {"message": {"why": "because"}}}, "because"),
    "no message": ({"error": {"why": "because"}}, "because"),
    "a number": (7, "lab: 7"),
    "a word": ("because", "lab: because"),
    "nothing": (None, "lab: no reason given"),
    "an empty object": ({}, "lab: "),
    "half a character": ({"error": {"message": "a\ufffd because"}}, "because"),
}

RAW = {
    "no body": (b"", "no reason given"),
    "blanks": (b" \n ", "no reason given"),
    "plain text": (b"because", "lab: because"),
    "HTML": (b"<html><body>because</body></html>", "an HTML page instead of JSON"),
    "HTML after a comment": (b"\n<!-- x --><HTML>", "an HTML page instead of JSON"),
    "HTML somewhere": (b"oops <html>because</html>", "an HTML page instead of JSON"),
    "broken UTF-8": (b"because \xff", "lab: because \ufffd"),
    "cut JSON": (b'{"error": {"message": "beca', '"beca'),
    "a half character": (rb'{"error": {"message": "because \ud83d"}}', "lab: because \ufffd"),
}


@pytest.mark.parametrize(("body", "text"), SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("status", [400, 418, 500, 599])
def test_the_cause_survives(body: Any, text: str, status: int) -> None:
    error = http_error(status, {}, orjson.dumps(body), CONTEXT)
    assert text in error.message
    assert error.status == (400 if status < 500 else status)


@pytest.mark.parametrize(("body", "text"), RAW.values(), ids=RAW)
def test_bodies_that_are_no_json(body: bytes, text: str) -> None:
    error = http_error(400, {}, body, CONTEXT)
    assert text in error.message
    assert "<" not in error.message


@pytest.mark.parametrize(
    ("chunk", "found"),
    [
        ({"choices": []}, False),
        ({"choices": [], "error": None}, False),
        ({"choices": [], "detail": "fine"}, False),
        ({"base_resp": {"status_code": 0, "status_msg": ""}}, False),
        ({"base_resp": {"status_code": "0"}}, False),
        ({"base_resp": "x"}, False),
        ({"error": {}}, False),
        ({"error": "x"}, True),
        ({"error": {"message": "x"}}, True),
        ({"object": "error"}, True),
        ({"type": "error"}, True),
        ({"detail": "x"}, True),
        ({"base_resp": {"status_code": 1008}}, True),
    ],
)
def test_an_error_inside_a_200_is_seen(chunk: dict[str, Any], found: bool) -> None:
    assert (find_error(chunk) is not None) == found


@pytest.mark.parametrize(
    ("error", "kind", "status"),
    [
        ({"message": "x", "code": 429}, "rate_limit_error", 429),
        ({"message": "x", "code": "503"}, "overloaded_error", 529),
        ({"message": "x", "status_code": 500}, "api_error", 500),
        ({"message": "x", "http_code": "400"}, "invalid_request_error", 400),
        ({"message": "x", "code": 1008}, "api_error", 502),
        ({"message": "x", "code": True}, "api_error", 502),
        ({"message": "x", "type": "overloaded_error"}, "overloaded_error", 529),
        ({"message": "x", "type": "rate_limit_error"}, "rate_limit_error", 429),
        ({"message": "x", "type": "authentication_error"}, "api_error", 502),
        ({"message": "x", "type": "server_error"}, "api_error", 500),
        ({"message": "x", "type": ["a"]}, "api_error", 502),
        ({"error": {"message": "x", "code": 402}}, "billing_error", 402),
        ("x", "api_error", 502),
        (["x"], "api_error", 502),
    ],
)
def test_the_status_that_an_error_claims(error: Any, kind: str, status: int) -> None:
    found = payload_error(error, CONTEXT)
    assert (found.error_type, found.status) == (kind, status)


@pytest.mark.parametrize("status", [301, 302, 307, 308])
def test_a_redirect_is_never_followed(status: int) -> None:
    error = http_error(status, {"location": "http://evil.example"}, b"", CONTEXT)
    assert error.status == 502
    assert "base_url" in error.message
    assert "evil" not in error.message


@pytest.mark.parametrize("levels", [300, 990, 1000, 1020, 3000])
@pytest.mark.parametrize(
    ("before", "middle", "after"),
    [
        (b"[", b"1", b"]"),
        (b'{"error":', b'"x"', b"}"),
        (b'{"error":', rb'"\ud83d"', b"}"),
        (b'{"message":', b'"x"', b"}"),
    ],
)
def test_depth_is_no_crash(levels: int, before: bytes, middle: bytes, after: bytes) -> None:
    error = http_error(400, {}, before * levels + middle + after * levels, CONTEXT)
    assert error.message.startswith("lab: ")
    assert len(error.message) < 3000


def deep_error(levels: int) -> dict[str, Any]:
    error: dict[str, Any] = {"message": "because"}
    for _ in range(levels):
        error = {"error": error}
    return error


@pytest.mark.parametrize("levels", [2, 100, 900, 1010])
def test_depth_inside_a_200_is_no_crash(levels: int) -> None:
    assert isinstance(payload_error(deep_error(levels), CONTEXT), GatewayError)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-1, 2000) | st.sampled_from(["x", "429", "", SECRET, "rate_limit_error"]),
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(
        st.sampled_from(
            ["error", "message", "code", "type", "status", "detail", "base_resp", "status_code", "metadata", "raw"]
        ),
        inner,
        max_size=4,
    ),
    max_leaves=8,
)


@settings(max_examples=100)
@given(JSON, st.integers(300, 599))
def test_any_json_is_an_error_with_a_message_and_without_the_key(body: Any, status: int) -> None:
    errors = [http_error(status, {}, orjson.dumps(body), CONTEXT), payload_error(body, CONTEXT)]
    for error in errors:
        assert isinstance(error, GatewayError)
        assert error.status not in (401, 403)
        assert 400 <= error.status < 600
        assert error.message
        assert SECRET not in error.message
