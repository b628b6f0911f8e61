"""OllamaStreamTranslator: what the lines of ``/api/chat`` become. (Recorded answers: test_recordings.py.)"""

from __future__ import annotations

import json
import random
from collections.abc import Iterable
from copy import deepcopy
from typing import Any

import pytest

import gateway.adapters
from gateway.adapters.base import MessagesRequest
from gateway.errors import (
    GatewayError,
    InvalidRequest,
    NotFound,
    Overloaded,
    PromptTooLong,
    ProviderNotReady,
    UpstreamFailed,
    UpstreamProtocolError,
)
from gateway.translate.opaque import decode_signature
from tests.grammar import TOOL_ID, Reading, check_stream
from tests.recordings import (
    ASKED,
    MESSAGE_ID,
    TOOLS,
    Answer,
    compare_reading,
    cut,
    splits,
    target_of,
    translate,
    with_profile,
)

ADAPTER = gateway.adapters.get("ollama")
STREAMS = 600
WINDOW = 4096
DONE: dict[str, Any] = {"done": True, "done_reason": "stop", "prompt_eval_count": 26, "eval_count": 9}


def request(**more: Any) -> MessagesRequest:
    body = {"model": ASKED, "max_tokens": 100, "tools": TOOLS, "messages": [{"role": "user", "content": "Hi"}], **more}
    return MessagesRequest(body, {}, "", MESSAGE_ID, 7)


def piece(**message: Any) -> dict[str, Any]:
    return {"model": "up-model", "message": {"role": "assistant", "content": "", **message}, "done": False}


def call(name: str, arguments: Any, **more: Any) -> dict[str, Any]:
    return {"function": {"name": name, "arguments": arguments, **more.pop("function", {})}, **more}


def body_of(lines: Iterable[Any]) -> bytes:
    return b"".join(line if isinstance(line, bytes) else json.dumps(line).encode() + b"\n" for line in lines)


def answer_to(*lines: Any, asked: dict[str, Any] | None = None, **profile: Any) -> Answer:
    """The answer, after the check that no split of the bytes changes it."""
    target = with_profile(target_of("generic", "ollama"), {"context_window": WINDOW, **profile})
    body = body_of(lines)
    asked = asked or {}
    whole = translate(ADAPTER, request(**asked), target, [body])
    reading = check_stream(whole.client_bytes(), ended=bool(whole.output))
    for way, chunks in splits(body).items():
        other = translate(ADAPTER, request(**asked), target, chunks)
        assert (type(other.error), str(other.error)) == (type(whole.error), str(whole.error)), way
        compare_reading(check_stream(other.client_bytes(), ended=bool(other.output)), reading)
    return whole


def reading_of(*lines: Any, asked: dict[str, Any] | None = None, **profile: Any) -> Reading:
    answer = answer_to(*lines, asked=asked, **profile)
    assert answer.error is None, repr(answer.error)
    return check_stream(answer.output)


def failed(*lines: Any, asked: dict[str, Any] | None = None, **profile: Any) -> GatewayError:
    answer = answer_to(*lines, asked=asked, **profile)
    assert answer.output == b""
    assert answer.error is not None
    return answer.error


def blocks(reading: Reading) -> list[tuple[str, str]]:
    """(type, text or name and arguments) of each block."""
    return [
        (block["type"], block.get("text") or block.get("thinking") or f"{block['name']} {block['partial_json']}")
        for block in reading.content
    ]


# -- content ---------------------------------------------------------------------------------------------


def test_r70_thinking_text_and_calls_in_their_order() -> None:
    reading = reading_of(
        piece(thinking="Let "), piece(thinking="me see."), piece(content="I "), piece(content="look."),
        piece(tool_calls=[call("search", {"q": "x"})]), DONE,
    )  # fmt: skip
    assert blocks(reading) == [("thinking", "Let me see."), ("text", "I look."), ("tool_use", 'search {"q":"x"}')]
    assert reading.stop_reason == "tool_use"
    assert decode_signature(reading.content[0]["signature"]) == {
        "p": "generic-server", "m": "up-model", "f": "thinking",
    }  # fmt: skip


