"""The conversation of a request as Chat Completions messages.

Rules (R1-R18, R27, R51, R59-R61):
* One system message in front. Claude Code's billing block is left out: it differs between conversations
  and would empty every prefix cache.
* ``role: system`` later on stays in place, or becomes a <system-reminder> in user text, by profile.
* Every tool call is followed directly by its results, whatever stood between; a missing result is made
  up as such, an orphan becomes user text. Images and documents of results follow in a user message.
* Neighbouring user messages become one, neighbouring assistant messages too.
* Cache marks stay on the parts that end a cached prefix, the last few of them; the form of a message does
  not depend on whether it holds one, so that the prefix stays the same when the mark moves on.
* Past reasoning of this provider goes back where it came from; a foreign one never does.
* The same conversation gives the same bytes, also when it has grown.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from gateway.errors import InvalidRequest
from gateway.profile import Profile
from gateway.translate.assistant_turn import AssistantTurn, PastCall
from gateway.translate.billing_block import without_billing_line
from gateway.translate.changes import Changes
from gateway.translate.chat_parts import CACHE_MARKS, PartReader, blocks_of, content_of, parts_of
from gateway.translate.chat_tools import OfferedTools

JSON = dict[str, Any]
NO_RESULT = "[no result]"
NO_OUTPUT = "(no tool output)"
SEE_ATTACHMENT = "(see the attached content below)"

_ROLES = ("user", "assistant", "system")
_FIELDS = frozenset(("role", "content"))


class _Message(NamedTuple):
    role: str
    blocks: list[JSON]
    path: str


class ChatMessages:
    """Translates the messages of one request."""

    def __init__(
        self,
        profile: Profile,
        provider: str,
        model: str,
        offered: OfferedTools,
        changes: Changes,
        turn: Callable[[Profile, str, str, Changes], AssistantTurn] = AssistantTurn,
    ) -> None:
        """``turn`` writes the model's past answers."""
        self._profile = profile
        self._turn = turn
        self._listed = profile.cache != "none"
        self._provider = provider
        self._model = model
        self._offered = offered
        self._changes = changes
        self._reader = PartReader(profile, f"{provider}/{model}", changes)
        self._used_ids: dict[str, int] = {}

    def translate(self, body: JSON) -> list[JSON]:
        """The messages. Raises InvalidRequest, naming the place, for content that cannot go up."""
        messages = self._read(body["messages"])
        system = self._system(body["system"]) if "system" in body else []
        start = 0
        while start < len(messages) and messages[start].role == "system":
            system.extend(self._texts(messages[start]))
            start += 1
        out: list[JSON] = []
        if system:
            role = "developer" if self._profile.developer_role else "system"
            out.append({"role": role, "content": content_of(system, listed=self._listed)})
        for assistant, others in _groups(messages[start:]):
            calls = self._assistant(assistant, out) if assistant else []
            answered = self._results(calls, others, out) if calls else {}
            if others:
                self._others(answered, others, out)
        if messages and messages[-1].role == "assistant":
            self._prefill(out)
        if self._profile.cache != "none":
            self._limit_marks(out)
        return out

    def _prefill(self, out: list[JSON]) -> None:
        """The answer's beginning, which the client wrote (R18)."""
        if self._profile.prefill == "kept" or not out or out[-1]["role"] != "assistant":
            return
        if self._profile.prefill == "prefix":
            out[-1] = {**out[-1], "prefix": True}
            return
        out.pop()
        self._changes.add("dropped", "messages[-1]", "the upstream takes no beginning of its answer")

    def _limit_marks(self, out: list[JSON]) -> None:
        """Only the last marks stay where there are too many."""
        (mark,) = CACHE_MARKS[self._profile.cache]
        lists = [message["content"] for message in out if isinstance(message.get("content"), list)]
        marked = [(parts, place) for parts in lists for place, part in enumerate(parts) if mark in part]
        for parts, place in marked[: max(0, len(marked) - self._profile.cache_limit)]:
            parts[place] = {key: value for key, value in parts[place].items() if key != mark}
            self._changes.add("dropped", "cache_control", f"the upstream takes {self._profile.cache_limit} marks")

    # -- system ----------------------------------------------------------------------------------------

    def _system(self, system: Any) -> list[JSON]:
        parts: list[JSON] = []
        for position, block in enumerate(blocks_of(system, "system")):
            text = block.get("text")
            if not isinstance(text, str):
                raise InvalidRequest(f"system[{position}].text: Input should be a string")
            kept = without_billing_line(text) if self._profile.strip_billing_block else text
            if kept is not text:
                self._changes.add("dropped", f"system[{position}]", "Claude Code's billing block empties prefix caches")
                block = {**block, "text": kept}
            parts += self._reader.parts({**block, "type": "text"}, f"system[{position}]")
        return parts

    def _texts(self, message: _Message) -> list[JSON]:
        found = []
        _, blocks, path = message
        for position, block in enumerate(blocks):
            for part in self._reader.parts(block, f"{path}[{position}]"):
                if part["type"] != "text":
                    raise InvalidRequest(f"{path}[{position}]: a system message holds text only")
                found.append(part)
        return found

    # -- reading ---------------------------------------------------------------------------------------

    def _read(self, messages: list[Any]) -> list[_Message]:
        read: list[_Message] = []
        for position, message in enumerate(messages):
            if not isinstance(message, dict):
                raise InvalidRequest(f"messages[{position}]: Input should be an object")
            role = message.get("role")
            if role not in _ROLES:
                reason = f"{role} is not known upstream; sent as user"
                self._changes.add("renamed", f"messages[{position}].role", reason)
                role = "user"
            if not _FIELDS.issuperset(message):
                for name in message:
                    if name not in _FIELDS:
                        self._changes.add("dropped", f"messages[].{name}", "no such field on a chat message")
            path = f"messages[{position}].content"
            read.append(_Message(role, blocks_of(message.get("content"), path), path))
        return read

    # -- turns -----------------------------------------------------------------------------------------

    def _assistant(self, messages: list[_Message], out: list[JSON]) -> list[PastCall]:
        """Writes one assistant turn. Returns its calls."""
        turn = self._turn(self._profile, self._provider, self._model, self._changes)
        for _, blocks, holder in messages:
            for position, block in enumerate(blocks):
                path = f"{holder}[{position}]"
                if block["type"] == "tool_use":
                    name = self._offered.upstream_name(str(block.get("name")), self._profile.tool_name_max)
                    turn.tool_use(block, name, self._used_ids, path)
                elif block["type"] == "thinking":
                    turn.thinking(block, path)
                else:
                    for part in self._reader.parts(block, path):
                        turn.text(part, path)
        wire = turn.to_wire()
        if wire is not None:
            out.append(wire)
        elif messages:
            self._changes.add("dropped", messages[0].path, "an assistant turn without text or tool calls")
        return turn.calls

    def _results(self, calls: list[PastCall], others: list[_Message], out: list[JSON]) -> dict[str, list[JSON]]:
        """One tool message for each call, in the order of the results; the missing ones last.

        Returns the path of each result -> what of it goes in a user message.
        """
        waiting: dict[str, list[PastCall]] = {}
        for call in reversed(calls):
            waiting.setdefault(call.client_id, []).append(call)
        answered: dict[str, list[JSON]] = {}
        for _, blocks, holder in others:
            for position, block in enumerate(blocks):
                if block["type"] == "tool_result" and (found := waiting.get(str(block.get("tool_use_id")))):
                    path = f"{holder}[{position}]"
                    content, answered[path] = self._result_content(block, path)
                    out.append(self._result(found.pop(), content))
        if len(answered) < len(calls):
            missing = {id(call) for queue in waiting.values() for call in queue}
            for call in calls:
                if id(call) in missing:
                    reason = "the call has no result; a stand-in says so"
                    self._changes.add("added", f"tool_use.{call.client_id}", reason)
                    out.append(self._result(call, content_of([_text_part(NO_RESULT)], listed=self._listed)))
        return answered

    def _result(self, call: PastCall, content: str | list[JSON]) -> JSON:
        message: JSON = {"role": "tool", "tool_call_id": call.upstream_id}
        if self._profile.tool_result_name:
            message["name"] = call.name
        message["content"] = content
        return message

    def _others(self, answered: dict[str, list[JSON]], others: list[_Message], out: list[JSON]) -> None:
        """Everything of user and system messages that is no tool message, in its order."""
        parts: list[JSON] = []
        for message in others:
            role, blocks, holder = message
            if role == "system":
                parts = self._mid_system(message, parts, out)
                continue
            for position, block in enumerate(blocks):
                path = f"{holder}[{position}]"
                if block["type"] != "tool_result":
                    parts += self._reader.parts(block, path)
                elif path in answered:
                    parts += answered[path]
                else:
                    self._changes.add("replaced", path, "a result without its call goes as text")
                    parts += self._orphan(block, path)
        if parts:
            self._user(parts, out)

    def _user(self, parts: list[JSON], out: list[JSON]) -> None:
        """Writes one user message."""
        last = out[-1]["role"] if out else None
        if last == "user":
            parts = [*parts_of(out.pop()["content"]), *parts]
        elif last == "tool" and self._profile.bridge_after_tool is not None:
            out.append({"role": "assistant", "content": self._profile.bridge_after_tool})
        out.append({"role": "user", "content": content_of(parts, listed=self._listed)})

    def _mid_system(self, message: _Message, user: list[JSON], out: list[JSON]) -> list[JSON]:
        """``user``: the parts of the user that wait. Returns those that still do."""
        parts = self._texts(message)
        if not parts:
            return user
        if self._profile.mid_system == "system":
            if user:
                self._user(user, out)
            role = "developer" if self._profile.developer_role else "system"
            out.append({"role": role, "content": content_of(parts, listed=self._listed)})
            return []
        text = "\n\n".join(part["text"] for part in parts)
        self._changes.add("moved", message.path, "a system message in the middle goes as a <system-reminder>")
        user.append(_text_part(f"<system-reminder>\n{text}\n</system-reminder>"))
        return user

    # -- tool results ----------------------------------------------------------------------------------

    def _result_parts(self, block: JSON, path: str) -> list[JSON]:
        content = block.get("content")
        if isinstance(content, str):
            return [_text_part(content)] if content and not content.isspace() else []
        parts: list[JSON] = []
        for position, inner in enumerate(blocks_of(content, f"{path}.content")):
            parts += self._reader.parts(inner, f"{path}.content[{position}]")
        return parts

    def _result_content(self, block: JSON, path: str) -> tuple[str | list[JSON], list[JSON]]:
        """(what the tool said: text, and what else the message may hold; what a user message holds) (R9, R15, R16)."""
        content = block.get("content")
        moved: list[JSON] = []
        others: list[JSON] = []
        if isinstance(content, str):
            text = "" if content.isspace() else content
        else:
            parts = self._result_parts(block, path)
            text = "\n\n".join(part["text"] for part in parts if part["type"] == "text")
            others = [part for part in parts if part["type"] != "text"]
        if others and self._profile.tool_result_images == "user_message":
            self._changes.add("moved", path, "images and documents of a tool result go in a user message after it")
            text = f"{text}\n\n{SEE_ATTACHMENT}" if text else SEE_ATTACHMENT
            others, moved = [], others
        if block.get("is_error"):
            self._changes.add("replaced", f"{path}.is_error", "told in the text: a tool message has no such field")
            text = f"Error: {text or NO_OUTPUT}"
        if text or not others:
            others.insert(0, _text_part(text or NO_OUTPUT))
        if "cache_control" in block:
            self._reader.mark(others)
        return content_of(others, listed=self._listed), moved

    def _orphan(self, block: JSON, path: str) -> list[JSON]:
        parts = self._result_parts(block, path) or [_text_part(NO_OUTPUT)]
        return [_text_part(f"[Result of the tool call {block.get('tool_use_id')}]"), *parts]


def _text_part(text: str) -> JSON:
    return {"type": "text", "text": text}


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


