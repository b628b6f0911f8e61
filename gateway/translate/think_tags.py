"""ThinkTags: a leading ``<think>…</think>`` in the text, split into reasoning and answer (R75).

Rules:
* Only at the very start of the answer, after whitespace at most; later tags are text.
* Tags may be split over any number of deltas. No character waits longer than it must, and each is looked at once.
* Newlines at the edges of the tags belong to neither side; they are remembered (``gaps``), so that the
  turn can go back byte for byte.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

_OPEN = "<think>"
_CLOSE = "</think>"

Piece = tuple[Literal["thinking", "text"], str]


class ThinkTags:
    """Splits the text of one answer; one object per stream."""

    __slots__ = ("_blanks", "_gaps", "_state", "_tag", "found", "over")

    def __init__(self) -> None:
        self.found = False
        """The answer began with a tag."""
        self.over = False
        """Whatever comes is text."""
        self._state: Literal["start", "after_open", "inside", "after_close"] = "start"
        self._blanks: list[str] = []
        """Blanks that stand at the edge of a tag, if one follows."""
        self._tag = ""
        """What may be the beginning of that tag."""
        self._gaps: tuple[list[str], ...] = ([], [], [], [])

    @property
    def gaps(self) -> list[str]:
        """Whitespace before ``<think>``, after it, before ``</think>``, after it."""
        return ["".join(pieces) for pieces in self._gaps]

    def feed(self, text: str) -> Sequence[Piece]:
        """The pieces that are certain now."""
        pieces: list[Piece] = []
        while text:
            text = self._step(text, pieces)
        return pieces

    def close(self) -> Sequence[Piece]:
        """What still waited for a decision, at the end of the answer."""
        rest = self._take_blanks() + self._tag
        self._tag = ""
        if not rest:
            return []
        return [("thinking" if self._state == "inside" else "text", rest)]

    def _step(self, text: str, pieces: list[Piece]) -> str:
        """One move of the state machine; what it left to the next state."""
        if self.over:
            pieces.append(("text", text))
            return ""
        if self._state == "start":
            return self._look_for_open(text)
        if self._state == "inside":
            return self._look_for_close(text, pieces)
        return self._skip_newlines(text)

    def _look_for_open(self, text: str) -> str:
        if not self._tag:
            stripped = text.lstrip()
            self._blanks.append(text[: len(text) - len(stripped)])
            text = stripped
        text = self._tag + text
        self._tag = ""
        if text.startswith(_OPEN):
            self._gaps[0].append(self._take_blanks())
            self._state = "after_open"
            self.found = True
            return text[len(_OPEN) :]
        if _OPEN.startswith(text):
            self._tag = text
            return ""
        self.over = True
        return self._take_blanks() + text

    def _skip_newlines(self, text: str) -> str:
        stripped = text.lstrip("\r\n")
        gap = 1 if self._state == "after_open" else 3
        self._gaps[gap].append(text[: len(text) - len(stripped)])
        if stripped:
            self._state = "inside"
            self.over = gap == 3
        return stripped

    def _look_for_close(self, text: str, pieces: list[Piece]) -> str:
        inner, tag, rest = (self._tag + text).partition(_CLOSE)
        kept = 0 if tag else _overlap(inner)
        self._tag = inner[len(inner) - kept :]
        inner = inner[: len(inner) - kept]
        sure = inner.rstrip("\r\n")
        if sure:
            pieces.append(("thinking", self._take_blanks() + sure))
        self._blanks.append(inner[len(sure) :])
        if tag:
            self._gaps[2].append(self._take_blanks())
            self._state = "after_close"
        return rest

    def _take_blanks(self) -> str:
        blanks = "".join(self._blanks)
        self._blanks.clear()
        return blanks


def may_open(text: str) -> bool:
    """Whether an answer that begins with ``text`` may begin with a tag."""
    start = text.lstrip()
    return start.startswith(_OPEN) or _OPEN.startswith(start)


def _overlap(text: str) -> int:
    """How many characters at the end of ``text`` may begin the closing tag."""
    at = text.rfind("<", -len(_CLOSE) + 1)
    return len(text) - at if at >= 0 and _CLOSE.startswith(text[at:]) else 0