def test_r73_all_in_one_line() -> None:
    line = {**DONE, **piece(thinking="Hm.", content="So.", tool_calls=[call("search", {})]), "done": True}
    assert blocks(reading_of(line)) == [("thinking", "Hm."), ("text", "So."), ("tool_use", "search {}")]


def test_r71_carriage_returns_blank_lines_and_no_end_of_the_last_line() -> None:
    text = body_of([piece(content="Zoë "), piece(content="🙂"), DONE]).replace(b"\n", b"\r\n\r\n").rstrip()
    assert blocks(reading_of(b"\xef\xbb\xbf" + text)) == [("text", "Zoë 🙂")]


def test_half_a_surrogate_pair_waits_for_the_other() -> None:
    lines = [rb'{"message":{"content":"a\ud83d"},"done":false}', rb'{"message":{"content":"\ude42"},"done":true}']
    assert blocks(reading_of(b"\n".join(lines))) == [("text", "a🙂")]


def test_r75_think_tags_where_the_profile_expects_them() -> None:
    lines = [piece(content="<thi"), piece(content="nk>\nHm.\n</think>\n\nSo."), DONE]
    assert blocks(reading_of(*lines, think_tags=True)) == [("thinking", "Hm."), ("text", "So.")]
    assert blocks(reading_of(*lines, think_tags=False)) == [("text", "<think>\nHm.\n</think>\n\nSo.")]


def test_r81_blanks_alone_make_no_block() -> None:
    reading = reading_of(piece(content="\n\n"), piece(tool_calls=[call("search", {})]), piece(content=" "), DONE)
    assert blocks(reading) == [("tool_use", "search {}")]


def test_unknown_fields_and_lines_without_a_message_mean_nothing() -> None:
    lines = [{"model": "m", "remote_host": "x", "message": None}, {"logprobs": []}, piece(content="Hi", images=["a"])]
    reading = reading_of(*lines, DONE)
    assert blocks(reading) == [("text", "Hi")]


# -- calls -----------------------------------------------------------------------------------------------


def test_r77_calls_without_ids_are_all_different() -> None:
    """Older servers send no ids and no index; the same name twice is two calls, also with the same arguments."""
    reading = reading_of(
        piece(tool_calls=[call("search", {"q": "a"}), call("search", {"q": "b"})]),
        piece(tool_calls=[call("search", {"q": "c"})]),
        piece(tool_calls=[call("search", {"q": "c"})]),
        DONE,
    )
    assert [text for _, text in blocks(reading)] == [f'search {{"q":"{letter}"}}' for letter in "abcc"]
    ids = [block["id"] for block in reading.content]
    assert len(set(ids)) == 4
    assert all(TOOL_ID.match(tool_id) for tool_id in ids)
    assert all(MESSAGE_ID.removeprefix("msg_") in tool_id for tool_id in ids)


def test_r77_ids_are_kept_and_the_same_call_again_is_the_same() -> None:
    first, second = call("search", {"q": "a"}, id="call_a"), call("search", {"q": "a"}, id="call_b")
    last = {**DONE, **piece(tool_calls=[second]), "done": True}
    reading = reading_of(piece(tool_calls=[first]), piece(tool_calls=[first, second]), last)
    assert [block["id"] for block in reading.content] == ["call_a", "call_b"]


def test_r77_one_id_on_two_different_calls_loses_neither() -> None:
    reading = reading_of(
        piece(tool_calls=[call("search", {"q": "a"}, id="x"), call("search", {"q": "b"}, id="x")]), DONE
    )
    assert [text for _, text in blocks(reading)] == ['search {"q":"a"}', 'search {"q":"b"}']
    assert reading.content[0]["id"] != reading.content[1]["id"]


