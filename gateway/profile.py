"""Profile: every quirk that an upstream can have, one documented field each.

Rules:
* A quirk is data. Code asks ``profile.field``; it never asks who the provider is.
* Layers merge field by field: the API's defaults -> the built-in provider (profiles.yaml) -> the
  model patterns of that provider, in order -> the user's providers.yaml.
* The model decides the wire: ``api`` is a field like any other, and what the user writes wins.
* Every built-in fact stands in profiles.yaml with its source and the date it was seen.
"""

# No ``from __future__ import annotations``: the configuration reads the types of the fields at every start.
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal, Self

APIS = ("openai-chat", "openai-responses", "ollama", "anthropic", "echo")
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


_AMOUNT = re.compile(r"([0-9]{1,6})(?:\.([0-9]{1,6}))?")


class Dollars(int):
    """US dollars for a million tokens, which is as many whole pico-dollars for a token: money is never a float."""

    @classmethod
    def from_text(cls, text: str) -> Self:
        """``0.275``: up to six digits on each side. Raises ValueError with words for the user."""
        found = _AMOUNT.fullmatch(text.strip())
        if found is None:
            raise ValueError("expected US dollars for a million tokens, like 0.275")
        return cls(found[1] + (found[2] or "").ljust(6, "0"))


@dataclass(frozen=True, slots=True)
class Price:
    """What the tokens of a model cost."""

    input: Dollars
    output: Dollars
    """With reasoning."""
    cache_read: Dollars | None = None
    """None: as ``input``."""
    cache_write: Dollars | None = None
    """None: as ``input``."""


