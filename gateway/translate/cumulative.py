"""Cumulative: deltas that repeat the whole text so far, cut down to what is new (R74).

Rule: a field is cumulative from the moment a delta strictly extends everything before it; until then
each delta counts in full, so that a true repetition ("ha", "ha") is kept.
"""

from __future__ import annotations


class Cumulative:
    """One field of one stream."""

    __slots__ = ("_cumulative", "_so_far")

    def __init__(self) -> None:
        self._so_far = ""
        self._cumulative = False

    def new_part(self, delta: str) -> str:
        """What ``delta`` adds."""
        so_far = self._so_far
        if so_far and len(delta) > len(so_far) and delta.startswith(so_far):
            self._cumulative = True
            self._so_far = delta
            return delta[len(so_far) :]
        if self._cumulative and so_far.startswith(delta):
            return ""
        self._so_far += delta
        return delta