def test_r77_every_call_on_index_0_is_a_call() -> None:
    lines = [piece(tool_calls=[call("search", {"q": letter}, function={"index": 0})]) for letter in "ab"]
    assert [text for _, text in blocks(reading_of(*lines, DONE))] == ['search {"q":"a"}', 'search {"q":"b"}']


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({}, "{}"),
        (None, "{}"),
        ('{"q": "x"}', '{"q": "x"}'),
        ({"b": 1, "a": {"z": [1, 2.5, None, True]}, "ü": "日本"}, '{"b":1,"a":{"z":[1,2.5,null,true]},"ü":"日本"}'),
        ({"n": 123456789012345678901234567890}, '{"n":123456789012345678901234567890}'),
    ],
)
def test_r79_r80_arguments_leave_once_and_whole(arguments: Any, text: str) -> None:
    lines = [piece(tool_calls=[call("search", arguments)]), DONE]
    assert blocks(reading_of(*lines)) == [("tool_use", f"search {text}")]


def test_a_call_leaves_with_its_line() -> None:
    translator = ADAPTER.stream_translator(request(), target_of("generic", "ollama"))
    out = translator.feed(body_of([piece(tool_calls=[call("search", {"q": "x"})])]))
    assert b'{\\"q\\":\\"x\\"}' in out


def test_names_come_back_as_the_client_knows_them() -> None:
    tools = [{"name": "mcp__a.b__c", "input_schema": {"type": "object"}}]
    prepared = ADAPTER.prepare(request(tools=tools), target_of("generic", "ollama"))
    upstream = json.loads(prepared.body)["tools"][0]["function"]["name"]
    assert upstream != "mcp__a.b__c"
    reading = reading_of(piece(tool_calls=[call(upstream, {})]), DONE, asked={"tools": tools})
    assert reading.content[0]["name"] == "mcp__a.b__c"


@pytest.mark.parametrize("broken", [{"function": {"arguments": {}}}, {"function": None}, {}, "x", 7])
def test_a_call_without_a_name_is_an_error(broken: Any) -> None:
    assert isinstance(failed(piece(tool_calls=[broken]), DONE), UpstreamProtocolError)


# -- the end ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("done_reason", "stop_reason"),
    [("stop", "end_turn"), (None, "end_turn"), ("", "end_turn"), ("STOP", "end_turn"), ("whatever", "end_turn")],
)
def test_r84_an_answer_that_ends(done_reason: str | None, stop_reason: str) -> None:
    reading = reading_of(piece(content="Hi"), {**DONE, "done_reason": done_reason})
    assert reading.stop_reason == stop_reason


def test_r85_length_with_calls_is_no_tool_use() -> None:
    lines = [piece(tool_calls=[call("search", {})]), {**DONE, "done_reason": "length", "eval_count": 100}]
    assert reading_of(*lines).stop_reason == "max_tokens"


def test_a_stop_sequence_of_the_servers_is_not_told() -> None:
    reading = reading_of(piece(content="Hi"), DONE, asked={"stop_sequences": ["END"]}, stop_limit=4)
    assert (reading.stop_reason, reading.stop_sequence) == ("end_turn", None)


def test_r25_one_of_ours_is() -> None:
    lines = [piece(content="one E"), piece(content="ND two"), DONE]
    reading = reading_of(*lines, asked={"stop_sequences": ["END"]}, stop_limit=0)
    assert (reading.stop_reason, reading.stop_sequence) == ("stop_sequence", "END")
    assert blocks(reading) == [("text", "one ")]


def test_the_counts_on_the_line_of_the_stop_sequence_still_count() -> None:
    line = {**DONE, **piece(content="one END"), "done": True}
    reading = reading_of(line, asked={"stop_sequences": ["END"]}, stop_limit=0)
    assert (reading.usage["input_tokens"], reading.usage["output_tokens"]) == (26, 9)


