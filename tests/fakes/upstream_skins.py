"""Messages for servers that speak the Anthropic Messages API, against the rules of upstream_rules.yaml."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

JSON = dict[str, Any]


def message_breaches(rules: Mapping[str, Any], messages: list[Any]) -> Iterator[str]:
    """What the messages break: roles, blocks, pairs of calls and results, thinking."""
    waiting: set[str] = set()
    before = ""
    for index, message in enumerate(messages):
        path, role = f"messages[{index}]", message.get("role")
        if role not in rules["roles"]:
            yield f"{path}.role: {role}"
            continue
        blocks = message.get("content")
        if isinstance(blocks, str):
            blocks = [{"type": "text", "text": blocks}]
        if not blocks and rules.get("empty_content") == "refused":
            yield f"{path}.content: empty"
        results = {block.get("tool_use_id") for block in blocks if block.get("type") == "tool_result"}
        if role != "system":
            if rules.get("pairs") and waiting - results:
                yield f"{path}: the calls {sorted(waiting - results)} have no result"
            if rules.get("pairs") and results - waiting:
                yield f"{path}: results without their calls {sorted(results - waiting)}"
            waiting = {block["id"] for block in blocks if block.get("type") == "tool_use"}
        for at, block in enumerate(blocks):
            yield from _block(rules, block, str(role), f"{path}.content[{at}]")
        if role == "assistant":
            yield from _thinking(rules, blocks, path)
        if before == role and role in rules.get("alternating", ()):
            yield f"{path}: two messages of role {role} in a row"
        before = str(role)
    if rules.get("pairs") and waiting:
        yield f"the calls {sorted(waiting)} have no result"


def _block(rules: Mapping[str, Any], block: JSON, place: str, path: str) -> Iterator[str]:
    kind = block.get("type")
    if kind not in rules["blocks"][place]:
        yield f"{path}: {kind} for {place}"
    if kind == "text" and not str(block.get("text", "")).strip():
        yield f"{path}.text: empty"
    if kind == "image":
        source = block.get("source", {})
        form = "data" if source.get("type") == "base64" else str(source.get("type"))
        if form not in rules["images"]:
            yield f"{path}: an image as {form}"
        if form == "data" and source.get("media_type") not in rules.get("image_types", (source.get("media_type"),)):
            yield f"{path}: {source.get('media_type')}"
    if kind == "tool_use" and not re.fullmatch(rules["tool_id"], block.get("id", "")):
        yield f"{path}.id: {block.get('id')!r}"
    if kind == "tool_use" and not re.fullmatch(rules["tool_name"], block.get("name", "")):
        yield f"{path}.name: {block.get('name')!r}"
    if kind == "thinking" and re.search(rules["signatures_refused"], block.get("signature", "")):
        yield f"{path}.signature: {block.get('signature', '')[:30]!r}"
    if kind == "tool_result":
        if "result_id" in rules.get("demands", ()) and block.get("id") != block.get("tool_use_id"):
            yield f"{path}.id: {block.get('id')!r}"
        content = block.get("content")
        if content == [] and rules.get("empty_content") == "refused":
            yield f"{path}.content: an empty list"
        for at, inner in enumerate(content if isinstance(content, list) else ()):
            yield from _block(rules, inner, "result", f"{path}.content[{at}]")


def _thinking(rules: Mapping[str, Any], blocks: list[JSON], path: str) -> Iterator[str]:
    kinds = [block.get("type") for block in blocks]
    if rules.get("thinking_turns") == "calls" and "tool_use" in kinds and "thinking" not in kinds:
        yield f"{path}: calls without thinking"
    if rules.get("thinking_turns") and "thinking" in kinds and kinds[0] != "thinking":
        yield f"{path}: thinking does not come first"
