"""A session of the real Claude Code outlives what happens around it: restarts, a reload, a target that fails.

Each test ends with the exact files, the answer once, and what every upstream was asked; what an upstream refused, and
reasoning that reached another than its own, fails the test (the ``upstream`` fixture). What a tool does is appended to
a file, so that whatever is done twice can be seen there.
"""

from __future__ import annotations

import asyncio
import errno
import json
import os
import shlex
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.e2e import switch_route
from tests.e2e.claude_code import TURN_SECONDS, ClaudeCode, Running, Session, shown
from tests.e2e.processes import GatewayProcess, ServerFront, UpstreamThread, lane_model, server_faults
from tests.e2e.signing_upstream import EVERY_LANE
from tests.e2e.test_sessions import POEM, check_answer, check_usage, turns
from tests.fakes.openai_upstream import ScriptedUpstream, Seen
from tests.fakes.script import Call, Refuse, Reply, Text, Think, Trouble, pieces
from tests.fakes.scripted_answers import dump

PARTIAL = "--include-partial-messages"
LONG = " ".join(f"Sentence {number} of a long answer — 🎉." for number in range(1, 25))
LONG_POEM = "".join(f"{number}: {POEM}" for number in range(1, 9))
FRAGMENT = 17


class Gate:
    """A file that a tool can read only once the test lets it: a named pipe."""

    def __init__(self, folder: Path, name: str) -> None:
        self.path = folder / name
        os.mkfifo(self.path)

    @contextmanager
    def held(self, running: Running) -> Iterator[None]:
        """The body runs while the tool waits; afterwards the tool reads the name of the gate."""
        until = time.monotonic() + TURN_SECONDS
        while (descriptor := self._opened()) is None:
            assert not running.ended(), running.finished()
            assert time.monotonic() < until
            time.sleep(0.02)
        try:
            yield
            os.write(descriptor, f"{self.path.name}\n".encode())
        finally:
            os.close(descriptor)

    def _opened(self) -> int | None:
        """The descriptor to write to, if somebody reads."""
        try:
            return os.open(self.path, os.O_WRONLY | os.O_NONBLOCK)
        except OSError as error:
            if error.errno != errno.ENXIO:
                raise
            return None


@pytest.fixture
def client(claude: ClaudeCode) -> ClaudeCode:
    """The client, its working folder made."""
    claude.environment()
    return claude


def log_of(client: ClaudeCode) -> Path:
    """The file to which tools append."""
    return client.work / "log.txt"


def noting(client: ClaudeCode, source: str | Path) -> Call:
    """A call that appends a word, or what is read from a gate."""
    read = f"cat {shlex.quote(str(source))}" if isinstance(source, Path) else f"echo {source}"
    return Call("Bash", {"command": f"{read} >> {shlex.quote(str(log_of(client)))}", "description": "Note it"})


def write(path: Path, content: str) -> Call:
    return Call("Write", {"file_path": str(path), "content": content})


def thought(*parts: Text | Call) -> Reply:
    """A reply after a thought of its own."""
    last = parts[-1]
    about = last.text if isinstance(last, Text) else dump(last.arguments)[-60:]
    return Reply((Think(f"I think — 🎉 — of: {about}"), *parts))


def thoughts(*replies: Reply) -> list[str]:
    return [reply.reasoning() for reply in replies]


def shown_thoughts(session: Session) -> list[str]:
    return [block["thinking"] for block in session.blocks("assistant", "thinking")]


def asked(upstream: ScriptedUpstream, name: str) -> list[tuple[str, int, int]]:
    """(lane, step, status) of what was asked, in order."""
    return [(seen.lane, seen.step, seen.status) for seen in turns(upstream, name)]


def told(seen: Seen) -> str:
    return json.dumps(seen.body, ensure_ascii=False)


# -- an upstream that dies -------------------------------------------------------------------------------


def middle(text: str) -> str:
    """What an answer's stream holds of its sixth fragment of ``text``."""
    return dump(pieces(text, FRAGMENT)[5])[1:-1]


def killed_in_mid_answer(
    client: ClaudeCode, front: ServerFront, gateway: GatewayProcess, model: str, begun: str
) -> Session:
    """The server is killed when the client shows ``begun``, and comes back after it refused a connection."""
    with client.start("work [[s:work]]", PARTIAL, model=model) as running:
        running.wait_for(lambda events: begun in shown(events))
        front.kill()
        gateway.wait_until_logged("could not reach")
        front.start()
        return running.finished()


@pytest.mark.parametrize("lane", ["deepseek", "skin", "openai", "claude"])
@pytest.mark.parametrize("cut", ["text", "call"])
def test_an_upstream_restarts_in_mid_answer(
    client: ClaudeCode, upstream: ScriptedUpstream, upstream_thread: UpstreamThread, lane: str, cut: str
) -> None:
    """In the middle of a text, or of the arguments of a call: the client asks again, and nothing is done twice."""
    path = client.work / "poem.txt"
    poem = write(path, LONG_POEM)
    answers = [
        thought(noting(client, "first")),
        Reply((Text(LONG),), fragment=FRAGMENT) if cut == "text" else Reply((poem,), fragment=FRAGMENT),
        thought(Text("All is there.")),
    ]
    if cut == "text":
        answers = answers[:2]
    upstream.scenarios["work"] = answers
    begun, text = (LONG[:FRAGMENT],) * 2 if cut == "text" else ('{"file_path"', dump(poem.arguments))
    front = ServerFront(upstream_thread.url)
    front.start(middle(LONG if cut == "text" else text))
    try:
        with GatewayProcess(client.folder, front.url) as gateway:
            client = replace(client, gateway_url=gateway.url)
            session = killed_in_mid_answer(client, front, gateway, lane_model(lane), begun)
            assert server_faults(gateway.log()) == []
    finally:
        front.kill()
    check_answer(session, answers[-1].content())
    assert session.texts() == [answers[-1].content()]
    assert log_of(client).read_bytes() == b"first\n"
    assert len(session.tool_results()) == len(answers) - 1
    if cut == "call":
        assert path.read_bytes() == LONG_POEM.encode()
    steps = [0, 1, 1] if cut == "text" else [0, 1, 1, 2]
    assert asked(upstream, "work") == [(lane, step, 200) for step in steps]
    seen = turns(upstream, "work")
    assert seen[1].body["messages" if lane != "openai" else "input"] is not None
