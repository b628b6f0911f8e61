"""The context window of a model on an Ollama server: what is asked for, what it has, what follows.

Rules:
* Asked for is ``num_ctx`` of the profile's ``extra_body`` (the user's ``options``), else ``context_window``.
  ``num_ctx: null`` leaves it to the server, whose default may be 4,096 tokens.
* The server lowers ``num_ctx`` to what the model was trained for (server/sched.go, ``effectiveContext``);
  so the window in force is the smaller of the two. A model that runs elsewhere (``remote_host``) has its
  largest window there unless something else is asked for (docs/context-length.mdx).
* A capability that the model lacks is not asked of it: ``think: true`` is a 400 there, and an image is lost.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from gateway.profile import Profile
from gateway.translate.usage import count

AGENT_WINDOW = 32_768
"""Tokens below which a coding agent's prompt does not fit: Claude Code's first turn alone has about 30,000."""
ADVISED_WINDOW = 65_536
"""What a coding agent needs to do some work (docs/context-length.mdx says at least 64,000)."""
FIRST_HONEST_VERSION = (0, 12, 6)
"""From here on the server knows ``truncate`` and ``shift`` (ollama#12582); older ones cut a long prompt silently."""

TOO_OLD = (
    "the server is older than 0.12.6 and cuts a prompt that is too long without a word; update it, so that the "
    "client learns of it and compacts."
)
NO_TOOLS = "the model takes no tools, so a coding agent cannot work with it; choose another model."

_PARAMETER = re.compile(r"^\s*num_ctx\s+(\d{1,9})\s*$", re.MULTILINE)
_VERSION = re.compile(r"v?(\d{1,6})\.(\d{1,6})\.(\d{1,6})")


def asked_window(profile: Profile) -> int | None:
    """The ``num_ctx`` that requests carry; None leaves it to the server."""
    extra = profile.extra_body
    options = extra.get("options")
    for holder in (options if isinstance(options, Mapping) else {}, extra):
        if "num_ctx" in holder:
            return count(holder["num_ctx"]) or None
    return profile.context_window


def window_of(show: Any) -> int | None:
    """The largest window of the model, from the answer to ``POST /api/show``; None when it does not say."""
    info = show.get("model_info") if isinstance(show, dict) else None
    if not isinstance(info, dict):
        return None
    own = count(info.get(f"{info.get('general.architecture')}.context_length"))
    others = (count(value) for name, value in info.items() if str(name).endswith(".context_length"))
    return own or max(others, default=0) or None


def default_window(show: Any) -> int | None:
    """The ``num_ctx`` that the model's own file sets (``parameters`` of the same answer); None: it sets none."""
    parameters = show.get("parameters") if isinstance(show, dict) else None
    found = _PARAMETER.search(parameters) if isinstance(parameters, str) else None
    return count(int(found[1])) or None if found else None


def loaded_window(ps: Any, model: str) -> int | None:
    """The window with which the model is loaded now, from the answer to ``GET /api/ps``; None: it is not."""
    models = ps.get("models") if isinstance(ps, dict) else None
    name = model if ":" in model else f"{model}:latest"
    for entry in models if isinstance(models, list) else ():
        if isinstance(entry, dict) and name in (entry.get("name"), entry.get("model")):
            return count(entry.get("context_length")) or None
    return None


def window_in_force(profile: Profile, show: Any) -> int | None:
    """The window of the next request: what is asked for, else the model's own default, at most its largest."""
    largest = window_of(show)
    remote = isinstance(show, dict) and bool(show.get("remote_host"))
    asked = asked_window(profile) or default_window(show) or (largest if remote else None)
    return min(asked, largest) if asked and largest else asked


def learned_fields(profile: Profile, show: Any) -> dict[str, Any]:
    """A layer of Profile fields for what the server said; empty when it says nothing new.

    It does not change which window is asked for, except that no more is asked for than there is.
    """
    layer: dict[str, Any] = {}
    window = window_in_force(profile, show)
    if window is not None and window != profile.context_window:
        layer["context_window"] = window
    asked = asked_window(profile)
    if window is not None and asked is not None and asked > window:
        layer.update(_lowered(profile, window))
    capabilities = show.get("capabilities") if isinstance(show, dict) else None
    if isinstance(capabilities, list) and capabilities:
        if "vision" not in capabilities and profile.images:
            layer["images"] = False
        if "thinking" not in capabilities and (profile.thinking_on is not None or profile.effort_field is not None):
            layer.update(thinking_on=None, effort_field=None)
    return layer


def takes_tools(show: Any) -> bool:
    """False when the server says that the model takes no tools."""
    capabilities = show.get("capabilities") if isinstance(show, dict) else None
    return not isinstance(capabilities, list) or not capabilities or "tools" in capabilities


def cuts_silently(version: Any) -> bool:
    """Whether the answer to ``GET /api/version`` tells of a server that ignores ``truncate: false``."""
    text = version.get("version") if isinstance(version, dict) else None
    found = _VERSION.match(text) if isinstance(text, str) else None
    numbers = tuple(map(int, found.groups())) if found else FIRST_HONEST_VERSION
    # Builds from source call themselves 0.0.0.
    return (0, 0, 0) < numbers < FIRST_HONEST_VERSION


def too_small(target: str, window: int, show: Any) -> str:
    """What to tell the operator of a window below AGENT_WINDOW; ``target`` is ``provider/model``."""
    text = (
        f"{target}: its context window is {window} tokens, and a coding agent's first prompt has about 30000: "
        "it will be refused as too long."
    )
    largest = window_of(show)
    if largest is not None and largest < AGENT_WINDOW:
        return f"{text} The model has no larger one; choose another model."
    advised = min(ADVISED_WINDOW, largest or ADVISED_WINDOW)
    return (
        f"{text} In providers.yaml, write {{use: {target}, options: {{num_ctx: {advised}}}}} under 'models'; "
        "it takes more memory."
    )


def _lowered(profile: Profile, window: int) -> dict[str, Any]:
    """The layer that puts ``window`` where the user's ``num_ctx`` stands, if it stands anywhere."""
    options = profile.extra_body.get("options")
    if isinstance(options, Mapping) and "num_ctx" in options:
        return {"extra_body": {"options": {**options, "num_ctx": window}}}
    if "num_ctx" in profile.extra_body:
        return {"extra_body": {"num_ctx": window}}
    return {}
