"""Watches providers.yaml and what it is made from, and builds a new configuration when one of them changed.

Rules:
* Synchronous and without a clock: the server calls ``poll`` again and again (every half second) in a
  thread, and swaps what it gets with one assignment.
* Watched are the file itself, the files it names by ``${file:…}``, and the environment file. The variables
  of the process itself cannot change while it runs.
* A change is taken up when two polls in a row see the same state of the file, so that a file which is
  being written is not read half. A file that never comes to rest is read at every fourth poll.
* A bad, unreadable or deleted file is reported once and changes nothing: who polls keeps the old table.
* The same bytes again are no change.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from hashlib import sha256
from pathlib import Path

from gateway.config import Config, ConfigError, load
from gateway.profile import APIS, Profile
from gateway.routing import Route, Target

PATIENCE = 4
"""Polls after which a file that keeps changing is read all the same."""

_State = tuple[tuple[int, int, int, int] | None, ...]


class Reloader:
    """The watch on one file, on the files that it names by ``${file:…}``, and on those that ``env`` reads."""

    def __init__(
        self,
        path: Path,
        env: Callable[[], Mapping[str, str]],
        apis: Collection[str] = APIS,
        env_files: Collection[Path] = (),
    ) -> None:
        """``env`` gives the variables at the time of each load, from ``env_files`` among others; it may raise
        ConfigError."""
        self._path = path
        self._env = env
        self._apis = apis
        self._env_files = tuple(env_files)
        self._watched: tuple[Path, ...] = tuple(dict.fromkeys((path, *env_files)))
        self._seen: _State = ()
        self._pending: _State | None = None
        self._waited = 0
        self._digests: Mapping[Path, bytes] = {}
        self.secrets: frozenset[str] = frozenset()
        """Every secret that was in force since the start; a running request may still hold an old one."""
        self.stale = False
        """The file on disk is not what is in use: the last load failed."""

    def start(self) -> Config:
        """The first load. Raises ConfigError."""
        result = self.reload()
        if isinstance(result, ConfigError):
            raise result
        return result

    def poll(self) -> Config | ConfigError | None:
        """A new configuration, the reason why there is none, or None: nothing changed."""
        state = self._state()
        if state == self._seen:
            self._pending, self._waited = None, 0
            return None
        if state != self._pending and self._waited < PATIENCE - 1:
            self._pending, self._waited = state, self._waited + 1
            return None
        if not self.stale and _digests(self._watched) == self._digests:
            self._seen, self._pending, self._waited = state, None, 0
            return None
        return self.reload()

    def reload(self) -> Config | ConfigError:
        """A load whether or not anything changed (for SIGHUP)."""
        # Both are taken before the load: a change during it is seen by the next poll.
        self._seen, self._pending, self._waited = self._state(), None, 0
        digests = _digests(self._watched)
        try:
            config = load(self._path, self._env(), self._apis)
        except ConfigError as error:
            self.stale = True
            return error
        self._accept(config, digests)
        return config

    def _accept(self, config: Config, digests: Mapping[Path, bytes]) -> None:
        self.stale = False
        self.secrets |= config.secrets
        watched = tuple(dict.fromkeys((self._path, *self._env_files, *config.files)))
        if watched != self._watched:
            known = dict(zip(self._watched, self._seen, strict=True))
            self._watched = watched
            self._seen = tuple(known[file] if file in known else _file_state(file) for file in watched)
        self._digests = {file: digests[file] if file in digests else _file_digest(file) for file in watched}

    def _state(self) -> _State:
        return tuple(map(_file_state, self._watched))


def describe_change(old: Config, new: Config) -> list[str]:
    """What a reload changed, in words, one line each; no secret among them."""
    lines = [
        f"server.{name} changed: takes effect after a restart"
        for name in ("host", "port", "max_body_bytes")
        if getattr(old.server, name) != getattr(new.server, name)
    ]
    lines += [
        f"server.{name} changed"
        for name in ("token", "retry")
        if getattr(old.server, name) != getattr(new.server, name)
    ]
    lines += _provider_changes(old, new)
    before, after = _routes(old), _routes(new)
    for name in dict.fromkeys((*before, *after)):
        was, now = before.get(name), after.get(name)
        if _targets(was) != _targets(now):
            lines.append(f"{name}: {_targets(was)} → {_targets(now)}")
        elif was and now and _profiles(was) != _profiles(now):
            lines.append(f"{name}: {_targets(now)} with other settings")
    if old.server.direct_models != new.server.direct_models:
        lines.append(f"provider/model by clients: {'allowed' if new.server.direct_models else 'not allowed'}")
    if [name for name in before if name in after] != [name for name in after if name in before]:
        lines.append("the order of the names changed")
    return lines


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
    return lines


def _routes(config: Config) -> dict[str, Route]:
    return {**config.table.routes, **dict(config.table.patterns)}


def _targets(route: Route | None) -> str:
    if route is None:
        return "nothing"
    names = ", ".join(map(_name, route.targets))
    return f"{names}; on overflow: {', '.join(map(_name, route.on_overflow))}" if route.on_overflow else names


def _profiles(route: Route) -> list[Profile]:
    return [target.profile for target in (*route.targets, *route.on_overflow)]


def _name(target: Target) -> str:
    return target.name


def _file_state(path: Path) -> tuple[int, int, int, int] | None:
    """Follows links: another target is another state. None: not there."""
    try:
        state = path.stat()
    except (OSError, ValueError):
        return None
    return state.st_mtime_ns, state.st_size, state.st_ino, state.st_dev


def _digests(paths: Collection[Path]) -> dict[Path, bytes]:
    """A digest of each file; they are small by the loader's own limits."""
    return {path: _file_digest(path) for path in paths}


def _file_digest(path: Path) -> bytes:
    try:
        if not path.is_file():
            return b"-"
        with path.open("rb") as stream:
            return sha256(stream.read(2 << 20)).digest()
    except OSError:
        return b"-"
