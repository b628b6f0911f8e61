"""``gateway --help`` and what every command owes its user before it does anything."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from gateway import __version__
from gateway.cli import COMMANDS, main
from tests.cli.gateway_command import ROOT, environment, run

HEAVY = {"aiohttp", "asyncio", "yaml", "uvloop", "orjson"}


def imported_by(*arguments: str) -> tuple[set[str], str]:
    """The heavy modules that a command loads, and what it prints."""
    program = (
        f"import sys; sys.argv = ['gateway', *{arguments!r}]\n"
        "import atexit; atexit.register(lambda: print('loaded', *sys.modules, file=sys.stderr))\n"
        "from gateway.cli import main; main()"
    )
    ran = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, env=environment(), capture_output=True, text=True, check=True
    )
    return HEAVY & set(ran.stderr.split()), ran.stdout


@pytest.mark.parametrize("option", ["--help", "-h"])
def test_help_lists_the_commands_and_loads_nothing(option: str) -> None:
    loaded, shown = imported_by(option)
    assert loaded == set()
    for name, purpose in COMMANDS.items():
        assert f"{name} " in shown
        assert purpose in shown


def test_the_version_loads_nothing() -> None:
    loaded, shown = imported_by("--version")
    assert loaded == set()
    assert shown.strip() == f"gateway, version {__version__}"


def test_routes_load_no_server() -> None:
    loaded, _ = imported_by("routes", "--config", "providers.yaml")
    assert not loaded & {"aiohttp", "asyncio", "uvloop"}


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_explains_itself(name: str) -> None:
    shown = CliRunner().invoke(main, [name, "--help"])
    assert shown.exit_code == 0
    assert shown.output.startswith(f"Usage: main {name} ")
    assert len(shown.output.splitlines()) > 5


def test_every_module_is_a_command() -> None:
    modules = {path.stem for path in (ROOT / "gateway" / "cli").glob("*.py")} - {"__init__", "options"}
    assert modules == set(COMMANDS)


@pytest.mark.parametrize("arguments", [["serv"], ["--nonsense"], ["check", "--nonsense"], ["serve", "--port", "70000"]])
def test_a_wrong_command_line_is_status_2(arguments: list[str]) -> None:
    ended = CliRunner().invoke(main, arguments)
    assert ended.exit_code == 2
    assert "Traceback" not in ended.output
    assert ended.stderr


def test_python_m_gateway_is_the_command(tmp_path: Path) -> None:
    ended = run("--version", cwd=tmp_path)
    assert (ended.status, ended.out) == (0, f"gateway, version {__version__}\n")


def test_commands_have_no_logic_of_their_own() -> None:
    """They read options, call what does the work, and print."""
    for path in (ROOT / "gateway" / "cli").glob("*.py"):
        nodes = ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        assert not [node.name for node in nodes if isinstance(node, ast.AsyncFunctionDef)], path
