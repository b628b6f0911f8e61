"""What a configuration is, once it is read: frozen, and silent about its secrets."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from gateway.resilience.policy import RetryPolicy
from gateway.routing import Provider, RoutingTable


@dataclass(frozen=True, slots=True)
class ServerSettings:
    """The section ``server``. ``repr`` never shows the token."""

    host: str = "127.0.0.1"
    port: int = 4002
    """0: any free port."""
    token: str | None = field(default=None, repr=False)
    """What clients must send as ``x-api-key`` or Bearer; None: no check, allowed on loopback only."""
    max_body_bytes: int = 32 * 1024 * 1024
    """The largest request body, in bytes."""
    direct_models: bool = True
    """Clients may ask for ``provider/model``."""
    relay: Literal["direct", "session"] = "direct"
    """How requests go up: on the connection itself, or through aiohttp's client (slower; the fallback)."""
    retry: RetryPolicy = field(default_factory=RetryPolicy)
    """How often, and for how long, an upstream that fails is asked again, for all routes."""


@dataclass(frozen=True, slots=True)
class Config:
    """One version of providers.yaml, checked."""

    server: ServerSettings
    table: RoutingTable
    providers: Mapping[str, Provider]
    """By name, in the order of the file; disabled ones (``missing_key``) among them."""
    warnings: tuple[str, ...] = ()
    """What is worth knowing and stops nothing, one line each."""
    path: Path | None = None
    """The file it was read from."""
    files: tuple[Path, ...] = ()
    """The files named by ``${file:…}``; a change of theirs is a change of the configuration."""
    secrets: frozenset[str] = field(default=frozenset(), repr=False)
    """Every secret value in use, for redaction."""
