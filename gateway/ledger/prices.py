"""What a request costs: the prices that are known, and their application to counted tokens.

Rules:
* Prices are whole pico-dollars for a token, costs whole nano-dollars; only the complete sum is rounded.
* What the user wrote (``price`` in a profile) wins over the table in prices.json.
* No price is guessed: a model that nobody priced costs None, which is not 0.
* The table is read when the first price is asked for, not at the start.
"""

from __future__ import annotations

import re
from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import orjson

from gateway.profile import Dollars, Price
from gateway.routing import Target

TABLE = Path(__file__).with_name("prices.json")

_DATE = re.compile(r"-20\d\d-?[01]\d-?[0-3]\d$")
"""The end of a dated model id; the price is that of the model."""


class Counts(Protocol):
    """Tokens of one request. ``output_tokens`` has the reasoning in it; the three others add up to the prompt."""

    @property
    def input_tokens(self) -> int: ...
    @property
    def output_tokens(self) -> int: ...
    @property
    def cache_read_tokens(self) -> int: ...
    @property
    def cache_write_tokens(self) -> int: ...


class Rates(NamedTuple):
    """Pico-dollars for a token, for prompts of more than ``above`` tokens."""

    above: int
    input: int
    output: int
    cache_read: int
    cache_write: int


Tariff = tuple[Rates, ...]
"""The rates of one model; ascending by ``above``, which is 0 in the first."""


class PriceRow(NamedTuple):
    """One row of the table."""

    provider: str
    """The name of a built-in provider."""
    match: str
    """Model ids, in lower case; ``*`` stands for anything."""
    above: int
    price: Price
    seen: str
    """The day on which the source said so, ``2026-11-22``."""
    source: str


def cost(usage: Counts, tariff: Tariff | None) -> int | None:
    """In whole nano-dollars, a half to the even one; None without a tariff."""
    if tariff is None:
        return None
    fresh, read, written = usage.input_tokens, usage.cache_read_tokens, usage.cache_write_tokens
    prompt = fresh + read + written
    rates = tariff[0]
    for each in tariff[1:]:
        if prompt > each.above:
            rates = each
    pico = (
        fresh * rates.input
        + read * rates.cache_read
        + written * rates.cache_write
        + usage.output_tokens * rates.output
    )
    nano, rest = divmod(pico, 1000)
    return nano + (rest > 500 or (rest == 500 and nano % 2 == 1))


def price_of(target: Target) -> Tariff | None:
    """The tariff of ``target``; meant for ``target.once(price_of)``."""
    own = target.profile.price
    if own is not None:
        return (_rates(0, own),)
    rows = _table()["prices"].get(target.provider.preset, ())
    model = target.model.lower()
    for name in (model, _DATE.sub("", model)):
        match = next((row["match"] for row in rows if _fits(name, row["match"])), None)
        if match is not None:
            return tuple(sorted(_rates(row.get("above", 0), _price(row)) for row in rows if row["match"] == match))
    return None


def price_table() -> dict[str, tuple[PriceRow, ...]]:
    """Built-in provider -> its rows, in the order of prices.json."""
    table = _table()
    sources = table["sources"]
    return {
        provider: tuple(
            PriceRow(provider, row["match"], row.get("above", 0), _price(row), row["seen"], sources[row["source"]])
            for row in rows
        )
        for provider, rows in table["prices"].items()
    }


@cache
def _table() -> Any:
    """prices.json as it stands there: a request reads the rows of one model only."""
    return orjson.loads(TABLE.read_bytes())


def _fits(name: str, pattern: str) -> bool:
    """To compile a pattern costs more than the rest of the search, and hardly any row has a star."""
    return name == pattern or ("*" in pattern and fnmatchcase(name, pattern))


def _price(row: dict[str, Any]) -> Price:
    amounts = ("input", "output", "cache_read", "cache_write")
    return Price(**{name: Dollars.from_text(row[name]) for name in amounts if name in row})


def _rates(above: int, price: Price) -> Rates:
    read = price.input if price.cache_read is None else price.cache_read
    written = price.input if price.cache_write is None else price.cache_write
    return Rates(above, price.input, price.output, read, written)
