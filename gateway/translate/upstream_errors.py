"""An upstream's refusal, in whatever words, as one of our errors: who answered, and where the error stands.

What the words mean stands in error_wording.py. That is loaded with the first error, because its patterns
take longer to compile than most parts of a start.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from gateway.errors import GatewayError, UpstreamFailed


@dataclass(frozen=True, slots=True)
class ErrorContext:
    """Who answered, for the message."""

    provider: str
    model: str
    asked: str
    """The name that the client asked for."""
    key_source: str | None = None
    """The variable that holds the provider's key."""
    secret: str | None = field(default=None, repr=False)
    """The key itself, to be kept out of the message."""
    codes: Mapping[str, str] = field(default_factory=dict)
    tool_names: dict[str, str] = field(default_factory=dict)
    """The offered tools (upstream name -> client name)."""


def http_error(status: int, headers: Mapping[str, str], body: bytes, context: ErrorContext) -> GatewayError:
    """The error for an answer with a status other than 200. Header names are lower-case."""
    if 300 <= status < 400:
        error: GatewayError = UpstreamFailed(
            f"{context.provider} answered with a redirect ({status}); mend its base_url"
        )
        error.scope = "target"  # the next answer will be the same
        return error
    if status < 400:
        return UpstreamFailed(f"{context.provider} answered with the status {status} instead of an event stream")
    from gateway.translate import error_wording

    error = error_wording.from_body(status, headers, body, context)
    if error.should_retry is None and headers.get("x-should-retry") in ("true", "false"):
        error.should_retry = headers["x-should-retry"] == "true"
    return error


def payload_error(error: Any, context: ErrorContext) -> GatewayError:
    """The error for an error object inside a 200."""
    from gateway.translate import error_wording

    return error_wording.from_payload(error, context)


ERROR_FIELDS = frozenset(("error", "type", "base_resp", "detail"))
"""A JSON object that is an error holds one of these, or ``object`` says so."""


def find_error(chunk: dict[str, Any]) -> Any:
    """The error in a JSON object of a 200, whatever its form; None when there is none."""
    error = chunk.get("error")
    if error:
        return error
    if chunk.get("object") == "error" or chunk.get("type") == "error":
        return chunk
    if "base_resp" in chunk:
        base = chunk["base_resp"]
        if isinstance(base, dict) and base.get("status_code") not in (0, None, "0"):
            return {"code": base.get("status_code"), "message": base.get("status_msg")}
    if "detail" in chunk and chunk["detail"] and "choices" not in chunk:
        return {"message": chunk["detail"]}
    return None
