"""``${VAR}``, ``${VAR:-default}`` and ``${file:/path}`` in the text of a configuration; ``$$`` is a ``$``.

Rules:
* A default stands in for a variable that is unset or empty, as in a shell.
* A file's content loses the white space at its end; only regular files up to 64 KiB are read.
* What is missing is named, never guessed; what was found is never shown.
"""

from __future__ import annotations

import re
import stat
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

MAX_FILE_BYTES = 1 << 16

_REFERENCE = re.compile(
    r"\$(?:(?P<dollar>\$)"
    r"|\{(?P<name>[A-Za-z_][A-Za-z0-9_]*)(?::-(?P<default>[^{}]*))?\}"
    r"|\{file:(?P<file>[^{}]+)\}"
    r"|(?P<open>\{))"
)


class MalformedReference(ValueError):
    """A ``${`` that is none of the three forms."""


@dataclass(frozen=True, slots=True, eq=False)
class Expanded:
    """A text with its references put in. ``repr`` shows none of it."""

    text: str = field(repr=False)
    sources: tuple[str, ...] = ()
    """The variables and files that it names, in order."""
    missing: tuple[str, ...] = ()
    """Those of ``sources`` that are not there and have no default."""
    defaulted: bool = False
    """At least one reference has a default."""
    values: tuple[str, ...] = field(default=(), repr=False)
    """What the sources held."""
    files: tuple[Path, ...] = ()
    """The files named."""


def expand(text: str, env: Mapping[str, str], directory: Path) -> Expanded:
    """``text`` with every reference replaced; relative files are sought in ``directory``.

    Raises MalformedReference.
    """
    if "$" not in text:
        return Expanded(text)
    sources: list[str] = []
    missing: list[str] = []
    values: list[str] = []
    files: list[Path] = []
    defaulted = False

    def replacement(match: re.Match[str]) -> str:
        nonlocal defaulted
        if match["dollar"]:
            return "$"
        if match["open"]:
            raise MalformedReference
        default = match["default"]
        if match["file"]:
            path = directory / match["file"]
            files.append(path)
            source, value = match["file"], _content(path)
        else:
            source, value = match["name"], env.get(match["name"])
        sources.append(source)
        if default is not None:
            defaulted = True
            value = value or default
        if value is None:
            missing.append(source)
            return ""
        values.append(value)
        return value

    out = _REFERENCE.sub(replacement, text)
    return Expanded(out, tuple(sources), tuple(missing), defaulted, tuple(values), tuple(files))


def _content(path: Path) -> str | None:
    """None for whatever cannot be read as a short text."""
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            return None
        with path.open("rb") as stream:
            data = stream.read(MAX_FILE_BYTES + 1)
        return data.decode().rstrip() if len(data) <= MAX_FILE_BYTES else None
    except (OSError, ValueError):
        return None
