"""One conversation of ten turns through every profile: no request that the upstream's documented rules refuse, the
prompt of a turn stable in the next, reasoning back where it belongs and nowhere else.

Data: tests/cases/conversation.yaml and tests/cases/upstream_rules.yaml. A new profile needs no Python.
"""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Iterator
from typing import Any

import pytest

from gateway.routing import Target
from tests.fakes import strict_chat
from tests.fakes.conversation import FOREIGN_THOUGHTS, HIGH, Conversation, prepared
from tests.fakes.upstream_rules import MARKS, Upstream, breaches, look_up, table, upstreams
from tests.recordings import presets, with_profile
from tests.targets import preset_target
from tests.test_requests import tuples

JSON = dict[str, Any]
each = pytest.mark.parametrize("upstream", upstreams(), ids=lambda upstream: upstream.name)


def target_for(upstream: Upstream) -> Target:
    return preset_target(upstream.provider, upstream.api, upstream.model)


@each
def test_ten_turns(upstream: Upstream) -> None:
    told = defects(upstream, target_for(upstream))
    assert not told, "\n".join(f"{turn}: {text}" for text, turn in told.items())


def defects(upstream: Upstream, target: Target) -> dict[str, str]:
    """What is wrong with the requests of the conversation -> the turn in which it was first seen."""
    conversation = Conversation(upstream, target)
    found: list[str] = []
    before: JSON = {}
    for number, body in enumerate(conversation.requests(), start=1):
        request = prepared(target, body)
        found += [f"turn {number}: {breach}" for breach in breaches(upstream, request.headers, request.body)]
        wire = json.loads(request.body)
        found += [f"turn {number}: {text}" for text in unstable(before, wire, request.body)]
        found += [f"turn {number}: {text}" for text in lost(upstream, wire, conversation.back)]
        if not upstream.rules.get("signed"):
            raw = request.body.decode()
            found += [f"turn {number}: {text} goes up" for text in FOREIGN_THOUGHTS if text in raw]
        elif FOREIGN_THOUGHTS[0] in request.body.decode():
            found.append(f"turn {number}: {FOREIGN_THOUGHTS[0]} goes up")
        before = wire
    strict_chat.parse(request.body)
    again = prepared(target, body)
    assert (request.body, request.headers) == (again.body, again.headers)
    return {text: turn for turn, _, text in (line.partition(": ") for line in reversed(found))}


def prompt(wire: JSON) -> list[JSON]:
    """The messages or items, without cache marks: a client moves those from turn to turn, and nothing else."""
    items = wire.get("input", wire.get("messages", []))
    stripped: list[JSON] = without_marks(items)
    return stripped


def without_marks(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: without_marks(item) for name, item in value.items() if name not in MARKS}
    return [without_marks(item) for item in value] if isinstance(value, list) else value


def marked(wire: JSON) -> bool:
    return any(f'"{name}"' in json.dumps(wire) for name in MARKS)


def unstable(before: JSON, after: JSON, raw: bytes) -> Iterator[str]:
    """What of the last turn's prompt is not the beginning of this one's, byte for byte but for cache marks."""
    if not before:
        return
    for name in ("system", "instructions", "tools"):
        if json.dumps(before.get(name)) != json.dumps(after.get(name)):
            yield f"{name} changed"
    items = before.get("input") or before["messages"]
    start = json.dumps(items, ensure_ascii=False, separators=(",", ":"))[:-1]
    if not marked(before) and f":{start}," in raw.decode():
        return
    old, new = prompt(before), prompt(after)
    if len(new) < len(old):
        yield f"{len(new)} messages after {len(old)}"
    for at, (one, two) in enumerate(zip(old, new, strict=False)):
        if json.dumps(one) != json.dumps(two):
            yield f"message {at} changed: {json.dumps(one)[:200]} -> {json.dumps(two)[:200]}"
            return
    if not marked(before):
        yield "the bytes of the last turn's messages do not stand in this one"


