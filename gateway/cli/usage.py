"""``gateway usage``: who used what, and what it cost."""

from __future__ import annotations

import csv
import io
import json
import re
import shutil
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import click

from gateway.cli.options import config_option, env_file_option, load_or_exit, variables_or_exit

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gateway.ledger.report import UsageRow

BY = ("user", "key", "group", "model", "provider", "asked", "day", "hour", "outcome", "session")
_AGO = re.compile(r"(\d{1,5})([hdw])")
_SECONDS = {"h": 3600, "d": 86400, "w": 7 * 86400}
_FORMULA = ("=", "+", "-", "@")


class _By(click.ParamType[tuple[str, ...]]):
    name = "NAME,…"

    def convert(
        self, value: str | tuple[str, ...], param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, ...]:
        if isinstance(value, tuple):
            return value
        names = tuple(dict.fromkeys(each.strip() for each in value.split(",")))
        for name in names:
            if name not in BY:
                self.fail(f"{name!r} is none of {', '.join(BY)}", param, ctx)
        return names


class _Moment(click.ParamType[float]):
    """Seconds since the epoch; a bare date is the begin, or the ``end``, of that day in UTC."""

    name = "WHEN"

    def __init__(self, end: bool = False) -> None:
        self.end = end

    def convert(self, value: str | float, param: click.Parameter | None, ctx: click.Context | None) -> float:
        if isinstance(value, float):
            return value
        ago = _AGO.fullmatch(value)
        if ago is not None:
            return time.time() - int(ago[1]) * _SECONDS[ago[2]]
        try:
            found = datetime.fromisoformat(value)
        except ValueError:
            self.fail(f"{value!r} is neither like 7d, 12h or 4w nor like 2026-11-01 or 2026-11-01T12:00", param, ctx)
        day = _SECONDS["d"] if self.end and len(value) <= len("2026-11-01") else 0
        return found.replace(tzinfo=found.tzinfo or UTC).timestamp() + day


@click.command()
@config_option
@env_file_option
@click.option("--by", type=_By(), default="model", show_default=True, help=f"What to tell apart: {', '.join(BY)}.")
@click.option("--since", type=_Moment(), default="30d", show_default=True, help="7d, 12h, 4w, or a day or time in UTC.")
@click.option("--until", type=_Moment(end=True), help="As --since; of a day, its end. Default: now.")
@click.option("--json", "as_json", is_flag=True, help="As JSON, with all digits.")
@click.option("--csv", "as_csv", is_flag=True, help="As CSV, with all digits.")
@click.option("--prices", is_flag=True, help="Show the built-in price table instead, and how old it is.")
def usage(
    path: Path,
    env_file: Path | None,
    by: tuple[str, ...],
    since: float,
    until: float | None,
    as_json: bool,
    as_csv: bool,
    prices: bool,
) -> None:
    """Show requests, tokens and costs, also while the gateway runs."""
    if as_json and as_csv:
        raise click.UsageError("--json and --csv exclude each other")
    if prices:
        click.echo(_prices(as_json, as_csv))
        return
    from gateway.ledger import report
    from gateway.ledger.store import ledger_path

    config = load_or_exit(path, variables_or_exit(env_file))
    end = time.time() if until is None else until
    try:
        rows = report.usage(ledger_path(config.server.ledger.file, path.parent), by, since, end)
    except report.NoReport as error:
        raise click.ClickException(str(error)) from None
    if as_json:
        click.echo(_json(by, rows, since, end))
    elif as_csv:
        click.echo(_csv(by, rows), nl=False)
    else:
        _show(by, rows, since, end)


def _show(by: Sequence[str], rows: Sequence[UsageRow], since: float, until: float) -> None:
    from gateway.ledger.report import total
    from gateway.ledger.usage_table import usage_table

    span = f"{_shown(since)} to {_shown(until)} UTC"
    if not rows:
        click.echo(f"no requests from {span}")
        return
    terminal = sys.stdout.isatty()
    sums = total(rows)
    width = shutil.get_terminal_size().columns if terminal else None
    head, *lines = usage_table(by, rows, sums, width, plain=not _takes("█─…")).splitlines()
    click.echo("\n".join([click.style(head, bold=True), *lines]))
    notes = [f"from {span}"]
    if sums.unpriced:
        notes.append(f"{sums.unpriced:,} without a price (docs/usage.md)")
    if sums.estimated:
        notes.append(f"{sums.estimated:,} with estimated tokens")
    click.echo(click.style("; ".join(notes), dim=True))


def _json(by: Sequence[str], rows: Sequence[UsageRow], since: float, until: float) -> str:
    from gateway.ledger.report import total
    from gateway.ledger.usage_table import usage_values

    shown = {
        "since": datetime.fromtimestamp(since, UTC).isoformat(timespec="seconds"),
        "until": datetime.fromtimestamp(until, UTC).isoformat(timespec="seconds"),
        "rows": [usage_values(by, row) for row in rows],
        "total": usage_values((), total(rows)),
    }
    return json.dumps(shown, indent=2)


def _csv(by: Sequence[str], rows: Sequence[UsageRow]) -> str:
    from gateway.ledger.report import total
    from gateway.ledger.usage_table import printable, usage_values

    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*by, *usage_values((), total(()))])
    for row in rows:
        values = usage_values(by, row)
        # A client chooses these names; a spreadsheet must not take them for formulas.
        names = [printable(f"'{name}" if name.startswith(_FORMULA) else name) for name in row.by]
        writer.writerow([*names, *(value for name, value in values.items() if name not in by)])
    return text.getvalue()


def _prices(as_json: bool, as_csv: bool) -> str:
    from gateway.ledger.prices import price_table
    from gateway.ledger.usage_table import price_table_text, price_values

    rows = [row for each in price_table().values() for row in each]
    if as_json:
        return json.dumps(list(map(price_values, rows)), indent=2)
    if as_csv:
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(price_values(rows[0]))
        writer.writerows(price_values(row).values() for row in rows)
        return text.getvalue().removesuffix("\n")
    sources = sorted({row.source for row in rows})
    seen = sorted({row.seen for row in rows})
    return "\n".join(
        [
            price_table_text(rows),
            f"US dollars for a million tokens, as seen {' to '.join(sorted({seen[0], seen[-1]}))} in:",
            *(f"  {source}" for source in sources),
            "above: for prompts of more tokens than that. No cache price: as input. Your own: price in providers.yaml.",
        ]
    )


def _takes(text: str) -> bool:
    """Whether stdout can show it."""
    try:
        text.encode(sys.stdout.encoding or "ascii")
    except (LookupError, UnicodeEncodeError):
        return False
    return True


def _shown(moment: float) -> str:
    return datetime.fromtimestamp(moment, UTC).strftime("%Y-%m-%d %H:%M")
