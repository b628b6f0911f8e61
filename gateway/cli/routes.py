"""``gateway routes``: who goes where?"""

from __future__ import annotations

import json
from pathlib import Path

import click

from gateway.cli.options import config_option, load_or_exit, target_state
from gateway.config import Config


@click.command()
@config_option
@click.option("--json", "as_json", is_flag=True, help="As JSON.")
def routes(path: Path, as_json: bool) -> None:
    """Show every model name, its targets in order, and the state of each."""
    config = load_or_exit(path)
    click.echo(routes_json(config) if as_json else routes_table(config))


def routes_json(config: Config) -> str:
    """``[{name, targets: [{provider, model, api, base_url, ready, missing_key}]}]``."""
    every = [*config.table.routes.items(), *config.table.patterns]
    rows = [
        {
            "name": name,
            "targets": [
                {
                    "provider": target.provider.name,
                    "model": target.model,
                    "api": target.api,
                    "base_url": target.base_url,
                    "ready": target.provider.missing_key is None,
                    "missing_key": target.provider.missing_key,
                }
                for target in route.targets
            ],
        }
        for name, route in every
    ]
    return json.dumps(rows, indent=2, ensure_ascii=False)


def routes_table(config: Config) -> str:
    """Name, target and state in columns; a fallback stands under the target before it."""
    rows: list[tuple[str, str, str]] = []
    for name, route in [*config.table.routes.items(), *config.table.patterns]:
        for number, target in enumerate(route.targets):
            rows.append((name if number == 0 else "", target.name, target_state(target)))
    wide = max(len(row[0]) for row in rows)
    wider = max(len(row[1]) for row in rows)
    return "\n".join(
        f"{name:<{wide}}  {'→' if name else '↳'} {target:<{wider}}  "
        + click.style(state, fg="green" if state == "ready" else "yellow")
        for name, target, state in rows
    )
