"""Streams as upstreams write them: one answer, in the dialect that its row of upstream_rules.yaml names.

Rules:
* Pure. The same answer gives the same bytes; ids are unique in a conversation (``turn``).
* What must come back in a later request is returned beside the bytes, as the upstream itself wrote it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

JSON = dict[str, Any]

USAGE = {"prompt_tokens": 50, "completion_tokens": 9, "total_tokens": 59}


@dataclass(frozen=True)
class Dialect:
    """How an upstream shows its reasoning and names its calls; ``answers`` in upstream_rules.yaml."""

    reasoning: str = "none"
    """Chat: a field of the delta, ``details``, ``cumulative_details``, ``tags``, ``parts`` or ``call_signature``;
    Responses: ``encrypted`` or ``text``; Ollama and Anthropic: ``thinking``."""
    ids: str = "call_{hash}"
    """The form of call ids; ``{name}``, ``{index}``, ``{hash}``, ``{nine}``."""
    signature: str = ""
    """Anthropic: the signature of thinking blocks; ``{hash}`` makes each its own."""


@dataclass(frozen=True)
class Written:
    """One answer."""

    body: bytes
    back: JSON = field(default_factory=dict)
    """What the next request must hold: ``place`` and ``value``; empty when there was no reasoning."""


def written(api: str, dialect: Dialect, answer: JSON, turn: int) -> Written:
    """The stream of ``answer`` (``think``, ``text``, ``calls``)."""
    ids = [call_id(dialect, call["name"], index, turn) for index, call in enumerate(answer.get("calls", ()))]
    return _WIRES[api](dialect, answer, ids, turn)


def call_id(dialect: Dialect, name: str, index: int, turn: int) -> str:
    digest = hashlib.sha256(f"{turn}.{index}".encode()).hexdigest()
    return dialect.ids.format(name=name, index=f"{turn}{index}", hash=digest[:24], nine=digest[:9])


def pieces(text: str) -> list[str]:
    """``text`` in three parts."""
    third = max(1, len(text) // 3)
    return [part for part in (text[:third], text[third : 2 * third], text[2 * third :]) if part]


def _data(events: Iterable[JSON]) -> bytes:
    return b"".join(b"data: " + json.dumps(event, ensure_ascii=False).encode() + b"\n\n" for event in events)


# -- chat completions ------------------------------------------------------------------------------------


def _chat(dialect: Dialect, answer: JSON, ids: list[str], turn: int) -> Written:
    think, text, calls = answer.get("think", ""), answer.get("text", ""), answer.get("calls", [])
    deltas: list[JSON] = [{"role": "assistant", "content": ""}]
    reasoned, back = _chat_reasoning(dialect.reasoning, think, turn) if think else ([], {})
    deltas += reasoned
    cumulative = dialect.reasoning == "cumulative_details"
    said = pieces(text)
    deltas += [{"content": "".join(said[: at + 1]) if cumulative else piece} for at, piece in enumerate(said)]
    for index, (call, identity) in enumerate(zip(calls, ids, strict=True)):
        arguments = json.dumps(call["input"], ensure_ascii=False)
        function = {"name": call["name"], "arguments": ""}
        first: JSON = {"index": index, "id": identity, "type": "function", "function": function}
        if dialect.reasoning == "call_signature" and index == 0:
            first["extra_content"] = {"google": {"thought_signature": f"CuMB{turn}=="}}
            back = {"place": "extra_content", "value": first["extra_content"]}
        deltas.append({"tool_calls": [first]})
        deltas += [{"tool_calls": [{"index": index, "function": {"arguments": part}}]} for part in pieces(arguments)]
    events: list[JSON] = []
    for delta in deltas:
        events.append({"id": "c", "choices": [{"index": 0, "delta": delta, "finish_reason": None}]})
    finish = "tool_calls" if calls else "stop"
    events.append({"id": "c", "choices": [{"index": 0, "delta": {}, "finish_reason": finish}], "usage": USAGE})
    return Written(_data(events) + b"data: [DONE]\n\n", back)


def _chat_reasoning(form: str, think: str, turn: int) -> tuple[list[JSON], JSON]:
    parts = pieces(think)
    if form in ("none", "call_signature"):
        return [], {}
    if form == "tags":
        tagged = f"<think>\n{think}\n</think>\n\n"
        return [{"content": part} for part in pieces(tagged)], {"place": "tags", "value": tagged}
    if form == "parts":
        thought = [{"type": "thinking", "thinking": [{"type": "text", "text": part}]} for part in parts]
        whole = {"type": "thinking", "thinking": [{"type": "text", "text": think}]}
        return [{"content": [part]} for part in thought], {"place": "parts", "value": whole}
    if form == "details":
        detail: JSON = {"type": "reasoning.text", "format": "unknown", "index": 0}
        deltas: list[JSON] = [{"reasoning": part, "reasoning_details": [{**detail, "text": part}]} for part in parts]
        end = {**detail, "signature": f"Sig{turn}=="}
        deltas.append({"reasoning": None, "reasoning_details": [end]})
        return deltas, {"place": "reasoning_details", "value": [{**end, "text": think}]}
    if form == "cumulative_details":
        detail = {"type": "reasoning.text", "id": f"reasoning-text-{turn}", "format": "MiniMax-response-v1", "index": 0}
        grown = ["".join(parts[: at + 1]) for at in range(len(parts))]
        deltas = [{"reasoning_content": text, "reasoning_details": [{**detail, "text": text}]} for text in grown]
        return deltas, {"place": "reasoning_details", "value": [{**detail, "text": think}]}
    return [{form: part} for part in parts], {"place": form, "value": think}


# -- responses -------------------------------------------------------------------------------------------


def _responses(dialect: Dialect, answer: JSON, ids: list[str], turn: int) -> Written:
    items: list[JSON] = []
    back: JSON = {}
    if answer.get("think") and dialect.reasoning in ("encrypted", "text"):
        item: JSON = {"id": f"rs_{turn}", "type": "reasoning"}
        if dialect.reasoning == "encrypted":
            item.update(summary=[{"type": "summary_text", "text": answer["think"]}], encrypted_content=f"gAAAA{turn}==")
        else:
            item.update(summary=[], content=[{"type": "reasoning_text", "text": answer["think"]}])
        items.append(item)
        back = {"place": "item", "value": item}
    if answer.get("text"):
        said = [{"type": "output_text", "text": answer["text"], "annotations": []}]
        items.append({"id": f"msg_{turn}", "type": "message", "role": "assistant", "content": said})
    for call, identity in zip(answer.get("calls", ()), ids, strict=True):
        arguments = json.dumps(call["input"], ensure_ascii=False)
        named = {"id": f"fc_{identity}", "type": "function_call", "name": call["name"]}
        items.append({**named, "call_id": identity, "arguments": arguments})
    events: list[JSON] = [{"type": "response.created", "response": {"id": f"resp_{turn}", "status": "in_progress"}}]
    for index, item in enumerate(items):
        events += _item_events(index, item)
    usage = {"input_tokens": 50, "output_tokens": 9, "total_tokens": 59}
    done = {"id": f"resp_{turn}", "object": "response", "status": "completed", "output": items, "usage": usage}
    events.append({"type": "response.completed", "response": done})
    return Written(_data(events), back)


def _item_events(index: int, item: JSON) -> list[JSON]:
    at = {"output_index": index, "item_id": item["id"]}
    events: list[JSON] = []
    empty: JSON = {"content": []}
    if item["type"] == "message":
        said = item["content"][0]["text"]
        where = {**at, "content_index": 0}
        events = [{"type": "response.output_text.delta", **where, "delta": part} for part in pieces(said)]
    elif item["type"] == "function_call":
        empty = {"arguments": ""}
        parts = pieces(item["arguments"])
        events = [{"type": "response.function_call_arguments.delta", **at, "delta": part} for part in parts]
    elif item["summary"]:
        empty = {"summary": [], "encrypted_content": "provisional"}
        where = {**at, "summary_index": 0}
        parts = pieces(item["summary"][0]["text"])
        events = [{"type": "response.reasoning_summary_text.delta", **where, "delta": part} for part in parts]
    else:
        empty = {"summary": [], "content": []}
        where = {**at, "content_index": 0}
        parts = pieces(item["content"][0]["text"])
        events = [{"type": "response.reasoning_text.delta", **where, "delta": part} for part in parts]
    added = {"type": "response.output_item.added", "output_index": index, "item": {**item, **empty}}
    return [added, *events, {"type": "response.output_item.done", "output_index": index, "item": item}]


# -- Ollama ----------------------------------------------------------------------------------------------


def _ollama(dialect: Dialect, answer: JSON, ids: list[str], turn: int) -> Written:
    messages: list[JSON] = []
    back: JSON = {}
    if answer.get("think") and dialect.reasoning == "thinking":
        messages += [{"content": "", "thinking": part} for part in pieces(answer["think"])]
        back = {"place": "thinking", "value": answer["think"]}
    messages += [{"content": part} for part in pieces(answer.get("text", ""))]
    for index, (call, identity) in enumerate(zip(answer.get("calls", ()), ids, strict=True)):
        function = {"index": index, "name": call["name"], "arguments": call["input"]}
        messages.append({"content": "", "tool_calls": [{"id": identity, "function": function}]})
    lines: list[JSON] = [{"model": "m", "message": {"role": "assistant", **part}, "done": False} for part in messages]
    end = {"done": True, "done_reason": "stop", "prompt_eval_count": 50, "eval_count": 9}
    lines.append({"model": "m", "message": {"role": "assistant", "content": ""}, **end})
    return Written(b"".join(json.dumps(line, ensure_ascii=False).encode() + b"\n" for line in lines), back)


# -- Anthropic Messages ----------------------------------------------------------------------------------


def _anthropic(dialect: Dialect, answer: JSON, ids: list[str], turn: int) -> Written:
    digest = hashlib.sha256(str(turn).encode()).hexdigest()
    blocks: list[tuple[JSON, list[JSON]]] = []
    back: JSON = {}
    if answer.get("think") and dialect.reasoning == "thinking":
        signature = dialect.signature.format(hash=digest)
        deltas: list[JSON] = [{"type": "thinking_delta", "thinking": part} for part in pieces(answer["think"])]
        deltas.append({"type": "signature_delta", "signature": signature})
        blocks.append(({"type": "thinking", "thinking": "", "signature": ""}, deltas))
        whole = {"type": "thinking", "thinking": answer["think"], "signature": signature}
        back = {"place": "block", "value": whole}
    if answer.get("text"):
        said: list[JSON] = [{"type": "text_delta", "text": part} for part in pieces(answer["text"])]
        blocks.append(({"type": "text", "text": ""}, said))
    for call, identity in zip(answer.get("calls", ()), ids, strict=True):
        parts = pieces(json.dumps(call["input"], ensure_ascii=False))
        start = {"type": "tool_use", "id": identity, "name": call["name"], "input": {}}
        blocks.append((start, [{"type": "input_json_delta", "partial_json": part} for part in parts]))
    reason = "tool_use" if ids else "end_turn"
    message = {"id": f"msg_{turn}", "type": "message", "role": "assistant", "model": "m", "content": []}
    usage = {"input_tokens": 50, "output_tokens": 1}
    events: list[JSON] = [{"type": "message_start", "message": {**message, "stop_reason": None, "usage": usage}}]
    for index, (start, deltas) in enumerate(blocks):
        events.append({"type": "content_block_start", "index": index, "content_block": start})
        events += [{"type": "content_block_delta", "index": index, "delta": delta} for delta in deltas]
        events.append({"type": "content_block_stop", "index": index})
    ending = {"stop_reason": reason, "stop_sequence": None}
    events.append({"type": "message_delta", "delta": ending, "usage": {"output_tokens": 9}})
    events.append({"type": "message_stop"})
    body = b"".join(f"event: {event['type']}\n".encode() + _data([event]) for event in events)
    return Written(body, back)


_WIRES: dict[str, Callable[[Dialect, JSON, list[str], int], Written]] = {
    "openai-chat": _chat,
    "openai-responses": _responses,
    "ollama": _ollama,
    "anthropic": _anthropic,
}
