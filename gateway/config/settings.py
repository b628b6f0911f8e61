"""What a configuration is, once it is read: frozen, and silent about its secrets."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from gateway.access.limits import NO_LIMITS, Limits
from gateway.resilience.policy import RetryPolicy
from gateway.routing import Provider, Route, RoutingTable


@dataclass(frozen=True, slots=True)
class TlsSettings:
    """``server.tls``: the gateway speaks TLS itself."""

    certificate: str
    """PEM file, the whole chain; read anew when it changes."""
    key: str
    """PEM file."""
    client_ca: str | None = None
    """PEM file: only clients with a certificate of this authority are served."""


@dataclass(frozen=True, slots=True)
class AdminSettings:
    """``server.admin``: a listener of its own for /metrics, apart from the clients'."""

    port: int
    host: str = "127.0.0.1"
    key_names: bool = False
    """Metrics tell keys apart by name."""


@dataclass(frozen=True, slots=True)
class LedgerSettings:
    """``server.ledger``: one record for each request."""

    enabled: bool = True
    file: str | None = None
    """SQLite; None: usage.db beside providers.yaml."""
    retention_days: int = 400


@dataclass(frozen=True, slots=True)
class Group:
    """One section of ``groups``: what its keys have in common."""

    name: str
    models: tuple[str, ...] | None
    """The names, or patterns of names, that may be asked for; None: all."""
    table: RoutingTable
    """Of the configuration, with the group's own ``routes`` before it."""
    limits: Limits = NO_LIMITS
    """For all keys of the group together."""


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
    keys_file: str | None = None
    """The clients' keys (``gateway keys``); None: keys.yaml beside providers.yaml."""
    tls: TlsSettings | None = None
    admin: AdminSettings | None = None
    ledger: LedgerSettings = field(default_factory=LedgerSettings)
    allowed_hosts: tuple[str, ...] = ()
    """Names by which clients may call a gateway that listens on loopback, beside localhost."""
    allowed_origins: tuple[str, ...] = ()
    """Web pages that may ask: values of ``Origin``. None by default."""
    trusted_proxies: tuple[str, ...] = ()
    """Addresses or networks whose ``x-forwarded-for`` is believed."""
    retry: RetryPolicy = field(default_factory=RetryPolicy)
    """How often, and for how long, an upstream that fails is asked again, for all routes."""


@dataclass(frozen=True, slots=True)
class Config:
    """One version of providers.yaml, checked."""

    server: ServerSettings
    table: RoutingTable
    providers: Mapping[str, Provider]
    """By name, in the order of the file; disabled ones (``missing_key``) among them."""
    groups: Mapping[str, Group] = field(default_factory=dict)
    """By name."""
    warnings: tuple[str, ...] = ()
    """What is worth knowing and stops nothing, one line each."""
    path: Path | None = None
    """The file it was read from."""
    files: tuple[Path, ...] = ()
    """The files named by ``${file:…}``; a change of theirs is a change of the configuration."""
    secrets: frozenset[str] = field(default=frozenset(), repr=False)
    """Every secret value in use, for redaction."""

    @property
    def tables(self) -> tuple[RoutingTable, ...]:
        """``table``, and those of the groups that have routes of their own."""
        return (self.table, *(group.table for group in self.groups.values() if group.table is not self.table))

    @property
    def named_routes(self) -> list[tuple[str, Route]]:
        """Every name with its route, in the order of the file; then a group's own, as ``name (group)``."""
        shared = self.table.entries()
        return shared + [
            (f"{name} ({group.name})", route)
            for group in self.groups.values()
            for name, route in group.table.entries()
            if (name, route) not in shared
        ]
