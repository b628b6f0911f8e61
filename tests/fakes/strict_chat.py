"""The checks that api.openai.com makes on a request to ``/v1/chat/completions``, and a few that it should make.

Rules:
* Pure: bytes and headers in, the first violation out. The fake upstream answers it with a 400 and records it.
* Stricter than the original where leniency would hide a gateway's defect: empty text parts, duplicate JSON
  keys, lone surrogates, a tool id used twice.
* ``reasoning`` names the one message field beyond OpenAI's that is allowed, on assistant messages only.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Mapping
from typing import Any

TOP_LEVEL = frozenset({
    "model", "messages", "tools", "tool_choice", "parallel_tool_calls", "functions", "function_call",
    "max_tokens", "max_completion_tokens", "temperature", "top_p", "n", "stop", "stream", "stream_options",
    "response_format", "seed", "logit_bias", "logprobs", "top_logprobs", "presence_penalty", "frequency_penalty",
    "user", "safety_identifier", "prompt_cache_key", "prompt_cache_retention", "metadata", "store",
    "reasoning_effort", "verbosity", "service_tier", "modalities", "audio", "prediction", "web_search_options",
})  # fmt: skip
ROLES = frozenset({"system", "developer", "user", "assistant", "tool"})
MESSAGE_KEYS: Mapping[str, frozenset[str]] = {
    "system": frozenset({"role", "content", "name"}),
    "developer": frozenset({"role", "content", "name"}),
    "user": frozenset({"role", "content", "name"}),
    "assistant": frozenset({"role", "content", "name", "refusal", "audio", "tool_calls", "function_call"}),
    "tool": frozenset({"role", "content", "tool_call_id"}),
}
PART_TYPES: Mapping[str, frozenset[str]] = {
    "system": frozenset({"text"}),
    "developer": frozenset({"text"}),
    "user": frozenset({"text", "image_url", "file"}),
    "assistant": frozenset({"text", "refusal"}),
    "tool": frozenset({"text"}),
}
EFFORTS = frozenset({"none", "minimal", "low", "medium", "high", "xhigh"})
IMAGE_MAGIC = {"png": b"\x89PNG\r\n\x1a\n", "jpeg": b"\xff\xd8\xff", "gif": b"GIF8", "webp": b"RIFF"}
NAME = re.compile(r"[a-zA-Z0-9_-]{1,64}")
_SURROGATE = re.compile(r"[\ud800-\udfff]")


class Violation(Exception):
    """What OpenAI would refuse; ``param`` is the path that it names."""

    def __init__(self, param: str | None, message: str, *, status: int = 400, code: str | None = None) -> None:
        super().__init__(f"{param}: {message}" if param else message)
        self.param = param
        self.message = message
        self.status = status
        self.code = code

    def body(self) -> bytes:
        """OpenAI's error body."""
        error = {"message": str(self), "type": "invalid_request_error", "param": self.param, "code": self.code}
        return json.dumps({"error": error}).encode()


def check(body: bytes, headers: Mapping[str, str], *, key: str, reasoning: str | None = None) -> dict[str, Any]:
    """The parsed request. Raises Violation. Header names are lower-case."""
    if headers.get("authorization") != f"Bearer {key}":
        raise Violation(None, "Incorrect API key provided", status=401, code="invalid_api_key")
    if headers.get("content-type", "").split(";")[0] != "application/json":
        raise Violation(None, "you must send Content-Type: application/json")
    request = parse(body)
    check_top_level(request)
    tools = check_tools(request)
    check_tool_choice(request, tools)
    check_sampling(request)
    check_response_format(request.get("response_format"))
    check_messages(request["messages"], reasoning)
    return request


def parse(body: bytes) -> dict[str, Any]:
    """JSON as the standard has it: UTF-8, no duplicate keys, no NaN, no lone surrogates."""
    try:
        request = json.loads(body.decode("utf-8"), object_pairs_hook=_unique, parse_constant=_no_constant)
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise Violation(None, f"We could not parse the JSON body of your request: {error}") from None
    if not isinstance(request, dict):
        raise Violation(None, "expected a JSON object")
    _no_surrogates(request, "")
    return request


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) != len(pairs):
        raise Violation(None, f"duplicate key among {[name for name, _ in pairs]}")
    return made


def _no_constant(name: str) -> Any:
    raise Violation(None, f"{name} is not JSON")


