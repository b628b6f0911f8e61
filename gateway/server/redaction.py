"""The one filter for what leaves the process as words of ours: log lines, errors, headers.

Rule: no configured secret passes it, whoever said it: an upstream may repeat what it was sent, a client what it
guessed. Answers of models are not words of ours, and are not touched.
"""

from __future__ import annotations

from collections.abc import Collection

from gateway.errors import GatewayError

MARK = "[secret]"
MIN_CHARACTERS = 4
"""A shorter one is in half of all words: to take it out would tell it, and tear what clients read for meaning."""


def redact(text: str, secrets: Collection[str]) -> str:
    """``text`` without ``secrets``; the longest first, for one may be a part of another."""
    for secret in sorted(secrets, key=len, reverse=True):
        if secret in text and len(secret) >= MIN_CHARACTERS:
            text = text.replace(secret, MARK)
    return text


def redact_error(error: GatewayError, secrets: Collection[str]) -> None:
    """The same for all that an error says; the part that is not logged must still be found in it."""
    error.message = redact(error.message, secrets)
    error.quoted = redact(error.quoted, secrets)
