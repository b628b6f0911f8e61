"""The ledger against what upstreams reported, whatever became of the requests (O1, O2, S5, P5)."""

from __future__ import annotations

import asyncio
import json
import signal
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from random import Random
from typing import Any, get_args

import pytest
from aiohttp import ClientError, ClientResponse, ClientSession, ClientTimeout, TCPConnector

from gateway.ledger.record import Outcome
from tests.cli.gateway_command import run
from tests.faults.metered import Books, Tokens, tokens_of
from tests.faults.team import dollars, providers, rows, settled, team, tokens_in
from tests.server.faulty_upstream import FaultyUpstream
from tests.server.gateway_process import KEYS, PATIENCE, Gateway, turn, until
from tests.server.service import service
from tests.server.test_admin import admin_url, get, scrape
from tests.server.test_metrics import value

REQUESTS = 2000
AT_ONCE = 24
SETTLED_SECONDS = 1.0
"""What was answered so long before the process is killed is in the file. It is a quarter of a second on a machine that
has time for it: tests/ledger/test_processes.py."""
CONFIG = """\
server: {{admin: {{port: 0}}}}
providers:
{providers}\
models:
  "fallen-*": [lab, ant]
  "capped-*": [capped, ant]
groups:
  interns: {{models: ["lab/*", "ant/*", "fallen-*"]}}
"""
MEMBERS = {
    "anna": "--user anna",
    "annas-laptop": "--user anna",
    "ben": "--group interns",
    "fast": "--rpm 100",
    "thrifty": "--budget 500ktokens/day --concurrency 4",
}
"""Name -> options of ``gateway keys add``. The last two are refused now and then."""
ALL, BOTH, CHAT = ("lab", "ant", "replies", "oll"), ("lab", "ant"), ("lab",)
PLANS: dict[str, tuple[str, ...]] = {
    "whole": ALL,
    "unreported": ALL,
    "held": BOTH,
    "heldrunning": CHAT,
    "silent": ALL,
    "cut": BOTH,
    "reset": BOTH,
    "brokenrunning": CHAT,
    "failing": BOTH,
    "sick": ALL,
    "refused": ALL,
    "oncerefused": ALL,
    "oncereset": BOTH,
    "oncefailed": BOTH,
    "fallen": ("",),
    "capped": ("",),
    "stranger": CHAT,
    "malformed": CHAT,
    "unknown": ("nobody",),
}
"""What happens -> the providers to which it may. The last three never come to an upstream."""
LEFT = ("held", "heldrunning", "silent")
"""The client leaves."""


@dataclass
class Asked:
    """One request, as its client saw it."""

    number: int
    plan: str
    key: str
    status: int = 0
    """0: no answer came."""
    request_id: str = ""
    ended: float = 0.0
    """``time.monotonic()``."""


class Crowd:
    """Clients that ask for all of it."""

    def __init__(self, gateway: Gateway, books: Books, texts: dict[str, str], prompt: str = "Hello") -> None:
        self.gateway = gateway
        self.books = books
        self.texts = texts
        self.prompt = prompt
        self.asked: list[Asked] = []
        self.half = asyncio.Event()

    async def ask_all(self, numbers: range) -> None:
        left = iter(numbers)
        connector = TCPConnector(limit=0)
        async with ClientSession(timeout=ClientTimeout(total=60), connector=connector) as session:

            async def client() -> None:
                for number in left:
                    asked = plan_of(number)
                    self.asked.append(asked)
                    if len(self.asked) * 2 >= REQUESTS:
                        self.half.set()
                    try:
                        await self.ask(session, asked)
                    except (ClientError, OSError):
                        # Only from one that was killed.
                        assert await self.gateway.exit_status() == -signal.SIGKILL
                        return
                    asked.ended = time.monotonic()

            await asyncio.gather(*(client() for _ in range(AT_ONCE)))

    async def ask(self, session: ClientSession, asked: Asked, provider: str = "") -> None:
        """At ``provider``, or at any to which it may happen."""
        draw = Random(asked.number)
        provider = provider or draw.choice(PLANS[asked.plan])
        streams = draw.random() < 0.6 or asked.plan in ("held", "heldrunning")
        model = f"{provider}/{asked.plan}-{asked.number}".removeprefix("/")
        session_id = json.dumps({"session_id": f"s{asked.number}"})
        body = turn(model, self.prompt, stream=streams, metadata={"user_id": session_id})
        data = json.dumps(body).encode()[: -9 if asked.plan == "malformed" else None]
        key = "gw_nobodys" if asked.plan == "stranger" else self.texts[asked.key]
        headers = {"x-api-key": key} if draw.random() < 0.5 else {"authorization": f"Bearer {key}"}
        asking = session.post(f"{self.gateway.url}/v1/messages?beta=true", data=data, headers=headers)
        if asked.plan != "silent":
            async with asking as response:
                await self._read(response, asked)
            return
        waiting = asyncio.ensure_future(_opened(asking))
        await asyncio.wait((waiting, self.books.arrival(asked.number)), return_when=asyncio.FIRST_COMPLETED)
        if not waiting.done():
            waiting.cancel()
            with suppress(asyncio.CancelledError):
                await waiting
            return
        async with await waiting as response:
            await self._read(response, asked)

    async def _read(self, response: ClientResponse, asked: Asked) -> None:
        asked.status, asked.request_id = response.status, response.headers["request-id"]
        if response.status != 200 or asked.plan not in LEFT:
            await response.read()
            return
        received = b""
        while b"END" not in received:
            received += await response.content.readany()
        response.close()


