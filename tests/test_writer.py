"""MessageStreamWriter: whatever the order of the calls, the event grammar holds and nothing is lost."""

from __future__ import annotations

import json
import random
from collections.abc import Callable

import pytest

from gateway.errors import Overloaded, UpstreamProtocolError
from gateway.translate.usage import Usage
from gateway.translate.writer import PING, MessageStreamWriter, error_event
from tests.grammar import check_stream, joined, read_events


def new() -> MessageStreamWriter:
    return MessageStreamWriter("msg_1", "sonnet", 12)


def blocks(writer: MessageStreamWriter) -> list[tuple[str, str]]:
    """(kind, content) of each block of a finished writer."""
    return [
        (block["type"], block.get("text") or block.get("thinking") or block.get("partial_json") or "")
        for block in check_stream(writer.take()).content
    ]


def test_an_answer_with_everything() -> None:
    writer = new()
    writer.thinking("hm")
    writer.signature("sig")
    writer.text("Hello")
    writer.text(", world")
    writer.tool_call(0, "call_1", "get", '{"a":')
    writer.tool_call(0, "call_1", "get", "1}")
    writer.usage(Usage(5, 3, 2, 9))
    writer.finish("tool_use")
    reading = check_stream(writer.take())
    assert reading.start is not None
    assert (reading.start["id"], reading.start["model"]) == ("msg_1", "sonnet")
    assert reading.start["usage"]["input_tokens"] == 12
    assert reading.content == [
        {"type": "thinking", "thinking": "hm", "signature": "sig"},
        {"type": "text", "text": "Hello, world"},
        {"type": "tool_use", "id": "call_1", "name": "get", "partial_json": '{"a":1}'},
    ]
    assert reading.stop_reason == "tool_use"
    assert reading.usage == {
        "input_tokens": 5,
        "cache_read_input_tokens": 3,
        "cache_creation_input_tokens": 2,
        "output_tokens": 9,
    }


def test_nothing_is_written_before_there_is_something_to_say() -> None:
    writer = new()
    writer.text("")
    writer.thinking("")
    writer.text(" \n")
    writer.usage(Usage(1, 0, 0, 1))
    assert writer.take() == b""
    writer.text("x")
    assert writer.take().startswith(b"event: message_start\n")


def test_each_delta_leaves_at_once() -> None:
    writer = new()
    pushes: list[Callable[[], None]] = [
        lambda: writer.text("a"),
        lambda: writer.text("b"),
        lambda: writer.thinking("c"),
        lambda: writer.tool_call("k", "i", "n", "{"),
        lambda: writer.tool_call("k", "i", "n", '"a"'),
    ]
    for push in pushes:
        push()
        assert read_events(writer.take())[-1][0] == "content_block_delta"
    assert writer.take() == b""


def test_an_empty_answer_is_still_a_message() -> None:
    writer = new()
    writer.finish("end_turn")
    reading = check_stream(writer.take())
    assert reading.content == []
    assert reading.usage["input_tokens"] == 12
    assert reading.usage["output_tokens"] >= 1


def test_unreported_usage_is_estimated_from_what_was_written() -> None:
    writer = new()
    writer.text("word " * 400)
    usage = writer.finish("end_turn")
    assert usage.estimated
    assert 200 <= check_stream(writer.take()).usage["output_tokens"] <= 1000


def test_the_stop_sequence_is_named() -> None:
    writer = new()
    writer.text("x")
    writer.finish("stop_sequence", "</end>")
    assert check_stream(writer.take()).stop_sequence == "</end>"


def test_interleaved_calls_leave_one_after_another() -> None:
    writer = new()
    writer.tool_call(0, "a", "f", '{"x":')
    writer.tool_call(1, "b", "g", '{"y":"')
    writer.text("note")
    writer.tool_call(1, "b", "g", '}"}')
    writer.tool_call(2, "c", "h", "{}")
    writer.tool_call(0, "a", "f", "1}")
    writer.finish("tool_use")
    assert blocks(writer) == [
        ("tool_use", '{"x":1}'),
        ("tool_use", '{"y":"}"}'),
        ("text", "note"),
        ("tool_use", "{}"),
    ]


def test_a_finished_call_holds_nothing_back() -> None:
    writer = new()
    writer.tool_call(0, "a", "f", '{"x":1}')
    writer.take()
    writer.text("now")
    assert [name for name, _ in read_events(writer.take())] == [
        "content_block_stop",
        "content_block_start",
        "content_block_delta",
    ]


def test_what_was_held_back_leaves_with_the_end_of_the_call() -> None:
    writer = new()
    writer.tool_call(0, "a", "f", '{"x":')
    writer.take()
    writer.text("held")
    assert writer.take() == b""
    writer.tool_call(0, "a", "f", "1}")
    assert b"held" in writer.take()


def test_a_call_that_is_cut_short_keeps_its_bytes() -> None:
    writer = new()
    writer.tool_call(0, "a", "f", '{"x":"aaa')
    writer.tool_call(1, "b", "g", '{"y":')
    writer.finish("max_tokens")
    assert blocks(writer) == [("tool_use", '{"x":"aaa'), ("tool_use", '{"y":')]


