"""Tools that came before are not parsed again, and nobody can tell: the same values, errors and bytes up."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import gateway.adapters
from gateway.adapters.base import MessagesRequest
from gateway.errors import GatewayError
from gateway.wire import request_reader
from gateway.wire.json_text import loads_request
from gateway.wire.request_reader import (
    LEAST_BYTES,
    MAX_BYTES,
    MAX_MADE,
    MAX_SETS,
    RequestReader,
    SharedTools,
    dumps_with_tools,
    tools_json,
)
from tests.recordings import presets, target_of, with_profile
from tests.targets import preset_target

CAPTURES = sorted((Path(__file__).parent / "captures").glob("*.json"))


def made_tools(count: int = 3, text: str = "What it does. ") -> list[Any]:
    schema = {"type": "object", "properties": {"tools": {"type": "array", "items": {"type": "string"}}}}
    return [{"name": f"tool_{place}", "description": text * 40, "input_schema": schema} for place in range(count)]


TOOLS = orjson.dumps(made_tools())
OTHER = orjson.dumps(made_tools(2, "Something else, as long as the other. "))
BODY = b'{"model":"sonnet","messages":[{"role":"user","content":"Hi"}],"tools":' + TOOLS + b',"max_tokens":9}'


def knowing(*bodies: bytes) -> RequestReader:
    reader = RequestReader()
    for body in bodies or (BODY,):
        reader.loads(body)
    return reader


def outcome(loads: Any, data: bytes) -> tuple[str, str]:
    try:
        return "value", repr(json.loads(json.dumps(loads(data))))
    except ValueError as error:
        return "error", str(error)


def shared(reader: RequestReader, data: bytes) -> bool:
    """Whether the body's tools are those of ``BODY``, and not merely equal to them."""
    body = reader.loads(data)
    return isinstance(body, dict) and body.get("tools") is reader.loads(BODY)["tools"]


def test_tools_that_came_before_are_the_same_object() -> None:
    reader = knowing()
    first, second = reader.loads(BODY), reader.loads(BODY.replace(b'"Hi"', b'"Hello"'))
    assert first["tools"] is second["tools"]
    assert isinstance(first["tools"], SharedTools)
    assert first["tools"] == json.loads(TOOLS)
    assert first is not second
    assert second["messages"][0]["content"] == "Hello"


def test_the_first_body_already_knows_its_tools_as_json() -> None:
    tools = RequestReader().loads(BODY)["tools"]
    assert isinstance(tools, SharedTools)
    assert tools_json(tools) is tools.json
    assert tools.json == TOOLS == tools_json(list(tools))


FOUND = {
    "as it came": BODY,
    "last": b'{"model":"m","tools":' + TOOLS + b"}",
    "white space at the end": BODY + b" \r\n",
    "white space within": BODY.replace(b'"sonnet",', b' "sonnet" ,\n').replace(b',"max_tokens":', b', "max_tokens" : '),
    "escapes": BODY.replace(b'"model"', rb'"m\u006fdel"').replace(b'"Hi"', rb'"\ud83d\ude00 \"tools\":[]"'),
    "named before as well": BODY.replace(b'"model"', b'"tools":7,"model"'),
    "a name before and behind": BODY.replace(b'"model"', b'"max_tokens":1,"model"'),
    "large numbers": BODY.replace(b":9}", b':123456789012345678901234567890,"x":-0.0,"y":1e300}'),
    "brackets behind": BODY.replace(b":9}", b':9,"edits":[{"type":"x"}],"more":[{"a":[{}]}]}'),
}


@pytest.mark.parametrize("data", FOUND.values(), ids=FOUND)
def test_known_tools_are_found(data: bytes) -> None:
    reader = knowing()
    assert shared(reader, data)
    assert outcome(reader.loads, data) == outcome(loads_request, data)
    assert list(reader.loads(data)) == list(loads_request(data))
    assert dumps_with_tools(reader.loads(data)) == orjson.dumps(loads_request(data))


NOT_THEIRS = {
    "another list": BODY.replace(TOOLS, OTHER),
    "one tool more": BODY.replace(TOOLS, TOOLS[:-1] + b',{"name":"z"}]'),
    "one tool less": BODY.replace(TOOLS, orjson.dumps(made_tools(2))),
    "named again behind": BODY.replace(b":9}", b':9,"tools":[]}'),
    "named again behind, escaped": BODY.replace(b":9}", rb':9,"t\u006fols":null}'),
    "a field of an object": b'{"model":"m","x":{"a":1,"tools":' + TOOLS + b"}}",
    "a field of an object, more behind": b'{"model":"m","x":{"a":1,"tools":' + TOOLS + b',"b":2},"c":3}',
    "a field of an object in a list": b'{"model":"m","x":[{"a":1,"tools":' + TOOLS + b',"b":2},{"c":3}]}',
    "a list of one body": b"[" + BODY + b"]",
    "in a string": b'{"model":"m","x":' + orjson.dumps("," + (b'"tools":' + TOOLS).decode()) + b"}",
    "another name": BODY.replace(b',"tools":', b',"toolz":'),
    "no name": b'{"model":"m","x":[1,' + TOOLS + b"]}",
    "the first member": b'{"tools":' + TOOLS + b',"model":"m"}',
    "a half of a character": BODY.replace(b'"Hi"', rb'"\ud83d"'),
    "half a character behind": BODY.replace(b":9}", rb':"\ude00"}'),
}


