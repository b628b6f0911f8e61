"""Profile: every quirk that an upstream can have, one documented field each.

Rules:
* A quirk is data. Code asks ``profile.field``; it never asks who the provider is.
* Layers merge field by field: the API's defaults -> the built-in provider (profiles.yaml) -> the
  model patterns of that provider, in order -> the user's providers.yaml.
* Every built-in fact stands in profiles.yaml with its source and the date it was seen.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal

APIS = ("openai-chat", "anthropic", "echo")
"""The upstream APIs that ship with the gateway; others register in the entry-point group ``gateway.adapters``."""

ErrorKind = Literal[
    "invalid_request_error",
    "prompt_too_long",
    "billing_error",
    "permission_error",
    "not_found_error",
    "request_too_large",
    "rate_limit_error",
    "api_error",
    "provider_not_ready",
    "timeout_error",
    "overloaded_error",
]
"""What an upstream's error code can mean: a type of Anthropic's, or one of the two special cases in errors.py."""


@dataclass(frozen=True, slots=True)
class Profile:
    """What one upstream model takes and gives. The default of each field suits an unknown server."""

    # -- where it is ------------------------------------------------------------------------------
    auth: Literal["bearer", "x-api-key", "none"] = "bearer"
    """How the key is sent: ``bearer``, ``x-api-key`` or ``none``."""
    extra_headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    """Headers added to every upstream request; may hold credentials, so ``repr`` leaves them out."""
    extra_body: Mapping[str, Any] = field(default_factory=dict, repr=False)
    """Fields merged into every upstream body, last; left out of ``repr``."""

    # -- limits -----------------------------------------------------------------------------------
    context_window: int | None = None
    """Tokens for prompt and answer in all; None: unknown."""
    max_output_tokens: int | None = None
    """A larger ``max_tokens`` is lowered to this; None: sent as asked."""
    stop_limit: int = 4
    """How many stop sequences the upstream takes; when there are more, the gateway cuts the stream itself."""
    connect_timeout: float = 10.0
    """Seconds until a connection must stand."""
    first_byte_timeout: float | None = None
    """Seconds until the response headers must come; None: no limit (local servers load models)."""
    idle_timeout: float | None = 300.0
    """Seconds of upstream silence after which a stream is given up; None: no limit."""

    # -- request: parameters -----------------------------------------------------------------------
    max_tokens_field: str = "max_tokens"
    """The body field that carries ``max_tokens``: ``max_tokens`` or ``max_completion_tokens``."""
    drop_fields: tuple[str, ...] = ()
    """Upstream body fields never to send, e.g. ``temperature`` for reasoning models."""
    stream_usage: bool = True
    """Ask for usage with ``stream_options.include_usage``."""
    parallel_tool_calls: bool = True
    """Takes ``parallel_tool_calls: false`` for ``disable_parallel_tool_use``."""
    effort_field: str | None = None
    """The body field for reasoning effort (``reasoning_effort``); None: effort is dropped."""
    efforts: tuple[str, ...] = ("low", "medium", "high")
    """The effort levels it takes, ascending, ``none`` first where it can be switched off."""
    effort_with_tools: str | None = None
    """An effort forced when tools are sent (chat completions of some models refuse the two at once)."""
    response_format: Literal["json_schema", "none"] = "json_schema"
    """For ``output_config.format``: ``json_schema`` or ``none`` (dropped)."""
    user_field: str | None = None
    """The body field for a hash of ``metadata.user_id``; None: dropped."""
    session_field: str | None = None
    """The body field for the client's session id (prompt-cache routing); None: not sent."""

    # -- request: messages -------------------------------------------------------------------------
    mid_system: Literal["system", "user"] = "user"
    """A later ``role: system`` message: ``system`` (kept in place) or ``user`` (as a <system-reminder>)."""
    developer_role: bool = False
    """The system prompt goes as ``role: developer``."""
    images: bool = True
    """Takes images; otherwise each becomes a stated placeholder."""
    pdf: Literal["file", "placeholder"] = "placeholder"
    """PDF documents: ``file`` (a file part) or ``placeholder`` (a stated placeholder)."""
    empty_content: bool = False
    """A tool-call turn without text has ``content: ""`` instead of ``null``."""
    reasoning_back: str = "same"
    """Where past reasoning of this provider goes: ``same`` (the field it came in), ``none``, or a field name."""
    reasoning_placeholder: str | None = None
    """Text for the reasoning field of tool-call turns whose reasoning is not ours; None: the field is left out."""
    reasoning_placeholder_field: str = "reasoning_content"
    """The field that ``reasoning_placeholder`` fills."""
    tool_id_max: int = 40
    """Longest tool call id sent up; longer ones are hashed (chat completions take 40 characters)."""
    tool_name_max: int = 64
    """Longest tool name sent up; longer ones are shortened with a hash and mapped back."""
    strip_billing_block: bool = True
    """Leave out Claude Code's ``x-anthropic-billing-header`` block, which empties every other prefix cache."""
    first_party: bool = False
    """This is Anthropic's own API: the only one whose ``safeguard_results`` are relayed."""

    # -- response ----------------------------------------------------------------------------------
    think_tags: bool = True
    """A leading ``<think>…</think>`` in the text is reasoning."""
    cumulative_deltas: bool = False
    """Deltas may repeat the whole text so far; only the new suffix counts."""
    error_codes: Mapping[str, ErrorKind] = field(default_factory=dict)
    """The upstream's own error codes -> an Anthropic error type, ``prompt_too_long`` or ``provider_not_ready``."""


PROFILE_FIELDS = frozenset(item.name for item in fields(Profile))


def merge(base: Profile, *layers: Mapping[str, Any]) -> Profile:
    """``base`` with the fields of each layer laid over it, in order.

    Mappings (``extra_headers``, ``extra_body``, ``error_codes``) merge key by key; lists become tuples.
    Raises KeyError for a name that is no field; types are the caller's to check.
    """
    for layer in layers:
        changes: dict[str, Any] = {}
        for name, value in layer.items():
            if name not in PROFILE_FIELDS:
                raise KeyError(name)
            if isinstance(value, list):
                value = tuple(value)
            elif isinstance(value, Mapping):
                value = {**getattr(base, name), **value}
            changes[name] = value
        if changes:
            base = replace(base, **changes)
    return base
