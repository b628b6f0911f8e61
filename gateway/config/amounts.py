"""Amounts as people write them: ``400k``, ``20usd/month``, ``90d``. Each mistake is a ValueError that says what
is wrong and gives an example.

Rule: exact. Numbers are read as whole numbers and powers of ten, never as floats.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import get_args

from gateway.access.limits import Budget, Period

LARGEST = 10**18
"""Of any amount: a thousand million dollars in nano-dollars; it fits into 64 bits."""
LONGEST = 100 * 365 * 86_400
"""Seconds."""

_NUMBER = r"(?P<whole>[0-9]{1,19})(?:\.(?P<part>[0-9]{1,18}))?"
_COUNT = re.compile(rf"{_NUMBER}\s*(?P<scale>[kKmM]?)")
_SECONDS = re.compile(rf"{_NUMBER}\s*(?P<scale>[smhdw])")
_BUDGET = re.compile(
    rf"(?P<dollar>\$?)\s*{_NUMBER}\s*(?:(?P<scale>[kKmM])(?=\s*(?:\$|usd|tokens?|/)|$))?\s*(?P<unit>[^\s/]*)"
    r"\s*(?:/\s*(?P<period>.*))?",
    re.IGNORECASE,
)
_SCALES = {"": 1, "k": 1_000, "m": 1_000_000}
_DURATIONS = {"s": 1, "m": 60, "h": 3_600, "d": 86_400, "w": 604_800}
_NANODOLLARS = 10**9
_PERIODS: tuple[Period, ...] = get_args(Period)
_LONGEST_SHOWN = 32


def count(text: str | int) -> int:
    """``60``, ``400k`` or ``1.5M`` as a whole number, at least 1. Raises ValueError."""
    match = _COUNT.fullmatch(str(text).strip())
    if match is None:
        raise ValueError(f"{_shown(text)} is no number: write e.g. 60, 400k or 1.5M")
    return _scaled(match, _SCALES[match["scale"].lower()], text, "400k")


def seconds(text: str) -> int:
    """``90d``, ``24h`` or ``30m`` in seconds; also ``s`` and ``w``. Raises ValueError."""
    match = _SECONDS.fullmatch(text.strip())
    if match is None:
        raise ValueError(f"{_shown(text)} is no length of time: write e.g. 30m, 24h or 90d")
    length = _scaled(match, _DURATIONS[match["scale"]], text, "90d")
    if length > LONGEST:
        raise ValueError(f"{_shown(text)} is more than a hundred years: write e.g. 90d")
    return length


def budgets(value: str | Sequence[str]) -> tuple[Budget, ...]:
    """``20usd/month``, ``$20/month``, ``2M tokens/day``, or several of them. Raises ValueError."""
    texts = (value,) if isinstance(value, str) else value
    found: dict[tuple[str, Period], Budget] = {}
    for text in texts:
        budget = _budget(text)
        if (budget.unit, budget.period) in found:
            unit = "tokens" if budget.unit == "tokens" else "usd"
            raise ValueError(f"{_shown(text)} is the second budget in {unit} for one {budget.period}: keep one")
        found[budget.unit, budget.period] = budget
    return tuple(found.values())


def _budget(text: str) -> Budget:
    match = _BUDGET.fullmatch(text.strip())
    if match is None:
        raise ValueError(f"{_shown(text)} is no budget: write e.g. 20usd/month or 2M tokens/day")
    written = match["unit"].lower()
    unit = "usd" if written in ("usd", "$") or (match["dollar"] and not written) else written.removesuffix("s")
    if unit not in ("usd", "token") or (match["dollar"] and unit != "usd"):
        what = f"{_shown(match['unit'])} is no unit" if written else "the unit is missing"
        raise ValueError(f"{_shown(text)}: {what}: write e.g. 20usd/month or 2M tokens/day")
    period = next((each for each in _PERIODS if each == (match["period"] or "").strip().lower()), None)
    if period is None:
        what = f"{_shown(match['period'])} is no period" if match["period"] else "the period is missing"
        raise ValueError(f"{_shown(text)}: {what}: day, week or month, e.g. 20usd/month")
    scale = _SCALES[(match["scale"] or "").lower()]
    if unit == "usd":
        return Budget(_scaled(match, scale * _NANODOLLARS, text, "20usd/month"), "nanodollars", period)
    return Budget(_scaled(match, scale, text, "2M tokens/day"), "tokens", period)


def _scaled(match: re.Match[str], scale: int, text: str | int, example: str) -> int:
    """The number of ``match``, times ``scale``; a whole number from 1 to LARGEST."""
    whole, part = match["whole"], match["part"] or ""
    amount, rest = divmod(int(whole + part) * scale, int("1" + "0" * len(part)))
    if rest:
        raise ValueError(f"{_shown(text)} is finer than can be counted: write e.g. {example}")
    if amount < 1:
        raise ValueError(f"{_shown(text)} must be more than 0: write e.g. {example}")
    if amount > LARGEST:
        raise ValueError(f"{_shown(text)} is too much: write e.g. {example}")
    return amount


def _shown(text: str | int) -> str:
    line = "".join(char if char.isprintable() else "?" for char in str(text))
    return f"'{line if len(line) <= _LONGEST_SHOWN else line[:_LONGEST_SHOWN] + '…'}'"
