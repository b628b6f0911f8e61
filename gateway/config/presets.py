"""The built-in facts of ``gateway/profiles.yaml``: what an API and a known provider are like.

Rules:
* The file is read by the same reader, with the same checks, as the user's own.
* To read it would be a sixth of a start. So what it says is compiled once and kept in ``__pycache__``, as
  Python keeps a module: nobody has to do anything, and a changed file is read anew.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from fnmatch import fnmatchcase
from functools import cache
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import CodeType
from typing import Any, NamedTuple

import gateway.profile
from gateway.config import document, fields
from gateway.config.document import MAX_BYTES, ListNode, MapNode, Node, read
from gateway.config.fields import INVALID, FieldReader
from gateway.config.mistakes import Mistakes

PROFILES = Path(__file__).parent.parent / "profiles.yaml"
_READERS = (__file__, document.__file__, fields.__file__, gateway.profile.__file__)

_TEXTS: Mapping[str, Any] = {"api": str, "base_url": str, "key_env": str | None, "hosts": tuple[str, ...]}
_KEYS = frozenset((*_TEXTS, "profile", "models", "apis"))
_WIRE_KEYS = ("base_url", "profile", "models")


class ModelFacts(NamedTuple):
    """A layer for the models whose id matches ``pattern``."""

    pattern: str
    profile: Mapping[str, Any]


class Wire(NamedTuple):
    """What holds for one provider on one API only."""

    base_url: str
    profile: Mapping[str, Any]
    models: tuple[ModelFacts, ...]


class Preset(NamedTuple):
    """One known provider."""

    name: str
    api: str
    """The API of its models, where no fact about the model says otherwise."""
    base_url: str
    """Its address for ``api``; one with ``*`` in it is a form that the user fills."""
    key_env: str | None
    """The customary variable of its key; None: it needs no key."""
    hosts: tuple[str, ...]
    """``host`` or ``host:port``, where this provider answers; ``*`` stands for anything."""
    profile: Mapping[str, Any]
    """Facts on every API of it."""
    models: tuple[ModelFacts, ...]
    apis: Mapping[str, Wire]
    """Its APIs, ``api`` among them."""


class Presets(NamedTuple):
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
    compiled = _Compiler(PROFILES.stem, str(PROFILES)).get_code(PROFILES.stem)
    assert compiled is not None
    return _presets(eval(compiled))


def read_presets(data: bytes, name: str) -> Presets:
    """Raises ConfigError with every mistake in ``data``."""
    return _presets(_facts(data, name))


class _Compiler(SourceFileLoader):
    """What the import system does for a module, done for profiles.yaml; the code is one literal."""

    def source_to_code(self, data: Any, path: Any = "", **_: Any) -> CodeType:  # type: ignore[override]
        return compile(repr(_facts(data, PROFILES.name)), path, "eval")

    def path_stats(self, path: Any) -> Mapping[str, Any]:
        """What was compiled is as old as the file, and as the code that read it."""
        newest = max(os.stat(each).st_mtime for each in (path, *_READERS))
        return {**super().path_stats(path), "mtime": newest}


# -- from the file to plain values: str, int, float, bool, None, dict, list and tuple ------------------------

_Facts = dict[str, Any]


def _facts(data: bytes, name: str) -> _Facts:
    """What the file says: ``apis`` and ``providers`` by name. Raises ConfigError with every mistake."""
    mistakes = Mistakes(name)
    reader = FieldReader(mistakes, {}, PROFILES.parent)
    root = reader.section(read(data, mistakes, MAX_BYTES), name, ("apis", "providers"))
    apis = {api: reader.profile(node, f"apis.{api}") for api, node in _entries(root, "apis", reader).items()}
    providers = {
        provider: _provider_facts(provider, node, reader)
        for provider, node in _entries(root, "providers", reader).items()
    }
    mistakes.raise_if_any()
    return {"apis": apis, "providers": providers}


def _entries(root: MapNode, key: str, reader: FieldReader) -> Mapping[str, Node]:
    node = root.entries.get(key)
    return reader.section(node, key).entries if node is not None else {}


def _provider_facts(name: str, node: Node, reader: FieldReader) -> _Facts:
    path = f"providers.{name}"
    entries = reader.section(node, path, _KEYS).entries
    found = {key: reader.value(entries[key], kind, f"{path}.{key}") for key, kind in _TEXTS.items() if key in entries}
    if "api" not in found:
        reader.mistakes.add(node.mark, f"{path} has no 'api'")
    found |= _layers(entries, path, reader)
    if "apis" in entries:
        apis = reader.section(entries["apis"], f"{path}.apis").entries
        found["apis"] = {api: _wire_facts(child, f"{path}.apis.{api}", reader) for api, child in apis.items()}
    return found


def _wire_facts(node: Node, path: str, reader: FieldReader) -> _Facts:
    entries = reader.section(node, path, _WIRE_KEYS).entries
    found = _layers(entries, path, reader)
    if "base_url" in entries:
        found["base_url"] = reader.value(entries["base_url"], str, f"{path}.base_url")
    return found


def _layers(entries: Mapping[str, Node], path: str, reader: FieldReader) -> _Facts:
    found: _Facts = {}
    if "profile" in entries:
        found["profile"] = reader.profile(entries["profile"], f"{path}.profile")
    if "models" in entries:
        found["models"] = _model_facts(entries["models"], f"{path}.models", reader)
    return found


def _model_facts(node: Node, path: str, reader: FieldReader) -> list[tuple[tuple[str, ...], _Facts]]:
    """(patterns, layer) for each entry."""
    if not isinstance(node, ListNode):
        reader.expected("a list", node, path)
        return []
    facts: list[tuple[tuple[str, ...], _Facts]] = []
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
            facts.append(((patterns,) if isinstance(patterns, str) else patterns, layer))
    return facts


# -- from plain values to presets ----------------------------------------------------------------------------


def _presets(facts: _Facts) -> Presets:
    providers = {name: _preset(name, entries) for name, entries in facts["providers"].items()}
    hosts = {host: preset for preset in providers.values() for host in preset.hosts}
    return Presets(facts["apis"], providers, hosts)


def _preset(name: str, entries: _Facts) -> Preset:
    api, base_url = entries["api"], entries.get("base_url", "")
    wires = {api: _wire({}, base_url)}
    wires |= {other: _wire(own, base_url) for other, own in entries.get("apis", {}).items()}
    return Preset(
        name,
        api,
        base_url,
        entries.get("key_env"),
        entries.get("hosts", ()),
        entries.get("profile", {}),
        _models(entries),
        wires,
    )


def _wire(entries: _Facts, base_url: str) -> Wire:
    return Wire(entries.get("base_url", base_url), entries.get("profile", {}), _models(entries))


def _models(entries: _Facts) -> tuple[ModelFacts, ...]:
    return tuple(ModelFacts(pattern, layer) for patterns, layer in entries.get("models", ()) for pattern in patterns)
