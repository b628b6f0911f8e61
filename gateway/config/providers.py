"""The section ``providers`` -> ProviderSection: where each provider is, what opens it, what it is like.

Rules:
* The preset is: ``preset`` as written; else the provider's own name; else the host of its ``base_url``.
* The facts of a preset hold for the APIs that it lists; with another ``api``, only that API's defaults do.
* A model may speak another API than its provider (``api`` is a Profile field); what the user writes wins.
* The customary key variable of a preset is read only when the address is the preset's own, so that a
  key in the environment never goes to a host that it was not made for.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any
from urllib.parse import SplitResult, urlsplit

from gateway.config.addresses import (
    BadAddress,
    address_of,
    host_keys,
    normal_address,
    split_address,
    told_api,
    with_path,
)
from gateway.config.document import MapNode, Node, ScalarNode
from gateway.config.fields import INVALID, FieldReader, is_header_value, shown, written
from gateway.config.mistakes import Mark, listed, quoted
from gateway.config.presets import ModelFacts, Preset, Presets
from gateway.profile import Profile, merge
from gateway.routing import Provider, Target

KEYS = ("preset", "api", "base_url", "api_key", "headers", "profile", "models")
MAX_MODEL_PATTERNS = 16

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_EMBEDDED = frozenset(("echo",))
"""APIs that need no address."""


@dataclass(frozen=True, slots=True, eq=False)
class ProviderSection:
    """One provider, ready to make targets."""

    provider: Provider
    apis: Mapping[str, Mapping[str, Any]]
    """API -> its layer of Profile fields."""
    preset: Preset | None = None
    """The built-in facts that hold for it."""
    own: Mapping[str, Any] = field(default_factory=dict)
    """The user's layer for the whole provider."""
    patterns: tuple[tuple[str, Mapping[str, Any]], ...] = ()
    """Model pattern (lower case) -> layer, of the user."""
    written: SplitResult | None = None
    """The ``base_url`` that the user wrote; None: the preset's own."""

    def target(self, model: str, layers: Sequence[Mapping[str, Any]] = ()) -> Target:
        """The target for one upstream model; ``layers`` are what an entry in ``models`` overrides."""
        known = [self.preset.profile, *_matching(self.preset.models, model)] if self.preset else []
        wanted = [self.own, *(layer for pattern, layer in self.patterns if fnmatchcase(model.lower(), pattern))]
        chosen = [layer["api"] for layer in (*known, *wanted, *layers) if "api" in layer]
        api: str = chosen[-1] if chosen else self.provider.api
        wire = self.preset.apis.get(api) if self.preset else None
        if wire is not None:
            known = [*known, wire.profile, *_matching(wire.models, model)]
        elif api != self.provider.api:
            known = []
        profile = merge(Profile(api=api), self.apis.get(api, {}), *known, *wanted, *layers, {"api": api})
        return Target(self.provider, model, profile, self._address(api))

    def _address(self, api: str) -> str:
        """Where ``api`` answers."""
        if api == self.provider.api:
            return self.provider.base_url
        wire = self.preset.apis.get(api) if self.preset else None
        if wire is not None and self.written is None:
            return wire.base_url
        if wire is not None and self.written is not None and self.preset and _at_home(self.preset, self.written):
            return with_path(self.written, urlsplit(wire.base_url).path)
        return address_of(self.provider.base_url, api)


def _matching(facts: Sequence[ModelFacts], model: str) -> list[Mapping[str, Any]]:
    return [item.profile for item in facts if fnmatchcase(model.lower(), item.pattern.lower())]


def _is_pathless(parts: SplitResult, own: SplitResult) -> bool:
    """Whether the path is to be filled in: there is none, or the customary one on the very host that has another."""
    path = parts.path.strip("/")
    return not path or (path == "v1" and parts.hostname == own.hostname)


def _at_home(preset: Preset, parts: SplitResult) -> bool:
    """Whether an address is one of the preset's own."""
    return any(fnmatchcase(key, host) for key in host_keys(parts) for host in preset.hosts)


