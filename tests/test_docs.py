"""The documents keep their word: every command in them runs, every example loads, every link leads somewhere.

A command that no row of ``EXERCISES`` knows fails: teach the table how to run it, or take it out of the document.
"""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields
from itertools import pairwise
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import click
import pytest
import yaml
from click.testing import CliRunner

from gateway.cli import COMMANDS, main
from gateway.config import ServerSettings, loads
from gateway.config.models import KEYS as MODEL_KEYS
from gateway.config.presets import built_in
from gateway.config.providers import KEYS as PROVIDER_KEYS
from gateway.ledger.record import UsageRecord
from gateway.ledger.store import Ledger
from gateway.profile import PROFILE_FIELDS, Profile
from gateway.reload import describe_change
from gateway.server.app import build_app
from tests.cli.gateway_command import serving
from tests.deploy_commands import EXERCISES as OF_DEPLOYMENT

ROOT = Path(__file__).resolve().parents[1]
README = ROOT / "README.md"
CONFIGURATION = ROOT / "docs" / "configuration.md"
HTTP_API = ROOT / "docs" / "http-api.md"
DOCUMENTS = [README, ROOT / "CONTRIBUTING.md", ROOT / "SECURITY.md"]
DOCUMENTS += sorted([*ROOT.glob("docs/*.md"), *ROOT.glob("bench/*.md")])
REQUEST = {"model": "sonnet", "max_tokens": 9, "messages": [{"role": "user", "content": "hi"}]}

# -- reading ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Block:
    """A fenced block of a document."""

    document: Path
    line: int
    language: str
    text: str


@dataclass(frozen=True)
class Command:
    """One line that a reader would type."""

    place: str
    line: str

    @property
    def words(self) -> list[str]:
        return shlex.split(self.line, comments=True)


