"""An Anthropic Messages request as a Chat Completions body.

Rules:
* What an upstream cannot take is dropped by rule and on the record (changes.py); unknown fields too.
* Only what would be pretence is refused: ``mcp_servers`` and ``container`` that hold something.
* Key order is fixed, so that the same conversation gives the same bytes.
"""

from __future__ import annotations

import hashlib
from typing import Any

import orjson

from gateway.errors import InvalidRequest
from gateway.profile import Profile
from gateway.translate.changes import Changes
from gateway.translate.chat_messages import ChatMessages
from gateway.translate.chat_tools import OfferedTools, offer_tools, tool_choice
from gateway.wire.json_text import dumps_request

JSON = dict[str, Any]

_TRANSLATED = frozenset(
    ("model", "messages", "system", "max_tokens", "tools", "tool_choice", "stream", "stop_sequences", "output_config")
)
_PASSED = ("temperature", "top_p")
_REFUSED = {
    "mcp_servers": "MCP servers that Anthropic connects to cannot be reached through this model",
    "container": "Anthropic's containers cannot be reached through this model",
}
_REASONS = {
    "thinking": "the upstream decides by itself, or by reasoning effort",
    "top_k": "not a parameter of Chat Completions",
    "context_management": "only Anthropic's API edits the context",
    "safeguards": "only Anthropic's own API checks tool use; its results are never invented",
    "cache_control": "the upstream caches prefixes by itself, or not at all",
}
_EFFORTS = ("none", "minimal", "low", "medium", "high", "xhigh", "max")
"""Every effort level that clients or upstreams know, ascending."""


def to_chat(body: JSON, profile: Profile, provider: str, model: str, changes: Changes) -> JSON:
    """The body for ``/chat/completions``. Raises InvalidRequest, naming the field."""
    _refuse(body)
    offered = offer_tools(body, profile, changes)
    wire: JSON = {"model": model}
    wire["messages"] = ChatMessages(profile, provider, model, offered, changes).translate(body)
    if offered.functions:
        wire["tools"] = offered.functions
    wire.update(tool_choice(body, offered, profile, changes))
    _max_tokens(body, wire, profile, changes)
    _stop_sequences(body, wire, profile, changes)
    for name in _PASSED:
        if body.get(name) is not None:
            wire[name] = body[name]
    _output_config(body, wire, profile, offered, changes)
    _identity(body, wire, profile, changes)
    wire["stream"] = True
    if profile.stream_usage:
        wire["stream_options"] = {"include_usage": True}
    _drop(body, wire, profile, changes)
    wire.update(profile.extra_body)
    return wire


def _refuse(body: JSON) -> None:
    for name, reason in _REFUSED.items():
        if body.get(name):
            raise InvalidRequest(f"{name}: {reason}")


def _max_tokens(body: JSON, wire: JSON, profile: Profile, changes: Changes) -> None:
    wanted = body.get("max_tokens")
    if wanted is None:
        return
    cap = profile.max_output_tokens
    if cap is not None and wanted > cap:
        changes.add("lowered", "max_tokens", f"{wanted} to {cap}, the most this model writes")
        wanted = cap
    wire[profile.max_tokens_field] = wanted


def asked_stops(body: JSON) -> tuple[str, ...]:
    """The stop sequences that the client wants. Raises InvalidRequest."""
    stops = body.get("stop_sequences") or []
    if not isinstance(stops, list) or not all(isinstance(stop, str) for stop in stops):
        raise InvalidRequest("stop_sequences: Input should be a list of strings")
    return tuple(stop for stop in stops if stop)


def _stop_sequences(body: JSON, wire: JSON, profile: Profile, changes: Changes) -> None:
    stops = asked_stops(body)
    if len(stops) > profile.stop_limit:
        reason = f"the upstream takes {profile.stop_limit}; the gateway cuts the answer itself"
        changes.add("moved", "stop_sequences", reason)
    elif stops:
        wire["stop"] = list(stops)


