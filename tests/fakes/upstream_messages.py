"""Messages of the Anthropic Messages API and of Ollama's, against the rules of upstream_rules.yaml."""

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


def ollama_breaches(rules: Mapping[str, Any], messages: list[JSON]) -> Iterator[str]:
    """What messages for Ollama's own API break."""
    waiting: list[str] = []
    for index, message in enumerate(messages):
        path, role = f"messages[{index}]", message.get("role")
        if role not in rules["roles"]:
            yield f"{path}.role: {role}"
            continue
        allowed = rules["message_fields"][role]
        yield from (f"{path}.{name}: no such field" for name in message if name not in allowed)
        if not isinstance(message.get("content"), str):
            yield f"{path}.content: no string"
        for image in message.get("images", ()):
            if "image" in rules.get("refused", ()) or not re.fullmatch(r"[A-Za-z0-9+/]+={0,2}", image):
                yield f"{path}.images: {image[:20]!r}"
        if role == "tool":
            if message.get("tool_call_id") not in waiting:
                yield f"{path}: no such call right before it"
            else:
                waiting.remove(message["tool_call_id"])
            if not message.get("tool_name"):
                yield f"{path}.tool_name: missing"
        elif waiting:
            yield f"{path}: the calls {waiting} have no result"
        if role == "assistant":
            waiting = [call["id"] for call in message.get("tool_calls", ())]
            for call in message.get("tool_calls", ()):
                if not isinstance(call["function"].get("arguments"), dict):
                    yield f"{path}: arguments are an object here"
