"""Content blocks of a request as parts of a Chat Completions message.

Rules:
* Content never vanishes: what an upstream cannot take becomes a placeholder that says so, or a 400 that
  names the block.
* Text stays text; a part is an image or a file only where the profile takes it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gateway.errors import InvalidRequest
from gateway.profile import Profile
from gateway.translate.changes import Changes
from gateway.wire.json_text import dumps_request

JSON = dict[str, Any]

IMAGE_TYPES = ("image/jpeg", "image/png", "image/gif", "image/webp")
PDF = "application/pdf"

CACHE_MARKS: Mapping[str, JSON] = {
    "keep": {"cache_control": {"type": "ephemeral"}},
    "breakpoints": {"prompt_cache_breakpoint": {"mode": "explicit"}},
}
"""``Profile.cache`` -> what stands on the last part of a cached prefix."""

_FLATTENED = frozenset(
    (
        "server_tool_use",
        "web_search_tool_result",
        "web_fetch_tool_result",
        "code_execution_tool_result",
        "bash_code_execution_tool_result",
        "text_editor_code_execution_tool_result",
        "tool_search_tool_result",
        "advisor_tool_result",
        "mcp_tool_use",
        "mcp_tool_result",
    )
)
"""Traces of tools that ran on Anthropic's servers: the model reads them as text."""

_NO_CONTENT = frozenset(("redacted_thinking", "fallback", "mcp_tool_listing", "tool_addition", "tool_removal"))
"""Blocks that mean nothing to another upstream."""

_HIDDEN_KEYS = frozenset(("encrypted_content", "encrypted_stdout", "encrypted_index", "cache_control"))


def blocks_of(content: Any, path: str) -> list[JSON]:
    """The blocks of a content that may be a string. Raises InvalidRequest for anything else."""
    if content is None:
        return []
    if isinstance(content, str):
        return [{"type": "text", "text": content}]
    if not isinstance(content, list):
        raise InvalidRequest(f"{path}: Input should be a string or a list of content blocks")
    for position, block in enumerate(content):
        if not isinstance(block, dict) or not isinstance(block.get("type"), str):
            raise InvalidRequest(f"{path}[{position}]: Input should be an object with a type")
    return content


