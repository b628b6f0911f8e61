"""What several commands share: which file, and how its mistakes are shown."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Any, TypeVar

import click

from gateway.config import Config, ConfigError, load
from gateway.profile import APIS
from gateway.routing import Target

DEFAULT_FILE = "providers.yaml"
EXIT_BAD_CONFIG = 2

_Command = TypeVar("_Command", bound=Callable[..., Any])


def config_option(command: _Command) -> _Command:
    """``--config FILE``, by default providers.yaml in the current directory; GATEWAY_CONFIG names another."""
    return click.option(
        "--config",
        "-c",
        "path",
        type=click.Path(path_type=Path),
        default=DEFAULT_FILE,
        envvar="GATEWAY_CONFIG",
        show_default=True,
        show_envvar=True,
        help="The configuration file.",
    )(command)


class KnownApis(Collection[str]):
    """The APIs that ship with the gateway, and those that installed packages register.

    Installed packages are only searched for a name that is not ours: the search costs 50 ms of a start.
    """

    def __contains__(self, name: object) -> bool:
        return name in APIS or name in set(self)

    def __iter__(self) -> Iterator[str]:
        from importlib.metadata import entry_points

        yield from APIS
        yield from (entry.name for entry in entry_points(group="gateway.adapters"))

    def __len__(self) -> int:
        return len(set(self))


def known_apis() -> Collection[str]:
    """The names that ``api`` may have."""
    return KnownApis()


def load_or_exit(path: Path) -> Config:
    """The configuration; after a mistake every one is on stderr, one a line, and the exit status is 2."""
    try:
        return load(path, os.environ, known_apis())
    except ConfigError as error:
        for mistake in error.mistakes:
            click.echo(str(mistake), err=True)
        sys.exit(EXIT_BAD_CONFIG)


def target_state(target: Target) -> str:
    """``ready``, or what is missing."""
    missing = target.provider.missing_key
    return f"no key: set {missing}" if missing else "ready"
