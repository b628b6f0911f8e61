"""``gateway check``: is the file right? And with ``--live``: what can its upstreams really do?"""

from __future__ import annotations

import difflib
import json
import os
import sys
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from gateway.cli.options import (
    DEFAULT_FILE,
    env_file_option,
    env_file_warnings,
    exit_with,
    known_apis,
    load_or_exit,
    variables_or_exit,
)
from gateway.config import Config, ConfigError
from gateway.config.key_file import beside
from gateway.config.key_file import load as load_keys
from gateway.routing import ASKED_NAME, Target

if TYPE_CHECKING:
    from gateway.config.overrides import Override
    from gateway.server.live_check import Progress, Report

INTERRUPTED = 130
"""The customary exit status after Ctrl-C."""

Asked = tuple[Target, tuple[str, ...]]
"""A target, and the names under ``models`` that lead to it."""


@click.command()
@click.argument("names", metavar="[FILE | PROVIDER…]", nargs=-1)
@click.option("--config", "-c", "path", type=click.Path(path_type=Path), help="The file, where PROVIDERs are named.")
@env_file_option
@click.option("--live", is_flag=True, help="Ask the upstreams what they can do.")
@click.option("--write", is_flag=True, help="With --live: add what was found to the file.")
@click.option("--json", "as_json", is_flag=True, help="With --live: as JSON.")
@click.option(
    "--timeout", type=click.FloatRange(min=0, min_open=True), help="With --live: seconds for one answer (usually 60)."
)
def check(
    names: tuple[str, ...],
    path: Path | None,
    env_file: Path | None,
    live: bool,
    write: bool,
    as_json: bool,
    timeout: float | None,
) -> None:
    """Check FILE (default: providers.yaml) without touching the network.

    Exit status 0: it can be used. 2: every mistake is on stderr, as file:line:column: message (hint).

    With --live, ask every upstream model of the file, or those of the named PROVIDERs (or PROVIDER/MODEL),
    some small questions: about 20 requests each, which cost a few thousand tokens. Exit status 0: all keys
    are good and all answers stream. 1: some do not. 2: a mistake in the file or on the command line.
    """
    usual = Path(os.environ.get("GATEWAY_CONFIG") or DEFAULT_FILE)
    if live:
        variables = variables_or_exit(env_file)
        sys.exit(_live(path or usual, variables, names, write, as_json, 60.0 if timeout is None else timeout))
    if write or as_json or timeout is not None:
        raise click.UsageError("--write, --json and --timeout go with --live")
    if len(names) > 1:
        raise click.UsageError("one FILE; PROVIDERs go with --live")
    path = Path(names[0]) if names else path or usual
    config = load_or_exit(path, variables_or_exit(env_file))
    try:
        ring = load_keys(beside(path, config.server.keys_file))
    except ConfigError as error:
        exit_with(error)
    homeless = [
        f"the key {key.name} opens nothing: there is no group {key.group}"
        for key in ring.keys
        if key.group is not None and key.group not in config.groups
    ]
    for warning in (*config.warnings, *ring.warnings, *homeless, *env_file_warnings(env_file)):
        click.echo(click.style("warning: ", fg="yellow") + warning)
    keys = f", {len(ring.keys)} client keys" if ring else ""
    click.echo(f"{path}: ok, {len(config.table.names())} model names, {len(config.providers)} providers{keys}")


def _live(
    path: Path, variables: Mapping[str, str], names: Sequence[str], write: bool, as_json: bool, timeout: float
) -> int:
    """The exit status."""
    config = load_or_exit(path, variables)
    asked = _asked(config, names)
    if not asked:
        click.echo("no name under 'models' leads to a model that could be asked; name one: PROVIDER/MODEL", err=True)
        return 1
    # Imported late: a check of the file alone must not pay for the server.
    from gateway.server.live_check import check_live
    from gateway.server.live_probes import MOST_REQUESTS

    models = "1 model" if len(asked) == 1 else f"{len(asked)} models"
    costs = f"at most {MOST_REQUESTS} small requests each, which cost a few thousand tokens; Ctrl-C stops"
    click.echo(f"asking {models}: {costs}", err=True)
    try:
        with _progress(len(asked)) as progress:
            reports = check_live(asked, timeout=timeout, progress=progress)
    except KeyboardInterrupt:
        click.echo("stopped; nothing was written", err=True)
        return INTERRUPTED
    written = _write(path, variables, reports) if write else {}
    secrets = _forms(config.secrets)
    if as_json:
        click.echo(json.dumps(_masked(_as_json(reports, written), secrets), indent=2, ensure_ascii=False))
    else:
        click.echo(_masked("\n".join(_as_text(reports, written)), secrets))
    return 0 if all(report.usable for report in reports) and not written.get("refused") else 1


