"""What lives as long as a stream holds nothing of the request but a few small values: streams are open for minutes, by
the thousand, and a request has a hundred kilobytes and more.

``held`` walks over everything that can be reached from an object, as the garbage collector does.
"""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable, Iterator
from functools import partial
from types import FunctionType, ModuleType
from typing import Any

import orjson
import pytest

import gateway.adapters
from gateway.adapters.base import MessagesRequest, StreamTranslator, UpstreamRequest
from gateway.routing import Target
from gateway.wire.request_reader import RequestReader
from tests.recordings import target_of, with_profile

JSON = dict[str, Any]

MOST_BYTES = 18 * 1024
"""What one open stream may hold beside its target: "a few kilobytes"."""
LONG = 2000
"""Characters of each text of the request; whoever holds one of them is found by its length."""

CHAT = b'data: {"choices":[{"index":0,"delta":{"content":"Hello"}}]}\n\n'
RESPONSES = (
    b'data: {"type":"response.output_item.added","output_index":0,"item":{"type":"message","id":"m","content":[]}}\n\n'
    b'data: {"type":"response.output_text.delta","output_index":0,"content_index":0,"item_id":"m","delta":"Hello"}\n\n'
)
OLLAMA = b'{"message":{"role":"assistant","content":"Hello"},"done":false}\n'
ANTHROPIC = (
    b'event: message_start\ndata: {"type":"message_start","message":{"id":"msg_a","type":"message","role":"assistant",'
    b'"model":"m","content":[],"stop_reason":null,"stop_sequence":null,"usage":{"input_tokens":1,"output_tokens":1}}}\n\n'
    b'event: content_block_start\n'
    b'data: {"type":"content_block_start","index":0,"content_block":{"type":"text","text":""}}\n\n'
    b'event: content_block_delta\n'
    b'data: {"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":"Hello"}}\n\n'
)
LEAKS = {"leaked_calls": ({"open": "<tool_call>", "close": "</tool_call>", "form": "json"},)}
WIRES: dict[str, tuple[Target, bytes]] = {
    "openai-chat": (target_of("generic"), CHAT),
    "openai-chat, leaked calls": (with_profile(target_of("generic"), LEAKS), CHAT),
    "openai-responses": (target_of("generic", "openai-responses"), RESPONSES),
    "openai-responses, leaked calls": (with_profile(target_of("generic", "openai-responses"), LEAKS), RESPONSES),
    "ollama": (target_of("generic", "ollama"), OLLAMA),
    "anthropic": (target_of("generic", "anthropic"), ANTHROPIC),
    "anthropic, renamed tools": (target_of("generic", "anthropic", reserved_tool_names=("tool_3",)), ANTHROPIC),
}
each_wire = pytest.mark.parametrize("wire", WIRES)
each_reader = pytest.mark.parametrize("loads", [orjson.loads, RequestReader().loads], ids=["own tools", "shared tools"])


def text(of: str) -> str:
    """A long text that stands in one place only."""
    return f"{of} ".ljust(LONG, "x")


def body() -> JSON:
    turns: list[JSON] = []
    for number in range(10):
        call = {"type": "tool_use", "id": f"toolu_{number}", "name": f"tool_{number}", "input": {"a": text("argument")}}
        result = {"type": "tool_result", "tool_use_id": f"toolu_{number}", "content": text(f"result {number}")}
        turns += (
            {"role": "assistant", "content": [{"type": "text", "text": text(f"answer {number}")}, call]},
            {"role": "user", "content": [result, {"type": "text", "text": text(f"question {number}")}]},
        )
    tools = [
        {
            "name": f"tool_{number}",
            "description": text(f"tool {number}"),
            "input_schema": {
                "type": "object",
                "properties": {name: {"type": "string", "description": text(name)} for name in ("a", "b", "c")},
            },
        }
        for number in range(20)
    ]
    return {
        "model": "sonnet",
        "max_tokens": 1000,
        "stream": True,
        "stop_sequences": ["STOP"],
        "metadata": {"user_id": text("user")},
        "system": [{"type": "text", "text": text("system")}],
        "messages": [{"role": "user", "content": text("first")}, *turns],
        "tools": tools,
    }


def message_request(loads: Callable[[bytes], JSON] = orjson.loads) -> MessagesRequest:
    headers = {"anthropic-version": "2023-06-01", "x-long": text("header")}
    return MessagesRequest(loads(orjson.dumps(body())), headers, text("query"), "msg_1", 30_000)


def containers(value: object) -> Iterator[object]:
    """All objects and lists of a JSON value."""
    if isinstance(value, dict | list):
        yield value
        for item in value.values() if isinstance(value, dict) else value:
            yield from containers(item)


# -- what is held ------------------------------------------------------------------------------------------

