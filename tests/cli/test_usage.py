"""``gateway usage``: what it prints, of a ledger that is there, and of one that is not."""

from __future__ import annotations

import csv
import io
import json
import os
import pty
import re
import sqlite3
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from gateway.cli.usage import BY, usage
from gateway.ledger import report
from gateway.ledger.database import Database
from gateway.ledger.prices import price_table
from gateway.ledger.report import DIMENSIONS
from tests.cli.gateway_command import GATEWAY, SECONDS, environment, run
from tests.ledger.records import NOON, record

CONFIG = "server: {ledger: {file: team.db}}\nproviders: {echo: {}}\nmodels: {default: echo/echo}\n"
DAY = 86400
NOVEMBER = ("--since", "2026-11-01", "--until", "2026-11-30")
RECORDS: list[dict[str, Any]] = [
    {
        **{"user": "anna", "key": "laptop", "group": "dev", "session": "s1", "asked": "claude-sonnet-5"},
        **{"target": "openai/gpt-5.6", "provider": "openai", "input_tokens": 1000, "output_tokens": 10},
        "cost": 4_200_000,
    },
    {
        **{"user": "anna", "key": "laptop", "group": "dev", "session": "s2", "asked": "claude-haiku-4-5"},
        **{"target": "ollama/qwen3:8b", "provider": "ollama", "input_tokens": 7, "estimated": True, "time": NOON + DAY},
    },
    {
        **{"user": "ben", "key": "ci", "session": "s3", "asked": "=SUM(A1)", "target": "openai/gpt-5.6"},
        **{"provider": "openai", "output_tokens": 30, "cache_read_tokens": 5, "cost": 600000, "time": NOON + 3600},
    },
    {"user": "ben", "key": "ci", "outcome": "denied", "status": 403, "asked": "opus\x1b[2J"},
]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.delenv("GATEWAY_CONFIG", raising=False)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "providers.yaml").write_text(CONFIG)
    return tmp_path


@pytest.fixture
def ledger(folder: Path) -> Iterator[Database]:
    """Open while it is read, as that of a gateway that runs."""
    with closing(Database(folder / "team.db")) as opened:
        opened.add([record(**each) for each in RECORDS])
        yield opened


def asked(*arguments: str) -> Result:
    result = CliRunner().invoke(usage, arguments)
    assert result.exception is None or isinstance(result.exception, SystemExit)
    return result


def rows(*arguments: str) -> list[dict[str, Any]]:
    result = asked(*arguments, "--json")
    assert result.exit_code == 0, result.output
    found: list[dict[str, Any]] = json.loads(result.stdout)["rows"]
    return found


@pytest.mark.usefixtures("ledger")
def test_a_table() -> None:
    shown = asked(*NOVEMBER).stdout.splitlines()
    assert shown == [
        "model            requests  input  output  cache read                  cost  token share",
        "openai/gpt-5.6          2  1,000      40           5               $0.0048  " + "█" * 30,
        "ollama/qwen3:8b         1      7       0           0              unpriced  ▎",
        "-                       1      0       0           0                     -",
        "─" * 74,
        "total                   4  1,007      40           5  $0.0048 + 1 unpriced",
        "from 2026-11-01 00:00 to 2026-12-01 00:00 UTC; 1 without a price (docs/usage.md); 1 with estimated tokens",
    ]


@pytest.mark.usefixtures("ledger")
@pytest.mark.parametrize(
    ("by", "wanted"),
    [
        ("user", {"anna": 2, "ben": 2}),
        ("key", {"laptop": 2, "ci": 2}),
        ("group", {"dev": 2, "": 2}),
        ("model", {"openai/gpt-5.6": 2, "ollama/qwen3:8b": 1, "": 1}),
        ("provider", {"openai": 2, "ollama": 1, "": 1}),
        ("asked", {"claude-sonnet-5": 1, "=SUM(A1)": 1, "claude-haiku-4-5": 1, "opus\x1b[2J": 1}),
        ("day", {"2026-11-21": 3, "2026-11-22": 1}),
        ("hour", {"2026-11-21 12:00": 2, "2026-11-21 13:00": 1, "2026-11-22 12:00": 1}),
        ("outcome", {"ok": 3, "denied": 1}),
        ("session", {"s1": 1, "s3": 1, "s2": 1, "": 1}),
    ],
)
def test_requests_are_told_apart_in_order(by: str, wanted: dict[str, int]) -> None:
    found = rows("--by", by, *NOVEMBER)
    assert [(row[by], row["requests"]) for row in found] == list(wanted.items())


