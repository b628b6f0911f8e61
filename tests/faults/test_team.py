"""What a team may do, and how much: names and routes (X14), rates (X15), places (X16), budgets (X17); a key that is
replaced (X5). From outside, with keys that ``gateway keys add`` made."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from aiohttp import ClientSession

from tests.faults.metered import takes
from tests.faults.team import keys, providers, settled, team, x_api_key
from tests.server.faulty_upstream import Connection, FaultyUpstream, Script, beginning, stream, whole
from tests.server.gateway_process import PATIENCE, Gateway, Reply, turn, until
from tests.server.service import service

IN_FORCE_SECONDS = 2.2
"""After which a change of the keys counts (X5)."""
FREED_SECONDS = 2.0
"""After which the place of a client that left is free (X16)."""


async def held(connection: Connection) -> None:
    """An answer that begins, and goes on until it is left."""
    await connection.start()
    await connection.chunk(b"".join(beginning("chat", "Hel")))
    await connection.gone.wait()


# -- names and routes (X14) --------------------------------------------------------------------------------

NAMES = """\
providers:
{providers}\
models:
  sonnet: lab/{staff}
  haiku: lab/{small}
  opus: lab/{large}
  "lab-*": lab
groups:
  interns: {{models: [sonnet, haiku], routes: {{sonnet: lab/{intern}}}}}
