"""A gateway that a team shares: client keys in keys.yaml, groups and limits in providers.yaml, and its ledger."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from decimal import ROUND_HALF_EVEN, Decimal
from pathlib import Path
from typing import Any

import orjson
from click.testing import CliRunner

from gateway.cli import main
from tests.faults.metered import Tokens
from tests.server.gateway_process import STOP_SECONDS, Gateway, until
from tests.server.service import service

PRICES: dict[str, dict[str, str]] = {
    "lab": {"input": "0.275001", "output": "1.100003", "cache_read": "0.027507", "cache_write": "0.343759"},
    "ant": {"input": "3", "output": "15.000001", "cache_read": "0.299999", "cache_write": "3.75"},
    "replies": {"input": "1.25", "output": "10"},
    "oll": {"input": "0", "output": "0.0005"},
    "capped": {"input": "9", "output": "9"},
}
"""Provider -> US dollars for a million tokens; awkward ones, so that there is something to round, and halves too."""
PROVIDERS = """\
  lab: {{api: openai-chat, base_url: "{url}/v1", api_key: "${{LAB_KEY}}", profile: {{price: {lab}}}}}
  ant: {{api: anthropic, base_url: "{url}", api_key: "${{ANT_KEY}}", profile: {{price: {ant}}}}}
  replies: {{api: openai-responses, base_url: "{url}/v1", api_key: "${{LAB_KEY}}", profile: {{price: {replies}}}}}
  oll: {{api: ollama, base_url: "{url}", profile: {{price: {oll}}}}}
  capped: {{api: openai-chat, base_url: "{url}/v1", limits: {{rpm: 1}}, profile: {{price: {capped}}}}}
  echo: {{}}
"""


def providers(url: str) -> str:
    """The entries under ``providers`` for an upstream of four wires."""
    return PROVIDERS.format(url=url, **{name: orjson.dumps(price).decode() for name, price in PRICES.items()})


def dollars(provider: str, tokens: Tokens) -> Decimal:
    """What the tokens cost, by the book: the exact sum, rounded once to a nano-dollar."""
    price = {name: Decimal(text) / 1_000_000 for name, text in PRICES[provider].items()}
    total = (
        tokens.input * price["input"]
        + tokens.output * price["output"]
        + tokens.cache_read * price.get("cache_read", price["input"])
        + tokens.cache_write * price.get("cache_write", price["input"])
    )
    return total.quantize(Decimal("1e-9"), ROUND_HALF_EVEN)


def keys(folder: Path, *arguments: str) -> str:
    """``gateway keys``; the first line that it prints: the key, where it makes one."""
    ended = CliRunner().invoke(main, ["keys", *arguments, "--config", str(folder / "providers.yaml")])
    assert ended.exit_code == 0, ended.output
    return ended.stdout.splitlines()[0]


@contextmanager
def team(folder: Path, config: str, *options: str, **added: str) -> Iterator[tuple[Gateway, dict[str, str]]]:
    """The gateway, and a key for each of ``added``: name -> the options of ``gateway keys add``, as one text."""
    file = folder / "providers.yaml"
    file.write_text(config)
    file.chmod(0o600)
    texts = {name: keys(folder, "add", name, *words.split()) for name, words in added.items()}
    with service(folder, *options, config=None) as gateway:
        yield gateway, texts
        log = gateway.log()
        assert "Traceback" not in log
        assert "a defect of the gateway" not in log
        assert not [name for name, text in texts.items() if text in log]
        # Politely: workers whose supervisor is killed go a little later than that.
        assert gateway.process is not None
        gateway.process.terminate()
        gateway.process.wait(STOP_SECONDS)


def x_api_key(key: str) -> dict[str, str]:
    return {"x-api-key": key, "anthropic-version": "2023-06-01"}


# -- the ledger --------------------------------------------------------------------------------------------


def rows(folder: Path, query: str = "SELECT * FROM requests ORDER BY id") -> list[dict[str, Any]]:
    """What stands in usage.db, also while a gateway writes to it."""
    file = folder / "usage.db"
    if not file.exists():
        return []
    with closing(sqlite3.connect(f"file:{file}?mode=ro", uri=True, timeout=10)) as connection:
        connection.row_factory = sqlite3.Row
        try:
            return [dict(row) for row in connection.execute(query)]
        except sqlite3.OperationalError:
            return []  # its tables are not made yet


async def settled(folder: Path, count: int) -> list[dict[str, Any]]:
    """The rows, once there are so many."""
    found: list[dict[str, Any]] = []

    async def there() -> bool:
        found[:] = rows(folder)
        return len(found) >= count

    await until(there)
    assert len(found) == count
    return found


def tokens_in(row: Mapping[str, Any]) -> Tokens:
    """What a row says was taken."""
    names = ("input_tokens", "cache_read_tokens", "cache_write_tokens", "output_tokens", "reasoning_tokens")
    return Tokens(*(row[name] for name in names))
