"""The checks that api.openai.com makes on a request to ``/v1/responses``, and a few that it should make.

Rules:
* Pure: bytes and headers in, the first violation out (strict_chat.py has the common parts).
* Stateless requests only: what refers to something stored is refused.
* Stricter than the original where leniency would hide a gateway's defect: ``strict`` left out (it would mean
  true), ``status`` on a reasoning item, a past message without its id or status (as OpenRouter demands),
  results that do not follow their answer at once, empty text, duplicate keys, lone surrogates.
* ``reasoning_text``: a server of open models, which takes reasoning back as text.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from tests.fakes.strict_chat import (
    IMAGE_MAGIC,
    NAME,
    Violation,
    check_parameters,
    check_strict_schema,
    decoded,
    known,
    parse,
    require,
)

TOP_LEVEL = frozenset({
    "model", "input", "instructions", "tools", "tool_choice", "parallel_tool_calls", "max_tool_calls",
    "max_output_tokens", "temperature", "top_p", "top_logprobs", "stream", "stream_options", "reasoning", "text",
    "store", "include", "metadata", "user", "safety_identifier", "prompt_cache_key", "prompt_cache_options",
    "prompt_cache_retention", "service_tier", "truncation", "background", "moderation",
})  # fmt: skip
EFFORTS = frozenset({"none", "minimal", "low", "medium", "high", "xhigh", "max"})
INCLUDES = frozenset({"reasoning.encrypted_content", "message.output_text.logprobs", "message.input_image.image_url"})
ITEM_KEYS: Mapping[str, frozenset[str]] = {
    "message": frozenset({"type", "role", "content", "phase", "id", "status"}),
    "function_call": frozenset({"type", "call_id", "name", "arguments", "id", "status"}),
    "function_call_output": frozenset({"type", "call_id", "output", "id", "status"}),
    "reasoning": frozenset({"type", "id", "summary", "content", "encrypted_content"}),
}
PART_KEYS: Mapping[str, frozenset[str]] = {
    "input_text": frozenset({"type", "text", "prompt_cache_breakpoint"}),
    "input_image": frozenset({"type", "image_url", "file_id", "detail", "prompt_cache_breakpoint"}),
    "input_file": frozenset({
        "type", "filename", "file_data", "file_url", "file_id", "detail", "prompt_cache_breakpoint",
    }),
    "output_text": frozenset({"type", "text", "annotations", "logprobs"}),
    "refusal": frozenset({"type", "refusal"}),
}  # fmt: skip
INPUT_PARTS = frozenset({"input_text", "input_image", "input_file"})
OUTPUT_PARTS = frozenset({"output_text", "refusal"})
NOT_FOLLOWED = "Item of type 'reasoning' was provided without its required following item."
BREAKPOINTS = 4
LEAST_OUTPUT_TOKENS = 16
LONGEST_CALL_ID = 64


def check(body: bytes, headers: Mapping[str, str], *, key: str, reasoning_text: bool = False) -> dict[str, Any]:
    """The parsed request. Raises Violation. Header names are lower-case."""
    if headers.get("authorization") != f"Bearer {key}":
        raise Violation(None, "Incorrect API key provided", status=401, code="invalid_api_key")
    if headers.get("content-type", "").split(";")[0] != "application/json":
        raise Violation(None, "you must send Content-Type: application/json")
    request = parse(body)
    check_top_level(request)
    check_reasoning(request)
    check_tool_choice(request, check_tools(request))
    check_text(request.get("text", {}))
    Items(request, reasoning_text=reasoning_text).check()
    return request


def check_top_level(request: dict[str, Any]) -> None:
    for name in request:
        if name not in TOP_LEVEL:
            raise Violation(name, f"Unknown parameter: '{name}'.", code="unknown_parameter")
    require(isinstance(request.get("model"), str) and request["model"], "model", "you must provide a model")
    require(isinstance(request.get("input"), list) and request["input"], "input", "expected a non-empty array")
    require(request.get("store") is False, "store", "this server keeps nothing: send store=false")
    require(type(request.get("stream", False)) is bool, "stream", "expected a boolean")
    limit = request.get("max_output_tokens", LEAST_OUTPUT_TOKENS)
    require(type(limit) is int and limit >= LEAST_OUTPUT_TOKENS, "max_output_tokens", "expected a value >= 16")
    include = request.get("include", [])
    require(isinstance(include, list) and INCLUDES.issuperset(include), "include", f"expected some of {INCLUDES}")
    for name in ("user", "safety_identifier", "prompt_cache_key"):
        value = request.get(name, "")
        require(isinstance(value, str) and len(value) <= 64, name, "expected a string of at most 64 characters")


def check_reasoning(request: dict[str, Any]) -> None:
    reasoning = request.get("reasoning", {})
    require(isinstance(reasoning, dict), "reasoning", "expected an object")
    known(reasoning, {"effort", "summary", "context", "mode"}, "reasoning")
    effort = reasoning.get("effort")
    require(effort is None or effort in EFFORTS, "reasoning.effort", f"expected one of {sorted(EFFORTS)}")
    require(reasoning.get("summary") in {None, "auto", "concise", "detailed"}, "reasoning.summary", "unknown value")
    for name, high in (("temperature", 2), ("top_p", 1)):
        if name in request:
            require(effort in (None, "none"), name, "Unsupported parameter: not supported with this model.")
            value = request[name]
            require(type(value) in (int, float) and 0 <= value <= high, name, f"expected a number up to {high}")


def check_tools(request: dict[str, Any]) -> set[str]:
    """The names of the offered tools."""
    if "tools" not in request:
        require("parallel_tool_calls" not in request, "parallel_tool_calls", "only allowed when 'tools' are specified")
        return set()
    tools = request["tools"]
    require(isinstance(tools, list) and tools, "tools", "expected a non-empty array")
    names: set[str] = set()
    for index, tool in enumerate(tools):
        path = f"tools[{index}]"
        require(isinstance(tool, dict) and tool.get("type") == "function", f"{path}.type", "expected 'function'")
        known(tool, {"type", "name", "description", "parameters", "strict"}, path)
        name = tool.get("name")
        require(isinstance(name, str) and NAME.fullmatch(name), f"{path}.name", f"bad pattern: {name!r}")
        require(name not in names, f"{path}.name", f"duplicate: {name!r}")
        require(type(tool.get("strict")) is bool, f"{path}.strict", "Missing required parameter (left out, it is true)")
        require("parameters" in tool, f"{path}.parameters", "Missing required parameter")
        require(isinstance(tool.get("description", ""), str), f"{path}.description", "expected a string")
        names.add(name)
        check_parameters(tool, path)
    return names


def check_tool_choice(request: dict[str, Any], names: set[str]) -> None:
    if "tool_choice" not in request:
        return
    choice = request["tool_choice"]
    require(names, "tool_choice", "only allowed when 'tools' are specified")
    if isinstance(choice, str):
        require(choice in {"auto", "none", "required"}, "tool_choice", f"unknown value {choice!r}")
        return
    require(isinstance(choice, dict) and choice.get("type") == "function", "tool_choice.type", "expected 'function'")
    known(choice, {"type", "name"}, "tool_choice")
    require(choice.get("name") in names, "tool_choice.name", f"{choice.get('name')!r} is not in 'tools'")


def check_text(text: Any) -> None:
    require(isinstance(text, dict), "text", "expected an object")
    known(text, {"format", "verbosity"}, "text")
    form = text.get("format", {"type": "text"})
    require(isinstance(form, dict), "text.format", "expected an object")
    kind = form.get("type")
    require(kind in {"text", "json_object", "json_schema"}, "text.format.type", f"unknown value {kind!r}")
    if kind != "json_schema":
        known(form, {"type"}, "text.format")
        return
    known(form, {"type", "name", "description", "schema", "strict"}, "text.format")
    name = form.get("name")
    require(isinstance(name, str) and NAME.fullmatch(name), "text.format.name", f"bad pattern: {name!r}")
    require(isinstance(form.get("schema"), dict), "text.format.schema", "expected an object")
    require(type(form.get("strict")) is bool, "text.format.strict", "Missing required parameter")
    if form["strict"]:
        check_strict_schema(form["schema"], "text.format.schema")


class Items:
    """The input of one request."""

    def __init__(self, request: dict[str, Any], *, reasoning_text: bool) -> None:
        self._items = request["input"]
        self._reasoning_text = reasoning_text
        self._calls: set[str] = set()
        self._waiting: set[str] = set()
        self._ids: set[str] = set()
        self._marks = 0

    def check(self) -> None:
        """Each item by itself, calls directly followed by their results, reasoning by what came of it."""
        previous = ""
        for index, item in enumerate(self._items):
            path = f"input[{index}]"
            require(isinstance(item, dict), path, "expected an object")
            kind = item.get("type")
            require(kind in ITEM_KEYS, f"{path}.type", f"Invalid value: {kind!r}")
            known(item, ITEM_KEYS[kind], path)
            if previous == "reasoning":
                self._follows(item, path)
            if kind == "message" and item.get("role") != "assistant":
                self._all_answered(path)
            if "id" in item:
                require(isinstance(item["id"], str) and item["id"], f"{path}.id", "expected a string")
                require(item["id"] not in self._ids, f"{path}.id", f"Duplicate item found with id {item['id']}")
                self._ids.add(item["id"])
            getattr(self, f"_{kind}")(item, path)
            previous = kind
        require(previous != "reasoning", "input", NOT_FOLLOWED)
        self._all_answered("input")
        require(self._marks <= BREAKPOINTS, "input", f"{self._marks} cache breakpoints, at most {BREAKPOINTS}")

    def _follows(self, item: dict[str, Any], path: str) -> None:
        fits = item["type"] in ("function_call", "reasoning") or item.get("role") == "assistant"
        require(fits, path, NOT_FOLLOWED)

    def _all_answered(self, path: str) -> None:
        require(not self._waiting, path, f"No tool output found for function call {sorted(self._waiting)}")

    def _message(self, item: dict[str, Any], path: str) -> None:
        role = item.get("role")
        require(role in {"user", "assistant", "system", "developer"}, f"{path}.role", f"Invalid value: {role!r}")
        require(item.get("phase") in {None, "commentary", "final_answer"}, f"{path}.phase", "unknown value")
        require("phase" not in item or role == "assistant", f"{path}.phase", "only for role 'assistant'")
        content = item.get("content")
        if isinstance(content, str):
            require(content, f"{path}.content", "expected a non-empty string")
            return
        if role == "assistant":
            legal = str(item.get("id")).startswith("msg") and item.get("status") == "completed"
            require(legal, path, "a message of the assistant needs an id that begins with 'msg', and a status")
            legal = isinstance(content, list) and all("annotations" in part for part in content)
            require(legal, f"{path}.content", "a text of the assistant needs annotations")
        allowed = OUTPUT_PARTS if role == "assistant" else INPUT_PARTS
        if role in ("system", "developer"):
            allowed = frozenset({"input_text"})
        self._parts(content, f"{path}.content", allowed)

    def _function_call(self, item: dict[str, Any], path: str) -> None:
        call_id, name, arguments = item.get("call_id"), item.get("name"), item.get("arguments")
        legal = isinstance(call_id, str) and 1 <= len(call_id) <= LONGEST_CALL_ID
        require(legal, f"{path}.call_id", f"string too long or missing: at most {LONGEST_CALL_ID} characters")
        require(call_id not in self._calls, f"{path}.call_id", f"Duplicate call id {call_id}")
        require(isinstance(name, str) and NAME.fullmatch(name), f"{path}.name", f"bad pattern: {name!r}")
        try:
            legal = isinstance(arguments, str) and isinstance(json.loads(arguments), dict)
        except ValueError:
            legal = False
        require(legal, f"{path}.arguments", "expected a JSON object in a string")
        self._calls.add(str(call_id))
        self._waiting.add(str(call_id))

    def _function_call_output(self, item: dict[str, Any], path: str) -> None:
        call_id = item.get("call_id")
        require(call_id in self._waiting, path, f"No tool call found for function call output with call_id {call_id}.")
        self._waiting.discard(str(call_id))
        output = item.get("output")
        if not isinstance(output, str):
            self._parts(output, f"{path}.output", INPUT_PARTS)

    def _reasoning(self, item: dict[str, Any], path: str) -> None:
        require(isinstance(item.get("id"), str), f"{path}.id", "Missing required parameter")
        require(isinstance(item.get("summary"), list), f"{path}.summary", "Missing required parameter")
        for part in item["summary"]:
            legal = isinstance(part, dict) and part.get("type") == "summary_text" and isinstance(part.get("text"), str)
            require(legal, f"{path}.summary", "expected {type: summary_text, text}")
        encrypted = item.get("encrypted_content")
        if self._reasoning_text:
            require(encrypted or item.get("content"), path, "item['content'] is not an array")
            return
        require("content" not in item, f"{path}.content", "array too long: expected at most 0")
        found = isinstance(encrypted, str) and encrypted
        require(found, path, f"Item with id '{item['id']}' not found. Items are not persisted when `store` is false.")

    def _parts(self, parts: Any, path: str, allowed: frozenset[str]) -> None:
        require(isinstance(parts, list) and parts, path, "expected a non-empty array or a string")
        for index, part in enumerate(parts):
            where = f"{path}[{index}]"
            require(isinstance(part, dict), where, "expected an object")
            kind = part.get("type")
            require(kind in allowed, f"{where}.type", f"{kind!r} is none of {sorted(allowed)}")
            known(part, PART_KEYS[kind], where)
            if "prompt_cache_breakpoint" in part:
                mark = part["prompt_cache_breakpoint"]
                require(mark == {"mode": "explicit"}, f"{where}.prompt_cache_breakpoint", "expected {mode: explicit}")
                self._marks += 1
            check_part(kind, part, where)


def check_part(kind: str, part: dict[str, Any], path: str) -> None:
    if kind == "input_image":
        check_image(part.get("image_url"), f"{path}.image_url")
        require(part.get("detail", "auto") in {"auto", "low", "high", "original"}, f"{path}.detail", "unknown value")
    elif kind == "input_file":
        check_file(part, path)
    else:
        name = "refusal" if kind == "refusal" else "text"
        require(isinstance(part.get(name), str) and part[name], f"{path}.{name}", "expected a non-empty string")


def check_image(url: Any, path: str) -> None:
    require(isinstance(url, str), path, "expected a string")
    if url.startswith(("https://", "http://")):
        return
    head, comma, data = url.partition(";base64,")
    magic = IMAGE_MAGIC.get(head.removeprefix("data:image/"))
    if not comma or magic is None:
        raise Violation(path, "expected an http URL or a data URL of a png, jpeg, gif or webp")
    require(decoded(data, path).startswith(magic), path, "the bytes are no such image")


def check_file(part: dict[str, Any], path: str) -> None:
    if "file_url" in part:
        require(str(part["file_url"]).startswith("http"), f"{path}.file_url", "expected a URL")
        return
    require(isinstance(part.get("filename"), str) and part["filename"], f"{path}.filename", "required")
    prefix, data = "data:application/pdf;base64,", part.get("file_data")
    require(isinstance(data, str) and data.startswith(prefix), f"{path}.file_data", f"expected {prefix}…")
    assert isinstance(data, str)
    require(decoded(data[len(prefix) :], path).startswith(b"%PDF"), f"{path}.file_data", "the bytes are no PDF")