def lost(upstream: Upstream, wire: JSON, back: list[JSON]) -> Iterator[str]:
    """Own reasoning that is not where the upstream wants it, byte for byte; or that is there though it wants none."""
    wanted = upstream.rules["back"]
    text = json.dumps(wire, ensure_ascii=False)
    messages = wire.get("input") or wire["messages"]
    for reasoning in back:
        place = reasoning["place"] if wanted in ("as_it_came", "block", "parts", "call_signature") else wanted
        value = reasoning["value"]
        if wanted == "none":
            if reasoning["think"] and json.dumps(reasoning["think"], ensure_ascii=False)[1:-1] in text:
                yield f"{reasoning['think']!r} goes up, and is not taken back"
            continue
        if place == "tags" and reasoning["place"] != "tags":
            value = reasoning["think"]
        if not any(holds(message, place, value) for message in messages):
            yield f"{value!r} is not in {place}"


def holds(message: JSON, place: str, value: Any) -> bool:
    """Whether one message or item gives ``value`` back at ``place``."""
    if place == "item":
        return bool(message == value)
    if message.get("role") != "assistant":
        return False
    content: Any = message.get("content")
    if place == "tags":
        tagged = isinstance(content, str) and content.startswith("<think>")
        return tagged and (content.startswith(value) or f">\n{value}\n</think>" in content)
    if place in ("parts", "block"):
        return isinstance(content, list) and value in content
    if place == "extra_content":
        return any(call.get(place) == value for call in message.get("tool_calls") or ())
    return bool(message.get(place) == value)


# -- the parameters ----------------------------------------------------------------------------------------


BODIES: dict[tuple[str, int], str] = {}


def body_of_turn(upstream: Upstream, number: int) -> JSON:
    """The client's request of one turn."""
    key = (upstream.name, number)
    if key not in BODIES:
        requests = enumerate(Conversation(upstream, target_for(upstream)).requests(), start=1)
        BODIES[key] = json.dumps(next(body for turn, body in requests if turn == number))
    body: JSON = json.loads(BODIES[key])
    return body


THINKING: dict[str, JSON] = {
    "nothing said": {},
    "disabled": {"thinking": {"type": "disabled"}},
    "adaptive": {"thinking": {"type": "adaptive"}},
    **{f"effort {level}": {"thinking": {"type": "adaptive"}, "output_config": {"effort": level}}
       for level in ("low", "medium", "high", "xhigh", "max")},
    "effort alone": {"output_config": {"effort": "low"}},
    "small budget": {"thinking": {"type": "enabled", "budget_tokens": 1024}},
    "large budget": {"thinking": {"type": "enabled", "budget_tokens": 31_999}},
}  # fmt: skip
CHOICES: dict[str, JSON] = {
    "no choice": {},
    "auto": {"tool_choice": {"type": "auto"}},
    "one at a time": {"tool_choice": {"type": "auto", "disable_parallel_tool_use": True}},
    "any": {"tool_choice": {"type": "any"}},
    "named": {"tool_choice": {"type": "tool", "name": "Bash"}},
    "none": {"tool_choice": {"type": "none"}},
}
OTHERS: dict[str, JSON] = {
    "sampling": {"temperature": 0.7, "top_p": 0.9, "top_k": 40},
    "temperature 1": {"temperature": 1},
    "one stop": {"stop_sequences": ["\n\nHuman:"]},
    "five stops": {"stop_sequences": ["a1", "b1", "c1", "d1", "e1"]},
    "no tools": {"tools": []},
    "probe": {"max_tokens": 1},
    "structured": {
        "output_config": {
            "format": {"type": "json_schema", "schema": {"type": "object", "properties": {"a": {"type": "string"}}}}
        }
    },
    "new fields": {"service_tier": "auto", "mcp_servers": [], "container": None, "speed": "fast"},
}