"""
MEMBERS = {
    "anna": "",
    "ina": "--group interns",
    "ivo": "--group interns --models haiku,opus",
    "bot": "--models haiku,lab-*,lab/*",
}
TARGETS = ("staff", "small", "large", "intern")
MAY: dict[str, dict[str, str]] = {
    "anna": {
        **{"sonnet": "staff", "claude-sonnet-5-5[1m]": "staff", "haiku": "small", "opus": "large"},
        **{"claude-3-opus-latest": "large", "lab/{intern}": "intern"},
    },
    "ina": {"sonnet": "intern", "claude-sonnet-5-5[1m]": "intern", "claude-3-5-haiku-20241022": "small"},
    "ivo": {"haiku": "small"},
    "bot": {"haiku": "small", "lab/{large}": "large"},
}
"""Key -> what it may ask for, and where that goes."""
MAY_NOT = {
    "ina": ("opus", "claude-opus-4-5", "lab/{staff}", "lab-9", "nobody", "default"),
    "ivo": ("sonnet", "opus", "claude-sonnet-5-5", "lab/{small}", "nobody"),
    "bot": ("sonnet", "opus", "claude-opus-4-5", "ant/m", "echo/echo", "nobody"),
}
LISTED = {
    "anna": {"claude-sonnet", "sonnet", "claude-haiku", "haiku", "claude-opus", "opus"},
    "ina": {"claude-sonnet", "sonnet", "claude-haiku", "haiku"},
    "ivo": {"claude-haiku", "haiku"},
    "bot": {"claude-haiku", "haiku"},
}

Office = tuple[Gateway, dict[str, str], dict[str, Script]]


@pytest.fixture(scope="module")
def office(upstream: FaultyUpstream, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Office]:
    scripts = {name: upstream.script(stream(*whole("chat", "Hi"))) for name in TARGETS}
    models = {name: script.model for name, script in scripts.items()}
    config = NAMES.format(providers=providers(upstream.url), **models)
    with team(tmp_path_factory.mktemp("office"), config, **MEMBERS) as (gateway, texts):
        yield gateway, texts, scripts


def spelled(name: str, scripts: Mapping[str, Script]) -> str:
    return name.format(**{target: script.model for target, script in scripts.items()})


@pytest.mark.parametrize("member", MEMBERS)
async def test_a_name_goes_where_it_goes_for_that_key(office: Office, member: str) -> None:
    gateway, texts, scripts = office
    headers = x_api_key(texts[member])
    for name, target in MAY[member].items():
        asked = spelled(name, scripts)
        for streamed in (True, False):
            answer = await gateway.ask(asked, stream=streamed, headers=headers)
            assert answer.status == 200
            assert answer.headers["x-gateway-target"] == f"lab/{scripts[target].model}"
        assert (await gateway.send("GET", f"/v1/models/{asked}", None, headers)).json["id"] == asked
        assert (await gateway.send("POST", "/v1/messages/count_tokens", turn(asked), headers)).status == 200


@pytest.mark.parametrize("member", MAY_NOT)
async def test_what_is_not_open_is_refused_and_asked_of_nobody(office: Office, member: str) -> None:
    gateway, texts, scripts = office
    headers = x_api_key(texts[member])
    before = sum(len(script.visits) for script in scripts.values())
    for name in MAY_NOT[member]:
        asked = spelled(name, scripts)
        answers = [await gateway.ask(asked, stream=streamed, headers=headers) for streamed in (True, False)]
        answers.append(await gateway.send("POST", "/v1/messages/count_tokens", turn(asked), headers))
        answers.append(await gateway.send("GET", f"/v1/models/{asked}", None, headers))
        for answer in answers:
            message = answer.error(403, "permission_error")
            assert f"is not open to the key {member}" in message
            told = set(message.partition("It may ask for: ")[2].split(", "))
            assert told <= LISTED[member]
    assert sum(len(script.visits) for script in scripts.values()) == before


@pytest.mark.parametrize("member", MEMBERS)
async def test_only_what_is_open_is_listed(office: Office, member: str) -> None:
    gateway, texts, _ = office
    headers = x_api_key(texts[member])
    for how in (headers, {"authorization": f"Bearer {texts[member]}"}):
        listed = (await gateway.send("GET", "/v1/models?limit=1000", None, how)).json["data"]
        assert {model["id"] for model in listed} == LISTED[member]


# -- a key that is replaced (X5) ---------------------------------------------------------------------------


@pytest.mark.parametrize("workers", ["1", "2"])
async def test_a_replaced_key_works_for_the_grace_time_only(tmp_path: Path, workers: str) -> None:
    config = "providers: {echo: {}}\nmodels: {sonnet: echo/echo}\n"
    with team(tmp_path, config, "--workers", workers, anna="") as (gateway, texts):

        async def admitted(key: str) -> bool:
            """By each of the workers, as far as eight connections come to all of them."""
            statuses = {(await gateway.send("GET", "/v1/models", None, x_api_key(key))).status for _ in range(8)}
            assert statuses <= {200, 401}
            return statuses == {200}

        begun = time.monotonic()
        new = keys(tmp_path, "rotate", "anna", "--grace", "4s")
        rotated = time.monotonic()
        await until(lambda: admitted(new))
        assert time.monotonic() - rotated < IN_FORCE_SECONDS
        assert await admitted(texts["anna"])

        async def over() -> bool:
            answer = await gateway.ask("sonnet", headers=x_api_key(texts["anna"]))
            return answer.status == 401 and "was replaced by a new one" in answer.error(401, "authentication_error")

        await until(over)
        # The end in the file is a whole second.
        assert time.monotonic() - begun > 2.9
        assert time.monotonic() - rotated < 4 + IN_FORCE_SECONDS
        assert await admitted(new)


# -- rates (X15) -------------------------------------------------------------------------------------------

RATES = """\
providers:
{providers}\
models: {{sonnet: lab/{model}}}
groups:
  interns: {{rpm: 3}}