# -- whom to ask -----------------------------------------------------------------------------------------


def _asked(config: Config, names: Sequence[str]) -> list[Asked]:
    """The distinct targets that ``names`` (all, if there is none) mean."""
    found: list[Asked] = []
    every = config.named_routes
    for target, name in ((target, name) for name, route in every for target in (*route.targets, *route.on_overflow)):
        known = next((place for place, (other, _) in enumerate(found) if other == target), None)
        if known is None:
            found.append((target, (name,)))
        else:
            found[known] = (target, (*found[known][1], name))
    wanted = [asked for name in names for asked in _named(config, name, found)] if names else found
    distinct = (asked for place, asked in enumerate(wanted) if asked not in wanted[:place])
    return [asked for asked in distinct if asked[0].model != ASKED_NAME]


def _named(config: Config, name: str, found: Sequence[Asked]) -> list[Asked]:
    """The targets of ``provider`` or ``provider/model``. Raises UsageError."""
    provider, _, model = name.partition("/")
    if provider not in config.providers:
        there = ", ".join(config.providers)
        raise click.UsageError(f"{name!r} is no provider of the file; there: {there}. A file goes with --config.")
    of_it = [asked for asked in found if asked[0].provider.name == provider]
    if not model:
        return of_it
    matching = [asked for asked in of_it if asked[0].model == model]
    build = next((target.for_name for target, _ in of_it if target.for_name), config.table.direct.get(provider))
    if not matching and build is not None:
        return [(build(model), ())]
    if not matching:
        raise click.UsageError(f"no name under 'models' leads to {name}")
    return matching


@contextmanager
def _progress(targets: int) -> Iterator[Progress]:
    """A bar on stderr, where that is a terminal."""
    from gateway.server.live_probes import PROBES

    if not sys.stderr.isatty():
        yield lambda target, probe: None
        return
    length = targets * len(PROBES)
    with click.progressbar(length=length, label="asking", file=sys.stderr, item_show_func=str) as bar:
        yield lambda target, probe: bar.update(1, f"{target}: {probe}")


# -- what is written -------------------------------------------------------------------------------------


def _write(path: Path, variables: Mapping[str, str], reports: Sequence[Report]) -> dict[str, Any]:
    """Adds the facts to the file: {written, refused: [{…, reason}], diff, snippet}."""
    from gateway.config.overrides import snippet
    from gateway.config.rewrite import replace_file, rewrite

    comment = f"found by gateway check --live, {date.today().isoformat()}"
    before = path.read_bytes()
    made = rewrite(before.decode(), _overrides(reports), comment, variables, known_apis(), path.parent)
    refused, written, diff = made.refused, made.written, ""
    if written:
        try:
            replace_file(path, before, made.after.encode())
            lines = (made.before.splitlines(), made.after.splitlines())
            # Without context: the lines around may hold what nobody should see.
            diff = "\n".join(difflib.unified_diff(*lines, str(path), str(path), lineterm="", n=0))
        except OSError as error:
            reason = f"{path} cannot be written: {error.strerror}"
            refused, written = [*refused, *((override, reason) for override in written)], []
    return {
        "written": [_plain(override) for override in written],
        "refused": [{**_plain(override), "reason": reason} for override, reason in refused],
        "diff": diff,
        "snippet": snippet((override for override, _ in refused), comment) if refused else "",
    }


