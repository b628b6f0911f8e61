"""What a Profile says, in words: a field as a sentence, a quality as a cell of a table.

The sentences stand in docs/providers/sentences.yaml.
"""

from __future__ import annotations

import ast
import inspect
import json
import re
from collections.abc import Mapping, Sequence
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import yaml

import gateway.profile
from gateway.profile import Profile

SENTENCES = Path(__file__).parent / "providers" / "sentences.yaml"


WIRES = {
    "openai-chat": ("Chat Completions", "/chat/completions"),
    "openai-responses": ("Responses", "/responses"),
    "ollama": ("Ollama's own", "/api/chat"),
    "anthropic": ("Messages", "/v1/messages"),
}
"""API -> how a reader calls it, and the path that its adapter appends."""


# -- words for values ----------------------------------------------------------------------------------


def flow(value: Any) -> str:
    """``value`` in YAML's short form."""
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{name}: {flow(inner)}" for name, inner in value.items()) + "}"
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(map(flow, value)) + "]"
    return value if isinstance(value, str) and value.strip() == value != "" else json.dumps(value)


def code(value: Any) -> str:
    return f"`{flow(value)}`"


def codes(values: Sequence[str], most: int = 8) -> str:
    shown = ", ".join(f"`{value}`" for value in values[:most])
    return shown if len(values) <= most else f"{shown} and {len(values) - most} more"


def number(value: int) -> str:
    return f"{value:,}"


def levels(efforts: Sequence[str]) -> str:
    return ", ".join(effort for effort in efforts if effort != "none")


# -- a field of a profile -> a sentence ----------------------------------------------------------------


def read_yaml(path: Path) -> dict[str, Any]:
    """A file of ours; the loader in C is ten times as fast."""
    found: dict[str, Any] = yaml.load(path.read_text(encoding="utf-8"), getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    return found


@cache
def sentences() -> dict[str, Any]:
    """Field of Profile -> its row."""
    return read_yaml(SENTENCES)


def sentence(name: str, value: Any) -> str:
    """What it means that the field ``name`` is ``value``; empty where that needs no word."""
    row = sentences().get(name)
    if isinstance(row, str) and (value is None or value is False):
        return ""
    if isinstance(row, dict):
        row = row.get(value if isinstance(value, str) else flow(value), row.get("else"))
    if row is None:
        return f"`{name}` is {code(value)}: {field_docs()[name]}"
    items = list(value) if isinstance(value, (tuple, list, Mapping)) else []
    words = {
        "{value}": f"{value:g}" if isinstance(value, float) else str(value),
        "{number}": number(value) if isinstance(value, int) else "",
        "{code}": code(value),
        "{list}": codes(list(map(str, items))),
        "{count}": str(len(items)),
    }
    return re.sub(r"\{\w+\}", lambda found: words[found[0]], str(row))


def field_docs() -> dict[str, str]:
    """Field of Profile -> the first line of its documentation."""
    module = ast.parse(inspect.getsource(gateway.profile))
    (body,) = (node for node in module.body if isinstance(node, ast.ClassDef) and node.name == "Profile")
    docs = {}
    for item, after in pairwise(body.body):
        if isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name) and isinstance(after, ast.Expr):
            docs[item.target.id] = str(ast.literal_eval(after.value)).partition("\n")[0].replace("``", "`")
    return docs


# -- a quality -> a cell ------------------------------------------------------------------------------


CHOICES = {
    "full": "any tool, or a named one",
    "any": "any tool, or a named one",
    "named": "a named tool only",
    "string": "any tool; for a named one, only that is offered",
    "auto": "no, it is dropped",
}
CACHES = {"none": "marks dropped", "keep": "`cache_control` kept", "breakpoints": "`prompt_cache_breakpoint`"}


def forced_choice(profile: Profile) -> str:
    words = CHOICES[profile.tool_choice]
    if profile.tool_choice == "auto" or profile.tool_choice_thinking or "thinking" in profile.drop_fields:
        return words
    return f"{words}; not while it thinks"


def asked(profile: Profile) -> str:
    if passes_thinking(profile):
        return "not sent" if "thinking" in profile.drop_fields else "passed as it is"
    ways = ["switch"] if profile.thinking_on and profile.thinking_off else []
    if profile.budget_field:
        ways.append("budget")
    if profile.effort_field and levels(profile.efforts):
        ways.append(f"effort ({levels(profile.efforts)})")
    return " and ".join(ways) or ("asked for" if profile.thinking_on else "the model decides")


def switched_off(profile: Profile) -> str:
    if passes_thinking(profile):
        return "not sent" if "thinking" in profile.drop_fields else "passed as it is"
    if profile.thinking_off is not None:
        return "yes" if profile.thinking_off else "not told"
    if profile.effort_field and profile.efforts:
        return "yes" if profile.efforts[0] == "none" else f"no; {profile.efforts[0]} instead"
    return "no, or it never thinks"


def passes_thinking(profile: Profile) -> bool:
    asks = (profile.thinking_on, profile.thinking_off, profile.effort_field)
    return profile.api == "anthropic" and asks == (None, None, None)


def given_back(profile: Profile) -> str:
    if profile.api == "anthropic":
        return "as thinking blocks"
    if profile.reasoning_back == "none":
        return "no"
    if profile.encrypted_reasoning:
        return "encrypted"
    if profile.reasoning_back == "tags":
        return "as `<think>` in the text"
    if profile.api == "ollama":
        return "as `thinking`"
    return "in the field it came in" if profile.reasoning_back == "same" else f"as `{profile.reasoning_back}`"


def caching(profile: Profile) -> str:
    session = profile.session_field or profile.session_header
    return CACHES[profile.cache] + (f"; session as `{session}`" if session else "")


def cells(profile: Profile, shown: Mapping[str, str]) -> dict[str, str]:
    """The column of a table: quality -> what holds. ``shown``: API -> what is seen of reasoning, if not the usual."""
    counted = profile.api != "openai-chat" or profile.stream_usage
    images = "yes" if profile.image_urls else "yes, as base64"
    return {
        "wire": WIRES[profile.api][0],
        "context window": number(profile.context_window) if profile.context_window else "unknown",
        "longest answer": number(profile.max_output_tokens) if profile.max_output_tokens else "as asked",
        "tools, also several at once": "yes",
        "can be kept to one call": "yes" if profile.parallel_tool_calls or profile.api == "anthropic" else "no",
        "forced tool choice": forced_choice(profile),
        "reasoning: asked for": asked(profile),
        "reasoning: switched off": switched_off(profile),
        "reasoning: shown": shown.get(profile.api, "as thinking, if it sends any"),
        "reasoning: given back": given_back(profile),
        "images": images if profile.images else "no",
        "PDF": "yes" if profile.pdf in ("file", "document_url") else "no",
        "prompt caching": caching(profile),
        "usage": "yes" if counted else "if it comes, else estimated",
    }
