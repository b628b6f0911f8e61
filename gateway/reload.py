"""Watches providers.yaml, what it is made from, and the clients' keys; says in words what a change changed.

Rules:
* Watched are the file itself, the files it names by ``${file:…}``, and the environment file. The variables
  of the process itself cannot change while it runs.
* The keys have a watch of their own: a mistake in providers.yaml must not keep a revoked key open. A key file
  that is deleted changes nothing, for it would open the gateway to everybody.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from pathlib import Path

from gateway.access.key_ring import KeyRing
from gateway.access.limit_words import in_words
from gateway.access.limits import Limits
from gateway.config import Config, ServerSettings, load
from gateway.config.key_file import load as load_keys
from gateway.config.mistakes import NOWHERE, Mistakes
from gateway.config.settings import Group
from gateway.file_watch import Watch
from gateway.profile import APIS, Profile
from gateway.routing import Route, RoutingTable, Target

_AFTER_RESTART = ("host", "port", "max_body_bytes", "keys_file", "tls", "ledger")
_AT_ONCE = ("token", "retry", "relay", "allowed_hosts", "allowed_origins", "trusted_proxies")


class Reloader(Watch[Config]):
    """The watch on providers.yaml, on the files that it names by ``${file:…}``, and on those that ``env`` reads."""

    def __init__(
        self,
        path: Path,
        env: Callable[[], Mapping[str, str]],
        apis: Collection[str] = APIS,
        env_files: Collection[Path] = (),
    ) -> None:
        """``env`` gives the variables at the time of each load, from ``env_files`` among others; it may raise
        ConfigError."""
        super().__init__(path, env_files)
        self._env = env
        self._apis = apis
        self.secrets: frozenset[str] = frozenset()
        """Every secret that was in force since the start; a running request may still hold an old one."""

    def load(self) -> Config:
        """The configuration. Raises ConfigError."""
        config = load(self.path, self._env(), self._apis)
        self.secrets |= config.secrets
        return config

    def files_of(self, loaded: Config) -> Collection[Path]:
        """Those that ``${file:…}`` names."""
        return loaded.files


class KeyReloader(Watch[KeyRing]):
    """The watch on keys.yaml."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self._was_there = False

    def load(self) -> KeyRing:
        """The keys. Raises ConfigError."""
        ring = load_keys(self.path)
        if self._was_there and not ring.required:
            raise Mistakes(str(self.path)).error(NOWHERE, "the file is gone; its keys stay as they were")
        self._was_there = ring.required
        return ring


def describe_key_change(old: KeyRing, new: KeyRing) -> list[str]:
    """The same for the clients' keys."""
    before, after = ({key.name: key for key in ring.keys} for ring in (old, new))
    lines = []
    for name in dict.fromkeys((*before, *after)):
        was, now = before.get(name), after.get(name)
        if was is None or now is None:
            lines.append(f"key {name}: {'added' if was is None else 'revoked'}")
        elif was != now:
            what = "disabled" if now.disabled else "enabled" if was.disabled else "changed"
            lines.append(f"key {name}: {what if was.disabled != now.disabled else 'changed'}")
    return lines


def describe_change(old: Config, new: Config) -> list[str]:
    """What a reload changed, in words, one line each; no secret among them."""
    lines = [*_server_changes(old.server, new.server), *_provider_changes(old, new)]
    before, after = _routes(old.table), _routes(new.table)
    for name in dict.fromkeys((*before, *after)):
        lines += _route_change(name, before.get(name), after.get(name))
    if old.server.direct_models != new.server.direct_models:
        lines.append(f"provider/model by clients: {'allowed' if new.server.direct_models else 'not allowed'}")
    if [name for name in before if name in after] != [name for name in after if name in before]:
        lines.append("the order of the names changed")
    return lines + _group_changes(old, new)


def _server_changes(old: ServerSettings, new: ServerSettings) -> list[str]:
    lines = [
        f"server.{name} changed{': takes effect after a restart' if name in _AFTER_RESTART else ''}"
        for name in (*_AFTER_RESTART, *_AT_ONCE)
        if getattr(old, name) != getattr(new, name)
    ]
    before, after = _listener(old), _listener(new)
    if before != after:
        lines.append("server.admin changed: takes effect after a restart")
    elif old.admin != new.admin:
        lines.append("server.admin.key_names changed")
    return lines


def _listener(server: ServerSettings) -> tuple[str, int] | None:
    return (server.admin.host, server.admin.port) if server.admin else None


def _route_change(name: str, was: Route | None, now: Route | None, absent: str = "nothing") -> list[str]:
    before, after = _targets(was) if was else absent, _targets(now) if now else absent
    if before != after:
        return [f"{name}: {before} → {after}"]
    if was and now and _profiles(was) != _profiles(now):
        return [f"{name}: {after} with other settings"]
    return []


def _group_changes(old: Config, new: Config) -> list[str]:
    lines: list[str] = []
    for name in dict.fromkeys((*old.groups, *new.groups)):
        was, now = old.groups.get(name), new.groups.get(name)
        if was is None or now is None:
            lines.append(f"group {name}: {'added' if was is None else 'removed'}")
            continue
        if was.models != now.models:
            lines.append(f"group {name} may ask for: {_names(was.models)} → {_names(now.models)}")
        if was.limits != now.limits:
            lines.append(f"group {name}: {_limits(was.limits)} → {_limits(now.limits)}")
        before, after = _own_routes(was, old), _own_routes(now, new)
        for asked in dict.fromkeys((*before, *after)):
            lines += _route_change(f"group {name}: {asked}", before.get(asked), after.get(asked), "as for all")
    return lines


def _own_routes(group: Group, config: Config) -> dict[str, Route]:
    """Those that are not the configuration's."""
    shared = _routes(config.table)
    return {name: route for name, route in _routes(group.table).items() if route is not shared.get(name)}


def _names(models: tuple[str, ...] | None) -> str:
    return "everything" if models is None else ", ".join(models)


def _limits(limits: Limits) -> str:
    return in_words(limits) or "no limits"


def _provider_changes(old: Config, new: Config) -> list[str]:
    lines: list[str] = []
    for name in dict.fromkeys((*old.providers, *new.providers)):
        was, now = old.providers.get(name), new.providers.get(name)
        if was is None or now is None:
            lines.append(f"provider {name}: {'added' if was is None else 'removed'}")
        elif was != now:
            other_endpoints = was.endpoints != now.endpoints
            same_place = (was.api, was.base_url) == (now.api, now.base_url)
            if was.missing_key != now.missing_key:
                lines.append(f"provider {name}: {f'no key ({now.missing_key})' if now.missing_key else 'ready'}")
            elif was.api_key != now.api_key and not other_endpoints:
                lines.append(f"provider {name}: another key")
            if other_endpoints:
                lines.append(f"provider {name}: other keys or addresses")
            elif not same_place:
                lines.append(f"provider {name}: another address")
            if was.limits != now.limits:
                lines.append(f"provider {name}: {_limits(was.limits)} → {_limits(now.limits)}")
    return lines


def _routes(table: RoutingTable) -> dict[str, Route]:
    return {**table.routes, **dict(table.patterns)}


def _targets(route: Route) -> str:
    names = ", ".join(map(_name, route.targets))
    return f"{names}; on overflow: {', '.join(map(_name, route.on_overflow))}" if route.on_overflow else names


def _profiles(route: Route) -> list[Profile]:
    return [target.profile for target in (*route.targets, *route.on_overflow)]


def _name(target: Target) -> str:
    return target.name