def test_every_name_can_be_asked_for() -> None:
    assert set(BY) == set(DIMENSIONS)


@pytest.mark.usefixtures("ledger")
def test_several_names_at_once() -> None:
    found = rows("--by", "day,user", *NOVEMBER)
    assert [(row["day"], row["user"], row["requests"]) for row in found] == [
        ("2026-11-21", "anna", 1),
        ("2026-11-21", "ben", 2),
        ("2026-11-22", "anna", 1),
    ]


@pytest.mark.usefixtures("ledger")
def test_json_has_all_digits() -> None:
    shown = json.loads(asked(*NOVEMBER, "--json").stdout)
    assert (shown["since"], shown["until"]) == ("2026-11-01T00:00:00+00:00", "2026-12-01T00:00:00+00:00")
    assert shown["rows"][0] == {
        **{"model": "openai/gpt-5.6", "requests": 2, "input_tokens": 1000, "output_tokens": 40},
        **{"cache_read_tokens": 5, "cache_write_tokens": 0, "cost_usd": "0.004800000"},
        **{"unpriced_requests": 0, "estimated_requests": 0},
    }
    assert shown["rows"][1]["cost_usd"] is None
    assert shown["total"]["requests"] == 4
    assert shown["total"]["unpriced_requests"] == 1


@pytest.mark.usefixtures("ledger")
def test_csv_is_read_by_spreadsheets_that_take_no_orders() -> None:
    found = list(csv.DictReader(io.StringIO(asked("--by", "asked", *NOVEMBER, "--csv").stdout)))
    assert [row["asked"] for row in found] == ["claude-sonnet-5", "'=SUM(A1)", "claude-haiku-4-5", "opus?[2J"]
    assert [row["cost_usd"] for row in found] == ["0.004200000", "0.000600000", "", ""]


@pytest.mark.usefixtures("ledger")
@pytest.mark.parametrize(
    ("span", "requests"),
    [
        (("--since", "2026-11-21", "--until", "2026-11-21"), 3),
        (("--since", "2026-11-21T12:00", "--until", "2026-11-21T13:00"), 2),
        (("--since", "2026-11-21T12:00:01"), 2),
        (("--since", "2026-11-22"), 1),
        (("--since", "2026-11-22T13:00+01:00", "--until", "2026-11-22"), 1),
    ],
)
def test_a_span_of_time(span: tuple[str, ...], requests: int) -> None:
    assert sum(row["requests"] for row in rows(*span, *(() if "--until" in span else NOVEMBER[2:]))) == requests


@pytest.mark.parametrize(("span", "requests"), [("30m", None), ("5h", 1), ("7d", 2), ("4w", 3), (None, 3), ("70d", 4)])
def test_a_span_up_to_now(ledger: Database, span: str | None, requests: int | None) -> None:
    ledger.add([record(time=time.time() - hours * 3600) for hours in (4, 6 * 24, 27 * 24, 65 * 24)])
    with closing(sqlite3.connect("team.db")) as other, other:
        other.execute("DELETE FROM requests WHERE time IN (?, ?, ?)", (NOON, NOON + 3600, NOON + DAY))
    if requests is None:
        assert "neither like 7d" in asked("--since", str(span)).stderr
    else:
        assert sum(row["requests"] for row in rows(*(("--since", span) if span else ()))) == requests