def _output_config(body: JSON, wire: JSON, profile: Profile, offered: OfferedTools, changes: Changes) -> None:
    config = body.get("output_config")
    if config is not None and not isinstance(config, dict):
        raise InvalidRequest("output_config: Input should be an object")
    config = config or {}
    effort = _effort(body, config, profile, offered, changes)
    if effort is not None and profile.effort_field is not None:
        wire[profile.effort_field] = effort
    output_format = config.get("format", body.get("output_format"))
    if isinstance(output_format, dict) and isinstance(output_format.get("schema"), dict):
        if profile.response_format == "json_schema":
            wire["response_format"] = _response_format(output_format["schema"])
        else:
            changes.add("dropped", "output_config.format", "the upstream has no structured output")
    for name in config:
        if name not in ("effort", "format"):
            changes.add("dropped", f"output_config.{name}", "not known to Chat Completions")


def _effort(body: JSON, config: JSON, profile: Profile, offered: OfferedTools, changes: Changes) -> str | None:
    """The effort to ask for; None leaves it to the upstream."""
    asked = config.get("effort")
    if profile.effort_field is None:
        if asked is not None:
            changes.add("dropped", "output_config.effort", "the upstream has no reasoning effort")
        return None
    if profile.effort_with_tools is not None and offered.functions:
        changes.add("replaced", "output_config.effort", f"{profile.effort_with_tools}: all it takes beside tools")
        return profile.effort_with_tools
    thinking = body.get("thinking")
    if isinstance(thinking, dict) and thinking.get("type") == "disabled":
        asked = "none"
    if not isinstance(asked, str) or asked not in _EFFORTS:
        return None
    level = _EFFORTS.index(asked)
    # Of two that are as near, the higher: a weaker answer would be the worse surprise.
    nearest = min(
        (effort for effort in profile.efforts if effort in _EFFORTS),
        key=lambda effort: (abs(_EFFORTS.index(effort) - level), -_EFFORTS.index(effort)),
        default=None,
    )
    if nearest != asked and nearest is not None:
        changes.add("replaced", "output_config.effort", f"{nearest} is the nearest to {asked} that it takes")
    return nearest


def _response_format(schema: JSON) -> JSON:
    return {
        "type": "json_schema",
        "json_schema": {"name": "output", "schema": schema, "strict": _is_strict(schema)},
    }


def _is_strict(schema: Any) -> bool:
    """Strict mode demands closed objects with all properties required; others would be refused."""
    if isinstance(schema, list):
        return all(_is_strict(item) for item in schema)
    if not isinstance(schema, dict):
        return True
    properties = schema.get("properties")
    if schema.get("type") == "object" or properties is not None:
        required = schema.get("required") or []
        if schema.get("additionalProperties") is not False or not isinstance(required, list):
            return False
        if not isinstance(properties, dict) or sorted(map(str, required)) != sorted(properties):
            return False
    return all(_is_strict(value) for value in schema.values())


def _identity(body: JSON, wire: JSON, profile: Profile, changes: Changes) -> None:
    metadata = body.get("metadata")
    user_id = metadata.get("user_id") if isinstance(metadata, dict) else None
    if not isinstance(user_id, str) or not user_id:
        return
    try:
        identity = orjson.loads(user_id)
    except orjson.JSONDecodeError:
        identity = None
    session = identity.pop("session_id", None) if isinstance(identity, dict) else None
    if profile.session_field is not None and isinstance(session, str):
        wire[profile.session_field] = session[:64]
    if profile.user_field is not None:
        user = user_id if identity is None else dumps_request(identity).decode()
        wire[profile.user_field] = hashlib.sha256(user.encode()).hexdigest()
        changes.add("replaced", "metadata.user_id", "sent as a hash")
    else:
        changes.add("dropped", "metadata", "the upstream takes no user id")


def _drop(body: JSON, wire: JSON, profile: Profile, changes: Changes) -> None:
    for name in body:
        if name not in _TRANSLATED and name not in _PASSED and name != "metadata" and body[name] is not None:
            changes.add("dropped", name, _REASONS.get(name, "not known to Chat Completions"))
    for name in profile.drop_fields:
        if name in wire:
            del wire[name]
            changes.add("dropped", name, "the upstream refuses it")
