"""Claude Code as tests drive it: ``claude -p``, with a home and a working folder of its own."""

from __future__ import annotations

import json
import os
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

REPOSITORY = Path(__file__).resolve().parents[2]
TURN_SECONDS = 120
END_SECONDS = 10


@dataclass(frozen=True, slots=True)
class Session:
    """What one ``claude -p`` printed, from ``--output-format stream-json``."""

    events: list[dict[str, Any]]
    exit_code: int
    stderr: str

    @property
    def result(self) -> dict[str, Any]:
        """The closing ``result`` event."""
        results = [event for event in self.events if event["type"] == "result"]
        assert results, f"no result event; exit {self.exit_code}; stderr: {self.stderr}"
        return results[-1]

    @property
    def answer(self) -> str:
        """The final text. Fails unless the session says that it succeeded."""
        result = self.result
        assert (result["subtype"], result["is_error"]) == ("success", False), result
        answer: str = result["result"]
        return answer

    def blocks(self, role: str, kind: str) -> Iterator[dict[str, Any]]:
        """All content blocks of one type in the messages of one role, subagents' included."""
        for event in self.events:
            if event["type"] == role and isinstance(event["message"]["content"], list):
                yield from (block for block in event["message"]["content"] if block["type"] == kind)

    def texts(self) -> list[str]:
        """Every text block that the model gave."""
        return [block["text"] for block in self.blocks("assistant", "text")]

    def tool_results(self) -> list[dict[str, Any]]:
        return list(self.blocks("user", "tool_result"))


@dataclass(frozen=True, slots=True)
class ClaudeCode:
    """One version of the client in one home folder."""

    name: str
    """``new`` or ``old``."""
    binary: Path
    folder: Path
    """The working folder, ``folder/work``, and the home, ``folder/home``, are made in it."""
    gateway_url: str
    extra: Mapping[str, str] = field(default_factory=dict)

    @property
    def work(self) -> Path:
        """The resolved working folder."""
        return (self.folder / "work").resolve()

    def environment(self, **extra: str) -> dict[str, str]:
        """A clean environment: nothing of the user's own configuration or keys gets in."""
        home = self.folder / "home"
        for path in (self.work, home / ".claude"):
            path.mkdir(parents=True, exist_ok=True)
        return {
            "PATH": os.environ["PATH"],
            "LANG": "C.UTF-8",
            "TERM": "xterm-256color",
            "HOME": str(home),
            "CLAUDE_CONFIG_DIR": str(home / ".claude"),
            "ANTHROPIC_BASE_URL": self.gateway_url,
            "ANTHROPIC_AUTH_TOKEN": "x",
            "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
            "DISABLE_AUTOUPDATER": "1",
            # The client refuses to skip its permission questions as root unless it is told of a sandbox.
            "IS_SANDBOX": "1",
            **self.extra,
            **extra,
        }

    def run(
        self, prompt: str, *arguments: str, mode: str = "bypassPermissions", model: str = "sonnet", **extra: str
    ) -> Session:
        """``claude -p PROMPT``; ``extra`` are environment variables."""
        with self.start(prompt, *arguments, mode=mode, model=model, **extra) as running:
            return running.finished()

    def start(
        self, prompt: str, *arguments: str, mode: str = "bypassPermissions", model: str = "sonnet", **extra: str
    ) -> Running:
        """The same, while it runs."""
        command = [
            str(self.binary), "-p", prompt, "--model", model, "--permission-mode", mode,
            "--output-format", "stream-json", "--verbose", *arguments,
        ]  # fmt: skip
        return Running(command, self.environment(**extra), self.work)


class Running:
    """A ``claude -p`` under way. Leaving ends it."""

    def __init__(self, command: list[str], environment: Mapping[str, str], folder: Path) -> None:
        self._until = time.monotonic() + TURN_SECONDS
        self._process = subprocess.Popen(
            command, cwd=folder, env=environment,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip
        self._events: list[dict[str, Any]] = []
        self._stderr = b""
        self._news = threading.Condition()
        self._readers = [threading.Thread(target=read, daemon=True) for read in (self._read_events, self._read_stderr)]
        for reader in self._readers:
            reader.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.kill()
        self._process.wait()
        for reader in self._readers:
            # A tool that the client left behind may hold the other end.
            reader.join(END_SECONDS)

    def wait_for(self, holds: Callable[[list[dict[str, Any]]], object]) -> None:
        """Returns once ``holds`` is true of the events so far. Raises AssertionError when they end or take too long."""
        with self._news:
            while not holds(self._events):
                assert self._readers[0].is_alive(), self._events[-3:]
                assert time.monotonic() < self._until, self._events[-3:]
                self._news.wait(1.0)

    def ended(self) -> bool:
        return self._process.poll() is not None

    def finished(self) -> Session:
        """What it printed, after its end. Raises subprocess.TimeoutExpired."""
        exit_code = self._process.wait(max(0.0, self._until - time.monotonic()))
        for reader in self._readers:
            reader.join()
        return Session(self._events, exit_code, self._stderr.decode())

    def _read_events(self) -> None:
        assert self._process.stdout is not None
        with self._process.stdout as lines:
            for line in lines:
                if line.startswith(b"{"):
                    with self._news:
                        self._events.append(json.loads(line))
                        self._news.notify_all()

    def _read_stderr(self) -> None:
        assert self._process.stderr is not None
        with self._process.stderr as stderr:
            self._stderr = stderr.read()


def shown(events: list[dict[str, Any]]) -> str:
    """What was printed of answers bit by bit: text, thoughts and arguments. For ``--include-partial-messages``."""
    deltas = [event["event"].get("delta", {}) for event in events if event["type"] == "stream_event"]
    kinds = ("text", "thinking", "partial_json")
    return "".join(delta[kind] for delta in deltas for kind in kinds if kind in delta)


def binary_of(name: str) -> Path | None:
    """The client's binary: GATEWAY_E2E_CLAUDE_NEW / _OLD, or ``.e2e/NAME`` in the repository."""
    named = os.environ.get(f"GATEWAY_E2E_CLAUDE_{name.upper()}")
    path = Path(named) if named else REPOSITORY / ".e2e" / name / "node_modules" / ".bin" / "claude"
    return path if path.exists() else None
