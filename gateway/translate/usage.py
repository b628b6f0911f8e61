"""Usage: what one answer cost in tokens, in Anthropic's terms.

Rules (providers.md R100-R105):
* ``input_tokens`` excludes what was read from or written to a cache; the three add up to the prompt.
* ``output_tokens`` includes reasoning. When ``total`` exceeds prompt + completion, the difference is
  hidden reasoning and counts as output.
* Cache misses are not cache writes.
"""

from __future__ import annotations

from typing import Any, NamedTuple

_BYTES_PER_OUTPUT_TOKEN = 4
"""For answers whose upstream reports no usage; the usual figure for English text."""


class Usage(NamedTuple):
    """Token counts of one answer."""

    input_tokens: int = 0
    cache_read_tokens: int = 0
    cache_write_tokens: int = 0
    output_tokens: int = 0
    reasoning_tokens: int = 0
    estimated: bool = False
    """No upstream reported them."""

    @property
    def prompt_tokens(self) -> int:
        """The whole prompt: fresh, read and written."""
        return self.input_tokens + self.cache_read_tokens + self.cache_write_tokens

    def to_wire(self) -> dict[str, Any]:
        """The ``usage`` object of a ``message_delta``."""
        wire: dict[str, Any] = {
            "input_tokens": self.input_tokens,
            "cache_creation_input_tokens": self.cache_write_tokens,
            "cache_read_input_tokens": self.cache_read_tokens,
            "output_tokens": self.output_tokens,
        }
        if self.reasoning_tokens:
            wire["output_tokens_details"] = {"thinking_tokens": self.reasoning_tokens}
        return wire


def estimated_usage(input_tokens: int, written: int) -> Usage:
    """The counts of an answer of ``written`` bytes whose upstream reported none."""
    return Usage(input_tokens, output_tokens=max(1, written // _BYTES_PER_OUTPUT_TOKEN), estimated=True)


def from_chat(usage: Any) -> Usage | None:
    """Usage from a Chat Completions ``usage`` object; None when it says nothing."""
    if not isinstance(usage, dict):
        return None
    prompt = _first(usage, "prompt_tokens", "input_tokens")
    completion = _first(usage, "completion_tokens", "output_tokens")
    total = _first(usage, "total_tokens")
    details = _mapping(usage.get("prompt_tokens_details") or usage.get("input_tokens_details"))
    read = _first(details, "cached_tokens") or _first(usage, "prompt_cache_hit_tokens", "cached_tokens")
    written = _first(details, "cache_write_tokens", "cache_creation_tokens", "cache_creation_input_tokens")
    reasoning = _first(
        _mapping(usage.get("completion_tokens_details") or usage.get("output_tokens_details")), "reasoning_tokens"
    )
    if not (prompt or completion or total):
        return None
    return Usage(
        input_tokens=max(0, prompt - read - written),
        cache_read_tokens=read,
        cache_write_tokens=written,
        output_tokens=max(completion, total - prompt) if prompt else completion,
        reasoning_tokens=reasoning,
    )


def from_anthropic(usage: Any, known: Usage) -> Usage:
    """``known`` with what a Messages API ``usage`` object adds; a later value above zero wins (R106)."""
    wire = _mapping(usage)
    return Usage(
        input_tokens=count(wire.get("input_tokens")) or known.input_tokens,
        cache_read_tokens=count(wire.get("cache_read_input_tokens")) or known.cache_read_tokens,
        cache_write_tokens=count(wire.get("cache_creation_input_tokens")) or known.cache_write_tokens,
        output_tokens=count(wire.get("output_tokens")) or known.output_tokens,
        reasoning_tokens=count(_mapping(wire.get("output_tokens_details")).get("thinking_tokens"))
        or known.reasoning_tokens,
    )


def count(value: Any) -> int:
    """A number of tokens; whatever else an upstream sends there counts as 0."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 1 << 53:
        return 0
    return int(value)


def _first(holder: dict[str, Any], *names: str) -> int:
    """The first of these numbers that is more than 0."""
    for name in names:
        if name in holder and (number := count(holder[name])):
            return number
    return 0


def _mapping(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}