"""
FORMS: dict[str, tuple[bool, dict[str, str]]] = {
    "streamed": (True, {"x-api-key": "{}"}),
    "not streamed": (False, {"x-api-key": "{}"}),
    "Bearer": (True, {"authorization": "Bearer {}"}),
    "Bearer, not streamed": (False, {"authorization": "bearer {}"}),
    "both": (True, {"x-api-key": "{}", "authorization": "Bearer {}"}),
}
"""Streamed or not, and the headers of the key."""


async def ask_as(gateway: Gateway, key: str, form: str, prompt: str = "Hello") -> Reply:
    streamed, headers = FORMS[form]
    path = "/v1/messages?beta=true" if form == "both" else "/v1/messages"
    sent = {name: value.format(key) for name, value in headers.items()}
    return await gateway.send("POST", path, turn("sonnet", prompt, stream=streamed), sent)


def limited(answer: Reply, whose: str) -> int:
    """Seconds to wait, as the refusal says in words and in a header."""
    message = answer.error(429, "rate_limit_error")
    seconds = int(answer.headers["retry-after"])
    assert message.startswith(f"the limit of {whose}, ")
    assert f"try again in {seconds} second" in message
    assert "x-should-retry" not in answer.headers
    return seconds


async def test_requests_a_minute_in_all_forms(upstream: FaultyUpstream, tmp_path: Path) -> None:
    script = upstream.script(stream(*whole("chat", "Hi")))
    config = RATES.format(providers=providers(upstream.url), model=script.model)
    added = {"anna": "--rpm 5", "ben": "", "ina": "--group interns", "ivo": "--group interns"}
    with team(tmp_path, config, **added) as (gateway, texts):
        for form in FORMS:
            assert (await ask_as(gateway, texts["anna"], form)).status == 200
        for form in FORMS:
            seconds = limited(await ask_as(gateway, texts["anna"], form), "key anna")
            assert 1 <= seconds <= 12
        assert len(script.visits) == 5
        # What asks no upstream is free, and others notice nothing.
        for path in ("/v1/messages/count_tokens", "/v1/models"):
            body = turn("sonnet") if "count" in path else None
            answer = await gateway.send("POST" if body else "GET", path, body, x_api_key(texts["anna"]))
            assert answer.status == 200
        for form in FORMS:
            assert (await ask_as(gateway, texts["ben"], form)).status == 200
        # A group's limit is one for all its keys.
        answers = [await ask_as(gateway, texts[name], "streamed") for name in ("ina", "ivo", "ina", "ivo", "ina")]
        assert [answer.status for answer in answers] == [200, 200, 200, 429, 429]
        assert limited(answers[3], "group interns (all its keys together)") <= 20
        outcomes = Counter((row["key"], row["outcome"]) for row in await settled(tmp_path, 20))
    assert outcomes == {
        ("anna", "ok"): 5, ("anna", "limited"): 5, ("ben", "ok"): 5, ("ina", "ok"): 2, ("ina", "limited"): 1,
        ("ivo", "ok"): 1, ("ivo", "limited"): 1,
    }  # fmt: skip


async def test_after_the_wait_that_was_told_it_goes_on(upstream: FaultyUpstream, tmp_path: Path) -> None:
    script = upstream.script(stream(*whole("chat", "Hi")))
    config = RATES.format(providers=providers(upstream.url), model=script.model)
    with team(tmp_path, config, anna="--rpm 40") as (gateway, texts):
        answers = await asyncio.gather(*(ask_as(gateway, texts["anna"], "not streamed") for _ in range(60)))
        seconds = limited(next(answer for answer in answers if answer.status != 200), "key anna")
        assert seconds <= 2
        await asyncio.sleep(seconds)
        assert (await ask_as(gateway, texts["anna"], "streamed")).status == 200


async def test_tokens_a_minute(upstream: FaultyUpstream, tmp_path: Path) -> None:
    """What an answer really took counts, not what its prompt looked like; until it is known, the prompt does."""
    gate = upstream.gate()

    async def later(connection: Connection) -> None:
        await gate.wait()
        await stream(*takes(300, 1200))(connection)

    script = upstream.script(later)
    config = RATES.format(providers=providers(upstream.url), model=script.model)
    with team(tmp_path, config, anna="--tpm 1k", ben="", ida="--tpm 1k") as (gateway, texts):
        asked = [
            asyncio.create_task(ask_as(gateway, texts[name], "streamed", prompt))
            for name, prompt in (("anna", "Hello"), ("ida", "word " * 800), ("ben", "Hello"))
        ]
        for _ in asked:
            await script.visit()
        limited(await ask_as(gateway, texts["ida"], "streamed"), "key ida")
        gate.open()
        assert [answer.status for answer in await asyncio.gather(*asked)] == [200] * 3
        for form in FORMS:
            assert 15 <= limited(await ask_as(gateway, texts["anna"], form), "key anna") <= 31
            assert (await ask_as(gateway, texts["ben"], form)).status == 200


# -- places (X16) ------------------------------------------------------------------------------------------


async def test_a_place_is_free_soon_after_its_client_left(upstream: FaultyUpstream, tmp_path: Path) -> None:
    script = upstream.script(held)
    config = RATES.format(providers=providers(upstream.url), model=script.model)
    with team(tmp_path, config, anna="--concurrency 3", ben="") as (gateway, texts):
        async with ClientSession(timeout=PATIENCE) as session:

            async def begin(name: str) -> Any:
                url, body = f"{gateway.url}/v1/messages", turn("sonnet", stream=True)
                return await session.post(url, json=body, headers=x_api_key(texts[name]))

            begun = [await begin("anna") for _ in range(3)]
            assert [answer.status for answer in begun] == [200] * 3
            for form in FORMS:
                refused = await ask_as(gateway, texts["anna"], form)
                message = refused.error(429, "rate_limit_error")
                assert "3 requests at a time" in message
                assert int(refused.headers["retry-after"]) >= 1
            others = [await begin("ben") for _ in range(5)]
            assert [answer.status for answer in others] == [200] * 5
            for leaving in range(3):
                left = time.monotonic()
                begun[leaving].close()
                again = await begin("anna")
                while again.status == 429:
                    assert time.monotonic() - left <= FREED_SECONDS
                    again = await begin("anna")
                assert again.status == 200
                begun.append(again)
            assert (await begin("anna")).status == 429
            for answer in (*begun, *others):
                answer.close()


# -- budgets (X17) -----------------------------------------------------------------------------------------

AT_ONCE = 4
BUDGETS = {"tokens": ("10ktokens/day", "10,000 tokens a day"), "money": ("0.02usd/month", "0.02 USD a month")}
ONE_TOKENS, ONE_DOLLARS = 1500, 0.003
"""What one request takes; the prices make it so."""
COST = """\
providers:
  lab: {{api: openai-chat, base_url: "{url}/v1", profile: {{price: {{input: 2, output: 2}}}}}}
