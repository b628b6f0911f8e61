"""Tool calls and their results, paired (R7): servers that merely speak the Messages API refuse what is not.

Rule: a conversation in which every call has its result before the next answer stays the same object.
"""

from __future__ import annotations

from typing import Any

from gateway.translate.changes import Changes
from gateway.translate.chat_messages import NO_RESULT

JSON = dict[str, Any]


def paired(messages: list[Any], changes: Changes) -> list[Any]:
    """Missing results made up as such, results without a call as text."""
    out: list[Any] = []
    start = 0
    for end in [*(place for place, message in enumerate(messages) if _role(message) == "assistant"), len(messages)]:
        out += _answered(out, messages, start, end, changes)
        out += messages[end : end + 1]
        start = end + 1
    same = len(out) == len(messages) and all(new is old for new, old in zip(out, messages, strict=True))
    return messages if same else out


def _answered(before: list[Any], messages: list[Any], start: int, end: int, changes: Changes) -> list[Any]:
    """What stands between two answers, with one result for each call of the first, and no other."""
    waiting = _ids(before[-1], "tool_use", "id") if before and _role(before[-1]) == "assistant" else []
    fitted: list[Any] = []
    first: int | None = None
    for position in range(start, end):
        message = messages[position]
        if _role(message) == "user":
            first = len(fitted) if first is None else first
            message = _without_orphans(message, waiting, f"messages[{position}]", changes)
        fitted.append(message)
    if waiting and first is None:
        return [{"role": "user", "content": _stand_ins(waiting, changes)}, *fitted]
    if waiting and first is not None:
        blocks = _blocks(fitted[first])
        results = [block for block in blocks if _is_result(block)]
        others = [block for block in blocks if not _is_result(block)]
        content = [*results, *_stand_ins(waiting, changes), *others]
        fitted[first] = {**fitted[first], "content": content}
    return fitted


def _without_orphans(message: JSON, waiting: list[str], path: str, changes: Changes) -> JSON:
    """``message`` with its results in front; takes their calls out of ``waiting``."""
    results: list[Any] = []
    others: list[Any] = []
    orphans = False
    for block in _blocks(message):
        if not _is_result(block):
            others.append(block)
        elif str(block.get("tool_use_id")) in waiting:
            waiting.remove(str(block.get("tool_use_id")))
            results.append(block)
        else:
            orphans = True
            changes.add("replaced", path, "a result without its call goes as text")
            others.extend(_as_text(block))
    return {**message, "content": [*results, *others]} if orphans else message


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
    return [str(block.get(name)) for block in _blocks(message) if isinstance(block, dict) and block.get("type") == kind]


def _blocks(message: JSON) -> list[Any]:
    content = message.get("content")
    return content if isinstance(content, list) else [{"type": "text", "text": str(content or "")}]


def _is_result(block: Any) -> bool:
    return isinstance(block, dict) and block.get("type") == "tool_result"


def _role(message: Any) -> Any:
    return message.get("role") if isinstance(message, dict) else None
