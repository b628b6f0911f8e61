"""The whole loop of Claude Code over every wire: each lane is a provider as it is, reached by its preset alone.

The upstream checks every request against what the provider documents, and that reasoning comes back in the
provider's own form, to nobody else (tests/fakes/scripted_lanes.py); the ``upstream`` fixture fails for a violation.
"""

from __future__ import annotations

import json
import shlex
import sys
from base64 import b64encode
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.claude_code import ClaudeCode
from tests.e2e.processes import GatewayProcess, UpstreamThread, lane_model, server_faults
from tests.e2e.test_sessions import POEM, check_answer, check_usage, turns
from tests.fakes import scripted_requests
from tests.fakes.openai_upstream import ScriptedUpstream, Seen
from tests.fakes.script import Call, Reply, Text, Think, Trouble, say
from tests.fakes.scripted_lanes import LANES, Lane

SWITCH = Path(__file__).with_name("switch_route.py")
LONG = "A long answer that tells of many things. " * 8
MARKS = ("cache_control", "prompt_cache_breakpoint")


@pytest.fixture(params=["new"])
def newest(request: pytest.FixtureRequest, claude_of: Callable[[str], ClaudeCode]) -> ClaudeCode:
    # A client that tries for minutes would hide for minutes what is wrong.
    return replace(claude_of(request.param), extra={"CLAUDE_CODE_MAX_RETRIES": "2"})


@pytest.fixture(params=LANES.values(), ids=list(LANES))
def lane(request: pytest.FixtureRequest) -> Lane:
    found: Lane = request.param
    return found


def history(seen: Seen) -> list[Any]:
    """The conversation in a request, without cache marks: those move on with each request."""
    told = seen.body["input"] if "input" in seen.body else [*seen.body.get("system", ()), *seen.body["messages"]]
    kept: list[Any] = without_marks(told)
    return kept


def without_marks(value: Any) -> Any:
    if isinstance(value, list):
        return [without_marks(item) for item in value]
    if isinstance(value, dict):
        return {name: without_marks(item) for name, item in value.items() if name not in MARKS}
    return value


def check_cache(lane: Lane, seen: list[Seen]) -> None:
    """Each request begins with what the one before it said, so that the lane's cache holds, and is routed alike."""
    for before, after in pairwise(seen):
        assert history(after)[: len(history(before))] == history(before)
        tools = after.body["tools"]
        if lane.api == "anthropic":  # a tool that is found by search stands where the client put it
            tools = [tool for tool in tools if tool in before.body["tools"]]
        assert tools[: len(before.body["tools"])] == before.body["tools"]
    for name in lane.routed_by:
        (value,) = {json.dumps(item.body[name]) for item in seen}
        assert len(value) > 10
    for item in seen:
        marked = [name for name in MARKS if f'"{name}"' in json.dumps(item.body)]
        assert marked == ([lane.cache_mark] if lane.cache_mark else [])


def reasoning_in(seen: Seen) -> list[Any]:
    """The reasoning of each past turn of a request."""
    return [turn.reasoning for turn in scripted_requests.read(LANES[seen.lane].api, seen.body).turns]


def test_tools_reasoning_and_images(
    newest: ClaudeCode, upstream: ScriptedUpstream, lane: Lane, picture: bytes
) -> None:
    """Write, then Bash, three calls at once, a tool found by search, then text; a thought before each."""
    thoughts = [
        "First I look — 🎉.\n\nThen I write.  ", 'Now \\ it is "done".', "Three at once.", "I look for a tool.",
        "I search.", "That was all.",
    ]  # fmt: skip
    newest.environment()
    path, dot = newest.work / "out.txt", newest.work / "dot.png"
    dot.write_bytes(picture)
    other = newest.work / "other.txt"
    three = (
        Call("Write", {"file_path": str(other), "content": "0\n" * 40 + POEM}),
        Call("Read", {"file_path": str(dot)}),
        Call("Bash", {"command": f"cat '{path}'", "description": "Show it again"}),
    )
    upstream.scenarios["work"] = [
        Reply((Think(thoughts[0]), Text("I will write."), Call("Write", {"file_path": str(path), "content": POEM}))),
        Reply((Think(thoughts[1]), Call("Bash", {"command": f"cat '{path}'", "description": "Show the file"}))),
        Reply((Think(thoughts[2]), *three), interleaved=True),
        Reply((Think(thoughts[3]), Call("ToolSearch", {"query": "select:WebSearch", "max_results": 5}))),
        Reply((Think(thoughts[4]), Call("WebSearch", {"query": "aiohttp streaming"}))),
        Reply((Think(thoughts[5]), Text("All is done — 終わり."))),
    ]
    session = newest.run("work [[s:work]]", model=lane_model(lane.name))
    check_answer(session, "All is done — 終わり.")
    assert session.texts() == ["I will write.", "All is done — 終わり."]
    assert path.read_bytes() == POEM.encode()
    assert other.read_bytes() == b"0\n" * 40 + POEM.encode()
    assert len(session.tool_results()) == 7
    assert [block["thinking"] for block in session.blocks("assistant", "thinking")] == thoughts

    seen = turns(upstream, "work")
    assert [(item.lane, item.step) for item in seen] == [(lane.name, step) for step in range(6)]
    (search,) = [item for item in upstream.seen if item.kind == "search"]
    assert search.lane == lane.name
    offered = [tool["name"] for tool in search.body.get("tools", ())]
    assert offered == ["web_search"] * lane.searches
    assert ("tool_choice" in search.body) is lane.searches
    assert "from memory: aiohttp streams" in json.dumps(seen[5].body)
    check_usage(session, seen)
    check_cache(lane, seen)
    for shown, reasoning in zip(thoughts[:5], reasoning_in(seen[5]), strict=True):
        assert json.dumps(shown)[1:-1] in json.dumps(reasoning)
    assert list(scripted_requests.images(seen[5].body)) == [b64encode(picture).decode()] * lane.images
    told = json.dumps(seen[5].body, ensure_ascii=False)
    assert ("takes no images" in told) is not lane.images
    assert "x-anthropic-billing-header" not in told


