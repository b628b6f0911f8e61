"""``base_url`` as people write it -> the one form that the adapters build on.

An adapter for ``openai-chat`` appends ``/chat/completions``; one for ``anthropic`` appends ``/v1/messages``.
So that every usual spelling ends at the same URL:

| written                                     | api         | kept                  |
|---------------------------------------------|-------------|-----------------------|
| ``http://h:8000``, ``…/``                   | openai-chat | ``http://h:8000/v1``  |
| ``http://h:8000/v1``, ``…/chat/completions``| openai-chat | ``http://h:8000/v1``  |
| ``https://h``, ``…/v1``, ``…/v1/messages``  | anthropic   | ``https://h``         |

No message of this module holds any part of the address: it may carry a credential.
"""

from __future__ import annotations

from urllib.parse import SplitResult, urlsplit

_ANTHROPIC_ENDINGS = ("/messages", "/v1")


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


def normal_address(parts: SplitResult, api: str) -> str:
    """The address without a trailing slash and without what the adapter appends. Raises BadAddress."""
    path = parts.path.rstrip("/")
    if api == "openai-chat":
        if path.endswith(("/anthropic", "/v1/messages")):
            raise BadAddress("is the address of an Anthropic endpoint", "set 'api: anthropic'")
        path = path.removesuffix("/chat/completions").rstrip("/") or "/v1"
    elif api == "anthropic":
        if path.endswith("/chat/completions"):
            raise BadAddress("is the address of an OpenAI endpoint", "set 'api: openai-chat'")
        for ending in _ANTHROPIC_ENDINGS:
            path = path.removesuffix(ending).rstrip("/")
    return f"{parts.scheme}://{parts.netloc.lower()}{path}"


def host_keys(parts: SplitResult) -> tuple[str, str]:
    """``host:port`` and ``host``, as profiles.yaml lists them."""
    host = parts.hostname or ""
    port = parts.port or (443 if parts.scheme == "https" else 80)
    return f"{host}:{port}", host
