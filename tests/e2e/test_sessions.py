"""What people do with Claude Code, with both versions: each ends with the exact answer, files, usage and requests."""

from __future__ import annotations

import json
import sys
from base64 import b64decode
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

from tests.e2e.claude_code import ClaudeCode, Session
from tests.e2e.processes import GatewayProcess, UpstreamThread
from tests.fakes.openai_upstream import ScriptedUpstream, Seen
from tests.fakes.script import Call, Reply, Text, Think, call, say

POEM = 'alpha\nβeta "quoted" \\ back\n\ttab — 終わり 🎉\n'
COPY = 'import shutil, sys; shutil.copy(sys.argv[1], sys.argv[1] + ".copy")'
MCP_SERVER = Path(__file__).with_name("mcp_server.py")


def turns(upstream: ScriptedUpstream, name: str) -> list[Seen]:
    """The requests that the scenario ``name`` answered."""
    return [seen for seen in upstream.seen if seen.kind == "scenario" and seen.scenario == name]


def check_turns(session: Session, seen: list[Seen]) -> None:
    """The history only grew, and the client's token counts are what the upstream reported, cached ones apart."""
    check_history(seen)
    check_usage(session, seen)


def check_usage(session: Session, seen: list[Seen]) -> None:
    """The client's token counts are what the upstream reported, cached ones apart."""
    reported = [item.usage for item in seen if item.usage is not None]
    usage = session.result["usage"]
    assert len(reported) == len(seen)
    assert usage["input_tokens"] == sum(item.prompt - item.cached for item in reported) > 0
    assert usage["cache_read_input_tokens"] == sum(item.cached for item in reported)
    assert usage["output_tokens"] == sum(item.completion for item in reported) > 0


def check_history(seen: list[Seen]) -> None:
    """Each request repeats the messages of the one before it unchanged, so that the prefix cache holds."""
    for before, after in pairwise(item.body["messages"] for item in seen):
        assert after[: len(before)] == before


def check_answer(session: Session, text: str) -> None:
    """The final text is exact, and the model gave it once."""
    assert session.answer == text
    assert session.texts().count(text) == 1


def messages(seen: Seen, role: str) -> list[dict[str, Any]]:
    return [message for message in seen.body["messages"] if message["role"] == role]


def parts(seen: Seen, kind: str) -> list[dict[str, Any]]:
    """All content parts of one type in a request."""
    lists = [message["content"] for message in seen.body["messages"] if isinstance(message["content"], list)]
    return [part for content in lists for part in content if part["type"] == kind]


def test_plain_text(claude: ClaudeCode, upstream: ScriptedUpstream) -> None:
    upstream.scenarios["plain"] = [say("Plain — ünïcode 🎉 answer.")]
    session = claude.run("say hi [[s:plain]]")
    check_answer(session, "Plain — ünïcode 🎉 answer.")
    check_turns(session, turns(upstream, "plain"))
    (seen,) = turns(upstream, "plain")
    assert seen.body["model"] == "lab-sonnet"
    assert seen.body["stream"] is True
    assert "x-anthropic-billing-header" not in json.dumps(seen.body)


def test_names_go_to_their_models(claude: ClaudeCode, upstream: ScriptedUpstream) -> None:
    upstream.scenarios["plain"] = [say("Hello.")]
    routes = {"haiku": "lab-haiku", "opus": "lab-opus", "sonnet[1m]": "lab-sonnet", "gpt-4o": "lab-default"}
    for model in routes:
        check_answer(claude.run("say hi [[s:plain]]", model=model), "Hello.")
    assert [seen.body["model"] for seen in turns(upstream, "plain")] == list(routes.values())


def test_write_then_bash_then_text(claude: ClaudeCode, upstream: ScriptedUpstream) -> None:
    path = claude.work / "out.txt"
    upstream.scenarios["write"] = [
        Reply((Text("I will write."), Call("Write", {"file_path": str(path), "content": POEM}))),
        call("Bash", command=f"cat '{path}'", description="Show the file"),
        say("The file is written."),
    ]
    session = claude.run("write it [[s:write]]")
    check_answer(session, "The file is written.")
    check_turns(session, turns(upstream, "write"))
    assert path.read_bytes() == POEM.encode()
    shown = messages(turns(upstream, "write")[2], "tool")[-1]["content"]
    assert POEM.rstrip("\n") in str(shown)
    assert session.texts() == ["I will write.", "The file is written."]


