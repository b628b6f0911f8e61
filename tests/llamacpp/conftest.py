"""A real llama.cpp server and a gateway in front of it, each a process of its own on a free loopback port."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import pytest
from anthropic import Anthropic

from tests.e2e.processes import server_faults

FOLDER = Path(__file__).parent
REPOSITORY = FOLDER.parents[1]
INSTALLED = Path(os.environ.get("GATEWAY_E2E_LLAMACPP", REPOSITORY / ".e2e" / "llamacpp"))
SECONDS = 120
"""Until something that hangs is given up; the model is small, the machine may be busy."""

WIRES = ("openai-chat", "anthropic", "openai-responses")


def providers(url: str) -> str:
    """The gateway's configuration: a provider and a model for each API, both named like it; and one without eyes."""
    places = {wire: url if wire == "anthropic" else f"{url}/v1" for wire in WIRES}
    config = {
        "providers": {wire: {"preset": "llamacpp", "api": wire, "base_url": place} for wire, place in places.items()},
        "models": {
            **{wire: f"{wire}/smollm2" for wire in WIRES},
            **{f"{wire}-blind": {"use": f"{wire}/smollm2", "profile": {"images": False}} for wire in WIRES},
        },
    }
    return json.dumps(config)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.is_relative_to(FOLDER):
            for mark in (pytest.mark.e2e, pytest.mark.llamacpp, pytest.mark.slow):
                item.add_marker(mark)


class LlamaServer:
    """What is asked of the server itself, past the gateway."""

    def __init__(self, url: str) -> None:
        self.url = url

    def get(self, path: str) -> Any:
        with urlopen(f"{self.url}{path}", timeout=SECONDS) as answer:
            return json.load(answer)

    def post(self, path: str, body: Mapping[str, Any]) -> tuple[int, str]:
        """(status, body)."""
        request = Request(f"{self.url}{path}", json.dumps(body).encode(), {"content-type": "application/json"})
        try:
            with urlopen(request, timeout=SECONDS) as answer:
                return answer.status, answer.read().decode()
        except HTTPError as refused:
            with refused:
                return refused.code, refused.read().decode()

    def events(self, path: str, body: Mapping[str, Any]) -> list[dict[str, Any]]:
        """The payloads of a stream, without ``[DONE]``."""
        status, text = self.post(path, {**body, "stream": True})
        assert status == 200, text
        data = [line.removeprefix("data: ") for line in text.splitlines() if line.startswith("data: ")]
        return [json.loads(line) for line in data if line != "[DONE]"]

    def tokens(self, text: str) -> int:
        _, body = self.post("/tokenize", {"content": text})
        return len(json.loads(body)["tokens"])

    def busy(self) -> list[int]:
        """The slots that work."""
        return [slot["id"] for slot in self.get("/slots") if slot["is_processing"]]

    def was_stopped(self, number: int) -> bool:
        """The last answer of this slot was to go on."""
        slot = next(slot for slot in self.get("/slots") if slot["id"] == number)
        going_on: bool = slot["next_token"][0]["has_next_token"]
        return going_on

    @property
    def context(self) -> int:
        """Tokens for one conversation: what one slot holds."""
        size: int = self.get("/slots")[0]["n_ctx"]
        return size


@contextmanager
def listening(command: list[str], log: Path, **variables: str) -> Iterator[str]:
    """A process that tells on stdout where it listens; yields the address. It must still run at the end."""
    with log.open("wb") as err:
        process = subprocess.Popen(
            command,
            cwd=REPOSITORY,
            env={**os.environ, "PYTHONUNBUFFERED": "1", **variables},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=err,
        )
    assert process.stdout is not None
    watchdog = threading.Timer(SECONDS, process.kill)
    watchdog.start()
    try:
        said = next((line for line in iter(process.stdout.readline, b"") if b" listens on " in line), None)
        watchdog.cancel()
        assert said is not None, f"it does not listen:\n{log.read_text(errors='replace')}"
        # What it still says is read to the end, so that it never waits for a reader.
        drain = threading.Thread(target=process.stdout.read, daemon=True)
        drain.start()
        yield said.decode().split(" listens on ")[1].split()[0]
        assert process.poll() is None, log.read_text(errors="replace")
    finally:
        watchdog.cancel()
        process.terminate()
        try:
            process.wait(SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            raise
        process.stdout.close()


@pytest.fixture(scope="session")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LlamaServer]:
    if not (INSTALLED / "xllamacpp").is_dir():
        pytest.skip("no llama.cpp server: run `make llamacpp`, or set GATEWAY_E2E_LLAMACPP")
    command = [sys.executable, str(FOLDER / "server.py"), "--test"]
    log = tmp_path_factory.mktemp("llamacpp") / "server.log"
    with listening(command, log, PYTHONPATH=str(INSTALLED)) as url:
        yield LlamaServer(url)


@pytest.fixture(scope="session")
def gateway_url(llama: LlamaServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("gateway")
    config = folder / "providers.yaml"
    config.write_text(providers(llama.url), encoding="utf-8")
    config.chmod(0o600)
    command = [sys.executable, "-m", "gateway", "serve", "--port", "0", "--config", str(config)]
    log = folder / "gateway.log"
    with listening(command, log) as url:
        yield url
    assert server_faults(log.read_text(errors="replace")) == []


@pytest.fixture(params=WIRES)
def wire(request: pytest.FixtureRequest) -> str:
    """The API that the gateway speaks to llama.cpp; also the name of a model that goes there."""
    name: str = request.param
    return name


@pytest.fixture
def client(gateway_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Anthropic]:
    """The official SDK, which checks every field of an answer; it retries nothing."""
    for name in [name for name in os.environ if name.startswith("ANTHROPIC_")]:
        monkeypatch.delenv(name)
    with Anthropic(
        base_url=gateway_url, api_key="x", max_retries=0, timeout=SECONDS, _strict_response_validation=True
    ) as client:
        yield client
