"""A gateway on the embedded echo provider, as a process of its own, for the official SDKs."""

from __future__ import annotations

import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.e2e.processes import free_port

FOLDER = Path(__file__).parent
REPOSITORY = FOLDER.parents[1]
START_SECONDS = 20
ONE_NAME = """\
providers:
  lab: {api: echo}
models:
  sonnet: lab/echo
"""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.is_relative_to(FOLDER):
            item.add_marker(pytest.mark.sdk)


def answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(f"{url}/healthz", timeout=START_SECONDS) as response:
            return bool(response.status == 200)
    except (urllib.error.URLError, ConnectionError):
        return False


@contextmanager
def running_gateway(log_file: Path, *arguments: str) -> Iterator[str]:
    """``gateway serve`` with these arguments; yields its base URL. It must still run at the end."""
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    command = [sys.executable, "-m", "gateway", "serve", "--port", str(port), *arguments]
    with log_file.open("wb") as log:
        process = subprocess.Popen(
            command, cwd=REPOSITORY, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT
        )
    try:
        until = time.monotonic() + START_SECONDS
        while not answers(url):
            if time.monotonic() > until or process.poll() is not None:
                raise RuntimeError(f"the gateway does not answer:\n{log_file.read_text()}")
            time.sleep(0.02)
        yield url
        assert process.poll() is None, log_file.read_text()
    finally:
        process.terminate()
        process.wait(START_SECONDS)


@pytest.fixture(scope="session")
def gateway_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The demo mode: every model name is answered by echo."""
    with running_gateway(tmp_path_factory.mktemp("sdk") / "gateway.log", "--demo") as url:
        yield url


@pytest.fixture(scope="session")
def strict_gateway_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Only the name ``sonnet`` (and its family) is known."""
    folder = tmp_path_factory.mktemp("sdk-strict")
    config = folder / "providers.yaml"
    config.write_text(ONE_NAME)
    with running_gateway(folder / "gateway.log", "--config", str(config)) as url:
        yield url


@pytest.fixture(scope="session")
def installed() -> Path:
    """Where the SDKs and their tools are installed; kept between runs."""
    folder = REPOSITORY / ".e2e"
    folder.mkdir(exist_ok=True)
    return folder


@pytest.fixture(autouse=True)
def _no_ambient_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    """The SDKs read ANTHROPIC_*; nothing of the developer's may change a result."""
    for name in list(os.environ):
        if name.startswith("ANTHROPIC_"):
            monkeypatch.delenv(name)
