"""What a key may ask for (X14), how often (X15), how much at a time (X16) and for how much (X17), and that one user's
streams do not slow another's (O7). From outside."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator, Mapping
from contextlib import AsyncExitStack

import pytest

from gateway.access.key_text import digest, make
from tests.server.faulty_upstream import FaultyUpstream, beginning, stream, whole
from tests.server.gateway_process import Gateway, Reply, open_stream, running_gateway, turn, until

CONFIG = """\
providers:
  lab: {{api: openai-chat, base_url: "{url}/v1", profile: {{price: {{input: 1, output: 2}}}}}}
  capped: {{api: openai-chat, base_url: "{url}/v1", limits: {{rpm: 1}}}}
  poor: {{api: openai-chat, base_url: "{url}/v1", limits: {{budget: 10 tokens/day}}}}
  narrow: {{api: openai-chat, base_url: "{url}/v1", profile: {{max_concurrency: 4}}}}
  echo: {{}}
models:
  sonnet: echo/echo
  opus: echo/opus
  haiku: echo/haiku
  capped: [capped/capped, echo/instead]
  poor: [poor/poor, echo/instead]
groups:
  interns: {{models: [sonnet, haiku, "lab/*"], routes: {{haiku: echo/for-interns}}}}
  pair: {{rpm: 2}}
