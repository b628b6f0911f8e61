"""The one filter for what leaves the process as words of ours."""

from __future__ import annotations

from gateway.errors import InvalidRequest
from gateway.server.redaction import redact, redact_error


def test_no_secret_passes() -> None:
    secrets = {"sk-secret", "sk-secret-and-more", "päss wörd"}
    said = redact("a sk-secret, a sk-secret-and-more, sk-secretsk-secret, päss wörd", secrets)
    assert said == "a [secret], a [secret], [secret][secret], [secret]"


def test_other_words_do() -> None:
    text = "prompt is too long: 5 tokens > 3 maximum"
    assert redact(text, ()) == text
    assert redact(text, {"x", "is", "too", ""}) == text, "what is so short is no secret"


def test_what_is_not_logged_is_still_found() -> None:
    error = InvalidRequest("lab: sk-secret and the prompt")
    error.quoted = "sk-secret and the prompt"
    redact_error(error, {"sk-secret"})
    assert error.message == "lab: [secret] and the prompt"
    assert error.logged.startswith("lab: ")
    assert "prompt" not in error.logged
