"""Adapters: one per upstream API, found by the API's name.

Third parties register theirs in the entry-point group ``gateway.adapters``: the name of the API -> a
class that is called without arguments.
"""

from __future__ import annotations

from functools import cache
from importlib import import_module

from gateway.adapters.base import Adapter

GROUP = "gateway.adapters"

_BUILT_IN = {
    "openai-chat": "gateway.adapters.openai_chat:OpenAIChatAdapter",
    "openai-responses": "gateway.adapters.openai_responses:OpenAIResponsesAdapter",
    "ollama": "gateway.adapters.ollama:OllamaAdapter",
    "anthropic": "gateway.adapters.anthropic_messages:AnthropicMessagesAdapter",
    "echo": "gateway.adapters.echo:EchoAdapter",
}


@cache
def get(api: str) -> Adapter:
    """The adapter of an API. Raises LookupError for a name that nobody registered."""
    path = _BUILT_IN.get(api)
    if path is not None:
        module, _, name = path.partition(":")
        adapter: Adapter = getattr(import_module(module), name)()
        return adapter
    from importlib.metadata import entry_points

    for entry_point in entry_points(group=GROUP, name=api):
        registered: Adapter = entry_point.load()()
        return registered
    raise LookupError(f"no adapter for the api {api!r}: is the package that registers it installed?")