def test_three_tools_one_after_another(claude: ClaudeCode, upstream: ScriptedUpstream) -> None:
    check_three_tools(claude, upstream, interleaved=False)


def test_three_tools_interleaved(claude: ClaudeCode, upstream: ScriptedUpstream) -> None:
    check_three_tools(claude, upstream, interleaved=True)


def check_three_tools(claude: ClaudeCode, upstream: ScriptedUpstream, *, interleaved: bool) -> None:
    """One answer with three writes of different length."""
    contents = {f"{name}.txt": f"{name}\n" * count + POEM for name, count in (("one", 1), ("two", 40), ("three", 9))}
    calls = [
        Call("Write", {"file_path": str(claude.work / name), "content": content}) for name, content in contents.items()
    ]
    upstream.scenarios["three"] = [Reply((Text("Three files."), *calls), interleaved=interleaved), say("All written.")]
    session = claude.run("write three [[s:three]]")
    check_answer(session, "All written.")
    check_turns(session, turns(upstream, "three"))
    assert {path.name: path.read_bytes().decode() for path in claude.work.iterdir()} == contents
    assert len(session.tool_results()) == 3


def test_reasoning_is_shown_as_thinking_and_replayed(claude: ClaudeCode, upstream: ScriptedUpstream) -> None:
    upstream.reasoning = "reasoning_content"
    first, second = "First I look — 🎉.\n\nThen I write.  ", 'Now \\ it is "done".'
    path = claude.work / "thought.txt"
    upstream.scenarios["think"] = [
        Reply((Think(first), Call("Write", {"file_path": str(path), "content": POEM}))),
        Reply((Think(second), Call("Bash", {"command": "true", "description": "Nothing"}))),
        Reply((Think("Over."), Text("Thought through."))),
    ]
    session = claude.run("think [[s:think]]")
    check_answer(session, "Thought through.")
    check_turns(session, turns(upstream, "think"))
    assert path.read_bytes() == POEM.encode()
    assert [block["thinking"] for block in session.blocks("assistant", "thinking")] == [first, second, "Over."]
    replayed = [message.get("reasoning_content") for message in messages(turns(upstream, "think")[2], "assistant")]
    assert replayed == [first, second]


def test_image_in_a_tool_result(claude: ClaudeCode, upstream: ScriptedUpstream, picture: bytes) -> None:
    path = claude.work / "dot.png"
    claude.environment()
    path.write_bytes(picture)
    upstream.scenarios["image"] = [call("Read", file_path=str(path)), say("It is red.")]
    session = claude.run("look [[s:image]]")
    check_answer(session, "It is red.")
    check_turns(session, turns(upstream, "image"))
    assert len(parts(turns(upstream, "image")[1], "image_url")) == 1


def test_pdf(claude: ClaudeCode, upstream: ScriptedUpstream, pdf: bytes) -> None:
    path = claude.work / "page.pdf"
    claude.environment()
    path.write_bytes(pdf)
    upstream.scenarios["pdf"] = [call("Read", file_path=str(path)), say("An empty page.")]
    session = claude.run("read [[s:pdf]]")
    check_answer(session, "An empty page.")
    check_turns(session, turns(upstream, "pdf"))
    (part,) = parts(turns(upstream, "pdf")[1], "file")
    assert b64decode(part["file"]["file_data"].partition(",")[2]) == pdf


def test_a_server_of_which_nothing_is_known(claude: ClaudeCode, upstream: ScriptedUpstream, pdf: bytes) -> None:
    """Default profile: one system message, a PDF becomes a stated placeholder; the strict upstream takes it all."""
    path = claude.work / "page.pdf"
    claude.environment()
    path.write_bytes(pdf)
    upstream.scenarios["bare"] = [
        call("Read", file_path=str(path)),
        call("Write", file_path=str(claude.work / "note.txt"), content=POEM),
        say("I cannot see it."),
    ]
    session = claude.run("read [[s:bare]]", model="bare")
    check_answer(session, "I cannot see it.")
    check_turns(session, turns(upstream, "bare"))
    assert (claude.work / "note.txt").read_bytes() == POEM.encode()
    last = turns(upstream, "bare")[2]
    assert parts(last, "file") == []
    assert "PDF" in json.dumps(last.body["messages"][-3:])
    assert [message["role"] for message in last.body["messages"]].count("system") == 1


