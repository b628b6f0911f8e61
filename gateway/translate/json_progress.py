"""JsonProgress: is this growing JSON object whole yet?

Rules:
* Every character is looked at once, however small the fragments.
* Fragments are scanned when somebody asks, else many at a time: a stream with one tool call pays little,
  and a long one does not pile up.
"""

from __future__ import annotations

import re

MANY = 256
"""Fragments that wait at most."""

_STRUCTURE = re.compile(r'["\\{}\[\]]')


class JsonProgress:
    """Follows the nesting of one JSON object that arrives in fragments."""

    __slots__ = ("_depth", "_escaped", "_in_string", "_opened", "_unscanned")

    def __init__(self) -> None:
        self._unscanned: list[str] = []
        self._depth = 0
        self._in_string = False
        self._escaped = False
        self._opened = False

    def feed(self, fragment: str) -> None:
        """The next characters."""
        self._unscanned.append(fragment)
        if len(self._unscanned) >= MANY:
            self._scan_all()

    @property
    def complete(self) -> bool:
        """The outermost object was opened and closed again."""
        self._scan_all()
        return self._opened and self._depth <= 0

    def _scan_all(self) -> None:
        if self._unscanned:
            self._scan("".join(self._unscanned))
            self._unscanned.clear()

    def _scan(self, fragment: str) -> None:
        skip = -1
        if self._escaped and fragment:
            self._escaped = False
            skip = 0
        for found in _STRUCTURE.finditer(fragment):
            position = found.start()
            if position == skip:
                continue
            mark = fragment[position]
            if mark == "\\":
                if self._in_string:
                    skip = position + 1
            elif mark == '"':
                self._in_string = not self._in_string
            elif not self._in_string:
                self._depth += 1 if mark in "{[" else -1
                self._opened = True
        if skip == len(fragment):
            self._escaped = True
