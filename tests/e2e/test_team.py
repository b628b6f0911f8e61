"""Users with keys of their own at one gateway, each with the real Claude Code: who may go no further reads what to do,
and nobody else notices. What the ledger says of each user is what the upstream reported to that one."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import ROUND_DOWN, Decimal
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import pytest
from click.testing import CliRunner

from gateway.cli import main
from tests.e2e.claude_code import ClaudeCode, Session, shown
from tests.e2e.processes import START_SECONDS, GatewayProcess, UpstreamThread, server_faults
from tests.e2e.test_sessions import POEM, check_answer, check_turns, turns
from tests.fakes.openai_upstream import ScriptedUpstream
from tests.fakes.script import Call, Reply, Text, call, say
from tests.faults.team import keys, x_api_key

PARTIAL = "--include-partial-messages"
PRICE = {"input": 1000, "cache_read": 100, "output": 5000}
"""US dollars for a million tokens: a client's first request costs more than ten."""
SECONDS = 4
"""After which a place is free, in a group whose limit is reached."""
RPM = 60 // SECONDS


@pytest.fixture
def shared(upstream_thread: UpstreamThread, tmp_path: Path) -> Iterator[GatewayProcess]:
    """A gateway that is not started yet. Afterwards its log may tell of no fault, and of no key."""
    gateway = GatewayProcess(tmp_path / "shared", upstream_thread.url)
    text = gateway.config_file.read_text()
    priced = text.replace("pdf: file}", f"pdf: file, price: {json.dumps(PRICE)}}}")
    assert priced != text
    gateway.config_file.write_text(f"{priced}groups: {{crew: {{rpm: {RPM}}}}}\n")
    yield gateway
    assert server_faults(gateway.log()) == []
    assert "gw_" not in gateway.log()


def new_key(gateway: GatewayProcess, name: str, *options: str) -> str:
    return keys(gateway.config_file.parent, "add", name, *options)


def member(client: ClaudeCode, gateway: GatewayProcess, name: str, *options: str) -> ClaudeCode:
    """The client of a user with a new key; a home and a working folder of its own."""
    key = new_key(gateway, name, *options)
    return replace(client, folder=client.folder / name, gateway_url=gateway.url, extra={"ANTHROPIC_AUTH_TOKEN": key})


def write(path: Path) -> Call:
    return Call("Write", {"file_path": str(path), "content": POEM})


def used(gateway: GatewayProcess) -> dict[tuple[str, str], dict[str, Any]]:
    """(User, outcome) -> what ``gateway usage`` says of both."""
    words = ["usage", "--by", "user,outcome", "--json", "--config", str(gateway.config_file)]
    ended = CliRunner().invoke(main, words)
    assert ended.exit_code == 0, ended.output
    return {(row.pop("user"), row.pop("outcome")): row for row in json.loads(ended.stdout)["rows"]}


def usage(requests: int, cost: Decimal | None, input: int = 0, cached: int = 0, output: int = 0) -> dict[str, Any]:
    """A row of that: all is reported, and has a price."""
    return {
        "requests": requests, "input_tokens": input, "cache_read_tokens": cached, "output_tokens": output,
        "cache_write_tokens": 0, "cost_usd": None if cost is None else f"{cost:.9f}",
        "unpriced_requests": 0, "estimated_requests": 0,
    }  # fmt: skip


def reported(upstream: ScriptedUpstream, name: str) -> dict[str, Any]:
    """The row of what the upstream reported in the scenario ``name``."""
    told = [seen.usage for seen in turns(upstream, name) if seen.usage is not None]
    tokens = {
        "input": sum(each.prompt - each.cached for each in told),
        "cached": sum(each.cached for each in told),
        "output": sum(each.completion for each in told),
    }
    prices = PRICE["input"], PRICE["cache_read"], PRICE["output"]
    cost = sum((count * Decimal(price) for count, price in zip(tokens.values(), prices, strict=True)), Decimal())
    return usage(len(told), cost / 1_000_000, **tokens)


def check_refused(session: Session, sentence: str) -> None:
    """The client ended, and this is the last that its user reads."""
    assert (session.result["is_error"], session.exit_code) == (True, 1)
    assert session.result["result"] == sentence