@dataclass(frozen=True, slots=True)
class Profile:
    """What one upstream model takes and gives. The default of each field suits an unknown server."""

    # -- where it is ------------------------------------------------------------------------------
    api: str = "openai-chat"
    """The wire that the model speaks: one of APIS, or one registered by a third party."""
    auth: Literal["bearer", "x-api-key", "api-key", "none"] = "bearer"
    """How the key is sent: ``authorization: Bearer``, ``x-api-key``, ``api-key`` or not at all (``none``)."""
    extra_headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    """Headers added to every upstream request; may hold credentials, so ``repr`` leaves them out."""
    extra_body: Mapping[str, Any] = field(default_factory=dict, repr=False)
    """Fields merged into every upstream body, last; null takes one out. Left out of ``repr``."""

    # -- limits -----------------------------------------------------------------------------------
    context_window: int | None = None
    """Tokens for prompt and answer in all; None: unknown. On the ``ollama`` wire it is asked for as ``num_ctx``."""
    max_output_tokens: int | None = None
    """A larger ``max_tokens`` is lowered to this; None: sent as asked."""
    stop_limit: int = 4
    """How many stop sequences the upstream takes; when there are more, the gateway cuts the stream itself."""
    max_tools: int | None = None
    """More offered tools than this are a 400 that says so; None: no limit known."""
    connect_timeout: float = 10.0
    """Seconds until a connection must stand."""
    first_byte_timeout: float | None = None
    """Seconds until the response headers must come; None: no limit (local servers load models)."""
    idle_timeout: float | None = 300.0
    """Seconds of upstream silence after which a stream is given up; None: no limit."""
    max_attempts: int = 2
    """How often a request may be tried on the same key and address, until its answer begins; 1: no second time."""
    max_concurrency: int | None = None
    """How many requests this model gets at a time; the others wait, each client in its turn. None: no limit."""
    queue_timeout: float = 10.0
    """Seconds that a request waits for its turn, where ``max_concurrency`` is set."""
    price: Price | None = None
    """What tokens cost here, in US dollars for a million; None: by the built-in table, where that knows the model."""

    # -- request: parameters -----------------------------------------------------------------------
    max_tokens_field: str = "max_tokens"
    """The body field that carries ``max_tokens`` in Chat Completions: ``max_tokens`` or ``max_completion_tokens``."""
    drop_fields: tuple[str, ...] = ()
    """Upstream body fields never to send, e.g. ``temperature`` for reasoning models."""
    sampling: Literal["always", "without_reasoning", "never"] = "always"
    """When ``temperature`` and ``top_p`` are taken: ``always``, ``without_reasoning`` or ``never``."""
    stream_usage: bool = True
    """Ask for usage with ``stream_options.include_usage``."""
    parallel_tool_calls: bool = True
    """Takes ``parallel_tool_calls: false`` for ``disable_parallel_tool_use``."""
    ask_parallel: bool = False
    """Parallel calls must be asked for: ``parallel_tool_calls: true`` goes up beside tools."""
    response_format: Literal["json_schema", "without_tools", "none"] = "json_schema"
    """For ``output_config.format``: ``json_schema``; ``without_tools`` (not beside tools); ``none`` (dropped)."""
    user_field: str | None = None
    """The body field for a hash of ``metadata.user_id``; None: dropped."""
    session_field: str | None = None
    """The body field for the client's session id (prompt-cache routing); None: not sent."""
    session_header: str | None = None
    """The header for the client's session id (prompt-cache routing); None: not sent."""
    cache: Literal["none", "keep", "breakpoints"] = "none"
    """``cache_control`` marks: dropped (``none``), kept on content (``keep``), or as ``prompt_cache_breakpoint``."""
    cache_limit: int = 4
    """How many cache marks a request may hold; the last ones are kept."""

    # -- request: reasoning ------------------------------------------------------------------------
    thinking_on: Mapping[str, Any] | None = None
    """Body fields that ask for reasoning; None: there is no switch."""
    thinking_off: Mapping[str, Any] | None = None
    """Body fields that switch reasoning off; None: it cannot be, or only by the effort ``none``."""
    effort_field: str | None = None
    """Where the reasoning effort goes, dots for nesting (``reasoning.effort``); None: effort is dropped."""
    efforts: tuple[str, ...] = ("low", "medium", "high")
    """The effort levels it takes, ascending, ``none`` first where it can be switched off."""
    budget_field: str | None = None
    """Where ``thinking.budget_tokens`` goes, dots for nesting; None: it becomes an effort."""
    effort_with_tools: str | None = None
    """An effort forced when tools are sent (chat completions of some models refuse the two at once)."""
    encrypted_reasoning: bool = False
    """Ask the Responses API for encrypted reasoning items, which stateless requests must give back."""
    reasoning_back: str = "same"
    """Where past reasoning of this provider goes: ``same`` (as it came), ``none``, ``tags`` or a field name."""
    reasoning_placeholder: str | None = None
    """Stands in for the reasoning of past turns whose reasoning is not this provider's; None: nothing does."""
    reasoning_placeholder_field: str = "reasoning_content"
    """The field that ``reasoning_placeholder`` fills."""
    foreign_signature: str | None = None
    """Regular expression of ``signature``s that other upstreams made (``anthropic`` wire): such blocks stay here."""
    call_placeholder: Mapping[str, Any] | None = None
    """Fields for the first tool call of a turn that carries no state of this provider (thought signatures)."""

    # -- request: messages -------------------------------------------------------------------------
    mid_system: Literal["system", "user"] = "user"
    """A later ``role: system`` message: ``system`` (kept in place) or ``user`` (as a <system-reminder>)."""
    developer_role: bool = False
    """The system prompt goes as ``role: developer``."""
    keep_betas: bool = True
    """``anthropic`` wire: the client's ``anthropic-beta`` header goes up; some servers refuse the names in it."""
    system_blocks: bool = True
    """``anthropic`` wire: ``system`` may be a list of blocks; otherwise it is joined to one string."""
    images: bool = True
    """Takes images; otherwise each becomes a stated placeholder."""
    image_urls: bool = True
    """Takes images by URL; otherwise such an image is a 400."""
    tool_result_images: Literal["user_message", "inline"] = "user_message"
    """Images and documents of a tool result: in a user message after the results, or ``inline`` in the result."""
    pdf: Literal["file", "document_url", "placeholder", "refuse"] = "placeholder"
    """PDF documents: a ``file`` part, a ``document_url`` part, a stated ``placeholder``, or a 400 (``refuse``)."""
    empty_content: bool = False
    """A tool-call turn without text has ``content: ""`` instead of ``null``."""
    prefill: Literal["kept", "prefix", "dropped"] = "kept"
    """A last message of the assistant: sent as it is (``kept``), marked ``prefix: true``, or ``dropped``."""
    bridge_after_tool: str | None = None
    """Text of an assistant message between a tool result and user text; None: user text may follow directly."""
    tool_result_name: bool = False
    """A tool message carries the tool's ``name``."""
    tool_result_id: bool = False
    """``anthropic`` wire: a tool_result carries ``id`` beside ``tool_use_id``."""
    joined_turns: bool = False
    """``anthropic`` wire: no empty content lists, and neighbouring messages of one role become one."""
    strip_billing_block: bool = True
    """Leave out Claude Code's ``x-anthropic-billing-header`` block, which empties every other prefix cache."""
    first_party: bool = False
    """This is Anthropic's own API: its ``safeguard_results`` and rate-limit headers are relayed, betas kept."""

    # -- request: tools ----------------------------------------------------------------------------
    tool_id_max: int = 40
    """Longest tool call id sent up; longer ones are hashed (chat completions take 40 characters)."""
    tool_id_length: int | None = None
    """Tool call ids must be exactly this many letters and digits; others are hashed. None: any."""
    tool_id_template: str | None = None
    """The form of ids that are not the upstream's own, with ``{name}`` and ``{index}``; None: sent as they are."""
    tool_name_max: int = 64
    """Longest tool name sent up; longer ones are shortened with a hash and mapped back."""
    reserved_tool_names: tuple[str, ...] = ()
    """Names that the upstream keeps for itself; a tool of that name gets a hash, and is mapped back."""
    tool_choice: Literal["full", "any", "named", "string", "auto"] = "full"
    """Forcing: ``full``; ``any`` instead of ``required``; ``named`` tools only; ``string`` (for a named tool, only
    that one is offered); ``auto`` (no forcing)."""
    tool_choice_none: bool = True
    """Takes ``tool_choice: none``; otherwise the tools are left out."""
    tool_choice_thinking: bool = True
    """A forced choice is taken while thinking; otherwise thinking is switched off for it, or the choice dropped."""
    tools_for_history: bool = False
    """Past calls need a list of tools: one is made from them where the request offers none."""
    drop_tool_fields: tuple[str, ...] = ()
    """``anthropic`` wire: fields of a tool never to send; ``type`` means ``type: custom``."""
    server_tools: bool = False
    """``anthropic`` wire: runs Anthropic's server tools (web search) itself; read where ``keep_betas`` is false."""
    schema_rewrites: tuple[str, ...] = ()
    """How tool schemas are fitted to the upstream, in order (the names stand in translate/tool_schema.py)."""
    schema_dropped: tuple[str, ...] = ()
    """Schema keywords that the upstream refuses; what they said moves to the description."""

    # -- response ----------------------------------------------------------------------------------
    think_tags: bool = True
    """A leading ``<think>…</think>`` in the text is reasoning."""
    cumulative_deltas: bool = False
    """Deltas may repeat the whole text so far; only the new suffix counts."""
    leaked_calls: tuple[Mapping[str, str], ...] = ()
    """Markup of tool calls that leaks into text and is healed: ``open``, ``close`` and ``form`` each."""
    error_codes: Mapping[str, ErrorKind] = field(default_factory=dict)
    """The upstream's own error codes -> an Anthropic error type, ``prompt_too_long`` or ``provider_not_ready``."""


PROFILE_FIELDS = frozenset(item.name for item in fields(Profile))
JOINED_FIELDS = frozenset(("extra_headers", "extra_body", "error_codes"))
"""Mappings that merge key by key; every other field is replaced."""


def merge(base: Profile, *layers: Mapping[str, Any]) -> Profile:
    """``base`` with the fields of each layer laid over it, in order; lists become tuples.

    Raises KeyError for a name that is no field; types are the caller's to check.
    """
    changes: dict[str, Any] = {}
    for layer in layers:
        for name, value in layer.items():
            if name not in PROFILE_FIELDS:
                raise KeyError(name)
            if isinstance(value, list):
                value = tuple(value)
            elif name in JOINED_FIELDS:
                value = {**(changes[name] if name in changes else getattr(base, name)), **value}
            changes[name] = value
    return replace(base, **changes) if changes else base
