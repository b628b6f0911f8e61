"""A session of the real Claude Code outlives what happens around it: restarts, a reload, a target that fails.

Each test ends with the exact files, the answer once, and what every upstream was asked; what an upstream refused, and
reasoning that reached another than its own, fails the test (the ``upstream`` fixture). What a tool does is appended to
a file, so that whatever is done twice can be seen there.
"""

from __future__ import annotations

import asyncio
import errno
import os
import shlex
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.e2e import switch_route
from tests.e2e.claude_code import TURN_SECONDS, ClaudeCode, Running, Session, shown
from tests.e2e.processes import GatewayProcess, ServerFront, UpstreamThread, lane_model, server_faults
from tests.e2e.signing_upstream import EVERY_LANE
from tests.e2e.test_sessions import POEM, check_answer, check_turns, check_usage, turns
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

    def give_up(self) -> None:
        """Ends a tool that still waits."""
        descriptor = self._opened()
        if descriptor is not None:
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


@pytest.fixture
def gates(tmp_path: Path) -> Iterator[list[Gate]]:
    made = [Gate(tmp_path, name) for name in ("second", "third")]
    yield made
    for gate in made:
        gate.give_up()


def log_of(client: ClaudeCode) -> Path:
    """The file to which tools append."""
    return client.work / "log.txt"


def noting(client: ClaudeCode, source: str | Path) -> Call:
    """A call that appends a word, or what is read from a gate."""
    read = f"cat {shlex.quote(str(source))}" if isinstance(source, Path) else f"echo {source}"
    return Call("Bash", {"command": f"{read} >> {shlex.quote(str(log_of(client)))}", "description": "Note it"})


def write(path: Path, content: str) -> Call:
    return Call("Write", {"file_path": str(path), "content": content})


def thought(number: int, *parts: Text | Call, **options: Any) -> Reply:
    """A reply after a thought of its own."""
    return Reply((Think(f"Thought {number} — 🎉, of what is to be done."), *parts), **options)


def thoughts(*replies: Reply) -> list[str]:
    return [reply.reasoning() for reply in replies]


def shown_thoughts(session: Session) -> list[str]:
    return [block["thinking"] for block in session.blocks("assistant", "thinking")]


def asked(upstream: ScriptedUpstream, name: str) -> list[tuple[str, int, int]]:
    """(lane, step, status) of what was asked, in order."""
    return [(seen.lane, seen.step, seen.status) for seen in turns(upstream, name)]


def told(seen: Seen) -> str:
    return dump(seen.body)


def conversation(seen: Seen) -> object:
    """The messages of a request."""
    return seen.body["input" if "input" in seen.body else "messages"]


def thoughts_in(seen: Seen, answers: list[Reply]) -> list[int]:
    """Whose thoughts, by their places, a request holds."""
    return [
        at for at, answer in enumerate(answers) if answer.reasoning() and dump(answer.reasoning())[1:-1] in told(seen)
    ]


# -- an upstream that dies -------------------------------------------------------------------------------


def middle(text: str) -> str:
    """What an answer's stream holds of its sixth fragment of ``text``."""
    return dump(pieces(text, FRAGMENT)[5])[1:-1]


@pytest.fixture
def front(upstream_thread: UpstreamThread) -> Iterator[ServerFront]:
    front = ServerFront(upstream_thread.url)
    yield front
    front.kill()


def killed_in_mid_answer(
    client: ClaudeCode, front: ServerFront, mark: str, begun: str, model: str, *, ends: bool = False
) -> Session:
    """The server gets stuck at ``mark``, is killed once the client shows ``begun``, and refuses before it is back.

    Unless the client ``ends`` at once.
    """
    front.start(mark)
    with GatewayProcess(client.folder, front.url) as gateway:
        client = replace(client, gateway_url=gateway.url)
        with client.start("work [[s:work]]", PARTIAL, model=model) as running:
            running.wait_for(lambda events: begun in shown(events))
            front.kill()
            if not ends:
                gateway.wait_until_logged("could not reach")
                front.start()
            session = running.finished()
    assert server_faults(gateway.log()) == []
    return session


@pytest.mark.parametrize("lane", ["deepseek", "openai", "claude"])
@pytest.mark.parametrize("cut", ["text", "call"])
def test_an_upstream_restarts_in_mid_answer(
    client: ClaudeCode, upstream: ScriptedUpstream, front: ServerFront, lane: str, cut: str
) -> None:
    """In the middle of a text, or of a call's arguments: the client asks again, and nothing is done twice."""
    poem = write(client.work / "poem.txt", LONG_POEM)
    cut_off: dict[str, tuple[Text | Call, str]] = {
        "text": (Text(LONG), LONG),
        "call": (poem, dump(poem.arguments)),
    }
    part, text = cut_off[cut]
    broken = Reply((part,), fragment=FRAGMENT)
    rest = [thought(2, Text("All is there."))] if cut == "call" else []
    answers = [thought(0, noting(client, "first")), broken, *rest]
    upstream.scenarios["work"] = answers
    session = killed_in_mid_answer(client, front, middle(text), text[:FRAGMENT], lane_model(lane))
    check_answer(session, answers[-1].content())
    assert session.texts() == [answers[-1].content()]
    assert shown_thoughts(session) == thoughts(answers[0], *rest)
    assert len(session.tool_results()) == len(answers) - 1
    assert log_of(client).read_bytes() == b"first\n"
    if cut == "call":
        assert (client.work / "poem.txt").read_bytes() == LONG_POEM.encode()
    assert asked(upstream, "work") == [(lane, step, 200) for step in (0, 1, 1, 2)[: len(answers) + 1]]
    # What it has used is the client's own reckoning: the newest counts the lost answer, the old one not even the other.
    _, lost, again, *_ = turns(upstream, "work")
    assert conversation(again) == conversation(lost)