def _no_surrogates(value: Any, path: str) -> None:
    if isinstance(value, str):
        require(not _SURROGATE.search(value), path, "lone surrogate in a string")
    elif isinstance(value, dict):
        for name, item in value.items():
            _no_surrogates(name, path)
            _no_surrogates(item, f"{path}.{name}")
    elif isinstance(value, list):
        for index, item in enumerate(value):
            _no_surrogates(item, f"{path}[{index}]")


def require(condition: object, param: str, message: str) -> None:
    """Raise Violation unless ``condition`` holds."""
    if not condition:
        raise Violation(param, message)


def known(value: Mapping[str, Any], allowed: frozenset[str] | set[str], path: str) -> None:
    """Raise Violation for a key that OpenAI does not know."""
    for name in value:
        require(name in allowed, f"{path}.{name}".lstrip("."), "Unknown parameter")


def check_top_level(request: dict[str, Any]) -> None:
    known(request, TOP_LEVEL, "")
    model = request.get("model")
    require(isinstance(model, str) and model, "model", "you must provide a model parameter")
    require(isinstance(request.get("messages"), list) and request["messages"], "messages", "expected a non-empty array")
    require(type(request.get("stream", False)) is bool, "stream", "expected a boolean")
    if "stream_options" in request:
        require(request.get("stream"), "stream_options", "only allowed when 'stream' is enabled")
        require(isinstance(request["stream_options"], dict), "stream_options", "expected an object")
        known(request["stream_options"], {"include_usage", "include_obfuscation"}, "stream_options")
    for name in ("user", "safety_identifier", "prompt_cache_key"):
        value = request.get(name, "")
        require(isinstance(value, str) and len(value) <= 64, name, "expected a string of at most 64 characters")
    if "reasoning_effort" in request:
        require(request["reasoning_effort"] in EFFORTS, "reasoning_effort", f"expected one of {sorted(EFFORTS)}")
    if "metadata" in request:
        metadata = request["metadata"]
        legal = isinstance(metadata, dict) and all(isinstance(value, str) for value in metadata.values())
        require(legal and request.get("store"), "metadata", "only strings, and only with 'store'")


def check_sampling(request: dict[str, Any]) -> None:
    both = "max_tokens" in request and "max_completion_tokens" in request
    require(not both, "max_tokens", "not together with 'max_completion_tokens'")
    for name in ("max_tokens", "max_completion_tokens"):
        value = request.get(name, 1)
        require(type(value) is int and value >= 1, name, "expected an integer of at least 1")
    for name, low, high in (("temperature", 0, 2), ("top_p", 0, 1), ("presence_penalty", -2, 2)):
        value = request.get(name, low)
        legal = type(value) in (int, float) and low <= value <= high
        require(legal, name, f"expected a number between {low} and {high}")
    stop = request.get("stop")
    if stop is not None:
        stops = [stop] if isinstance(stop, str) else stop
        require(isinstance(stops, list) and 1 <= len(stops) <= 4, "stop", "expected 1 to 4 sequences")
        require(all(isinstance(item, str) and item for item in stops), "stop", "expected non-empty strings")


def check_tools(request: dict[str, Any]) -> set[str]:
    """The names of the offered tools."""
    if "tools" not in request:
        require("parallel_tool_calls" not in request, "parallel_tool_calls", "only allowed when 'tools' are specified")
        return set()
    tools = request["tools"]
    require(isinstance(tools, list) and tools, "tools", "expected a non-empty array")
    require(len(tools) <= 128, "tools", "array too long: at most 128")
    require(type(request.get("parallel_tool_calls", True)) is bool, "parallel_tool_calls", "expected a boolean")
    names: set[str] = set()
    for index, tool in enumerate(tools):
        path = f"tools[{index}]"
        require(isinstance(tool, dict) and tool.get("type") == "function", f"{path}.type", "expected 'function'")
        known(tool, {"type", "function"}, path)
        function = tool.get("function")
        require(isinstance(function, dict), f"{path}.function", "Missing required parameter")
        known(function, {"name", "description", "parameters", "strict"}, f"{path}.function")
        name = function.get("name")
        require(isinstance(name, str) and NAME.fullmatch(name), f"{path}.function.name", f"bad pattern: {name!r}")
        require(name not in names, f"{path}.function.name", f"duplicate: {name!r}")
        names.add(name)
        require(isinstance(function.get("description", ""), str), f"{path}.function.description", "expected a string")
        check_parameters(function, f"{path}.function")
    return names


