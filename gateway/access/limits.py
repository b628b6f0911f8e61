"""Limits and Budget: how much a key, a group or a provider may take."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Period = Literal["day", "week", "month"]
"""Of the calendar, in UTC; a week begins on Monday."""


@dataclass(frozen=True, slots=True)
class Budget:
    """So much in a period; it begins anew with the next one."""

    amount: int
    """In ``unit``."""
    unit: Literal["tokens", "nanodollars"]
    period: Period


@dataclass(frozen=True, slots=True)
class Limits:
    """None: without a limit."""

    rpm: int | None = None
    """Requests a minute."""
    tpm: int | None = None
    """Tokens a minute: what went in and came out; what a cache gave is not counted."""
    concurrency: int | None = None
    """Requests at the same time."""
    budget: tuple[Budget, ...] = ()


NO_LIMITS = Limits()
