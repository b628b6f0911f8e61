"""What a body for ``/v1/messages`` must look like before anybody works with it.

Rules:
* Strict where a translator relies on it, silent about the rest: unknown fields and blocks are no mistake.
* The message names the field, in the way that Anthropic's own API names it.
"""

from __future__ import annotations

from typing import Any

from gateway.errors import InvalidRequest
from gateway.wire.request_reader import SharedTools

MAX_MESSAGES = 100_000
"""As Anthropic's own limit for a request (docs.claude.com/en/api/messages)."""

_NONE = type(None)
_TYPES: dict[str, tuple[tuple[type, ...], str]] = {
    "stream": ((bool, _NONE), "a boolean"),
    "system": ((str, list, _NONE), "a string or a list of text blocks"),
    "tools": ((list, SharedTools, _NONE), "a list"),
    "tool_choice": ((dict, _NONE), "an object"),
    "stop_sequences": ((list, _NONE), "a list of strings"),
    "temperature": ((int, float, _NONE), "a number"),
    "top_p": ((int, float, _NONE), "a number"),
    "top_k": ((int, _NONE), "an integer"),
    "metadata": ((dict, _NONE), "an object"),
    "thinking": ((dict, _NONE), "an object"),
    "output_config": ((dict, _NONE), "an object"),
}
"""Exactly these: a boolean is no number."""


def check_request(body: Any, *, needs_max_tokens: bool = True) -> dict[str, Any]:
    """``body`` itself, if it can be worked with. Raises InvalidRequest, naming the field."""
    if not isinstance(body, dict):
        raise InvalidRequest("body: Input should be a JSON object")
    model = body.get("model")
    if not isinstance(model, str) or not model:
        raise InvalidRequest("model: Field required" if model is None else "model: Input should be a string")
    if not model.isprintable():
        raise InvalidRequest("model: Input should be printable characters; the name goes into headers and logs")
    if needs_max_tokens:
        _check_max_tokens(body.get("max_tokens"))
    for name, (types, wanted) in _TYPES.items():
        if name in body and type(body[name]) not in types:
            raise InvalidRequest(f"{name}: Input should be {wanted}")
    _check_messages(body.get("messages"))
    return body


def _check_max_tokens(value: Any) -> None:
    if value is None:
        raise InvalidRequest("max_tokens: Field required")
    if isinstance(value, bool) or not isinstance(value, int):
        raise InvalidRequest("max_tokens: Input should be an integer")
    if value < 1:
        raise InvalidRequest("max_tokens: Input should be greater than or equal to 1")


def _check_messages(messages: Any) -> None:
    if messages is None:
        raise InvalidRequest("messages: Field required")
    if not isinstance(messages, list):
        raise InvalidRequest("messages: Input should be a list")
    if not messages:
        raise InvalidRequest("messages: at least one message is required")
    if len(messages) > MAX_MESSAGES:
        raise InvalidRequest(f"messages: at most {MAX_MESSAGES} messages are allowed")
    for position, message in enumerate(messages):
        if not isinstance(message, dict):
            raise InvalidRequest(f"messages[{position}]: Input should be an object")
        if not isinstance(message.get("role"), str):
            raise InvalidRequest(f"messages[{position}].role: Input should be 'user', 'assistant' or 'system'")
        content = message.get("content")
        if isinstance(content, str):
            continue
        if not isinstance(content, list):
            raise InvalidRequest(f"messages[{position}].content: Input should be a string or a list of content blocks")
        for place, block in enumerate(content):
            kind = block.get("type") if isinstance(block, dict) else None
            if not isinstance(kind, str):
                raise InvalidRequest(f"messages[{position}].content[{place}]: Input should be an object with a type")
            if kind == "text" and not isinstance(block.get("text"), str):
                raise InvalidRequest(f"messages[{position}].content[{place}].text: Input should be a string")
