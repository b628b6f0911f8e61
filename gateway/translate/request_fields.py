"""The parameters of a Messages request that mean the same on every translated wire.

Rules:
* What an upstream cannot take is dropped by rule and on the record (changes.py); unknown fields too.
* Only what would be pretence is refused: ``mcp_servers`` and ``container`` that hold something.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from gateway.errors import InvalidRequest
from gateway.profile import Profile
from gateway.translate.changes import Changes

JSON = dict[str, Any]

TRANSLATED = frozenset(
    (
        *("model", "messages", "system", "max_tokens", "tools", "tool_choice", "stream", "stop_sequences"),
        *("output_config", "thinking", "temperature", "top_p", "metadata"),
    )
)
"""What every wire translates, or records itself."""

_REFUSED = {
    "mcp_servers": "MCP servers that Anthropic connects to cannot be reached through this model",
    "container": "Anthropic's containers cannot be reached through this model",
}
_REASONS = {
    "top_k": "not a parameter of this API",
    "context_management": "only Anthropic's API edits the context",
    "safeguards": "only Anthropic's own API checks tool use; its results are never invented",
    "cache_control": "the upstream caches prefixes by itself, or not at all",
}

_ABSENT = object()


def refuse_pretence(body: JSON) -> None:
    """Raises InvalidRequest for a field whose silent loss would change what the model can do."""
    for name, reason in _REFUSED.items():
        if body.get(name):
            raise InvalidRequest(f"{name}: {reason}")


def capped_max_tokens(body: JSON, profile: Profile, changes: Changes) -> int | None:
    """``max_tokens``, at most what the model writes (R21)."""
    wanted: int | None = body.get("max_tokens")
    cap = profile.max_output_tokens
    if wanted is not None and cap is not None and wanted > cap:
        changes.add("lowered", "max_tokens", f"{wanted} to {cap}, the most this model writes")
        return cap
    return wanted


def asked_stops(body: JSON) -> tuple[str, ...]:
    """The stop sequences that the client wants. Raises InvalidRequest."""
    stops = body.get("stop_sequences")
    if not stops:
        return ()
    if not isinstance(stops, list) or not all(isinstance(stop, str) for stop in stops):
        raise InvalidRequest("stop_sequences: Input should be a list of strings")
    return tuple(stop for stop in stops if stop)


def upstream_stops(body: JSON, profile: Profile, changes: Changes) -> list[str]:
    """The stop sequences that go up; none when the gateway must cut the answer itself (R25)."""
    stops = asked_stops(body)
    if len(stops) <= profile.stop_limit:
        return list(stops)
    reason = f"the upstream takes {profile.stop_limit}; the gateway cuts the answer itself"
    changes.add("moved", "stop_sequences", reason)
    return []


def asked_schema(body: JSON, profile: Profile, changes: Changes, *, tools: bool) -> JSON | None:
    """The JSON schema that the answer must fit, if the upstream can see to that. ``tools``: some are offered."""
    if "output_config" not in body and "output_format" not in body:
        return None
    config = body.get("output_config")
    config = config if isinstance(config, dict) else {}
    for name in config:
        if name not in ("effort", "format"):
            changes.add("dropped", f"output_config.{name}", "not known to this API")
    output_format = config.get("format", body.get("output_format"))
    schema = output_format.get("schema") if isinstance(output_format, dict) else None
    if not isinstance(schema, dict):
        return None
    if profile.response_format == "without_tools" and tools:
        changes.add("dropped", "output_config.format", "the upstream takes no structured output beside tools")
        return None
    if profile.response_format == "none":
        changes.add("dropped", "output_config.format", "the upstream has no structured output")
        return None
    return schema


def is_strict(schema: Any) -> bool:
    """Whether strict mode would take it: closed objects, all properties required."""
    if isinstance(schema, list):
        return all(is_strict(item) for item in schema)
    if not isinstance(schema, dict):
        return True
    properties = schema.get("properties")
    if schema.get("type") == "object" or properties is not None:
        required = schema.get("required") or []
        if schema.get("additionalProperties") is not False or not isinstance(required, list):
            return False
        if not isinstance(properties, dict) or sorted(map(str, required)) != sorted(properties):
            return False
    return all(is_strict(value) for value in schema.values())


def record_unknown(body: JSON, changes: Changes, also: Collection[str] = ()) -> None:
    """Records every field that no translated wire knows; ``also`` are those that this one does."""
    if TRANSLATED.issuperset(body):
        return
    for name in body:
        if name not in TRANSLATED and name not in also and body[name] is not None:
            changes.add("dropped", name, _REASONS.get(name, "not known to this API"))


def drop_refused(wire: JSON, profile: Profile, changes: Changes) -> None:
    """Takes the profile's ``drop_fields`` out of ``wire``, not of what it holds; dots name a place inside."""
    for name in profile.drop_fields:
        if _without(wire, name.split(".")):
            changes.add("dropped", name, "the upstream refuses it")


def _without(holder: JSON, path: list[str]) -> bool:
    """Whether something stood at ``path``. The objects on the way are the client's: they are copied."""
    key, *inner = path
    if not inner:
        return holder.pop(key, _ABSENT) is not _ABSENT
    child = holder.get(key)
    if not isinstance(child, dict):
        return False
    child = dict(child)
    found = _without(child, inner)
    if found:
        holder[key] = child
    return found
