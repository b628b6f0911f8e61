"""The conversation as input items of the Responses API, from Chat Completions messages.

Rules (R9, R11, R41, R59-R62):
* Past answers go back in the order of their blocks: messages, calls, and each reasoning item right before
  what followed it. The API refuses a reasoning item that nothing follows, and one that comes twice.
* Results hold images and files themselves.
* What was text in a message is ``output_text`` for the model and ``input_text`` for everybody else.
* A past message has all the fields that it has in an answer: servers that check types ask for ``id`` and
  ``status``. Its id is its number, the same for the same history.
"""

from __future__ import annotations

from typing import Any

from gateway.profile import Profile
from gateway.translate.assistant_turn import AssistantTurn
from gateway.translate.changes import Changes
from gateway.translate.opaque import decode_signature
from gateway.translate.reasoning import TAGS, tagged
from gateway.translate.responses_reasoning import ITEM, restore_items

JSON = dict[str, Any]

_MARKS = ("cache_control", "prompt_cache_breakpoint")


class AssistantItems(AssistantTurn):
    """One past answer of the model as items."""

    def __init__(self, profile: Profile, provider: str, model: str, changes: Changes) -> None:
        super().__init__(profile, provider, model, changes)
        self._items: list[JSON] = []
        self._phase: Any = None
        self._path = ""

    def text(self, part: JSON, path: str) -> None:
        """A part of the turn; only text can stand here."""
        if part["type"] != "text":
            self._changes.add("dropped", path, "an assistant message holds text only")
            return
        item = _said(self._tags + part["text"])
        self._tags = ""
        if isinstance(self._phase, str):
            item["phase"] = self._phase
        self._phase = None
        self._items.append(item)

    def tool_use(self, block: JSON, name: str, used_ids: dict[str, int], path: str) -> None:
        call, _ = self._past_call(block, name, used_ids)
        self._phase = None
        arguments = self._arguments(block, path)
        self._items.append({"type": "function_call", "call_id": call.upstream_id, "name": name, "arguments": arguments})

    def thinking(self, block: JSON, path: str) -> None:
        """Past reasoning: put back if it is this model's own."""
        state = decode_signature(block.get("signature"))
        text = str(block.get("thinking") or "")
        if state is None or state.get("p") != self._provider or self._profile.reasoning_back == "none":
            self._changes.add("dropped", path, "reasoning that the upstream did not write, or does not take back")
            return
        if state.get("f") == TAGS:
            self._tags = tagged(text, state.get("g"))
            return
        items = restore_items(state, text) if state.get("f") == ITEM and state.get("m") == self._model else []
        if not items:
            self._changes.add("dropped", path, "reasoning of another model, or without the state to put it back")
            return
        self._path = path
        if isinstance(state.get("after"), list):
            self._put_back(items, state["after"])
            return
        self._phase = state.get("n")
        self._items.extend(items)

    def _put_back(self, items: list[JSON], after: list[Any]) -> None:
        """Puts each item before the messages and calls that followed it, counted from the end."""
        for item, count in zip(items, after, strict=False):
            known = [place for place, other in enumerate(self._items) if other.get("id", "") == item.get("id")]
            others = [place for place, other in enumerate(self._items) if other["type"] != "reasoning"]
            if known:
                self._items[known[0]] = item
            elif isinstance(count, int) and 0 < count <= len(others):
                self._items.insert(others[-count], item)
            else:
                self._changes.add("dropped", self._path, "reasoning that nothing followed")

    def to_wire(self) -> JSON | None:
        """``{"role": "assistant", "items": […]}``; None for a turn that says nothing."""
        if self._tags:
            self._items.append(_said(self._tags))
        while self._items and self._items[-1]["type"] == "reasoning":
            self._items.pop()
            self._changes.add("dropped", self._path, "reasoning that nothing followed")
        return {"role": "assistant", "items": self._items} if self._items else None


def to_items(messages: list[JSON]) -> list[JSON]:
    """The input items of messages; past answers as AssistantItems wrote them."""
    items: list[JSON] = []
    seen: set[str] = set()
    said = 0
    for message in messages:
        role = message["role"]
        if role == "assistant":
            for item in message.get("items") or [_said(str(message["content"]))]:
                if item["type"] == "message":
                    item = {"type": "message", "id": f"msg_{said}", **item}
                    said += 1
                if not _repeated(item, seen):
                    items.append(item)
        elif role == "tool":
            content = message["content"]
            output = content if isinstance(content, str) else [_input_part(part) for part in content]
            items.append({"type": "function_call_output", "call_id": message["tool_call_id"], "output": output})
        else:
            content = message["content"]
            parts = [{"type": "text", "text": content}] if isinstance(content, str) else content
            items.append({"type": "message", "role": role, "content": [_input_part(part) for part in parts]})
    return items


def _repeated(item: JSON, seen: set[str]) -> bool:
    """Whether a reasoning item stands in the conversation already."""
    item_id = item.get("id")
    if item["type"] != "reasoning" or not isinstance(item_id, str):
        return False
    known = item_id in seen
    seen.add(item_id)
    return known


def _said(text: str) -> JSON:
    content = [{"type": "output_text", "text": text, "annotations": []}]
    return {"type": "message", "role": "assistant", "status": "completed", "content": content}


def _input_part(part: JSON) -> JSON:
    kind = part["type"]
    marks = {name: part[name] for name in _MARKS if name in part}
    if kind == "image_url":
        return {"type": "input_image", "image_url": part["image_url"]["url"], "detail": "auto", **marks}
    if kind == "file":
        return {"type": "input_file", **part["file"], **marks}
    if kind == "document_url":
        return {"type": "input_file", "file_url": part["document_url"], **marks}
    return {"type": "input_text", "text": part["text"], **marks}