@pytest.mark.parametrize("arguments", ["", "null", " "])
def test_no_arguments_are_an_empty_object(arguments: str) -> None:
    writer = new()
    writer.tool_call(0, "a", "f", arguments)
    writer.finish("tool_use")
    content = check_stream(writer.take()).content
    assert json.loads(content[0]["partial_json"] or "{}") == {}


def test_arguments_that_are_no_object_are_kept() -> None:
    writer = new()
    writer.tool_call(0, "a", "f", "not ")
    writer.tool_call(0, "a", "f", "json")
    writer.finish("tool_use")
    assert blocks(writer) == [("tool_use", "not json")]


def test_arguments_after_the_end_of_a_closed_call_are_refused() -> None:
    writer = new()
    writer.tool_call(0, "a", "f", "{}")
    writer.text("x")
    writer.tool_call(0, "a", "f", " \n")
    with pytest.raises(UpstreamProtocolError, match="f"):
        writer.tool_call(0, "a", "f", '{"b":1}')


def test_a_run_of_whitespace_makes_no_block() -> None:
    writer = new()
    writer.thinking("\n")
    writer.text("\n\n")
    writer.tool_call(0, "a", "f", "{}")
    writer.text(" ")
    writer.tool_call(1, "b", "f", "{}")
    writer.text("\n")
    writer.finish("tool_use")
    assert blocks(writer) == [("tool_use", "{}"), ("tool_use", "{}")]


def test_whitespace_inside_a_run_is_kept() -> None:
    writer = new()
    for piece in ("\n", " ", "a", " ", "\n\n", "b", " "):
        writer.text(piece)
    writer.finish("end_turn")
    assert blocks(writer) == [("text", "\n a \n\nb ")]


def test_half_a_character_waits_for_its_other_half() -> None:
    writer = new()
    writer.text("a\ud83d")
    writer.text("\ude42b")
    writer.tool_call(0, "i", "f", '{"x":"\ud83d')
    writer.tool_call(0, "i", "f", '\ude42"}')
    writer.finish("tool_use")
    assert blocks(writer) == [("text", "a🙂b"), ("tool_use", '{"x":"🙂"}')]


def test_a_character_that_stays_half_is_replaced() -> None:
    writer = new()
    writer.text("a\ud83db")
    writer.text("c\ude42")
    writer.finish("end_turn")
    assert blocks(writer) == [("text", "a\ufffdbc\ufffd")]


def test_a_character_cut_off_by_the_end_leaves_its_mark() -> None:
    writer = new()
    writer.text("a\ud83d")
    writer.finish("max_tokens")
    assert blocks(writer) == [("text", "a\ufffd")]


def test_an_error_ends_the_stream_with_the_block_left_open() -> None:
    """A client runs a tool when its block is closed: half a call must never be."""
    writer = new()
    writer.tool_call(0, "a", "f", '{"x":')
    out = writer.take() + error_event(Overloaded("busy"), "req_1")
    reading = check_stream(out)
    assert reading.error == {"type": "overloaded_error", "message": "busy"}
    assert reading.open


def test_a_ping_is_an_event() -> None:
    assert read_events(PING) == [("ping", {"type": "ping"})]


def test_finish_is_called_once() -> None:
    writer = new()
    writer.finish("end_turn")
    with pytest.raises(AssertionError):
        writer.finish("end_turn")


def test_any_order_of_calls_gives_a_correct_stream() -> None:
    for seed in range(800):
        play(random.Random(seed), seed)


def play(draw: random.Random, seed: int) -> None:
    writer = new()
    out = b""
    texts, thoughts = "", ""
    waiting = {
        key: pieces(draw, json.dumps({"k": key, "v": '}{"' * draw.randint(0, 3)})) for key in range(draw.randint(0, 4))
    }
    wanted = {f"id{key}": "".join(parts) for key, parts in waiting.items()}
    for _ in range(draw.randint(0, 60)):
        action = draw.randrange(6)
        if action == 0:
            piece = draw.choice(["a", " b", "c ", "x\ty"])
            texts += piece
            writer.text(piece)
        elif action == 1:
            piece = draw.choice(["p", " q"])
            thoughts += piece
            writer.thinking(piece)
        elif action == 2 and draw.random() < 0.2:
            writer.signature("s")
        elif waiting:
            key = draw.choice(list(waiting))
            writer.tool_call(key, f"id{key}", "f", waiting[key].pop(0))
            if not waiting[key]:
                del waiting[key]
        if draw.random() < 0.5:
            out += writer.take()
            if seed % 40 == 0:
                check_stream(out, ended=False)
    for key, parts in waiting.items():
        for part in parts:
            writer.tool_call(key, f"id{key}", "f", part)
    writer.finish("tool_use")
    reading = check_stream(out + writer.take())
    calls = {block["id"]: block["partial_json"] for block in reading.content if block["type"] == "tool_use"}
    assert calls == wanted, seed
    assert joined(reading, "text").replace(" ", "") == texts.replace(" ", ""), seed
    assert joined(reading, "thinking").replace(" ", "") == thoughts.replace(" ", ""), seed


def pieces(draw: random.Random, text: str) -> list[str]:
    found = []
    while text:
        size = draw.randint(1, 9)
        found.append(text[:size])
        text = text[size:]
    return found
