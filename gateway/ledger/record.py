"""UsageRecord: what is kept of one request."""

from __future__ import annotations

from typing import Literal, NamedTuple

Outcome = Literal["ok", "error", "client_closed", "limited", "denied"]
"""``limited`` and ``denied``: this gateway refused it, for its limits, or for who asked; no upstream was asked."""


class UsageRecord(NamedTuple):
    """One request, finished. Empty text and None: not known, because it did not come so far."""

    time: float
    """When it came, in seconds since the epoch."""
    request_id: str
    outcome: Outcome
    status: int
    """Of the HTTP answer; 499 where the client left before one."""
    error_type: str = ""
    """Anthropic's, of an ``error`` event too."""
    key: str = ""
    """The client key's name; empty: none was needed, or ``token``: server.token."""
    user: str = ""
    group: str = ""
    session: str = ""
    """The client's session, where it names one."""
    asked: str = ""
    """The name that the client asked for."""
    target: str = ""
    """``provider/model`` of the last attempt."""
    provider: str = ""
    wire: str = ""
    """The API that the target speaks."""
    streamed: bool = False
    input_tokens: int = 0
    output_tokens: int = 0
    """With reasoning."""
    cache_read_tokens: int = 0
    cache_write_tokens: int = 0
    reasoning_tokens: int = 0
    estimated: bool = False
    """The upstream reported no tokens, or not all."""
    cost: int | None = None
    """Nano-dollars; None: no price is known."""
    first_token_seconds: float | None = None
    duration_seconds: float = 0.0
    attempts: int = 0
    tried: str = ""
    """Who was asked before, and why that was not the answer."""
    stop_reason: str = ""
    dropped: str = ""
    """The paths of the request that did not go up as they came, comma-separated."""
