"""ClientKey: what the gateway knows about one key that it gave out."""

from __future__ import annotations

from dataclasses import dataclass, field

from gateway.access.limits import NO_LIMITS, Limits


@dataclass(frozen=True, slots=True)
class ClientKey:
    """One entry of keys.yaml. Holds no key, only digests, and ``repr`` leaves even those out."""

    name: str
    user: str
    """Whose it is; the key's name where the file says nothing."""
    group: str | None = None
    """A name under ``groups`` in providers.yaml."""
    models: tuple[str, ...] | None = None
    """The names, or patterns of names, that it may ask for; None: all that its group may."""
    limits: Limits = NO_LIMITS
    expires: float | None = None
    """Seconds since the epoch."""
    disabled: bool = False
    log_prompts_until: float | None = None
    """Seconds since the epoch until which this user wants prompts and answers kept (``--log-prompts``)."""
    digests: tuple[tuple[bytes, float | None], ...] = field(default=(), repr=False)
    """SHA-256 of each key that opens this entry, and until when (seconds since the epoch; None: for good)."""
    created: float | None = None
    """Seconds since the epoch; only for people to read."""
