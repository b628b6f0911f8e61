"""Claude Code's billing block: the first line of the system prompt names the client's version and entry point.

It differs from conversation to conversation, so it empties the prefix cache of every upstream that reads it
as text (client.md, finding 13; providers.md, R1). Only Anthropic's own API knows what it means.
"""

from __future__ import annotations

_MARK = "x-anthropic-billing-header:"


def without_billing_line(text: str) -> str:
    """``text`` without its first line, if that is the billing line."""
    return text.partition("\n")[2] if text.startswith(_MARK) else text
