"""What upstreams document about their requests, checked. The rules are data: tests/cases/upstream_rules.yaml.

Rules:
* No provider is known here. A row names a provider, an API and models; its rules lie over those of the API,
  those of a model over the row's (``more_…`` keys add to a list instead).
* Everything that is not allowed is refused, also where the real server would pass over it without a word.
* All breaches are told, not the first one.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from tests.fakes import strict_chat, strict_responses
from tests.fakes.upstream_answers import Dialect
from tests.fakes.upstream_messages import message_breaches, ollama_breaches
from tests.fakes.upstream_schemas import schema_breaches
from tests.recordings import load_yaml, presets

JSON = dict[str, Any]
TABLE = Path(__file__).parents[1] / "cases" / "upstream_rules.yaml"
ABSENT = object()
MARKS = ("cache_control", "prompt_cache_breakpoint")


@dataclass(frozen=True)
class Upstream:
    """One model at one provider over one API."""

    provider: str
    api: str
    model: str
    rules: Mapping[str, Any]
    dialect: Dialect

    @property
    def name(self) -> str:
        return f"{self.provider}-{self.api}-{self.model}"


@cache
def table() -> JSON:
    loaded: JSON = load_yaml(TABLE)
    return loaded


@cache
def upstreams() -> tuple[Upstream, ...]:
    """Every model of every row; a profile that has no row is held to the rules of its API alone."""
    found = []
    for row in (*table()["upstreams"], *unlisted()):
        assert row["source"], row
        for model, own in row["models"].items():
            rules: JSON = {}
            for layer in (table()["wires"][row["api"]], row.get("rules", {}), own or {}):
                rules = laid_over(rules, layer)
            dialect = Dialect(**rules.get("answers", {}))
            found.append(Upstream(row["provider"], row["api"], str(model), rules, dialect))
    return tuple(found)


def unlisted() -> Iterator[JSON]:
    """Rows for the profiles, and the APIs of profiles, that the table does not name."""
    listed = {(row["provider"], row["api"]) for row in table()["upstreams"]}
    for name, section in presets().items():
        for api in sorted({section["api"], *(section.get("apis") or {})} - {"echo"}):
            if (name, api) not in listed:
                yield {"provider": name, "api": api, "source": "its API", "models": {"some-model": None}}


def laid_over(rules: JSON, layer: JSON) -> JSON:
    """``layer`` over ``rules``: objects are joined one level deep, ``more_NAME`` lengthens the list NAME."""
    out = dict(rules)
    for name, value in layer.items():
        if name.startswith("more_"):
            out[name[5:]] = [*out.get(name[5:], ()), *value]
        elif isinstance(value, dict) and isinstance(out.get(name), dict):
            out[name] = {**out[name], **value}
        else:
            out[name] = value
    return out


def breaches(upstream: Upstream, headers: Mapping[str, str], raw: bytes) -> list[str]:
    """Every rule that a request breaks, in words."""
    body = json.loads(raw)
    lower = {name.lower(): value for name, value in headers.items()}
    found = [*_whole(upstream.rules, body, lower), *_tools(upstream.rules, body)]
    return found + list(_WIRES[upstream.api](upstream.rules, body, lower, raw))


# -- the body as a whole ---------------------------------------------------------------------------------


def look_up(body: Any, dotted: str) -> Any:
    """The value at a place; digits count in a list."""
    for name in dotted.split("."):
        if isinstance(body, list) and name.isdigit() and int(name) < len(body):
            body = body[int(name)]
        elif isinstance(body, dict) and name in body:
            body = body[name]
        else:
            return ABSENT
    return body


def fits(value: Any, wanted: Any) -> bool:
    """``"*"``: anything that is there; null: not there; a list: one of these; least, most, pattern; else equal."""
    if wanted is None or value is ABSENT:
        return value is ABSENT and wanted is None
    if wanted == "*":
        return True
    if isinstance(wanted, list):
        return value in wanted
    if isinstance(wanted, dict) and ("least" in wanted or "most" in wanted):
        number = isinstance(value, int | float) and not isinstance(value, bool)
        return number and wanted.get("least", value) <= value <= wanted.get("most", value)
    if isinstance(wanted, dict) and "pattern" in wanted:
        return isinstance(value, str) and re.fullmatch(wanted["pattern"], value) is not None
    return bool(value == wanted)


def choice_kind(choice: Any) -> Any:
    """``auto``, ``none``, ``required``, ``any``, ``named``; ABSENT where there is none."""
    if isinstance(choice, dict):
        kind = choice.get("type")
        return "named" if kind in ("function", "tool") else kind
    return choice


def _whole(rules: Mapping[str, Any], body: JSON, headers: Mapping[str, str]) -> Iterator[str]:
    allowed = rules["fields"]
    yield from (f"{name}: no such field" for name in body if name not in allowed)
    for name, inner in rules.get("inner_fields", {}).items():
        value = look_up(body, name)
        if isinstance(value, dict):
            yield from (f"{name}.{key}: no such field" for key in value if key not in inner)
    kind = choice_kind(body["tool_choice"]) if "tool_choice" in body else ABSENT
    view = {**body, "headers": dict(headers), **({"choice": kind} if kind is not ABSENT else {})}
    for dotted, wanted in rules.get("must", {}).items():
        if not fits(look_up(view, dotted), wanted):
            yield f"{dotted}: {_shown(look_up(view, dotted))}, not {wanted}"
    for dotted, wanted in rules.get("values", {}).items():
        value = look_up(view, dotted)
        if value is not ABSENT and not fits(value, wanted):
            yield f"{dotted}: {_shown(value)}, not {wanted}"
    for condition in rules.get("conditions", ()):
        if not all(fits(look_up(view, path), wanted) for path, wanted in condition.get("if", {}).items()):
            continue
        if "unless" in condition and all(fits(look_up(view, p), w) for p, w in condition["unless"].items()):
            continue
        for dotted, wanted in condition.get("refused", {}).items():
            if fits(look_up(view, dotted), wanted):
                yield f"{dotted}: {_shown(look_up(view, dotted))}: {condition['why']}"
        for dotted, wanted in condition.get("must", {}).items():
            if not fits(look_up(view, dotted), wanted):
                yield f"{dotted}: {_shown(look_up(view, dotted))}: {condition['why']}"
    text = json.dumps(body)
    if rules.get("billing_block") != "kept" and "x-anthropic-billing-header" in text:
        yield "the billing block goes up"
    marks = [name for name in MARKS if f'"{name}"' in text]
    limit = rules.get("cache_marks", {})
    yield from (f"{name}: marks mean nothing here" for name in marks if name != limit.get("name"))
    if limit and text.count(f'"{limit["name"]}"') > limit["most"]:
        yield f"{text.count(limit['name'])} cache marks, at most {limit['most']}"
    if limit and not limit.get("scope") and '"scope"' in text:
        yield "cache_control.scope: not known"


def _shown(value: Any) -> str:
    return "absent" if value is ABSENT else json.dumps(value)[:100]


@cache
def _of_schema(schema: str, rules: str) -> tuple[str, ...]:
    """The same few schemas go up hundreds of times."""
    return tuple(schema_breaches(json.loads(schema), json.loads(rules)))


def _tools(rules: Mapping[str, Any], body: JSON) -> Iterator[str]:
    tools = body.get("tools")
    if tools is None:
        if "tool_choice" in body:
            yield "tool_choice: no tools are offered"
        return
    if not tools and (rules.get("empty_content") == "refused" or "function_fields" in rules):
        yield "tools: an empty list"
    if len(tools) > rules.get("tools_most", 10_000):
        yield f"{len(tools)} tools, at most {rules['tools_most']}"
    names = []
    for tool in tools:
        flat = tool.get("function") if isinstance(tool.get("function"), dict) else tool
        name = flat.get("name", "")
        names.append(name)
        yield from (f"tools.{name}.{key}: no such field" for key in tool if key not in rules["tool_fields"])
        if flat is not tool:
            known = rules["function_fields"]
            yield from (f"tools.{name}.function.{key}: no such field" for key in flat if key not in known)
        if rules.get("tool_type", tool.get("type")) != tool.get("type"):
            yield f"tools.{name}.type: {tool.get('type')}"
        if not re.fullmatch(rules["tool_name"], name) or name in rules.get("tool_names_refused", ()):
            yield f"tools.{name}: a name that is refused"
        schema = flat.get("parameters", flat.get("input_schema"))
        told = _of_schema(json.dumps(schema), json.dumps(rules.get("schema", {})))
        yield from (f"tools.{name}: {text}" for text in told)
    if len(set(names)) != len(names):
        yield "two tools of one name"
    kind = choice_kind(body.get("tool_choice", "auto"))
    if kind not in rules["tool_choice"]:
        yield f"tool_choice: {kind}, not one of {rules['tool_choice']}"
    if "tool_choice" in body and kind == "auto" and rules.get("auto_said") == "refused":
        yield "tool_choice: auto has to be left out"


# -- chat completions ------------------------------------------------------------------------------------


def _chat(rules: Mapping[str, Any], body: JSON, headers: Mapping[str, str], raw: bytes) -> Iterator[str]:
    yield from _systems(rules, [message.get("role") for message in body["messages"]])
    waiting: list[str] = []
    used: set[str] = set()
    before = ""
    for index, message in enumerate(body["messages"]):
        path, role = f"messages[{index}]", message.get("role")
        if role not in rules["roles"]:
            yield f"{path}.role: {role}"
            continue
        allowed = rules["message_fields"][role]
        yield from (f"{path}.{name}: no such field" for name in message if name not in allowed)
        yield from _content(rules, message, role, path)
        if role == "tool":
            identity = message.get("tool_call_id")
            if identity not in waiting:
                yield f"{path}: no call {identity!r} right before it"
            else:
                waiting.remove(identity)
            if "tool_name" in rules.get("demands", ()) and not message.get("name"):
                yield f"{path}.name: a result names its tool"
        elif waiting:
            yield f"{path}: the calls {waiting} have no result"
            waiting = []
        if role == "assistant":
            yield from _calls(rules, message, path, used, waiting)
            yield from _reasoning(rules, message, path)
        if before == "tool" and role not in rules.get("after_tool", rules["roles"]):
            yield f"{path}: role {role} right after a tool message"
        if before == role and role in rules.get("alternating", ()):
            yield f"{path}: two messages of role {role} in a row"
        before = str(role)
    if waiting:
        yield f"the calls {waiting} have no result"


def _systems(rules: Mapping[str, Any], roles: list[Any]) -> Iterator[str]:
    places = [at for at, role in enumerate(roles) if role in ("system", "developer")]
    if rules["systems"] == "one" and places not in ([], [0]):
        yield f"system messages at {places}: only one, in front"
    if rules["systems"] == "leading" and places != list(range(len(places))):
        yield f"system messages at {places}: only in front"


def _content(rules: Mapping[str, Any], message: JSON, role: str, path: str) -> Iterator[str]:
    forms = rules["content"][role]
    content = message.get("content", ABSENT)
    form = "list" if isinstance(content, list) else "string" if isinstance(content, str) else "null"
    if content is ABSENT or (form == "null" and content is not None):
        form = "none"
    if form == "null" and not message.get("tool_calls"):
        yield f"{path}.content: null without a call"
    if form == "string" and not content and not message.get("tool_calls") and role != "assistant":
        yield f"{path}.content: empty"
    if form not in forms:
        yield f"{path}.content: a {form}, not {forms}"
    if form != "list":
        return
    if not content:
        yield f"{path}.content: an empty list"
    for at, part in enumerate(content):
        kind = part.get("type")
        if kind not in rules["parts"][role]:
            yield f"{path}.content[{at}]: {kind} for role {role}"
        elif kind == "text" and not part.get("text"):
            yield f"{path}.content[{at}].text: empty"
        elif kind == "image_url":
            yield from _image(rules, part["image_url"]["url"], f"{path}.content[{at}]")
        extra = [key for key in part if key not in ("type", kind, *MARKS)]
        yield from (f"{path}.content[{at}].{key}: no such field" for key in extra)


def _image(rules: Mapping[str, Any], url: str, path: str) -> Iterator[str]:
    data = re.match(r"data:(image/\w+);base64,[A-Za-z0-9+/]+={0,2}$", url)
    form = "data" if data else "url"
    if form not in rules["images"]:
        yield f"{path}: an image as {form}"
    if data and data[1] not in rules.get("image_types", (data[1],)):
        yield f"{path}: {data[1]}"


def _calls(rules: Mapping[str, Any], message: JSON, path: str, used: set[str], waiting: list[str]) -> Iterator[str]:
    calls = message.get("tool_calls")
    if calls == []:
        yield f"{path}.tool_calls: an empty list"
    for at, call in enumerate(calls or ()):
        where = f"{path}.tool_calls[{at}]"
        yield from (f"{where}.{key}: no such field" for key in call if key not in rules["call_fields"])
        identity, function = call.get("id", ""), call.get("function", {})
        if not re.fullmatch(rules["tool_id"], identity):
            yield f"{where}.id: {identity!r}"
        if identity in used:
            yield f"{where}.id: {identity!r} stands for two calls"
        used.add(identity)
        waiting.append(identity)
        if not re.fullmatch(rules["tool_name"], function.get("name", "")):
            yield f"{where}.function.name: {function.get('name')!r}"
        try:
            legal = isinstance(json.loads(function.get("arguments", "")), dict)
        except (ValueError, TypeError):
            legal = False
        if not legal:
            yield f"{where}.function.arguments: no JSON object in a string"
        needed = rules.get("first_call_needs")
        if needed and at == 0 and not call.get(needed):
            yield f"{where}.{needed}: missing on the first call of a turn"


def _reasoning(rules: Mapping[str, Any], message: JSON, path: str) -> Iterator[str]:
    demand = rules.get("reasoning_turns")
    if not demand or (demand["turns"] == "calls" and not message.get("tool_calls")):
        return
    value = message.get(demand["field"], ABSENT)
    if not isinstance(value, str) or value in demand.get("refused", ()):
        yield f"{path}.{demand['field']}: {_shown(value)}, and it must be there"


# -- the other wires ----------------------------------------------------------------------------------------


def _responses(rules: Mapping[str, Any], body: JSON, headers: Mapping[str, str], raw: bytes) -> Iterator[str]:
    reasoning_text = rules.get("reasoning_items") == "text"
    bearer = {**headers, "authorization": "Bearer test-key"}
    # Sampling beside reasoning is refused by some only: a matter of the row's conditions.
    rest = {name: value for name, value in body.items() if name not in ("temperature", "top_p")}
    try:
        strict_responses.check(json.dumps(rest).encode(), bearer, key="test-key", reasoning_text=reasoning_text)
    except strict_chat.Violation as error:
        yield str(error)
    roles = [item.get("role") for item in body["input"]]
    yield from _systems(rules, [role for role in roles if role])
    yield from (f"input.role: {role}" for role in set(roles) - {None} if role not in rules["roles"])
    for at, item in enumerate(body["input"]):
        if item["type"] == "reasoning" and rules.get("reasoning_items", "none") == "none":
            yield f"input[{at}]: a reasoning item"
        if item["type"] == "function_call" and not re.fullmatch(rules["tool_id"], item["call_id"]):
            yield f"input[{at}].call_id: {item['call_id']!r}"
        parts = item.get("output") if item["type"] == "function_call_output" else item.get("content")
        if isinstance(parts, list) and item["type"] != "reasoning":
            place = "output" if item["type"] == "function_call_output" else item.get("role", "")
            for part in parts:
                if part["type"] not in rules["parts"][place]:
                    yield f"input[{at}]: {part['type']} for {place}"
                if part["type"] == "input_image":
                    yield from _image(rules, part["image_url"], f"input[{at}]")


def _ollama(rules: Mapping[str, Any], body: JSON, headers: Mapping[str, str], raw: bytes) -> Iterator[str]:
    yield from _systems(rules, [message.get("role") for message in body["messages"]])
    yield from ollama_breaches(rules, body["messages"])


def _anthropic(rules: Mapping[str, Any], body: JSON, headers: Mapping[str, str], raw: bytes) -> Iterator[str]:
    system = body.get("system")
    form = "string" if isinstance(system, str) else "blocks"
    if system is not None and form not in rules["system"]:
        yield f"system: {form}"
    if form == "blocks":
        known = rules["system_fields"]
        for block in system or ():
            yield from (f"system.{key}: no such field" for key in block if key not in known)
    betas = headers.get("anthropic-beta", "")
    yield from (f"anthropic-beta: {beta}" for beta in betas.split(",") if re.search(rules["betas_refused"], beta))
    yield from message_breaches(rules, body["messages"])


_WIRES: dict[str, Callable[[Mapping[str, Any], JSON, Mapping[str, str], bytes], Iterator[str]]] = {
    "openai-chat": _chat,
    "openai-responses": _responses,
    "ollama": _ollama,
    "anthropic": _anthropic,
}
