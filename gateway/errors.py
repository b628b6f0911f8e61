"""Every error that a client can see, in one tree.

    GatewayError
     ├─ InvalidRequest          400  invalid_request_error
     │   └─ PromptTooLong            "prompt is too long: N tokens > M maximum"
     ├─ AuthenticationFailed    401  authentication_error   (the client's own key, never an upstream's)
     ├─ BillingRefused          402  billing_error
     │   └─ BudgetSpent              a key's, a group's or a provider's own budget
     ├─ PermissionDenied        403  permission_error
     ├─ NotFound                404  not_found_error
     ├─ MethodNotAllowed        405  invalid_request_error
     ├─ RequestTooLarge         413  request_too_large
     ├─ RateLimited             429  rate_limit_error
     │   └─ LimitReached             our own limit on a key, a group or a provider
     ├─ InternalError           500  api_error              (a defect of ours)
     ├─ UpstreamFailed          502  api_error              (500-599: the upstream's own status)
     │   ├─ UpstreamProtocolError    the upstream broke its wire format
     │   └─ ProviderNotReady         no key, or the upstream refused ours
     ├─ UpstreamTimeout         504  timeout_error
     └─ Overloaded              529  overloaded_error
         └─ TargetBusy               our own limit on a target's concurrency; the upstream said nothing

Rules:
* ``error_type`` and ``status`` are Anthropic's (docs.claude.com/en/api/errors); clients act on both.
* A message says what happened, names the field or the provider, and what to do. It never holds a
  key, a header or HTML.
* An upstream's 401 or 403 is never a client's 401 or 403: Claude Code would drop its own login.
* ``should_retry`` becomes ``x-should-retry``; None leaves the decision to the client.
* ``scope`` is what an error is a fact about, and so who may still help: resilience/failure.py.
"""

from __future__ import annotations

from typing import ClassVar, Literal

import orjson

Scope = Literal["request", "size", "target", "endpoint", "quota", "moment", "room"]
"""The request itself; its size; the model at this provider; the provider's key or address; how often that key
may ask; only this moment; the room that this gateway gives a target."""


class GatewayError(Exception):
    """Base of all errors that are answered to a client."""

    error_type: ClassVar[str] = "api_error"
    default_status: ClassVar[int] = 500
    default_should_retry: ClassVar[bool | None] = None
    scope: Scope = "request"
    """Of the class; an error that knows better says so itself."""
    quoted: str = ""
    """What of the message is an upstream's own words: they may repeat a prompt, and prompts are not logged."""

    def __init__(
        self,
        message: str,
        *,
        status: int | None = None,
        retry_after: int | None = None,
        should_retry: bool | None = None,
    ) -> None:
        """``retry_after`` is in whole seconds."""
        # An upstream's words may hold half a surrogate pair, which no JSON takes.
        self.message = message.encode("utf-8", "replace").decode()
        super().__init__(self.message)
        self.status = status or self.default_status
        self.retry_after = retry_after
        self.should_retry = self.default_should_retry if should_retry is None else should_retry

    @property
    def logged(self) -> str:
        """The message as the log may have it."""
        return self.message.replace(self.quoted, "[its words: --log-level debug]") if self.quoted else self.message

    def envelope(self, request_id: str) -> bytes:
        """The JSON body of an HTTP error and of an SSE ``error`` event (Anthropic's shape)."""
        return orjson.dumps(
            {
                "type": "error",
                "error": {"type": self.error_type, "message": self.message},
                "request_id": request_id,
            }
        )

    def headers(self) -> dict[str, str]:
        """The headers that tell a client whether, and when, to try again."""
        headers: dict[str, str] = {}
        if self.retry_after is not None:
            headers["retry-after"] = str(self.retry_after)
        if self.should_retry is not None:
            headers["x-should-retry"] = "true" if self.should_retry else "false"
        return headers


class InvalidRequest(GatewayError):
    """The request cannot be served as it is; the message names the field."""

    error_type = "invalid_request_error"
    default_status = 400


class PromptTooLong(InvalidRequest):
    """The conversation does not fit. Claude Code compacts by itself when it reads this wording."""

    scope = "size"

    def __init__(self, tokens: int | None = None, maximum: int | None = None, detail: str = "") -> None:
        """``tokens`` and ``maximum`` are counts of tokens, None when the upstream did not say."""
        if tokens is not None and maximum is not None:
            message = f"prompt is too long: {tokens} tokens > {maximum} maximum"
        else:
            message = "prompt is too long"
        super().__init__(f"{message} ({detail})" if detail else message)


class AuthenticationFailed(GatewayError):
    """The client's own credential is missing or wrong."""

    error_type = "authentication_error"
    default_status = 401
    default_should_retry = False


class BillingRefused(GatewayError):
    """No balance or quota left at the upstream; waiting does not help."""

    error_type = "billing_error"
    default_status = 402
    default_should_retry = False
    scope: Scope = "endpoint"


class BudgetSpent(BillingRefused):
    """What this gateway lets a key, a group or a provider spend is spent; ``scope`` says whose it is."""

    scope: Scope = "request"


class PermissionDenied(GatewayError):
    """This client may not do this."""

    error_type = "permission_error"
    default_status = 403
    scope = "endpoint"


class NotFound(GatewayError):
    """No such model, path or record."""

    error_type = "not_found_error"
    default_status = 404
    scope = "target"


class MethodNotAllowed(GatewayError):
    """The path exists, the method does not."""

    error_type = "invalid_request_error"
    default_status = 405


class RequestTooLarge(GatewayError):
    """The body is over the limit.

    Claude Code compacts when it reads ``prompt is too long``; when the whole message is INPUT_TOO_LONG it
    leaves out older images first, which is what makes bodies large (client.md 0b, row 14).
    """

    error_type = "request_too_large"
    default_status = 413
    scope = "size"


INPUT_TOO_LONG = "Input is too long."


class RateLimited(GatewayError):
    """Too many requests for now."""

    error_type = "rate_limit_error"
    default_status = 429
    scope: Scope = "quota"


class LimitReached(RateLimited):
    """What this gateway lets a key, a group or a provider take for now is taken; ``scope`` says whose it is."""

    scope: Scope = "request"


class InternalError(GatewayError):
    """A defect of the gateway itself."""


class UpstreamFailed(GatewayError):
    """The upstream could not be reached, or failed."""

    default_status = 502
    scope: Scope = "moment"


class UpstreamProtocolError(UpstreamFailed):
    """The upstream's bytes are not what its API promises: cut short, not JSON, not an event stream."""


class ProviderNotReady(UpstreamFailed):
    """The provider's key is missing or was refused; only the operator can help."""

    default_should_retry = False
    scope = "endpoint"


class UpstreamTimeout(GatewayError):
    """The upstream did not answer in time."""

    error_type = "timeout_error"
    default_status = 504
    scope = "moment"


class Overloaded(GatewayError):
    """The upstream, or this gateway, has no capacity left for now."""

    error_type = "overloaded_error"
    default_status = 529
    scope: Scope = "moment"


class TargetBusy(Overloaded):
    """All places of a target are taken (``max_concurrency``), and its queue is full or was too slow."""

    scope = "room"
