"""A yardstick: the smallest translator that still does the work, Messages in front, chat completions behind.

    python -m bench.reference --port 8001 --upstream 8000

DO NOT IMPROVE THIS FILE. bench/guard.py compares the gateway's CPU time with its, in one run on one machine; the
recorded ratios (recorded.json) mean something only while it stays as it is. It is no gateway: no keys, limits,
errors, retries, back-pressure or log, and it trusts both sides.

It does what any translator must: parse the request, rebuild it, send it on; then split the stream into events,
parse each, and write the events of the other format, those of one read in one write.
"""

from __future__ import annotations

import argparse
import asyncio
from typing import Any, cast

import orjson
import uvloop

HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
POST = b"POST /v1/chat/completions HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/json\r\n"
STOP_REASONS = {"tool_calls": "tool_use", "length": "max_tokens"}


def to_chat(body: dict[str, Any]) -> dict[str, Any]:
    messages: list[dict[str, Any]] = []
    system = body.get("system") or ""
    if system:
        messages.append({"role": "system", "content": text_of(system)})
    for message in body["messages"]:
        blocks = message["content"]
        if isinstance(blocks, str):
            blocks = [{"type": "text", "text": blocks}]
        calls = []
        for block in blocks:
            if block["type"] == "tool_result":
                content = text_of(block.get("content") or "")
                messages.append({"role": "tool", "tool_call_id": block["tool_use_id"], "content": content})
            elif block["type"] == "tool_use":
                function = {"name": block["name"], "arguments": orjson.dumps(block["input"]).decode()}
                calls.append({"id": block["id"], "type": "function", "function": function})
        text = text_of(blocks)
        if calls:
            messages.append({"role": "assistant", "content": text or None, "tool_calls": calls})
        elif text:
            messages.append({"role": message["role"], "content": text})
    wire = {"model": body["model"], "messages": messages, "max_tokens": body["max_tokens"], "stream": True}
    if body.get("tools"):
        wire["tools"] = [
            {"type": "function", "function": {
                "name": tool["name"], "description": tool.get("description", ""), "parameters": tool["input_schema"]
            }}
            for tool in body["tools"]
        ]
    return wire


def text_of(blocks: Any) -> str:
    if isinstance(blocks, str):
        return blocks
    return "\n\n".join(block["text"] for block in blocks if block["type"] == "text")


class Answer:
    """Chat completion chunks in, Messages events out."""

    def __init__(self, model: str) -> None:
        self.out: list[bytes] = []
        self.index = -1
        self.kind = ""
        self.reason = "end_turn"
        self.tokens = 1
        message: dict[str, Any]
        message = {"id": "msg_reference", "type": "message", "role": "assistant", "model": model, "content": [],
                   "stop_reason": None, "stop_sequence": None, "usage": {"input_tokens": 1, "output_tokens": 1}}
        self.event("message_start", message=message)

    def event(self, name: str, **fields: Any) -> None:
        data = orjson.dumps({"type": name, **fields})
        self.out.append(b"event: " + name.encode() + b"\ndata: " + data + b"\n\n")

    def chunk(self, chunk: dict[str, Any]) -> None:
        if chunk.get("usage"):
            self.tokens = chunk["usage"]["completion_tokens"]
        for choice in chunk["choices"]:
            delta = choice["delta"]
            if delta.get("reasoning_content"):
                self.piece("thinking", {"type": "thinking_delta", "thinking": delta["reasoning_content"]})
            if delta.get("content"):
                self.piece("text", {"type": "text_delta", "text": delta["content"]})
            for call in delta.get("tool_calls") or ():
                function = call["function"]
                if call.get("id"):
                    self.start("call", {"type": "tool_use", "id": call["id"], "name": function["name"], "input": {}})
                if function.get("arguments"):
                    self.piece("call", {"type": "input_json_delta", "partial_json": function["arguments"]})
            if choice.get("finish_reason"):
                self.reason = STOP_REASONS.get(choice["finish_reason"], "end_turn")

    def piece(self, kind: str, delta: dict[str, Any]) -> None:
        if self.kind != kind:
            self.start(kind, {"type": kind, kind: "", **({"signature": ""} if kind == "thinking" else {})})
        self.event("content_block_delta", index=self.index, delta=delta)

    def start(self, kind: str, block: dict[str, Any]) -> None:
        self.stop()
        self.index += 1
        self.kind = kind
        self.event("content_block_start", index=self.index, content_block=block)

    def stop(self) -> None:
        if self.kind:
            self.event("content_block_stop", index=self.index)

    def finish(self) -> None:
        self.stop()
        delta = {"stop_reason": self.reason, "stop_sequence": None}
        self.event("message_delta", delta=delta, usage={"output_tokens": self.tokens})
        self.event("message_stop")


class Upstream(asyncio.Protocol):
    """One connection to the upstream, kept for the next request."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)

    def ask(self, client: Client, body: dict[str, Any]) -> None:
        self.client, self.answer = client, Answer(body["model"])
        self.started, self.buffer, self.events = False, b"", b""
        data = orjson.dumps(to_chat(body))
        self.transport.write(POST + b"content-length: %d\r\n\r\n" % len(data) + data)

    def data_received(self, data: bytes) -> None:
        data = self.buffer + data
        at = 0
        if not self.started:
            self.started = True
            at = data.index(b"\r\n\r\n") + 4
            self.client.transport.write(HEAD)
        parts, size = [self.events], -1
        while size and (end := data.find(b"\r\n", at)) >= 0:
            size = int(data[at:end], 16)
            if len(data) < end + size + 4:
                size = -1
                break
            parts.append(data[end + 2 : end + 2 + size])
            at = end + size + 4
        self.buffer = data[at:]
        *events, self.events = b"".join(parts).split(b"\n\n")
        for event in events:
            if event[6:] != b"[DONE]":
                self.answer.chunk(orjson.loads(event[6:]))
        if not size:
            self.answer.finish()
        out = b"".join(self.answer.out)
        self.answer.out.clear()
        if out:
            self.client.transport.write(b"%x\r\n%b\r\n%b" % (len(out), out, b"" if size else b"0\r\n\r\n"))
        if not size:
            self.client.free.append(self)


class Client(asyncio.Protocol):
    """One connection of a client; one request at a time."""

    def __init__(self, free: list[Upstream], upstream: int) -> None:
        self.free, self.upstream, self.buffer = free, upstream, b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        head, blank, body = self.buffer.partition(b"\r\n\r\n")
        if not blank:
            return
        fields = dict(line.lower().split(b": ", 1) for line in head.split(b"\r\n")[1:])
        if len(body) < int(fields.get(b"content-length", b"0")):
            return
        self.buffer = b""
        request = orjson.loads(body)
        if self.free:
            self.free.pop().ask(self, request)
        else:
            asyncio.get_running_loop().create_task(self.connect(request))

    async def connect(self, request: dict[str, Any]) -> None:
        loop = asyncio.get_running_loop()
        _, upstream = await loop.create_connection(Upstream, "127.0.0.1", self.upstream)
        upstream.ask(self, request)


async def main(port: int, upstream: int) -> None:
    free: list[Upstream] = []
    server = await asyncio.get_running_loop().create_server(lambda: Client(free, upstream), "127.0.0.1", port)
    await server.serve_forever()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="A yardstick for bench/guard.py.")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--upstream", type=int, required=True, help="the port of a chat completions server")
    options = parser.parse_args()
    uvloop.run(main(options.port, options.upstream))