def _overrides(reports: Sequence[Report]) -> list[Override]:
    """Each fact once, although several targets may be the same model."""
    from gateway.config.overrides import Override

    facts: dict[tuple[str, str, str], Any] = {}
    for report in reports:
        for field, value in report.facts.items():
            facts.setdefault((report.target.provider.name, report.target.model, field), value)
    return [Override(*key, value) for key, value in facts.items()]


def _plain(override: Override) -> dict[str, Any]:
    return {"target": f"{override.provider}/{override.model}", "field": override.field, "value": override.value}


# -- what is shown ---------------------------------------------------------------------------------------


def _as_json(reports: Sequence[Report], written: dict[str, Any]) -> dict[str, Any]:
    rows = [
        {
            "target": report.target.name,
            "names": report.names,
            "api": report.target.api,
            "usable": report.usable,
            "requests": report.requests,
            "probes": {name: {"mark": c.mark, "note": c.note, "value": c.value} for name, c in report.cells.items()},
            "facts": report.facts,
        }
        for report in reports
    ]
    return {"targets": rows, **({"write": written} if written else {})}


def _as_text(reports: Sequence[Report], written: dict[str, Any]) -> Iterator[str]:
    yield from _table(reports)
    for report in reports:
        notes = [(name, cell) for name, cell in report.cells.items() if cell.mark != "ok" and cell.note]
        facts = ", ".join(f"{field}: {_yaml(value)}" for field, value in report.facts.items())
        if notes or facts:
            yield f"\n{_label(report, reports)}"
        yield from (f"  {name:<14} {cell.mark:<2} {cell.note}" for name, cell in notes)
        if facts:
            yield f"  differs from its profile: {facts}"
    if written.get("diff"):
        yield f"\n{written['diff']}"
    for entry in written.get("refused", ()):
        yield f"\nnot written: {entry['target']} {entry['field']}: {entry['reason']}"
    if written.get("snippet"):
        yield f"\nto paste, merged with what is there:\n\n{written['snippet']}"
    if not written and any(report.facts for report in reports):
        yield "\nnothing is written; --write adds these differences to the file"
    elif written and not written["written"] and not written["refused"]:
        yield "\nnothing to write: the profiles are right"


def _table(reports: Sequence[Report]) -> Iterator[str]:
    """One row for each target, one column for each probe."""
    columns = list(reports[0].cells)
    rows = [
        (_label(report, reports), [(cell.mark, cell.value or cell.mark) for cell in report.cells.values()])
        for report in reports
    ]
    wide = max(len(label) for label, _ in rows)
    widths = [max(len(name), *(len(row[place][1]) for _, row in rows)) for place, name in enumerate(columns)]
    widths[-1] = 0  # nothing stands behind the last one
    yield "  ".join([" " * wide, *(f"{name:<{width}}" for name, width in zip(columns, widths, strict=True))])
    for label, row in rows:
        cells = (_coloured(mark, f"{text:<{width}}") for (mark, text), width in zip(row, widths, strict=True))
        yield "  ".join([f"{label:<{wide}}", *cells])


def _coloured(mark: str, text: str) -> str:
    return click.style(text, fg={"ok": "green", "no": "red", "?": "yellow"}.get(mark))


def _label(report: Report, reports: Sequence[Report]) -> str:
    """The target; where several rows are of one model, with the names that lead to each."""
    name = report.target.name
    alone = sum(other.target.name == name for other in reports) == 1
    return name if alone else f"{name} ({', '.join(report.names)})"


def _yaml(value: Any) -> str:
    from gateway.config.overrides import value_text

    return value_text(value)


def _forms(secrets: Collection[str]) -> list[str]:
    """Each secret as it is and as it may stand between quotes, longer ones first."""
    forms = {form for secret in secrets for form in (secret, json.dumps(secret)[1:-1], secret.replace("'", "''"))}
    return sorted(forms, key=len, reverse=True)


def _masked(value: Any, forms: Sequence[str]) -> Any:
    """``value`` without any secret in its texts."""
    if isinstance(value, str):
        for form in forms:
            value = value.replace(form, "[key]")
        return value
    if isinstance(value, dict):
        return {name: _masked(item, forms) for name, item in value.items()}
    return [_masked(item, forms) for item in value] if isinstance(value, list | tuple) else value
