"""An environment file: variables for ``${VAR}`` that can change while the gateway runs.

Rules:
* One ``NAME=value`` a line, with or without ``export``; ``#`` begins a comment at the start of a line or after
  a blank. A value in single quotes is taken as it stands; in double quotes ``\\n \\t \\" \\\\ \\$`` are escapes.
* Nothing is run or put in: a ``$`` is a ``$``.
* All mistakes are reported at once, each with its line; none of them shows a value.
* The file wins over the process's own environment: it is what can be edited.
"""

from __future__ import annotations

import re
import stat
from collections.abc import Mapping
from pathlib import Path

from gateway.config import ConfigError, Mistake

MAX_BYTES = 1 << 16

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_LINE = re.compile(r"\s*(?:export\s+)?(?P<name>[^\s=#'\"]+)(?P<equals>\s*=[ \t]*)?(?P<rest>.*)", re.DOTALL)
_DOUBLE = re.compile(r'"(?P<value>(?:[^"\\]|\\.)*)"(?P<after>.*)', re.DOTALL)
_SINGLE = re.compile(r"'(?P<value>[^']*)'(?P<after>.*)", re.DOTALL)
_COMMENT = re.compile(r"(?:^|\s)#.*", re.DOTALL)
_ESCAPE = re.compile(r"\\(.)", re.DOTALL)
_ESCAPED = {"n": "\n", "t": "\t", "r": "\r"}


class _Wrong(ValueError):
    """What is wrong with one line."""


def read_env_file(path: Path) -> dict[str, str]:
    """Name -> value. Raises ConfigError, also for a file that is missing or cannot be read."""
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise _refused(path, 0, "this is not a file")
        with path.open("rb") as stream:
            data = stream.read(MAX_BYTES + 1)
    except FileNotFoundError:
        raise _refused(path, 0, "there is no such file") from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "the path is not valid"
        raise _refused(path, 0, f"cannot be read: {reason}") from None
    if len(data) > MAX_BYTES:
        raise _refused(path, 0, f"the file is larger than {MAX_BYTES} bytes")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise _refused(path, data[: error.start].count(b"\n") + 1, "this is not UTF-8") from None
    return _variables(path, text)


def readable_by_others(path: Path) -> bool:
    """Whether other users of this machine can read what the file holds."""
    try:
        return bool(path.stat().st_mode & (stat.S_IRGRP | stat.S_IROTH))
    except (OSError, ValueError):
        return False


def _variables(path: Path, text: str) -> dict[str, str]:
    found: dict[str, str] = {}
    lines: dict[str, int] = {}
    mistakes: list[Mistake] = []
    for number, line in enumerate(text.split("\n"), 1):
        try:
            name, value = _assignment(line.removesuffix("\r"), lines)
        except _Wrong as wrong:
            mistakes.append(Mistake(str(path), number, 1, str(wrong)))
            continue
        if name:
            found[name] = value
            lines[name] = number
    if mistakes:
        raise ConfigError(mistakes)
    return found


def _assignment(line: str, known: Mapping[str, int]) -> tuple[str, str]:
    """(name, value); two empty texts for a line that says nothing. Raises _Wrong."""
    if not line.strip() or line.lstrip().startswith("#"):
        return "", ""
    match = _LINE.fullmatch(line)
    # What stands before the '=' is not shown: on a line that went wrong it may be half of a key.
    if match is None or not _NAME.fullmatch(match["name"]):
        raise _Wrong("this is no NAME=value; a name has letters, digits and '_', and begins with no digit")
    name = match["name"]
    if match["equals"] is None:
        raise _Wrong("'=' is missing after the name")
    if name in known:
        raise _Wrong(f"{name[:64]} stands here twice; first in line {known[name]}")
    value = _value(match["rest"])
    if "\0" in value:
        raise _Wrong(f"{name[:64]}: a NUL character")
    return name, value


def _value(rest: str) -> str:
    if rest[:1] not in ("'", '"'):
        return _COMMENT.sub("", rest).strip()
    match = (_SINGLE if rest[0] == "'" else _DOUBLE).fullmatch(rest)
    if match is None:
        raise _Wrong(f"the quote ({rest[0]}) is not closed; a value is one line")
    if _COMMENT.sub("", match["after"]).strip():
        raise _Wrong("there is text after the closing quote")
    if rest[0] == "'":
        return match["value"]
    return _ESCAPE.sub(lambda found: _ESCAPED.get(found[1], found[1]), match["value"])


def _refused(path: Path, line: int, message: str) -> ConfigError:
    return ConfigError([Mistake(str(path), line, 1, message)])
