"""Request bodies of real clients, cut small and then damaged; everything follows from a seed."""

from __future__ import annotations

import json
import random
from functools import cache
from pathlib import Path
from typing import Any

from tests.chat_streams import JUNK, flip_bits, truncate

CAPTURES = Path(__file__).parents[1] / "captures"
LONGEST_TEXT, MOST_ITEMS = 120, 4
BLOCKS: list[dict[str, Any]] = [
    {"type": "text", "text": "Hello", "cache_control": {"type": "ephemeral"}},
    {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "iVBORw0KGgo="}},
    {"type": "image", "source": {"type": "url", "url": "http://127.0.0.1:1/x.png"}},
    {"type": "document", "source": {"type": "base64", "media_type": "application/pdf", "data": "JVBERi0xLjQ="}},
    {"type": "document", "source": {"type": "text", "media_type": "text/plain", "data": "words"}, "title": "T"},
    {"type": "document", "source": {"type": "content", "content": [{"type": "text", "text": "x"}]}},
    {"type": "search_result", "source": "s", "title": "t", "content": [{"type": "text", "text": "x"}]},
    {"type": "tool_reference", "tool_name": "Read"},
    {"type": "mid_conv_system", "content": [{"type": "text", "text": "x"}]},
]
TURNS: list[dict[str, Any]] = [
    {"role": "user", "content": "Hello"},
    {
        "role": "assistant",
        "content": [
            {"type": "thinking", "thinking": "Hm.", "signature": "c2ln"},
            {"type": "redacted_thinking", "data": "eHg="},
            {"type": "text", "text": "I read."},
            {"type": "tool_use", "id": "toolu_1", "name": "Read", "input": {"path": "/etc/hosts"}},
            {"type": "tool_use", "id": "toolu_2", "name": "Read", "input": {"path": "a"}},
            {"type": "server_tool_use", "id": "srvtoolu_1", "name": "web_search", "input": {"query": "x"}},
            {"type": "web_search_tool_result", "tool_use_id": "srvtoolu_1", "content": []},
        ],
    },
    {
        "role": "user",
        "content": [
            {"type": "tool_result", "tool_use_id": "toolu_2", "content": BLOCKS[:2], "is_error": True},
            {"type": "tool_result", "tool_use_id": "toolu_1", "content": "127.0.0.1 localhost"},
            *BLOCKS,
        ],
    },
    {"role": "system", "content": "Be brief."},
]
READ: dict[str, Any] = {
    "name": "Read",
    "description": "Reads.",
    "input_schema": {"type": "object", "properties": {"path": {"type": "string"}}, "required": ["path"]},
}
HAND_MADE: list[dict[str, Any]] = [
    {
        "messages": TURNS,
        "system": [{"type": "text", "text": "You are.", "cache_control": {"type": "ephemeral"}}],
        "tools": [
            READ, {"type": "web_search_20250305", "name": "web_search"}, {**READ, "name": "b", "defer_loading": True},
        ],
        "tool_choice": {"type": "tool", "name": "Read", "disable_parallel_tool_use": True},
        "stop_sequences": ["</stop>", "\n\nHuman:"],
        "temperature": 0.5,
        "top_p": 0.9,
        "top_k": 40,
        "thinking": {"type": "enabled", "budget_tokens": 1024},
        "output_config": {"effort": "high", "format": {"type": "json_schema", "schema": {"type": "object"}}},
        "metadata": {"user_id": "user_x_account__session_y"},
        "context_management": {"edits": [{"type": "clear_tool_uses_20250919"}]},
        "mcp_servers": [{"type": "url", "url": "http://127.0.0.1:1", "name": "x"}],
        "service_tier": "auto",
    },
    {"messages": [{"role": "user", "content": "call Read {\"path\": \"x\"}\nthink: a little"}], "tools": [READ]},
    {"messages": TURNS[:1], "system": "You are."},
]  # fmt: skip
RAW_JUNK = [
    b"\x00", b"\xff\xfe", b"\\ud83d", b"\\u0000", b"\\udc00\\ud83d", b"NaN", b"1e999", b"[" * 1100,
    b'{"a":' * 300, b"}", b",", b'"', b"//", b"\xef\xbb\xbf", b"9" * 400, b"-0",
    b"\xe2\x80\xa8", b'"role":"system",', b"null",
]  # fmt: skip
DEPTHS = (50, 130, 260)
"""Around what can be written; three of them in one another are still less than json itself takes."""


def small(value: Any) -> Any:
    """``value`` without its bulk: short texts, few items."""
    if isinstance(value, str):
        return value[:LONGEST_TEXT]
    if isinstance(value, list):
        return [small(item) for item in value[-MOST_ITEMS:]]
    if isinstance(value, dict):
        return {name: small(item) for name, item in list(value.items())[:40]}
    return value


@cache
def originals() -> list[dict[str, Any]]:
    bodies = [json.loads(path.read_text())["body"] for path in sorted(CAPTURES.glob("*.json"))]
    return [*(small(body) for body in bodies if isinstance(body, dict)), *HAND_MADE * 5]


def mutated(seed: int, model: str) -> bytes:
    """A damaged request; most of them still ask for ``model``."""
    draw = random.Random(seed)
    body: Any = {**draw.choice(originals()), "model": model, "max_tokens": 64, "stream": bool(seed % 2)}
    for _ in range(draw.randint(1, 3)):
        body = damage(body, draw)
    data = json.dumps(body).encode()
    kind = draw.random()
    if kind < 0.1:
        data = flip_bits(data, draw)
    elif kind < 0.15:
        data = truncate(data, draw)
    elif kind < 0.3:
        at = draw.randrange(len(data) + 1)
        data = data[:at] + draw.choice(RAW_JUNK) + data[at:]
    return data


def damage(value: Any, draw: random.Random) -> Any:
    """``value`` with one thing in it exchanged, taken away, doubled, or buried."""
    if isinstance(value, dict) and value and draw.random() < 0.9:
        name = draw.choice(list(value))
        if draw.random() < 0.12:
            return {other: item for other, item in value.items() if other != name}
        return {**value, name: damage(value[name], draw)}
    if isinstance(value, list) and value and draw.random() < 0.9:
        at = draw.randrange(len(value))
        if draw.random() < 0.15:
            return [*value, value[at]] if draw.random() < 0.5 else [*value[:at], *value[at + 1 :]]
        return [*value[:at], damage(value[at], draw), *value[at + 1 :]]
    if draw.random() < 0.1:
        return buried(value, draw)
    if draw.random() < 0.15:
        return draw.choice(BLOCKS)
    return draw.choice(JUNK)


def buried(value: Any, draw: random.Random) -> Any:
    """``value`` at the bottom of a deep nest."""
    for _ in range(draw.choice(DEPTHS)):
        value = [value] if draw.random() < 0.5 else {"a": value}
    return value
