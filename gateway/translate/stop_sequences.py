"""StopSequences: cuts the text at a stop sequence where the upstream cannot (R25).

Rule: text that may be the beginning of a stop sequence waits until it is certain; everything before it
leaves at once.
"""

from __future__ import annotations

from collections.abc import Sequence


class StopSequences:
    """The stop sequences of one request; one object per stream."""

    def __init__(self, asked: Sequence[str], *, enforce: bool) -> None:
        """``asked``: what the client wants. ``enforce``: cut here; else the upstream does it."""
        self.asked = frozenset(asked)
        self._cut = tuple(asked) if enforce else ()
        self._waiting = ""

    @property
    def cuts(self) -> bool:
        """Text must go through ``feed``."""
        return bool(self._cut)

    def feed(self, text: str) -> tuple[str, str | None]:
        """(text that may leave, the stop sequence that was met or None)."""
        if not self._cut:
            return text, None
        text = self._waiting + text
        found = min(((text.find(stop), stop) for stop in self._cut if stop in text), default=None)
        if found is not None:
            self._waiting = ""
            return text[: found[0]], found[1]
        keep = max(_overlap(text, stop) for stop in self._cut)
        self._waiting = text[len(text) - keep :]
        return text[: len(text) - keep], None

    def close(self) -> str:
        """The text that still waited."""
        waiting, self._waiting = self._waiting, ""
        return waiting


def _overlap(text: str, stop: str) -> int:
    """How many characters at the end of ``text`` begin ``stop``."""
    for size in range(min(len(stop) - 1, len(text)), 0, -1):
        if stop.startswith(text[-size:]):
            return size
    return 0