def test_subagent(claude: ClaudeCode, upstream: ScriptedUpstream) -> None:
    prompt = {"description": "child", "prompt": "[[s:child]] do it", "subagent_type": "general-purpose"}
    waiting = [say("Waiting for the child.")] if claude.name == "new" else []
    upstream.scenarios["parent"] = [Reply((Call("Agent", prompt),)), *waiting, say("The child said what it said.")]
    upstream.scenarios["child"] = [
        call("Write", file_path=str(claude.work / "child.txt"), content=POEM),
        say("CHILD REPORT 4711"),
    ]
    session = claude.run("ask a child [[s:parent]]")
    check_answer(session, "The child said what it said.")
    assert (claude.work / "child.txt").read_bytes() == POEM.encode()
    assert len(turns(upstream, "child")) == 2
    assert "CHILD REPORT 4711" in json.dumps(turns(upstream, "parent")[-1].body["messages"][-3:])
    assert session.result["usage"]["input_tokens"] > 0


def test_mcp_tools(claude: ClaudeCode, upstream: ScriptedUpstream) -> None:
    claude.environment()
    servers = {"mcpServers": {"scales": {"command": sys.executable, "args": [str(MCP_SERVER)]}}}
    config = claude.folder / "mcp.json"
    config.write_text(json.dumps(servers))
    weigh, photo = "mcp__scales__weigh", "mcp__scales__photo"
    found = [call("ToolSearch", query=f"select:{photo},{weigh}", max_results=5)] if claude.name == "new" else []
    upstream.scenarios["mcp"] = [*found, call(weigh, thing="feather"), call(photo), say("Seven grams, red.")]
    session = claude.run("weigh a feather [[s:mcp]]", "--mcp-config", str(config), "--strict-mcp-config")
    check_answer(session, "Seven grams, red.")
    seen = turns(upstream, "mcp")
    check_turns(session, seen)
    check_tools_only_grow(seen)
    for name in (weigh, photo):
        offered = [name in item.tool_names() for item in seen]
        assert offered == ([False, True, True, True] if claude.name == "new" else [True, True, True])
    assert "DeferredToolPlaceholder" not in seen[-1].tool_names()
    assert "feather: 7 g" in json.dumps(messages(seen[-1], "tool"))
    assert "The photo." in json.dumps(messages(seen[-1], "tool"))
    assert len(parts(seen[-1], "image_url")) == 1


def check_tools_only_grow(seen: list[Seen]) -> None:
    """Each request's tools begin with those of the request before it, so that the prefix cache holds."""
    for before, after in pairwise(seen):
        assert after.body["tools"][: len(before.body["tools"])] == before.body["tools"]


def test_auto_mode(claude: ClaudeCode, upstream: ScriptedUpstream) -> None:
    path = claude.work / "auto.txt"
    upstream.scenarios["auto"] = [
        call("Write", file_path=str(path), content=POEM),
        # Not a plain cp: the client knows a few commands that it does not ask about.
        call("Bash", command=f"{sys.executable} -c '{COPY}' '{path}'", description="Copy the file"),
        say("Copied."),
    ]
    session = claude.run("copy [[s:auto]]", mode="auto", CLAUDE_CODE_AUTO_MODE_SERVER="0")
    check_answer(session, "Copied.")
    check_turns(session, turns(upstream, "auto"))
    assert path.read_bytes() == (claude.work / "auto.txt.copy").read_bytes() == POEM.encode()
    assert session.result["permission_denials"] == []
    assert "classifier" in {seen.kind for seen in upstream.seen}


def test_auto_mode_with_the_servers_check(claude: ClaudeCode, upstream: ScriptedUpstream) -> None:
    """Without the setting the newest client wants the check from the API; nobody may forge its verdict."""
    path = claude.work / "auto.txt"
    upstream.scenarios["auto"] = [
        call("Write", file_path=str(path), content=POEM),
        call("Bash", command=f"{sys.executable} -c '{COPY}' '{path}'", description="Copy the file"),
        say("Tried."),
    ]
    session = claude.run("copy [[s:auto]]", mode="auto")
    check_answer(session, "Tried.")
    denied = [denial["tool_name"] for denial in session.result["permission_denials"]]
    assert denied == (["Bash"] if claude.name == "new" else [])
    assert (claude.work / "auto.txt.copy").exists() == (claude.name == "old")
    assert path.read_bytes() == POEM.encode()


