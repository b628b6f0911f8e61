"""``gateway keys``: who may ask? Give out, list and take back the keys of clients."""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from functools import wraps
from pathlib import Path
from typing import Any

import click

from gateway.access.client_key import ClientKey
from gateway.access.key_ring import KeyRing
from gateway.access.key_text import RANDOM_BYTES, digest, make
from gateway.access.limits import Budget
from gateway.cli.env import client_variables, lines_for
from gateway.cli.options import config_option, env_file_option, exit_with, known_apis, variables_or_exit
from gateway.config import Config, ConfigError, load
from gateway.config.amounts import budgets, count, seconds
from gateway.config.key_file import beside, checked_name, moment, when
from gateway.config.key_file import load as load_keys
from gateway.config.key_file_edit import CannotEdit, Fields, change_key
from gateway.config.mistakes import Mistakes, listed

_SOON = "a running gateway follows within two seconds"
_COLUMNS = ("name", "user", "group", "limits", "expires", "state")
_STATE_COLOURS = {"active": "green", "expired": "yellow", "disabled": "yellow"}


@dataclass(frozen=True, slots=True)
class Place:
    """Where the keys are, and the configuration that they belong to, if it can be read."""

    path: Path
    config: Config | None


@click.group()
def keys() -> None:
    """Give out, list and take back the keys of clients.

    They are in keys.yaml beside providers.yaml (or where server.keys_file says): what each may do, and its SHA-256,
    never the key itself. A running gateway follows the file within two seconds.

    Exit status 0: done. 1: it cannot be done. 2: a mistake in a file or on the command line.
    """


# -- options -----------------------------------------------------------------------------------------------


def _with_place(command: Callable[..., None]) -> Callable[..., None]:
    """``--config``, ``--env-file`` and ``--keys-file``; the command gets a Place for them."""

    @wraps(command)
    def with_place(path: Path, env_file: Path | None, keys_file: Path | None, **options: Any) -> None:
        command(_place(path, env_file, keys_file), **options)

    option = click.option(
        "--keys-file", type=click.Path(path_type=Path), help="The file of the keys, whatever the configuration says."
    )
    return config_option(env_file_option(option(with_place)))


def _place(path: Path, env_file: Path | None, keys_file: Path | None) -> Place:
    """A configuration that is wrong stops nobody from taking a key back; it is only said."""
    variables = variables_or_exit(env_file)
    try:
        config = load(path, variables, known_apis())
    except ConfigError as error:
        found = keys_file or beside(path, None)
        click.echo(f"warning: {error.mistakes[0]}; the keys are taken to be in {found}", err=True)
        return Place(found, None)
    return Place(keys_file or beside(path, config.server.keys_file), config)


def _read_by(how: Callable[[Any], Any]) -> Callable[[click.Context, click.Parameter, Any], Any]:
    """A callback that gives ``how(value)``, whose ValueError is a mistake on the command line."""

    def callback(context: click.Context, parameter: click.Parameter, value: Any) -> Any:
        if value is None:
            return None
        try:
            return how(value)
        except ValueError as error:
            raise click.BadParameter(str(error)) from None

    return callback


def _amount_text(text: str) -> int | str:
    count(text)
    return int(text) if text.isdigit() else text


def _budget_texts(texts: Sequence[str]) -> list[str] | str | None:
    budgets(texts)
    return texts[0] if len(texts) == 1 else list(texts) or None


def _model_names(text: str) -> list[str]:
    names = [name for part in text.split(",") if (name := part.strip())]
    if not names:
        raise ValueError("names with commas between them, e.g. sonnet,haiku")
    return names


def _end(text: str) -> str:
    """``90d`` or a date as what stands in the file."""
    try:
        return when(time.time() + seconds(text))
    except ValueError:
        pass
    try:
        future = moment(text) > time.time()
    except ValueError:
        raise ValueError(f"{text!r} is neither a length of time nor a date: write e.g. 90d or 2027-02-20") from None
    if not future:
        raise ValueError(f"{text!r} is over; a date is its beginning, in UTC")
    return text


def _grace(text: str) -> int:
    return 0 if text == "0" else seconds(text)


_name_argument = click.argument("name", metavar="NAME", callback=_read_by(checked_name))
_expires_option = click.option(
    "--expires", metavar="90d|DATE", callback=_read_by(_end), help="After how long it ends, or on which day (UTC)."
)
_json_option = click.option("--json", "as_json", is_flag=True, help="As JSON.")


# -- commands ----------------------------------------------------------------------------------------------


