"""``gateway serve``: start the gateway."""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import click

from gateway import __version__
from gateway.access.key_ring import KeyRing
from gateway.cli.env import client_variables, lines_for, server_url
from gateway.cli.options import (
    EXIT_BAD_CONFIG,
    config_option,
    env_file_option,
    env_file_warnings,
    exit_with,
    known_apis,
    target_state,
)
from gateway.config import Config, ConfigError, demo, is_loopback
from gateway.config.key_file import beside
from gateway.file_watch import Loaded, Watch
from gateway.reload import KeyReloader, Reloader

LOG_LEVELS = ("debug", "info", "warning", "error")


@click.command()
@config_option
@env_file_option
@click.option("--host", help="Listen here instead of server.host.")
@click.option("--port", type=click.IntRange(0, 65535), help="Listen here instead of server.port.")
@click.option("--reuse-port", is_flag=True, help="Share the port with another gateway, for a restart without a gap.")
@click.option("--workers", type=click.IntRange(1, 256), default=1, show_default=True, help="Processes that serve.")
@click.option(
    "--drain-seconds",
    type=click.FloatRange(0, 900),
    default=30,
    show_default=True,
    help="How long answers may go on after the signal to stop.",
)
@click.option("--demo", "always_demo", is_flag=True, help="Answer every name from the prompt itself; no model, no key.")
@click.option("--demo-without-keys", is_flag=True, help="The same, if no name in the file leads to a usable provider.")
@click.option("--log-format", type=click.Choice(("text", "json")), default="text", show_default=True)
@click.option(
    "--log-prompts",
    "prompts",
    type=click.Path(file_okay=False, path_type=Path),
    help="Keep whole requests and answers in this folder, of keys with log_prompts_until.",
)
@click.option("--log-level", type=click.Choice(LOG_LEVELS), default="info", show_default=True)
def serve(
    path: Path,
    env_file: Path | None,
    host: str | None,
    port: int | None,
    reuse_port: bool,
    workers: int,
    drain_seconds: float,
    always_demo: bool,
    demo_without_keys: bool,
    log_format: str,
    prompts: Path | None,
    log_level: str,
) -> None:
    """Start the gateway. Ctrl-C stops it; running answers may finish. SIGHUP reads the configuration anew."""
    with _loading():
        reloader = None if always_demo else _reloader(path, env_file)
        config = demo() if reloader is None else _load(reloader)
        keys_reloader = None if reloader is None else KeyReloader(beside(path, config.server.keys_file))
        keys = KeyRing() if keys_reloader is None else _load(keys_reloader)
        # Imported last: what the configuration left behind in memory is used again.
        from gateway.server.start import Options, StartError, inherited_sockets, start
    if reloader is not None and demo_without_keys and not _usable(config):
        click.echo("No provider has a key: demo mode. Every name answers from the prompt itself, no model runs.")
        click.echo(f"Set a key, for example: export {_first_missing(config)}=…   then start again.\n")
        reloader, keys_reloader, config, keys = None, None, demo(), KeyRing()
    try:
        inherited = inherited_sockets()
        if inherited:
            host, port = inherited[0].getsockname()[:2]
        host = host or config.server.host
        port = config.server.port if port is None else port
        loopback = all(is_loopback(each.getsockname()[0]) for each in inherited) if inherited else is_loopback(host)
        _refuse_to_give_away(config, keys, host, loopback)
        for warning in (*config.warnings, *keys.warnings, *env_file_warnings(env_file)):
            click.echo(f"warning: {warning}", err=True)
        if prompts is not None:
            _warn_of_prompts(prompts, keys)
        options = Options(
            host,
            port,
            inherited,
            loopback,
            reuse_port,
            workers,
            json_log=log_format == "json",
            prompts=prompts,
            drain_seconds=drain_seconds,
        )
        announce = _announcer(config, host, in_demo=reloader is None, keys=bool(keys))
        reloaders = (reloader, keys_reloader) if reloader and keys_reloader else None
        start(config, keys, options, announce=announce, reloaders=reloaders, log_level=log_level)
    except StartError as error:
        click.echo(str(error), err=True)
        sys.exit(1)
    _forget_readers_that_left()