def translated(*lines: Any, **profile: Any) -> Any:
    """The translator after the whole answer."""
    translator = ADAPTER.stream_translator(request(), target_of("generic", "ollama", **profile))
    translator.feed(body_of(lines))
    translator.close()
    return translator


def test_usage_as_reported() -> None:
    usage = translated(piece(content="Hi"), DONE).usage
    assert (usage.input_tokens, usage.output_tokens, usage.estimated) == (26, 9, False)


def test_the_estimate_of_a_cached_prompt_stands() -> None:
    usage = translated(piece(content="Hi"), {"done": True, "eval_count": 9}).usage
    assert (usage.input_tokens, usage.output_tokens, usage.estimated) == (7, 9, True)


def test_r105_no_counts_at_all() -> None:
    usage = translated(piece(content="Hello there"), {"done": True}).usage
    assert usage.estimated
    assert (usage.input_tokens, usage.output_tokens) == (7, 3)


def test_nothing_is_read_after_the_end() -> None:
    reading = reading_of(piece(content="Hi"), DONE, piece(content=" again"), b'{"half')
    assert blocks(reading) == [("text", "Hi")]


# -- a full window ---------------------------------------------------------------------------------------


def full(prompt: int | None, answer: int | None) -> dict[str, Any]:
    counts = {"prompt_eval_count": prompt, "eval_count": answer}
    return {"done": True, "done_reason": "length", **{name: n for name, n in counts.items() if n is not None}}


@pytest.mark.parametrize("line", [full(4096, None), full(4096, 0), full(4095, 1), full(None, None), full(4090, 3)])
@pytest.mark.parametrize("before", [[], [piece(content="\n")]])
def test_an_empty_answer_that_ends_by_length_means_a_full_window(line: Any, before: list[Any]) -> None:
    error = failed(*before, line)
    assert isinstance(error, PromptTooLong)
    tokens, maximum = [int(word) for word in error.message.split() if word.isdigit()][:2]
    assert error.message.startswith(f"prompt is too long: {tokens} tokens > {maximum} maximum")
    assert maximum == WINDOW < tokens


def test_without_a_known_window_there_are_no_numbers() -> None:
    error = failed(full(4096, None), context_window=None)
    assert isinstance(error, PromptTooLong)
    assert error.message.startswith("prompt is too long (")


def test_one_token_that_was_all_markup_is_no_full_window() -> None:
    """Claude Code's first probe asks for one token; a reasoning model spends it on its opening tag."""
    reading = reading_of(full(26, 1), asked={"max_tokens": 1})
    assert (reading.stop_reason, reading.content) == ("max_tokens", [])


def test_a_limit_of_the_servers_own_is_no_full_window() -> None:
    assert reading_of(full(26, 50)).stop_reason == "max_tokens"


def test_num_predict_reached() -> None:
    assert reading_of(piece(content="Hi"), full(26, 100)).stop_reason == "max_tokens"


def test_num_predict_of_the_users() -> None:
    lines = [piece(content="Hi"), full(4050, 40)]
    assert reading_of(*lines, extra_body={"num_predict": 40}).stop_reason == "max_tokens"
    assert reading_of(*lines, extra_body={"num_predict": -1}).stop_reason == "model_context_window_exceeded"


def test_a_window_that_fills_in_the_middle_of_the_answer() -> None:
    reading = reading_of(piece(content="Half an"), full(4046, 50))
    assert reading.stop_reason == "model_context_window_exceeded"
    assert reading_of(piece(thinking="Hm"), full(4046, 50)).stop_reason == "model_context_window_exceeded"


def test_the_window_is_the_one_that_was_asked_for() -> None:
    lines = [piece(content="Half an"), full(4046, 50)]
    assert reading_of(*lines, extra_body={"num_ctx": 8192}).stop_reason == "max_tokens"


