"""A refusal that names what to leave out, as the change with which a second attempt can succeed.

Rules (R22, R30):
* One attempt more, and only for a 400 or 422 that names one parameter which is in the body, or the room
  that is left in the context. Messages, tools and the model are never left out.
* What a provider refuses once it will refuse again: such a change is worth remembering. The room is not.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from gateway.profile import Profile
from gateway.wire.json_text import loads_upstream

JSON = dict[str, Any]

LEAST_ROOM = 1024
"""Tokens. Where less is left for the answer, the client should compact instead."""

_ESSENTIAL = frozenset(
    (
        *("model", "messages", "input", "tools", "stream", "system"),
        *("max_tokens", "max_completion_tokens", "max_output_tokens", "options"),
    )
)
_NAME = r"['\"`]?(?P<name>[A-Za-z_][\w.]*)['\"`]?"
_NAMED = tuple(
    re.compile(pattern, re.IGNORECASE)
    for pattern in (
        rf"(?:unsupported|unknown|unrecognized|unexpected|invalid) (?:request )?"
        rf"(?:parameter|field|argument|keyword argument|name|key|value)s?(?: supplied)?:? {_NAME}",
        r"['\"`](?P<name>[A-Za-z_][\w.]*)['\"`]:? (?:is|are|does) (?:currently )?"
        r"not (?:supported?|allowed|permitted|valid)",
        rf"(?:parameter|property|field|argument|option):? {_NAME} (?:is|are) (?:currently )?"
        r"(?:not (?:supported|allowed|permitted|valid)|unsupported|unknown|deprecated)",
        rf"does(?: not|n't) support (?:the )?(?:parameter |field )?{_NAME}",
        rf"not supported (?:on|by|for|with) this (?:model|endpoint)[:,]? {_NAME}",
        r"(?P<name>[A-Za-z_][\w.]*): Extra inputs are not permitted",
    )
)
_RENAMED = re.compile(r"use ['\"`](max_completion_tokens|max_tokens)['\"`]", re.IGNORECASE)
_ROOM = re.compile(r"^input length and `max_tokens` exceed context limit: (\d+) \+ (\d+) > (\d+)")
_NO_REASONING = re.compile(r"does(?: not|n't) support (?:thinking|reasoning)\b", re.IGNORECASE)
_WITHOUT_REASONING = {"thinking_on": None, "thinking_off": None, "effort_field": None, "budget_field": None}
_TELLING_CODES = frozenset(("unsupported_parameter", "unknown_parameter", "unsupported_value", "extra_forbidden"))


@dataclass(frozen=True, slots=True)
class Amendment:
    """With what a second attempt is made."""

    layer: Mapping[str, Any]
    """Profile fields."""
    remember: bool
    """It holds for every later request to this model too."""
    reason: str
    """In one clause, for the log."""


def amendment(status: int, body: bytes, message: str, sent: bytes, profile: Profile) -> Amendment | None:
    """The change to try; None when the refusal stands.

    ``body`` is the refusal, ``message`` what it was translated to, ``sent`` the body that was refused.
    """
    if status not in (400, 422):
        return None
    room = _ROOM.match(message)
    if room is not None:
        return _less_output(int(room[1]), int(room[3]))
    try:
        wire = orjson.loads(sent)
    except orjson.JSONDecodeError:
        return None
    text = body.decode("utf-8", "replace")
    field = profile.max_tokens_field
    if field in wire and re.search(rf"\b{field}\b", text):
        other = _RENAMED.search(text)
        if other is not None and other[1] != field:
            return Amendment({"max_tokens_field": other[1]}, True, f"it wants {other[1]} instead of {field}")
    if _NO_REASONING.search(text) and any(getattr(profile, name) is not None for name in _WITHOUT_REASONING):
        return Amendment(_WITHOUT_REASONING, True, "the model does not reason")
    for name in (*_structured_names(body), *_written_names(text)):
        if name.partition(".")[0] not in _ESSENTIAL and _holds(wire, name):
            # The gateway cuts at stop sequences itself, so nothing is lost.
            layer = {"stop_limit": 0} if name == "stop" else {"drop_fields": (name,)}
            return Amendment(layer, True, f"it refuses {name}")
    return None


def _less_output(prompt: int, window: int) -> Amendment | None:
    room = window - prompt
    if room < LEAST_ROOM:
        return None
    return Amendment({"max_output_tokens": room}, False, f"{room} tokens are left for the answer")


def _structured_names(body: bytes) -> list[str]:
    """Names in fields of their own: ``error.param``, pydantic's ``detail[].loc``."""
    try:
        payload = loads_upstream(body)
    except ValueError:
        return []
    error = payload.get("error") if isinstance(payload, dict) else None
    names: list[str] = []
    if isinstance(error, dict) and isinstance(error.get("param"), str):
        telling = {str(error.get("code")), str(error.get("type"))} & _TELLING_CODES
        if telling or any(pattern.search(str(error.get("message"))) for pattern in _NAMED):
            names.append(error["param"])
    details = payload.get("detail") if isinstance(payload, dict) else None
    for item in details if isinstance(details, list) else ():
        place = item.get("loc") if isinstance(item, dict) and item.get("type") == "extra_forbidden" else None
        if isinstance(place, list) and all(isinstance(step, str) for step in place):
            names.append(".".join(step for step in place if step != "body"))
    return names


def _written_names(text: str) -> list[str]:
    text = text.replace('\\"', '"')
    return [found["name"].strip(".") for pattern in _NAMED for found in pattern.finditer(text)]


def _holds(wire: Any, dotted: str) -> bool:
    for name in dotted.split("."):
        if not isinstance(wire, dict) or name not in wire:
            return False
        wire = wire[name]
    return True
