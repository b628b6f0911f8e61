"""The test suite that the Python SDK publishes in its sdist, against the gateway on the echo provider.

Both of the suite's client modes run: loose, and strict, which validates every answer against the SDK's types.
The sdist is fetched by the version and hash of requirements/dev.txt; its tools are requirements/sdk.txt.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tarfile
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import pytest
import yaml

FOLDER = Path(__file__).parent
REQUIREMENTS = FOLDER.parents[1] / "requirements"
SCOPE: dict[str, Any] = yaml.safe_load((FOLDER / "python_suite.yaml").read_text(encoding="utf-8"))


def run(*command: str | Path, **options: Any) -> None:
    ran = subprocess.run([*map(str, command)], capture_output=True, text=True, stdin=subprocess.DEVNULL, **options)
    assert ran.returncode == 0, f"{command[0]} ended with {ran.returncode}:\n{ran.stdout[-4000:]}\n{ran.stderr[-4000:]}"


def pip_of(python: str | Path) -> tuple[str, ...]:
    return str(python), "-m", "pip", "--disable-pip-version-check"


def pinned_sdk() -> tuple[str, str]:
    """The SDK's version, and its whole entry with hashes, from requirements/dev.txt."""
    text = (REQUIREMENTS / "dev.txt").read_text(encoding="utf-8")
    found = re.search(r"^anthropic==(\S+) \\\n(?:    --hash=\S+(?: \\)?\n)+", text, flags=re.MULTILINE)
    assert found, "requirements/dev.txt does not pin anthropic"
    return found[1], found[0]


def fetched_suite(folder: Path) -> Path:
    """The unpacked sdist."""
    version, entry = pinned_sdk()
    sources = folder / f"anthropic-{version}"
    if not (sources / "pyproject.toml").exists():
        folder.mkdir(parents=True, exist_ok=True)
        requirement = folder / "sdist.txt"
        requirement.write_text(entry, encoding="utf-8")
        source_only = ("--no-deps", "--no-binary", "anthropic", "--require-hashes")
        run(*pip_of(sys.executable), "download", *source_only, "-r", requirement, "-d", folder)
        with tarfile.open(folder / f"anthropic-{version}.tar.gz") as archive:
            archive.extractall(folder, filter="data")
    return sources


def suite_python(folder: Path) -> Path:
    """The interpreter of an environment that holds what the suite imports."""
    python = folder / "venv" / "bin" / "python"
    lock = REQUIREMENTS / "sdk.txt"
    installed = folder / "installed.txt"
    if not installed.exists() or installed.read_bytes() != lock.read_bytes():
        run(sys.executable, "-m", "venv", "--clear", folder / "venv")
        run(*pip_of(python), "install", "--no-deps", "--require-hashes", "-r", lock)
        installed.write_bytes(lock.read_bytes())
    return python


@pytest.mark.e2e
@pytest.mark.slow
def test_the_suite_of_the_sdist(gateway_url: str, installed: Path, tmp_path: Path) -> None:
    sources = fetched_suite(installed / "sdk")
    python = suite_python(installed / "sdk")
    report = tmp_path / "report.xml"
    unwanted = [f"--deselect={case}" for row in SCOPE["does_not_apply"] for case in row["cases"]]
    # The suite's own addopts ask for pytest-xdist; everything else in its pyproject.toml holds.
    suite = subprocess.run(
        [
            *(str(python), "-m", "pytest", "-q", "-o", "addopts=--tb=short -p tests._alias_httpx"),
            *("-p", "no:cacheprovider", f"--junit-xml={report}", *unwanted, *SCOPE["run"]),
        ],
        cwd=sources,
        env={**os.environ, "TEST_API_BASE_URL": gateway_url},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
    )
    print(suite.stdout[-6000:], suite.stderr[-2000:])
    assert suite.returncode == 0
    cases = list(ElementTree.parse(report).iter("testcase"))
    assert [case.get("name") for case in cases if len(case.findall("skipped"))] == []
    assert len(cases) >= SCOPE["at_least"]
