"""Learned: facts about upstream models that the gateway found out while it runs.

Rule: bounded, and gone with the process or the configuration; a fact that should stay is written into
providers.yaml, and the log says how.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from gateway.profile import merge
from gateway.routing import Target

MAX_TARGETS = 1000


class Learned:
    """Profile fields per target."""

    def __init__(self) -> None:
        self._layers: dict[str, dict[str, Any]] = {}
        self._amended: dict[str, tuple[Target, Target]] = {}
        """Name -> (as configured, as known): made once, for what hangs on a target is kept with it."""

    def apply(self, target: Target) -> Target:
        """``target`` with what is known about it."""
        layer = self._layers.get(target.name)
        if layer is None:
            return target
        configured, known = self._amended.get(target.name, (None, target))
        if configured is not target:
            known = amended(target, layer)
            self._amended[target.name] = (target, known)
        return known

    def add(self, target_name: str, layer: Mapping[str, Any]) -> bool:
        """Files ``layer`` for ``provider/model``. False: it was known, or there is no room."""
        known = self._layers.get(target_name, {})
        if target_name not in self._layers and len(self._layers) >= MAX_TARGETS:
            return False
        merged = {**known, **layer}
        if "drop_fields" in layer:
            merged["drop_fields"] = tuple(dict.fromkeys((*known.get("drop_fields", ()), *layer["drop_fields"])))
        if merged == known:
            return False
        self._layers[target_name] = merged
        self._amended.pop(target_name, None)
        return True

    def clear(self) -> None:
        """Forgets everything: the configuration is another one."""
        self._layers.clear()
        self._amended.clear()


def amended(target: Target, layer: Mapping[str, Any]) -> Target:
    """``target`` with ``layer`` laid over its profile; ``drop_fields`` add up."""
    profile = merge(target.profile, layer)
    drops = dict.fromkeys((*target.profile.drop_fields, *layer.get("drop_fields", ())))
    return replace(target, profile=replace(profile, drop_fields=tuple(drops)))