def test_today_is_seen_while_it_is_written(ledger: Database) -> None:
    ledger.add([record(time=time.time(), user="carol")])
    with closing(sqlite3.connect("team.db", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        assert [row["user"] for row in rows("--by", "user", "--since", "1h")] == ["carol"]


# -- where there is nothing to show ------------------------------------------------------------------------


@pytest.mark.parametrize("begun", [False, True])
def test_no_ledger_yet(folder: Path, begun: bool) -> None:
    """Nor is there one in the moment between the file and what is in it."""
    if begun:
        (folder / "team.db").touch()
    before = list(folder.iterdir())
    result = asked()
    assert result.exit_code == 1
    assert result.stderr == "Error: there is no ledger yet: team.db; the gateway begins it with the first request\n"
    assert list(folder.iterdir()) == before


@pytest.mark.usefixtures("ledger")
def test_no_requests() -> None:
    result = asked("--since", "2026-12-01", "--until", "2026-12-02")
    assert (result.exit_code, result.stdout) == (0, "no requests from 2026-12-01 00:00 to 2026-12-03 00:00 UTC\n")


@pytest.mark.parametrize(
    ("made", "words"),
    [
        (b"no database" * 1000, "it is no database"),
        ("CREATE TABLE songs (title)", "it is a database of another program"),
    ],
)
def test_a_file_that_is_no_ledger(folder: Path, made: bytes | str, words: str) -> None:
    if isinstance(made, bytes):
        (folder / "team.db").write_bytes(made)
    else:
        with closing(sqlite3.connect(folder / "team.db")) as connection:
            connection.executescript(made)
    result = asked()
    assert result.exit_code == 1
    assert result.stderr.startswith(f"Error: team.db cannot be read: {words}")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--by", "user,colour"), "'colour' is none of user, key"),
        (("--by", ""), "'' is none of"),
        (("--since", "yesterday"), "'yesterday' is neither like 7d"),
        (("--until", "2026-13-01"), "'2026-13-01' is neither"),
        (("--json", "--csv"), "exclude each other"),
    ],
)
def test_a_wrong_command_line(folder: Path, arguments: tuple[str, ...], words: str) -> None:
    result = asked(*arguments)
    assert result.exit_code == 2
    assert words in result.stderr


@contextmanager
def nobody(folder: Path) -> Iterator[None]:
    """For root, who may write everywhere."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


def test_a_file_that_only_others_may_write() -> None:
    """A copy on a read-only disk: nothing is there, and nothing can be put, beside it."""
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "usage.db"
        with closing(Database(path)) as opened:
            opened.add([record(user="anna")])
        path.chmod(0o444)
        path.parent.chmod(0o555)
        try:
            with nobody(path.parent):
                found = report.usage(path, ("user",), 0, NOON + 1)
        finally:
            path.parent.chmod(0o755)
        assert [(row.by, row.requests) for row in found] == [(("anna",), 1)]
        assert [each.name for each in path.parent.iterdir()] == ["usage.db"]


# -- as a process ------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("ledger")
def test_a_terminal_gets_its_width_and_a_pipe_no_colour(folder: Path) -> None:
    command = [*GATEWAY, "usage", "--by", "user,asked,model", *NOVEMBER]
    reader, writer = pty.openpty()
    with open(reader, "rb", 0) as terminal:
        variables = environment(COLUMNS="80", TERM="xterm", PYTHONIOENCODING="utf-8")
        subprocess.run(command, cwd=folder, env=variables, stdout=writer, check=True, timeout=SECONDS)
        os.close(writer)
        shown = terminal.read(1 << 16).decode()
    assert "\x1b[1m" in shown
    assert "\x1b[2J" not in shown
    lines = re.sub(r"\x1b\[\d+m", "", shown).splitlines()
    assert max(map(len, lines[:-1])) <= 80
    ended = run(*command[len(GATEWAY) :], cwd=folder, env={"PYTHONIOENCODING": "ascii"})
    assert ended.status == 0
    assert ended.out.isascii()
    assert "\x1b" not in ended.out
    assert "openai/gpt-5.6" in ended.out


def test_prices_need_no_configuration(tmp_path: Path) -> None:
    ended = run("usage", "--prices", cwd=tmp_path)
    assert (ended.status, ended.err) == (0, "")
    rows = [row for each in price_table().values() for row in each]
    assert len(ended.out.splitlines()) == len(rows) + 5
    assert all(source in ended.out for source in {row.source for row in rows})
    assert re.search(r"^anthropic +claude-haiku-4-5 +1 +5 +0\.1 +1\.25 +2026-", ended.out, re.MULTILINE)
    assert "as seen 2026-" in ended.out


def test_prices_for_programs(folder: Path) -> None:
    found = json.loads(asked("--prices", "--json").stdout)
    assert {
        **{"provider": "openai", "model": "gpt-5.4", "above_tokens": 272000, "input": "5", "output": "22.5"},
        **{"cache_read": "0.5", "cache_write": None, "seen": "2026-11-22"},
        "source": "LiteLLM 1.106.2, model_prices_and_context_window_backup.json",
    } in found
    table = list(csv.DictReader(io.StringIO(asked("--prices", "--csv").stdout)))
    assert len(table) == len(found)
    assert table[0]["seen"] == found[0]["seen"]


def test_how_old_the_prices_are_is_known() -> None:
    """A table that nobody looked at for a year is a defect."""
    seen = {datetime.fromisoformat(row.seen).replace(tzinfo=UTC) for each in price_table().values() for row in each}
    assert min(seen) > datetime.now(UTC) - timedelta(days=365)
