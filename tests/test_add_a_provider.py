"""CONTRIBUTING.md, "Add a provider in ten minutes": the steps as they are written, done in a copy of the repository."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

from gateway.config import loads
from gateway.config.presets import read_presets

ROOT = Path(__file__).resolve().parents[1]
PROFILES = "gateway/profiles.yaml"
MOST_LINES = 15
CHECKED = ("tests/test_recordings.py", "tests/test_every_profile.py", "tests/test_provider_docs.py")
"""Where the new provider shows up by itself."""
APPENDED = (PROFILES, "docs/providers/notes.yaml")
RULES = "tests/cases/upstream_rules.yaml"


@cache
def blocks() -> dict[str, str]:
    """File -> the block that follows its name; the user's own configuration is ``providers.yaml``."""
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    section = text.partition("\n## Add a provider in ten minutes\n")[2].partition("\n## ")[0]
    found, before = {}, 0
    for block in re.finditer(r"^```\w+\n(.*?)^```$", section, re.MULTILINE | re.DOTALL):
        *_, name = re.findall(r"`([\w./-]+\.(?:yaml|json|sse))`", section[before : block.start()])
        found[name] = block[1]
        before = block.end()
    return found


def follow(copy: Path) -> None:
    """Steps 2 to 5."""
    for name, text in blocks().items():
        file = copy / name
        if name in APPENDED:
            file.write_text(file.read_text(encoding="utf-8") + text, encoding="utf-8")
        elif name == RULES:
            head, under, rest = file.read_text(encoding="utf-8").partition("\nupstreams:\n")
            file.write_text(head + under + text + rest, encoding="utf-8")
        elif name != "providers.yaml":
            file.parent.mkdir(exist_ok=True)
            file.write_text(text, encoding="utf-8")


def run(copy: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", *arguments], cwd=copy, capture_output=True, text=True, timeout=120)


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """What the steps touch, and what their result is checked with."""
    skipped = shutil.ignore_patterns("__pycache__", "e2e", "sdk", "captures", "llamacpp")
    for folder in ("gateway", "docs", "tests"):
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=skipped)
    for file in ("pyproject.toml", "CONTRIBUTING.md"):
        shutil.copy(ROOT / file, tmp_path)
    return tmp_path


def test_the_steps_lead_to_a_provider_whose_recording_passes(copy: Path) -> None:
    follow(copy)
    made = run(copy, "docs.generate_providers")
    assert made.stdout.splitlines() == ["wrote docs/providers/acme.md", "wrote docs/providers/README.md"], made.stderr
    selected = "acme or each_of_its_apis or every_provider_has_notes"
    checked = run(copy, "pytest", "-q", "-p", "no:cacheprovider", "-rA", "-k", selected, *CHECKED)
    assert checked.returncode == 0, checked.stdout
    passed = set(re.findall(r"^PASSED tests/(\S+?)$", checked.stdout, re.MULTILINE))
    for test in ("message", "folded_message", "translator_knows_the_end", "the_next_turn_takes_it_back"):
        assert f"test_recordings.py::test_{test}[acme_tool]" in passed
    assert "test_every_profile.py::test_ten_turns[acme-openai-chat-acme-2-large]" in passed
    assert "test_provider_docs.py::test_the_configurations_work[acme]" in passed


def test_it_is_as_little_as_is_said() -> None:
    files = blocks()
    assert len(files[PROFILES].splitlines()) <= MOST_LINES
    assert len(files["providers.yaml"].partition("\nmodels:")[0].splitlines()) <= MOST_LINES
    recordings = [name for name in files if name.startswith("tests/streams/")]
    assert recordings == ["tests/streams/acme/acme_tool.sse", "tests/streams/acme/acme_tool.expected.json"]
    assert {*files} - {*recordings} == {"providers.yaml", PROFILES, RULES, "docs/providers/notes.yaml"}, "no Python"


def test_the_users_own_section_says_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """Step 1 and step 2 are one provider."""
    env = {"ACME_API_KEY": "value"}
    own = loads(blocks()["providers.yaml"].encode(), "providers.yaml", env)
    profiles = (ROOT / PROFILES).read_text(encoding="utf-8") + blocks()[PROFILES]
    presets = read_presets(profiles.encode(), PROFILES)
    monkeypatch.setattr("gateway.config.built_in", lambda: presets)
    known = loads(b"providers: {acme: {}}\nmodels: {default: acme/acme-2-large}", "providers.yaml", env)
    (wanted,), (target,) = own.table.resolve("x").targets, known.table.resolve("x").targets
    assert (target.profile, target.base_url) == (wanted.profile, wanted.base_url)
    assert target.provider.api_key == "value"
