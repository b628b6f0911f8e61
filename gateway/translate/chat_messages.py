"""The conversation of a request as Chat Completions messages.

Rules (R1-R18, R51, R59-R61):
* One system message in front. Claude Code's billing block is left out: it differs between conversations
  and would empty every prefix cache.
* ``role: system`` later on stays in place, or becomes a <system-reminder> in user text, by profile.
* Every tool call is followed directly by its results, whatever stood between; a missing result is made
  up as such, an orphan becomes user text. Images and documents of results follow in a user message.
* Neighbouring user messages become one, neighbouring assistant messages too.
* Past reasoning of this provider goes back where it came from; a foreign one never does.
* The same conversation gives the same bytes, also when it has grown.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from gateway.errors import InvalidRequest
from gateway.profile import Profile
from gateway.translate.assistant_turn import AssistantTurn
from gateway.translate.billing_block import without_billing_line
from gateway.translate.changes import Changes
from gateway.translate.chat_parts import PartReader, blocks_of, content_of, parts_of
from gateway.translate.chat_tools import OfferedTools

JSON = dict[str, Any]
Calls = list[tuple[str, str]]
"""(client id, upstream id) of each call of a turn."""

NO_RESULT = "[no result]"
NO_OUTPUT = "(no tool output)"
SEE_ATTACHMENT = "(see the attached content below)"


@dataclass(slots=True)
class _Message:
    role: str
    blocks: list[JSON]
    path: str


@dataclass(slots=True)
class _UserText:
    """User parts that are not written yet."""

    parts: list[JSON] = field(default_factory=list)

    def flush(self, out: list[JSON]) -> None:
        if not self.parts:
            return
        if out and out[-1]["role"] == "user":
            self.parts = [*parts_of(out.pop()["content"]), *self.parts]
        out.append({"role": "user", "content": content_of(self.parts)})
        self.parts = []


class ChatMessages:
    """Translates the messages of one request."""

    def __init__(self, profile: Profile, provider: str, model: str, offered: OfferedTools, changes: Changes) -> None:
        self._profile = profile
        self._provider = provider
        self._model = model
        self._offered = offered
        self._changes = changes
        self._reader = PartReader(profile, f"{provider}/{model}", changes)
        self._used_ids: set[str] = set()

    def translate(self, body: JSON) -> list[JSON]:
        """The messages. Raises InvalidRequest, naming the place, for content that cannot go up."""
        messages = list(self._read(body["messages"]))
        system = self._system(body.get("system"))
        start = 0
        while start < len(messages) and messages[start].role == "system":
            system.extend(self._texts(messages[start]))
            start += 1
        out: list[JSON] = []
        if system:
            role = "developer" if self._profile.developer_role else "system"
            out.append({"role": role, "content": "\n\n".join(system)})
        for assistant, others in _groups(messages[start:]):
            calls = self._assistant(assistant, out) if assistant else []
            self._results(calls, others, out)
            self._others(calls, others, out)
        return out

    # -- system ----------------------------------------------------------------------------------------

    def _system(self, system: Any) -> list[str]:
        texts: list[str] = []
        for position, block in enumerate(blocks_of(system, "system")):
            text = block.get("text")
            if not isinstance(text, str):
                raise InvalidRequest(f"system[{position}].text: Input should be a string")
            if "cache_control" in block:
                self._changes.add("dropped", "cache_control", "the upstream caches prefixes by itself, or not at all")
            kept = without_billing_line(text) if self._profile.strip_billing_block else text
            if kept != text:
                self._changes.add("dropped", f"system[{position}]", "Claude Code's billing block empties prefix caches")
            if kept.strip():
                texts.append(kept)
        return texts

    def _texts(self, message: _Message) -> list[str]:
        texts = []
        for position, block in enumerate(message.blocks):
            for part in self._parts(message, position, block):
                if part["type"] != "text":
                    raise InvalidRequest(f"{message.path}[{position}]: a system message holds text only")
                texts.append(part["text"])
        return texts

    # -- reading ---------------------------------------------------------------------------------------

    def _read(self, messages: list[Any]) -> Iterator[_Message]:
        for position, message in enumerate(messages):
            path = f"messages[{position}]"
            if not isinstance(message, dict):
                raise InvalidRequest(f"{path}: Input should be an object")
            role = message.get("role")
            if role not in ("user", "assistant", "system"):
                self._changes.add("renamed", f"{path}.role", f"{role} is not known upstream; sent as user")
                role = "user"
            for name in message:
                if name not in ("role", "content"):
                    self._changes.add("dropped", f"messages[].{name}", "no such field on a chat message")
            yield _Message(role, blocks_of(message.get("content"), f"{path}.content"), f"{path}.content")

    def _parts(self, message: _Message, position: int, block: JSON) -> list[JSON]:
        if "cache_control" in block:
            self._changes.add("dropped", "cache_control", "the upstream caches prefixes by itself, or not at all")
        return self._reader.parts(block, f"{message.path}[{position}]")

    # -- turns -----------------------------------------------------------------------------------------

    def _assistant(self, messages: list[_Message], out: list[JSON]) -> Calls:
        """Writes one assistant turn. Returns its calls."""
        turn = AssistantTurn(self._profile, self._provider, self._model, self._changes)
        for message in messages:
            for position, block in enumerate(message.blocks):
                path = f"{message.path}[{position}]"
                if block["type"] == "tool_use":
                    name = self._offered.upstream_name(str(block.get("name")), self._profile.tool_name_max)
                    turn.tool_use(block, name, self._used_ids, path)
                elif block["type"] == "thinking":
                    turn.thinking(block, path)
                else:
                    for part in self._parts(message, position, block):
                        turn.text(part, path)
        wire = turn.to_wire()
        if wire is not None:
            out.append(wire)
        elif messages:
            self._changes.add("dropped", messages[0].path, "an assistant turn without text or tool calls")
        return turn.calls

    def _results(self, calls: Calls, others: list[_Message], out: list[JSON]) -> None:
        """One tool message for each call, in the order of the results; the missing ones last."""
        missing = list(calls)
        for message in others:
            for position, block in enumerate(message.blocks):
                call = next((call for call in missing if call[0] == _result_id(block)), None)
                if call is not None:
                    missing.remove(call)
                    content = self._result_text(block, f"{message.path}[{position}]")
                    out.append({"role": "tool", "tool_call_id": call[1], "content": content})
        for client_id, upstream_id in missing:
            self._changes.add("added", f"tool_use.{client_id}", "the call has no result; a stand-in says so")
            out.append({"role": "tool", "tool_call_id": upstream_id, "content": NO_RESULT})

    def _others(self, calls: Calls, others: list[_Message], out: list[JSON]) -> None:
        """Everything of user and system messages that is no tool message, in its order."""
        user = _UserText()
        answered = [client_id for client_id, _ in calls]
        for message in others:
            if message.role == "system":
                self._mid_system(message, user, out)
                continue
            for position, block in enumerate(message.blocks):
                path = f"{message.path}[{position}]"
                if block["type"] != "tool_result":
                    user.parts.extend(self._parts(message, position, block))
                elif _result_id(block) in answered:
                    answered.remove(_result_id(block))
                    user.parts.extend(part for part in self._result_parts(block, path) if part["type"] != "text")
                else:
                    self._changes.add("replaced", path, "a result without its call goes as text")
                    user.parts.extend(self._orphan(block, path))
        user.flush(out)

    def _mid_system(self, message: _Message, user: _UserText, out: list[JSON]) -> None:
        text = "\n\n".join(self._texts(message))
        if not text:
            return
        if self._profile.mid_system == "system":
            user.flush(out)
            out.append({"role": "developer" if self._profile.developer_role else "system", "content": text})
            return
        self._changes.add("moved", message.path, "a system message in the middle goes as a <system-reminder>")
        user.parts.append({"type": "text", "text": f"<system-reminder>\n{text}\n</system-reminder>"})

    # -- tool results ----------------------------------------------------------------------------------

    def _result_parts(self, block: JSON, path: str) -> list[JSON]:
        parts: list[JSON] = []
        for position, inner in enumerate(blocks_of(block.get("content"), f"{path}.content")):
            parts.extend(self._reader.parts(inner, f"{path}.content[{position}]"))
        return parts

    def _result_text(self, block: JSON, path: str) -> str:
        parts = self._result_parts(block, path)
        text = "\n\n".join(part["text"] for part in parts if part["type"] == "text")
        if any(part["type"] != "text" for part in parts):
            self._changes.add("moved", path, "images and documents of a tool result go in a user message after it")
            text = f"{text}\n\n{SEE_ATTACHMENT}" if text else SEE_ATTACHMENT
        if "cache_control" in block:
            self._changes.add("dropped", "cache_control", "the upstream caches prefixes by itself, or not at all")
        if block.get("is_error"):
            self._changes.add("replaced", f"{path}.is_error", "told in the text: a tool message has no such field")
            return f"Error: {text or NO_OUTPUT}"
        return text or NO_OUTPUT

    def _orphan(self, block: JSON, path: str) -> list[JSON]:
        parts = self._result_parts(block, path) or [{"type": "text", "text": NO_OUTPUT}]
        return [{"type": "text", "text": f"[Result of the tool call {block.get('tool_use_id')}]"}, *parts]


def _result_id(block: JSON) -> str:
    return str(block.get("tool_use_id")) if block["type"] == "tool_result" else ""


def _groups(messages: list[_Message]) -> Iterator[tuple[list[_Message], list[_Message]]]:
    """(neighbouring assistant messages, everything up to the next one)."""
    assistant: list[_Message] = []
    others: list[_Message] = []
    for message in messages:
        if message.role == "assistant":
            if others:
                yield assistant, others
                assistant, others = [], []
            assistant.append(message)
        else:
            others.append(message)
    yield assistant, others


