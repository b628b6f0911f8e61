"""Messages for servers that merely speak the Messages API, by profile (R7, R9, R11, R131, R132).

Rules:
* Nothing changes where the profile asks for nothing: the same objects go on.
* Content that an upstream cannot take becomes a placeholder that says so, never nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from operator import is_
from typing import Any

from gateway.profile import Profile
from gateway.translate.changes import Changes
from gateway.translate.skin_pairs import paired

JSON = dict[str, Any]

NO_OUTPUT = "(no tool output)"


def fit_system(wire: JSON, profile: Profile) -> None:
    """One string, where blocks are not taken; no marks, where the upstream knows none."""
    system = wire["system"]
    if not isinstance(system, list):
        return
    blocks = [_without_marks(block, profile) for block in system]
    if not profile.system_blocks:
        texts = [block["text"] for block in blocks if isinstance(block, dict) and isinstance(block.get("text"), str)]
        wire["system"] = "\n\n".join(texts)
    elif not _same(blocks, system):
        wire["system"] = blocks


def fit_messages(
    messages: list[Any], profile: Profile, target: str, names: dict[str, str], changes: Changes
) -> list[Any]:
    """The conversation; the same list where nothing had to change. ``names``: of tools, client -> upstream."""
    if profile.first_party:
        return messages
    fitter = _Fitter(profile, target, names, changes)
    fitted = [fitter.fit(message, position) for position, message in enumerate(paired(messages, changes))]
    if profile.joined_turns:
        fitted = _joined(fitted)
    return messages if _same(fitted, messages) else fitted


class _Fitter:
    """Fits the messages of one request, one after the other."""

    def __init__(self, profile: Profile, target: str, names: dict[str, str], changes: Changes) -> None:
        self._profile = profile
        self._target = target
        self._names = names
        self._changes = changes
        self._position = 0
        self._moves_system = profile.mid_system == "user"
        self._demands_reasoning = profile.reasoning_placeholder is not None
        self._part_kinds = _fitted_parts(profile)
        self._kinds = (*self._part_kinds, "tool_result", *(("tool_use",) if names else ()))

    def fit(self, message: Any, position: int) -> Any:
        if not isinstance(message, dict):
            return message
        self._position = position
        role = message.get("role")
        if role == "system" and self._moves_system:
            return self._reminder(message)
        content = message.get("content")
        if not isinstance(content, list):
            return message
        blocks = self._each(content, self._kinds, self._block)
        if self._demands_reasoning and role == "assistant":
            blocks = self._with_placeholder(blocks)
        return message if blocks is content else {**message, "content": blocks}

    def _each(self, items: list[Any], kinds: tuple[str, ...], fit: Callable[[JSON], JSON]) -> list[Any]:
        """``items`` with those of ``kinds``, and marked ones, fitted; ``items`` itself where nothing had to change."""
        fitted: list[Any] | None = None
        for place, item in enumerate(items):
            if isinstance(item, dict) and (item.get("type") in kinds or "cache_control" in item):
                new = fit(item)
                if new is not item:
                    fitted = list(items) if fitted is None else fitted
                    fitted[place] = new
        return items if fitted is None else fitted

    def _reminder(self, message: JSON) -> JSON:
        content = message.get("content")
        texts = [content] if isinstance(content, str) else [_text_of(block) for block in content or ()]
        self._changes.add("moved", self._path(), "a system message in the middle goes as a <system-reminder>")
        text = "\n\n".join(filter(None, texts))
        return {
            "role": "user",
            "content": [{"type": "text", "text": f"<system-reminder>\n{text}\n</system-reminder>"}],
        }

    def _block(self, block: JSON) -> JSON:
        kind = block.get("type")
        if kind == "tool_result":
            return self._result(_without_marks(block, self._profile))
        block = self._part(block)
        if kind == "tool_use" and isinstance(block.get("name"), str) and block["name"] in self._names:
            return {**block, "name": self._names[block["name"]]}
        return block

    def _part(self, block: JSON) -> JSON:
        """A block that holds no others."""
        block = _without_marks(block, self._profile)
        kind = block.get("type")
        if kind == "image" and not self._profile.images:
            return self._placeholder("An image", "images")
        if kind == "tool_reference" and not self._profile.keep_betas:
            self._changes.add("replaced", self._path(), "a tool_reference is told as text")
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

    def _path(self) -> str:
        return f"messages[{self._position}]"

    def _placeholder(self, what: str, kind: str) -> JSON:
        self._changes.add("replaced", self._path(), f"the model takes no {kind}")
        return {"type": "text", "text": f"[{what} was left out: {self._target} takes no {kind}.]"}

    def _result(self, block: JSON) -> JSON:
        content = block.get("content")
        if isinstance(content, list):
            inner: Any = self._each(content, self._part_kinds, self._part)
            if not inner and self._profile.joined_turns:
                inner = NO_OUTPUT
            if inner is not content:
                block = {**block, "content": inner}
        if self._profile.tool_result_id and "id" not in block:
            block = {**block, "id": block.get("tool_use_id")}
        return block

    def _with_placeholder(self, blocks: list[Any]) -> list[Any]:
        """An answer with a thinking block in front, where the upstream demands one and there is none (R61)."""
        kinds = [block.get("type") for block in blocks if isinstance(block, dict)]
        if "thinking" in kinds or "tool_use" not in kinds:
            return blocks
        self._changes.add("added", self._path(), "the upstream demands reasoning on every turn with tool calls")
        placeholder = {"type": "thinking", "thinking": self._profile.reasoning_placeholder, "signature": ""}
        return [placeholder, *blocks]


def _fitted_parts(profile: Profile) -> tuple[str, ...]:
    """The kinds of blocks that the upstream does not take; of marks it may refuse any."""
    return (
        *(() if profile.images else ("image",)),
        *(() if profile.keep_betas else ("tool_reference",)),
        *(("document",) if profile.pdf == "placeholder" else ()),
    )


def _same(new: list[Any], old: list[Any]) -> bool:
    """Whether these are the same objects."""
    return len(new) == len(old) and all(map(is_, new, old))


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
    run: list[Any] | None = None
    """The content of the last message, once it is that of several."""
    for message in messages:
        last = out[-1] if out else None
        if isinstance(message, dict) and message.get("content") == []:
            continue
        if isinstance(message, dict) and isinstance(last, dict) and last.get("role") == message.get("role"):
            if run is None:
                run = [*_blocks(last.get("content"))]
                out[-1] = {**last, "content": run}
            run += _blocks(message.get("content"))
        else:
            out.append(message)
            run = None
    return out


def _blocks(content: Any) -> list[Any]:
    return content if isinstance(content, list) else [{"type": "text", "text": str(content or "")}]


def _text_of(block: Any) -> str:
    text = block.get("text") if isinstance(block, dict) else None
    return text if isinstance(text, str) else ""