@keys.command()
@_name_argument
@click.option("--user", callback=_read_by(checked_name), help="Whose it is; otherwise NAME.")
@click.option("--group", callback=_read_by(checked_name), help="One of the groups in providers.yaml.")
@click.option("--models", metavar="A,B", callback=_read_by(_model_names), help="The names that it may ask for.")
@click.option("--rpm", metavar="N", callback=_read_by(_amount_text), help="Requests a minute.")
@click.option("--tpm", metavar="N", callback=_read_by(_amount_text), help="Tokens a minute, e.g. 400k.")
@click.option("--concurrency", metavar="N", callback=_read_by(_amount_text), help="Requests at the same time.")
@click.option("--budget", multiple=True, callback=_read_by(_budget_texts), help="E.g. 20usd/month; several are taken.")
@_expires_option
@_json_option
@_with_place
def add(place: Place, name: str, as_json: bool, **options: Any) -> None:
    """Make a key for NAME and print it, this once."""
    _check_group(place, options["group"])
    text = make(secrets.token_bytes(RANDOM_BYTES))
    fields = {"sha256": digest(text).hex(), **options, "created": f"{datetime.now(UTC):%Y-%m-%d}"}

    def new(ring: KeyRing) -> Fields:
        if ring.get(name):
            raise click.ClickException(f"{name} has a key already: 'gateway keys rotate {name}' gives a new one")
        if not ring:
            click.echo("this is the first key: from now on every client needs one, or server.token", err=True)
        return fields

    _change(place, name, new)
    _hand_over(place, name, text, as_json)


@keys.command("list")
@_json_option
@_with_place
def list_keys(place: Place, as_json: bool) -> None:
    """Show all keys: whose, what they may take, until when."""
    ring = _load(place)
    if as_json:
        click.echo(json.dumps([_described(key) for key in ring.keys], indent=2, ensure_ascii=False))
    elif ring.keys:
        click.echo("\n".join(_table(ring)))
    elif ring:
        click.echo(f"{place.path} holds no key: nobody is admitted by one")
    else:
        click.echo(f"there is no {place.path}: no client has a key of its own")


@keys.command()
@_name_argument
@_json_option
@_with_place
def show(place: Place, name: str, as_json: bool) -> None:
    """Show what the key of NAME may do."""
    described = _described(_known(place, _load(place), name))
    if as_json:
        click.echo(json.dumps(described, indent=2, ensure_ascii=False))
        return
    for field, value in described.items():
        if value not in (None, []):
            click.echo(f"{field.replace('_', ' '):<18} {', '.join(value) if isinstance(value, list) else value}")


@keys.command()
@_name_argument
@_with_place
def revoke(place: Place, name: str) -> None:
    """Take the key of NAME out of the file, for good."""

    def gone(ring: KeyRing) -> None:
        _known(place, ring, name)

    _change(place, name, gone)
    click.echo(f"{name} is revoked; {_SOON}")


@keys.command()
@_name_argument
@_with_place
def disable(place: Place, name: str) -> None:
    """Refuse the key of NAME until it is enabled."""
    _switch(place, name, True)


@keys.command()
@_name_argument
@_with_place
def enable(place: Place, name: str) -> None:
    """Admit the key of NAME again."""
    _switch(place, name, None)


@keys.command()
@_name_argument
@click.option(
    "--grace",
    metavar="24h",
    default="24h",
    show_default=True,
    callback=_read_by(_grace),
    help="How long the old key still works; 0: not at all.",
)
@_expires_option
@_json_option
@_with_place
def rotate(place: Place, name: str, grace: int, expires: str | None, as_json: bool) -> None:
    """Give NAME a new key and print it, this once; the old one works for the grace time."""
    text = make(secrets.token_bytes(RANDOM_BYTES))

    def renewed(ring: KeyRing) -> Fields:
        now = time.time()
        ends = now + grace
        known = _known(place, ring, name).digests
        older = [(old, ends if until is None else min(until, ends)) for old, until in known]
        previous = [{"sha256": old.hex(), "until": when(until)} for old, until in older if until > now]
        new = {"sha256": digest(text).hex(), "previous": previous or None}
        return new if expires is None else {**new, "expires": expires}

    key = _change(place, name, renewed)
    _hand_over(place, name, text, as_json)
    if key and _state(key) != "active":
        cure = "rotate again with --expires" if _state(key) == "expired" else f"'gateway keys enable {name}'"
        click.echo(f"warning: {name} is {_state(key)}, and the new key with it: {cure}", err=True)


# -- what they do ------------------------------------------------------------------------------------------


