"""A request for an Anthropic-type upstream: nearly untouched.

Rules (R130, R131):
* Open lists: fields, blocks and ``anthropic-*`` headers that nobody here knows go on.
* The model is renamed, and our own signatures are taken out: the upstream would refuse them.
* A server that merely speaks this API loses what only Anthropic's own understands: the billing block
  and ``safeguards``.
"""

from __future__ import annotations

from typing import Any

from gateway.profile import Profile
from gateway.translate.billing_block import without_billing_line
from gateway.translate.changes import Changes
from gateway.translate.opaque import decode_signature

JSON = dict[str, Any]



def to_anthropic(body: JSON, profile: Profile, model: str, changes: Changes) -> JSON:
    """The upstream body; ``body`` itself stays as it is."""
    wire = {**body, "model": model}
    if not body.get("stream"):
        changes.add("added", "stream", "the answer is always streamed and folded here")
    wire["stream"] = True
    if not profile.first_party and wire.pop("safeguards", None) is not None:
        changes.add("dropped", "safeguards", "only Anthropic's own API checks tool use; its results are never invented")
    if profile.strip_billing_block:
        _strip_billing(wire, changes)
    wire["messages"] = _without_our_thinking(body["messages"], changes)
    cap, wanted = profile.max_output_tokens, body.get("max_tokens")
    if cap is not None and isinstance(wanted, int) and wanted > cap:
        wire["max_tokens"] = cap
        changes.add("lowered", "max_tokens", f"{wanted} to {cap}, the most this model writes")
    for name in profile.drop_fields:
        if wire.pop(name, None) is not None:
            changes.add("dropped", name, "the upstream refuses it")
    wire.update(profile.extra_body)
    return wire


def _strip_billing(wire: JSON, changes: Changes) -> None:
    system = wire.get("system")
    if isinstance(system, str):
        kept: Any = without_billing_line(system)
    elif isinstance(system, list):
        kept = [block for block in map(_without_billing, system) if block is not None]
    else:
        return
    if kept != system:
        wire["system"] = kept
        changes.add("dropped", "system[0]", "Claude Code's billing block empties prefix caches")


def _without_billing(block: Any) -> Any:
    """``block`` itself, what is left of it, or None."""
    if not isinstance(block, dict) or not isinstance(block.get("text"), str):
        return block
    text = without_billing_line(block["text"])
    return block if text == block["text"] else {**block, "text": text} if text.strip() else None


def _without_our_thinking(messages: list[Any], changes: Changes) -> list[Any]:
    kept: list[Any] = []
    for position, message in enumerate(messages):
        content = message.get("content") if isinstance(message, dict) else None
        if not isinstance(content, list) or not any(map(_is_our_thinking, content)):
            kept.append(message)
            continue
        changes.add("dropped", f"messages[{position}]", "reasoning of another upstream: not valid here")
        blocks = [block for block in content if not _is_our_thinking(block)]
        if blocks:
            kept.append({**message, "content": blocks})
    return kept


def _is_our_thinking(block: Any) -> bool:
    if not isinstance(block, dict) or block.get("type") != "thinking":
        return False
    return decode_signature(block.get("signature")) is not None