models: {{sonnet: lab/{model}}}
"""


def spent(answer: Reply, words: str) -> None:
    message = answer.error(402, "billing_error")
    assert message.startswith(f"the budget of key anna, {words}, is spent (")
    assert "it begins anew on " in message
    assert message.endswith("(UTC). Ask whoever runs this gateway for more")
    assert answer.headers["x-should-retry"] == "false"
    assert "retry-after" not in answer.headers


@pytest.mark.parametrize(("budget", "words"), BUDGETS.values(), ids=BUDGETS)
async def test_a_budget_ends_in_time_and_a_restart_does_not_renew_it(
    upstream: FaultyUpstream, tmp_path: Path, budget: str, words: str
) -> None:
    """Over by one request for each place at most; known again to the process after one that was killed."""
    script = upstream.script(stream(*takes(500, 1000)))
    config = COST.format(url=upstream.url, model=script.model)
    options = f"--budget {budget} --concurrency {AT_ONCE}"
    with team(tmp_path, config, anna=options, ben="") as (gateway, texts):

        async def spend() -> list[Reply]:
            return [await ask_as(gateway, texts["anna"], "streamed") for _ in range(10)]

        answers = [answer for asked in await asyncio.gather(*(spend() for _ in range(AT_ONCE))) for answer in asked]
        served = sum(answer.status == 200 for answer in answers)
        enough = 7
        """Requests that spend it: 10,500 tokens, or 0.021 dollars."""
        assert enough <= served <= enough - 1 + AT_ONCE
        assert len(script.visits) == served
        for answer in answers:
            if answer.status != 200:
                spent(answer, words)
        for form in FORMS:
            spent(await ask_as(gateway, texts["anna"], form), words)
            assert (await ask_as(gateway, texts["ben"], form)).status == 200
        taken = [row for row in await settled(tmp_path, 4 * 10 + 10) if row["key"] == "anna"]
        assert sum(row["input_tokens"] + row["output_tokens"] for row in taken) == served * ONE_TOKENS
        assert sum(row["cost"] for row in taken) == round(served * ONE_DOLLARS * 1e9)
        assert {row["outcome"] for row in taken} == {"ok", "limited"}
        visits = len(script.visits)
        assert gateway.process is not None
        gateway.process.kill()
    with service(tmp_path, config=None) as again:
        # From the first moment on.
        asked = [ask_as(again, texts["anna"], form) for form in FORMS for _ in range(8)]
        for answer in await asyncio.gather(*asked):
            spent(answer, words)
        assert len(script.visits) == visits
