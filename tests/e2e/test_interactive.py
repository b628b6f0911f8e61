"""A person at a terminal: types, sees the tools run and the answer appear once, and asks again."""

from __future__ import annotations

import asyncio
import json

from tests.e2e.claude_code import ClaudeCode
from tests.e2e.terminal import Terminal
from tests.e2e.test_sessions import POEM, turns
from tests.fakes.openai_upstream import ScriptedUpstream
from tests.fakes.script import Call, Reply, Text, call, say


def typed(terminal: Terminal, text: str) -> None:
    """Types a line. Enter comes by itself, or the client takes it for a part of pasted text."""
    terminal.send(text)
    terminal.wait_for(text)
    terminal.send("\r")


def settled(claude: ClaudeCode) -> dict[str, str]:
    """The environment of a user who has been through the questions of the first start."""
    environment = claude.environment()
    project = {"hasTrustDialogAccepted": True, "hasCompletedProjectOnboarding": True}
    settings = {"hasCompletedOnboarding": True, "theme": "dark", "projects": {str(claude.work): project}}
    (claude.folder / "home" / ".claude" / ".claude.json").write_text(json.dumps(settings))
    return environment


def opened(claude: ClaudeCode) -> Terminal:
    """A terminal in which the client waits for the first prompt."""
    environment = settled(claude)
    command = [str(claude.binary), "--model", "sonnet", "--permission-mode", "default", "--allowedTools", "Bash"]
    terminal = Terminal(command, folder=claude.work, environment=environment)
    terminal.wait_for("\N{HEAVY RIGHT-POINTING ANGLE QUOTATION MARK ORNAMENT}")
    return terminal


def test_interactive_session(claude: ClaudeCode, upstream: ScriptedUpstream) -> None:
    path = claude.work / "out.txt"
    upstream.scenarios["write"] = [
        Reply((Text("I will write."), Call("Write", {"file_path": str(path), "content": POEM}))),
        call("Bash", command=f"cat '{path}'", description="Show the file"),
        say("The file is written."),
    ]
    upstream.scenarios["again"] = [say("That was all.")]
    with opened(claude) as terminal:
        typed(terminal, "write it [[s:write]]")
        terminal.confirm("Do you want to create out.txt?")
        terminal.wait_for("The file is written.")
        typed(terminal, "again [[s:again]]")
        terminal.wait_for("That was all.")
        shown = terminal.screen.everything()
    assert [shown.count(text) for text in ("I will write.", "The file is written.", "That was all.")] == [1, 1, 1]
    assert path.read_bytes() == POEM.encode()
    assert [seen.status for seen in turns(upstream, "write")] == [200, 200, 200]
    assert [seen.status for seen in turns(upstream, "again")] == [200]


def test_an_answer_that_is_interrupted(claude: ClaudeCode, upstream: ScriptedUpstream) -> None:
    """Text shows while the upstream is still holding its answer; Escape reaches the upstream."""
    upstream.scenarios["long"] = [say("First paragraph.\n\nSecond para", fragment=11, hold=asyncio.Event())]
    upstream.scenarios["again"] = [say("Still here.")]
    with opened(claude) as terminal:
        typed(terminal, "tell [[s:long]]")
        terminal.wait_for("First paragraph.")
        terminal.send("\x1b")
        terminal.wait_for("Interrupted")
        assert turns(upstream, "long")[0].left.wait(10)
        typed(terminal, "again [[s:again]]")
        terminal.wait_for("Still here.")
    assert len(turns(upstream, "long")) == 1
