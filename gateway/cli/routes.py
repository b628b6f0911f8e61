"""``gateway routes``: who goes where?"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from gateway.cli.options import config_option, env_file_option, load_or_exit, target_state, variables_or_exit
from gateway.config import Config
from gateway.routing import Target


@click.command()
@config_option
@env_file_option
@click.option("--json", "as_json", is_flag=True, help="As JSON.")
def routes(path: Path, env_file: Path | None, as_json: bool) -> None:
    """Show every model name, its targets in order, and the state of each."""
    config = load_or_exit(path, variables_or_exit(env_file))
    click.echo(routes_json(config) if as_json else routes_table(config))


def routes_json(config: Config) -> str:
    """``[{name, targets: [{provider, model, api, base_url, ready, missing_key}], on_overflow: [the same]}]``."""
    every = config.named_routes
    rows = [
        {
            "name": name,
            "targets": list(map(_described, route.targets)),
            "on_overflow": list(map(_described, route.on_overflow)),
        }
        for name, route in every
    ]
    return json.dumps(rows, indent=2, ensure_ascii=False)


def _described(target: Target) -> dict[str, Any]:
    return {
        "provider": target.provider.name,
        "model": target.model,
        "api": target.api,
        "base_url": target.base_url,
        "ready": target.provider.missing_key is None,
        "missing_key": target.provider.missing_key,
    }


def routes_table(config: Config) -> str:
    """Name, target and state in columns; a fallback stands under the target before it, then those on overflow."""
    rows: list[tuple[str, str, str, str]] = []
    for name, route in config.named_routes:
        for number, target in enumerate((*route.targets, *route.on_overflow)):
            use = " (on overflow)" if number >= len(route.targets) else ""
            rows.append((name if number == 0 else "", target.name, target_state(target), use))
    wide = max(len(row[0]) for row in rows)
    wider = max(len(row[1]) for row in rows)
    return "\n".join(
        f"{name:<{wide}}  {'→' if name else '↳'} {target:<{wider}}  "
        + click.style(state, fg="green" if state == "ready" else "yellow")
        + use
        for name, target, state, use in rows
    )
