"""Claude Code as tests drive it: ``claude -p``, with a home and a working folder of its own."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[2]
TURN_SECONDS = 120


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
        command = [
            str(self.binary), "-p", prompt, "--model", model, "--permission-mode", mode,
            "--output-format", "stream-json", "--verbose", *arguments,
        ]  # fmt: skip
        environment = self.environment(**extra)
        done = subprocess.run(
            command, cwd=self.work, env=environment, stdin=subprocess.DEVNULL, capture_output=True, timeout=TURN_SECONDS
        )
        lines = [line for line in done.stdout.decode().splitlines() if line.startswith("{")]
        return Session([json.loads(line) for line in lines], done.returncode, done.stderr.decode())


def binary_of(name: str) -> Path | None:
    """The client's binary: GATEWAY_E2E_CLAUDE_NEW / _OLD, or ``.e2e/NAME`` in the repository."""
    named = os.environ.get(f"GATEWAY_E2E_CLAUDE_{name.upper()}")
    path = Path(named) if named else REPOSITORY / ".e2e" / name / "node_modules" / ".bin" / "claude"
    return path if path.exists() else None