NOT_ENTERED = (type, ModuleType)
"""They belong to the process."""


def reachable(root: object, without: object = None) -> dict[int, object]:
    """Everything that ``root`` leads to and ``without`` does not."""
    known = reachable(without) if without is not None else {}
    found: dict[int, object] = {}
    waiting: list[object] = [root]
    while waiting:
        item = waiting.pop()
        if id(item) in known or id(item) in found or isinstance(item, NOT_ENTERED):
            continue
        found[id(item)] = item
        waiting += _of_function(item) if isinstance(item, FunctionType) else gc.get_referents(item)
    return found


def _of_function(function: FunctionType) -> Iterator[object]:
    """Without the module that it stands in."""
    yield from function.__closure__ or ()
    yield from function.__defaults__ or ()
    yield from (function.__kwdefaults__ or {}).values()


def held(root: object, request: MessagesRequest, target: Target) -> tuple[list[str], int]:
    """(what ``root`` holds of the request, in short; bytes that it holds in all). ``target`` is everybody's."""
    found = reachable(root, without=target)
    parts = [request, *containers({**request.body, "stop_sequences": None})]
    kept = [item for item in parts if id(item) in found]
    kept += [item for item in found.values() if isinstance(item, str | bytes) and len(item) >= LONG]
    return [repr(item)[:60] for item in kept], sum(map(sys.getsizeof, found.values()))


def assert_small(root: object, request: MessagesRequest, target: Target) -> None:
    kept, size = held(root, request, target)
    assert not kept
    assert size <= MOST_BYTES


# -- tests -------------------------------------------------------------------------------------------------


@each_wire
@each_reader
def test_translators_hold_nothing_of_the_request(wire: str, loads: Callable[[bytes], JSON]) -> None:
    target, answer = WIRES[wire]
    request = message_request(loads)
    translator = gateway.adapters.get(target.api).stream_translator(request, target)
    assert_small(translator, request, target)
    assert b"Hello" in translator.feed(answer)
    assert_small(translator, request, target)


@each_wire
@each_reader
def test_what_makes_a_translator_holds_nothing_of_the_request(wire: str, loads: Callable[[bytes], JSON]) -> None:
    target, answer = WIRES[wire]
    request = message_request(loads)
    upstream = gateway.adapters.get(target.api).prepare(request, target)
    assert upstream.translator is not None
    assert_small(upstream.translator, request, target)
    translator = upstream.translator()
    assert b"Hello" in translator.feed(answer)
    assert_small(translator, request, target)


@each_wire
def test_prepared_requests_hold_only_what_goes_up(wire: str) -> None:
    """A retry needs the encoded body, and nothing that it was made from."""
    target, _ = WIRES[wire]
    request = message_request()
    upstream = gateway.adapters.get(target.api).prepare(request, target)
    parts = (upstream.url, dict(upstream.headers), list(upstream.changes), upstream.translator)
    kept, _ = held([part for part in parts if part is not None], request, target)
    assert not [part for part in kept if "query" not in part and "user" not in part], "these two may go up"


def keeping_an_attribute(translator: StreamTranslator, request: MessagesRequest) -> object:
    return [translator, request]


def keeping_a_closure(translator: StreamTranslator, request: MessagesRequest) -> object:
    return lambda: (translator, request.body)


def keeping_an_argument(translator: StreamTranslator, request: MessagesRequest) -> object:
    return partial(translator.feed, request.body["messages"][3])


def keeping_a_method(translator: StreamTranslator, request: MessagesRequest) -> object:
    return (translator, request.body["tools"][0].get)


def keeping_a_copy(translator: StreamTranslator, request: MessagesRequest) -> object:
    return (translator, orjson.dumps(request.body["system"]))


@pytest.mark.parametrize(
    "keep", [keeping_an_attribute, keeping_a_closure, keeping_an_argument, keeping_a_method, keeping_a_copy]
)
def test_whoever_keeps_a_part_is_found(keep: Callable[[StreamTranslator, MessagesRequest], object]) -> None:
    target, _ = WIRES["openai-chat"]
    request = message_request()
    translator = gateway.adapters.get(target.api).stream_translator(request, target)
    kept, _ = held(keep(translator, request), request, target)
    assert kept


@each_wire
def test_both_ways_make_the_same_translator(wire: str) -> None:
    target, answer = WIRES[wire]
    request = message_request()
    adapter = gateway.adapters.get(target.api)
    upstream: UpstreamRequest = adapter.prepare(request, target)
    assert upstream.translator is not None
    first, second, alone = upstream.translator(), upstream.translator(), adapter.stream_translator(request, target)
    assert first is not second
    assert first.feed(answer) == second.feed(answer) == alone.feed(answer)
