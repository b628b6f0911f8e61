"""``base_url`` as people write it -> the one form that the adapters build on.

Each adapter appends its own path: ``/chat/completions``, ``/responses``, ``/api/chat`` or ``/v1/messages``.
So that every usual spelling ends at the same URL:

| written                                      | api              | kept                  |
|----------------------------------------------|------------------|-----------------------|
| ``http://h:8000``, ``…/``                    | openai-chat      | ``http://h:8000/v1``  |
| ``http://h:8000/v1``, ``…/chat/completions`` | openai-chat      | ``http://h:8000/v1``  |
| ``https://h``, ``…/v1``, ``…/v1/responses``  | openai-responses | ``https://h/v1``      |
| ``http://h``, ``…/v1``, ``…/api/chat``       | ollama           | ``http://h``          |
| ``https://h``, ``…/v1``, ``…/v1/messages``   | anthropic        | ``https://h``         |

No message of this module holds any part of the address: it may carry a credential.
"""

from __future__ import annotations

from collections.abc import Mapping
from urllib.parse import SplitResult, urlsplit

_ENDINGS: Mapping[str, tuple[str, ...]] = {
    "openai-chat": ("/chat/completions",),
    "openai-responses": ("/responses",),
    "ollama": ("/chat", "/api", "/v1"),
    "anthropic": ("/messages", "/v1"),
}
"""API -> endings that its adapter appends, or that its address does without."""

_VERSIONED = ("openai-chat", "openai-responses")
"""APIs whose address ends in a version; ``/v1`` when it has no path."""

_TELLING = {
    "/anthropic": "anthropic",
    "/messages": "anthropic",
    "/chat/completions": "openai-chat",
    "/responses": "openai-responses",
    "/api/chat": "ollama",
}
"""Ending of a path -> the only API that it can belong to."""


class BadAddress(ValueError):
    """The address cannot be used; ``args`` are the message and the hint."""


def split_address(text: str) -> SplitResult:
    """A checked http(s) address. Raises BadAddress."""
    if not text.isprintable() or any(char.isspace() for char in text) or "\\" in text:
        raise BadAddress("is not an address", "no blanks, control characters or backslashes")
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError:
        raise BadAddress("is not an address", "e.g. http://10.0.0.5:8000/v1") from None
    if parts.scheme not in ("http", "https"):
        raise BadAddress("must begin with http:// or https://", "e.g. http://10.0.0.5:8000/v1")
    if parts.username is not None or parts.password is not None:
        raise BadAddress("must not hold a user name or password", "put the key under 'api_key'")
    if not parts.hostname or port == 0:
        raise BadAddress("names no host", "e.g. http://10.0.0.5:8000/v1")
    if parts.query or parts.fragment:
        raise BadAddress("must end with the path", "take off what begins with ? or #")
    return parts


def told_api(path: str) -> str | None:
    """The API that a path gives away, or None."""
    return next((api for ending, api in _TELLING.items() if path.rstrip("/").endswith(ending)), None)


def normal_address(parts: SplitResult, api: str) -> str:
    """The address without a trailing slash and without what the adapter appends. Raises BadAddress."""
    told = told_api(parts.path)
    if api in _ENDINGS and told is not None and told != api:
        whose = {"anthropic": "an Anthropic", "ollama": "an Ollama"}.get(told, "an OpenAI")
        raise BadAddress(f"is the address of {whose} endpoint", f"set 'api: {told}'")
    return with_path(parts, _normal_path(parts.path, api))


def address_of(base_url: str, api: str) -> str:
    """Where a server whose address was made for one API most likely answers another."""
    parts = urlsplit(base_url)
    path = parts.path.removesuffix("/anthropic") if api != "anthropic" else parts.path
    return with_path(parts, _normal_path(path, api))


def with_path(parts: SplitResult, path: str) -> str:
    """The address with another path."""
    return f"{parts.scheme}://{parts.netloc.lower()}{path}"


def _normal_path(path: str, api: str) -> str:
    path = path.rstrip("/")
    for ending in _ENDINGS.get(api, ()):
        path = path.removesuffix(ending).rstrip("/")
    return path or ("/v1" if api in _VERSIONED else "")


def host_keys(parts: SplitResult) -> tuple[str, str]:
    """``host:port`` and ``host``, as profiles.yaml lists them."""
    host = parts.hostname or ""
    port = parts.port or (443 if parts.scheme == "https" else 80)
    return f"{host}:{port}", host