# -- errors ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("reason", ["load", "unload"])
def test_a_model_that_was_only_loaded(reason: str) -> None:
    error = failed({"message": {"role": "assistant", "content": ""}, "done": True, "done_reason": reason})
    assert type(error) is UpstreamFailed
    assert f"{reason}ed" in error.message


def test_r87_no_end_is_an_error() -> None:
    assert isinstance(failed(), UpstreamProtocolError)
    assert isinstance(failed(piece(content=" ")), UpstreamProtocolError)
    answer = answer_to(piece(content="Hi"))
    assert answer.output
    assert isinstance(answer.error, UpstreamProtocolError)
    assert "early" in answer.error.message


@pytest.mark.parametrize("size", range(1, len(json.dumps(DONE))))
def test_half_a_line_is_a_cut(size: int) -> None:
    answer = translate(
        ADAPTER,
        request(),
        target_of("generic", "ollama"),
        [body_of([piece(content="Hi")]) + json.dumps(DONE).encode()[:size]],
    )
    assert answer.output
    assert isinstance(answer.error, UpstreamProtocolError)
    assert "early" in answer.error.message


@pytest.mark.parametrize(
    ("body", "text"),
    [
        (b"<html><body>502</body></html>", "HTML"),
        (b"404 page not found\n", "not JSON"),
        (b'[{"message":{"content":"Hi"}}]', "list"),
        (b"7\n", "no object"),
        (b'data: {"choices":[]}\n\n', "not JSON"),
    ],
)
def test_something_else_than_lines_of_objects(body: bytes, text: str) -> None:
    error = failed(body)
    assert isinstance(error, UpstreamProtocolError)
    assert text in error.message
    assert "<" not in error.message


def test_r89_an_error_before_content_is_an_http_error() -> None:
    error = failed({"error": "model runner has unexpectedly stopped"})
    assert type(error) is UpstreamFailed
    assert (error.status, error.message) == (502, "generic-server: model runner has unexpectedly stopped")


def test_r89_after_content_it_is_one_event() -> None:
    answer = answer_to(piece(content="Hi"), {"error": "an error was encountered while running the model"}, DONE)
    reading = check_stream(answer.client_bytes())
    assert reading.error is not None
    assert not reading.finished


RUNNER = {
    "error": {
        "code": 400,
        "message": "request (8203 tokens) exceeds the available context size (4096 tokens), try increasing it",
        "type": "exceed_context_size_error",
        "n_prompt_tokens": 8203,
        "n_ctx": 4096,
    }
}
"""What the runner behind the server says; the server hands it on as the text of its own error."""

OVERFLOWS = [
    ("the input length exceeds the context length", "prompt is too long: 4097 tokens > 4096 maximum"),
    (json.dumps(RUNNER), "prompt is too long: 8203 tokens > 4096 maximum"),
    (
        "the prompt is longer than the context length currently available to the model; shorten the prompt, adjust "
        "the context length in settings, or use a model with a longer context length",
        "prompt is too long: 4097 tokens > 4096 maximum",
    ),
    ("input length (9000 tokens) exceeds the model's maximum context length (4096 tokens)", "prompt is too long: "),
]


@pytest.mark.parametrize(("text", "message"), OVERFLOWS)
def test_r111_every_wording_of_an_overflow(text: str, message: str) -> None:
    target = target_of("generic", "ollama", context_window=WINDOW)
    body = json.dumps({"error": text}).encode()
    error = ADAPTER.translate_error(400, {}, body, request(), target)
    assert isinstance(error, PromptTooLong)
    assert error.message.startswith(message)
    assert "{" not in error.message


@pytest.mark.parametrize(("text", "message"), OVERFLOWS)
def test_r111_also_inside_a_200(text: str, message: str) -> None:
    error = failed({"error": text})
    assert isinstance(error, PromptTooLong)
    assert error.message.startswith(message if text.startswith("{") else "prompt is too long")
    assert "{" not in error.message