@each
def test_every_way_of_asking(upstream: Upstream) -> None:
    """Thinking, tool choice, sampling, stops: each combination that a client can send is one that is taken."""
    target = target_for(upstream)
    base = body_of_turn(upstream, 2)
    for name in ("thinking", "output_config"):
        base.pop(name)
    base["tools"] = [tool for tool in base["tools"] if tool["name"] in ("Read", "Bash")]
    found: dict[str, str] = {}
    asked = {f"{t}, {c}": {**THINKING[t], **CHOICES[c]} for t in THINKING for c in ("no choice", "any", "named")}
    asked |= {f"effort high, {c}": {**HIGH, **CHOICES[c]} for c in CHOICES}
    asked |= {name: OTHERS[name] for name in OTHERS}
    asked |= {f"{name}, effort high": merged(HIGH, OTHERS[name]) for name in OTHERS}
    if upstream.rules.get("own_client"):
        # What Anthropic refuses itself is the client's affair, but for thinking and a forced choice (R48).
        asked = {name: fields for name, fields in asked.items() if "new" not in name and "structured" not in name}
    usual = prepared(target, {**base, **HIGH})
    known = set(breaches(upstream, usual.headers, usual.body))  # test_ten_turns tells of those
    for name, fields in asked.items():
        request = prepared(target, {**base, **fields})
        for breach in breaches(upstream, request.headers, request.body):
            if breach not in known:
                found.setdefault(breach, name)
    assert not found, "\n".join(f"{name}: {breach}" for breach, name in found.items())


def merged(one: JSON, two: JSON) -> JSON:
    return {**one, **two, "output_config": {**one.get("output_config", {}), **two.get("output_config", {})}}


# -- who asks --------------------------------------------------------------------------------------------------


@each
def test_the_billing_block_changes_nothing(upstream: Upstream) -> None:
    """R1: two requests that differ only in it give the same bytes, for every profile but Anthropic's own."""
    first = body_of_turn(upstream, 2)
    second = copy.deepcopy(first)
    second["system"][0]["text"] = second["system"][0]["text"].replace("a1b2c", "99999").replace("16a", "17b")
    one, two = prepared(target_for(upstream), first), prepared(target_for(upstream), second)
    same = (one.body, one.headers) == (two.body, two.headers)
    assert same is (upstream.rules.get("billing_block") != "kept")


@each
def test_another_session_changes_only_what_names_it(upstream: Upstream) -> None:
    """R26: the prompt stays the same bytes; only the documented places may tell sessions apart."""
    first = body_of_turn(upstream, 2)
    other = {"user_id": '{"device_id":"d1","account_uuid":"","session_id":"99999999-0000-4000-8000-000000000000"}'}
    one = prepared(target_for(upstream), first)
    two = prepared(target_for(upstream), {**first, "metadata": other})
    views = [{**json.loads(request.body), "headers": dict(request.headers)} for request in (one, two)]
    allowed = upstream.rules.get("identity", ())
    for view in views:
        for place in allowed:
            outer, _, name = place.rpartition(".")
            (view[outer] if outer else view).pop(name, None)
    assert views[0] == views[1]
    if not allowed:
        assert one.body == two.body


# -- the checks themselves ----------------------------------------------------------------------------------


def test_every_row_is_about_a_profile() -> None:
    known = {(name, api) for name, section in presets().items() for api in (section["api"], *section.get("apis", ()))}
    assert {(row["provider"], row["api"]) for row in table()["upstreams"]} <= known
    assert {upstream.provider for upstream in upstreams()} == set(presets()) - {"echo"}
    assert len({upstream.name for upstream in upstreams()}) == len(upstreams())


@pytest.mark.parametrize("case", table()["breaches"], ids=lambda case: case["says"])
def test_the_checker_sees_it(case: JSON) -> None:
    """A good request, spoiled in one place, is a breach."""
    upstream = next(upstream for upstream in upstreams() if upstream.name == case["upstream"])
    request = prepared(target_for(upstream), body_of_turn(upstream, 10))
    body = json.loads(request.body)
    for place, value in case["set"].items():
        outer, _, name = place.rpartition(".")
        holder = look_up(body, outer) if outer else body
        if isinstance(holder, list):
            holder[int(name)] = value
        elif value is None:
            holder.pop(name)
        else:
            holder[name] = value
    found = breaches(upstream, {**request.headers, **case.get("headers", {})}, json.dumps(body).encode())
    assert any(re.search(case["says"], breach) for breach in found), found


@pytest.mark.parametrize("case", table()["wrong_profiles"], ids=lambda case: f"{case['upstream']}: {case['says']}")
def test_a_wrong_profile_is_seen(case: JSON) -> None:
    """With one fact of the profile taken back, the conversation breaks the rule that the fact is there for."""
    upstream = next(upstream for upstream in upstreams() if upstream.name == case["upstream"])
    told = defects(upstream, with_profile(target_for(upstream), tuples(case["profile"])))
    assert any(re.search(case["says"], text) for text in told), told