@pytest.mark.parametrize("data", NOT_THEIRS.values(), ids=NOT_THEIRS)
def test_what_only_looks_like_known_tools_is_parsed(data: bytes) -> None:
    reader = knowing()
    assert not shared(reader, data)
    assert outcome(reader.loads, data) == outcome(loads_request, data)
    assert outcome(loads_request, data)[0] == "value"


NO_JSON = {
    "cut behind the tools": BODY[: BODY.index(TOOLS) + len(TOOLS)],
    "cut behind a comma": BODY[: BODY.index(TOOLS) + len(TOOLS) + 1],
    "a comma too many before": BODY.replace(b',"tools":', b',,"tools":'),
    "a comma too many behind": BODY.replace(b',"max_tokens":9}', b",}"),
    "two commas behind": BODY.replace(b',"max_tokens":9}', b',,"max_tokens":9}'),
    "no comma behind": BODY.replace(b',"max_tokens":9}', b'"max_tokens":9}'),
    "only a comma before": b'{,"tools":' + TOOLS + b',"max_tokens":9}',
    "a brace too many behind": BODY + b"}",
    "a brace too few": BODY[:-1],
    "two bodies": BODY + BODY,
    "a bracket for the brace": BODY[:-1] + b"]",
    "nothing before": b',"tools":' + TOOLS + b"}",
    "a list before": b'["model","m","tools":' + TOOLS + b"]",
    "a value before": b'1,"tools":' + TOOLS + b"}",
    "a whole object before": b'{"model":"m"},"tools":' + TOOLS + b"}",
    "a mistake before": BODY.replace(b'"sonnet"', b"sonnet"),
    "a mistake behind": BODY.replace(b":9}", b":9.}"),
    "an open string before": BODY.replace(b'"content":"Hi"', b'"content":"Hi'),
    "a half of a character and a mistake": BODY.replace(b'"Hi"', rb'"\ud83d'),
    "broken UTF-8": BODY.replace(b'"Hi"', b'"\xff"'),
    "broken UTF-8 behind": BODY.replace(b":9}", b':"\xc3"}'),
    "a number runs on": BODY.replace(b',"max_tokens":9}', b"0}"),
}


@pytest.mark.parametrize("data", NO_JSON.values(), ids=NO_JSON)
def test_a_mistake_is_told_as_without_known_tools(data: bytes) -> None:
    assert outcome(loads_request, data)[0] == "error"
    assert outcome(knowing().loads, data) == outcome(loads_request, data)


PIECES = st.sampled_from(
    (
        *(b"{", b"}", b"[", b"]", b",", b":", b'"', b"\\", b" ", b"\n", b"0", b"null", b"\xff", b'"\\ud800"', b"1e400"),
        *(b'"a":1', b'"a":{"b":[1]}', b'"tools":', b',"tools":', b'"t\\u006fols":', TOOLS, b',"tools":' + TOOLS, OTHER),
        *(b"{}", b"[]", b"[{}]", b'"x"', b'{"a":1}', b'"a":', b"-0.0", b"123456789012345678901234567890"),
    )
)


def spelled(value: Any) -> bytes:
    return json.dumps(value).encode()


def compact(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()


@st.composite
def bodies(draw: st.DrawFn) -> bytes:
    """A body with known tools somewhere, or what some mistakes left of one."""
    keys = st.sampled_from(("model", "messages", "tools", "x", '"tools":', "tool\u0073", "é"))
    values = st.recursive(
        st.one_of(st.none(), st.integers(), st.text(max_size=3), st.floats(allow_nan=False, allow_infinity=False)),
        lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(keys, inner, max_size=3)),
        max_leaves=4,
    )
    known = st.sampled_from((TOOLS, OTHER))
    texts = st.one_of(values.map(spelled), values.map(compact), known)
    members = draw(st.lists(st.tuples(keys.map(orjson.dumps), texts), max_size=4))
    members.insert(draw(st.integers(0, len(members))), (b'"tools":'[:-1], draw(known)))
    pieces = [b"{"]
    for name, text in members:
        pieces += [name, draw(st.sampled_from((b":", b": ", b" :"))), text, draw(st.sampled_from((b",", b",\n")))]
    pieces[-1] = b"}"
    for _ in range(draw(st.integers(0, 2))):
        place = draw(st.integers(0, len(pieces)))
        pieces[place : place + draw(st.integers(0, 2))] = draw(st.lists(PIECES, max_size=2))
    return b"".join(pieces)


