"""How large a mapped error may get, and how long it may take, whatever the upstream wrote (S14)."""

from __future__ import annotations

import re
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.errors import GatewayError
from gateway.resilience.failure import meaning_of
from gateway.translate import error_wording
from gateway.translate.error_wording import CUT, MAX_ANSWER_BYTES, SEARCHED_CHARACTERS, shortened
from gateway.translate.upstream_errors import ErrorContext, http_error, payload_error
from gateway.translate.writer import error_event

SECRET = "sk-lab-9f86d081884c7d65"
CONTEXT = ErrorContext("lab", "some/model", "claude-sonnet-5", "LAB_KEY", SECRET)
LONG_NAMES = ErrorContext("lab", "\U0001f600" * 200, "\x01" * 200, "LAB_KEY", SECRET)
REQUEST_ID = "req_01" + "A" * 22
STATUSES = (400, 401, 404, 413, 429, 503)


def sizes(error: GatewayError) -> list[int]:
    """Of the answer, and of the event after a ping."""
    return [len(error.envelope(REQUEST_ID)), len(error_event(error, REQUEST_ID))]


def errors_of(message: str, status: int, context: ErrorContext = CONTEXT, **more: Any) -> list[GatewayError]:
    """The error as plain text, as JSON, and inside a 200."""
    error = {"message": message, **more}
    return [
        http_error(status, {}, message.encode(), context),
        http_error(status, {}, orjson.dumps({"error": error}), context),
        payload_error({**error, "code": status}, context),
    ]


@pytest.mark.parametrize("status", STATUSES)
@pytest.mark.parametrize(
    "piece",
    ["full ", "满", "\U0001f600", '"', "\\", "\n", "\x1b", "at internal.Handler\n", "9"],
    ids=["ASCII", "3 bytes", "4 bytes", "quotes", "backslashes", "newlines", "controls", "lines", "digits"],
)
@pytest.mark.parametrize("context", [CONTEXT, LONG_NAMES], ids=["names", "long names"])
def test_no_answer_is_longer_than_two_kibibytes(status: int, piece: str, context: ErrorContext) -> None:
    said = "It fell over. " + piece * 20_000 + "."
    for error in errors_of(said, status, context):
        assert max(sizes(error)) <= MAX_ANSWER_BYTES == 2048
        assert "It fell over." in error.message
        assert CUT in error.message
        assert "\ufffd" not in error.message, "cut inside a character"


@pytest.mark.parametrize(
    "said",
    [
        "maximum context length is 10 tokens, your messages resulted in 20 tokens " + "满" * 9000,
        "image_url is not supported " + "满" * 9000,
        "Your balance is too low. " + "满" * 9000,
        f"prompt is too long: {'9' * 1000} tokens > {'8' * 1000} maximum",
        f"maximum context length is {'9' * 5000}",
    ],
    ids=["overflow", "images", "billing", "long numbers", "numbers that are none"],
)
def test_nor_what_has_its_own_wording(said: str) -> None:
    for error in errors_of(said, 400):
        assert max(sizes(error)) <= MAX_ANSWER_BYTES


def test_advice_survives_the_cut() -> None:
    advice = "(`images: false` for this model in providers.yaml makes them placeholders)"
    for error in errors_of("image_url is not supported " + "x" * 9000, 400):
        assert error.message.endswith(f"{CUT} {advice}")


def test_as_much_as_fits_is_passed_on() -> None:
    for error in errors_of("because " * 200, 503):
        assert error.message == "lab: " + ("because " * 200).strip()
    for error in errors_of("because " * 9000, 503):
        assert sizes(error)[0] > MAX_ANSWER_BYTES - 256


@pytest.mark.parametrize("before", range(1800, 1900, 7))
def test_no_half_of_a_key_is_left(before: int) -> None:
    for error in errors_of("x" * before + SECRET + "y" * 5000, 503):
        assert SECRET[:10] not in error.message


@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=200), st.integers(20, 400))
@settings(max_examples=200)
def test_a_cut_keeps_to_its_room_and_to_whole_characters(text: str, room: int) -> None:
    cut = shortened(text, room)
    assert len(orjson.dumps(cut)) - 2 <= room
    assert cut == text or (cut.endswith(CUT) and text.startswith(cut.removesuffix(CUT)))
    assert cut == text or len(orjson.dumps(text)) - 2 > room


# -- time --------------------------------------------------------------------------------------------------


def test_patterns_see_a_bounded_text(monkeypatch: pytest.MonkeyPatch) -> None:
    """Some take the square of its length: 64 KiB were twelve seconds."""
    seen: list[int] = []

    class Watched:
        def __init__(self, pattern: re.Pattern[str]) -> None:
            self._pattern = pattern

        def search(self, text: str) -> re.Match[str] | None:
            seen.append(len(text))
            return self._pattern.search(text)

    for name, value in vars(error_wording).copy().items():
        if isinstance(value, re.Pattern):
            monkeypatch.setattr(error_wording, name, Watched(value))
    monkeypatch.setattr(error_wording, "_OVERFLOW", tuple(map(Watched, error_wording._OVERFLOW)))
    text = "maximum context length is 1 " * 2300
    errors_of(text, 400)
    errors_of("hm", 400, type=text)
    http_error(400, {}, orjson.dumps({"error": text}), CONTEXT)
    assert len(seen) > 20
    assert max(seen) < 3 * SEARCHED_CHARACTERS


def test_the_end_of_a_long_text_is_read_too() -> None:
    said = "x" * 20_000 + " This model's maximum context length is 4096 tokens."
    for error in errors_of(said, 400):
        assert error.message.startswith("prompt is too long")


# -- what is odd about numbers -----------------------------------------------------------------------------


@pytest.mark.parametrize("code", ["²", "9" * 5000, "99", "600", "", "٤٢٩"])
def test_a_code_that_is_no_status(code: str) -> None:
    error = payload_error({"code": code, "message": "because"}, CONTEXT)
    assert (error.status, error.error_type) == (502, "api_error")


def test_counts_that_are_none_are_not_shown() -> None:
    body = b'{"error":{"message":"because","n_prompt_tokens":' + b"9" * 3000 + b',"n_ctx":5}}'
    assert http_error(400, {}, body, CONTEXT).message == "lab: because"


# -- what passes, and what does not ------------------------------------------------------------------------


@pytest.mark.parametrize("status", [409, 425])
def test_a_conflict_and_too_early_pass(status: int) -> None:
    for error in errors_of("Another request holds the lock", status):
        assert (error.status, error.error_type, error.scope) == (502, "api_error", "moment")
        assert meaning_of(error).same


@pytest.mark.parametrize("status", [301, 302, 307, 308])
def test_a_redirect_stays_one(status: int) -> None:
    error = http_error(status, {"location": "http://elsewhere"}, b"", CONTEXT)
    assert (error.status, error.scope) == (502, "target")
    assert not meaning_of(error).same
    assert "elsewhere" not in error.message
