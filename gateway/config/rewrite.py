"""A providers.yaml with overrides added: checked as a configuration, then put in the place of the old one.

Rules:
* Each override must give the configuration that was there before and the new field, nothing else;
  one that does not is left out, with the reason.
* The file is replaced whole by a rename, with its owner and permissions; behind a symbolic link its target is.
"""

from __future__ import annotations

import os
import stat
import tempfile
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

from gateway.config import Config, ConfigError, loads
from gateway.config.overrides import CannotInsert, Override, insert_overrides
from gateway.profile import APIS
from gateway.routing import Route, Target


@dataclass(slots=True)
class Rewrite:
    """What became of some overrides; nothing is written yet."""

    before: str
    after: str
    written: list[Override] = field(default_factory=list)
    refused: list[tuple[Override, str]] = field(default_factory=list)
    """With the reason, one line each."""


def rewrite(
    text: str,
    overrides: Iterable[Override],
    comment: str,
    env: Mapping[str, str],
    apis: Collection[str] = APIS,
    directory: Path | None = None,
) -> Rewrite:
    """``text`` with every override that can be added and then holds. Raises ConfigError for a text that is wrong."""
    made = Rewrite(text, text)
    config = loads(text.encode(), "the file", env, apis, directory)
    for override in overrides:
        try:
            after = insert_overrides(made.after, (override,), comment)
            changed = loads(after.encode(), "the file", env, apis, directory)
            _compare(config, changed, override)
        except CannotInsert as error:
            made.refused.append((override, str(error)))
        except ConfigError as error:
            made.refused.append((override, error.mistakes[0].message))
        else:
            made.after, config = after, changed
            made.written.append(override)
    return made


def _compare(before: Config, after: Config, override: Override) -> None:
    """Raises CannotInsert unless ``after`` is ``before`` with the override in force."""
    same = ("server", "providers", "warnings", "files", "secrets")
    if any(getattr(before, name) != getattr(after, name) for name in same):
        raise CannotInsert("the rest of the configuration would change")
    old, new = list(_targets(before)), list(_targets(after))
    if [_with(target, override) for target in old] != new:
        raise CannotInsert("the file sets this field for the model in another place")
    direct = after.table.direct.get(override.provider)
    if direct and getattr(direct(override.model).profile, override.field) != override.value:
        raise CannotInsert("a later pattern under the provider's models sets this field")


def _targets(config: Config) -> Iterator[tuple[str, Target]]:
    """(name, target) of every route, in order."""
    routes: list[tuple[str, Route]] = [*config.table.routes.items(), *config.table.patterns]
    return ((name, target) for name, route in routes for target in (*route.targets, *route.on_overflow))


def _with(named: tuple[str, Target], override: Override) -> tuple[str, Target]:
    name, target = named
    if target.provider.name != override.provider or target.model.lower() != override.model.lower():
        return named
    return name, replace(target, profile=replace(target.profile, **{override.field: override.value}))


def replace_file(path: Path, before: bytes, after: bytes) -> None:
    """Puts ``after`` in the place of ``before``, whole or not at all. Raises OSError, also if the file changed."""
    real = Path(os.path.realpath(path))
    state = real.stat()
    handle, temporary = tempfile.mkstemp(prefix=f".{real.name}.", dir=real.parent)
    try:
        with os.fdopen(handle, "wb") as stream:
            stream.write(after)
            stream.flush()
            os.fchmod(stream.fileno(), stat.S_IMODE(state.st_mode))
            made = os.fstat(stream.fileno())
            if (made.st_uid, made.st_gid) != (state.st_uid, state.st_gid):
                # With another owner, whoever reads the file now might not any more.
                os.fchown(stream.fileno(), state.st_uid, state.st_gid)
            os.fsync(stream.fileno())
        if real.read_bytes() != before:
            raise OSError(0, "the file was changed meanwhile")
        os.replace(temporary, real)
    except BaseException:
        with suppress(OSError):
            os.unlink(temporary)
        raise
    directory = os.open(real.parent, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
