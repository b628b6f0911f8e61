"""An Anthropic Messages request as the body for Ollama's ``/api/chat``.

Rules (sources: ollama fb307609, 2026-08-21, api/types.go and server/routes.go):
* A prompt that does not fit is an error, never cut: ``truncate: false``, and ``shift: false``, so that a
  long answer does not push the beginning of the prompt out either.
* ``num_ctx`` is always said, unless the user leaves it to the server: its default may be 4,096 tokens.
* A choice of tools cannot be told: one that must not be called is left out, a named one is offered alone.
* The user's ``options`` come last: names of the API's own fields go on top, all others into ``options``;
  null takes a field out.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Literal

from gateway.profile import Profile
from gateway.translate.changes import Changes
from gateway.translate.chat_tools import OfferedTools, is_forced, tool_choice
from gateway.translate.ollama_messages import ollama_messages
from gateway.translate.ollama_window import asked_window
from gateway.translate.reasoning_request import ask_for_reasoning, lay_over, sampling_fields
from gateway.translate.request_fields import (
    asked_schema,
    capped_max_tokens,
    drop_refused,
    record_unknown,
    upstream_stops,
)
from gateway.translate.session import identity_fields

JSON = dict[str, Any]

TOP_LEVEL = frozenset(
    (
        *("model", "messages", "tools", "stream", "format", "keep_alive", "think", "truncate", "shift", "options"),
        *("logprobs", "top_logprobs", "raw", "template", "system", "_debug_render_only"),
    )
)
"""The API's own fields; every other name of ``extra_body`` is one of its ``options``."""

_MOST_FITTED = 64
_FITTED: dict[tuple[int, str], tuple[Profile, Profile]] = {}
"""(id of a profile, choice) -> the profile itself, which keeps the id its own, and what became of it."""


def to_ollama(
    body: JSON, profile: Profile, provider: str, model: str, offered: OfferedTools, changes: Changes
) -> JSON:
    """The body for ``/api/chat``; ``offered`` in ``ollama_form``. Raises InvalidRequest, naming the field."""
    forced = is_forced(body)
    profile = on_this_wire(profile, "string" if forced and body["tool_choice"]["type"] == "tool" else "auto")
    tools = bool(offered.tools)
    reasoning = ask_for_reasoning(body, profile, tools=tools, forced=forced, changes=changes)
    tool_choice(body, offered, profile, reasoning.on, changes)
    wire: JSON = {"model": model}
    wire["messages"] = ollama_messages(body, profile, provider, model, offered, changes)
    if offered.tools:
        wire["tools"] = offered.to_wire(changes)
    wire.update(stream=True, truncate=False, shift=False)
    schema = asked_schema(body, profile, changes, tools=bool(offered.tools))
    if schema is not None:
        wire["format"] = schema
    options = _limits(body, profile, changes)
    options.update(sampling_fields(body, profile, reasoning, changes))
    if body.get("top_k") is not None:
        if profile.sampling == "never":
            changes.add("dropped", "top_k", "a reasoning model chooses it itself")
        else:
            options["top_k"] = body["top_k"]
    stops = upstream_stops(body, profile, changes)
    if stops:
        options["stop"] = stops
    wire["options"] = options
    lay_over(wire, reasoning.fields)
    wire.update(identity_fields(body, profile, changes))
    record_unknown(body, changes, also=("top_k",))
    drop_refused(wire, profile, changes)
    lay_over(wire, placed(profile.extra_body))
    return wire


def on_this_wire(profile: Profile, choice: Literal["string", "auto"]) -> Profile:
    """``profile`` with what no server of this API can do otherwise, and with ``choice`` for its ``tool_choice``."""
    key = (id(profile), choice)
    known = _FITTED.get(key)
    if known is not None and known[0] is profile:
        return known[1]
    fitted = replace(
        profile,
        tool_choice=choice,
        image_urls=False,
        pdf=profile.pdf if profile.pdf == "refuse" else "placeholder",
        developer_role=False,
        cache="none",
        tool_result_name=True,
        tool_choice_none=False,
        tool_choice_thinking=True,
        parallel_tool_calls=False,
        call_placeholder=None,
        drop_fields=tuple(name if _is_placed(name) else f"options.{name}" for name in profile.drop_fields),
    )
    if len(_FITTED) >= _MOST_FITTED:
        _FITTED.clear()
    _FITTED[key] = (profile, fitted)
    return fitted


def answer_limit(body: JSON, profile: Profile) -> int | None:
    """``num_predict`` as it goes up; None when nobody says."""
    asked = placed(profile.extra_body).get("options", {}).get("num_predict", 0)
    if not isinstance(asked, int) or asked < 0:
        return None
    limit: int | None = asked or _limits(body, profile, Changes()).get("num_predict")
    return limit


def placed(extra: Mapping[str, Any]) -> JSON:
    """The user's ``options``, each where the API wants it."""
    wire: JSON = {}
    options: JSON = {}
    for name, value in extra.items():
        if name == "options" and isinstance(value, Mapping):
            options.update(value)
        elif name in TOP_LEVEL:
            wire[name] = value
        else:
            options.setdefault(name, value)
    return {**wire, "options": options}


def _is_placed(name: str) -> bool:
    return name in TOP_LEVEL or "." in name


def _limits(body: JSON, profile: Profile, changes: Changes) -> JSON:
    """``num_ctx`` and ``num_predict``."""
    limits: JSON = {}
    window = asked_window(profile)
    if window is not None:
        limits["num_ctx"] = window
    answer = capped_max_tokens(body, profile, changes)
    if answer is not None:
        if window is not None and answer > window:
            changes.add("lowered", "max_tokens", f"{answer} to {window}, the whole context window")
            answer = window
        limits["num_predict"] = answer
    return limits


# -- tools -----------------------------------------------------------------------------------------------


def ollama_form(function: JSON, changes: Changes) -> JSON:
    """A tool whose schema the server can parse: it reads schemas into typed structures, and refuses others."""
    inner = function["function"]
    parameters = _property(inner["parameters"])
    if not isinstance(parameters.get("type"), str):
        parameters = {**parameters, "type": "object"}
    if parameters == inner["parameters"]:
        return function
    changes.add("replaced", f"tools.{inner['name']}.input_schema", "fitted to the types that the server parses")
    return {**function, "function": {**inner, "parameters": parameters}}


def _property(schema: Any) -> JSON:
    """``schema`` with an object wherever the server's types want one (api/types.go, ``ToolProperty``)."""
    if not isinstance(schema, dict):
        return {}
    fitted = dict(schema)
    if "properties" in fitted:
        properties = fitted["properties"]
        fitted["properties"] = {k: _property(v) for k, v in properties.items()} if isinstance(properties, dict) else {}
    if "anyOf" in fitted:
        branches = fitted["anyOf"]
        fitted["anyOf"] = [_property(branch) for branch in branches] if isinstance(branches, list) else []
    required = fitted.get("required")
    if required is not None and not (isinstance(required, list) and all(isinstance(name, str) for name in required)):
        del fitted["required"]
    return fitted
