"""Amounts as people write them, and what is said of those that nobody can read."""

from __future__ import annotations

import re
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.access.limits import Budget, Period
from gateway.config.amounts import budgets, count, seconds


@pytest.mark.parametrize(
    ("text", "amount"),
    [
        *((60, 60), ("60", 60), (" 60 ", 60), ("400k", 400_000), ("400 K", 400_000), ("1.5M", 1_500_000)),
        *(("2m", 2_000_000), ("0.001k", 1), ("1.000k", 1000), ("1000000000000000000", 10**18)),
    ],
)
def test_count(text: str | int, amount: int) -> None:
    assert count(text) == amount


@pytest.mark.parametrize(
    ("text", "length"),
    [("90d", 7_776_000), ("24h", 86_400), ("30m", 1_800), ("45s", 45), ("2w", 1_209_600), (" 1.5 h ", 5_400)],
)
def test_seconds(text: str, length: int) -> None:
    assert seconds(text) == length


USD = 10**9


@pytest.mark.parametrize(
    ("text", "amount", "unit", "period"),
    [
        ("20usd/month", 20 * USD, "nanodollars", "month"),
        ("20 USD / Month", 20 * USD, "nanodollars", "month"),
        ("$20/month", 20 * USD, "nanodollars", "month"),
        ("$ 20 usd/month", 20 * USD, "nanodollars", "month"),
        ("20$/month", 20 * USD, "nanodollars", "month"),
        ("$1.5k/week", 1500 * USD, "nanodollars", "week"),
        ("0.000000001usd/day", 1, "nanodollars", "day"),
        ("19.999999999 usd/day", 19_999_999_999, "nanodollars", "day"),
        ("2M tokens/day", 2_000_000, "tokens", "day"),
        ("2Mtokens/day", 2_000_000, "tokens", "day"),
        ("2.5mtokens/day", 2_500_000, "tokens", "day"),
        ("1 token/week", 1, "tokens", "week"),
    ],
)
def test_budget(text: str, amount: int, unit: str, period: Period) -> None:
    assert budgets(text) == (Budget(amount, unit, period),)  # type: ignore[arg-type]
    assert budgets([text]) == budgets(text)


def test_several_budgets_keep_their_order() -> None:
    texts = ["5usd/day", "20usd/month", "1M tokens/day"]
    assert budgets(texts) == tuple(budgets(text)[0] for text in texts)
    assert budgets([]) == ()


@given(st.decimals("0.000000001", "1000000", places=9))
def test_money_is_exact(amount: Decimal) -> None:
    assert budgets(f"{amount:f}usd/day")[0].amount == amount * 10**9


@pytest.mark.parametrize(
    ("read", "text", "words"),
    [
        (count, "", "'' is no number: write e.g. 60, 400k or 1.5M"),
        (count, "many", "'many' is no number"),
        (count, "-5", "'-5' is no number"),
        (count, "1e5", "'1e5' is no number"),
        (count, True, "'True' is no number"),
        (count, "5G", "'5G' is no number"),
        (count, "٣", "'٣' is no number"),
        (count, "0", "'0' must be more than 0: write e.g. 400k"),
        (count, "1.5", "'1.5' is finer than can be counted"),
        (count, "1.0005k", "'1.0005k' is finer than can be counted"),
        (count, "1000000000001M", "is too much"),
        (count, "9" * 99, f"'{'9' * 32}…' is no number"),
        (count, "a\nb\x1b[2J", "'a?b?[2J' is no number"),
        (seconds, "90", "'90' is no length of time: write e.g. 30m, 24h or 90d"),
        (seconds, "1y", "'1y' is no length of time"),
        (seconds, "0d", "'0d' must be more than 0: write e.g. 90d"),
        (seconds, "0.1s", "is finer than can be counted"),
        (seconds, "36501d", "'36501d' is more than a hundred years"),
        (budgets, "", "'' is no budget: write e.g. 20usd/month or 2M tokens/day"),
        (budgets, "usd/month", "'usd/month' is no budget"),
        (budgets, "-5usd/month", "'-5usd/month' is no budget"),
        (budgets, "20/month", "'20/month': the unit is missing: write e.g. 20usd/month or 2M tokens/day"),
        (budgets, "500k/month", "'500k/month': the unit is missing"),
        (budgets, "20eur/month", "'20eur/month': 'eur' is no unit"),
        (budgets, "$20 tokens/month", "'tokens' is no unit"),
        (budgets, "20usd", "'20usd': the period is missing: day, week or month, e.g. 20usd/month"),
        (budgets, "20usd/year", "'20usd/year': 'year' is no period: day, week or month"),
        (budgets, "0usd/day", "'0usd/day' must be more than 0"),
        (budgets, "0.0000000001usd/day", "is finer than can be counted"),
        (budgets, "1000000001usd/day", "is too much"),
        (budgets, ["1usd/day", "2 tokens/day", "$3/day"], "'$3/day' is the second budget in usd for one day"),
        (budgets, ["1tokens/day", "2tokens/day"], "'2tokens/day' is the second budget in tokens for one day"),
    ],
)
def test_mistake(read: object, text: object, words: str) -> None:
    assert callable(read)
    with pytest.raises(ValueError, match=re.escape(words)) as caught:
        read(text)
    assert len(str(caught.value)) < 200
