"""What several commands share: which file, and how its mistakes are shown."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import Any, NoReturn, TypeVar

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


def env_file_option(command: _Command) -> _Command:
    """``--env-file FILE``."""
    return click.option(
        "--env-file",
        type=click.Path(path_type=Path),
        envvar="GATEWAY_ENV_FILE",
        show_envvar=True,
        help="Variables for ${VAR}, which win over the environment; serve reads them anew whenever the file changes.",
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


def variables_or_exit(env_file: Path | None) -> Mapping[str, str]:
    """What ``${VAR}`` stands for; mistakes end as those of ``load_or_exit``."""
    if env_file is None:
        return os.environ
    from gateway.env_file import read_env_file  # only some need it

    try:
        return {**os.environ, **read_env_file(env_file)}
    except ConfigError as error:
        exit_with(error)


def env_file_warnings(env_file: Path | None) -> Iterator[str]:
    """What is wrong with the file beside its content."""
    if env_file is not None:
        from gateway.env_file import readable_by_others

        if readable_by_others(env_file):
            yield f"other users can read {env_file}: chmod 600"


def load_or_exit(path: Path, variables: Mapping[str, str]) -> Config:
    """The configuration; after a mistake every one is on stderr, one a line, and the exit status is 2."""
    try:
        return load(path, variables, known_apis())
    except ConfigError as error:
        exit_with(error)


def exit_with(error: ConfigError) -> NoReturn:
    """Every mistake on stderr, one a line; exit status 2."""
    for mistake in error.mistakes:
        click.echo(str(mistake), err=True)
    sys.exit(EXIT_BAD_CONFIG)


def target_state(target: Target) -> str:
    """``ready``, or what is missing."""
    missing = target.provider.missing_key
    return f"no key: set {missing}" if missing else "ready"
