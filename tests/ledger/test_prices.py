"""Prices are found or not, never guessed; costs are exact."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import date
from decimal import ROUND_HALF_EVEN, Decimal, localcontext
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from gateway.config import ConfigError, loads
from gateway.config.presets import built_in
from gateway.ledger.prices import PriceRow, Rates, Tariff, cost, price_of, price_table
from gateway.profile import Dollars, Price
from gateway.routing import Target
from tests.cli.gateway_command import run


class Counts(NamedTuple):
    """As translate.usage.Usage counts."""

    input_tokens: int = 0
    output_tokens: int = 0
    cache_read_tokens: int = 0
    cache_write_tokens: int = 0


# -- costs -----------------------------------------------------------------------------------------------

AMOUNTS = st.tuples(st.integers(0, 999_999), st.integers(0, 999_999)).map(lambda pair: f"{pair[0]}.{pair[1]:06}")
TOKENS = st.integers(0, 10**7)


def in_decimal(counts: Counts, amounts: tuple[str, str, str, str]) -> int:
    """The same sum in decimal, from the texts."""
    with localcontext() as context:
        context.prec = 60
        dollars = sum(tokens * Decimal(amount) for tokens, amount in zip(counts, amounts, strict=True)) / 10**6
        return int((dollars * 10**9).quantize(Decimal(1), ROUND_HALF_EVEN))


@settings(deadline=None)
@given(counts=st.builds(Counts, TOKENS, TOKENS, TOKENS, TOKENS), amounts=st.tuples(AMOUNTS, AMOUNTS, AMOUNTS, AMOUNTS))
@example(counts=Counts(1), amounts=("0.000500", "0.0", "0.0", "0.0"))
@example(counts=Counts(3), amounts=("0.000500", "0.0", "0.0", "0.0"))
@example(counts=Counts(1), amounts=("0.000501", "0.0", "0.0", "0.0"))
@example(counts=Counts(10**7, 10**7, 10**7, 10**7), amounts=("999999.999999",) * 4)
def test_a_cost_is_that_of_decimal_arithmetic(counts: Counts, amounts: tuple[str, str, str, str]) -> None:
    fresh, output, read, written = map(Dollars.from_text, amounts)
    assert cost(counts, (Rates(0, fresh, output, read, written),)) == in_decimal(counts, amounts)


LONG: Tariff = (Rates(0, 1000, 2000, 100, 1250), Rates(200_000, 2000, 3000, 200, 2500))


@pytest.mark.parametrize(
    ("counts", "nanodollars"),
    [
        (Counts(), 0),
        (Counts(1, 1), 3),
        (Counts(200_000), 200_000),
        (Counts(200_001), 400_002),
        (Counts(1, 1, 200_000), 2 + 3 + 40_000),
        (Counts(100_000, 0, 100_000, 1), 200_000 + 20_000 + 2),
        (Counts(0, 300_000), 600_000),
    ],
)
def test_a_long_prompt_has_rates_of_its_own(counts: Counts, nanodollars: int) -> None:
    """Read, written and fresh tokens make the prompt; the answer does not."""
    assert cost(counts, LONG) == nanodollars


def test_without_a_price_there_is_no_cost() -> None:
    assert cost(Counts(1, 1), None) is None


# -- whose price ------------------------------------------------------------------------------------------


def target(provider: str, model: str, profile: str = "{}", at: str = "") -> Target:
    section = f"{{api_key: k, profile: {profile}{at}}}"
    text = f"providers: {{{provider}: {section}}}\nmodels: {{default: '{provider}/{model}'}}"
    return loads(text.encode(), "providers.yaml", {}).table.resolve("x").targets[0]


def first(tariff: Tariff | None) -> tuple[float, ...] | None:
    """Dollars for a million tokens."""
    return tariff and tuple(amount / 10**6 for amount in tariff[0][1:])


@pytest.mark.parametrize(
    ("provider", "model", "price"),
    [
        ("anthropic", "claude-haiku-4-5", (1, 5, 0.1, 1.25)),
        ("anthropic", "claude-haiku-4-5-20251001", (1, 5, 0.1, 1.25)),
        ("openai", "gpt-5.6-sol-2026-07-09", (4, 20, 0.4, 5)),
        ("openai", "GPT-4.1", (2, 8, 0.5, 2)),
        ("openai", "gpt-5.6-not-known", None),
        ("openai", "gpt-5.6-sol-2026", None),
        ("minimax", "MiniMax-M2.7", (0.3, 1.2, 0.06, 0.375)),
        ("openrouter", "some/model:free", (0, 0, 0, 0)),
        ("openrouter", "some/model", None),
        ("ollama", "qwen3:8b", None),
    ],
)
def test_the_table(provider: str, model: str, price: tuple[float, ...] | None) -> None:
    assert first(price_of(target(provider, model))) == price


def test_a_provider_under_another_name_is_known_by_its_preset_or_its_address() -> None:
    known = price_of(target("openai", "gpt-4.1"))
    assert known
    assert price_of(target("ours", "gpt-4.1", at=", preset: openai")) == known
    assert price_of(target("ours", "gpt-4.1", at=", api: openai-chat, base_url: https://api.openai.com/v1")) == known
    assert price_of(target("ours", "gpt-4.1", at=", api: openai-chat, base_url: http://10.0.0.5/v1")) is None


@pytest.mark.parametrize(
    ("written", "price"),
    [
        ("{input: 0.275, output: 1.10}", (0.275, 1.1, 0.275, 0.275)),
        ("{input: '3', output: 15, cache_read: 0.3, cache_write: 3.75}", (3, 15, 0.3, 3.75)),
        ("{input: 0, output: 0}", (0, 0, 0, 0)),
        ("{input: 2, output: 10, cache_read: 0}", (2, 10, 0, 2)),
    ],
)
@pytest.mark.parametrize("provider", ["openai", "ollama"])
def test_what_the_user_writes_wins(provider: str, written: str, price: tuple[float, ...]) -> None:
    assert first(price_of(target(provider, "gpt-4.1", f"{{price: {written}}}"))) == price


def test_a_price_can_stand_at_the_provider_at_the_model_and_at_the_name() -> None:
    text = """
