"""Tool calls and their results, paired (R7): servers that merely speak the Messages API refuse what is not.

Rule: a conversation in which every call has its result before the next answer stays the same object, and is
looked at only once.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

from gateway.translate.changes import Changes
from gateway.translate.chat_messages import NO_RESULT

JSON = dict[str, Any]
Counts = dict[str, int]
"""How many results each call still waits for; never zero."""


def paired(messages: list[Any], changes: Changes) -> list[Any]:
    """Missing results made up as such, results without a call as text."""
    if _are_paired(messages):
        return messages
    out: list[Any] = []
    start = 0
    for end in [*(place for place, message in enumerate(messages) if _role(message) == "assistant"), len(messages)]:
        out += _answered(out, messages, start, end, changes)
        out += messages[end : end + 1]
        start = end + 1
    return out


def _are_paired(messages: list[Any]) -> bool:
    """Whether between one answer and the next there is a result for each call of the first, and no other."""
    waiting: Counts = {}
    for message in messages:
        role = message.get("role") if isinstance(message, dict) else None
        if role not in ("assistant", "user"):
            continue
        if role == "assistant" and waiting:
            return False
        content = message.get("content")
        for block in content if isinstance(content, list) else ():
            kind = block.get("type") if isinstance(block, dict) else None
            if kind == "tool_use" and role == "assistant":
                call = str(block.get("id"))
                waiting[call] = waiting.get(call, 0) + 1
            elif kind == "tool_result" and role == "user" and not _took(waiting, block):
                return False
    return not waiting


def _took(waiting: Counts, result: JSON) -> bool:
    """Takes the call of ``result`` out of ``waiting``, if it is there."""
    call = str(result.get("tool_use_id"))
    left = waiting.pop(call, 0)
    if left > 1:
        waiting[call] = left - 1
    return left > 0


def _answered(before: list[Any], messages: list[Any], start: int, end: int, changes: Changes) -> list[Any]:
    """What stands between two answers, with one result for each call of the first, and no other."""
    calls = _calls(before[-1]) if before and _role(before[-1]) == "assistant" else []
    waiting: Counts = Counter(calls)
    fitted: list[Any] = []
    first: int | None = None
    for position in range(start, end):
        message = messages[position]
        if _role(message) == "user":
            first = len(fitted) if first is None else first
            message = _without_orphans(message, waiting, f"messages[{position}]", changes)
        fitted.append(message)
    if waiting and first is None:
        return [{"role": "user", "content": _stand_ins(calls, waiting, changes)}, *fitted]
    if waiting and first is not None:
        blocks = _blocks(fitted[first])
        results = [block for block in blocks if _is_result(block)]
        others = [block for block in blocks if not _is_result(block)]
        content = [*results, *_stand_ins(calls, waiting, changes), *others]
        fitted[first] = {**fitted[first], "content": content}
    return fitted


def _without_orphans(message: JSON, waiting: Counts, path: str, changes: Changes) -> JSON:
    """``message`` with its results in front; takes their calls out of ``waiting``."""
    results: list[Any] = []
    others: list[Any] = []
    orphans = False
    for block in _blocks(message):
        if not _is_result(block):
            others.append(block)
        elif _took(waiting, block):
            results.append(block)
        else:
            orphans = True
            changes.add("replaced", path, "a result without its call goes as text")
            others.extend(_as_text(block))
    return {**message, "content": [*results, *others]} if orphans else message


def _stand_ins(calls: list[str], waiting: Counts, changes: Changes) -> list[JSON]:
    """A result for each of ``calls`` that still waits; of several with one id the last ones do."""
    left = dict(waiting)
    missing = [call for call in reversed(calls) if _took(left, {"tool_use_id": call})][::-1]
    for call in missing:
        changes.add("added", f"tool_use.{call}", "the call has no result; a stand-in says so")
    return [{"type": "tool_result", "tool_use_id": call, "content": NO_RESULT} for call in missing]


def _as_text(block: JSON) -> list[Any]:
    heading = {"type": "text", "text": f"[Result of the tool call {block.get('tool_use_id')}]"}
    content = block.get("content")
    if isinstance(content, list):
        return [heading, *content]
    return [heading, *([{"type": "text", "text": content}] if isinstance(content, str) and content else [])]


def _calls(message: JSON) -> list[str]:
    """The ids of its calls."""
    blocks = [block for block in _blocks(message) if isinstance(block, dict)]
    return [str(block.get("id")) for block in blocks if block.get("type") == "tool_use"]


def _blocks(message: JSON) -> list[Any]:
    content = message.get("content")
    return content if isinstance(content, list) else [{"type": "text", "text": str(content or "")}]


def _is_result(block: Any) -> bool:
    return isinstance(block, dict) and block.get("type") == "tool_result"


def _role(message: Any) -> Any:
    return message.get("role") if isinstance(message, dict) else None
