"""Cumulative: deltas that repeat the whole text so far, cut down to what is new (R74).

Rules:
* A field is cumulative from the moment a delta strictly extends everything before it; until then
  each delta counts in full, so that a true repetition ("ha", "ha") is kept.
* The text so far is joined only where a delta may hold all of it, so cost stays linear in what came in.
"""

from __future__ import annotations


class Cumulative:
    """One field of one stream."""

    __slots__ = ("_cumulative", "_pieces", "_size")

    def __init__(self) -> None:
        self._pieces: list[str] = []
        self._size = 0
        self._cumulative = False

    def new_part(self, delta: str) -> str:
        """What ``delta`` adds."""
        if 0 < self._size < len(delta):
            so_far = self._joined()
            if delta.startswith(so_far):
                self._cumulative = True
                self._pieces, self._size = [delta], len(delta)
                return delta[len(so_far) :]
        elif self._cumulative and self._begins_with(delta):
            return ""
        self._pieces.append(delta)
        self._size += len(delta)
        return delta

    def _begins_with(self, delta: str) -> bool:
        start = self._pieces[0] if len(delta) <= len(self._pieces[0]) else self._joined()
        return start.startswith(delta)

    def _joined(self) -> str:
        self._pieces = ["".join(self._pieces)]
        return self._pieces[0]
