"""What runs around Claude Code: the scripted upstream in a thread, the gateway as a process of its own."""

from __future__ import annotations

import asyncio
import json
import os
import re
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import TracebackType
from typing import Self
from urllib.request import Request, urlopen

from aiohttp import ClientSession, web

from tests.e2e.signing_upstream import EVERY_LANE, SigningUpstream
from tests.fakes.openai_upstream import KEY

PROVIDERS = """\
providers:
  lab:
    api: openai-chat
    base_url: {url}/v1
    api_key: "${{LAB_KEY}}"
    profile: {{mid_system: system, pdf: file}}
  bare:
    api: openai-chat
    base_url: {url}/v1
    api_key: "${{LAB_KEY}}"
  dead: {{api: openai-chat, base_url: "http://127.0.0.1:1/v1"}}
  keyless: {{api: openai-chat, base_url: {url}/v1, api_key: "${{LAB_NO_SUCH_KEY}}"}}
{lanes}
models:
  bare: bare/bare
  dead: dead/dead
  keyless: keyless/keyless
  sonnet: lab/lab-sonnet
  opus: lab/lab-opus
  haiku: lab/lab-haiku
  fable: lab/lab-fable
  default: lab/lab-default
{lane_models}
"""
START_SECONDS = 20
REPOSITORY = Path(__file__).resolve().parents[2]
SERVER_FRONT = Path(__file__).with_name("server_front.py")


def lane_model(name: str) -> str:
    """The model by which clients ask for a lane; Claude Code takes it for the newest of its own."""
    return f"claude-sonnet-5-5-{name}"


def providers_yaml(url: str) -> str:
    """Plain Chat Completions, and every lane by its preset: all that a user says is the address and the key."""
    providers, models = [], []
    for lane in EVERY_LANE.values():
        fields = [f"preset: {lane.provider}", f"base_url: {url}/{lane.name}{lane.base}"]
        fields += ["api: anthropic"] if lane.api == "anthropic" else []
        fields += ['api_key: "${LAB_KEY}"'] if lane.key_header else []
        providers.append(f"  {lane.name}: {{{', '.join(fields)}}}")
        models.append(f"  {lane_model(lane.name)}: {lane.name}/{lane.model}")
    return PROVIDERS.format(url=url, lanes="\n".join(providers), lane_models="\n".join(models))


class UpstreamThread:
    """Serves a SigningUpstream on a free loopback port, in an event loop of its own."""

    def __init__(self) -> None:
        self.upstream = SigningUpstream()
        self.url = ""
        self._loop = asyncio.new_event_loop()
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        if not self._ready.wait(START_SECONDS):
            raise RuntimeError("the scripted upstream did not start")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(START_SECONDS)

    def release(self, hold: asyncio.Event) -> None:
        """Lets an answer that waits for ``hold`` go on."""
        self._loop.call_soon_threadsafe(hold.set)

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        runner = web.AppRunner(self.upstream.app(), shutdown_timeout=0, handler_cancellation=True)
        self._loop.run_until_complete(runner.setup())
        site = web.TCPSite(runner, "127.0.0.1", 0)
        self._loop.run_until_complete(site.start())
        host, port = runner.addresses[0][:2]
        self.url = f"http://{host}:{port}"
        self._ready.set()
        self._loop.run_forever()
        self._loop.run_until_complete(runner.cleanup())
        self._loop.close()


class ServerFront:
    """The process that clients of an upstream know as its server (server_front.py). It can be killed and started."""

    def __init__(self, upstream_url: str) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._upstream_port = upstream_url.rpartition(":")[2]
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, mark: str = "") -> None:
        """Where there is a ``mark``, an answer gets stuck right after it."""
        command = [sys.executable, str(SERVER_FRONT), str(self.port), self._upstream_port, mark]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE)
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == b"listens\n"

    def kill(self) -> None:
        """SIGKILL; returns when the process is gone."""
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
            self._process = None


class GatewayProcess:
    """``gateway serve OPTIONS`` on ``port``, or a free one, of the loopback interface; its log in a file."""

    def __init__(self, folder: Path, upstream_url: str, *options: str, port: int | None = None) -> None:
        folder.mkdir(exist_ok=True)
        self.port = port or free_port()
        self._options = options
        self.url = f"http://127.0.0.1:{self.port}"
        self.log_file = folder / "gateway.log"
        self.config_file = folder / "providers.yaml"
        self.config_file.write_text(providers_yaml(upstream_url))
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        command = [*_command(), "serve", "--config", str(self.config_file), "--port", str(self.port), *self._options]
        environment = {**os.environ, "LAB_KEY": KEY, "PYTHONUNBUFFERED": "1"}
        with self.log_file.open("wb") as log:
            self._process = subprocess.Popen(
                command, cwd=REPOSITORY, env=environment, stdout=log, stderr=subprocess.STDOUT
            )
        asyncio.run(self._answering())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._process is not None
        self.terminate()
        try:
            self.exit_status()
        except subprocess.TimeoutExpired:
            self._process.kill()
            raise

    def terminate(self) -> None:
        """SIGTERM, unless it has ended already."""
        assert self._process is not None
        self._process.terminate()

    def exit_status(self) -> int:
        """Waits for the end."""
        assert self._process is not None
        return self._process.wait(START_SECONDS)

    async def _answering(self) -> None:
        assert self._process is not None
        until = time.monotonic() + START_SECONDS
        async with ClientSession() as session:
            while time.monotonic() < until and self._process.poll() is None:
                try:
                    # Another gateway may have answered already where the port is shared.
                    if self.url in self.log():
                        async with session.get(f"{self.url}/healthz") as response:
                            if response.status == 200:
                                return
                except OSError:
                    pass
                await asyncio.sleep(0.05)
        raise RuntimeError(f"the gateway does not answer:\n{self.log()}")

    def wait_until_served_by(self, model: str, target: str) -> None:
        """Returns once ``model`` goes to ``target``. Raises RuntimeError with the log."""
        request = Request(f"{self.url}/v1/models/{model}", headers={"anthropic-version": "2023-06-01"})
        until = time.monotonic() + START_SECONDS
        while time.monotonic() < until:
            with urlopen(request, timeout=START_SECONDS) as answer:
                if target in json.load(answer)["display_name"]:
                    return
            time.sleep(0.05)
        raise RuntimeError(f"{model} does not go to {target}:\n{self.log()}")

    def wait_until_logged(self, text: str) -> None:
        """Raises RuntimeError with the log."""
        until = time.monotonic() + START_SECONDS
        while text not in self.log():
            if time.monotonic() > until:
                raise RuntimeError(f"the log never says {text!r}:\n{self.log()}")
            time.sleep(0.02)

    def log(self, start: int = 0) -> str:
        """The log from a byte offset on."""
        return self.log_file.read_bytes()[start:].decode(errors="replace")


def server_faults(log: str) -> list[str]:
    """The lines that tell of a defect of the gateway's own."""
    return [line for line in log.splitlines() if re.search(r"Traceback|a defect of the gateway|never awaited", line)]


def _command() -> list[str]:
    """GATEWAY_E2E_COMMAND replaces the gateway under test, e.g. by an installed one."""
    return os.environ.get("GATEWAY_E2E_COMMAND", f"{sys.executable} -m gateway").split()


def free_port() -> int:
    """A loopback port that was free just now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
