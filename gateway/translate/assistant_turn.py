"""AssistantTurn: one past answer of the model as a Chat Completions message.

Rules (R8, R12, R13, R41, R51, R59-R61):
* Text is one plain string; some servers echo an array literally.
* A call keeps the id that the upstream gave it; ids are unique in a request and short enough.
* Arguments are always the text of a JSON object.
* Reasoning goes back only to the provider that it came from (opaque.py), in its own field.
"""

from __future__ import annotations

import hashlib
from typing import Any, NamedTuple

from gateway.profile import Profile
from gateway.translate.changes import Changes
from gateway.translate.opaque import decode_signature, decode_tool_id
from gateway.translate.reasoning import DETAILS, FIELDS, TAGS, restore_details, tagged
from gateway.wire.json_text import dumps_request

JSON = dict[str, Any]

_PLACES = (*FIELDS, DETAILS, TAGS, "content")
"""Where this wire can put past reasoning; a signature's state of another wire names something else."""


class PastCall(NamedTuple):
    """One tool call of the history."""

    client_id: str
    upstream_id: str
    name: str
    """As the upstream knows it."""


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
        self.calls: list[PastCall] = []

    def text(self, part: JSON, path: str) -> None:
        """A part of the turn; only text can stand here."""
        if part["type"] == "text":
            self._texts.append(part["text"])
        else:
            self._changes.add("dropped", path, "an assistant message holds text only")

    def tool_use(self, block: JSON, name: str, used_ids: dict[str, int], path: str) -> None:
        """A call; ``name`` is the upstream's, ``used_ids`` are the upstream ids so far (``_past_call``)."""
        call, extra = self._past_call(block, name, used_ids)
        function = {"name": name, "arguments": self._arguments(block, path)}
        wire: JSON = {"id": call.upstream_id, "type": "function", "function": function}
        if extra is not None:
            wire["extra_content"] = extra
        elif self._profile.call_placeholder is not None and not self._tool_calls:
            wire.update(self._profile.call_placeholder)
        self._tool_calls.append(wire)

    def _past_call(self, block: JSON, name: str, used_ids: dict[str, int]) -> tuple[PastCall, Any]:
        """The call, filed, with an id that is the upstream's own or fits it; and the upstream's state of it.

        ``used_ids``: each id so far -> the last number that made one like it unique.
        """
        client_id = str(block.get("id"))
        ours = decode_tool_id(client_id, self._provider)
        upstream_id = ours[0] if ours else self._fitting_id(client_id, name, len(used_ids))
        unique = upstream_id
        if upstream_id in used_ids:
            # Up to this number all are taken; a template's ids do not depend on the number alone.
            number = used_ids[upstream_id] if self._profile.tool_id_template is None else 1
            while unique in used_ids:
                number += 1
                unique = self._fitting_id(f"{upstream_id}_{number}", name, len(used_ids) + number)
            used_ids[upstream_id] = number
        used_ids[unique] = 1
        call = PastCall(client_id, unique, name)
        self.calls.append(call)
        return call, ours[1] if ours else None

    def _arguments(self, block: JSON, path: str) -> str:
        """The call's input as the text of a JSON object (R51)."""
        value = block.get("input")
        if not isinstance(value, dict):
            self._changes.add("replaced", f"{path}.input", "arguments are always an object")
            value = {} if value is None else {"input": value}
        return dumps_request(value).decode()

    def thinking(self, block: JSON, path: str) -> None:
        """Past reasoning: put back if it is this provider's own."""
        state = decode_signature(block.get("signature"))
        place = state.get("f") if state and state.get("p") == self._provider else None
        if self._profile.reasoning_back != "same" and place is not None:
            place = None if self._profile.reasoning_back == "none" else self._profile.reasoning_back
        if self._profile.reasoning_back == "same" and place not in _PLACES:
            place = None
        if state is None or place is None or (place == DETAILS and state.get("m") != self._model):
            self._changes.add("dropped", path, "reasoning that the upstream did not write, or does not take back")
            return
        text = str(block.get("thinking") or "")
        if place == DETAILS:
            self._fields.setdefault(DETAILS, []).extend(restore_details(state, text))
        elif place == TAGS:
            self._tags = tagged(text, state.get("g"))
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

    def _fitting_id(self, tool_id: str, name: str, index: int) -> str:
        """``tool_id`` in a form that the upstream takes; the same for the same history (R41)."""
        profile = self._profile
        if profile.tool_id_template is not None:
            return profile.tool_id_template.format(name=name, index=index)
        limit = profile.tool_id_length
        fits = len(tool_id) <= profile.tool_id_max if limit is None else len(tool_id) == limit and tool_id.isalnum()
        if fits and tool_id.isascii():
            return tool_id
        digest = hashlib.blake2s(tool_id.encode("utf-8", "replace"), digest_size=12).hexdigest()
        if limit is not None:
            return digest[:limit]
        return f"call_{digest}" if len(digest) + 5 <= profile.tool_id_max else digest[: profile.tool_id_max]
