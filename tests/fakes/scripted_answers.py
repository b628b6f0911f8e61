"""Scripted replies as each upstream streams them: whole event sequences, in the upstream's own words.

Rules:
* Pure. The same reply, ids and usage give the same frames; a frame is what the upstream writes at once.
* ``back`` is the reasoning as the next request has to hold it; None where there was none.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any

from tests.fakes.script import Call, Reply, Text, Think, deltas, pieces

JSON = dict[str, Any]
CREATED = 1795200000


@dataclass(frozen=True, slots=True)
class Answer:
    """What is to be said, and by whom."""

    reply: Reply
    ids: Sequence[str]
    """Of the calls."""
    model: str
    serial: str
    """Letters and digits that no other answer has."""
    prompt: int
    cached: int
    completion: int
    reasoning: int
    """Token counts; ``cached`` and ``reasoning`` are parts of ``prompt`` and ``completion``."""

    def calls(self) -> list[tuple[str, Call]]:
        return list(zip(self.ids, self.reply.calls(), strict=True))

    @property
    def secret(self) -> str:
        """State that only the upstream understands."""
        return hashlib.sha256(self.serial.encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class Streamed:
    """One answer as it is sent."""

    frames: list[bytes]
    back: Any = None


def streamed(dialect: str, answer: Answer) -> Streamed:
    """``dialect``: a name of DIALECTS."""
    return DIALECTS[dialect](answer)


def dump(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def _sse(events: Sequence[JSON], *, named: bool = False) -> list[bytes]:
    heads = (f"event: {event['type']}\n" if named else "" for event in events)
    return [f"{head}data: {dump(event)}\n\n".encode() for head, event in zip(heads, events, strict=True)]


# -- chat completions ----------------------------------------------------------------------------------------


def _chunk(answer: Answer, delta: JSON, finish: str | None = None, **rest: Any) -> JSON:
    choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
    head = {"id": f"c{answer.serial}", "object": "chat.completion.chunk", "created": CREATED, "model": answer.model}
    return {**head, "choices": [choice], **rest}


def _deepseek_chat(answer: Answer) -> Streamed:
    """Reasoning in ``reasoning_content``; usage in the last chunk that has a choice, with hits and misses."""
    said = deltas(answer.reply, answer.ids, "reasoning_content")
    usage = {
        "prompt_tokens": answer.prompt,
        "completion_tokens": answer.completion,
        "total_tokens": answer.prompt + answer.completion,
        "prompt_tokens_details": {"cached_tokens": answer.cached},
        "completion_tokens_details": {"reasoning_tokens": answer.reasoning},
        "prompt_cache_hit_tokens": answer.cached,
        "prompt_cache_miss_tokens": answer.prompt - answer.cached,
    }
    chunks = [_chunk(answer, {"role": "assistant", "content": None, "reasoning_content": ""})]
    chunks += [_chunk(answer, delta) for delta in said]
    frames = [b": keep-alive\n\n", *_sse(chunks)]
    last = _chunk(answer, {"content": ""}, answer.reply.finish_reason, usage=usage)
    return Streamed([*frames, *_sse([last]), b"data: [DONE]\n\n"], answer.reply.reasoning() or None)


def _mistral(answer: Answer) -> Streamed:
    """Reasoning as parts of the content; each call whole, without a type; usage unasked."""
    chunks = [_chunk(answer, {"role": "assistant", "content": ""})]
    for part in answer.reply.parts:
        for piece in pieces(part.text, answer.reply.fragment) if isinstance(part, Text | Think) else ():
            thought = [{"type": "thinking", "thinking": [{"type": "text", "text": piece}]}]
            chunks.append(_chunk(answer, {"content": thought if isinstance(part, Think) else piece}))
    functions = [
        {"id": identity, "function": {"name": made.name, "arguments": dump(made.arguments)}, "index": index}
        for index, (identity, made) in enumerate(answer.calls())
    ]
    usage = {
        "prompt_tokens": answer.prompt,
        "completion_tokens": answer.completion,
        "total_tokens": answer.prompt + answer.completion,
        "prompt_tokens_details": {"cached_tokens": answer.cached},
    }
    delta: JSON = {"content": "", "tool_calls": functions} if functions else {"content": ""}
    chunks.append(_chunk(answer, delta, answer.reply.finish_reason, usage=usage))
    whole = {"type": "thinking", "thinking": [{"type": "text", "text": answer.reply.reasoning()}]}
    return Streamed([*_sse(chunks), b"data: [DONE]\n\n"], whole if answer.reply.reasoning() else None)


# -- responses -----------------------------------------------------------------------------------------------


def _responses(answer: Answer) -> Streamed:
    """Every event of the API, numbered; items keyed by output_index, calls interleaved where the reply is."""
    items = _items(answer)
    streams = [list(_item_events(index, item, answer.reply.fragment)) for index, item in enumerate(items)]
    if answer.reply.interleaved:
        first_call = next((at for at, item in enumerate(items) if item["type"] == "function_call"), len(items))
        rows = zip_longest(*streams[first_call:])
        streams = [*streams[:first_call], [event for row in rows for event in row if event is not None]]
    usage = {
        "input_tokens": answer.prompt,
        "input_tokens_details": {"cached_tokens": answer.cached},
        "output_tokens": answer.completion,
        "output_tokens_details": {"reasoning_tokens": answer.reasoning},
        "total_tokens": answer.prompt + answer.completion,
    }
    head = {"id": f"resp_{answer.serial}", "object": "response", "created_at": CREATED, "model": answer.model}
    begun = {**head, "status": "in_progress", "output": [], "usage": None, "store": False}
    ended = {**head, "status": "completed", "output": items, "usage": usage, "store": False}
    events: list[JSON] = [
        {"type": "response.created", "response": begun},
        {"type": "response.in_progress", "response": begun},
        *(event for stream in streams for event in stream),
        {"type": "response.completed", "response": ended},
    ]
    numbered = [{"type": event["type"], "sequence_number": at, **event} for at, event in enumerate(events)]
    back = [item for item in items if item["type"] == "reasoning"]
    return Streamed(_sse(numbered, named=True), back or None)


def _items(answer: Answer) -> list[JSON]:
    items: list[JSON] = []
    for part in answer.reply.parts:
        number = f"{answer.serial}{len(items)}"
        if isinstance(part, Think):
            summary = [{"type": "summary_text", "text": part.text}]
            item = {"id": f"rs_{number}", "type": "reasoning", "summary": summary}
            items.append({**item, "encrypted_content": f"gAAAAAB{answer.secret}{len(items)}=="})
        elif isinstance(part, Text):
            content = [{"type": "output_text", "text": part.text, "annotations": [], "logprobs": []}]
            phase = "commentary" if answer.ids else "final_answer"
            said = {"role": "assistant", "phase": phase, "status": "completed", "content": content}
            items.append({"id": f"msg_{number}", "type": "message", **said})
    for identity, made in answer.calls():
        called = {"call_id": identity, "name": made.name, "arguments": dump(made.arguments), "status": "completed"}
        items.append({"id": f"fc_{answer.serial}{len(items)}", "type": "function_call", **called})
    return items


def _item_events(index: int, item: JSON, size: int) -> Iterator[JSON]:
    at = {"item_id": item["id"], "output_index": index}
    kind = item["type"]
    if kind == "reasoning":
        begun: JSON = {**item, "summary": [], "encrypted_content": "gAAAAABprovisional=="}
        where = {**at, "summary_index": 0}
        part, name = item["summary"][0], "response.reasoning_summary_text"
        frame, texts = "response.reasoning_summary_part", pieces(part["text"], size)
    elif kind == "message":
        begun = {**item, "status": "in_progress", "content": []}
        where = {**at, "content_index": 0}
        part, name = item["content"][0], "response.output_text"
        frame, texts = "response.content_part", pieces(part["text"], size)
    else:
        begun, where = {**item, "status": "in_progress", "arguments": ""}, at
        part, name = {}, "response.function_call_arguments"
        frame, texts = "", pieces(item["arguments"], size)
    yield {"type": "response.output_item.added", "output_index": index, "item": begun}
    if frame:
        yield {"type": f"{frame}.added", **where, "part": {**part, "text": ""}}
    yield from ({"type": f"{name}.delta", **where, "delta": text, "obfuscation": "x7Kq"} for text in texts)
    field = "text" if frame else "arguments"
    yield {"type": f"{name}.done", **where, field: "".join(texts)}
    if frame:
        yield {"type": f"{frame}.done", **where, "part": part}
    yield {"type": "response.output_item.done", "output_index": index, "item": item}


# -- Ollama --------------------------------------------------------------------------------------------------


def _ollama(answer: Answer) -> Streamed:
    """Lines; each call whole, its arguments an object."""
    messages: list[JSON] = []
    for part in answer.reply.parts:
        if isinstance(part, Text | Think):
            name = "thinking" if isinstance(part, Think) else "content"
            messages += [{"content": "", name: piece} for piece in pieces(part.text, answer.reply.fragment)]
    for index, (identity, made) in enumerate(answer.calls()):
        function = {"index": index, "name": made.name, "arguments": made.arguments}
        messages.append({"content": "", "tool_calls": [{"id": identity, "function": function}]})
    head = {"model": answer.model, "created_at": "2026-11-22T00:00:00.000000Z"}
    lines: list[JSON] = [{**head, "message": {"role": "assistant", **part}, "done": False} for part in messages]
    counts = {"prompt_eval_count": answer.prompt, "eval_count": answer.completion, "total_duration": 1}
    end = {"message": {"role": "assistant", "content": ""}, "done": True, "done_reason": "stop", **counts}
    lines.append({**head, **end})
    return Streamed([dump(line).encode() + b"\n" for line in lines], answer.reply.reasoning() or None)


# -- Anthropic Messages, of others ---------------------------------------------------------------------------


def _skin(answer: Answer) -> Streamed:
    """Anthropic's events; signatures are the upstream's own."""
    blocks: list[tuple[JSON, list[JSON]]] = []
    back: list[JSON] = []
    size = answer.reply.fragment
    for part in answer.reply.parts:
        if isinstance(part, Think):
            signature = f"{answer.secret}{len(blocks)}"
            thought: list[JSON] = [{"type": "thinking_delta", "thinking": text} for text in pieces(part.text, size)]
            thought.append({"type": "signature_delta", "signature": signature})
            blocks.append(({"type": "thinking", "thinking": "", "signature": ""}, thought))
            back.append({"type": "thinking", "thinking": part.text, "signature": signature})
        elif isinstance(part, Text):
            said: list[JSON] = [{"type": "text_delta", "text": text} for text in pieces(part.text, size)]
            blocks.append(({"type": "text", "text": ""}, said))
    for identity, made in answer.calls():
        start = {"type": "tool_use", "id": identity, "name": made.name, "input": {}}
        parts = pieces(dump(made.arguments), size)
        blocks.append((start, [{"type": "input_json_delta", "partial_json": text} for text in parts]))
    usage = {
        "input_tokens": answer.prompt - answer.cached,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": answer.cached,
        "service_tier": "standard",
    }
    head = {"id": f"msg_{answer.serial}", "type": "message", "role": "assistant", "model": answer.model, "content": []}
    begun = {**head, "stop_reason": None, "stop_sequence": None, "usage": {**usage, "output_tokens": 0}}
    events: list[JSON] = [{"type": "message_start", "message": begun}, {"type": "ping"}]
    for index, (start, inner) in enumerate(blocks):
        events.append({"type": "content_block_start", "index": index, "content_block": start})
        events += [{"type": "content_block_delta", "index": index, "delta": delta} for delta in inner]
        events.append({"type": "content_block_stop", "index": index})
    ending = {"stop_reason": "tool_use" if answer.ids else "end_turn", "stop_sequence": None}
    events.append({"type": "message_delta", "delta": ending, "usage": {**usage, "output_tokens": answer.completion}})
    events.append({"type": "message_stop"})
    return Streamed(_sse(events, named=True), back or None)


DIALECTS: dict[str, Callable[[Answer], Streamed]] = {
    "deepseek-chat": _deepseek_chat,
    "mistral-chat": _mistral,
    "responses": _responses,
    "ollama": _ollama,
    "skin": _skin,
}
