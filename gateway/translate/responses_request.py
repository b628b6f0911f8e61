"""An Anthropic Messages request as a body of the Responses API.

Rules:
* Stateless: nothing is stored there; what the model must remember comes back with each request.
* System text is the first item, not ``instructions``: there it can hold cache marks, and every server knows it.
* ``strict`` is always said: left out, it means true.
* The order of the keys is fixed, so that the same conversation gives the same bytes.
"""

from __future__ import annotations

from typing import Any

from gateway.profile import Profile
from gateway.translate.changes import Changes
from gateway.translate.chat_messages import ChatMessages
from gateway.translate.chat_tools import OfferedTools, is_forced, tool_choice
from gateway.translate.reasoning_request import ask_for_reasoning, lay_over, sampling_fields
from gateway.translate.request_fields import (
    asked_schema,
    asked_stops,
    capped_max_tokens,
    drop_refused,
    is_strict,
    record_unknown,
)
from gateway.translate.responses_items import AssistantItems, to_items
from gateway.translate.session import identity_fields

JSON = dict[str, Any]

LEAST_OUTPUT_TOKENS = 16
"""The API refuses less."""


def to_responses(
    body: JSON, profile: Profile, provider: str, model: str, offered: OfferedTools, changes: Changes
) -> JSON:
    """The body for ``/responses``; ``offered`` in ``responses_form``. Raises InvalidRequest, naming the field."""
    tools = bool(offered.tools)
    reasoning = ask_for_reasoning(body, profile, tools=tools, forced=is_forced(body), changes=changes)
    choice = tool_choice(body, offered, profile, reasoning.on, changes)
    messages = ChatMessages(profile, provider, model, offered, changes, AssistantItems).translate(body)
    wire: JSON = {"model": model, "input": to_items(messages)}
    if offered.tools:
        wire["tools"] = offered.to_wire(changes)
    wire.update(_flat_choice(choice))
    max_tokens = max_output_tokens(body, profile, changes)
    if max_tokens is not None:
        wire["max_output_tokens"] = max_tokens
    if asked_stops(body):
        changes.add("moved", "stop_sequences", "the API has none; the gateway cuts the answer itself")
    wire.update(sampling_fields(body, profile, reasoning, changes))
    lay_over(wire, reasoning.fields)
    schema = asked_schema(body, profile, changes, tools=bool(offered.tools))
    if schema is not None:
        form = {"type": "json_schema", "name": "output", "schema": schema, "strict": is_strict(schema)}
        lay_over(wire, {"text": {"format": form}})
    wire["store"] = False
    if profile.encrypted_reasoning:
        wire["include"] = ["reasoning.encrypted_content"]
    wire.update(identity_fields(body, profile, changes))
    wire["stream"] = True
    record_unknown(body, changes)
    drop_refused(wire, profile, changes)
    lay_over(wire, profile.extra_body)
    return wire


def max_output_tokens(body: JSON, profile: Profile, changes: Changes) -> int | None:
    """The limit that goes up."""
    wanted = capped_max_tokens(body, profile, changes)
    if wanted is not None and wanted < LEAST_OUTPUT_TOKENS:
        changes.add("replaced", "max_tokens", f"{LEAST_OUTPUT_TOKENS} is the least that the API takes")
        return LEAST_OUTPUT_TOKENS
    return wanted


def responses_form(function: JSON, changes: Changes) -> JSON:
    """A tool of Chat Completions as this API takes it."""
    return {"type": "function", **function["function"], "strict": False}


def _flat_choice(choice: JSON) -> JSON:
    named = choice.get("tool_choice")
    if not isinstance(named, dict):
        return choice
    return {**choice, "tool_choice": {"type": "function", "name": named["function"]["name"]}}
