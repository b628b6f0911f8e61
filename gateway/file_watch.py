"""Watch: looks at a file and at what it is made from, and loads it anew when one of them changed.

Rules:
* Synchronous and without a clock: the server calls ``poll`` again and again (every half second) in a
  thread, and swaps what it gets with one assignment.
* A change is taken up when two polls in a row see the same state of the file, so that a file which is
  being written is not read half. A file that never comes to rest is read at every fourth poll.
* A bad or unreadable file is reported once and changes nothing: who polls keeps what was there before.
* The same bytes again are no change.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from hashlib import sha256
from pathlib import Path
from typing import Generic, TypeVar

from gateway.config import ConfigError

PATIENCE = 4
"""Polls after which a file that keeps changing is read all the same."""

_State = tuple[tuple[int, int, int, int] | None, ...]
Loaded = TypeVar("Loaded")


class Watch(Generic[Loaded]):
    """The watch on one file, and on the files beside it that count."""

    def __init__(self, path: Path, others: Collection[Path] = ()) -> None:
        self.path = path
        self._others = tuple(others)
        self._watched: tuple[Path, ...] = tuple(dict.fromkeys((path, *others)))
        self._seen: _State = ()
        self._pending: _State | None = None
        self._waited = 0
        self._digests: Mapping[Path, bytes] = {}
        self.stale = False
        """The file on disk is not what is in use: the last load failed."""

    # -- for subclasses --------------------------------------------------------------------------------

    def load(self) -> Loaded:
        """What is in the file now. Raises ConfigError."""
        raise NotImplementedError

    def files_of(self, loaded: Loaded) -> Collection[Path]:
        """The files that ``loaded`` names."""
        return ()

    # -- for the server --------------------------------------------------------------------------------

    def start(self) -> Loaded:
        """The first load. Raises ConfigError."""
        result = self.reload()
        if isinstance(result, ConfigError):
            raise result
        return result

    def poll(self) -> Loaded | ConfigError | None:
        """What is new, the reason why it cannot be had, or None: nothing changed."""
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

    def reload(self) -> Loaded | ConfigError:
        """A load whether or not anything changed (for SIGHUP)."""
        # Both are taken before the load: a change during it is seen by the next poll.
        self._seen, self._pending, self._waited = self._state(), None, 0
        digests = _digests(self._watched)
        try:
            loaded = self.load()
        except ConfigError as error:
            self.stale = True
            return error
        self._accept(loaded, digests)
        return loaded

    def _accept(self, loaded: Loaded, digests: Mapping[Path, bytes]) -> None:
        self.stale = False
        watched = tuple(dict.fromkeys((self.path, *self._others, *self.files_of(loaded))))
        if watched != self._watched:
            known = dict(zip(self._watched, self._seen, strict=True))
            self._watched = watched
            self._seen = tuple(known[file] if file in known else _file_state(file) for file in watched)
        self._digests = {file: digests[file] if file in digests else _file_digest(file) for file in watched}

    def _state(self) -> _State:
        return tuple(map(_file_state, self._watched))


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
