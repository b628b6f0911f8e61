"""Limits in words, and the words of a refusal. A user reads them in a client, so they say what to do."""

from __future__ import annotations

from math import ceil

from gateway.access.limits import Budget, Limits

NANODOLLARS = 10**9
_CENT = NANODOLLARS // 100


def in_words(limits: Limits) -> str:
    """``60 requests a minute, 20 USD a month``; empty: no limit."""
    counts = (
        (limits.rpm, "requests a minute"), (limits.tpm, "tokens a minute"), (limits.concurrency, "requests at a time"),
    )  # fmt: skip
    words = [f"{count:,} {_one(what, count)}" for count, what in counts if count is not None]
    return ", ".join([*words, *map(budget_in_words, limits.budget)])


def budget_in_words(budget: Budget) -> str:
    """``20 USD a month``."""
    return f"{amount_in_words(budget.amount, budget.unit)} a {budget.period}"


def amount_in_words(amount: int, unit: str, exact: bool = True) -> str:
    """``2,000,000 tokens`` or ``20 USD``; where it need not be exact, money is cut to cents."""
    if unit == "tokens":
        return f"{amount:,} {_one('tokens', amount)}"
    if not exact and amount >= _CENT:
        return f"{amount // NANODOLLARS:,}.{amount % NANODOLLARS // _CENT:02} USD"
    part = f"{amount % NANODOLLARS:09}".rstrip("0")
    return f"{amount // NANODOLLARS:,}{'.' if part else ''}{part.ljust(2, '0') if part else ''} USD"


def limit_reached(whose: str, limit: str, wait: float | None) -> str:
    """``wait`` in seconds; None: until a request ends."""
    if wait is None:
        return f"the limit of {whose}, {limit}, is reached; try again when one of them has ended"
    return f"the limit of {whose}, {limit}, is reached; try again in {ceil(wait)} {_one('seconds', ceil(wait))}"


def budget_spent(whose: str, budget: Budget, spent: int, anew: str) -> str:
    """``anew`` is the day on which the next period begins."""
    return (
        f"the budget of {whose}, {budget_in_words(budget)}, is spent ({amount_in_words(spent, budget.unit, False)}); "
        f"it begins anew on {anew} (UTC). Ask whoever runs this gateway for more"
    )


def _one(words: str, count: int) -> str:
    """The words after a number, in the singular after one."""
    first, blank, rest = words.partition(" ")
    return f"{first.removesuffix('s') if count == 1 else first}{blank}{rest}"
