"""Mistakes in a configuration file: what is wrong, where, and what to do about it.

Rules:
* All mistakes of a file are reported at once, in the order of the file; the first MOST_SHOWN, and how many more.
* A mistake names keys and references. It never holds a value that may be a secret: no resolved
  variable, no key, no header.
* The work is bounded whatever the file holds: suggestions have a budget.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice
from typing import NamedTuple

MOST_SHOWN = 100
_SUGGESTION_BUDGET = 2_000
"""Comparisons that one file may cost, about 20 µs each."""
_LONGEST_SUGGESTION = 32
_LONGEST_QUOTE = 64


class Mark(NamedTuple):
    """A place in the file; line and column count from 1."""

    line: int
    column: int


NOWHERE = Mark(0, 0)
"""The place of a mistake that concerns the file as a whole."""


class Mistake(NamedTuple):
    """One thing to correct; sorts by its place. Line 0: the file as a whole."""

    file: str
    line: int
    column: int
    message: str
    hint: str = ""

    def __str__(self) -> str:
        where = f"{self.file}:{self.line}:{self.column}" if self.line else self.file
        return f"{where}: {self.message}" + (f" ({self.hint})" if self.hint else "")


class ConfigError(Exception):
    """The configuration cannot be used. ``str`` gives one mistake per line."""

    def __init__(self, mistakes: Iterable[Mistake]) -> None:
        found = sorted(set(mistakes))
        if len(found) > MOST_SHOWN:
            found[MOST_SHOWN:] = [Mistake(found[-1].file, 0, 0, f"and {len(found) - MOST_SHOWN:,} more mistakes")]
        self.mistakes = tuple(found)
        super().__init__("\n".join(map(str, self.mistakes)))


class Mistakes:
    """Collects what is wrong in one file."""

    def __init__(self, file: str) -> None:
        self.file = file
        self.found: list[Mistake] = []
        self._budget = _SUGGESTION_BUDGET

    def add(self, mark: Mark, message: str, hint: str = "") -> None:
        self.found.append(Mistake(self.file, mark.line, mark.column, message, hint))

    def error(self, mark: Mark, message: str, hint: str = "") -> ConfigError:
        """The error to raise when nothing more can be read; holds what was found before, too."""
        self.add(mark, message, hint)
        return ConfigError(self.found)

    def raise_if_any(self) -> None:
        """Raises ConfigError when something was found."""
        if self.found:
            raise ConfigError(self.found)

    def did_you_mean(self, word: str, known: Iterable[str]) -> str:
        """``did you mean 'x'?``, or an empty string."""
        if self._budget <= 0 or len(word) > _LONGEST_SUGGESTION:
            return ""
        candidates = [name for name in islice(known, self._budget) if len(name) <= _LONGEST_SUGGESTION]
        self._budget -= len(candidates) + 1
        from difflib import get_close_matches  # only a mistake needs it

        close = get_close_matches(word, candidates, n=1, cutoff=0.6)
        return f"did you mean '{close[0]}'?" if close else ""


def quoted(text: str) -> str:
    """A key or a reference as it stands in the file, on one line and not too long."""
    shown = text if len(text) <= _LONGEST_QUOTE else text[: _LONGEST_QUOTE - 1] + "…"
    return "'" + "".join(c if c.isprintable() else "?" for c in shown) + "'"


def listed(names: Iterable[str]) -> str:
    """``a, b, c``, cut after 20."""
    every = list(names)
    shown = ", ".join(name if len(name) <= _LONGEST_QUOTE else name[:_LONGEST_QUOTE] + "…" for name in every[:20])
    return shown + (f" and {len(every) - 20} more" if len(every) > 20 else "")
