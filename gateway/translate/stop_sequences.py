"""StopSequences: cuts the text at a stop sequence where the upstream cannot (R25).

Rules:
* Text that may be the beginning of a stop sequence waits until it is certain; everything before it
  leaves at once.
* The sequence that is whole first ends the answer, of two the longer one; so the split of the text does not matter.
* Each character is looked at once, however long the sequences are.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

_NONE: frozenset[str] = frozenset()
_NOTHING: deque[str] = deque(maxlen=0)
"""What waits where nothing is cut: one for all streams."""


class StopSequences:
    """The stop sequences of one request; one object per stream."""

    __slots__ = ("_cut", "_firsts", "_gone", "_waiting", "_waiting_size", "asked", "cuts")

    def __init__(self, asked: Sequence[str], *, enforce: bool) -> None:
        """``asked``: what the client wants, no empty ones. ``enforce``: cut here; else the upstream does it."""
        self.asked = frozenset(asked)
        self.cuts = bool(asked) and enforce
        """Text must go through ``feed``."""
        self._cut = [_Stop(text) for text in asked] if enforce else ()
        self._firsts = frozenset([text[0] for text in asked]) if self.cuts else _NONE
        self._waiting: deque[str] = deque() if self.cuts else _NOTHING
        self._waiting_size = 0
        self._gone = 0
        """Characters of the first waiting piece that left already."""

    def is_asked(self, sequence: object) -> bool:
        """Whether the client asked for this stop sequence."""
        return isinstance(sequence, str) and sequence in self.asked

    def feed(self, text: str) -> tuple[str, str | None]:
        """(text that may leave, the stop sequence that was met or None)."""
        if not self._waiting and self._firsts.isdisjoint(text):
            return text, None
        ends = [(end, -len(stop.text), stop.text) for stop in self._cut if (end := stop.end_in(text))]
        self._waiting.append(text)
        self._waiting_size += len(text)
        if ends:
            end, _, met = min(ends)
            leaving = self._release(self._waiting_size - len(text) + end - len(met))
            self.close()
            return leaving, met
        return self._release(self._waiting_size - max(stop.matched for stop in self._cut)), None

    def close(self) -> str:
        """The text that still waited."""
        for stop in self._cut:
            stop.matched = 0
        return self._release(self._waiting_size)

    def _release(self, count: int) -> str:
        """The first ``count`` characters of what waits."""
        self._waiting_size -= count
        leaving: list[str] = []
        while count:
            piece = self._waiting[0][self._gone : self._gone + count]
            leaving.append(piece)
            count -= len(piece)
            self._gone += len(piece)
            if self._gone == len(self._waiting[0]):
                self._waiting.popleft()
                self._gone = 0
        return "".join(leaving)


class _Stop:
    """How much of one stop sequence the text ends with (the search of Knuth, Morris and Pratt)."""

    __slots__ = ("_fallback", "matched", "text")

    def __init__(self, text: str) -> None:
        self.text = text
        self.matched = 0
        self._fallback = [0]
        """For each beginning of ``text``: how much of ``text`` its own end begins again. Grows as it is needed."""

    def end_in(self, text: str) -> int:
        """Where in ``text`` the sequence is whole for the first time; 0 when it is not."""
        stop, matched, at = self.text, self.matched, 0
        while at < len(text):
            if matched == 0:
                at = text.find(stop[0], at)
                if at < 0:
                    break
            elif text[at] != stop[matched]:
                matched = self._shorter(matched)
                continue
            matched += 1
            at += 1
            if matched == len(stop):
                return at
        self.matched = matched
        return 0

    def _shorter(self, matched: int) -> int:
        """The next shorter beginning of the sequence that also ends what ``matched`` characters of it ended."""
        known, stop = self._fallback, self.text
        while len(known) < matched:
            size = known[-1]
            while size and stop[len(known)] != stop[size]:
                size = known[size - 1]
            known.append(size + (stop[len(known)] == stop[size]))
        return known[matched - 1]


def overlap(text: str, marker: str) -> int:
    """How many characters at the end of ``text`` begin ``marker``, and may be the beginning of it."""
    at = text.find(marker[0], max(0, len(text) - len(marker) + 1))
    while at >= 0:
        if marker.startswith(text[at:]):
            return len(text) - at
        at = text.find(marker[0], at + 1)
    return 0
