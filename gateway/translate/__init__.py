"""Requests up, streams down. Pure and synchronous: no network, clock, randomness or logging.

    chat_request.py    Anthropic request  -> Chat Completions body     chat_messages.py, chat_tools.py
    chat_stream.py     Chat Completions stream -> Anthropic events     tool_calls.py, think_tags.py
    passthrough_*.py   Anthropic request and stream, nearly untouched
    writer.py          the only owner of the Anthropic event grammar
    fold.py            event stream -> the Message of a client that does not stream
    upstream_errors.py an upstream's refusal -> the one tree of errors
    opaque.py          upstream state that rides through the client in signatures and tool ids
    billing_block.py   Claude Code's first system line
    usage.py, token_estimate.py, changes.py
"""
