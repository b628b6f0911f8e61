"""ThinkTags: a leading ``<think>…</think>`` in the text, split into reasoning and answer (R75).

Rules:
* Only at the very start of the answer, after whitespace at most; later tags are text.
* Tags may be split over any number of deltas. No character waits longer than it must.
* Newlines at the edges of the tags belong to neither side; they are remembered (``gaps``), so that the
  turn can go back byte for byte.
"""

from __future__ import annotations

from typing import Literal

_OPEN = "<think>"
_CLOSE = "</think>"

Piece = tuple[Literal["thinking", "text"], str]


class ThinkTags:
    """Splits the text of one answer; one object per stream."""

    __slots__ = ("_buffer", "_state", "found", "gaps")

    def __init__(self) -> None:
        self._buffer = ""
        self.found = False
        """The answer began with a tag."""
        self._state: Literal["start", "after_open", "inside", "after_close", "text"] = "start"
        self.gaps = ["", "", "", ""]
        """Whitespace before ``<think>``, after it, before ``</think>``, after it."""

    def feed(self, text: str) -> list[Piece]:
        """The pieces that are certain now."""
        if self._state == "text":
            return [("text", text)]
        self._buffer += text
        pieces: list[Piece] = []
        while self._step(pieces):
            pass
        return pieces

    def close(self) -> list[Piece]:
        """What still waited for a decision, at the end of the answer."""
        rest, self._buffer = self._buffer, ""
        if not rest or self._state in ("after_open", "after_close"):
            return []
        return [("thinking" if self._state == "inside" else "text", rest)]

    def _step(self, pieces: list[Piece]) -> bool:
        """One move of the state machine; False when it needs more text."""
        if self._state == "start":
            return self._look_for_open()
        if self._state in ("after_open", "after_close"):
            return self._skip_newlines()
        if self._state == "inside":
            return self._look_for_close(pieces)
        if self._buffer:
            pieces.append(("text", self._buffer))
            self._buffer = ""
        return False

    def _look_for_open(self) -> bool:
        stripped = self._buffer.lstrip()
        if stripped.startswith(_OPEN):
            self.gaps[0] = self._buffer[: len(self._buffer) - len(stripped)]
            self._buffer = stripped[len(_OPEN) :]
            self._state = "after_open"
            self.found = True
            return True
        if _OPEN.startswith(stripped):
            return False
        self._state = "text"
        return True

    def _skip_newlines(self) -> bool:
        stripped = self._buffer.lstrip("\r\n")
        gap = 1 if self._state == "after_open" else 3
        self.gaps[gap] += self._buffer[: len(self._buffer) - len(stripped)]
        self._buffer = stripped
        if not stripped:
            return False
        self._state = "inside" if gap == 1 else "text"
        return True

    def _look_for_close(self, pieces: list[Piece]) -> bool:
        head, tag, rest = self._buffer.partition(_CLOSE)
        if tag:
            inner = head.rstrip("\r\n")
            self.gaps[2] = head[len(inner) :]
            if inner:
                pieces.append(("thinking", inner))
            self._buffer, self._state = rest, "after_close"
            return True
        keep = _possible_tail(self._buffer)
        sure = self._buffer[: len(self._buffer) - keep]
        if sure:
            pieces.append(("thinking", sure))
            self._buffer = self._buffer[len(sure) :]
        return False


def _possible_tail(text: str) -> int:
    """How many characters at the end may belong to newlines and a closing tag."""
    tag = 0
    for size in range(min(len(_CLOSE) - 1, len(text)), 0, -1):
        if _CLOSE.startswith(text[-size:]):
            tag = size
            break
    body = text[: len(text) - tag]
    return tag + len(body) - len(body.rstrip("\r\n"))
