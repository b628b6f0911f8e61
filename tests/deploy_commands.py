"""How tests/test_docs.py tries the commands of docs/operations.md: against the files that they name."""

from __future__ import annotations

import re
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import yaml
from click.testing import CliRunner

from gateway.cli import main

ROOT = Path(__file__).resolve().parents[1]
UNITS = {"gateway", "gateway.service", "gateway.socket"}
INSTALLED, CONFIGURED = "/opt/gateway/bin/gateway", "/etc/gateway/providers.yaml"
MADE_BY_THE_READER = {"providers.yaml", "keys.env", "./config"}


def manifest() -> list[dict[str, Any]]:
    return list(yaml.safe_load_all((ROOT / "deploy" / "kubernetes.yaml").read_text(encoding="utf-8")))


def _is_there(path: str) -> bool:
    return path in MADE_BY_THE_READER or (ROOT / path).is_file()


def run_sudo(words: list[str], folder: Path, demo: str) -> None:
    program, *arguments = words[1:]
    assert program in {"useradd", "install", "systemctl", INSTALLED}
    if program == INSTALLED:
        service = (ROOT / "deploy" / "gateway.service").read_text()
        assert f"ExecStart={INSTALLED} serve --config {CONFIGURED} " in service
        assert arguments[-2:] == ["--config", CONFIGURED]
        ended = CliRunner().invoke(main, [*arguments[:-1], str(folder / "providers.yaml")])
        assert ended.exit_code == 0, ended.output
    elif program == "systemctl":
        verb, *units = arguments
        assert verb in {"daemon-reload", "enable", "reload", "restart"}
        assert {unit for unit in units if unit != "--now"} <= UNITS
        if verb == "reload":
            assert "ExecReload=" in (ROOT / "deploy" / "gateway.service").read_text()
    elif program == "useradd":
        assert f"User={arguments[-1]}\n" in (ROOT / "deploy" / "gateway.service").read_text()
    else:
        *sources, _ = re.sub(r" -(?:[ogm] \S+|d)", "", " " + " ".join(arguments)).split()
        assert all(_is_there(source) for source in sources), sources


def run_docker(words: list[str], folder: Path, demo: str) -> None:
    if words[1] == "build":
        assert words[2:] == ["-f", "deploy/Dockerfile", "-t", "messages-gateway", "."]
        assert _is_there(words[3])
        return
    assert words[1] == "run"
    assert words[-1] == "messages-gateway"
    options = dict(pairwise(words))
    assert {"--rm", "--read-only"} <= set(words)
    mounted = [word.split(":") for option, word in pairwise(words) if option == "-v"]
    assert mounted == [["./config", "/etc/gateway", "ro"], ["gateway", "/var/lib/gateway"]], "where CMD looks; a ledger"
    assert options["-p"].endswith(":4002")
    assert int(options["--stop-timeout"]) > 30


def run_kubectl(words: list[str], folder: Path, demo: str) -> None:
    if words[1] == "apply":
        assert words[2] == "-f"
        assert _is_there(words[3])
        return
    assert words[1:3] in (["rollout", "restart"], ["rollout", "status"])
    kind, _, name = words[3].partition("/")
    assert [each for each in manifest() if each["kind"].lower() == kind and each["metadata"]["name"] == name]


EXERCISES: dict[str, Callable[[list[str], Path, str], None]] = {
    "sudo": run_sudo,
    "docker": run_docker,
    "kubectl": run_kubectl,
}
