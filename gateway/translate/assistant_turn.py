"""AssistantTurn: one past answer of the model as a Chat Completions message.

Rules (R8, R12, R13, R41, R51, R59-R61):
* Text is one plain string; some servers echo an array literally.
* A call keeps the id that the upstream gave it; ids are unique in a request and short enough.
* Arguments are always the text of a JSON object.
* Reasoning goes back only to the provider that it came from (opaque.py), in its own field.
"""

from __future__ import annotations

import hashlib
from typing import Any

from gateway.profile import Profile
from gateway.translate.changes import Changes
from gateway.translate.opaque import decode_signature, decode_tool_id
from gateway.translate.reasoning import DETAILS, TAGS, restore_details
from gateway.wire.json_text import dumps_request

JSON = dict[str, Any]


class AssistantTurn:
    """Collects the blocks of one turn."""

    def __init__(self, profile: Profile, provider: str, model: str, changes: Changes) -> None:
        self._profile = profile
        self._provider = provider
        self._model = model
        self._changes = changes
        self._texts: list[str] = []
        self._tool_calls: list[JSON] = []
        self._fields: dict[str, Any] = {}
        self._tags = ""
        self._parts: list[JSON] = []
        self.calls: list[tuple[str, str]] = []
        """(client id, upstream id) of each call."""

    def text(self, part: JSON, path: str) -> None:
        """A part of the turn; only text can stand here."""
        if part["type"] == "text":
            self._texts.append(part["text"])
        else:
            self._changes.add("dropped", path, "an assistant message holds text only")

    def tool_use(self, block: JSON, name: str, used_ids: set[str], path: str) -> None:
        """A call; ``name`` is the upstream's, ``used_ids`` are the upstream ids so far."""
        client_id = str(block.get("id"))
        ours = decode_tool_id(client_id, self._provider)
        upstream_id = ours[0] if ours else self._short(client_id)
        number = 1
        unique = upstream_id
        while unique in used_ids:
            number += 1
            unique = self._short(f"{upstream_id}_{number}")
        used_ids.add(unique)
        self.calls.append((client_id, unique))
        value = block.get("input")
        if not isinstance(value, dict):
            self._changes.add("replaced", f"{path}.input", "arguments are always an object")
            value = {} if value is None else {"input": value}
        call: JSON = {
            "id": unique,
            "type": "function",
            "function": {"name": name, "arguments": dumps_request(value).decode()},
        }
        if ours and ours[1] is not None:
            call["extra_content"] = ours[1]
        self._tool_calls.append(call)

    def thinking(self, block: JSON, path: str) -> None:
        """Past reasoning: put back if it is this provider's own."""
        state = decode_signature(block.get("signature"))
        place = state.get("f") if state and state.get("p") == self._provider else None
        if self._profile.reasoning_back != "same" and place is not None:
            place = None if self._profile.reasoning_back == "none" else self._profile.reasoning_back
        if state is None or place is None or (place == DETAILS and state.get("m") != self._model):
            self._changes.add("dropped", path, "reasoning that the upstream did not write, or does not take back")
            return
        text = str(block.get("thinking") or "")
        if place == DETAILS:
            self._fields.setdefault(DETAILS, []).extend(restore_details(state, text))
        elif place == TAGS:
            self._tags = _tagged(text, state.get("g"))
        elif place == "content":
            self._parts.append({"type": "thinking", "thinking": [{"type": "text", "text": text}]})
        else:
            self._fields[str(place)] = self._fields.get(str(place), "") + text

    def to_wire(self) -> JSON | None:
        """The message; None for a turn that says nothing."""
        text = self._tags + "\n\n".join(self._texts)
        if not text and not self._tool_calls and not self._fields and not self._parts:
            return None
        empty = "" if self._profile.empty_content or not self._tool_calls else None
        content: Any = text or empty
        if self._parts:
            content = [*self._parts, *([{"type": "text", "text": text}] if text else [])]
        message: JSON = {"role": "assistant", "content": content, **self._fields}
        placeholder = self._profile.reasoning_placeholder
        if placeholder is not None:
            message.setdefault(self._profile.reasoning_placeholder_field, placeholder)
        if self._tool_calls:
            message["tool_calls"] = self._tool_calls
        return message

    def _short(self, tool_id: str) -> str:
        if len(tool_id) <= self._profile.tool_id_max:
            return tool_id
        digest = hashlib.blake2s(tool_id.encode("utf-8", "replace"), digest_size=12).hexdigest()
        return f"call_{digest}" if len(digest) + 5 <= self._profile.tool_id_max else digest[: self._profile.tool_id_max]


def _tagged(text: str, gaps: Any) -> str:
    before, opened, closing, after = gaps if isinstance(gaps, list) and len(gaps) == 4 else ("", "\n", "\n", "\n\n")
    return f"{before}<think>{opened}{text}{closing}</think>{after}"