def test_one_over_budget_and_one_who_does_not_notice(
    claude: ClaudeCode, upstream: ScriptedUpstream, upstream_thread: UpstreamThread, shared: GatewayProcess
) -> None:
    """The one's budget is spent, and its client refused, while the other's answer is under way."""
    poor = member(claude, shared, "poor", "--budget", "5usd/month")
    rich = member(claude, shared, "rich", "--budget", "500usd/month")
    mine, yours = poor.work / "mine.txt", rich.work / "yours.txt"
    first, second = asyncio.Event(), asyncio.Event()
    upstream.scenarios["poor"] = [Reply((Text("I write mine."), write(mine)), hold=first), say("Never said.")]
    copy = Call("Bash", {"command": f"cat '{yours}' > '{yours}.copy'", "description": "Copy it"})
    upstream.scenarios["rich"] = [
        Reply((write(yours),)),
        Reply((Text("I copy yours."), copy), hold=second),
        call("Bash", command=f"cat '{yours}.copy' >> '{yours}'", description="Append it"),
        say("Yours is there — twice."),
    ]
    with (
        shared,
        rich.start("work [[s:rich]]", PARTIAL) as going,
        poor.start("work [[s:poor]]", PARTIAL) as ending,
    ):
        going.wait_for(lambda events: "I copy yours." in shown(events))
        ending.wait_for(lambda events: "I write mine." in shown(events))
        upstream_thread.release(first)
        refused = ending.finished()
        upstream_thread.release(second)
        session = going.finished()
    check_answer(session, "Yours is there — twice.")
    assert session.texts() == ["I copy yours.", "Yours is there — twice."]
    assert yours.read_bytes() == POEM.encode() * 2
    assert [seen.step for seen in turns(upstream, "rich")] == [0, 1, 2, 3]
    check_turns(session, turns(upstream, "rich"))
    assert mine.read_bytes() == POEM.encode()
    assert [seen.step for seen in turns(upstream, "poor")] == [0]
    spent = reported(upstream, "poor")
    check_refused(
        refused,
        "API Error: 402 the budget of key poor, 5 USD a month, is spent "
        f"({Decimal(spent['cost_usd']).quantize(Decimal('0.01'), ROUND_DOWN)} USD); "
        f"it begins anew on 1 {next_month()} (UTC). Ask whoever runs this gateway for more",
    )
    assert used(shared) == {
        ("rich", "ok"): reported(upstream, "rich"),
        ("poor", "ok"): spent,
        ("poor", "limited"): usage(1, Decimal()),
    }


def next_month() -> str:
    """Its name."""
    now = datetime.now(UTC)
    return f"{now.replace(day=28) + timedelta(days=4):%B}"


def test_a_rate_is_waited_for(
    claude: ClaudeCode, upstream: ScriptedUpstream, upstream_thread: UpstreamThread, shared: GatewayProcess
) -> None:
    """Another of the group takes all that a minute has; the client asks once too early, and then goes on by itself."""
    client, other = member(claude, shared, "client", "--group", "crew"), new_key(shared, "other", "--group", "crew")
    path, hold = client.work / "poem.txt", asyncio.Event()
    upstream.scenarios["fill"] = [say("Filled.")]
    upstream.scenarios["wait"] = [Reply((Text("I write."), write(path)), hold=hold), say("Waited, and written.")]
    with shared, client.start("work [[s:wait]]", PARTIAL) as running:
        running.wait_for(lambda events: "I write." in shown(events))
        told = take_all(shared, other)
        upstream_thread.release(hold)
        session = running.finished()
    words = f"the limit of group crew (all its keys together), {RPM} requests a minute, is reached; try again in"
    assert told == f"{words} {SECONDS} seconds"
    check_answer(session, "Waited, and written.")
    assert path.read_bytes() == POEM.encode()
    check_turns(session, turns(upstream, "wait"))
    rows = used(shared)
    assert rows.pop(("other", "limited"))["requests"] > 0
    assert rows == {
        ("client", "ok"): reported(upstream, "wait"),
        ("client", "limited"): usage(1, Decimal()),
        ("other", "ok"): reported(upstream, "fill"),
    }


def take_all(gateway: GatewayProcess, key: str) -> str:
    """Asks until the next place is more than three seconds away, and returns what it was told then."""
    body = {"model": "sonnet", "max_tokens": 9, "messages": [{"role": "user", "content": "[[s:fill]]"}]}
    headers = {**x_api_key(key), "content-type": "application/json"}
    request = Request(f"{gateway.url}/v1/messages", json.dumps(body).encode(), headers)
    for _ in range(2 * RPM):
        try:
            urlopen(request, timeout=START_SECONDS).close()
        except HTTPError as error:
            with error:
                wait, told = int(error.headers["retry-after"]), str(json.load(error)["error"]["message"])
            if wait == SECONDS:
                return told
            time.sleep(wait)
    pytest.fail("there is no limit")


def test_a_model_that_is_not_open(claude: ClaudeCode, upstream: ScriptedUpstream, shared: GatewayProcess) -> None:
    client = member(claude, shared, "intern", "--models", "haiku,o*")
    upstream.scenarios["plain"] = [say("Hello.")]
    with shared:
        refused = client.run("say hi [[s:plain]]", model="claude-sonnet-5")
        assert upstream.seen == []
        session = client.run("say hi [[s:plain]]", model="haiku")
    sentence = "model: claude-sonnet-5 is not open to the key intern, and no login helps. It may ask for: opus, haiku"
    # The first words are the client's own; at a terminal they are "Please run /login".
    check_refused(refused, f"Failed to authenticate. API Error: 403 {sentence}")
    check_answer(session, "Hello.")
    assert used(shared) == {("intern", "ok"): reported(upstream, "plain"), ("intern", "denied"): usage(1, None)}