def read_providers(
    node: Node | None, reader: FieldReader, presets: Presets
) -> tuple[dict[str, ProviderSection | None], list[str]]:
    """Name -> section, None for one with a mistake; and warnings."""
    sections: dict[str, ProviderSection | None] = {}
    warnings: list[str] = []
    if node is None:
        return sections, warnings
    root = reader.section(node, "providers")
    for name, child in root.entries.items():
        sections[name] = None
        if not _NAME.fullmatch(name):
            hint = "letters, digits, dot, dash and underscore, at most 64"
            reader.mistakes.add(root.keys[name], f"{quoted(name)} cannot be a provider's name", hint)
            continue
        section = _Section(name, root.keys[name], child, reader, presets)
        sections[name] = section.read()
        warnings += section.warnings
    return sections, warnings


class _Section:
    """Reads one section of ``providers``."""

    def __init__(
        self, name: str, mark: Mark, node: Node, reader: FieldReader, presets: Presets
    ) -> None:
        self.name = name
        self.mark = mark
        self.path = f"providers.{name}"
        self.reader = reader
        self.presets = presets
        self.node = node
        self.entries: Mapping[str, Node] = reader.section(node, self.path, KEYS).entries
        self.warnings: list[str] = []

    def read(self) -> ProviderSection | None:
        before = len(self.reader.mistakes.found)
        own, patterns = self._own_layer(), self._patterns()
        preset = self._named_preset()
        api = self._text("api")
        parts = self._address()
        if parts is not None and preset is None and "preset" not in self.entries:
            preset = self.presets.at(host_keys(parts))
        if api is None and preset is not None and parts is not None:
            told = told_api(parts.path)
            api = told if told in preset.apis and told != preset.api else None
        if api is not None:
            # What the user chose holds for every model, whatever is known about it.
            own = {"api": api, **own}
        api = self._api(api, preset)
        base_url = self._base_url(api, preset, parts)
        key, missing, source = self._key(preset, parts is None or (preset is not None and _at_home(preset, parts)))
        if len(self.reader.mistakes.found) > before or api is None:
            return None
        facts = preset if preset is not None and api in preset.apis else None
        provider = Provider(self.name, api, base_url, key, missing, source, preset.name if preset else None)
        return ProviderSection(provider, self.presets.apis, facts, own, patterns, parts)

    # -- what it is like --------------------------------------------------------------------------

    def _own_layer(self) -> dict[str, Any]:
        node, headers = self.entries.get("profile"), self.entries.get("headers")
        layer = self.reader.profile(node, f"{self.path}.profile") if node is not None else {}
        if headers is not None:
            found = self.reader.headers(headers, f"{self.path}.headers")
            layer["extra_headers"] = {**layer.get("extra_headers", {}), **found}
        return layer

    def _patterns(self) -> tuple[tuple[str, Mapping[str, Any]], ...]:
        node = self.entries.get("models")
        if node is None:
            return ()
        path = f"{self.path}.models"
        entries = self.reader.section(node, path).entries
        if len(entries) > MAX_MODEL_PATTERNS:
            self.reader.mistakes.add(node.mark, f"{path}: more than {MAX_MODEL_PATTERNS} patterns")
            return ()
        return tuple((name.lower(), self.reader.profile(child, f"{path}.{name}")) for name, child in entries.items())

    # -- what it is -------------------------------------------------------------------------------

    def _text(self, key: str) -> str | None:
        node = self.entries.get(key)
        value = self.reader.value(node, str, f"{self.path}.{key}") if node is not None else None
        return None if value is INVALID else value

    def _named_preset(self) -> Preset | None:
        known = self.presets.providers
        if "preset" not in self.entries:
            return known.get(self.name)
        named = self._text("preset")
        if named is not None and named not in known:
            hint = self.reader.mistakes.did_you_mean(named, known) or f"built in: {listed(known)}"
            node = self.entries["preset"]
            self.reader.mistakes.add(node.mark, f"{self.path}: unknown preset {written(node)}", hint)
        return known.get(named or "")

    def _api(self, written: str | None, preset: Preset | None) -> str | None:
        """The API's name; None when it is unknown, which is a mistake or has just been one."""
        api = written or (preset.api if preset else None)
        if api is None and not {"api", "preset"} & self.entries.keys():
            like = self.reader.mistakes.did_you_mean(self.name, self.presets.providers)
            hint = f"{like} otherwise add 'api' and 'base_url'" if like else "add 'api' and 'base_url', or 'preset'"
            self.reader.mistakes.add(self.mark, f"{self.path} is no built-in provider and has no 'api'", hint)
        elif api is not None and api not in self.reader.apis:
            self.reader.unknown_api(api, self.entries.get("api", self.node), self.path)
            return None
        return api

    # -- where it is ------------------------------------------------------------------------------

    def _address(self) -> SplitResult | None:
        """The checked ``base_url``; None without a usable one."""
        text = self._text("base_url")
        if text is None:
            return None
        try:
            return split_address(text)
        except BadAddress as error:
            self._bad_address(error)
            return None

    def _base_url(self, api: str | None, preset: Preset | None, parts: Any) -> str:
        if api in _EMBEDDED:
            if "base_url" in self.entries:
                mark = self.entries["base_url"].mark
                self.reader.mistakes.add(mark, f"{self.path}: the {api} api is embedded and takes no 'base_url'")
            return ""
        wire = preset.apis.get(api or "") if preset is not None else None
        own = wire.base_url if wire is not None else ""
        if parts is not None and api is not None:
            if own and preset is not None and _at_home(preset, parts) and _is_pathless(parts, urlsplit(own)):
                return with_path(parts, urlsplit(own).path)
            try:
                return normal_address(parts, api)
            except BadAddress as error:
                self._bad_address(error)
        elif "base_url" not in self.entries and api is not None:
            if own and "*" not in own:
                return own
            reason = f"preset '{preset.name}' has none for this api" if preset else "only built-in providers have one"
            hint = f"it has the form {own}" if own else reason
            self.reader.mistakes.add(self.mark, f"{self.path} has no 'base_url'", hint)
        return ""

    def _bad_address(self, error: BadAddress) -> None:
        message, hint = error.args
        self.reader.mistakes.add(self.entries["base_url"].mark, f"{self.path}.base_url {message}", hint)

    # -- what opens it ----------------------------------------------------------------------------

    def _key(self, preset: Preset | None, at_home: bool) -> tuple[str | None, str | None, str | None]:
        """The key, what is missing for one, and what it was read from."""
        node = self.entries.get("api_key")
        if node is not None:
            return self._written_key(node)
        if preset is None or preset.key_env is None or not at_home:
            return None, None, None
        key = self.reader.env.get(preset.key_env, "").strip()
        return self._checked_key(key, preset.key_env, self.mark)

    def _written_key(self, node: Node) -> tuple[str | None, str | None, str | None]:
        path = f"{self.path}.api_key"
        if not isinstance(node, ScalarNode):
            hint = 'a value that begins with { needs quotes: "${VAR}"' if isinstance(node, MapNode) else ""
            self.reader.mistakes.add(node.mark, f"{shown(path)}: expected text", hint)
            return None, None, None
        expanded = None if node.is_null else self.reader.expand(node, path)
        if expanded is None:
            if node.is_null:
                self.reader.mistakes.add(node.mark, f"{path} is empty", "write ${VAR}, or leave it out")
            return None, None, None
        key = expanded.text.strip()
        if not expanded.sources:
            if not key:
                self.reader.mistakes.add(node.mark, f"{path} is empty", "write ${VAR}, or leave it out")
                return None, None, None
            self.reader.inline.append(path)
            return self._checked_key(key, None, node.mark)
        if not key and expanded.defaulted:
            # "${VAR:-}": a key if there is one, for servers that take both.
            return None, None, None
        missing = expanded.missing or (expanded.sources if not key else ())
        return self._checked_key("" if missing else key, (missing or expanded.sources)[0], node.mark)

    def _checked_key(self, key: str, source: str | None, mark: Mark) -> tuple[str | None, str | None, str | None]:
        if not key:
            self.warnings.append(f"{self.path} is disabled: {source} is not set")
            return None, source, source
        if not is_header_value(key):
            hint = "it may have been cut or pasted with line breaks"
            self.reader.mistakes.add(mark, f"{self.path}.api_key holds characters that a header cannot carry", hint)
            return None, None, None
        self.reader.secrets.add(key)
        return key, None, source