@pytest.mark.parametrize("lane", ["deepseek", "claude"])
def test_an_upstream_restarts_after_a_thought(
    client: ClaudeCode, upstream: ScriptedUpstream, front: ServerFront, lane: str
) -> None:
    """A client that has a whole block repeats nothing: the newest goes on by itself, the old one when it is told to."""
    poem = write(client.work / "poem.txt", LONG_POEM)
    broken = thought(1, poem, fragment=FRAGMENT)
    answers = [thought(0, noting(client, "first")), broken, thought(2, Text("All is there."))]
    upstream.scenarios["work"] = answers
    upstream.scenarios["on"] = [Reply((poem,)), answers[-1]]
    mark, model = middle(dump(poem.arguments)), lane_model(lane)
    old = client.name == "old"
    session = killed_in_mid_answer(client, front, mark, '{"file_path"', model, ends=old)
    if old:
        assert session.result["is_error"] is True
        assert session.result["result"].startswith(f"API Error: {lane} ")
        assert not (client.work / "poem.txt").exists()
        session = client.run("go on [[s:on]]", "--continue", model=model)
    check_answer(session, "All is there.")
    assert session.texts() == ["All is there."]
    assert (client.work / "poem.txt").read_bytes() == LONG_POEM.encode()
    assert log_of(client).read_bytes() == b"first\n"
    steps = [("work", 0), ("work", 1), *([("on", 0), ("on", 1)] if old else [("work", 1), ("work", 2)])]
    assert [(seen.scenario, seen.step) for seen in upstream.seen] == steps
    assert {(seen.lane, seen.status) for seen in upstream.seen} == {(lane, 200)}


# -- a reload --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("deepseek", "claude"), ("claude", "deepseek"), ("openai", "claude"), ("claude", "openai"),
        ("deepseek", "skin"), ("skin", "claude"),
    ],
)  # fmt: skip
def test_a_reload_between_two_turns(
    client: ClaudeCode, upstream: ScriptedUpstream, upstream_thread: UpstreamThread, gates: list[Gate],
    first: str, second: str,
) -> None:  # fmt: skip
    """The file is saved while a tool runs: the second model goes on where the first one was, without its thoughts."""
    path, gate = client.work / "poem.txt", gates[0]
    answers = [
        thought(0, Text("I will write."), write(path, POEM)),
        thought(1, noting(client, gate.path)),
        thought(2, noting(client, "third")),
        thought(3, Text("All is there.")),
    ]
    upstream.scenarios["work"] = answers
    with GatewayProcess(client.folder, upstream_thread.url) as gateway:
        client = replace(client, gateway_url=gateway.url)
        move(gateway, first)
        with client.start("work [[s:work]]") as running:
            with gate.held(running):
                move(gateway, second)
            session = running.finished()
    assert server_faults(gateway.log()) == []
    check_answer(session, "All is there.")
    assert session.texts() == ["I will write.", "All is there."]
    assert shown_thoughts(session) == thoughts(*answers)
    assert path.read_bytes() == POEM.encode()
    assert log_of(client).read_bytes() == b"second\nthird\n"
    assert asked(upstream, "work") == [(first, 0, 200), (first, 1, 200), (second, 2, 200), (second, 3, 200)]
    seen = turns(upstream, "work")
    assert all("I will write." in told(item) for item in seen[1:])
    assert [thoughts_in(item, answers) for item in seen] == [[], [0], [], [2]]
    check_usage(session, seen)


def move(gateway: GatewayProcess, lane: str) -> None:
    """``sonnet`` goes to a lane; the file is edited, and followed by the gateway."""
    switch_route.main(str(gateway.config_file), gateway.url, "sonnet", target(lane))


def target(lane: str) -> str:
    return f"{lane}/{EVERY_LANE[lane].model}"


# -- a target that fails ---------------------------------------------------------------------------------

FAILED = Refuse(500, {"message": "The server had an error.", "type": "server_error", "param": None, "code": None})