def _reloader(path: Path, env_file: Path | None) -> Reloader:
    if env_file is None:
        return Reloader(path, lambda: os.environ, known_apis())
    from gateway.env_file import read_env_file  # only some need it

    return Reloader(path, lambda: {**os.environ, **read_env_file(env_file)}, known_apis(), [env_file])


def _refuse_to_give_away(config: Config, keys: KeyRing, host: str, loopback: bool) -> None:
    if config.server.token is not None:
        return
    admin = config.server.admin
    if not loopback and not keys:
        click.echo(
            f"refusing to listen on {host} without a key: anyone on the network could spend your money. "
            "Make one with 'gateway keys add NAME', or set server.token in providers.yaml, or use --host 127.0.0.1",
            err=True,
        )
    elif admin is not None and not is_loopback(admin.host):
        click.echo(
            f"refusing to show metrics on {admin.host} to anyone on the network: "
            "set server.token in providers.yaml, which /metrics then wants, or server.admin.host: 127.0.0.1",
            err=True,
        )
    else:
        return
    sys.exit(EXIT_BAD_CONFIG)


def _warn_of_prompts(folder: Path, keys: KeyRing) -> None:
    names = ", ".join(key.name for key in keys.keys if key.log_prompts_until is not None) or "nobody by now"
    click.echo(
        f"warning: --log-prompts keeps whole requests and answers in {folder}, of keys whose log_prompts_until "
        f"is to come: {names}",
        err=True,
    )


def _announcer(config: Config, host: str, *, in_demo: bool, keys: bool) -> Callable[[int, set[str] | None], None]:
    def announce(actual_port: int, unreachable: set[str] | None) -> None:
        url = server_url(host, actual_port, tls=config.server.tls is not None)
        first = f"gateway {__version__} listens on {url}{'  (demo)' if in_demo else ''}"
        # Nobody may be reading; that is no reason to stop.
        with suppress(OSError):
            click.echo(first if unreachable is None else _welcome(config, url, unreachable, keys))

    return announce


@contextmanager
def _loading() -> Iterator[None]:
    """What is loaded is there to stay: garbage is looked for once, at the end, and never again among the rest."""
    gc.disable()
    try:
        yield
        gc.collect()
        gc.freeze()
    finally:
        gc.enable()


def _forget_readers_that_left() -> None:
    """What could not be written is no reason for another exit status."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def _load(reloader: Watch[Loaded]) -> Loaded:
    try:
        return reloader.start()
    except ConfigError as error:
        exit_with(error)


def _usable(config: Config) -> bool:
    return any(
        route.targets[0].provider.missing_key is None
        for _, route in config.named_routes
    )


def _first_missing(config: Config) -> str:
    return next((provider.missing_key for provider in config.providers.values() if provider.missing_key), "A_KEY")


def _welcome(config: Config, url: str, unreachable: set[str], keys: bool) -> str:
    """The names and where they go, and what to export for Claude Code."""
    rows = []
    for name, route in config.named_routes:
        for number, target in enumerate((*route.targets, *route.on_overflow)):
            state = "unreachable" if target.provider.name in unreachable else target_state(target)
            if number >= len(route.targets):
                state += " (on overflow)"
            rows.append((name if number == 0 else "", target.name, state))
    widths = [max(len(row[column]) for row in rows) for column in (0, 1)]
    lines = [f"  {name:<{widths[0]}}  {target:<{widths[1]}}  {state}" for name, target, state in rows]
    exports = lines_for(client_variables(config, url, keys=keys), "sh")
    return "\n".join(["", *lines, "", "For Claude Code, in another terminal:", "", exports, ""])