"""
KEYS: Mapping[str, str] = {
    "free": "",
    "open": "",
    "intern": "group: interns",
    "narrowed": "group: interns, models: [haiku, opus]",
    "reader": "models: [sonnet]",
    **{f"once-{number}": "rpm: 1" for number in range(5)},
    "large": "tpm: 1k",
    "first-of-pair": "group: pair, rpm: 100",
    "second-of-pair": "group: pair",
    "two-at-a-time": "concurrency: 2",
    "tokens": "concurrency: 4, budget: 100 tokens/day",
    "money": "concurrency: 1, budget: [1usd/month, 0.0001usd/day]",
}
SECRETS = {name: make(name.encode().ljust(32)) for name in KEYS}
TURN_TOKENS = 16
"""Of every whole answer of the upstream."""


@pytest.fixture(scope="module")
def team(upstream: FaultyUpstream, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    folder = tmp_path_factory.mktemp("team")
    entries = "".join(
        f"  {name}: {{sha256: {digest(secret).hex()}{', ' if KEYS[name] else ''}{KEYS[name]}}}\n"
        for name, secret in SECRETS.items()
    )
    (folder / "keys.yaml").write_text(f"keys:\n{entries}")
    (folder / "keys.yaml").chmod(0o600)
    for name in ("capped", "poor"):
        upstream.script(stream(*whole("chat", "Hi")), name)
    with running_gateway(folder, CONFIG.format(url=upstream.url)) as process:
        yield process
        assert "Traceback" not in process.log()


def as_user(gateway: Gateway, name: str) -> Gateway:
    return Gateway(gateway.url, SECRETS[name], gateway.process, gateway.log_file)


def retry_after(reply: Reply, words: str) -> int:
    """Of a refusal for now."""
    assert words in reply.error(429, "rate_limit_error")
    assert "x-should-retry" not in reply.headers
    return int(reply.headers["retry-after"])


# -- names (X14) ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "model", "goes_to"),
    [
        ("free", "opus", "echo/opus"),
        ("free", "haiku", "echo/haiku"),
        ("intern", "sonnet", "echo/echo"),
        ("intern", "claude-sonnet-5-5", "echo/echo"),
        ("intern", "haiku", "echo/for-interns"),
        ("intern", "opus", None),
        ("intern", "claude-opus-5-5[1m]", None),
        ("intern", "echo/echo", None),
        ("intern", "nobody", None),
        ("narrowed", "claude-haiku-4-5", "echo/for-interns"),
        ("narrowed", "opus", None),
        ("narrowed", "sonnet", None),
        ("reader", "sonnet", "echo/echo"),
        ("reader", "lab/any", None),
    ],
)
async def test_a_name_is_open_or_not(team: Gateway, name: str, model: str, goes_to: str | None) -> None:
    user = as_user(team, name)
    for answer in (await user.ask(model), await user.ask(model, stream=False)):
        if goes_to is None:
            assert f"is not open to the key {name}" in answer.error(403, "permission_error")
        else:
            assert (answer.status, answer.headers["x-gateway-target"]) == (200, goes_to)
    counted = await user.send("POST", "/v1/messages/count_tokens", turn(model))
    assert counted.status == (403 if goes_to is None else 200)


@pytest.mark.parametrize(
    ("name", "listed"),
    [
        ("intern", {"sonnet", "claude-sonnet", "haiku", "claude-haiku"}),
        ("narrowed", {"haiku", "claude-haiku"}),
        ("reader", {"sonnet", "claude-sonnet"}),
    ],
)
async def test_what_is_not_open_is_not_listed(team: Gateway, name: str, listed: set[str]) -> None:
    models = (await as_user(team, name).send("GET", "/v1/models")).json["data"]
    assert {model["id"] for model in models} == listed
    for model in ("opus", "sonnet", "haiku"):
        one = await as_user(team, name).send("GET", f"/v1/models/{model}")
        assert one.status == (200 if model in listed else 403)


async def test_a_refused_name_reaches_no_upstream(team: Gateway, upstream: FaultyUpstream) -> None:
    script = upstream.script(stream(*whole("chat", "Hi")))
    (await as_user(team, "reader").ask(f"lab/{script.model}")).error(403, "permission_error")
    assert script.visits == []


# -- rates (X15) ---------------------------------------------------------------------------------------


def forms(secret: str) -> list[tuple[str, bool, dict[str, str]]]:
    """Path, streamed, headers: the ways in which clients ask."""
    by_key, by_bearer = {"x-api-key": secret}, {"authorization": f"Bearer {secret}"}
    return [
        ("/v1/messages?beta=true", True, by_key),
        ("/v1/messages?beta=true", False, by_key),
        ("/v1/messages", True, by_bearer),
        ("/v1/messages", False, by_bearer),
        ("/v1/messages?beta=true", True, {**by_key, **by_bearer}),
    ]


async def in_form(gateway: Gateway, form: tuple[str, bool, dict[str, str]], model: str) -> Reply:
    path, streamed, headers = form
    return await gateway.send("POST", path, turn(model, stream=streamed), headers)


@pytest.mark.parametrize("first", range(5))
async def test_a_rate_holds_however_it_is_asked(team: Gateway, upstream: FaultyUpstream, first: int) -> None:
    script = upstream.script(stream(*whole("chat", "Hi")))
    asked = forms(SECRETS[f"once-{first}"])
    begin = time.monotonic()
    assert (await in_form(team, asked[first], f"lab/{script.model}")).status == 200
    for form in asked:
        wait = retry_after(await in_form(team, form, f"lab/{script.model}"), "1 request a minute")
        assert 60 - (time.monotonic() - begin) <= wait <= 60
    assert len(script.visits) == 1
    for form in forms(SECRETS["free"]):
        assert (await in_form(team, form, "sonnet")).status == 200


async def test_the_estimated_prompt_is_charged_at_once(team: Gateway) -> None:
    user = as_user(team, "large")
    long = "word " * 3_000
    assert (await user.ask("sonnet", prompt=long)).status == 200
    assert retry_after(await user.ask("sonnet"), "1,000 tokens a minute") > 60
    # What Claude Code does by itself to see how large a prompt is costs nothing.
    assert (await user.send("POST", "/v1/messages/count_tokens", turn("sonnet", long))).status == 200


async def test_a_group_has_its_rate_together(team: Gateway) -> None:
    first, second = as_user(team, "first-of-pair"), as_user(team, "second-of-pair")
    assert [(await user.ask("sonnet")).status for user in (first, second)] == [200, 200]
    for user in (first, second):
        retry_after(await user.ask("sonnet"), "group pair (all its keys together), 2 requests a minute")


# -- places (X16) --------------------------------------------------------------------------------------


async def test_a_place_is_free_when_a_client_leaves(team: Gateway, upstream: FaultyUpstream) -> None:
    script = upstream.script(stream(*beginning("chat", "Hello"), ending="open"))
    user = as_user(team, "two-at-a-time")
    async with AsyncExitStack() as all_streams:
        async with AsyncExitStack() as one_stream:
            for held in (all_streams, one_stream):
                response = await held.enter_async_context(open_stream(user, f"lab/{script.model}"))
                assert (response.status, await response.content.readany() != b"") == (200, True)
            assert retry_after(await user.ask("sonnet"), "2 requests at a time") == 5
            assert (await as_user(team, "free").ask("sonnet")).status == 200
        left = time.monotonic()

        async def admitted() -> bool:
            return (await user.ask("sonnet")).status == 200

        await until(admitted)
        assert time.monotonic() - left <= 2


# -- budgets (X17) -------------------------------------------------------------------------------------


async def test_tokens_are_overshot_by_at_most_one_request_for_each_place(
    team: Gateway, upstream: FaultyUpstream
) -> None:
    script = upstream.script(stream(*whole("chat", "Hi")))
    user = as_user(team, "tokens")

    async def client() -> Reply:
        while True:
            answer = await user.ask(f"lab/{script.model}")
            if answer.status != 200:
                return answer

    for answer in await asyncio.gather(*(client() for _ in range(4))):
        message = answer.error(402, "billing_error")
        assert "the budget of key tokens, 100 tokens a day, is spent (1" in message
        assert message.endswith("Ask whoever runs this gateway for more")
        assert answer.headers["x-should-retry"] == "false"
        assert "retry-after" not in answer.headers
    assert 100 <= TURN_TOKENS * len(script.visits) < 100 + 4 * TURN_TOKENS
    assert (await as_user(team, "free").ask("sonnet")).status == 200


async def test_money(team: Gateway, upstream: FaultyUpstream) -> None:
    """Eleven tokens in and five out are 21 micro-dollars; of 100 the fifth takes the rest."""
    script = upstream.script(stream(*whole("chat", "Hi")))
    user = as_user(team, "money")
    statuses = [(await user.ask(f"lab/{script.model}", stream=False)).status for _ in range(6)]
    assert statuses == [200] * 5 + [402]
    assert "0.0001 USD a day, is spent (0.000105 USD)" in (await user.ask("sonnet")).error(402, "billing_error")


# -- providers -----------------------------------------------------------------------------------------


async def test_a_provider_at_its_limit_is_passed_over(team: Gateway) -> None:
    user = as_user(team, "open")
    assert (await user.ask("capped")).headers["x-gateway-target"] == "capped/capped"
    for _ in range(7):
        answer = await user.ask("capped")
        assert (answer.status, answer.headers["x-gateway-target"]) == (200, "echo/instead")
    alone = await user.ask("capped/capped")
    assert 0 < retry_after(alone, "the limit of provider capped, 1 request a minute, is reached") <= 60


async def test_a_provider_whose_budget_is_spent_is_passed_over(team: Gateway) -> None:
    user = as_user(team, "open")
    targets = [(await user.ask("poor")).headers["x-gateway-target"] for _ in range(3)]
    assert targets == ["poor/poor", "echo/instead", "echo/instead"]
    assert "the budget of provider poor, 10 tokens a day" in (await user.ask("poor/poor")).error(402, "billing_error")


# -- fairness (O7) -------------------------------------------------------------------------------------

STREAMS, TURNS = 60, 40


async def test_sixty_streams_of_one_user_do_not_slow_another(team: Gateway, upstream: FaultyUpstream) -> None:
    script = upstream.script(stream(*beginning("chat", "Hello"), ending="open"))
    quick = upstream.script(stream(*whole("chat", "Hi")))
    other, waits = as_user(team, "open"), []
    async with AsyncExitStack() as held:
        for _ in range(STREAMS):
            response = await held.enter_async_context(open_stream(as_user(team, "free"), f"lab/{script.model}"))
            assert response.status == 200
        for _ in range(TURNS):
            begin = time.monotonic()
            assert (await other.ask(f"lab/{quick.model}")).status == 200
            waits.append(time.monotonic() - begin)
    p90 = sorted(waits)[TURNS * 9 // 10 - 1]
    print(f"one turn beside {STREAMS} streams of another user: p90 {p90 * 1e3:.1f} ms")
    assert p90 < 0.25