providers:
  openai: {api_key: k, profile: {price: {input: 1, output: 1}}, models: {"gpt-4*": {price: {input: 2, output: 2}}}}
models:
  a: openai/o3
  b: openai/gpt-4.1
  c: {use: openai/gpt-4.1, profile: {price: {input: 3, output: 3}}}
"""
    table = loads(text.encode(), "providers.yaml", {}).table
    found = {name: price_of(table.resolve(name).targets[0]) for name in "abc"}
    assert {name: first(tariff) for name, tariff in found.items()} == {"a": (1,) * 4, "b": (2,) * 4, "c": (3,) * 4}


@pytest.mark.parametrize(
    ("written", "mistake"),
    [
        ("{input: 3}", "price has no 'output'"),
        ("{input: 3, output: 1, cached: 1}", "unknown key 'cached'"),
        ("{input: cheap, output: 1}", "price.input: expected US dollars for a million tokens, like 0.275"),
        ("{input: -1, output: 1}", "price.input: expected US dollars"),
        ("{input: 1e-3, output: 1}", "price.input: expected US dollars"),
        ("{input: 1, output: 0.1234567}", "price.output: expected US dollars"),
        ("{input: 1, output: [1]}", "price.output: expected "),
        ("{input: 1, output: }", "price.output: expected "),
        ("5", "price: expected a mapping"),
    ],
)
def test_a_mistake_in_a_price_has_its_place(written: str, mistake: str) -> None:
    with pytest.raises(ConfigError) as caught:
        target("openai", "gpt-4.1", f"{{price: {written}}}")
    (found,) = caught.value.mistakes
    assert str(found).startswith("providers.yaml:1:")
    assert mistake in str(found)


# -- the table itself --------------------------------------------------------------------------------------


def table_rows() -> Iterator[PriceRow]:
    for rows in price_table().values():
        yield from rows


def test_the_table_knows_built_in_providers_only() -> None:
    assert set(price_table()) <= set(built_in().providers)
    assert 60 <= len({(row.provider, row.match) for row in table_rows()}) <= 250


def test_every_row_is_sound() -> None:
    for row in table_rows():
        price = row.price
        assert row.match == row.match.lower()
        assert row.source
        assert date(2026, 11, 1) <= date.fromisoformat(row.seen)
        assert price.cache_read is None or price.cache_read <= price.input, row
        assert price.input <= price.output, row
        assert price.output <= Dollars.from_text("1000"), row


def test_the_rates_of_a_model_ascend() -> None:
    for provider, rows in price_table().items():
        known = [(row.match, row.above) for row in rows]
        assert len(known) == len(set(known)), provider
        for match in {row.match for row in rows}:
            own = sorted((row.above, row.price.input) for row in rows if row.match == match)
            assert own[0][0] == 0, match
            assert all(lower[1] < higher[1] for lower, higher in pairwise(own)), match


@pytest.mark.parametrize("text", ["", ".5", "5.", "1,5", "$1", "1_000", "٣", "1e3", "1234567", "nan", "0x1"])
def test_what_is_no_amount(text: str) -> None:
    with pytest.raises(ValueError, match=r"like 0\.275"):
        Dollars.from_text(text)


def test_amounts_are_whole_pico_dollars() -> None:
    assert Dollars.from_text(" 0.275 ") == 275_000
    assert Dollars.from_text("12") == 12_000_000
    assert Price(Dollars(1), Dollars(2)).cache_read is None


def test_prices_are_not_paid_for_by_a_start(tmp_path: Path) -> None:
    ended = run("check", "--help", cwd=tmp_path, env={"PYTHONVERBOSE": "1"})
    assert "gateway.config" in ended.err
    assert "gateway.ledger" not in ended.err
