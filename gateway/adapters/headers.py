"""Headers of upstream requests, and the context of their errors.

Rule: headers are built from an allow-list. Nothing of the client's goes up by itself, least of all its
credentials, cookies or hop-by-hop headers.
"""

from __future__ import annotations

from typing import Protocol

from gateway import __version__
from gateway.adapters.base import MessagesRequest
from gateway.routing import Target
from gateway.translate.session import session_headers
from gateway.translate.upstream_errors import ErrorContext

USER_AGENT = f"messages-gateway/{__version__}"


def upstream_headers(request: MessagesRequest, target: Target) -> dict[str, str]:
    """Content type, our user agent, the provider's key, the session and the profile's own headers."""
    ours, profiles_own = target.once(_fixed_headers)
    return {**ours, **session_headers(request.body, target.profile), **profiles_own}


def _fixed_headers(target: Target) -> tuple[dict[str, str], dict[str, str]]:
    """What stands before the session, and behind it."""
    ours = {"content-type": "application/json", "user-agent": USER_AGENT}
    key = target.provider.api_key
    if key and target.profile.auth == "bearer":
        ours["authorization"] = f"Bearer {key}"
    elif key and target.profile.auth != "none":
        ours[target.profile.auth] = key
    return ours, {name.lower(): value for name, value in target.profile.extra_headers.items()}


class AsksForModel(Protocol):
    """A request, or what is kept of one."""

    @property
    def model(self) -> str: ...


def error_context(request: AsksForModel, target: Target, tool_names: dict[str, str] | None = None) -> ErrorContext:
    """Who answered, for error messages."""
    return ErrorContext(
        provider=target.provider.name,
        model=target.model,
        asked=request.model,
        key_source=target.provider.key_source,
        secret=target.provider.api_key,
        codes=target.profile.error_codes,
        tool_names=tool_names or {},
    )
