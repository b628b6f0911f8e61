"""Messages for servers that merely speak the Messages API, by profile (R7, R9, R11, R131, R132).

Rules:
* Nothing changes where the profile asks for nothing: the same objects go on.
* Content that an upstream cannot take becomes a placeholder that says so, never nothing.
"""

from __future__ import annotations

from typing import Any

from gateway.profile import Profile
from gateway.translate.changes import Changes
from gateway.translate.skin_pairs import paired

JSON = dict[str, Any]

NO_OUTPUT = "(no tool output)"


def fit_system(wire: JSON, profile: Profile) -> None:
    """One string, where blocks are not taken; no marks, where the upstream knows none."""
    system = wire.get("system")
    if not isinstance(system, list):
        return
    blocks = [_without_marks(block, profile) for block in system]
    if not profile.system_blocks:
        texts = [block["text"] for block in blocks if isinstance(block, dict) and isinstance(block.get("text"), str)]
        wire["system"] = "\n\n".join(texts)
    elif any(new is not old for new, old in zip(blocks, system, strict=True)):
        wire["system"] = blocks


def fit_messages(
    messages: list[Any], profile: Profile, target: str, names: dict[str, str], changes: Changes
) -> list[Any]:
    """The conversation; the same list where nothing had to change. ``names``: of tools, client -> upstream."""
    if profile.first_party:
        return messages
    fitted = [
        _Message(profile, target, names, changes, position).fit(message)
        for position, message in enumerate(paired(messages, changes))
    ]
    if profile.joined_turns:
        fitted = _joined(fitted)
    unchanged = len(fitted) == len(messages) and all(new is old for new, old in zip(fitted, messages, strict=True))
    return messages if unchanged else fitted


class _Message:
    """Fits one message."""

    def __init__(
        self, profile: Profile, target: str, names: dict[str, str], changes: Changes, position: int
    ) -> None:
        self._profile = profile
        self._target = target
        self._names = names
        self._changes = changes
        self._path = f"messages[{position}]"

    def fit(self, message: Any) -> Any:
        if not isinstance(message, dict):
            return message
        if message.get("role") == "system" and self._profile.mid_system == "user":
            return self._reminder(message)
        content = message.get("content")
        if not isinstance(content, list):
            return message
        blocks = [self._block(block) for block in content]
        blocks = self._with_placeholder(message, blocks)
        if len(blocks) == len(content) and all(new is old for new, old in zip(blocks, content, strict=True)):
            return message
        return {**message, "content": blocks}

    def _reminder(self, message: JSON) -> JSON:
        content = message.get("content")
        texts = [content] if isinstance(content, str) else [_text_of(block) for block in content or ()]
        self._changes.add("moved", self._path, "a system message in the middle goes as a <system-reminder>")
        text = "\n\n".join(filter(None, texts))
        return {
            "role": "user",
            "content": [{"type": "text", "text": f"<system-reminder>\n{text}\n</system-reminder>"}],
        }

    def _block(self, block: Any) -> Any:
        block = self._part(block)
        kind = block.get("type") if isinstance(block, dict) else None
        if kind == "tool_use" and isinstance(block.get("name"), str) and block["name"] in self._names:
            return {**block, "name": self._names[block["name"]]}
        return self._result(block) if kind == "tool_result" else block

    def _part(self, block: Any) -> Any:
        """A block that holds no others."""
        block = _without_marks(block, self._profile)
        kind = block.get("type") if isinstance(block, dict) else None
        if kind == "image" and not self._profile.images:
            return self._placeholder("An image", "images")
        if kind == "tool_reference" and not self._profile.keep_betas:
            self._changes.add("replaced", self._path, "a tool_reference is told as text")
            return {"type": "text", "text": f"Tool {block.get('tool_name')} is now available."}
        if kind == "document" and self._profile.pdf == "placeholder":
            return self._document(block)
        return block

    def _document(self, block: JSON) -> JSON:
        source = block.get("source")
        source = source if isinstance(source, dict) else {}
        if source.get("type") == "text" and isinstance(source.get("data"), str):
            return {"type": "text", "text": source["data"]}
        return self._placeholder(f"The document {block.get('title') or ''}".rstrip(), "PDF documents")

    def _placeholder(self, what: str, kind: str) -> JSON:
        self._changes.add("replaced", self._path, f"the model takes no {kind}")
        return {"type": "text", "text": f"[{what} was left out: {self._target} takes no {kind}.]"}

    def _result(self, block: JSON) -> JSON:
        content = block.get("content")
        if isinstance(content, list):
            inner: Any = [self._part(item) for item in content]
            if not inner and self._profile.joined_turns:
                inner = NO_OUTPUT
            if inner == NO_OUTPUT or any(new is not old for new, old in zip(inner, content, strict=True)):
                block = {**block, "content": inner}
        if self._profile.tool_result_id and "id" not in block:
            block = {**block, "id": block.get("tool_use_id")}
        return block

    def _with_placeholder(self, message: JSON, blocks: list[Any]) -> list[Any]:
        """A thinking block in front, where the upstream demands one and the history has none (R61)."""
        text = self._profile.reasoning_placeholder
        kinds = [block.get("type") for block in blocks if isinstance(block, dict)]
        if text is None or message.get("role") != "assistant" or "thinking" in kinds or "tool_use" not in kinds:
            return blocks
        self._changes.add("added", self._path, "the upstream demands reasoning on every turn with tool calls")
        return [{"type": "thinking", "thinking": text, "signature": ""}, *blocks]


def _without_marks(block: Any, profile: Profile) -> Any:
    """``block`` without cache marks, or without their scope, where only Anthropic's own API knows it."""
    mark = block.get("cache_control") if isinstance(block, dict) else None
    if mark is None or profile.first_party:
        return block
    if profile.cache == "none":
        return {name: value for name, value in block.items() if name != "cache_control"}
    if isinstance(mark, dict) and "scope" in mark:
        return {**block, "cache_control": {name: value for name, value in mark.items() if name != "scope"}}
    return block


def _joined(messages: list[Any]) -> list[Any]:
    """Neighbouring messages of one role as one; none with an empty list."""
    out: list[Any] = []
    for message in messages:
        if not isinstance(message, dict) or message.get("content") == []:
            if not isinstance(message, dict):
                out.append(message)
            continue
        last = out[-1] if out else None
        if isinstance(last, dict) and last.get("role") == message.get("role"):
            out[-1] = {**last, "content": [*_blocks(last.get("content")), *_blocks(message.get("content"))]}
        else:
            out.append(message)
    return out


def _blocks(content: Any) -> list[Any]:
    return content if isinstance(content, list) else [{"type": "text", "text": str(content or "")}]


def _text_of(block: Any) -> str:
    text = block.get("text") if isinstance(block, dict) else None
    return text if isinstance(text, str) else ""