@settings(max_examples=200, deadline=None)
@given(bodies())
def test_any_body_reads_as_without_known_tools(data: bytes) -> None:
    reader = knowing(BODY, BODY.replace(TOOLS, OTHER))
    expected = outcome(loads_request, data)
    assert outcome(reader.loads, data) == expected
    assert outcome(reader.loads, data) == expected  # now with what the first look remembered
    if expected[0] == "value":
        assert dumps_with_tools(reader.loads(data)) == orjson.dumps(loads_request(data))


# -- what is remembered --------------------------------------------------------------------------------


def test_tools_spelled_otherwise_are_not_remembered() -> None:
    """They would go up in other bytes than they came in, and would be looked for in vain."""
    spaced = json.dumps(json.loads(BODY)).encode()
    escaped = BODY.replace(b"What", rb"\u0057hat")
    numbers = BODY.replace(b'"array"', b'"array","maxItems":1e1')
    for data in (spaced, escaped, numbers):
        reader = knowing(data)
        assert reader.loads(data)["tools"] is not reader.loads(data)["tools"]
        assert dumps_with_tools(reader.loads(data)) == orjson.dumps(orjson.loads(data))
        assert not reader._known


def test_short_and_huge_lists_are_not_remembered() -> None:
    short = b'{"model":"m","tools":[{"name":"a"}]' + b" " * LEAST_BYTES + b"}"
    huge = BODY.replace(TOOLS, orjson.dumps(made_tools(MAX_BYTES // 400)))
    for data in (short, huge):
        reader = knowing(data)
        assert reader.loads(data)["tools"] == orjson.loads(data)["tools"]
        assert not reader._known


@pytest.mark.parametrize("value", [None, 7, "x", {}, [], {"name": "a"}])
def test_tools_that_are_no_list_stay_as_they_are(value: Any) -> None:
    body = RequestReader().loads(b'{"tools":%b}' % orjson.dumps(value))
    assert body == {"tools": value}
    assert type(body["tools"]) is type(value)


def test_tools_too_deep_to_be_written_stay_as_they_are() -> None:
    data = BODY.replace(b'"What', b'%b1%b,"x":"What' % (b'{"a":' * 300, b"}" * 300))
    reader = knowing(data)
    assert type(reader.loads(data)["tools"]) is list
    assert not reader._known


def test_what_was_not_seen_for_longest_is_forgotten() -> None:
    bodies = [BODY.replace(b"tool_0", b"tool_%d" % number) for number in range(10, 10 + MAX_SETS + 1)]
    reader = knowing(*bodies[:-1])
    kept = reader.loads(bodies[0])["tools"]
    reader.loads(bodies[-1])
    assert len(reader._known) == MAX_SETS
    assert reader.loads(bodies[0])["tools"] is kept
    assert not any(b"tool_11" in tools.json for tools in reader._known)


def test_its_bytes_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(request_reader, "MAX_BYTES", len(TOOLS) * 5)
    reader = knowing(*(BODY.replace(b"tool_0", b"tool_%d" % number) for number in range(10, 30)))
    assert len(reader._known) == 4
    assert reader._bytes == sum(len(tools.json) for tools in reader._known)


def test_one_body_seen_again_and_again_is_remembered_once() -> None:
    half = BODY.replace(b'"Hi"', rb'"\ud83d"')  # known tools in a body that must be parsed whole
    reader = knowing(BODY, half, half, BODY)
    assert len(reader._known) == 1


def test_what_was_made_of_tools_is_made_once() -> None:
    tools = SharedTools([], b"[]")
    made = [tools.once("a", object), tools.once("b", object), tools.once("a", object)]
    assert made[0] is made[2]
    assert made[0] is not made[1]
    assert tools.once("nothing", lambda: None) is None
    for number in range(MAX_MADE):
        tools.once(number, object)
    assert len(tools._made) <= MAX_MADE
    assert tools.once("a", object) is not made[0]


# -- what goes up --------------------------------------------------------------------------------------


def anthropic_targets() -> list[Any]:
    """One model of every built-in provider that speaks the Messages API, and servers with odd wishes."""
    named = [
        name for name, section in presets().items() if "anthropic" in (section.get("api"), *(section.get("apis") or ()))
    ]
    generic = target_of("generic", "anthropic")
    odd: list[dict[str, Any]] = [
        {"keep_betas": False, "reserved_tool_names": ("Read",), "drop_tool_fields": ("type", "defer_loading")},
        {"cache": "none", "tool_choice": "string", "schema_dropped": ("additionalProperties",)},
    ]
    return [
        *(preset_target(name, "anthropic", "some-model") for name in named),
        *(with_profile(generic, profile) for profile in ({}, *odd)),
    ]


def sent(body: Any, target: Any) -> tuple[Any, ...]:
    request = MessagesRequest(body, {"anthropic-beta": "x"}, "beta=true", "msg_1", 9)
    try:
        upstream = gateway.adapters.get(target.api).prepare(request, target)
    except GatewayError as error:
        return (error.message,)
    return upstream.url, upstream.body, dict(upstream.headers), list(upstream.changes)


def captured(path: Path) -> dict[str, Any]:
    """The body that a client sent."""
    body: dict[str, Any] | None = json.loads(path.read_text(encoding="utf-8"))["body"]
    return body or {}


def test_known_tools_change_nothing_that_goes_up() -> None:
    """Real requests, to every kind of upstream; and whoever works with shared tools leaves them as they are."""
    others = [target_of("generic", api) for api in ("openai-chat", "openai-responses", "ollama")]
    targets = [*anthropic_targets(), *others]
    with_tools = [body for body in map(captured, CAPTURES) if body.get("tools")]
    bodies = list({orjson.dumps(body["tools"]): orjson.dumps(body) for body in with_tools}.values())  # each list once
    reader = knowing(*bodies)
    assert len(reader._known) > 5
    for data in bodies:
        for target in targets:
            plain = sent(loads_request(data), target)
            assert sent(reader.loads(data), target) == plain
            assert sent(reader.loads(data), target) == plain  # from what the first time remembered
        assert orjson.dumps(reader.loads(data)) == data
    assert all(orjson.dumps(tools) == tools.json for tools in reader._known)


@pytest.mark.parametrize(
    "wish",
    [
        {"keep_betas": True},
        {"server_tools": True},
        {"cache": "none"},
        {"drop_tool_fields": ("strict",)},
        {"schema_rewrites": ("object_root",)},
        {"schema_dropped": ("pattern",)},
        {"reserved_tool_names": ("tool_0",)},
    ],
    ids=lambda wish: next(iter(wish)),
)
def test_what_one_upstream_was_sent_is_not_sent_to_another(wish: dict[str, Any]) -> None:
    tool, other, last = made_tools()
    tool.update(strict=True, cache_control={"type": "ephemeral"})
    other["input_schema"] = {"anyOf": [{"type": "object", "properties": {"a": {"type": "string", "pattern": "a"}}}]}
    tools = [tool, other, last, {"type": "web_search_20250305", "name": "web_search"}, {"name": "loaded"}]
    data = BODY.replace(TOOLS, orjson.dumps(tools))
    first = with_profile(target_of("generic", "anthropic"), {"keep_betas": False})
    second = with_profile(first, wish)
    reader = knowing(data)
    for target in (first, second, first):
        assert sent(reader.loads(data), target) == sent(loads_request(data), target)
    assert sent(reader.loads(data), first) != sent(reader.loads(data), second)


@pytest.mark.parametrize("fields", [(), ("defer_loading",)])
def test_deferred_tools_follow_the_conversation(fields: tuple[str, ...]) -> None:
    """What loaded them is not among the tools, so nothing of it is remembered with them."""
    tools = [{**tool, "defer_loading": True} for tool in made_tools()] + [{"name": "a", "input_schema": {}}]
    target = with_profile(target_of("generic", "anthropic"), {"keep_betas": False, "drop_tool_fields": fields})
    reader = RequestReader()
    for name in ("tool_0", "tool_2", "tool_1"):
        result = {"type": "tool_result", "tool_use_id": "t", "content": [{"type": "tool_reference", "tool_name": name}]}
        data = BODY.replace(TOOLS, orjson.dumps(tools)).replace(b'"Hi"', orjson.dumps([result]))
        assert sent(reader.loads(data), target) == sent(loads_request(data), target)


def test_a_growing_conversation_keeps_its_prefix_from_the_first_turn_on() -> None:
    """The first turn finds nothing known, later ones do."""
    data = orjson.loads(BODY)
    turns = [{"role": ("user", "assistant")[number % 2], "content": f"é {number}"} for number in range(5)]
    for target in anthropic_targets():
        reader = RequestReader()
        before = b""
        for count in (1, 3, 5):
            body = sent(reader.loads(orjson.dumps({**data, "messages": turns[:count]})), target)[1]
            assert body.startswith(before)
            before = body[: body.index(f"é {count - 1}".encode())]
