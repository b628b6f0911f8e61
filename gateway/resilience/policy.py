"""RetryPolicy: what the operator may set for all routes (``server.retry``)."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """The section ``server.retry``. What a single upstream needs stands in its profile (``max_attempts``)."""

    budget: float = 0.2
    """Second attempts at a target, as a share of its requests of about the last minute; 10 a minute are free."""
    deadline: float = 600.0
    """Seconds until an answer must have begun, over all attempts and targets."""
    max_retry_after: float = 5.0
    """The longest wait, in seconds, that an upstream may ask for and gets; a longer one is the client's to wait."""
