"""What users install (O9): how much it is, that it is pinned, and that a release looks at it."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
MOST = 16
"""DESIGN's limit. The promise says 13; aiohttp alone brings ten."""


def pinned(name: str) -> dict[str, int]:
    """Distribution -> how many hashes its pin has."""
    text = re.sub(r"\\\n\s*", " ", (ROOT / "requirements" / name).read_text(encoding="utf-8"))
    lines = [line for line in text.splitlines() if line and not line.lstrip().startswith("#")]
    return {line.split("==")[0]: line.count("--hash=sha256:") for line in lines}


def test_what_users_install_is_little_and_pinned() -> None:
    run = pinned("run.txt")
    assert 8 <= len(run) <= MOST
    assert all(run.values())


def made_by(target: str) -> str:
    """The commands of ``make target``."""
    if shutil.which("make") is None:
        pytest.skip("make is not installed")
    command = ["make", "--dry-run", "--no-print-directory", target]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout


def test_a_release_is_audited_and_listed() -> None:
    audit, sbom = made_by("audit"), made_by("sbom")
    assert re.search(r"pip-audit --strict --require-hashes .*-r requirements/run\.txt", audit.replace("\\\n", ""))
    assert re.search(r"install --require-hashes --no-deps -r requirements/run\.txt", sbom)
    assert re.search(r"cyclonedx-py environment .*dist/\S+\.cdx\.json", sbom.replace("\\\n", ""))
    for commands in (audit, sbom):
        assert not re.search(r"pip\b.* install (?!.*--require-hashes)", commands), "everything comes by hash"
    tools = pinned("release.txt")
    assert {"pip-audit", "cyclonedx-bom"} <= set(tools)
    assert all(tools.values())
