"""Generates legal streams of the Responses API, each with what must come out of it.

Everything follows from a seed: a failure names the seed, and ``responses_stream(seed)`` makes the same stream again.

What a stream may do: reasoning, messages and calls in any order, calls interleaved, fragments of any size (inside JSON
escapes and surrogate pairs too), ``output_index`` or none, ids that rotate, deltas with or without the ends that repeat
them, ends alone, ends all at the end, the whole response full or empty or alone, a plain JSON body, CRLF, comments.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import Any

from tests.chat_streams import WORDS, encode, halves

JSON = dict[str, Any]
TOOLS = ("get_weather", "search", "write")
WAYS = ("both", "both", "deltas", "ends", "late ends", "response", "json")


@dataclass
class ResponsesStream:
    """The bytes of a stream and their meaning."""

    seed: int
    body: bytes = b""
    way: str = "both"
    items: list[JSON] = field(default_factory=list)
    """The output items."""
    content: list[JSON] = field(default_factory=list)
    """The blocks that a client must get."""
    sent_back: list[JSON] = field(default_factory=list)
    """The items of the answer in the next request."""
    stop_reason: str = "end_turn"
    usage: tuple[int, int, int, int] | None = None
    """input, cache read, cache written, output."""


class Maker:
    """Builds one stream."""

    def __init__(self, seed: int) -> None:
        self.draw = random.Random(seed)
        self.stream = ResponsesStream(seed, way=self.draw.choice(WAYS))
        self.indexed = self.draw.random() < 0.7
        self.rotating = self.indexed and self.draw.random() < 0.3
        self.numbered = self.draw.random() < 0.7
        self.ascii = self.draw.random() < 0.5
        self.end = self.draw.choice(["\n", "\n", "\r\n"])
        self.named = self.draw.random() < 0.8
        self.lines: list[str] = []
        self.ids = 0

    # -- the answer --------------------------------------------------------------------------------------

    def sentence(self) -> str:
        return " ".join(self.draw.choices(WORDS, k=self.draw.choice((1, 1, 2, 4)))).strip() + "."

    def item(self, number: int) -> JSON:
        kind = self.draw.choice(("reasoning", "message", "function_call", "function_call"))
        if kind == "message":
            parts = [self.sentence() for _ in range(self.draw.choice((1, 1, 1, 2)) if self.numbered else 1)]
            content = [{"type": "output_text", "annotations": [], "text": part} for part in parts]
            return {"id": f"msg_{number}", "type": kind, "role": "assistant", "content": content}
        if kind == "function_call":
            value = {self.draw.choice(("q", "päth")): self.draw.choice([self.sentence(), 7, None, {"a": ["}"]}, '\\"'])}
            arguments = self.draw.choice(["", "{}", encode(value, ascii_only=self.ascii)])
            call = {"id": f"fc_{number}", "type": kind, "call_id": f"call_{number}"}
            return {**call, "name": self.draw.choice(TOOLS), "arguments": arguments}
        return self.reasoning(number)

    def reasoning(self, number: int) -> JSON:
        item: JSON = {"id": f"rs_{number}", "type": "reasoning", "summary": []}
        if self.draw.random() < 0.3:
            item["content"] = [{"type": "reasoning_text", "text": self.sentence()}]
            return item
        count = self.draw.choice((0, 1, 2)) if self.numbered else self.draw.choice((0, 1))
        item["summary"] = [{"type": "summary_text", "text": self.sentence()} for _ in range(count)]
        if self.draw.random() < 0.8 and self.stream.way not in ("deltas", "late ends"):
            item["encrypted_content"] = f"gAAAA{number}=="
        return item

    # -- the bytes ---------------------------------------------------------------------------------------

    def put(self, kind: str, index: int | None = None, **fields: Any) -> None:
        event: JSON = {"type": f"response.{kind}", "sequence_number": len(self.lines), **fields}
        if index is not None and self.indexed:
            event["output_index"] = index
        if self.draw.random() < 0.05:
            self.lines.append(self.draw.choice([": keep-alive", "id: 1", f": x{self.end}"]) + self.end)
        name = f"event: response.{kind}{self.end}" if self.named else ""
        self.lines.append(f"{name}data: {encode(event, ascii_only=self.ascii)}{self.end}{self.end}")

    def told(self, item: JSON) -> JSON:
        """The item under the id that it has this time."""
        return {**item, "id": self.item_id(item)}

    def item_id(self, item: JSON) -> str:
        self.ids += 1
        return f"cap-{self.ids}" if self.rotating else str(item["id"])

    def pieces(self, text: str) -> list[str]:
        largest = self.draw.choice((0, 0, 1, 3, 30))
        if not text or largest == 0:
            return [text] if text else []
        text = halves(text) if self.ascii else text
        found = []
        while text:
            size = self.draw.randint(1, largest)
            found.append(text[:size])
            text = text[size:]
        return found

    def deltas(self, index: int, item: JSON) -> list[tuple[str, int, JSON]]:
        """(kind, index, fields) of each delta of an item, and of the ends of its parts."""
        events: list[tuple[str, int, JSON]] = []

        def part(kind: str, number_field: str, number: int, text: str, end: str) -> None:
            place = {number_field: number} if number_field and self.numbered else {}
            events.extend((f"{kind}.delta", index, {**place, "delta": piece}) for piece in self.pieces(text))
            if self.stream.way == "both" and self.draw.random() < 0.8:
                events.append((f"{kind}.done", index, {**place, end: text}))

        if item["type"] == "function_call":
            part("function_call_arguments", "", 0, item["arguments"], "arguments")
        for number, one in enumerate(item.get("summary", ())):
            part("reasoning_summary_text", "summary_index", number, one["text"], "text")
        for number, one in enumerate(item.get("content", ())):
            kind = "output_text" if item["type"] == "message" else "reasoning_text"
            part(kind, "content_index", number, one["text"], "text")
        return events

    def begin(self, index: int, item: JSON) -> None:
        empty: dict[str, JSON] = {"message": {"content": []}, "function_call": {"arguments": ""}}
        start = {**item, **empty.get(item["type"], {"summary": []})}
        start.pop("content", None)
        if "encrypted_content" in start:
            start["encrypted_content"] = "provisional"
        self.put("output_item.added", index, item=self.told(start))

    def group(self, start: int) -> list[int]:
        """The indices of an item and of the calls right behind it that stream at the same time."""
        items = self.stream.items
        stop = start + 1
        if items[start]["type"] == "function_call":
            while stop < len(items) and items[stop]["type"] == "function_call" and self.draw.random() < 0.7:
                stop += 1
        return list(range(start, stop))

    def put_items(self) -> None:
        items, late = self.stream.items, []
        at = 0
        while at < len(items):
            indices = self.group(at)
            waiting = {}
            for index in indices:
                self.begin(index, items[index])
                waiting[index] = self.deltas(index, items[index])
            while any(waiting.values()):
                index = self.draw.choice([index for index in indices if waiting[index]])
                kind, index, fields = waiting[index].pop(0)
                self.put(kind, index, item_id=self.item_id(items[index]), **fields)
            if self.stream.way == "both":
                for index in self.draw.sample(indices, len(indices)):
                    self.put("output_item.done", index, item=self.told(items[index]))
            late.extend(indices)
            at = indices[-1] + 1
        if self.stream.way == "late ends":
            for index in late:
                self.put("output_item.done", index, item=self.told(items[index]))

    def make(self) -> ResponsesStream:
        stream = self.stream
        stream.items = [self.item(number) for number in range(self.draw.choice((0, 1, 1, 2, 3, 5)))]
        self.expect()
        response: JSON = {"id": "r", "object": "response", "status": "in_progress", "output": [], "error": None}
        if stream.way != "json":
            self.put("created", response=response)
        if stream.way == "ends":
            for index, item in enumerate(stream.items):
                self.put("output_item.done", index, item=self.told(item))
        elif stream.way not in ("response", "json"):
            self.put_items()
        self.finish(response)
        return stream

    def finish(self, response: JSON) -> None:
        stream = self.stream
        cut = self.draw.random() < 0.15
        status = "incomplete" if cut else "completed"
        if cut:
            stream.stop_reason = "max_tokens"
            response = {**response, "incomplete_details": {"reason": "max_output_tokens"}}
        elif any(item["type"] == "function_call" for item in stream.items):
            stream.stop_reason = "tool_use"
        if self.draw.random() < 0.8:
            fresh, read, written, output = (self.draw.randint(0, 900) for _ in range(4))
            stream.usage = (fresh + 1, read, written, output)
            response["usage"] = {
                "input_tokens": fresh + 1 + read + written,
                "input_tokens_details": {"cached_tokens": read, "cache_write_tokens": written},
                "output_tokens": output,
                "output_tokens_details": {"reasoning_tokens": output // 2},
                "total_tokens": fresh + 1 + read + written + output,
            }
        whole = stream.way in ("response", "json") or self.draw.random() < 0.5
        output_items = [self.told(item) for item in stream.items] if whole else []
        response = {**response, "status": status, "output": output_items}
        if stream.way == "json":
            stream.body = encode(response, ascii_only=self.ascii).encode()
            return
        self.put(status, response=response)
        stream.body = "".join(self.lines).encode()

    # -- what must come of it ----------------------------------------------------------------------------

    def expect(self) -> None:
        stream = self.stream
        for item in stream.items:
            if item["type"] == "message":
                text = "".join(part["text"] for part in item["content"])
                stream.content.append({"type": "text", "text": text})
                part = {"type": "output_text", "text": text, "annotations": []}
                stream.sent_back.append(
                    {"type": "message", "role": "assistant", "status": "completed", "content": [part]}
                )
            elif item["type"] == "function_call":
                arguments = item["arguments"]
                stream.content.append(
                    {"type": "tool_use", "id": item["call_id"], "name": item["name"], "partial_json": arguments}
                )
                stream.sent_back.append({key: item[key] for key in ("type", "call_id", "name")})
            else:
                texts = [part["text"] for part in [*item["summary"], *item.get("content", ())]]
                if texts or "encrypted_content" in item:
                    stream.content.append({"type": "thinking", "thinking": "\n\n".join(texts)})
                if "encrypted_content" in item or "content" in item:
                    stream.sent_back.append(item)
        while stream.sent_back and stream.sent_back[-1]["type"] == "reasoning":
            stream.sent_back.pop()


def responses_stream(seed: int) -> ResponsesStream:
    """The legal stream of ``seed``."""
    return Maker(seed).make()
