"""The section ``providers`` -> ProviderSection: where each provider is, what opens it, what it is like.

Rules:
* The preset is: ``preset`` as written; else the provider's own name; else the host of its ``base_url``.
* The facts of a preset hold for its own API only; with another ``api``, only that API's defaults do.
* The customary key variable of a preset is read only when the address is the preset's own, so that a
  key in the environment never goes to a host that it was not made for.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any

from gateway.config.addresses import BadAddress, host_keys, normal_address, split_address
from gateway.config.document import MapNode, Node, ScalarNode
from gateway.config.fields import INVALID, FieldReader, is_header_value, shown
from gateway.config.mistakes import Mark, listed, quoted
from gateway.config.presets import Preset, Presets
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
    base: Profile
    """API defaults and the preset's facts."""
    built_in: tuple[tuple[str, Mapping[str, Any]], ...] = ()
    """Model pattern (lower case) -> layer, of the preset."""
    own: Mapping[str, Any] = field(default_factory=dict)
    """The user's layer for the whole provider."""
    patterns: tuple[tuple[str, Mapping[str, Any]], ...] = ()
    """Model pattern (lower case) -> layer, of the user."""

    def target(self, model: str) -> Target:
        """The target for one upstream model, without what an entry in ``models`` overrides."""
        known = (layer for pattern, layer in self.built_in if fnmatchcase(model.lower(), pattern))
        wanted = (layer for pattern, layer in self.patterns if fnmatchcase(model.lower(), pattern))
        return Target(self.provider, model, merge(self.base, *known, self.own, *wanted))


def read_providers(
    node: Node | None, reader: FieldReader, presets: Presets, apis: Collection[str]
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
        section = _Section(name, root.keys[name], child, reader, presets, apis)
        sections[name] = section.read()
        warnings += section.warnings
    return sections, warnings


class _Section:
    """Reads one section of ``providers``."""

    def __init__(
        self, name: str, mark: Mark, node: Node, reader: FieldReader, presets: Presets, apis: Collection[str]
    ) -> None:
        self.name = name
        self.mark = mark
        self.path = f"providers.{name}"
        self.reader = reader
        self.presets = presets
        self.apis = apis
        self.entries: Mapping[str, Node] = reader.section(node, self.path, KEYS).entries
        self.warnings: list[str] = []

    def read(self) -> ProviderSection | None:
        before = len(self.reader.mistakes.found)
        own, patterns = self._own_layer(), self._patterns()
        preset = self._named_preset()
        api = self._text("api")
        address = self._address(preset)
        if address is not None and preset is None and "preset" not in self.entries:
            preset = next((p for key in address[0] if (p := self.presets.hosts.get(key))), None)
        api = self._api(api, preset)
        base_url = self._base_url(api, preset, address[1] if address else None)
        at_home = address is None or (preset is not None and bool(set(address[0]) & set(preset.hosts)))
        key, missing, source = self._key(preset, at_home)
        if len(self.reader.mistakes.found) > before or api is None:
            return None
        facts = preset if preset is not None and preset.api == api else None
        provider = Provider(self.name, api, base_url, key, missing, source, preset.name if preset else None)
        base = merge(Profile(), self.presets.apis.get(api, {}), facts.profile if facts else {})
        built_in = tuple((item.pattern.lower(), item.profile) for item in facts.models) if facts else ()
        return ProviderSection(provider, base, built_in, own, patterns)

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
            self.reader.mistakes.add(node.mark, f"{self.path}: unknown preset {_written(node)}", hint)
        return known.get(named or "")

    def _api(self, written: str | None, preset: Preset | None) -> str | None:
        """The API's name; None when it is unknown, which is a mistake or has just been one."""
        api = written or (preset.api if preset else None)
        if api is None and not {"api", "preset"} & self.entries.keys():
            like = self.reader.mistakes.did_you_mean(self.name, self.presets.providers)
            hint = f"{like} otherwise add 'api' and 'base_url'" if like else "add 'api' and 'base_url', or 'preset'"
            self.reader.mistakes.add(self.mark, f"{self.path} is no built-in provider and has no 'api'", hint)
        elif api is not None and api not in self.apis:
            node = self.entries.get("api")
            name = _written(node) if node is not None else quoted(api)
            hint = self.reader.mistakes.did_you_mean(api, self.apis) or f"known: {listed(sorted(self.apis))}"
            self.reader.mistakes.add(node.mark if node else self.mark, f"{self.path}: unknown api {name}", hint)
            return None
        return api

    # -- where it is ------------------------------------------------------------------------------

    def _address(self, preset: Preset | None) -> tuple[tuple[str, str], Any] | None:
        """The keys to look a host up by, and the split address; None without a usable ``base_url``."""
        text = self._text("base_url")
        if text is None:
            return None
        try:
            parts = split_address(text)
        except BadAddress as error:
            self._bad_address(error)
            return None
        return host_keys(parts), parts

    def _base_url(self, api: str | None, preset: Preset | None, parts: Any) -> str:
        if api in _EMBEDDED:
            if "base_url" in self.entries:
                mark = self.entries["base_url"].mark
                self.reader.mistakes.add(mark, f"{self.path}: the {api} api is embedded and takes no 'base_url'")
            return ""
        if parts is not None and api is not None:
            try:
                return normal_address(parts, api)
            except BadAddress as error:
                self._bad_address(error)
        elif "base_url" not in self.entries and api is not None:
            if preset is not None and preset.api == api:
                return preset.base_url
            reason = f"preset '{preset.name}' has none for this api" if preset else "only built-in providers have one"
            self.reader.mistakes.add(self.mark, f"{self.path} has no 'base_url'", reason)
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


def _written(node: Node) -> str:
    """The text of a scalar before its variables were put in."""
    return quoted(node.text) if isinstance(node, ScalarNode) else ""
