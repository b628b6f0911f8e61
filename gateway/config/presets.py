"""The built-in facts of ``gateway/profiles.yaml``: what an API and a known provider are like.

Rule: the file is read by the same reader, with the same checks, as the user's own.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path
from typing import Any

from gateway.config.document import MAX_BYTES, ListNode, MapNode, Node, read
from gateway.config.fields import INVALID, FieldReader
from gateway.config.mistakes import Mistakes

PROFILES = Path(__file__).parent.parent / "profiles.yaml"

_TEXTS: Mapping[str, Any] = {"api": str, "base_url": str, "key_env": str | None, "hosts": tuple[str, ...]}
_KEYS = frozenset((*_TEXTS, "profile", "models", "apis"))
_WIRE_KEYS = ("base_url", "profile", "models")


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """A layer for the models whose id matches ``pattern``."""

    pattern: str
    profile: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Wire:
    """What holds for one provider on one API only."""

    base_url: str = ""
    profile: Mapping[str, Any] = field(default_factory=dict)
    models: tuple[ModelFacts, ...] = ()


@dataclass(frozen=True, slots=True)
class Preset:
    """One known provider."""

    name: str
    api: str
    """The API of its models, where no fact about the model says otherwise."""
    base_url: str = ""
    """Its address for ``api``; one with ``*`` in it is a form that the user fills."""
    key_env: str | None = None
    """The customary variable of its key; None: it needs no key."""
    hosts: tuple[str, ...] = ()
    """``host`` or ``host:port``, where this provider answers; ``*`` stands for anything."""
    profile: Mapping[str, Any] = field(default_factory=dict)
    """Facts on every API of it."""
    models: tuple[ModelFacts, ...] = ()
    apis: Mapping[str, Wire] = field(default_factory=dict)
    """Its APIs, ``api`` among them."""


@dataclass(frozen=True, slots=True)
class Presets:
    """All of profiles.yaml."""

    apis: Mapping[str, Mapping[str, Any]]
    """API -> its layer of Profile fields."""
    providers: Mapping[str, Preset]
    hosts: Mapping[str, Preset]
    """``host`` or ``host:port``, perhaps with ``*`` -> the provider that answers there."""

    def at(self, keys: Collection[str]) -> Preset | None:
        """The provider that answers at one of the ``host:port`` and ``host`` of an address."""
        for key in keys:
            if key in self.hosts:
                return self.hosts[key]
        found = (preset for host, preset in self.hosts.items() for key in keys if fnmatchcase(key, host))
        return next(found, None)


@cache
def built_in() -> Presets:
    """The presets that ship with the gateway."""
    return read_presets(PROFILES.read_bytes(), PROFILES.name)


def read_presets(data: bytes, name: str) -> Presets:
    """Raises ConfigError with every mistake in ``data``."""
    mistakes = Mistakes(name)
    reader = FieldReader(mistakes, {}, PROFILES.parent)
    root = reader.section(read(data, mistakes, MAX_BYTES), name, ("apis", "providers"))
    apis: dict[str, Mapping[str, Any]] = {}
    providers: dict[str, Preset] = {}
    for api, node in _entries(root, "apis", reader).items():
        apis[api] = reader.profile(node, f"apis.{api}")
    for provider, node in _entries(root, "providers", reader).items():
        providers[provider] = _preset(provider, node, reader)
    mistakes.raise_if_any()
    hosts = {host: preset for preset in providers.values() for host in preset.hosts}
    return Presets(apis, providers, hosts)


def _entries(root: MapNode, key: str, reader: FieldReader) -> Mapping[str, Node]:
    node = root.entries.get(key)
    return reader.section(node, key).entries if node is not None else {}


def _preset(name: str, node: Node, reader: FieldReader) -> Preset:
    path = f"providers.{name}"
    entries = reader.section(node, path, _KEYS).entries
    texts = {key: reader.value(entries[key], kind, f"{path}.{key}") for key, kind in _TEXTS.items() if key in entries}
    if "api" not in texts:
        reader.mistakes.add(node.mark, f"{path} has no 'api'")
        texts["api"] = ""
    profile = reader.profile(entries["profile"], f"{path}.profile") if "profile" in entries else {}
    models = _model_facts(entries["models"], f"{path}.models", reader) if "models" in entries else ()
    apis = {texts["api"]: Wire(texts.get("base_url", ""))}
    for api, child in reader.section(entries["apis"], f"{path}.apis").entries.items() if "apis" in entries else ():
        apis[api] = _wire(child, f"{path}.apis.{api}", texts.get("base_url", ""), reader)
    return Preset(name, profile=profile, models=models, apis=apis, **texts)


def _wire(node: Node, path: str, base_url: str, reader: FieldReader) -> Wire:
    entries = reader.section(node, path, _WIRE_KEYS).entries
    if "base_url" in entries:
        base_url = reader.value(entries["base_url"], str, f"{path}.base_url")
    profile = reader.profile(entries["profile"], f"{path}.profile") if "profile" in entries else {}
    models = _model_facts(entries["models"], f"{path}.models", reader) if "models" in entries else ()
    return Wire(base_url, profile, models)


def _model_facts(node: Node, path: str, reader: FieldReader) -> tuple[ModelFacts, ...]:
    if not isinstance(node, ListNode):
        reader.expected("a list", node, path)
        return ()
    facts: list[ModelFacts] = []
    for item in node.items:
        entries = reader.section(item, path, ("match", "profile")).entries
        if len(entries) != 2:
            reader.mistakes.add(item.mark, f"{path}: each entry needs 'match' and 'profile'")
            continue
        layer = reader.profile(entries["profile"], f"{path}.profile")
        match = entries["match"]
        # ``match`` is one pattern or a list of them.
        patterns = reader.value(match, tuple[str, ...] if isinstance(match, ListNode) else str, f"{path}.match")
        if patterns is not INVALID:
            facts.extend(ModelFacts(p, layer) for p in ((patterns,) if isinstance(patterns, str) else patterns))
    return tuple(facts)