def test_web_search_does_not_break_the_session(claude: ClaudeCode, upstream: ScriptedUpstream) -> None:
    found = [call("ToolSearch", query="select:WebSearch", max_results=5)] if claude.name == "new" else []
    upstream.scenarios["web"] = [*found, call("WebSearch", query="aiohttp streaming"), say("Nothing found.")]
    session = claude.run("search [[s:web]]")
    check_answer(session, "Nothing found.")
    (search,) = [seen for seen in upstream.seen if seen.kind == "search"]
    assert "tools" not in search.body
    assert "tool_choice" not in search.body
    assert "from memory: aiohttp streams" in str(messages(turns(upstream, "web")[-1], "tool")[-1]["content"])


def test_resume(claude: ClaudeCode, upstream: ScriptedUpstream) -> None:
    path = claude.work / "kept.txt"
    upstream.scenarios["one"] = [call("Write", file_path=str(path), content=POEM), say("First answer.")]
    upstream.scenarios["two"] = [say("Second answer.")]
    upstream.scenarios["three"] = [say("Third answer.")]
    first = claude.run("begin [[s:one]]")
    check_answer(first, "First answer.")
    second = claude.run("go on [[s:two]]", "--continue")
    check_answer(second, "Second answer.")
    third = claude.run("and on [[s:three]]", "--resume", second.result["session_id"])
    check_answer(third, "Third answer.")
    check_turns(third, turns(upstream, "three"))
    (seen,) = turns(upstream, "three")
    told = json.dumps(seen.body["messages"])
    assert [told.count(text) for text in ("First answer.", "Second answer.")] == [1, 1]
    assert path.read_bytes() == POEM.encode()
    check_history([*turns(upstream, "one"), *turns(upstream, "two"), seen])


def test_structured_output(claude: ClaudeCode, upstream: ScriptedUpstream) -> None:
    upstream.scenarios["count"] = [call("StructuredOutput", n=5)]
    schema = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}
    session = claude.run("count [[s:count]]", "--json-schema", json.dumps(schema))
    assert session.result["structured_output"] == {"n": 5}


def test_counting_the_context_asks_no_upstream(claude: ClaudeCode, upstream: ScriptedUpstream) -> None:
    session = claude.run("/context")
    assert "System tools" in session.answer
    assert upstream.seen == []


def test_title_request(claude: ClaudeCode, upstream: ScriptedUpstream) -> None:
    upstream.scenarios["plain"] = [say("Hello.")]
    check_answer(claude.run("say hi [[s:plain]]", CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC=""), "Hello.")
    titles = [seen for seen in upstream.seen if seen.kind == "title"]
    # The newest client asks for no title in -p mode.
    assert len(titles) == (0 if claude.name == "new" else 1)
    for seen in titles:
        schema = seen.body["response_format"]["json_schema"]["schema"]
        assert schema["required"] == ["title"]
        assert "tools" not in seen.body


def test_sessions_side_by_side(claude: ClaudeCode, upstream: ScriptedUpstream) -> None:
    """Three at once, each with a home of its own: nobody gets another's answer or file."""
    clients = [replace(claude, folder=claude.folder / str(number)) for number in range(3)]
    for number, client in enumerate(clients):
        path = client.work / "mine.txt"
        content = f"{number}\n" * 50 + POEM
        upstream.scenarios[f"side{number}"] = [
            Reply((Call("Write", {"file_path": str(path), "content": content}),)),
            say(f"Answer {number}."),
        ]
    with ThreadPoolExecutor(len(clients)) as pool:
        sessions = list(pool.map(lambda item: item[1].run(f"go [[s:side{item[0]}]]"), enumerate(clients)))
    for number, session in enumerate(sessions):
        check_answer(session, f"Answer {number}.")
        check_turns(session, turns(upstream, f"side{number}"))
        assert (clients[number].work / "mine.txt").read_text() == f"{number}\n" * 50 + POEM


def test_the_model_is_switched_by_editing_the_file(
    claude: ClaudeCode, upstream: ScriptedUpstream, upstream_thread: UpstreamThread
) -> None:
    upstream.scenarios["before"] = [say("From the first.")]
    upstream.scenarios["after"] = [say("From the second.")]
    with GatewayProcess(claude.folder, upstream_thread.url) as gateway:
        client = replace(claude, gateway_url=gateway.url)
        check_answer(client.run("one [[s:before]]"), "From the first.")
        old = gateway.config_file.read_text()
        gateway.config_file.write_text(old.replace("sonnet: lab/lab-sonnet", "sonnet: bare/other"))
        gateway.wait_until_served_by("sonnet", "bare/other")
        check_answer(client.run("two [[s:after]]", "--continue"), "From the second.")
    assert [turns(upstream, name)[0].body["model"] for name in ("before", "after")] == ["lab-sonnet", "other"]
