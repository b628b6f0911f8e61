"""The context window of a model, where its server says it on one of its other addresses."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote, urlsplit

import orjson

from gateway.server.live_asker import NOT_SHOWN, OK, Asker, Cell
from gateway.translate.ollama_window import loaded_window, window_in_force, window_of
from gateway.translate.usage import count

WINDOW_FIELDS = ("max_model_len", "context_length", "context_window", "max_context_length", "max_input_tokens")
"""What servers call it in their list of models."""


async def window(asker: Asker) -> Cell:
    """The context window, where the server itself says it."""
    found = await (_asked_for(asker) if asker.target.api == "ollama" else _stated(asker))
    return Cell(OK, value=str(found)) if found else Cell(NOT_SHOWN, "the server does not say")


async def _asked_for(asker: Asker) -> int | None:
    """Where each request asks for its window: the one in force. Only more than there is can be wrong."""
    base, model, profile = asker.target.base_url, asker.target.model, asker.target.profile
    show = await asker.get(f"{base}/api/show", orjson.dumps({"model": model}))
    largest = window_of(show)
    if largest and profile.context_window and profile.context_window > largest:
        asker.found(context_window=largest)
    loaded = loaded_window(await asker.get(f"{base}/api/ps"), model)
    return loaded or (largest and (window_in_force(profile, show) or largest))


async def _stated(asker: Asker) -> int | None:
    """Where the server has one window for all: what it says is the fact."""
    found = await _listed(asker)
    if found and found != asker.target.profile.context_window:
        asker.found(context_window=found)
    return found


async def _listed(asker: Asker) -> int | None:
    base, model = asker.target.base_url, asker.target.model
    if not base:
        return None
    models = base + ("/v1/models" if asker.target.api == "anthropic" else "/models")
    parts = urlsplit(base)
    root = f"{parts.scheme}://{parts.netloc}"
    for url in (models, f"{models}/{quote(model, safe='/:')}", f"{root}/api/v0/models", f"{root}/props"):
        found = _window_in(await asker.get(url), model)
        if found is not None:
            return found
    return None


def _window_in(answer: Any, model: str) -> int | None:
    """The window in a list of models, in one of its entries, or in a server's properties."""
    if isinstance(answer, dict) and isinstance(answer.get("default_generation_settings"), dict):
        return count(answer["default_generation_settings"].get("n_ctx")) or None
    entries = answer.get("data", answer) if isinstance(answer, dict) else answer
    entries = [entry for entry in (entries if isinstance(entries, list) else [entries]) if isinstance(entry, dict)]
    named = [entry for entry in entries if str(entry.get("id", "")).lower() == model.lower()]
    for entry in named or (entries if len(entries) == 1 else ()):
        # What is in force comes before what the model could do.
        meta = entry.get("meta") if isinstance(entry.get("meta"), dict) else {}
        for value in (entry.get("loaded_context_length"), (meta or {}).get("n_ctx"), *map(entry.get, WINDOW_FIELDS)):
            if count(value):
                return count(value)
    return None
