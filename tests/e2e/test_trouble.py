"""What goes wrong at an upstream, and how Claude Code gets over it: never with a stump as the answer."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import pytest

from tests.e2e.claude_code import ClaudeCode
from tests.e2e.processes import GatewayProcess
from tests.e2e.test_sessions import POEM, check_answer, check_turns, turns
from tests.fakes.openai_upstream import ScriptedUpstream
from tests.fakes.script import Call, Refuse, Reply, Text, Think, call, say

OVERFLOW = Refuse(
    400,
    {
        "message": "This model's maximum context length is 128000 tokens. However, your messages resulted in "
        "150012 tokens. Please reduce the length of the messages.",
        "type": "invalid_request_error",
        "param": "messages",
        "code": "context_length_exceeded",
    },
)
RATE_LIMIT = Refuse(
    429,
    {
        "message": "Rate limit reached for lab on requests per min (RPM). Please try again in 2s.",
        "type": "requests",
        "param": None,
        "code": "rate_limit_exceeded",
    },
    {"retry-after": "2"},
)
OVERLOADED = Refuse(503, {"message": "The engine is overloaded.", "type": "server_error", "param": None, "code": None})
BAD_KEY = Refuse(
    401,
    {"message": "Incorrect API key provided.", "type": "invalid_request_error", "code": "invalid_api_key"},
)
NO_QUOTA = Refuse(
    429,
    {
        "message": "You exceeded your current quota, please check your plan and billing details.",
        "type": "insufficient_quota",
        "param": None,
        "code": "insufficient_quota",
    },
)
LONG = "A long answer that tells of many things. " * 8


def test_context_overflow_is_compacted_by_the_client(claude: ClaudeCode, upstream: ScriptedUpstream) -> None:
    path = claude.work / "before.txt"
    upstream.scenarios["before"] = [call("Write", file_path=str(path), content=POEM), say("Written.")]
    upstream.scenarios["more"] = [say("More.")]
    upstream.scenarios["over"] = [(OVERFLOW, say("It fits now."))]
    check_answer(claude.run("begin [[s:before]]"), "Written.")
    check_answer(claude.run("more [[s:more]]", "--continue"), "More.")
    before = len(upstream.seen)
    session = claude.run("go on [[s:over]]", "--continue")
    check_answer(session, "It fits now.")
    kinds = [(seen.kind, seen.status) for seen in upstream.seen[before:]]
    assert kinds == [("scenario", 400), ("compact", 200), ("scenario", 200)]
    assert "all were done" in str(upstream.seen[-1].body["messages"])
    assert path.read_bytes() == POEM.encode()


def test_context_overflow_in_the_middle_of_a_turn(claude: ClaudeCode, upstream: ScriptedUpstream) -> None:
    path = claude.work / "middle.txt"
    upstream.scenarios["before"] = [say("Ready.")]
    write = call("Write", file_path=str(path), content=POEM)
    upstream.scenarios["over"] = [write, (OVERFLOW, say("Written and told."))]
    check_answer(claude.run("begin [[s:before]]"), "Ready.")
    before = len(upstream.seen)
    session = claude.run("go on [[s:over]]", "--continue")
    check_answer(session, "Written and told.")
    kinds = [(seen.kind, seen.status) for seen in upstream.seen[before:]]
    assert kinds == [("scenario", 200), ("scenario", 400), ("compact", 200), ("scenario", 200)]
    assert path.read_bytes() == POEM.encode()


@pytest.mark.parametrize("refusal", [RATE_LIMIT, OVERLOADED], ids=["429", "503"])
def test_a_busy_upstream_is_waited_for(claude: ClaudeCode, upstream: ScriptedUpstream, refusal: Refuse) -> None:
    upstream.scenarios["busy"] = [(refusal, say("Now it works."))]
    session = claude.run("try [[s:busy]]")
    check_answer(session, "Now it works.")
    seen = turns(upstream, "busy")
    assert [item.status for item in seen] == [refusal.status, 200]
    check_turns(session, seen[1:])


@pytest.mark.parametrize(
    ("refusal", "status", "kind", "retry_after", "message"),
    [
        (RATE_LIMIT, 429, "rate_limit_error", "2", "Rate limit reached"),
        (OVERLOADED, 529, "overloaded_error", None, "overloaded"),
        (NO_QUOTA, 402, "billing_error", None, "quota"),
        (BAD_KEY, 502, "api_error", None, "lab"),
        (OVERFLOW, 400, "invalid_request_error", None, "prompt is too long: 150012 tokens > 128000 maximum"),
    ],
    ids=["429", "503", "no-quota", "bad-key", "overflow"],
)
@pytest.mark.parametrize("stream", [True, False], ids=["stream", "whole"])
def test_the_clients_error(
    gateway: GatewayProcess, upstream: ScriptedUpstream, stream: bool, refusal: Refuse,
    status: int, kind: str, retry_after: str | None, message: str,
) -> None:  # fmt: skip
    """What the client was answered in the tests around, seen from outside of it."""
    upstream.scenarios["refused"] = [refusal]
    user = {"role": "user", "content": "go [[s:refused]]"}
    body = {"model": "claude-sonnet-5", "max_tokens": 100, "stream": stream, "messages": [user]}
    request = Request(f"{gateway.url}/v1/messages?beta=true", json.dumps(body).encode())
    request.add_header("content-type", "application/json")
    with pytest.raises(HTTPError) as caught:
        urlopen(request, timeout=30)
    with caught.value as error:
        answer = json.load(error)
        assert (error.code, error.headers["retry-after"]) == (status, retry_after)
    assert answer["type"] == "error"
    assert answer["error"]["type"] == kind
    assert message in answer["error"]["message"]


@pytest.mark.parametrize("ending", ["cut", "eof"])
def test_a_broken_text_is_no_answer(claude: ClaudeCode, upstream: ScriptedUpstream, ending: Any) -> None:
    upstream.scenarios["broken"] = [(say(LONG, ending=ending, breaks_after=40), say("The whole answer."))]
    session = claude.run("try [[s:broken]]")
    check_answer(session, "The whole answer.")
    assert len(turns(upstream, "broken")) == 2


@pytest.mark.parametrize("ending", ["cut", "eof"])
def test_a_broken_tool_call_is_not_executed(claude: ClaudeCode, upstream: ScriptedUpstream, ending: Any) -> None:
    path = claude.work / "once.txt"
    write = call("Write", file_path=str(path), content=POEM)
    upstream.scenarios["broken"] = [(replace(write, ending=ending, breaks_after=20), write), say("Written once.")]
    session = claude.run("write [[s:broken]]")
    check_answer(session, "Written once.")
    assert path.read_bytes() == POEM.encode()
    assert len(session.tool_results()) == 1
    assert [seen.step for seen in turns(upstream, "broken")] == [0, 0, 1]


@pytest.mark.parametrize("ending", ["cut", "eof"])
@pytest.mark.parametrize("first", [Text("I write."), Think("I think.")], ids=["text", "thinking"])
def test_a_tool_call_that_breaks_after_a_whole_block(
    claude: ClaudeCode, upstream: ScriptedUpstream, ending: Any, first: Text | Think
) -> None:
    """A client that has a whole block repeats nothing: the newest asks to go on, the old one ends with an error."""
    upstream.reasoning = "reasoning_content"
    path = claude.work / "once.txt"
    write = Call("Write", {"file_path": str(path), "content": POEM})
    broken = Reply((first, write), ending=ending, breaks_after=20)
    whole = Reply((write,))
    # Text stays in the history as a turn; thinking alone does not.
    upstream.scenarios["broken"] = [broken, whole, say("Written.")]
    if isinstance(first, Think):
        upstream.scenarios["broken"] = [(broken, whole), say("Written.")]
    session = claude.run("write [[s:broken]]")
    if claude.name == "new":
        check_answer(session, "Written.")
        assert path.read_bytes() == POEM.encode()
        assert len(session.tool_results()) == 1
        assert "cut off mid-stream" in str(turns(upstream, "broken")[1].body["messages"])
    else:
        assert session.result["is_error"] is True
        assert session.result["result"].startswith("API Error: lab ")
        assert session.exit_code != 0
        assert session.tool_results() == []
        assert not path.exists()


@pytest.mark.parametrize("refusal", [BAD_KEY, NO_QUOTA], ids=["bad-key", "no-quota"])
def test_what_only_the_operator_can_mend_is_not_repeated(
    claude: ClaudeCode, upstream: ScriptedUpstream, refusal: Refuse
) -> None:
    upstream.scenarios["hopeless"] = [refusal]
    session = claude.run("try [[s:hopeless]]")
    assert session.result["is_error"] is True
    assert "lab" in session.result["result"]
    assert len(turns(upstream, "hopeless")) == 1


@pytest.mark.parametrize("ending", ["cut", "eof"])
def test_a_stream_that_always_breaks_is_an_error(claude: ClaudeCode, upstream: ScriptedUpstream, ending: Any) -> None:
    upstream.scenarios["broken"] = [say(LONG, ending=ending, breaks_after=40)]
    session = claude.run("try [[s:broken]]", CLAUDE_CODE_MAX_RETRIES="1")
    assert session.result["is_error"] is True
    assert session.exit_code != 0
    assert LONG[:60] not in str(session.result["result"])


@pytest.mark.parametrize(
    ("model", "cause"), [("dead", "could not reach dead"), ("keyless", "LAB_NO_SUCH_KEY")], ids=["dead", "keyless"]
)
def test_the_user_reads_what_is_wrong(claude: ClaudeCode, upstream: ScriptedUpstream, model: str, cause: str) -> None:
    session = claude.run("try", model=model, CLAUDE_CODE_MAX_RETRIES="1")
    assert session.result["is_error"] is True
    assert cause in session.result["result"]
    assert upstream.seen == []