class PartReader:
    """Turns blocks into parts for one request."""

    def __init__(self, profile: Profile, target: str, changes: Changes) -> None:
        """``target``: the upstream's name, for placeholders."""
        self._profile = profile
        self._target = target
        self._changes = changes

    def parts(self, block: JSON, path: str) -> list[JSON]:
        """The parts of one block, often one, sometimes none. Raises InvalidRequest, naming ``path``."""
        parts = self._text(block, path) if block["type"] == "text" else self._parts(block, path)
        if "cache_control" in block:
            self.mark(parts)
        return parts

    def mark(self, parts: list[JSON]) -> None:
        """Marks the end of a cached prefix on the last part, where the upstream takes such marks (R27)."""
        name = CACHE_MARKS.get(self._profile.cache)
        if name is None:
            self._changes.add("dropped", "cache_control", "the upstream caches prefixes by itself, or not at all")
        elif parts:
            parts[-1] = {**parts[-1], **name}

    def _parts(self, block: JSON, path: str) -> list[JSON]:
        kind = block["type"]
        if kind == "image":
            return [self._image(block, path)]
        if kind == "document":
            return self._document(block, path)
        if kind == "tool_reference":
            self._changes.add("replaced", path, "a tool_reference is told as text; the tool is offered from here on")
            return [_text_part(f"Tool {block.get('tool_name')} is now available.")]
        if kind == "search_result":
            self._changes.add("replaced", path, "a search result goes as text")
            return [_text_part(_search_result(block))]
        if kind == "compaction":
            return [_text_part(block["content"])] if isinstance(block.get("content"), str) else []
        if kind == "container_upload":
            raise InvalidRequest(f"{path}: files in Anthropic's containers cannot be reached from {self._target}")
        if kind in _NO_CONTENT:
            self._changes.add("dropped", path, f"{kind} means nothing to another upstream")
            return []
        return [self._as_text(block, path)]

    def _text(self, block: JSON, path: str) -> list[JSON]:
        text = block.get("text")
        if not isinstance(text, str):
            raise InvalidRequest(f"{path}.text: Input should be a string")
        if block.get("citations"):
            self._changes.add("dropped", f"{path}.citations", "no place for citations in a chat message")
        return [{"type": "text", "text": text}] if text and not text.isspace() else []

    def _image(self, block: JSON, path: str) -> JSON:
        source = _source(block, path)
        kind = source.get("type")
        if kind == "file":
            raise InvalidRequest(f"{path}.source: Anthropic's file ids cannot be reached from {self._target}")
        if not self._profile.images:
            self._changes.add("replaced", path, "the model takes no images")
            return _text_part(f"[An image was left out: {self._target} takes no images.]")
        if kind == "url" and not self._profile.image_urls:
            raise InvalidRequest(f"{path}.source: {self._target} takes images as base64 data only, not by URL")
        if kind == "url":
            return {"type": "image_url", "image_url": {"url": _string(source, "url", path)}}
        media_type = source.get("media_type")
        if media_type not in IMAGE_TYPES:
            raise InvalidRequest(f"{path}.source.media_type: Input should be one of {', '.join(IMAGE_TYPES)}")
        data = _string(source, "data", path)
        return {"type": "image_url", "image_url": {"url": f"data:{media_type};base64,{data}"}}

    def _document(self, block: JSON, path: str) -> list[JSON]:
        source = _source(block, path)
        kind = source.get("type")
        title = block.get("title") if isinstance(block.get("title"), str) else None
        if kind == "text":
            heading = [f"Document: {title}"] if title else []
            return [_text_part("\n\n".join([*heading, _string(source, "data", path)]))]
        if kind == "content":
            parts = [_text_part(f"Document: {title}")] if title else []
            for position, inner in enumerate(blocks_of(source.get("content"), f"{path}.source.content")):
                parts.extend(self.parts(inner, f"{path}.source.content[{position}]"))
            return parts
        if kind == "file":
            raise InvalidRequest(f"{path}.source: Anthropic's file ids cannot be reached from {self._target}")
        name = title or "document.pdf"
        if kind == "url" and self._profile.pdf == "document_url":
            return [{"type": "document_url", "document_url": _string(source, "url", path)}]
        if kind == "base64" and source.get("media_type") == PDF and self._profile.pdf == "document_url":
            return [{"type": "document_url", "document_url": f"data:{PDF};base64,{_string(source, 'data', path)}"}]
        if self._profile.pdf == "refuse":
            raise InvalidRequest(f"{path}: {self._target} takes no PDF documents")
        if kind == "base64" and source.get("media_type") == PDF and self._profile.pdf == "file":
            data = f"data:{PDF};base64,{_string(source, 'data', path)}"
            return [{"type": "file", "file": {"filename": name, "file_data": data}}]
        where = f" at {source['url']}" if isinstance(source.get("url"), str) else ""
        self._changes.add("replaced", path, "the model takes no such documents")
        return [_text_part(f"[The document {name}{where} was left out: {self._target} takes no PDF documents.]")]

    def _as_text(self, block: JSON, path: str) -> JSON:
        kind = block["type"]
        reason = "ran on Anthropic's servers" if kind in _FLATTENED else "is not known here"
        self._changes.add("replaced", path, f"{kind} {reason}; it goes as text")
        if isinstance(block.get("text"), str):
            return _text_part(block["text"])
        shown = {key: value for key, value in block.items() if key not in _HIDDEN_KEYS}
        return _text_part(f"[{kind}] {dumps_request(_visible(shown)).decode()}")


def content_of(parts: list[JSON], *, listed: bool = False) -> str | list[JSON]:
    """Only text: one string, which every server takes; else, or when ``listed``, the parts."""
    if listed:
        return parts
    if len(parts) == 1:
        return parts[0]["text"] if parts[0]["type"] == "text" else parts
    texts = [part["text"] for part in parts if part["type"] == "text"]
    return "\n\n".join(texts) if len(texts) == len(parts) else parts


def parts_of(content: str | list[JSON]) -> list[JSON]:
    """The reverse of ``content_of``."""
    return [_text_part(content)] if isinstance(content, str) else content


def _text_part(text: str) -> JSON:
    return {"type": "text", "text": text}


def _source(block: JSON, path: str) -> JSON:
    source = block.get("source")
    if not isinstance(source, dict):
        raise InvalidRequest(f"{path}.source: Input should be an object")
    return source


def _string(source: JSON, name: str, path: str) -> str:
    value = source.get(name)
    if not isinstance(value, str) or not value:
        raise InvalidRequest(f"{path}.source.{name}: Input should be a string that is not empty")
    return value


def _search_result(block: JSON) -> str:
    texts = [item["text"] for item in block.get("content") or () if isinstance(item, dict) and "text" in item]
    return "\n".join(str(line) for line in (block.get("title"), block.get("source"), *texts) if line)


def _visible(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _visible(item) for key, item in value.items() if key not in _HIDDEN_KEYS}
    if isinstance(value, list):
        return [_visible(item) for item in value]
    return value
