"""The official TypeScript SDK: typescript/messages.test.mjs, run by Node's own test runner."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

SOURCES = Path(__file__).parent / "typescript"


def installed_sdk(folder: Path) -> Path:
    """The sources with their node_modules beside them, as package-lock.json pins them."""
    lock = SOURCES / "package-lock.json"
    unchanged = (folder / "installed.json").exists() and (folder / "installed.json").read_bytes() == lock.read_bytes()
    shutil.copytree(SOURCES, folder, dirs_exist_ok=True)
    if not unchanged:
        command = ["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error"]
        ran = subprocess.run(command, cwd=folder, stdin=subprocess.DEVNULL, capture_output=True, text=True)
        assert ran.returncode == 0, f"npm ci failed:\n{ran.stdout}\n{ran.stderr}"
        shutil.copy(lock, folder / "installed.json")
    return folder


@pytest.mark.e2e
@pytest.mark.slow
@pytest.mark.skipif(not (shutil.which("node") and shutil.which("npm")), reason="needs node and npm on PATH")
def test_the_typescript_sdk(gateway_url: str, installed: Path) -> None:
    folder = installed_sdk(installed / "typescript")
    ran = subprocess.run(
        ["node", "--test", "messages.test.mjs"],
        cwd=folder,
        env={**os.environ, "GATEWAY_URL": gateway_url},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
    )
    assert ran.returncode == 0, f"{ran.stdout}\n{ran.stderr}"
