"""The command line: ``gateway COMMAND``. One module per command, imported when it is asked for."""

from __future__ import annotations

import io
import sys
from importlib import import_module

import click

from gateway import __version__

COMMANDS = {
    "serve": "Start the gateway.",
    "check": "Check providers.yaml; --live asks the upstreams too.",
    "routes": "Show which name goes where.",
    "explain": "Show what a request would become upstream, and why.",
    "env": "Print the lines to export for Claude Code.",
    "keys": "Give out, list and take back the keys of clients.",
    "usage": "Show who used what, and what it cost.",
}


class LazyGroup(click.Group):
    """Commands that are imported only when they run; ``--help`` alone imports none."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        command: click.Command = getattr(import_module(f"gateway.cli.{cmd_name}"), cmd_name)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="gateway")
def main() -> None:
    """Use any model with Claude Code and every client of the Anthropic Messages API."""
    for stream in (sys.stdout, sys.stderr):
        # A terminal that cannot show an arrow gets a question mark, not a traceback.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
