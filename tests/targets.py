"""Targets as the configuration makes them from the built-in profiles."""

from __future__ import annotations

from functools import cache

from gateway.config import loads
from gateway.routing import Target
from tests.recordings import presets

AZURE = "https://res.openai.azure.com/openai/v1"
"""Stands where a built-in address is a form for the user to fill."""


@cache
def preset_target(provider: str, api: str, model: str) -> Target:
    """``provider/model`` on ``api``, which is named only where the model does not choose it by itself."""
    section = presets()[provider]
    addresses = (section.get("base_url"), (section.get("apis") or {}).get(api, {}).get("base_url"))
    base = f", base_url: '{AZURE}'" if "*" in str(addresses) else ""
    for forced in ("", f", api: {api}"):
        text = f"providers: {{{provider}: {{api_key: test-key{base}{forced}}}}}\nmodels: {{m: '{provider}/{model}'}}\n"
        target = loads(text.encode(), "providers.yaml", {}).table.resolve("m").targets[0]
        if target.api == api:
            return target
    raise AssertionError(f"{provider} has no {api}")
