"""``gateway check``: is the file right?"""

from __future__ import annotations

from pathlib import Path

import click

from gateway.cli.options import DEFAULT_FILE, load_or_exit


@click.command()
@click.argument(
    "path", metavar="[FILE]", type=click.Path(path_type=Path), default=DEFAULT_FILE, envvar="GATEWAY_CONFIG"
)
def check(path: Path) -> None:
    """Check FILE (default: providers.yaml) without touching the network.

    Exit status 0: it can be used. 2: every mistake is on stderr, as file:line:column: message (hint).
    """
    config = load_or_exit(path)
    for warning in config.warnings:
        click.echo(click.style("warning: ", fg="yellow") + warning)
    names = len(config.table.names())
    click.echo(f"{path}: ok, {names} model names, {len(config.providers)} providers")