def blocks() -> Iterator[Block]:
    for document in DOCUMENTS:
        text = document.read_text(encoding="utf-8")
        for found in re.finditer(r"^```(\w*)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL):
            yield Block(document, text[: found.start()].count("\n") + 2, found[1], found[2])


def indented(document: Path) -> Iterator[tuple[int, str]]:
    """Lines of blocks that are indented by four blanks, without the drawings."""
    code = False
    unfenced = re.sub(
        r"^```.*?^```$",
        lambda block: "\n" * block[0].count("\n"),
        document.read_text(encoding="utf-8"),
        flags=re.MULTILINE | re.DOTALL,
    )
    for number, line in enumerate(unfenced.splitlines(), 1):
        code = line.startswith("    ") and (code or line[4:5] not in (" ", "-", ""))
        if code and " -> " not in line:
            yield number, line.strip()


def commands() -> Iterator[Command]:
    for block in blocks():
        for number, line in enumerate(re.sub(r"\\\n\s*", "", block.text).splitlines(), block.line):
            if line.strip() and (block.language == "sh" or line.startswith("$ ")):
                yield Command(f"{block.document.name}:{number}", line.removeprefix("$ ").strip())
    for document in DOCUMENTS:
        for number, line in indented(document):
            yield Command(f"{document.name}:{number}", line)


def inline_commands() -> Iterator[Command]:
    for document in DOCUMENTS:
        for number, line in enumerate(document.read_text(encoding="utf-8").splitlines(), 1):
            for found in re.finditer(r"`((?:make|gateway|python -m gateway) [^`]+)`", line):
                yield Command(f"{document.name}:{number}", found[1].removeprefix("python -m "))


# -- running ---------------------------------------------------------------------------------------------


def run_gateway(words: list[str], folder: Path, demo: str) -> None:
    name, *arguments = words[1:]
    if name == "serve":
        arguments = ["0" if before == "--port" else word for before, word in pairwise(["", *arguments])]
        with serving(*arguments, cwd=folder) as gateway:
            gateway.wait_for("export ANTHROPIC_AUTH_TOKEN=")
            assert gateway.stop() == 0
        return
    ended = CliRunner().invoke(main, [name, *arguments])
    assert ended.exit_code == 0, ended.output
    assert ended.stdout


def run_make(words: list[str], folder: Path, demo: str) -> None:
    assert make_targets(words) <= known_targets()


def run_curl(words: list[str], folder: Path, demo: str) -> None:
    if shutil.which("curl") is None:
        pytest.skip("curl is not installed")
    moved = [word.replace("http://127.0.0.1:4002", demo) for word in words]
    assert moved != words, "it does not ask the gateway"
    ended = subprocess.run([*moved, "--noproxy", "*", "--fail"], capture_output=True, timeout=20, check=True)
    assert json.loads(ended.stdout)["type"] == "message"


def run_export(words: list[str], folder: Path, demo: str) -> None:
    assert len(words) == 2
    assert re.fullmatch(r"[A-Z][A-Z0-9_]*=\S+", words[1])


def run_claude(words: list[str], folder: Path, demo: str) -> None:
    """The real one is asked in tests/e2e; here only its options."""
    assert set(words) <= {"claude", "-p", "say hi", "--model", "sonnet"}


EXERCISES: dict[str, Callable[[list[str], Path, str], None]] = {
    "gateway": run_gateway,
    "make": run_make,
    "curl": run_curl,
    "export": run_export,
    "claude": run_claude,
    **OF_DEPLOYMENT,
}


def known_targets() -> set[str]:
    return set(re.findall(r"^([a-z0-9]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))


def make_targets(words: list[str]) -> set[str]:
    return {word for word in words[1:] if "=" not in word}


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a gateway that echoes."""
    with serving("--demo", cwd=tmp_path_factory.mktemp("demo"), patience=600) as gateway:
        yield gateway.url


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where a reader would type: beside providers.yaml and a request."""
    monkeypatch.delenv("GATEWAY_CONFIG", raising=False)
    monkeypatch.chdir(tmp_path)
    shutil.copy(ROOT / "providers.yaml", tmp_path)
    (tmp_path / "request.json").write_text(json.dumps(REQUEST))
    ledger = Ledger(tmp_path / "usage.db")
    ledger.put(UsageRecord(time=time.time(), request_id="req_1", outcome="ok", status=200))
    ledger.start()
    ledger.close(20)
    return tmp_path


@pytest.mark.parametrize("command", list(commands()), ids=lambda command: f"{command.place} {command.line[:40]}")
def test_command(command: Command, folder: Path, demo: str) -> None:
    words = command.words
    assert words[0] in EXERCISES, f"{command.place}: nobody knows how to try {words[0]!r}"
    EXERCISES[words[0]](words, folder, demo)


def test_the_readers_of_commands_see_them() -> None:
    lines = [command.line for command in commands()]
    assert "make run" in lines
    assert 'claude -p "say hi"' in lines
    assert any(line.startswith("make e2e sdk") for line in lines), "indented ones too"
    assert {line.split()[1] for line in lines if line.startswith("gateway ")} == set(COMMANDS), "every command is shown"


@pytest.mark.parametrize("command", list(inline_commands()), ids=lambda command: f"{command.place} {command.line}")
def test_command_in_a_sentence(command: Command) -> None:
    words = command.words
    if words[0] == "make":
        assert make_targets(words) <= known_targets()
        return
    found = main.get_command(click.Context(main), words[1])
    assert found is not None
    options = {name for parameter in found.params for name in parameter.opts}
    assert {word for word in words[2:] if word.startswith("-") and word != "-"} <= options


# -- examples --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "block", [block for block in blocks() if block.language == "yaml"], ids=lambda b: f"{b.document.name}:{b.line}"
)
def test_yaml_is_a_configuration(block: Block) -> None:
    env = dict.fromkeys(re.findall(r"\$\{(\w+)", block.text), "value")
    config = loads(block.text.encode(), block.document.name, env)
    assert config.table.names()
    assert config.warnings == ()


@pytest.mark.parametrize(
    "block", [block for block in blocks() if block.language == "json"], ids=lambda b: f"{b.document.name}:{b.line}"
)
def test_json_is_json(block: Block) -> None:
    json.loads(block.text)


def readme_block(containing: str) -> list[str]:
    return next(block.text for block in blocks() if block.document == README and containing in block.text).splitlines()


def test_the_first_start_looks_as_the_readme_shows(tmp_path: Path) -> None:
    shown = readme_block("demo mode")
    file = str(ROOT / "providers.yaml")
    with serving("--demo-without-keys", "--config", file, cwd=tmp_path) as gateway:
        gateway.wait_for(re.escape(shown[-1]))
        gateway.stop()
    # The port is the only thing that may differ.
    said = iter(line.replace(gateway.url, "http://127.0.0.1:4002") for line in gateway.out)
    missing = [line for line in shown if line.strip() != "…" and line not in said]
    assert not missing, gateway.out


def test_a_change_is_logged_as_the_readme_shows() -> None:
    (line,) = readme_block("INFO reloaded")
    text = "\n".join(readme_block("# what clients ask for"))
    env = {"DEEPSEEK_API_KEY": "value"}
    before = loads(text.encode(), "providers.yaml", env)
    after = loads(text.replace("sonnet: deepseek/deepseek-v4-pro", "sonnet: lab/qwen3-30b").encode(), "f", env)
    assert describe_change(before, after)[0] == line.partition("INFO reloaded: ")[2]


# -- what is listed --------------------------------------------------------------------------------------


def table(document: Path, heading: str) -> dict[str, list[str]]:
    """Name -> the other cells, of every table between ``heading`` and the next one. ``a``, ``b`` are two names."""
    section = document.read_text(encoding="utf-8").partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    rows = {}
    for line in section.splitlines():
        if line.startswith("| `"):
            first, *others = [cell.strip() for cell in line.strip("|").split(" | ")]
            rows.update(dict.fromkeys(re.findall(r"`([^`]+)`", first), others))
    assert rows, f"no table under {heading}"
    return rows


@pytest.mark.parametrize(
    ("heading", "keys"),
    [
        ("server", {item.name for item in fields(ServerSettings)}),
        ("providers", set(PROVIDER_KEYS)),
        ("models", set(MODEL_KEYS) - {"use"}),
    ],
)
def test_every_key_is_described(heading: str, keys: set[str]) -> None:
    assert keys <= set(table(CONFIGURATION, heading))


def test_every_field_of_a_profile_is_described() -> None:
    described = set(re.findall(r"`(\w+)`", CONFIGURATION.read_text(encoding="utf-8").partition("\n## profile\n")[2]))
    assert sorted(PROFILE_FIELDS - described) == []


@pytest.mark.parametrize(("heading", "defaults"), [("server", ServerSettings()), ("profile", Profile())])
def test_the_defaults_are_right(heading: str, defaults: Any) -> None:
    compared = 0
    for name, (default, *_) in table(CONFIGURATION, heading).items():
        if hasattr(defaults, name) and re.fullmatch(r"`[^`]+`", default):
            value = getattr(defaults, name)
            assert yaml.safe_load(default.strip("`")) == (list(value) if isinstance(value, tuple) else value), name
            compared += 1
    assert compared >= 4


def test_the_readme_lists_the_built_in_profiles() -> None:
    text = README.read_text(encoding="utf-8").partition("name and the key suffice: ")[2].partition(".")[0]
    assert re.split(r",\s+", text) == sorted(set(built_in().providers) - {"echo"})


def test_every_endpoint_is_described_and_no_other() -> None:
    state = MagicMock()
    state.config.server.max_body_bytes = 1
    routes = build_app(state).router.routes()
    served = {(route.method, route.resource.canonical) for route in routes if route.resource is not None}
    text = HTTP_API.read_text(encoding="utf-8").partition("\n## Endpoints\n")[2].partition("\n## ")[0]
    described = set()
    for line in text.splitlines():
        cell = line.split(" | ")[0]
        named = re.findall(r"`(HEAD|GET|POST) (\S+)`", cell)
        described |= set(named)
        described |= {(method, named[-1][1]) for method in re.findall(r"`(HEAD)`", cell)}
    assert described == served


# -- links and size --------------------------------------------------------------------------------------


def anchors(document: Path) -> set[str]:
    """What a heading can be linked by."""
    headings = re.findall(r"^#+ (.+)$", document.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("document", [*DOCUMENTS, ROOT / "CHANGELOG.md"], ids=lambda path: path.name)
def test_links_lead_somewhere(document: Path) -> None:
    dead = []
    for target in re.findall(r"\]\(([^)\s]+)\)", document.read_text(encoding="utf-8")):
        if re.match(r"\w+:", target):
            continue
        path, _, anchor = target.partition("#")
        file = (document.parent / path).resolve() if path else document
        if not file.exists() or ROOT not in file.parents or (anchor and anchor not in anchors(file)):
            dead.append(target)
    assert dead == []


def test_the_readme_is_short() -> None:
    assert len(README.read_text(encoding="utf-8").splitlines()) <= 200