def test_a_broken_answer_and_a_full_context(newest: ClaudeCode, upstream: ScriptedUpstream, lane: Lane) -> None:
    """What broke off is asked for again, a server that is busy waited for, and the client compacts by itself."""
    path = newest.work / "once.txt"
    write = Call("Write", {"file_path": str(path), "content": POEM})
    broken = Reply((Text(LONG), write), ending="eof", breaks_after=40)
    upstream.scenarios["trouble"] = [
        (Trouble("busy"), broken, Reply((Think("I write once."), write))),
        Reply((Think("I look."), Call("Bash", {"command": "true", "description": "Nothing"}))),
        (Trouble("overflow"), say("It fits now.")),
    ]
    session = newest.run("go on [[s:trouble]]", model=lane_model(lane.name))
    check_answer(session, "It fits now.")
    busy, full = lane.busy[0], lane.overflow[0]
    assert [(seen.kind, seen.status) for seen in upstream.seen] == [
        ("scenario", busy), ("scenario", 200), ("scenario", 200), ("scenario", 200), ("scenario", full),
        # The client sums up all but the start of the turn, so the model looks again.
        ("compact", 200), ("scenario", 200), ("scenario", 200),
    ]  # fmt: skip
    assert path.read_bytes() == POEM.encode()
    assert [block["name"] for block in session.blocks("assistant", "tool_use")] == ["Write", "Bash", "Bash"]
    assert {seen.lane for seen in upstream.seen} == {lane.name}
    assert "all were done" in json.dumps(upstream.seen[-1].body)


def test_an_empty_purse_is_told_in_a_sentence(newest: ClaudeCode, upstream: ScriptedUpstream, lane: Lane) -> None:
    upstream.scenarios["poor"] = [Trouble("quota")]
    session = newest.run("try [[s:poor]]", model=lane_model(lane.name))
    told = session.result["result"]
    assert session.result["is_error"] is True
    assert lane.name in told
    assert any(word in told.lower() for word in ("quota", "balance", "usage limit")), told
    assert not set("{}") & set(told)
    assert [seen.status for seen in upstream.seen] == [lane.quota[0]]


def test_a_session_that_moves_from_provider_to_provider(
    newest: ClaudeCode, upstream: ScriptedUpstream, upstream_thread: UpstreamThread
) -> None:
    """Its own tool edits providers.yaml, in the middle of a turn. Nobody sees what another one thought."""
    names = ["deepseek", "openai", "deepseek", "skin", "mistral", "local", "openai", "skin", "deepseek"]
    thoughts = [f"Thought {number}, at {name} — 🎉." for number, name in enumerate(names)]
    with GatewayProcess(newest.folder, upstream_thread.url) as gateway:
        first = f"sonnet: deepseek/{LANES['deepseek'].model}"
        gateway.config_file.write_text(gateway.config_file.read_text().replace("sonnet: lab/lab-sonnet", first))
        gateway.wait_until_served_by("sonnet", "deepseek/")
        steps = []
        for name, thought in zip(names[1:], thoughts, strict=False):
            target = f"{name}/{LANES[name].model}"
            command = [sys.executable, str(SWITCH), str(gateway.config_file), gateway.url, "sonnet", target]
            steps.append(Reply((Think(thought), Call("Bash", {"command": shlex.join(command), "description": "Move"}))))
        upstream.scenarios["move"] = [*steps, Reply((Think(thoughts[-1]), Text("Here at last.")))]
        session = replace(newest, gateway_url=gateway.url).run("move [[s:move]]")
        assert server_faults(gateway.log()) == []
    check_answer(session, "Here at last.")
    seen = turns(upstream, "move")
    assert [item.lane for item in seen] == names
    assert [block["thinking"] for block in session.blocks("assistant", "thinking")] == thoughts
    for number, item in enumerate(seen):
        told = json.dumps(reasoning_in(item), ensure_ascii=False)
        back = [thought for thought in thoughts if json.dumps(thought, ensure_ascii=False)[1:-1] in told]
        assert back == [thought for at, thought in enumerate(thoughts[:number]) if names[at] == item.lane]


@pytest.mark.parametrize("newest", ["old"], indirect=True)
def test_title_request(newest: ClaudeCode, upstream: ScriptedUpstream, lane: Lane) -> None:
    """The older client asks for a title in -p mode, with thinking off and a schema."""
    upstream.scenarios["plain"] = [say("Hello.")]
    model = lane_model(lane.name)
    environment = {"CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "", "ANTHROPIC_DEFAULT_HAIKU_MODEL": model}
    check_answer(newest.run("say hi [[s:plain]]", model=model, **environment), "Hello.")
    assert sorted((seen.kind, seen.lane) for seen in upstream.seen) == [("scenario", lane.name), ("title", lane.name)]