def _load(place: Place) -> KeyRing:
    try:
        ring = load_keys(place.path)
    except ConfigError as error:
        exit_with(error)
    groups = place.config.groups if place.config else {key.group for key in ring.keys}
    lost = [key for key in ring.keys if key.group not in (None, *groups)]
    for warning in (*ring.warnings, *(f"{key.name} opens nothing: there is no group {key.group}" for key in lost)):
        click.echo(f"warning: {warning}", err=True)
    return ring


def _change(place: Place, name: str, change: Callable[[KeyRing], Fields | None]) -> ClientKey | None:
    try:
        return change_key(place.path, name, change)
    except ConfigError as error:
        exit_with(error)
    except CannotEdit as error:
        raise click.ClickException(str(error)) from None


def _switch(place: Place, name: str, disabled: bool | None) -> None:
    def switched(ring: KeyRing) -> Fields:
        _known(place, ring, name)
        return {"disabled": disabled}

    key = _change(place, name, switched)
    click.echo(f"{name} is {_state(key) if key else 'gone'}; {_SOON}")


def _known(place: Place, ring: KeyRing, name: str) -> ClientKey:
    key = ring.get(name)
    if key is None:
        hint = Mistakes("").did_you_mean(name, [key.name for key in ring.keys])
        raise click.ClickException(f"there is no key {name} in {place.path}" + (f" ({hint})" if hint else ""))
    return key


def _check_group(place: Place, group: str | None) -> None:
    if group is None or place.config is None or group in place.config.groups:
        return
    groups = list(place.config.groups)
    hint = Mistakes("").did_you_mean(group, groups) or (f"known: {listed(groups)}" if groups else "it has none")
    raise click.BadParameter(f"{place.config.path} has no group {group} ({hint})", param_hint="'--group'")


def _hand_over(place: Place, name: str, text: str, as_json: bool) -> None:
    """Prints the key, and what Claude Code needs."""
    variables = {**(client_variables(place.config) if place.config else {}), "ANTHROPIC_AUTH_TOKEN": text}
    if as_json:
        click.echo(json.dumps({"name": name, "key": text, "env": variables}, indent=2))
        return
    click.echo(f"{text}\n\nfor Claude Code:\n{lines_for(variables, 'sh')}")
    click.echo(f"\nthe key of {name} is shown this once; {place.path} keeps only its SHA-256; {_SOON}", err=True)


# -- what they show ----------------------------------------------------------------------------------------


def _state(key: ClientKey) -> str:
    if key.disabled:
        return "disabled"
    return "expired" if key.expires is not None and time.time() >= key.expires else "active"


def _described(key: ClientKey) -> dict[str, Any]:
    """No digest is among it."""
    return {
        "name": key.name,
        "user": key.user,
        "group": key.group,
        "state": _state(key),
        "models": None if key.models is None else list(key.models),
        "rpm": key.limits.rpm,
        "tpm": key.limits.tpm,
        "concurrency": key.limits.concurrency,
        "budget": [_budget(budget) for budget in key.limits.budget],
        "expires": _date(key.expires),
        "created": _date(key.created),
        "old_keys_until": [when(until) for _, until in key.digests if until and until > time.time()],
        "log_prompts_until": _date(key.log_prompts_until),
    }


def _date(seconds_since_epoch: float | None) -> str | None:
    return None if seconds_since_epoch is None else when(seconds_since_epoch)


def _table(ring: KeyRing) -> Iterator[str]:
    rows = [_COLUMNS, *map(_row, ring.keys)]
    wide = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        *cells, state = row
        line = "  ".join(f"{cell:<{width}}" for cell, width in zip(cells, wide, strict=False))
        yield f"{line}  {click.style(state, fg=_STATE_COLOURS.get(state))}"


def _row(key: ClientKey) -> tuple[str, ...]:
    expires = (_date(key.expires) or "-")[:10]
    return key.name, key.user, key.group or "-", ", ".join(_limits(key)) or "-", expires, _state(key)


def _limits(key: ClientKey) -> Iterator[str]:
    limits = key.limits
    for number, unit in ((limits.rpm, "rpm"), (limits.tpm, "tpm"), (limits.concurrency, "at once")):
        if number is not None:
            yield f"{_short(number)} {unit}"
    yield from map(_budget, limits.budget)


def _budget(budget: Budget) -> str:
    if budget.unit == "tokens":
        return f"{_short(budget.amount)} tokens/{budget.period}"
    return f"{Decimal(budget.amount).scaleb(-9).normalize():f}usd/{budget.period}"


def _short(number: int) -> str:
    """400000 as ``400k``; nothing is rounded."""
    for scale, letter in ((1_000_000, "M"), (1_000, "k")):
        if number % scale == 0:
            return f"{number // scale}{letter}"
    return str(number)