def check_parameters(function: dict[str, Any], path: str) -> None:
    parameters = function.get("parameters", {"type": "object", "properties": {}})
    require(isinstance(parameters, dict), f"{path}.parameters", "expected an object")
    require(parameters.get("type") == "object", f"{path}.parameters", "schema must be of type 'object'")
    require(isinstance(parameters.get("properties", {}), dict), f"{path}.parameters", "'properties' must be an object")
    for name in ("anyOf", "oneOf", "allOf", "enum", "not"):
        require(name not in parameters, f"{path}.parameters", f"'{name}' is not permitted at the top level")
    if function.get("strict"):
        check_strict_schema(parameters, f"{path}.parameters")


def check_tool_choice(request: dict[str, Any], names: set[str]) -> None:
    if "tool_choice" not in request:
        return
    choice = request["tool_choice"]
    require(names, "tool_choice", "only allowed when 'tools' are specified")
    if isinstance(choice, str):
        require(choice in {"auto", "none", "required"}, "tool_choice", f"unknown value {choice!r}")
        return
    require(isinstance(choice, dict) and choice.get("type") == "function", "tool_choice.type", "expected 'function'")
    known(choice, {"type", "function"}, "tool_choice")
    function = choice.get("function")
    require(isinstance(function, dict) and set(function) == {"name"}, "tool_choice.function", "expected {name}")
    require(function["name"] in names, "tool_choice.function.name", f"{function['name']!r} is not in 'tools'")


def check_response_format(value: Any) -> None:
    if value is None:
        return
    path = "response_format"
    require(isinstance(value, dict), path, "expected an object")
    kind = value.get("type")
    require(kind in {"text", "json_object", "json_schema"}, f"{path}.type", f"unknown value {kind!r}")
    if kind != "json_schema":
        known(value, {"type"}, path)
        return
    known(value, {"type", "json_schema"}, path)
    schema = value.get("json_schema")
    require(isinstance(schema, dict), f"{path}.json_schema", "Missing required parameter")
    known(schema, {"name", "description", "schema", "strict"}, f"{path}.json_schema")
    name = schema.get("name")
    require(isinstance(name, str) and NAME.fullmatch(name), f"{path}.json_schema.name", f"bad pattern: {name!r}")
    require(isinstance(schema.get("schema"), dict), f"{path}.json_schema.schema", "expected an object")
    if schema.get("strict"):
        check_strict_schema(schema["schema"], f"{path}.json_schema.schema")


def check_strict_schema(schema: Any, path: str) -> None:
    """What ``strict: true`` demands of every object in a schema."""
    if isinstance(schema, list):
        for index, item in enumerate(schema):
            check_strict_schema(item, f"{path}[{index}]")
    if not isinstance(schema, dict):
        return
    if schema.get("type") == "object":
        require(schema.get("additionalProperties") is False, path, "'additionalProperties' must be false")
        properties = schema.get("properties", {})
        require(sorted(schema.get("required", [])) == sorted(properties), path, "'required' must name every property")
        for name, item in properties.items():
            check_strict_schema(item, f"{path}.properties.{name}")
    for name in ("items", "anyOf"):
        check_strict_schema(schema.get(name), f"{path}.{name}")


def check_messages(messages: list[Any], reasoning: str | None) -> None:
    """Each message by itself, and tool calls followed at once by exactly their results."""
    waiting: set[str] = set()
    used: set[str] = set()
    for index, message in enumerate(messages):
        path = f"messages[{index}]"
        require(isinstance(message, dict), path, "expected an object")
        role = message.get("role")
        require(role in ROLES, f"{path}.role", f"unknown role {role!r}")
        extra = {reasoning} if reasoning and role == "assistant" else set()
        known(message, MESSAGE_KEYS[role] | extra, path)
        if role == "tool":
            call = message.get("tool_call_id")
            require(isinstance(call, str), f"{path}.tool_call_id", "Missing required parameter")
            require(call in waiting, path, f"no tool call {call!r} right before this 'tool' message")
            waiting.discard(call)
        else:
            require(not waiting, path, f"tool_calls without a tool message: {sorted(waiting)}")
        check_content(message, role, path)
        if role == "assistant":
            waiting = check_calls(message, path, used)
            if reasoning and reasoning in message:
                require(isinstance(message[reasoning], str), f"{path}.{reasoning}", "expected a string")
    require(not waiting, "messages", f"tool_calls without a tool message: {sorted(waiting)}")