@pytest.mark.parametrize(
    ("first", "second", "refusal", "status"),
    [
        ("lab", "claude", FAILED, 500),
        ("deepseek", "claude", Trouble("busy"), 503),
        ("claude", "deepseek", Trouble("busy"), 529),
        ("dead", "openai", None, 0),
    ],
    ids=["500", "503", "529", "refused"],
)
def test_a_fallback_in_the_first_turn(
    client: ClaudeCode, upstream: ScriptedUpstream, upstream_thread: UpstreamThread,
    first: str, second: str, refusal: Refuse | Trouble | None, status: int,
) -> None:  # fmt: skip
    """The first target fails in two turns, and is back in the third: then it goes on where the second was."""
    path = client.work / "poem.txt"
    answers = [
        thought(0, Text("I will write."), write(path, POEM)),
        thought(1, noting(client, "second")),
        Reply((noting(client, "third"),)),
        Reply((Text("All is there."),)),
    ]
    # Each target is asked twice (gateway/resilience/attempts.py).
    sick = [(refusal, refusal, answer) if refusal else answer for answer in answers[:2]]
    upstream.scenarios["work"] = [*sick, *answers[2:]]
    named = {"lab": "lab/lab-sonnet", "dead": "dead/dead"}.get(first) or target(first)
    gateway = GatewayProcess(client.folder, upstream_thread.url)
    text = gateway.config_file.read_text()
    gateway.config_file.write_text(
        text.replace("  sonnet: lab/lab-sonnet\n", f"  sonnet: [{named}, {target(second)}]\n")
    )
    with gateway:
        session = replace(client, gateway_url=gateway.url).run("work [[s:work]]")
    assert server_faults(gateway.log()) == []
    answered = [line for line in gateway.log().splitlines() if " stop=" in line]
    assert [" ok " in line for line in answered] == [True] * 4, "the client had to ask again"
    check_answer(session, "All is there.")
    assert session.texts() == ["I will write.", "All is there."]
    assert shown_thoughts(session) == thoughts(*answers[:2])
    assert path.read_bytes() == POEM.encode()
    assert log_of(client).read_bytes() == b"second\nthird\n"
    first = "" if first == "lab" else first
    tried = [[(first, step, status)] * 2 if refusal else [] for step in range(2)]
    back = first if refusal else second
    assert asked(upstream, "work") == [
        *tried[0], (second, 0, 200), *tried[1], (second, 1, 200), (back, 2, 200), (back, 3, 200)
    ]  # fmt: skip
    seen = [item for item in turns(upstream, "work") if item.status == 200]
    in_the_end = [] if refusal else [0, 1]
    assert [thoughts_in(item, answers) for item in seen] == [[], [0], in_the_end, in_the_end]
    check_usage(session, seen)


# -- a new version of the gateway ------------------------------------------------------------------------


@pytest.mark.skipif(sys.platform != "linux", reason="SO_REUSEPORT spreads on Linux alone")
@pytest.mark.parametrize("gone", [True, False], ids=["gone", "leaving"])
def test_a_rolling_restart(
    client: ClaudeCode, upstream: ScriptedUpstream, upstream_thread: UpstreamThread, gates: list[Gate], gone: bool
) -> None:
    """A gateway leaves while a tool runs, the next one in the middle of its answer: nothing is asked twice."""
    hold = asyncio.Event()
    answers = [
        thought(0, noting(client, "first")),
        thought(1, noting(client, gates[0].path)),
        thought(2, noting(client, gates[1].path), hold=hold),
        thought(3, Text("All is there.")),
    ]
    upstream.scenarios["work"] = answers
    upstream.reasoning = "reasoning_content"

    def gateway(name: str, port: int | None = None) -> GatewayProcess:
        return GatewayProcess(client.folder / name, upstream_thread.url, "--reuse-port", port=port)

    with ExitStack() as stack:
        one = stack.enter_context(gateway("one"))
        running = stack.enter_context(replace(client, gateway_url=one.url).start("work [[s:work]]", PARTIAL))
        with gates[0].held(running):
            two = stack.enter_context(gateway("two", one.port))
            one.terminate()
            leave(one, gone)
        running.wait_for(lambda events: answers[2].reasoning() in shown(events))
        three = stack.enter_context(gateway("three", one.port))
        two.terminate()
        leave(two, False)
        upstream_thread.release(hold)
        with gates[1].held(running):
            leave(two, gone)
        session = running.finished()
        assert [one.exit_status(), two.exit_status()] == [0, 0]
    served = [each.log().count(" ok ") for each in (one, two, three)]
    assert served == [2, 1, 1] if gone else sum(served) == 4
    assert [fault for each in (one, two, three) for fault in server_faults(each.log())] == []
    check_answer(session, "All is there.")
    assert shown_thoughts(session) == thoughts(*answers)
    assert log_of(client).read_bytes() == b"first\nsecond\nthird\n"
    assert asked(upstream, "work") == [("", step, 200) for step in range(4)]
    check_turns(session, turns(upstream, "work"))


def leave(gateway: GatewayProcess, gone: bool) -> None:
    """Returns when it begins to stop, or is ``gone``."""
    gateway.wait_until_logged("stopping: ")
    if gone:
        assert gateway.exit_status() == 0
