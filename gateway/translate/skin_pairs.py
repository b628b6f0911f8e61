"""Tool calls and their results, paired (R7): servers that merely speak the Messages API refuse what is not.

Rule: a conversation in which every call has its result in the next user message stays the same object.
"""

from __future__ import annotations

from typing import Any

from gateway.translate.changes import Changes
from gateway.translate.chat_messages import NO_RESULT

JSON = dict[str, Any]


def paired(messages: list[Any], changes: Changes) -> list[Any]:
    """Missing results made up as such, results without a call as text."""
    out: list[Any] = []
    open_calls: list[str] = []
    for position, message in enumerate(messages):
        role = message.get("role") if isinstance(message, dict) else None
        if role == "assistant":
            if open_calls:
                out.append({"role": "user", "content": _stand_ins(open_calls, changes)})
            open_calls = _ids(message, "tool_use", "id")
        elif role == "user":
            message = _answered(message, open_calls, f"messages[{position}]", changes)
            open_calls = []
        out.append(message)
    if open_calls:
        out.append({"role": "user", "content": _stand_ins(open_calls, changes)})
    same = len(out) == len(messages) and all(new is old for new, old in zip(out, messages, strict=True))
    return messages if same else out


def _answered(message: JSON, calls: list[str], path: str, changes: Changes) -> JSON:
    """``message`` with one result for each of ``calls``, and no other."""
    given = _ids(message, "tool_result", "tool_use_id")
    if given == calls or (len(given) == len(calls) and sorted(given) == sorted(calls)):
        return message
    content = message.get("content")
    blocks = content if isinstance(content, list) else [{"type": "text", "text": str(content or "")}]
    waiting = list(calls)
    results: list[Any] = []
    others: list[Any] = []
    for block in blocks:
        if not isinstance(block, dict) or block.get("type") != "tool_result":
            others.append(block)
        elif str(block.get("tool_use_id")) in waiting:
            waiting.remove(str(block.get("tool_use_id")))
            results.append(block)
        else:
            changes.add("replaced", path, "a result without its call goes as text")
            others.extend(_as_text(block))
    return {**message, "content": [*results, *_stand_ins(waiting, changes), *others]}


def _stand_ins(calls: list[str], changes: Changes) -> list[JSON]:
    for call in calls:
        changes.add("added", f"tool_use.{call}", "the call has no result; a stand-in says so")
    return [{"type": "tool_result", "tool_use_id": call, "content": NO_RESULT} for call in calls]


def _as_text(block: JSON) -> list[Any]:
    heading = {"type": "text", "text": f"[Result of the tool call {block.get('tool_use_id')}]"}
    content = block.get("content")
    if isinstance(content, list):
        return [heading, *content]
    return [heading, *([{"type": "text", "text": content}] if isinstance(content, str) and content else [])]


def _ids(message: JSON, kind: str, name: str) -> list[str]:
    content = message.get("content")
    blocks = content if isinstance(content, list) else ()
    return [str(block.get(name)) for block in blocks if isinstance(block, dict) and block.get("type") == kind]