def check_calls(message: dict[str, Any], path: str, used: set[str]) -> set[str]:
    """The ids of a message's tool calls; ``used`` holds those of the messages before it."""
    if "tool_calls" not in message:
        return set()
    calls = message["tool_calls"]
    require(isinstance(calls, list) and calls, f"{path}.tool_calls", "expected a non-empty array")
    ids: set[str] = set()
    for index, call in enumerate(calls):
        where = f"{path}.tool_calls[{index}]"
        legal = isinstance(call, dict) and set(call) == {"id", "type", "function"}
        require(legal, where, "expected id, type, function")
        require(call["type"] == "function", f"{where}.type", "expected 'function'")
        name, arguments = call["function"].get("name"), call["function"].get("arguments")
        known(call["function"], {"name", "arguments"}, f"{where}.function")
        require(isinstance(name, str) and NAME.fullmatch(name), f"{where}.function.name", f"bad pattern: {name!r}")
        require(isinstance(arguments, str), f"{where}.function.arguments", "expected a string")
        try:
            legal = isinstance(json.loads(arguments), dict)
        except ValueError:
            legal = False
        require(legal, f"{where}.function.arguments", "expected a JSON object in a string")
        identity = call["id"]
        require(isinstance(identity, str) and 1 <= len(identity) <= 40, f"{where}.id", "1 to 40 characters")
        require(identity not in used, f"{where}.id", f"used before: {identity!r}")
        used.add(identity)
        ids.add(identity)
    return ids


def check_content(message: dict[str, Any], role: str, path: str) -> None:
    content = message.get("content")
    if content is None:
        optional = role == "assistant" and ("tool_calls" in message or message.get("refusal"))
        require(optional, f"{path}.content", "expected a string or an array, got null")
        return
    if isinstance(content, str):
        return
    require(isinstance(content, list) and content, f"{path}.content", "expected a non-empty array or a string")
    for index, part in enumerate(content):
        where = f"{path}.content[{index}]"
        require(isinstance(part, dict), where, "expected an object")
        kind = part.get("type")
        require(kind in PART_TYPES[role], f"{where}.type", f"{kind!r} is not for role {role!r}")
        known(part, {"type", str(kind)}, where)
        PART_CHECKS[str(kind)](part.get(str(kind)), where)


def _text_part(value: Any, path: str) -> None:
    require(isinstance(value, str) and value, f"{path}.text", "expected a non-empty string")


def _image_part(value: Any, path: str) -> None:
    require(isinstance(value, dict) and isinstance(value.get("url"), str), f"{path}.image_url", "expected {url}")
    known(value, {"url", "detail"}, f"{path}.image_url")
    require(value.get("detail", "auto") in {"auto", "low", "high"}, f"{path}.image_url.detail", "auto, low or high")
    url: str = value["url"]
    if url.startswith(("https://", "http://")):
        return
    match = re.match(r"data:image/(png|jpeg|gif|webp);base64,", url)
    if not match:
        raise Violation(f"{path}.image_url.url", "expected an http URL or a data URL of a png, jpeg, gif or webp")
    data = decoded(url[match.end() :], f"{path}.image_url.url")
    require(data.startswith(IMAGE_MAGIC[match[1]]), f"{path}.image_url.url", f"the bytes are no {match[1]}")


def _file_part(value: Any, path: str) -> None:
    require(isinstance(value, dict), f"{path}.file", "expected an object")
    known(value, {"filename", "file_data", "file_id"}, f"{path}.file")
    if "file_id" in value:
        return
    require(isinstance(value.get("filename"), str) and value["filename"], f"{path}.file.filename", "required")
    prefix = "data:application/pdf;base64,"
    url = value.get("file_data")
    require(isinstance(url, str) and url.startswith(prefix), f"{path}.file.file_data", f"expected {prefix}…")
    data = decoded(url[len(prefix) :], f"{path}.file.file_data")
    require(data.startswith(b"%PDF"), f"{path}.file.file_data", "the bytes are no PDF")


PART_CHECKS = {"text": _text_part, "refusal": _text_part, "image_url": _image_part, "file": _file_part}


def decoded(data: str, path: str) -> bytes:
    """The bytes of a base64 string. Raises Violation."""
    try:
        return base64.b64decode(data, validate=True)
    except (binascii.Error, ValueError):
        raise Violation(path, "invalid base64") from None
