"""Cost grows no faster than what comes in: counted in operations (operations.py), at three sizes, never on a clock.

A row is one way in which a conversation or a stream can be long. What the second half of a size adds may cost twice
what the first half added, with a tenth to spare; whoever copies, rescans or compares everything so far at every step
fails at once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from itertools import pairwise
from typing import Any

import orjson
import pytest

from gateway.adapters.base import MessagesRequest
from gateway.profile import merge
from gateway.routing import Target
from tests.operations import define, metered, operations
from tests.recordings import target_of

SPARE = 1.1
MESSAGE_ID = "msg_01Linear"
WEATHER = {
    "name": "get_weather",
    "description": "Tells the weather.",
    "input_schema": {"type": "object", "properties": {"city": {"type": "string"}}},
}
LAB = {api: target_of("lab", api) for api in ("openai-chat", "openai-responses", "ollama", "anthropic")}
"""Made before anything is metered: what configures them must not import a metered module."""
Import = Callable[[str], Any]


@pytest.fixture(scope="module")
def load() -> Iterator[Import]:
    with metered() as load:
        yield load


def assert_linear(cost: Callable[[int], tuple[int, int]], small: int) -> None:
    """``cost``: size -> (what came in, what it cost)."""
    sizes = (small, 2 * small, 4 * small)
    told = [cost(size) for size in sizes]
    (given, spent), (more_given, more_spent) = [
        (after[0] - before[0], after[1] - before[1]) for before, after in pairwise(told)
    ]
    shown = ", ".join(f"{size}: {cost} for {given}" for size, (given, cost) in zip(sizes, told, strict=True))
    assert more_spent * given <= SPARE * more_given * spent, f"operations for what came in, at size {shown}"


def message_request(**body: Any) -> MessagesRequest:
    hello = [{"role": "user", "content": "Hello"}]
    whole = {"model": "sonnet", "max_tokens": 1024, "stream": True, "messages": hello, **body}
    return MessagesRequest(whole, {"anthropic-version": "2023-06-01"}, "", MESSAGE_ID, 7)


def target(api: str, **profile: Any) -> Target:
    known = LAB[api]
    return replace(known, profile=merge(known.profile, profile)) if profile else known


# -- the counter itself ----------------------------------------------------------------------------------

QUADRATIC = {
    "text +=": ("''", "self.it += piece"),
    "text +": ("b''", "self.it = self.it + piece.encode()"),
    "text, formatted": ("''", "self.it = f'{self.it}{piece}'"),
    "join of all": ("[]", "self.it.append(piece); ''.join(self.it)"),
    "list, copied": ("[]", "self.it = [*self.it, piece]"),
    "dict, copied": ("{}", "self.it = {**self.it, len(self.it): piece}"),
    "slice": ("[]", "self.it.append(piece); self.it[1:]"),
    "find": ("bytearray()", "self.it.extend(piece.encode()); self.it.find(b'!')"),
    "in a text": ("bytearray()", "self.it.extend(piece.encode()); b'!' in self.it"),
    "in a list": ("[]", "self.it.append(piece); 'none' in self.it"),
    "not in a list": ("[]", "self.it.append(piece); 'none' not in self.it"),
    "list.remove": ("[]", "self.it += [0, 1]; self.it.remove(1)"),
    "list.pop(0)": ("[]", "self.it += [0, 1]; self.it.pop(0)"),
    "sum of all": ("[]", "self.it.append(piece); sum(map(len, self.it))"),
    "walk over all": ("[]", "self.it.append(piece); [item for item in self.it if item is None]"),
    "first of all": ("[]", "self.it.append(piece); next((item for item in self.it if item is None), None)"),
    "pattern": ("bytearray()", "self.it.extend(piece.encode()); re.compile(b'!').search(self.it)"),
    "parsed anew": ("['0']", "self.it.append('0'); json.loads('[' + ','.join(self.it) + ']')"),
    "compared": ("[]", "self.it.append(piece); self.it == list(self.it)"),
}
LINEAR = {
    "list": ("[]", "self.it.append(piece); self.it[-1]; len(self.it)"),
    "list +=": ("[]", "self.it += [piece, piece]"),
    "find at the end": ("bytearray()", "at = len(self.it); self.it.extend(piece.encode()); self.it.find(b'!', at)"),
    "set": ("set()", "piece in self.it; self.it.add(piece)"),
    "dict": ("{}", "self.it[piece] = self.it.get(piece, 0) + 1"),
    "strip of nothing": ("'x' * 1000", "self.it.strip()"),
}
SAMPLE = "import json, re\nclass Sample:\n  def __init__(self): self.it = {}\n  def add(self, piece): {}"


@pytest.mark.parametrize("name", [*QUADRATIC, *LINEAR])
def test_the_counter_tells_them_apart(name: str) -> None:
    sample = define(SAMPLE.format(*{**QUADRATIC, **LINEAR}[name]))["Sample"]

    def cost(count: int) -> tuple[int, int]:
        thing = sample()
        return count, operations(lambda: [thing.add("piece") for _ in range(count)])

    if name in LINEAR:
        assert_linear(cost, 100)
        return
    with pytest.raises(AssertionError, match="operations for what came in"):
        assert_linear(cost, 100)


# -- streams ---------------------------------------------------------------------------------------------


def sse(event: Any) -> bytes:
    return b"data: %b\n\n" % orjson.dumps(event)


def named(event: dict[str, Any]) -> bytes:
    return b"event: %b\ndata: %b\n\n" % (event["type"].encode(), orjson.dumps(event))


def chat(delta: dict[str, Any], **choice: Any) -> bytes:
    return sse({"choices": [{"index": 0, "delta": delta, "finish_reason": None, **choice}]})


CHAT_END = [sse({"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}), b"data: [DONE]\n\n"]


def arguments(text: str, index: int = 0, **call: Any) -> dict[str, Any]:
    return {"tool_calls": [{"index": index, "function": {"arguments": text, **call.pop("function", {})}, **call}]}


def opening(index: int) -> dict[str, Any]:
    return arguments("", index, id=f"call_{index}", function={"name": "get_weather"})


def chat_call(count: int, piece: str = "abcd", head: str = '{"city": "', tail: str = '"}') -> list[bytes]:
    """One call, its arguments in ``count`` fragments."""
    texts = [head, *[piece] * count, tail]
    return [chat(opening(0)), *(chat(arguments(text)) for text in texts), *CHAT_END]


def chat_calls_at_once(count: int) -> list[bytes]:
    """Two calls whose fragments alternate: the second waits for the end of the first."""
    both = [chat(arguments("ab", index)) for _ in range(count) for index in (0, 1)]
    heads = [chat(arguments('{"city": "', index)) for index in (0, 1)]
    return [chat(opening(0)), chat(opening(1)), *heads, *both, *(chat(arguments('"}', i)) for i in (0, 1)), *CHAT_END]


def chat_calls(count: int) -> list[bytes]:
    calls = (arguments("{}", n, id=f"call_{n}", function={"name": "get_weather"}) for n in range(count))
    return [*map(chat, calls), *CHAT_END]


def chat_texts(*texts: str) -> list[bytes]:
    return [*(chat({"content": text}) for text in texts), *CHAT_END]


def bytewise(reads: Sequence[bytes]) -> list[bytes]:
    return [bytes((byte,)) for read in reads for byte in read]


def chat_details(count: int) -> list[bytes]:
    detail = {"type": "reasoning.text", "index": 0, "text": "abcd"}
    return [*(chat({"reasoning": "abcd", "reasoning_details": [detail]}) for _ in range(count)), *CHAT_END]


def chat_lines(count: int) -> list[bytes]:
    """One event of many lines."""
    return bytewise([b"data: {\n", b"data:\n" * count, b'data: "choices": []}\n\n', *CHAT_END])


def growing(count: int) -> list[bytes]:
    """Deltas that repeat everything so far; what comes in is quadratic by itself."""
    return chat_texts(*("abcd" * size for size in range(1, count)))


def responses(kind: str, **event: Any) -> bytes:
    return named({"type": f"response.{kind}", **event})


def responses_end(output: list[Any]) -> bytes:
    return responses("completed", response={"status": "completed", "output": output})


def responses_text(count: int) -> list[bytes]:
    item = {"type": "message", "id": "msg_1", "role": "assistant", "content": []}
    content = [{"type": "output_text", "text": "abcd" * count}]
    deltas = [responses("output_text.delta", output_index=0, item_id="msg_1", content_index=0, delta="abcd")] * count
    return [
        responses("output_item.added", output_index=0, item=item),
        *deltas,
        responses("output_text.done", output_index=0, item_id="msg_1", content_index=0, text="abcd" * count),
        responses("output_item.done", output_index=0, item={**item, "content": content}),
        responses_end([{**item, "content": content}]),
    ]


def responses_call(count: int) -> list[bytes]:
    item = {"type": "function_call", "id": "fc_1", "call_id": "call_1", "name": "get_weather", "arguments": ""}
    pieces = ['{"city": "', *["abcd"] * count, '"}']
    whole = {**item, "arguments": "".join(pieces)}
    return [
        responses("output_item.added", output_index=0, item=item),
        *(responses("function_call_arguments.delta", output_index=0, item_id="fc_1", delta=piece) for piece in pieces),
        responses("output_item.done", output_index=0, item=whole),
        responses_end([whole]),
    ]


def responses_items(count: int, *, index: bool = True) -> list[bytes]:
    """Many calls; without an ``output_index`` only ids tell them apart."""
    items = [
        {"type": "function_call", "id": f"fc_{n}", "call_id": f"call_{n}", "name": "get_weather", "arguments": "{}"}
        for n in range(count)
    ]
    places = [{"output_index": n} if index else {} for n in range(count)]
    told = zip(items, places, strict=True)
    events = [responses(f"output_item.{kind}", item=item, **at) for item, at in told for kind in ("added", "done")]
    return [*events, responses_end(items)]


def responses_reasoning(count: int) -> list[bytes]:
    item = {"type": "reasoning", "id": "rs_1", "summary": []}
    delta = responses("reasoning_summary_text.delta", output_index=0, item_id="rs_1", summary_index=0, delta="abcd")
    summary = [{"type": "summary_text", "text": "abcd" * count}]
    return [
        responses("output_item.added", output_index=0, item=item),
        *[delta] * count,
        responses("output_item.done", output_index=0, item={**item, "summary": summary}),
        responses_end([{**item, "summary": summary}]),
    ]


def line(message: dict[str, Any], **more: Any) -> bytes:
    return orjson.dumps({"model": "up", "message": {"role": "assistant", **message}, "done": False, **more}) + b"\n"


LINES_END = [line({"content": ""}, done=True, done_reason="stop", prompt_eval_count=9, eval_count=9)]


def ollama_calls(count: int) -> list[bytes]:
    calls = [{"id": f"c{n}", "function": {"name": "get_weather", "arguments": {"city": "Paris"}}} for n in range(count)]
    return [*(line({"content": "", "tool_calls": [call]}) for call in calls), *LINES_END]


def answer(*blocks: bytes, reason: str = "end_turn") -> list[bytes]:
    start = {"id": "msg_1", "type": "message", "role": "assistant", "model": "up", "content": []}
    return [
        named({"type": "message_start", "message": {**start, "usage": {"input_tokens": 9, "output_tokens": 1}}}),
        *blocks,
        named({"type": "message_delta", "delta": {"stop_reason": reason}, "usage": {"output_tokens": 9}}),
        named({"type": "message_stop"}),
    ]


def block(index: int, content: dict[str, Any], *deltas: dict[str, Any]) -> list[bytes]:
    return [
        named({"type": "content_block_start", "index": index, "content_block": content}),
        *(named({"type": "content_block_delta", "index": index, "delta": delta}) for delta in deltas),
        named({"type": "content_block_stop", "index": index}),
    ]


TEXT_BLOCK = {"type": "text", "text": ""}


def messages_text(count: int) -> list[bytes]:
    return answer(*block(0, TEXT_BLOCK, *[{"type": "text_delta", "text": "abcd"}] * count))


def messages_call(count: int) -> list[bytes]:
    pieces = ['{"city": "', *["abcd"] * count, '"}']
    call = {"type": "tool_use", "id": "toolu_1", "name": "get_weather", "input": {}}
    return answer(*block(0, call, *({"type": "input_json_delta", "partial_json": piece} for piece in pieces)))


def messages_blocks(count: int) -> list[bytes]:
    calls = ({"type": "tool_use", "id": f"toolu_{n}", "name": "get_weather", "input": {}} for n in range(count))
    return answer(*(event for n, call in enumerate(calls) for event in block(n, call)))


def messages_citations(count: int) -> list[bytes]:
    citation = {"type": "citations_delta", "citation": {"type": "char_location", "cited_text": "abcd"}}
    return answer(*block(0, TEXT_BLOCK, *[citation] * count))


INVOKE = {"open": "<calls>", "close": "</calls>", "form": "invoke"}
LEAK_HEAD = '<calls><invoke name="get_weather"><parameter name="city">'
LEAK_TAIL = "</parameter></invoke></calls>"
NO_STOPS: dict[str, Any] = {"stop_limit": 0}
CUMULATIVE: dict[str, Any] = {"cumulative_deltas": True}
LEAKS: dict[str, Any] = {"leaked_calls": (INVOKE,)}

STREAMS: dict[str, tuple[str, Callable[[int], list[bytes]], dict[str, Any], dict[str, Any]]] = {
    # name: (api, size -> reads, profile, fields of the request)
    "chat: text": ("openai-chat", lambda n: chat_texts(*["abcd"] * n), {}, {}),
    "chat: reasoning": ("openai-chat", lambda n: [chat({"reasoning_content": "abcd"})] * n + CHAT_END, {}, {}),
    "chat: reasoning details": ("openai-chat", chat_details, {}, {}),
    "chat: one call": ("openai-chat", chat_call, {}, {}),
    "chat: one call, braces": ("openai-chat", lambda n: chat_call(n, "{[", '{"city": "'), {}, {}),
    "chat: one call, blanks before": ("openai-chat", lambda n: chat_call(n, " ", "", "{}"), {}, {}),
    "chat: one call, not an object": ("openai-chat", lambda n: chat_call(n, "abcd", "x", ""), {}, {}),
    "chat: two calls at once": ("openai-chat", chat_calls_at_once, {}, {}),
    "chat: many calls": ("openai-chat", chat_calls, {}, {}),
    "chat: text in one read": ("openai-chat", lambda n: [b"".join(chat_texts(*["abcd"] * n))], {}, {}),
    "chat: bytewise": ("openai-chat", lambda n: bytewise(chat_texts("abcd" * n)), {}, {}),
    "chat: bytewise, many lines": ("openai-chat", chat_lines, {}, {}),
    "chat: bytewise, comments": ("openai-chat", lambda n: bytewise([b": waiting\n\n" * n, *CHAT_END]), {}, {}),
    "chat: bytewise, blanks first": ("openai-chat", lambda n: bytewise([b"\n" * n, *CHAT_END]), {}, {}),
    "chat: a body in pieces": (
        "openai-chat",
        lambda n: bytewise([orjson.dumps({"choices": [{"message": {"content": "a" * n}, "finish_reason": "stop"}]})]),
        {},
        {},
    ),
    "chat: blanks": ("openai-chat", lambda n: chat_texts(*[" "] * n, "x"), {}, {}),
    "chat: blanks, no tags": ("openai-chat", lambda n: chat_texts(*[" "] * n, "x"), {"think_tags": False}, {}),
    "chat: blank reasoning": ("openai-chat", lambda n: [chat({"reasoning_content": " "})] * n + CHAT_END, {}, {}),
    "chat: tags": ("openai-chat", lambda n: chat_texts("<think>", *["abcd"] * n, "</think>", "x"), {}, {}),
    "chat: tags, lines within": ("openai-chat", lambda n: chat_texts("<think>a", *["\n"] * n, "</think>x"), {}, {}),
    "chat: tags, lines first": ("openai-chat", lambda n: chat_texts("<think>", *["\n"] * n, "a</think>x"), {}, {}),
    "chat: tags, lines last": ("openai-chat", lambda n: chat_texts("<think>a</think>", *["\n"] * n, "x"), {}, {}),
    "chat: tags, false ends": ("openai-chat", lambda n: chat_texts("<think>a", *["</thin"] * n, "</think>x"), {}, {}),
    "chat: stop sequences": (
        "openai-chat", lambda n: chat_texts(*["abcd"] * n), NO_STOPS, {"stop_sequences": ["STOP", "abcdabcdX"]}
    ),
    "chat: a long stop sequence": (
        "openai-chat", lambda n: chat_texts(*["a"] * n), NO_STOPS, {"stop_sequences": ["a" * 100 + "b"]}
    ),
    "chat: leaked calls, plain text": ("openai-chat", lambda n: chat_texts(*["abcd"] * n), LEAKS, {}),
    "chat: leaked call": ("openai-chat", lambda n: chat_texts(LEAK_HEAD, *["abcd"] * n, LEAK_TAIL), LEAKS, {}),
    "chat: leaked call never closed": ("openai-chat", lambda n: chat_texts(LEAK_HEAD, *["abcd"] * n), LEAKS, {}),
    "chat: leaked call, false ends": (
        "openai-chat", lambda n: chat_texts(LEAK_HEAD, *["</calls>"] * n, LEAK_TAIL), LEAKS, {}
    ),
    "chat: leaked calls, one after the other": (
        "openai-chat", lambda n: chat_texts(*[f"{LEAK_HEAD}x{LEAK_TAIL}"] * n), LEAKS, {}
    ),
    "chat: leaked calls, blanks": ("openai-chat", lambda n: chat_texts("a", *[" "] * 3 * n, "x"), LEAKS, {}),
    "chat: leaked calls, blanks after": (
        "openai-chat", lambda n: chat_texts(f"{LEAK_HEAD}x{LEAK_TAIL}", *[" "] * n, "x"), LEAKS, {}
    ),
    "chat: cumulative, growing": ("openai-chat", growing, CUMULATIVE, {}),
    "chat: cumulative, plain": ("openai-chat", lambda n: chat_texts(*["abcd"] * n), CUMULATIVE, {}),
    "responses: text": ("openai-responses", responses_text, {}, {}),
    "responses: one call": ("openai-responses", responses_call, {}, {}),
    "responses: many calls": ("openai-responses", responses_items, {}, {}),
    "responses: many calls, by id": ("openai-responses", lambda n: responses_items(n, index=False), {}, {}),
    "responses: reasoning": ("openai-responses", responses_reasoning, {}, {}),
    "ollama: text": ("ollama", lambda n: [line({"content": "abcd"})] * n + LINES_END, {}, {}),
    "ollama: thinking": ("ollama", lambda n: [line({"content": "", "thinking": "ab"})] * n + LINES_END, {}, {}),
    "ollama: calls": ("ollama", ollama_calls, {}, {}),
    "ollama: bytewise": ("ollama", lambda n: bytewise([line({"content": "abcd" * n}), *LINES_END]), {}, {}),
    "messages: text": ("anthropic", messages_text, {}, {}),
    "messages: one call": ("anthropic", messages_call, {}, {}),
    "messages: many blocks": ("anthropic", messages_blocks, {}, {}),
    "messages: citations": ("anthropic", messages_citations, {}, {}),
    "messages: stop sequences": (
        "anthropic", messages_text, NO_STOPS, {"stop_sequences": ["STOP", "abcdabcdX"]}
    ),
}


@pytest.mark.parametrize("name", STREAMS)
def test_stream(name: str, load: Import) -> None:
    api, reads_of, profile, fields = STREAMS[name]
    adapter = load("gateway.adapters").get(api)
    request = message_request(tools=[WEATHER], **fields)

    def cost(count: int) -> tuple[int, int]:
        reads = reads_of(count)
        translator = adapter.stream_translator(request, target(api, **profile))

        def translate() -> None:
            for read in reads:
                translator.feed(read)
            translator.close()

        return sum(map(len, reads)), operations(translate)

    assert_linear(cost, 150)


FOLDED = {
    "text": messages_text,
    "one call": messages_call,
    "many blocks": messages_blocks,
    "citations": messages_citations,
    "signatures": lambda n: answer(
        *block(0, {"type": "thinking", "thinking": ""}, *[{"type": "signature_delta", "signature": "ab"}] * n)
    ),
}


@pytest.mark.parametrize("name", FOLDED)
def test_fold(name: str, load: Import) -> None:
    module = load("gateway.translate.fold")

    def cost(count: int) -> tuple[int, int]:
        reads = FOLDED[name](count)
        fold = module.MessageFold()

        def work() -> None:
            for read in reads:
                fold.feed(read)
            fold.message()

        return sum(map(len, reads)), operations(work)

    assert_linear(cost, 150)


# -- requests --------------------------------------------------------------------------------------------


def use(number: int, name: str = "get_weather") -> dict[str, Any]:
    return {"type": "tool_use", "id": f"toolu_{number}", "name": name, "input": {"city": "Paris"}}


def result(number: int, content: Any = "22 °C") -> dict[str, Any]:
    return {"type": "tool_result", "tool_use_id": f"toolu_{number}", "content": content}


def text(value: str = "Hello there", **more: Any) -> dict[str, Any]:
    return {"type": "text", "text": value, **more}


def user(*blocks: dict[str, Any]) -> dict[str, Any]:
    return {"role": "user", "content": list(blocks)}


def model(*blocks: dict[str, Any]) -> dict[str, Any]:
    return {"role": "assistant", "content": list(blocks)}


HELLO = user(text())
MARK = {"cache_control": {"type": "ephemeral"}}


def turns(count: int) -> list[Any]:
    """A long session: every answer calls a tool."""
    loop = [(model(text(f"Step {n}."), use(n)), user(result(n))) for n in range(count)]
    return [HELLO, *(message for both in loop for message in both)]


def parallel(count: int, order: Callable[[Sequence[int]], Iterator[int]] = iter) -> list[Any]:
    return [HELLO, model(*map(use, range(count))), user(*map(result, order(range(count))))]


def tools(count: int, **more: Any) -> list[Any]:
    return [{**WEATHER, "name": f"tool_{number}", **more} for number in range(count)]


def searched(count: int) -> dict[str, Any]:
    """Deferred tools, all of them loaded by the history."""
    found = [{"type": "tool_reference", "tool_name": f"tool_{number}"} for number in range(count)]
    history = [HELLO, model(use(0, "search")), user(result(0, found))]
    search = {**WEATHER, "name": "search"}
    return {"messages": history, "tools": [search, *tools(count, defer_loading=True)]}


THOUGHT = {"type": "thinking", "thinking": "Hm.", "signature": "EqQB"}

REQUESTS: dict[str, Callable[[int], dict[str, Any]]] = {
    "turns": lambda n: {"messages": turns(n), "tools": [WEATHER]},
    "turns, the same id": lambda n: {
        "messages": [HELLO, *[model(use(0)), user(result(0))] * n], "tools": [WEATHER]
    },
    "calls at once": lambda n: {"messages": parallel(n), "tools": [WEATHER]},
    "calls at once, answered backwards": lambda n: {"messages": parallel(n, reversed), "tools": [WEATHER]},
    "calls without a result": lambda n: {"messages": [HELLO, model(*map(use, range(n))), HELLO], "tools": [WEATHER]},
    "calls at once, then text": lambda n: {
        "messages": [*parallel(n)[:2], user(*map(result, range(n)), *[text()] * n)], "tools": [WEATHER]
    },
    "calls at once, the same id": lambda n: {
        "messages": [HELLO, model(*[use(0)] * n), user(*[result(0)] * n)], "tools": [WEATHER]
    },
    "results without a call": lambda n: {"messages": [user(*map(result, range(n)))]},
    "text blocks": lambda n: {"messages": [user(*[text()] * n)]},
    "blocks of an answer": lambda n: {"messages": [HELLO, model(*[text()] * n), HELLO]},
    "thoughts of an answer": lambda n: {"messages": [HELLO, model(*[THOUGHT] * n, text()), HELLO]},
    "user after user": lambda n: {"messages": [HELLO] * n},
    "answer after answer": lambda n: {"messages": [HELLO, *[model(text())] * n, HELLO]},
    "system in the middle": lambda n: {"messages": [HELLO, *[{"role": "system", "content": "Mind."}, HELLO] * n]},
    "system blocks": lambda n: {"system": [text()] * n},
    "marks": lambda n: {"messages": [user(*[text(**MARK)] * n)]},
    "result blocks": lambda n: {"messages": [HELLO, model(use(0)), user(result(0, [text()] * n))], "tools": [WEATHER]},
    "tools": lambda n: {"tools": tools(n)},
    "tools, all called": lambda n: {
        "messages": [HELLO, model(*(use(number, f"tool_{number}") for number in range(n)))], "tools": tools(n)
    },
    "tools with long names": lambda n: {"tools": [{**tool, "name": tool["name"] * 20} for tool in tools(n)]},
    "deferred tools": searched,
    "a large schema": lambda n: {
        "tools": [{**WEATHER, "input_schema": {
            "type": "object", "properties": {f"p{number}": {"type": ["string", "null"]} for number in range(n)}
        }}]
    },
    "a schema of references": lambda n: {
        "tools": [{**WEATHER, "input_schema": {
            "type": "object",
            "properties": {f"p{number}": {"$ref": "#/$defs/city"} for number in range(n)},
            "$defs": {"city": {"type": "string"}},
        }}]
    },
    "stop sequences": lambda n: {"stop_sequences": [f"stop {number}" for number in range(n)]},
}

TARGETS: dict[str, tuple[str, dict[str, Any]]] = {
    "chat": ("openai-chat", {}),
    "chat, cached": ("openai-chat", {"cache": "keep", "mid_system": "system", "tools_for_history": True}),
    "chat, particular": (
        "openai-chat",
        {"tool_id_length": 9, "tool_result_images": "inline", "tool_result_name": True, "bridge_after_tool": "OK."},
    ),
    "responses": ("openai-responses", {}),
    "ollama": ("ollama", {}),
    "messages": ("anthropic", {}),
    "messages, particular": (
        "anthropic",
        {
            "joined_turns": True, "keep_betas": False, "reserved_tool_names": ("web_search",),
            "drop_tool_fields": ("defer_loading", "type"), "system_blocks": False, "reasoning_placeholder": "…",
        },
    ),
}


@pytest.mark.parametrize("name", REQUESTS)
@pytest.mark.parametrize("kind", TARGETS)
def test_request(kind: str, name: str, load: Import) -> None:
    api, profile = TARGETS[kind]
    adapter = load("gateway.adapters").get(api)
    new_reader = load("gateway.wire.request_reader").RequestReader

    def cost(count: int) -> tuple[int, int]:
        request = message_request(**REQUESTS[name](count))
        data = orjson.dumps(request.body)
        asked = target(api, **profile)
        reader = new_reader()

        def work() -> None:
            for _ in range(2):  # tools that came before go another way
                again = replace(request, body=reader.loads(data))
                prepared = adapter.prepare(again, asked)
                (prepared.translator or partial(adapter.stream_translator, again, asked))()

        return len(data), operations(work)

    assert_linear(cost, 40)


@pytest.mark.parametrize("name", REQUESTS)
def test_first_look(name: str, load: Import) -> None:
    check = load("gateway.translate.request_check").check_request
    measure = load("gateway.translate.token_estimate").measure

    def cost(count: int) -> tuple[int, int]:
        request = message_request(**REQUESTS[name](count))
        return len(orjson.dumps(request.body)), operations(lambda: measure(check(request.body)))

    assert_linear(cost, 40)


# -- routes ----------------------------------------------------------------------------------------------

ASKED = {"a name": "model-7", "a family": "claude-sonnet-5", "a pattern": "gpt-7-mini", "the default": "nobody's"}


@pytest.mark.parametrize("kind", ASKED)
def test_a_route_is_found_at_once_among_many(kind: str, load: Import) -> None:
    routing = load("gateway.routing")
    route = routing.Route("r", (target("openai-chat"),))

    def cost(count: int) -> int:
        names = {f"model-{number}": route for number in range(count)}
        patterns = tuple((f"gpt-{number}-*", route) for number in range(count))
        table = routing.RoutingTable({**names, "sonnet": route, "default": route}, patterns)
        return operations(lambda: table.resolve(ASKED[kind]))

    assert cost(1000) == cost(10)
