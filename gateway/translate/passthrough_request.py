"""A request for an Anthropic-type upstream: nearly untouched.

Rules (R23, R48, R60, R130-R132):
* Open lists: fields, blocks and ``anthropic-*`` headers that nobody here knows go on.
* The model is renamed. Signatures that other upstreams made are taken out with their blocks: this one
  would refuse them, or take them for its own.
* Thinking, temperature and a forced tool choice that exclude each other are reconciled.
* What a server that merely speaks this API cannot take is data of its profile (skin_request.py).
"""

from __future__ import annotations

import re
from typing import Any

from gateway.profile import Profile
from gateway.translate.billing_block import without_billing_line
from gateway.translate.changes import Changes
from gateway.translate.chat_tools import is_forced
from gateway.translate.opaque import decode_signature
from gateway.translate.reasoning_request import ask_for_reasoning, lay_over
from gateway.translate.request_fields import asked_stops, capped_max_tokens, drop_refused, upstream_stops
from gateway.translate.skin_request import fit_messages, fit_system
from gateway.translate.skin_tools import fit_choice, fit_tools

JSON = dict[str, Any]

_BETA_FIELDS = frozenset(
    ("speed", "inference_geo", "fallbacks", "diagnostics", "thread", "compaction", "container", "mcp_servers", "betas")
)
"""Top-level fields that only Anthropic's own API knows, behind its betas."""
_ROUTING_FIELDS = frozenset(("api_base", "base_url", "api_key", "extra_headers", "custom_llm_provider"))
"""With which clients of other gateways choose an upstream; one behind us might obey."""
_REASONING = ("thinking", "redacted_thinking")


def to_anthropic(
    body: JSON, profile: Profile, target: str, model: str, names: dict[str, str], changes: Changes
) -> JSON:
    """The upstream body; ``body`` itself stays as it is.

    ``target``: the upstream's name, for placeholders. ``names``: client name -> upstream name of the renamed tools.
    """
    wire = {**body, "model": model}
    if not body.get("stream"):
        changes.add("added", "stream", "the answer is always streamed and folded here")
    wire["stream"] = True
    if not profile.first_party and wire.pop("safeguards", None) is not None:
        changes.add("dropped", "safeguards", "only Anthropic's own API checks tool use; its results are never invented")
    if "system" in wire:
        if profile.strip_billing_block:
            _strip_billing(wire, changes)
        fit_system(wire, profile)
    messages = _without_foreign_thinking(body["messages"], profile, changes)
    wire["messages"] = fit_messages(messages, profile, target, names, changes)
    if "tools" in wire:
        fit_tools(wire, body["messages"], profile, names, changes)
    max_tokens = capped_max_tokens(body, profile, changes)
    if max_tokens is not None:
        wire["max_tokens"] = max_tokens
    if asked_stops(body) and not upstream_stops(body, profile, changes):
        del wire["stop_sequences"]
    _reasoning(body, wire, profile, changes)
    if "tool_choice" in wire:
        fit_choice(wire, profile, names, changes)
    if not _ROUTING_FIELDS.isdisjoint(wire):
        for name in [name for name in wire if name in _ROUTING_FIELDS]:
            changes.add("dropped", name, "a client chooses no upstream")
            del wire[name]
    if not profile.keep_betas and not _BETA_FIELDS.isdisjoint(wire):
        for name in [name for name in wire if name in _BETA_FIELDS]:
            changes.add("dropped", name, "only Anthropic's own API knows it")
            del wire[name]
    if profile.drop_fields:
        drop_refused(wire, profile, changes)
    lay_over(wire, profile.extra_body)
    return wire


def _strip_billing(wire: JSON, changes: Changes) -> None:
    system = wire["system"]
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


def _reasoning(body: JSON, wire: JSON, profile: Profile, changes: Changes) -> None:
    forced = is_forced(body)
    if profile.thinking_on is not None or profile.thinking_off is not None or profile.effort_field is not None:
        asked = ask_for_reasoning(body, profile, tools=bool(body.get("tools")), forced=forced, changes=changes)
        wire.pop("thinking", None)
        if isinstance(wire.get("output_config"), dict):
            wire["output_config"] = {key: value for key, value in wire["output_config"].items() if key != "effort"}
            if not wire["output_config"]:
                del wire["output_config"]
        lay_over(wire, asked.fields)
    thinking = wire.get("thinking")
    kind = thinking.get("type") if isinstance(thinking, dict) else None
    if kind == "enabled" and forced and not profile.tool_choice_thinking:
        changes.add("replaced", "thinking", "switched off: the upstream takes no forced tool choice while thinking")
        del wire["thinking"]
        kind = None
    if kind in ("enabled", "adaptive"):
        for name in ("temperature", "top_k"):
            if wire.get(name) not in (None, 1):
                changes.add("dropped", name, "not taken beside thinking")
                del wire[name]


def _without_foreign_thinking(messages: list[Any], profile: Profile, changes: Changes) -> list[Any]:
    """The conversation; the same list where nothing had to change."""
    places = _thinking_places(messages)
    if not places:
        return messages
    foreign = re.compile(profile.foreign_signature) if profile.foreign_signature is not None else None
    kept: list[Any] = []
    start = 0
    for position in places:
        content = messages[position]["content"]
        blocks = [block for block in content if not _is_foreign(block, foreign, profile)]
        if len(blocks) == len(content):
            continue
        changes.add("dropped", f"messages[{position}]", "reasoning of another upstream: not valid here")
        kept += messages[start:position]
        if blocks:
            kept.append({**messages[position], "content": blocks})
        start = position + 1
    return [*kept, *messages[start:]] if start else messages


def _thinking_places(messages: list[Any]) -> list[int]:
    """The positions of messages with reasoning in them."""
    places: list[int] = []
    for position, message in enumerate(messages):
        content = message.get("content") if isinstance(message, dict) else None
        if isinstance(content, list):
            for block in content:
                if isinstance(block, dict) and block.get("type") in _REASONING:
                    places.append(position)
                    break
    return places


def _is_foreign(block: Any, foreign: re.Pattern[str] | None, profile: Profile) -> bool:
    kind = block.get("type") if isinstance(block, dict) else None
    if kind == "redacted_thinking":
        # What cannot be read has no form to know it by; who knows Anthropic's signatures as foreign made none.
        return foreign is not None and not profile.first_party
    if kind != "thinking":
        return False
    signature = block.get("signature")
    if decode_signature(signature) is not None:
        return True
    return foreign is not None and isinstance(signature, str) and foreign.search(signature) is not None
