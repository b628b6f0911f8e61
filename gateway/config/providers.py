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
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from typing import Any, NamedTuple
from urllib.parse import SplitResult, urlsplit

from gateway.access.limits import NO_LIMITS, Limits
from gateway.config.addresses import (
    BadAddress,
    address_of,
    host_keys,
    normal_address,
    split_address,
    told_api,
    with_path,
)
from gateway.config.document import ListNode, Node
from gateway.config.endpoints import WrittenEndpoint, has_endpoints, read_endpoints
from gateway.config.fields import INVALID, FieldReader, written
from gateway.config.keys import NO_KEY, Key, checked_key, read_key
from gateway.config.mistakes import Mark, listed, quoted
from gateway.config.presets import ModelFacts, Preset, Presets
from gateway.profile import Profile, merge
from gateway.routing import Endpoint, Provider, Target

KEYS = ("preset", "api", "base_url", "api_key", "endpoints", "headers", "profile", "models", "limits")
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
    endpoints: tuple[tuple[Endpoint, SplitResult | None], ...] = ()
    """Those of ``provider``, each with the ``base_url`` that the user wrote."""

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
        address = self._address(api, self.provider.base_url, self.written)
        endpoints = (replace(each, base_url=self._address(api, each.base_url, own)) for each, own in self.endpoints)
        return Target(self.provider, model, profile, address, endpoints=tuple(endpoints))

    def _address(self, api: str, base_url: str, written: SplitResult | None) -> str:
        """Where ``api`` answers, of a server that answers the provider's own at ``base_url``."""
        if api == self.provider.api:
            return base_url
        wire = self.preset.apis.get(api) if self.preset else None
        if wire is not None and written is None:
            return wire.base_url
        if wire is not None and written is not None and self.preset and _at_home(self.preset, written):
            return with_path(written, urlsplit(wire.base_url).path)
        return address_of(base_url, api)


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


