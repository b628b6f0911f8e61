"""Upstream state that rides through the client: in the ``signature`` of a thinking block, or in a tool id.

Clients send both back unchanged, so the gateway itself need not remember anything.

Rules:
* Versioned and checked: ``gw1.<base64url of JSON>.<check>``; in tool ids ``gw1_<base64url>_<check>``, so
  that they match ``^[a-zA-Z0-9_-]+$``.
* What is not ours, or was altered, decodes to None; never an exception.
* The check finds accidents and foreign values. It is no protection against a client that forges state:
  it would only harm its own conversation.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from typing import Any

import orjson

from gateway.wire.json_text import dumps

_VERSION = "gw1"
_CHECK_LENGTH = 8


def encode_signature(state: dict[str, Any]) -> str:
    """A ``signature`` that carries ``state`` (JSON values)."""
    return _encode(state, ".")


def decode_signature(signature: Any) -> dict[str, Any] | None:
    """The state of one of our signatures, else None."""
    state = _decode(signature, ".")
    return state if isinstance(state, dict) else None


def encode_tool_id(upstream_id: str, provider: str, extra: Any = None, salt: int = 0) -> str:
    """A tool id that carries ``provider``'s own id and extra state; ``salt`` makes equal ids differ."""
    return _encode([upstream_id, provider, extra, salt], "_")


def decode_tool_id(tool_id: Any, provider: str) -> tuple[str, Any] | None:
    """(the upstream's id, its extra state) of a tool id that was made for ``provider``, else None."""
    state = _decode(tool_id, "_")
    if isinstance(state, list) and len(state) == 4 and isinstance(state[0], str) and state[1] == provider:
        return state[0], state[2]
    return None


def _encode(state: Any, separator: str) -> str:
    payload = base64.urlsafe_b64encode(dumps(state)).rstrip(b"=").decode()
    return f"{_VERSION}{separator}{payload}{separator}{_check(payload)}"


def _decode(text: Any, separator: str) -> Any:
    if not isinstance(text, str) or not text.startswith(_VERSION) or not text.isascii():
        return None
    if text[len(_VERSION) : len(_VERSION) + 1] != separator:
        return None
    payload, found, check = text[len(_VERSION) + 1 :].rpartition(separator)
    if not found or check != _check(payload):
        return None
    try:
        return orjson.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
    except (binascii.Error, ValueError):
        return None


def _check(payload: str) -> str:
    return hashlib.blake2s(payload.encode(), digest_size=_CHECK_LENGTH // 2).hexdigest()
