"""An Anthropic Messages request as a Chat Completions body.

Rule: the order of the keys is fixed, so that the same conversation gives the same bytes.
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
    capped_max_tokens,
    drop_refused,
    is_strict,
    record_unknown,
    upstream_stops,
)
from gateway.translate.session import identity_fields

JSON = dict[str, Any]


def to_chat(
    body: JSON, profile: Profile, provider: str, model: str, offered: OfferedTools, changes: Changes
) -> JSON:
    """The body for ``/chat/completions``. Raises InvalidRequest, naming the field."""
    reasoning = ask_for_reasoning(body, profile, tools=bool(offered.tools), forced=is_forced(body), changes=changes)
    choice = tool_choice(body, offered, profile, reasoning.on, changes)
    wire: JSON = {"model": model, "messages": ChatMessages(profile, provider, model, offered, changes).translate(body)}
    if offered.tools:
        wire["tools"] = offered.to_wire(changes)
    wire.update(choice)
    max_tokens = capped_max_tokens(body, profile, changes)
    if max_tokens is not None:
        wire[profile.max_tokens_field] = max_tokens
    if "stop_sequences" in body and (stops := upstream_stops(body, profile, changes)):
        wire["stop"] = stops
    wire.update(sampling_fields(body, profile, reasoning, changes))
    lay_over(wire, reasoning.fields)
    schema = asked_schema(body, profile, changes, tools=bool(offered.tools))
    if schema is not None:
        wire["response_format"] = {
            "type": "json_schema",
            "json_schema": {"name": "output", "schema": schema, "strict": is_strict(schema)},
        }
    if "metadata" in body:
        wire.update(identity_fields(body, profile, changes))
    wire["stream"] = True
    if profile.stream_usage:
        wire["stream_options"] = {"include_usage": True}
    record_unknown(body, changes)
    if profile.drop_fields:
        drop_refused(wire, profile, changes)
    lay_over(wire, profile.extra_body)
    return wire
