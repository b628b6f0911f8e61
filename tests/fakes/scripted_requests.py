"""Requests of every wire in one shape: who spoke, which calls were made, what was thought before them.

Rules:
* Pure. A request that its wire's strict check took can be read here.
* ``view`` has Chat Completions' names, so that scenarios and background requests are found in it alike.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

JSON = dict[str, Any]

BRIDGE = "Understood."
"""What a gateway puts between a tool's result and a user's text where an upstream demands it; no turn of the model."""


@dataclass(slots=True)
class PastTurn:
    """One answer of the model in the history."""

    calls: list[str] = field(default_factory=list)
    """The upstream's ids."""
    reasoning: Any = None
    """As it stands there; None: there is none."""


@dataclass(slots=True)
class Asked:
    """One request."""

    view: JSON
    """``messages`` (role, content), and what there is of ``response_format``, ``stop``, ``max_tokens``, ``tools``."""
    turns: list[PastTurn]


def read(api: str, body: JSON) -> Asked:
    """The request of one wire."""
    return _READERS[api](body)


def images(value: Any) -> Iterator[str]:
    """The base64 of every image in a request, wherever it stands."""
    if isinstance(value, list):
        for item in value:
            yield from images(item)
    elif isinstance(value, dict):
        url = value.get("image_url")
        url = url.get("url") if isinstance(url, dict) else url
        if isinstance(url, str):
            yield url.partition(";base64,")[2]
        if value.get("type") == "image":
            yield value["source"]["data"]
        for name, item in value.items():
            if name == "images":
                yield from item
            else:
                yield from images(item)


def _chat(body: JSON) -> Asked:
    turns, messages = [], []
    for message in body["messages"]:
        if message["role"] == "assistant":
            turn = PastTurn([call["id"] for call in message.get("tool_calls", ())], message.get("reasoning_content"))
            content = message.get("content")
            for part in content if isinstance(content, list) else ():
                if part["type"] == "thinking":
                    turn.reasoning = part
            if content == BRIDGE and not turn.calls:
                continue
            turns.append(turn)
        messages.append(message)
    kept = ("response_format", "stop", "max_tokens", "max_completion_tokens", "tools")
    return Asked(_view(messages, {name: body[name] for name in kept if name in body}), turns)


def _responses(body: JSON) -> Asked:
    """Neighbouring items of the model are one turn."""
    turns: list[PastTurn] = []
    messages: list[JSON] = []
    open_turn = False
    for item in body["input"]:
        kind = item["type"]
        own = kind in ("reasoning", "function_call") or item.get("role") == "assistant"
        if own and not open_turn:
            turns.append(PastTurn())
            messages.append({"role": "assistant", "content": ""})
        open_turn = own
        if kind == "reasoning":
            turns[-1].reasoning = [*(turns[-1].reasoning or ()), item]
        elif kind == "function_call":
            turns[-1].calls.append(item["call_id"])
        elif not own and kind == "message":
            messages.append({"role": item["role"], "content": _texts(item["content"])})
    rest: JSON = {"tools": body.get("tools"), "max_tokens": body.get("max_output_tokens")}
    form = body.get("text", {}).get("format", {})
    if form.get("type") == "json_schema":
        rest["response_format"] = {"json_schema": {"schema": form["schema"]}}
    return Asked(_view(messages, rest), turns)


def _ollama(body: JSON) -> Asked:
    turns = [
        PastTurn([call["id"] for call in message.get("tool_calls", ())], message.get("thinking"))
        for message in body["messages"]
        if message["role"] == "assistant"
    ]
    options = body["options"]
    rest: JSON = {"tools": body.get("tools"), "stop": options.get("stop"), "max_tokens": options.get("num_predict")}
    if isinstance(body.get("format"), dict):
        rest["response_format"] = {"json_schema": {"schema": body["format"]}}
    return Asked(_view(body["messages"], rest), turns)


def _anthropic(body: JSON) -> Asked:
    turns = []
    for message in body["messages"]:
        if message["role"] == "assistant":
            blocks = message["content"] if isinstance(message["content"], list) else []
            calls = [block["id"] for block in blocks if block["type"] == "tool_use"]
            turns.append(PastTurn(calls, [block for block in blocks if block["type"] == "thinking"] or None))
    system = {"role": "system", "content": _texts(body.get("system") or "")}
    rest = {"tools": body.get("tools"), "stop": body.get("stop_sequences"), "max_tokens": body["max_tokens"]}
    return Asked(_view([system, *body["messages"]], rest), turns)


def _view(messages: list[JSON], rest: Mapping[str, Any]) -> JSON:
    view = {"messages": messages, **{name: value for name, value in rest.items() if value is not None}}
    told = " ".join(_texts(message.get("content") or "") for message in messages if message["role"] == "user")
    if "response_format" not in view and "tools" not in view and "Write the title in" in told:
        # Not every upstream takes a schema; what is asked for is the same.
        view["response_format"] = {"json_schema": {"schema": {"properties": {"title": {}}}}}
    return view


def _texts(content: Any) -> str:
    if isinstance(content, str):
        return content
    return "\n".join(part["text"] for part in content if isinstance(part.get("text"), str))


_READERS: dict[str, Callable[[JSON], Asked]] = {
    "openai-chat": _chat,
    "openai-responses": _responses,
    "ollama": _ollama,
    "anthropic": _anthropic,
}