async def _opened(asking: Any) -> ClientResponse:
    response: ClientResponse = await asking
    return response


def plan_of(number: int) -> Asked:
    """Every plan with every key, in turn."""
    plans, members = list(PLANS), list(MEMBERS)
    return Asked(number, plans[number % len(plans)], members[number // len(plans) % len(members)])


@pytest.fixture
async def books(upstream: FaultyUpstream) -> AsyncIterator[Books]:
    books = Books(asyncio.get_running_loop())
    script = upstream.script(books.answer, "*")
    yield books
    upstream.forget(script)


def check_row(row: dict[str, Any], asked: Asked, books: Books) -> None:
    """One row against what its client and the upstream saw."""
    tokens, reported, half = tokens_in(row), books.reported.get(asked.number), books.half.get(asked.number)
    assert row["key"] == ("" if asked.plan == "stranger" else asked.key)
    assert row["user"] == ("" if asked.plan == "stranger" else asked.key.replace("annas-laptop", "anna"))
    if row["target"]:
        assert row["asked"].endswith(f"{asked.plan}-{asked.number}")
        assert row["status"] == (asked.status or 499)
    if row["outcome"] in ("denied", "limited") or not row["target"]:
        assert tokens == Tokens(0, 0, 0, 0), row
        assert asked.number not in books.attempts
    elif reported is not None:
        assert (tokens, row["estimated"]) == (reported, 0), row
    elif half is not None:
        assert tokens[:3] == half[:3]
        assert row["estimated"]
        assert tokens.output > 0
    elif row["outcome"] == "ok" or row["outcome"] == "client_closed" or row["first_token_seconds"] is not None:
        assert row["estimated"], row
        assert tokens.input > 0
    else:
        assert tokens == Tokens(0, 0, 0, 0), row
    if row["provider"] == "":
        assert row["cost"] is None
    else:
        assert Decimal(row["cost"]).scaleb(-9) == dollars(row["provider"], tokens), row


def check_sums(folder: Path, found: dict[int, dict[str, Any]], books: Books) -> None:
    """For each key: what was reported, the totals that budgets go by, and what ``gateway usage`` says."""
    reported, exact, counted, cost = Counter[str](), Counter[str](), Counter[str](), Counter[str]()
    for number, row in found.items():
        tokens = tokens_in(row)
        if number in books.reported:
            reported[row["key"]] += sum(books.reported[number][:4])
        exact[row["key"]] += 0 if row["estimated"] else sum(tokens[:4])
        counted[row["key"]] += tokens.input + tokens.cache_write + tokens.output
        cost[row["key"]] += row["cost"] or 0
    assert exact == reported
    assert set(reported) == set(MEMBERS)
    query = "SELECT name, sum(tokens) AS tokens, sum(nanodollars) AS cost FROM totals WHERE kind = 'key' AND period = "
    for period in ("day", "week", "month"):
        totals = {row["name"]: (row["tokens"], row["cost"]) for row in rows(folder, f"{query}'{period}' GROUP BY name")}
        assert totals == {name: (counted[name], cost[name]) for name in MEMBERS}
    told = json.loads(run("usage", "--by", "key", "--json", cwd=folder).out)["rows"]
    assert {row["key"]: row["cost_usd"] for row in told if row["key"]} == {
        name: f"{Decimal(cost[name]).scaleb(-9):.9f}" for name in MEMBERS
    }
    assert sum(row["requests"] for row in told) == len(found)


async def check_metrics(gateway: Gateway, found: list[dict[str, Any]]) -> None:
    """As many of each outcome, and as many dollars; no upstream's key."""
    samples = await scrape(gateway)
    for outcome, count in Counter(row["outcome"] for row in found).items():
        assert value(samples, "gateway_requests_total", outcome=outcome) == count
    cost = sum(row["cost"] or 0 for row in found)
    assert value(samples, "gateway_cost_dollars_total") == pytest.approx(cost / 1e9)
    text = (await get(f"{admin_url(gateway)}/metrics")).body.decode()
    assert "gateway_requests_total" in text
    assert not [secret for secret in KEYS.values() if secret in text]


def rows_of(found: list[dict[str, Any]], asked: list[Asked]) -> dict[int, dict[str, Any]]:
    """By the number of the request; each has one at most."""
    numbers = {each.request_id: each.number for each in asked if each.request_id}
    by_number: dict[int, dict[str, Any]] = {}
    for row in found:
        number = numbers.get(row["request_id"])
        if number is None:
            number = int(row["session"].removeprefix("s"))
        assert number not in by_number, "counted twice"
        by_number[number] = row
    return by_number


async def test_the_ledger_is_what_upstreams_reported(upstream: FaultyUpstream, books: Books, tmp_path: Path) -> None:
    """O1, O2, P5: requests of every fate; the gateway is killed in their middle, and started again."""
    config = CONFIG.format(providers=providers(upstream.url))
    with team(tmp_path, config, **MEMBERS) as (gateway, texts):
        crowd = Crowd(gateway, books, texts)
        asking = asyncio.create_task(crowd.ask_all(range(REQUESTS)))
        await crowd.half.wait()
        assert gateway.process is not None
        gateway.process.kill()
        killed = time.monotonic()
        await asking
    before = rows_of(rows(tmp_path), crowd.asked)
    must = [each for each in crowd.asked if each.plan not in LEFT and 0 < each.ended < killed - SETTLED_SECONDS]
    assert len(must) >= REQUESTS // 20
    assert not {each.number for each in must} - before.keys()
    first = len(crowd.asked)
    with service(tmp_path, config=None) as crowd.gateway:
        await crowd.ask_all(range(first, REQUESTS))
        found = rows_of(await settled(tmp_path, len(before) + REQUESTS - first), crowd.asked)
        await check_metrics(crowd.gateway, [found[number] for number in range(first, REQUESTS)])
    assert {number: found[number] for number in before} == before
    for each in crowd.asked:
        if each.number in found:
            check_row(found[each.number], each, books)
    assert {row["outcome"] for row in found.values()} == set(get_args(Outcome))
    check_sums(tmp_path, found, books)


# -- streams that are left (S5) ----------------------------------------------------------------------------


@pytest.mark.parametrize("provider", BOTH)
async def test_an_aborted_stream_is_paid_for(
    upstream: FaultyUpstream, books: Books, tmp_path: Path, provider: str
) -> None:
    """S5: the prompt as reported, where it was; and an estimate of what was said."""
    config = CONFIG.format(providers=providers(upstream.url))
    with team(tmp_path, config, anna="") as (gateway, texts):
        crowd = Crowd(gateway, books, texts)
        async with ClientSession(timeout=PATIENCE) as session:
            for number, plan in ((1, "held"), (2, "silent")):
                await crowd.ask(session, Asked(number, plan, "anna"), provider)
        found = {row["session"]: row for row in await settled(tmp_path, 2)}
    assert {row["outcome"] for row in found.values()} == {"client_closed"}
    assert [found[name]["status"] for name in ("s1", "s2")] == [200, 499]
    for row in found.values():
        tokens = tokens_in(row)
        assert row["estimated"]
        assert Decimal(row["cost"]).scaleb(-9) == dollars(provider, tokens) > 0
    if provider == "ant":
        assert tokens_in(found["s1"])[:3] == tokens_of(1, "messages")[:3]
    assert tokens_in(found["s1"]).output > 0


# -- the access log (O5) -----------------------------------------------------------------------------------

ECHOES = "providers: {echo: {}}\nmodels: {sonnet: echo/echo}\n"
PROMPT = "zebra-words-of-the-prompt"
SAID = ("key", "user", "outcome", "status", "target", "input_tokens", "output_tokens", "attempts")


async def test_one_line_for_each_request(upstream: FaultyUpstream, books: Books, tmp_path: Path) -> None:
    """O5: of every fate, refused ones too; with id and name of the key, and no word of a prompt."""
    config = CONFIG.format(providers=providers(upstream.url))
    count = 8 * len(PLANS)
    with team(tmp_path, config, "--log-format", "json", "--log-level", "debug", **MEMBERS) as (gateway, texts):
        crowd = Crowd(gateway, books, texts, PROMPT)
        await crowd.ask_all(range(count))
        found = rows_of(await settled(tmp_path, count), crowd.asked)
        gateway.signal(signal.SIGTERM)
        await gateway.exit_status()
        log = gateway.log()
    lines = [json.loads(line) for line in log.splitlines()]
    said = [line for line in lines if line["logger"] == "gateway.access"]
    assert sorted(line["request_id"] for line in said) == sorted(row["request_id"] for row in found.values())
    recorded = {row["request_id"]: row for row in found.values()}
    for line in said:
        assert {name: line[name] for name in SAID} == {name: recorded[line["request_id"]][name] for name in SAID}
    assert {line["key"] for line in said} == {"", *MEMBERS}
    assert PROMPT not in log


async def test_a_line_for_what_asks_no_upstream(tmp_path: Path) -> None:
    """Tokens counted, names listed, paths that nobody has; none for what comes by the clock. No row for any of them."""
    with team(tmp_path, ECHOES, "--log-format", "json", anna="") as (gateway, texts):
        gateway.token = texts["anna"]
        wanted = []
        for method, path, status in (
            ("POST", "/v1/messages/count_tokens", 200),
            ("GET", "/v1/models", 200),
            ("GET", "/v1/models/sonnet", 200),
            ("GET", "/v1/nowhere", 404),
            ("HEAD", "/", 200),
            ("GET", "/healthz", 200),
        ):
            answer = await gateway.send(method, path, turn("sonnet") if method == "POST" else None)
            assert answer.status == status
            wanted.append((answer.headers["request-id"], method, path, status))
        last = wanted[3][0]
        await until(lambda: asyncio.sleep(0, last in gateway.log()))
        log = gateway.log()
    said = [line for line in map(json.loads, log.splitlines()) if line["logger"] == "gateway.access"]
    names = ("request_id", "method", "path", "status")
    assert [tuple(line.get(name) for name in names) for line in said[:3]] == wanted[:3]
    assert {(line["key"], line["client"]) for line in said[:3]} == {("anna", "127.0.0.1")}
    assert [(line["request_id"], line["status"], line["error"]) for line in said[3:]] == [
        (wanted[3][0], 404, "Not Found")
    ]
    assert rows(tmp_path) == []


async def test_who_leaves_before_the_body_is_whole_is_on_record(tmp_path: Path) -> None:
    with team(tmp_path, ECHOES, anna="") as (gateway, texts):
        reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
        head = "POST /v1/messages HTTP/1.1\r\nhost: localhost\r\nexpect: 100-continue\r\ncontent-length: 99\r\n"
        writer.write(f"{head}x-api-key: {texts['anna']}\r\n\r\n".encode())
        assert b" 100 " in await reader.readuntil(b"\r\n\r\n")
        writer.write(b'{"model"')
        writer.close()
        (row,) = await settled(tmp_path, 1)
        log = gateway.log()
    said = {"outcome": "client_closed", "status": 499, "key": "anna", "target": "", "cost": None}
    assert {name: row[name] for name in said} == said
    assert f"{row['request_id']} 499 client_closed: the client left before its request was whole" in log
