"""``gateway env``: what Claude Code needs in its environment."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from pathlib import Path

import click

from gateway.cli.options import config_option, env_file_option, load_or_exit, variables_or_exit
from gateway.config import Config
from gateway.config.key_file import beside

TOKEN_NOT_NEEDED = "not-needed"
KEY_OF_ONES_OWN = "PUT-YOUR-KEY-HERE"
TOKEN_NOT_SHOWN = "PUT-THE-TOKEN-HERE"
_ANY_ADDRESS = {"0.0.0.0": "127.0.0.1", "": "127.0.0.1", "::": "[::1]"}


@click.command()
@config_option
@env_file_option
@click.option("--shell", type=click.Choice(("sh", "fish", "json")), default="sh", show_default=True)
@click.option("--url", help="The gateway's address as clients see it.")
@click.option("--show-token", is_flag=True, help="Print the token of the configuration.")
def env(path: Path, env_file: Path | None, shell: str, url: str | None, show_token: bool) -> None:
    """Print the lines to export for Claude Code; json is for its settings.json."""
    config = load_or_exit(path, variables_or_exit(env_file))
    keys = beside(path, config.server.keys_file).exists()
    click.echo(lines_for(client_variables(config, url, show_token, keys), shell))
    if config.server.token and not show_token:
        click.echo(f"replace {TOKEN_NOT_SHOWN} by server.token, or use --show-token", err=True)


def client_variables(
    config: Config, url: str | None = None, show_token: bool = False, keys: bool = False
) -> dict[str, str]:
    """Variable -> value; the token itself only on request. ``keys``: clients have keys of their own."""
    server, token = config.server, config.server.token
    needed = TOKEN_NOT_SHOWN if token else KEY_OF_ONES_OWN if keys else TOKEN_NOT_NEEDED
    variables = {
        "ANTHROPIC_BASE_URL": url or server_url(server.host, server.port, tls=server.tls is not None),
        "ANTHROPIC_AUTH_TOKEN": token if token and show_token else needed,
    }
    if any_translated(config):
        # Only Anthropic's own API judges actions; otherwise the client must ask a model itself.
        variables["CLAUDE_CODE_AUTO_MODE_SERVER"] = "0"
    return variables


def any_translated(config: Config) -> bool:
    """Whether any route leads elsewhere than to Anthropic's own API."""
    targets = (target for _, route in config.named_routes for target in (*route.targets, *route.on_overflow))
    return any(not target.profile.first_party for target in targets)


def server_url(host: str, port: int, *, tls: bool = False) -> str:
    """The address for clients on this machine."""
    name = _ANY_ADDRESS.get(host, f"[{host}]" if ":" in host else host)
    return f"{'https' if tls else 'http'}://{name}:{port}"


def lines_for(variables: Mapping[str, str], shell: str) -> str:
    """The variables in the syntax of ``sh``, ``fish`` or ``json`` (settings.json)."""
    if shell == "json":
        return json.dumps({"env": dict(variables)}, indent=2)
    if shell == "fish":
        return "\n".join(f"set -gx {name} {_fish_quoted(value)}" for name, value in variables.items())
    return "\n".join(f"export {name}={shlex.quote(value)}" for name, value in variables.items())


def _fish_quoted(value: str) -> str:
    return "'" + value.replace("\\", "\\\\").replace("'", "\\'") + "'"