class _Place(NamedTuple):
    """A ``base_url`` as written."""

    parts: SplitResult
    mark: Mark
    path: str


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
        limits = self._limits()
        preset = self._named_preset()
        api = self._text("api")
        place = self._place(self.entries, self.path)
        pool = read_endpoints(self.entries, self.path, self.reader)
        places = [self._place(each.entries, each.path) or place for each in pool]
        if "base_url" not in self.entries:
            place = next((each for each in places if each is not None), None)
        if place is not None and preset is None and "preset" not in self.entries:
            preset = self.presets.at(host_keys(place.parts))
        if api is None and preset is not None and place is not None:
            told = told_api(place.parts.path)
            api = told if told in preset.apis and told != preset.api else None
        if api is not None:
            # What the user chose holds for every model, whatever is known about it.
            own = {"api": api, **own}
        api = self._api(api, preset)
        facts = preset if preset is not None and api in preset.apis else None
        provider = Provider(self.name, api or "", "", preset=preset.name if preset else None, limits=limits)
        if has_endpoints(self.entries):
            found = list(self._endpoints(pool, places, api, preset))
        else:
            base_url = self._base_url(api, preset, place, self.entries, self.path, self.mark)
            found = [(Endpoint(self.name, base_url), self._key(preset, place), place)]
        if len(self.reader.mistakes.found) > before or api is None:
            return None
        return self._pooled(ProviderSection(provider, self.presets.apis, facts, own, patterns), found)

    # -- its endpoints ----------------------------------------------------------------------------

    def _endpoints(
        self, pool: Sequence[WrittenEndpoint], places: Sequence[_Place | None], api: str | None, preset: Preset | None
    ) -> Iterator[tuple[Endpoint, Key, _Place | None]]:
        """Each endpoint, with its key and its place."""
        shared: Key | None = None
        for each, place in zip(pool, places, strict=True):
            base_url = self._base_url(api, preset, place, each.entries, each.path, each.mark)
            if "api_key" in each.entries:
                key = read_key(each.entries["api_key"], each.key_path, self.reader)
            elif "api_key" in self.entries:
                key = shared = shared or self._key(preset, place)
            else:
                key = self._key(preset, place)
            yield Endpoint(each.name, base_url, weight=each.weight), key, place

    def _pooled(
        self, section: ProviderSection, found: Sequence[tuple[Endpoint, Key, _Place | None]]
    ) -> ProviderSection:
        """``section`` with the endpoints that have a key, or with the first one that lacks it."""
        usable = [each for each in found if not each[1].missing]
        missing = [key.source for _, key, _ in found if key.missing]
        if not usable:
            self.warnings.append(f"{self.path} is disabled: {missing[0]} is not set")
        elif missing:
            left = ", ".join(f"{endpoint.name} ({key.source} is not set)" for endpoint, key, _ in found if key.missing)
            self.warnings.append(f"{self.path} goes without its endpoint {left}")
        endpoints = tuple(
            (replace(endpoint, api_key=key.text, key_source=key.source), place.parts if place else None)
            for endpoint, key, place in usable or found[:1]
        )
        first, parts = endpoints[0]
        if len(endpoints) == 1:
            endpoints = ()
        provider = replace(
            section.provider,
            base_url=first.base_url,
            api_key=first.api_key,
            missing_key=None if usable else missing[0],
            key_source=first.key_source,
            endpoints=tuple(endpoint for endpoint, _ in endpoints),
        )
        return replace(section, provider=provider, written=parts, endpoints=endpoints)

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

    def _limits(self) -> Limits:
        node = self.entries.get("limits")
        limits = NO_LIMITS if node is None else self.reader.value(node, Limits, f"{self.path}.limits")
        return NO_LIMITS if limits is INVALID else limits

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

    def _place(self, entries: Mapping[str, Node], path: str) -> _Place | None:
        """The checked ``base_url``; None without a usable one."""
        node, path = entries.get("base_url"), f"{path}.base_url"
        text = self.reader.value(node, str, path) if node is not None else None
        if node is None or text is None or text is INVALID:
            return None
        try:
            return _Place(split_address(text), node.mark, path)
        except BadAddress as error:
            self._bad_address(error, node.mark, path)
            return None

    def _base_url(
        self,
        api: str | None,
        preset: Preset | None,
        place: _Place | None,
        entries: Mapping[str, Node],
        path: str,
        mark: Mark,
    ) -> str:
        """The address for ``api`` of a section, or of an endpoint, with these ``entries``."""
        if api in _EMBEDDED:
            if "base_url" in entries:
                text = f"{path}: the {api} api is embedded and takes no 'base_url'"
                self.reader.mistakes.add(entries["base_url"].mark, text)
            return ""
        wire = preset.apis.get(api or "") if preset is not None else None
        own = wire.base_url if wire is not None else ""
        if place is not None and api is not None:
            parts = place.parts
            if own and preset is not None and _at_home(preset, parts) and _is_pathless(parts, urlsplit(own)):
                return with_path(parts, urlsplit(own).path)
            try:
                return normal_address(parts, api)
            except BadAddress as error:
                self._bad_address(error, place.mark, place.path)
        elif "base_url" not in {*entries, *self.entries} and api is not None:
            if own and "*" not in own:
                return own
            reason = f"preset '{preset.name}' has none for this api" if preset else "only built-in providers have one"
            hint = f"it has the form {own}" if own else reason
            self.reader.mistakes.add(mark, f"{path} has no 'base_url'", hint)
        return ""

    def _bad_address(self, error: BadAddress, mark: Mark, path: str) -> None:
        message, hint = error.args
        self.reader.mistakes.add(mark, f"{path} {message}", hint)

    # -- what opens it ----------------------------------------------------------------------------

    def _key(self, preset: Preset | None, place: _Place | None) -> Key:
        """The key of the section, or the customary one of ``preset`` if ``place`` is the preset's own."""
        node, path = self.entries.get("api_key"), f"{self.path}.api_key"
        if isinstance(node, ListNode):
            return NO_KEY
        if node is not None:
            return read_key(node, path, self.reader)
        if preset is None or preset.key_env is None or not (place is None or _at_home(preset, place.parts)):
            return NO_KEY
        text = self.reader.env.get(preset.key_env, "").strip()
        return checked_key(text, preset.key_env, self.mark, path, self.reader)
