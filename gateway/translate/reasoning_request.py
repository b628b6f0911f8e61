"""What the client says about thinking, in the upstream's own parameters.

Rules (R48, R55-R57):
* ``thinking`` that is disabled, or absent while no effort is named, switches reasoning off. Where that
  cannot be, the lowest effort is asked for; where there is no effort either, the upstream decides, and
  the record says so.
* A budget stays a budget where the upstream takes one; else it becomes an effort. An effort that the
  upstream does not know becomes the nearest that it does; of two as near, the higher.
* How an upstream is asked is data of its profile: ``thinking_on``, ``thinking_off``, ``effort_field``,
  ``efforts``, ``budget_field``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from gateway.errors import InvalidRequest
from gateway.profile import Profile
from gateway.translate.changes import Changes

JSON = dict[str, Any]

LEVELS = ("none", "minimal", "low", "medium", "high", "xhigh", "max")
"""Every effort level that clients or upstreams know, ascending."""

_RANKS = {**{level: rank for rank, level in enumerate(LEVELS)}, "default": LEVELS.index("medium")}

BUDGET_LEVELS = ((4096, "high"), (2048, "medium"), (1024, "low"), (0, "minimal"))
"""Thinking tokens from which on a budget counts as an effort (R56)."""

_UNSAID = "medium"
"""The effort of a client that wants reasoning and does not say how much, where the upstream's own default is none."""


class ReasoningRequest(NamedTuple):
    """How one request asks for reasoning."""

    fields: Mapping[str, Any]
    """To be laid over the upstream body; nested."""
    on: bool | None = None
    """The model will reason, or will not; None: nobody here knows."""


_UNDECIDED = ReasoningRequest({})


def ask_for_reasoning(body: JSON, profile: Profile, *, tools: bool, forced: bool, changes: Changes) -> ReasoningRequest:
    """The fields for ``body``. ``tools``: some are offered; ``forced``: the client demands a call.

    Raises InvalidRequest for an ``output_config`` that is no object.
    """
    thinking = body.get("thinking")
    kind = thinking.get("type") if isinstance(thinking, dict) else None
    effort = _asked_effort(body["output_config"]) if "output_config" in body else None
    wanted = kind in ("enabled", "adaptive") or (thinking is None and effort is not None)
    if effort is not None and profile.effort_field is None:
        changes.add("dropped", "output_config.effort", "the upstream has no reasoning effort")
    if tools and profile.effort_with_tools is not None and profile.effort_field is not None:
        changes.add("replaced", "output_config.effort", f"{profile.effort_with_tools}: all it takes beside tools")
        return _with_effort({}, profile, profile.effort_with_tools, profile.effort_with_tools != "none")
    if wanted and forced and not profile.tool_choice_thinking and can_switch_off(profile):
        changes.add("replaced", "thinking", "switched off: the upstream takes no forced tool choice while thinking")
        wanted = False
    if not wanted:
        return _off(profile, kind, changes)
    return _on(thinking or {}, effort, profile, changes)


def can_switch_off(profile: Profile) -> bool:
    """Whether a request can go without reasoning."""
    return profile.thinking_off is not None or (profile.effort_field is not None and "none" in profile.efforts)


def sampling_fields(body: JSON, profile: Profile, reasoning: ReasoningRequest, changes: Changes) -> JSON:
    """``temperature`` and ``top_p``, where the upstream takes them."""
    wire: JSON = {}
    for name in ("temperature", "top_p"):
        if name not in body or body[name] is None:
            continue
        if profile.sampling == "always" or (profile.sampling == "without_reasoning" and reasoning.on is False):
            wire[name] = body[name]
        else:
            changes.add("dropped", name, "a reasoning model chooses it itself")
    return wire


def lay_over(wire: JSON, fields: Mapping[str, Any]) -> None:
    """Merges ``fields`` into ``wire``, objects key by key, null takes out; ``fields`` stays as it is."""
    for name, value in fields.items():
        if value is None:
            wire.pop(name, None)
        elif isinstance(value, Mapping):
            inner = wire.get(name)
            wire[name] = dict(inner) if isinstance(inner, dict) else {}
            lay_over(wire[name], value)
        else:
            wire[name] = value


def nearest_effort(asked: str, efforts: tuple[str, ...]) -> str | None:
    """The level of ``efforts`` that is nearest to ``asked``; of two, the higher."""
    rank = _RANKS[asked]
    known = (effort for effort in efforts if effort in _RANKS)
    return min(known, key=lambda effort: (abs(_RANKS[effort] - rank), -_RANKS[effort]), default=None)


def _asked_effort(config: Any) -> str | None:
    if config is not None and not isinstance(config, dict):
        raise InvalidRequest("output_config: Input should be an object")
    effort = (config or {}).get("effort")
    return effort if isinstance(effort, str) and effort in LEVELS else None


def _off(profile: Profile, kind: Any, changes: Changes) -> ReasoningRequest:
    if profile.thinking_off is not None:
        return ReasoningRequest(dict(profile.thinking_off), on=False)
    if profile.effort_field is None or not profile.efforts:
        if kind is not None:
            changes.add("dropped", "thinking", "the upstream decides by itself")
        return _UNDECIDED
    lowest = profile.efforts[0]
    if lowest != "none" and kind is not None:
        changes.add("replaced", "thinking", f"it cannot be switched off; the effort is {lowest}")
    return _with_effort({}, profile, lowest, lowest != "none")


def _on(thinking: JSON, effort: str | None, profile: Profile, changes: Changes) -> ReasoningRequest:
    fields: JSON = {}
    lay_over(fields, profile.thinking_on or {})
    budget = thinking.get("budget_tokens") if thinking.get("type") == "enabled" else None
    if isinstance(budget, bool) or not isinstance(budget, int):
        budget = None
    if budget is not None and profile.budget_field is not None and (effort is None or profile.effort_field is None):
        _put(fields, profile.budget_field, budget)
        return ReasoningRequest(fields, on=True)
    if profile.effort_field is None:
        if profile.thinking_on is None:
            changes.add("dropped", "thinking", "the upstream decides by itself")
            return _UNDECIDED
        if budget is not None:
            changes.add("dropped", "thinking.budget_tokens", "the upstream has no budget for reasoning")
        return ReasoningRequest(fields, on=True)
    if effort is None and budget is not None:
        effort = next(level for least, level in BUDGET_LEVELS if budget >= least or least == 0)
        changes.add("replaced", "thinking.budget_tokens", f"{budget} tokens are the effort {effort}")
    if effort is None and "none" in profile.efforts:
        effort = _UNSAID
    if effort is None:
        return ReasoningRequest(fields, on=True)
    nearest = nearest_effort(effort, tuple(level for level in profile.efforts if level != "none"))
    if nearest is None:
        return ReasoningRequest(fields, on=True if fields else None)
    if nearest != effort:
        changes.add("replaced", "output_config.effort", f"{nearest} is the nearest to {effort} that it takes")
    return _with_effort(fields, profile, nearest, on=True)


def _with_effort(fields: JSON, profile: Profile, effort: str, on: bool) -> ReasoningRequest:
    _put(fields, profile.effort_field or "", effort)
    return ReasoningRequest(fields, on=on)


def _put(fields: JSON, dotted: str, value: Any) -> None:
    """Sets the place that ``dotted`` names."""
    *outer, name = dotted.split(".")
    for key in outer:
        inner = fields.get(key)
        fields[key] = dict(inner) if isinstance(inner, dict) else {}
        fields = fields[key]
    fields[name] = value