@pytest.mark.parametrize(
    ("status", "text", "kind"),
    [
        (404, "model 'qwen3:8b' not found", NotFound),
        (400, '"llama3.2" does not support tools', InvalidRequest),
        (503, "server busy, please try again.  maximum pending requests exceeded", Overloaded),
        (500, "model requires more system memory (9.9 GiB) than is available (3.1 GiB)", UpstreamFailed),
        (401, "unauthorized", ProviderNotReady),
        (500, '{"half', UpstreamFailed),
    ],
)
def test_r117_errors_are_bare_strings(status: int, text: str, kind: type[GatewayError]) -> None:
    body = json.dumps({"error": text, "signin_url": "https://ollama.com/connect?name=x&key=y"}).encode()
    error = ADAPTER.translate_error(status, {}, body, request(), target_of("generic", "ollama"))
    assert type(error) is kind
    assert text in error.message


def test_a_hopeless_prompt_is_refused_before_an_old_server_cuts_it() -> None:
    target = target_of("generic", "ollama", context_window=WINDOW)
    body = request().body
    fits = MessagesRequest(body, {}, "", MESSAGE_ID, WINDOW * 3 // 2)
    assert json.loads(ADAPTER.prepare(fits, target).body)["truncate"] is False
    with pytest.raises(PromptTooLong, match="prompt is too long: 6145 tokens > 4096 maximum"):
        ADAPTER.prepare(MessagesRequest(body, {}, "", MESSAGE_ID, WINDOW * 3 // 2 + 1), target)
    unknown = target_of("generic", "ollama", context_window=None)
    ADAPTER.prepare(MessagesRequest(body, {}, "", MESSAGE_ID, 1 << 20), unknown)


def test_images_alone_make_no_prompt_hopeless() -> None:
    image = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "aWNvbg=="}}
    body = {**request().body, "messages": [{"role": "user", "content": [image] * 10}]}
    target = target_of("generic", "ollama", context_window=WINDOW)
    ADAPTER.prepare(MessagesRequest(body, {}, "", MESSAGE_ID, 16_100), target)


DEEP = '{"a":' * 300 + "1" + "}" * 300


@pytest.mark.parametrize(
    "line",
    [
        f'{{"message":{{"tool_calls":[{{"function":{{"name":"search","arguments":{DEEP}}}}}]}}}}',
        r'{"message":{"tool_calls":[{"id":"a\ud83d","function":{"name":"f\ud83d","arguments":{"q\ud83d":"\ud83d"}}}]}}',
        r'{"message":{"tool_calls":[{"id":"a","function":{"name":"f","arguments":["\ud83d", 1e999, NaN]}}]}}',
        '{"message":{"thinking":7,"content":["x"],"tool_calls":{"a":1}}}',
        f'{{"error":{DEEP}}}',
        r'{"error":"{\"error\":\"\\ud83d\"}"}',
        '{"error":"{}"}',
        '{"done":true,"done_reason":7,"prompt_eval_count":1e300,"eval_count":-5}',
        '{"done":true,"done_reason":"length","prompt_eval_count":NaN,"eval_count":[1]}',
        f'{{"x":{"1" * 5000},"message":{{"content":"Hi"}}}}',
    ],
)
def test_hostile_lines(line: str) -> None:
    for lines in ([line], [json.dumps(piece(content="Hi")), line]):
        target = target_of("generic", "ollama")
        body = "\n".join([*lines, json.dumps(DONE)]).encode()
        answer = translate(ADAPTER, request(), target, [body])
        reading = check_stream(answer.client_bytes(), ended=bool(answer.output))
        assert reading.finished or answer.error is not None
        if answer.error is not None:
            answer.error.envelope("req_1")


def test_r92_leaked_calls_are_healed_where_the_profile_says_so() -> None:
    leaked = '<tool_call>\n{"name": "search", "arguments": {"q": "x"}}\n</tool_call>'
    lines = [piece(content=leaked[:9]), piece(content=leaked[9:]), DONE]
    form = {"open": "<tool_call>", "close": "</tool_call>", "form": "json"}
    assert [kind for kind, _ in blocks(reading_of(*lines))] == ["text"]
    assert [kind for kind, _ in blocks(reading_of(*lines, leaked_calls=(form,)))] == ["tool_use"]


# -- properties ------------------------------------------------------------------------------------------


def random_answer(seed: int) -> tuple[list[Any], str, str, list[tuple[str, Any]]]:
    """(lines, the text, the thinking, the calls) of a legal answer."""
    draw = random.Random(seed)
    words = ["Hi", " there", "\n", "é", "🙂", "\u2028", "<b>", "{", '"', "\\", "a\tb", " ", ""]
    lines: list[Any] = []
    text, thinking, calls = "x", "", []
    lines.append(piece(content="x"))
    for _ in range(draw.randrange(12)):
        kind = draw.choice(["text", "thinking", "call", "both", "nothing"])
        words_now = "".join(draw.choices(words, k=3))
        if kind in ("text", "both"):
            text += words_now
            lines.append(piece(content=words_now))
        if kind == "thinking":
            thinking += words_now
            lines.append(piece(thinking=words_now))
        if kind in ("call", "both"):
            several = []
            for _ in range(draw.randrange(1, 4)):
                arguments = {draw.choice("abc"): draw.choice([1, None, "x\n", [1.5], {"k": "🙂"}]), "n": len(calls)}
                name = draw.choice(["search", "write"])
                calls.append((name, arguments))
                more = {"id": f"call_{len(calls)}"} if draw.random() < 0.5 else {}
                several.append(call(name, arguments, **more))
            lines.append(piece(tool_calls=several))
        if kind == "nothing":
            lines.append(draw.choice([piece(), b"\n", b"\r\n", {"model": "m"}]))
    lines.append(DONE)
    return lines, text, thinking, calls


def test_nothing_is_lost_and_no_split_matters() -> None:
    target = target_of("generic", "ollama", think_tags=False)
    for seed in range(STREAMS):
        lines, text, thinking, calls = random_answer(seed)
        body = body_of(lines)
        answer = translate(ADAPTER, request(), target, [body])
        assert answer.error is None, seed
        reading = check_stream(answer.output)
        got = [(b["name"], json.loads(b["partial_json"])) for b in reading.content if b["type"] == "tool_use"]
        assert got == calls, seed
        for kind, wanted in (("text", text), ("thinking", thinking)):
            joined = "".join(block[kind] for block in reading.content if block["type"] == kind)
            assert "".join(joined.split()) == "".join(wanted.split()), seed
        if seed % 3 == 0:
            other = translate(ADAPTER, request(), target, cut(body, seed))
            compare_reading(check_stream(other.output), reading)


def test_garbage_gives_only_errors_of_ours() -> None:
    target = target_of("generic", "ollama")
    draw = random.Random(20261121)
    junk: list[Any] = [None, 7, "x", [], {}, [[]], {"a": 1}, True, -1.5, "\ud800"]
    for seed in range(600):
        lines = random_answer(seed)[0]
        for _ in range(3):
            line = draw.choice([line for line in lines if isinstance(line, dict)])
            holder = draw.choice([line, line.get("message")])
            if isinstance(holder, dict):
                name = draw.choice(["message", "content", "thinking", "tool_calls", "done", "done_reason", "error"])
                holder[name] = deepcopy(draw.choice(junk))
        body = body_of(lines)
        if seed % 2:
            at = draw.randrange(len(body))
            body = body[:at] + draw.randbytes(3) + body[at + draw.randrange(20) :]
        answer = translate(ADAPTER, request(), target, cut(body, seed))
        check_stream(answer.client_bytes(), ended=bool(answer.output))
