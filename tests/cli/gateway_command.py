"""``gateway`` as its users meet it: a process of its own, with an environment of its own."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO
from urllib.error import URLError
from urllib.request import Request, urlopen

import orjson

ROOT = Path(__file__).resolve().parents[2]
SECONDS = 20
GATEWAY = (sys.executable, "-m", "gateway")


def environment(**variables: str) -> dict[str, str]:
    """What a process needs to run at all, and ``variables``; no key and no setting of the machine's."""
    needed = {name: os.environ[name] for name in ("PATH", "SYSTEMROOT", "COVERAGE_PROCESS_START") if name in os.environ}
    return {**needed, "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1", **variables}


def run(*arguments: str, cwd: Path, env: Mapping[str, str] | None = None, data: bytes = b"") -> Ended:
    """A command that is expected to end by itself."""
    command, variables = [*GATEWAY, *arguments], environment(**(env or {}))
    ended = subprocess.run(command, cwd=cwd, env=variables, input=data, capture_output=True, timeout=SECONDS)
    return Ended(ended.returncode, ended.stdout.decode(), ended.stderr.decode())


@dataclass(frozen=True)
class Ended:
    """How it ended and what it said."""

    status: int
    out: str
    err: str


@dataclass
class Serving:
    """A gateway that runs."""

    process: subprocess.Popen[bytes]
    out: list[str] = field(default_factory=list)
    """The lines of stdout so far, as far as somebody waited for them."""
    err: list[str] = field(default_factory=list)
    url: str = ""

    def wait_for(self, pattern: str) -> str:
        """The next line of stdout that ``pattern`` is found in. Fails when the output ends before."""
        assert self.process.stdout is not None
        for line in iter(self.process.stdout.readline, b""):
            self.out.append(line.decode("utf-8", "replace").rstrip("\n"))
            if re.search(pattern, self.out[-1]):
                return self.out[-1]
        raise AssertionError(f"no line with {pattern!r} in {self.out}; stderr: {self.err}")

    def ask(self, prompt: str = "say hi", model: str = "sonnet") -> str:
        """The text of one answer."""
        body = {"model": model, "max_tokens": 99, "messages": [{"role": "user", "content": prompt}]}
        with urlopen(Request(f"{self.url}/v1/messages", orjson.dumps(body)), timeout=SECONDS) as response:
            answer = orjson.loads(response.read())
        return str(answer["content"][0]["text"])

    def wait_until_it_listens(self) -> None:
        """For one that cannot say so. Until then the operating system refuses connections."""
        while self.process.poll() is None:
            try:
                with urlopen(f"{self.url}/readyz", timeout=SECONDS):
                    return
            except URLError:
                os.sched_yield()
        raise AssertionError(f"it ended with status {self.process.returncode}: {self.err}")

    def stop(self) -> int:
        """The exit status after a polite signal."""
        self.process.terminate()
        return self.process.wait(SECONDS)


@contextmanager
def serving(
    *arguments: str,
    cwd: Path,
    env: Mapping[str, str] | None = None,
    port: int = 0,
    heard: bool = True,
    patience: float = SECONDS,
) -> Iterator[Serving]:
    """``gateway serve``, once it listens. Unless ``heard``, its output goes to pipes that nobody reads any more.

    A watchdog ends what hangs for longer than ``patience``.
    """
    command = [*GATEWAY, "serve", "--port", str(port), *arguments]
    process = subprocess.Popen(
        command,
        cwd=cwd,
        env=environment(**(env or {})),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdout is not None
    assert process.stderr is not None
    gateway = Serving(process, url=f"http://127.0.0.1:{port}")
    if not heard:
        process.stdout.close()
        process.stderr.close()
    reader = threading.Thread(target=_collect, args=(process.stderr, gateway.err))
    if heard:
        reader.start()
    watchdog = threading.Timer(patience, process.kill)
    watchdog.start()
    try:
        if heard:
            gateway.url = gateway.wait_for(" listens on ").split()[4]
        yield gateway
    finally:
        watchdog.cancel()
        if process.poll() is None:
            process.kill()
        process.wait(SECONDS)
        if heard:
            reader.join(SECONDS)
            process.stdout.close()
            process.stderr.close()


def _collect(stream: IO[bytes], lines: list[str]) -> None:
    lines.extend(line.decode("utf-8", "replace").rstrip("\n") for line in stream)


def written(folder: Path, text: str, name: str = "providers.yaml") -> str:
    """A configuration file that only its owner reads."""
    file = folder / name
    file.write_text(text, encoding="utf-8")
    file.chmod(0o600)
    return str(file)
