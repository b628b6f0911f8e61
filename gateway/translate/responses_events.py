"""The vocabulary of the Responses API's stream: its events, its ends, its errors.

Rule: names only; what they mean for an answer stands in responses_stream.py.
"""

from __future__ import annotations

from typing import Any

from gateway.wire.json_text import dumps, loads_upstream

JSON = dict[str, Any]

DELTAS: dict[str, tuple[str, str, str]] = {
    "response.output_text.delta": ("message", "text", "content_index"),
    "response.refusal.delta": ("message", "refusal", "content_index"),
    "response.reasoning_summary_text.delta": ("reasoning", "summary", "summary_index"),
    "response.reasoning_summary.delta": ("reasoning", "summary", "summary_index"),
    "response.reasoning_text.delta": ("reasoning", "content", "content_index"),
    "response.reasoning.delta": ("reasoning", "content", "content_index"),
    "response.function_call_arguments.delta": ("function_call", "arguments", ""),
    "response.custom_tool_call_input.delta": ("custom_tool_call", "input", ""),
}
"""Event -> (kind of item, name of its part, the field with the part's number)."""

ENDS: dict[str, tuple[str, str]] = {
    "response.output_text.done": ("response.output_text.delta", "text"),
    "response.refusal.done": ("response.refusal.delta", "refusal"),
    "response.reasoning_summary_text.done": ("response.reasoning_summary_text.delta", "text"),
    "response.reasoning_text.done": ("response.reasoning_text.delta", "text"),
    "response.function_call_arguments.done": ("response.function_call_arguments.delta", "arguments"),
    "response.custom_tool_call_input.done": ("response.custom_tool_call_input.delta", "input"),
}
"""Event -> (the deltas that it ends, the field with the whole text)."""

PARTS = {
    "output_text": "response.output_text.delta",
    "refusal": "response.refusal.delta",
    "summary_text": "response.reasoning_summary_text.delta",
    "reasoning_text": "response.reasoning_text.delta",
}
"""Type of a part -> the deltas that bring it."""

TERMINAL: dict[str, str] = {
    "response.completed": "completed",
    "response.done": "completed",
    "response.incomplete": "incomplete",
    "response.failed": "failed",
    "response.cancelled": "cancelled",
}
"""Event -> the status of a response that says none."""

INCOMPLETE = {"content_filter": "refusal"}
"""``incomplete_details.reason`` -> stop_reason; any other is a limit."""

STATUSES = {
    "rate_limit_exceeded": 429,
    "server_error": 500,
    "server_is_overloaded": 503,
    "slow_down": 503,
    "vector_store_timeout": 504,
    "model_not_found": 404,
}
"""Error codes without a status of their own; every code that blames the request is a 400."""
_REQUEST_CODES = ("invalid_", "image_", "unsupported_", "empty_image", "failed_to_download", "data_residency", "bio_")

CALLS = ("function_call", "custom_tool_call")
WRAPPERS = ("parallel", "multi_tool_use.parallel", "multi_tool_use_parallel")
"""Tools that models make up to call several at once."""

STATED = {
    "image_generation_call": "an image that it generated",
    "computer_call": "a computer_call of its own",
    "local_shell_call": "a local_shell_call of its own",
    "shell_call": "a shell_call of its own",
    "apply_patch_call": "an apply_patch_call of its own",
    "mcp_approval_request": "a request to approve an MCP call of its own",
}
"""Items that are lost on a client of the Messages API."""


def with_status(error: Any) -> Any:
    """An error object with the HTTP status that its code stands for."""
    if isinstance(error, dict) and isinstance(error.get("error"), dict):
        error = error["error"]
    code = error.get("code") if isinstance(error, dict) else None
    if not isinstance(code, str):
        return error
    status = STATUSES.get(code) or (400 if code.startswith(_REQUEST_CODES) else None)
    return error if status is None else {**error, "status_code": status}


def wrapped_calls(text: str) -> list[tuple[str, str]]:
    """(name, arguments) of each call inside the arguments of a ``parallel`` call."""
    try:
        uses = an_object(loads_upstream(text)).get("tool_uses")
    except ValueError:
        return []
    calls = []
    for use in objects(uses):
        name = use.get("recipient_name") or use.get("name")
        arguments = use.get("parameters", use.get("arguments"))
        if isinstance(name, str):
            arguments = arguments if isinstance(arguments, str) else dumps(arguments or {}).decode()
            calls.append((name.removeprefix("functions."), arguments))
    return calls


def an_object(value: Any) -> JSON:
    """``value``, or {} when it is no object."""
    return value if isinstance(value, dict) else {}


def objects(value: Any) -> list[JSON]:
    """The items of a list, {} for each that is no object; [] when it is no list."""
    return [an_object(item) for item in value] if isinstance(value, list) else []


def number_of(value: Any) -> int:
    """``value``, or 0 when it is no whole number."""
    return value if isinstance(value, int) and not isinstance(value, bool) else 0
