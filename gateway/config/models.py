"""The section ``models`` -> RoutingTable: the names that clients ask for, and where each goes.

A value is a reference, a list of values (the later ones are fallbacks), or ``{use: value, …overrides}``, where
``on_overflow: value`` names who takes requests that are too long for those of ``use``.
A reference is:
* ``provider/model``, split at the first slash, so that a model's id may hold more of them;
* the name of another entry: its targets, in their order;
* a provider alone: its model of the name that the client asked for.

The ``routes`` of a group are read in the same way. They may refer to all names, and to the one that they replace;
a name of the configuration that refers to one which the group replaces follows it.

Rule: linking is bounded. Each name is linked once; a route has at most 32 targets, a chain of names 32 links.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from itertools import chain as chain_of
from typing import Any

from gateway.config.document import ListNode, MapNode, Node, ScalarNode
from gateway.config.fields import INVALID, FieldReader, shown
from gateway.config.mistakes import Mark, listed, quoted
from gateway.config.presets import Presets
from gateway.config.providers import ProviderSection
from gateway.routing import ASKED_NAME, MAX_NAME, Route, RoutingTable, Target, is_pattern

KEYS = ("use", "on_overflow", "options", "headers", "max_tokens", "drop", "profile")
MAX_TARGETS = 32
MAX_CHAIN = 32

_EXAMPLE = "add e.g. 'default: provider/model'"


@dataclass(frozen=True, slots=True, eq=False)
class _Reference:
    """One reference as written, with the overrides around it."""

    text: str
    written: str
    """The text before its variables were put in; messages show this."""
    mark: Mark
    layers: tuple[Mapping[str, Any], ...]
    overflow: bool
    """It stands under ``on_overflow``."""


@dataclass(frozen=True, slots=True, eq=False)
class _Draft:
    """A target to be: its provider, its model (None: the asked name), its overrides, inner ones first."""

    section: ProviderSection
    model: str | None
    layers: tuple[Mapping[str, Any], ...]
    overflow: bool = False
    """It is one of the route's ``on_overflow``."""

    def target(self) -> Target:
        if self.model is not None:
            return self._named(self.model)
        target = self._named(ASKED_NAME)
        return replace(target, for_name=self._named)

    def _named(self, model: str) -> Target:
        layers = [{name: value for name, value in layer.items() if name != "drop"} for layer in self.layers]
        target = self.section.target(model, layers)
        if not any("drop" in layer for layer in self.layers):
            return target
        # ``drop`` adds to ``drop_fields``; every other field replaces.
        dropped = chain_of(target.profile.drop_fields, *(layer.get("drop", ()) for layer in self.layers))
        return replace(target, profile=replace(target.profile, drop_fields=tuple(dict.fromkeys(dropped))))


def read_models(
    node: Node | None,
    mark: Mark,
    reader: FieldReader,
    sections: Mapping[str, ProviderSection | None],
    presets: Presets,
) -> Names:
    """The names under ``models``, linked; what is wrong with them is recorded."""
    names = Names(reader, sections, presets)
    if node is None:
        reader.mistakes.add(mark, "'models' is missing: no name would go anywhere", _EXAMPLE)
    else:
        names.read(node)
    return names


def overflow_warnings(table: RoutingTable) -> list[str]:
    """For every route whose ``on_overflow`` can never serve: nobody there holds more than those before."""
    routes = [*table.routes.values(), *(route for _, route in table.patterns)]
    return [
        f"models.{route.name}.on_overflow: none of its targets has a larger context_window than those of 'use'"
        for route in routes
        if route.on_overflow and not any(each.is_larger_than(of) for each in route.on_overflow for of in route.targets)
    ]


def _table(routes: Mapping[str, Route], direct: Mapping[str, Callable[[str], Target]]) -> RoutingTable:
    return RoutingTable(
        routes={name: route for name, route in routes.items() if not is_pattern(name)},
        patterns=tuple((name, route) for name, route in routes.items() if is_pattern(name)),
        direct=direct,
    )


def _route(name: str, drafts: tuple[_Draft, ...]) -> Route:
    targets = tuple(draft.target() for draft in drafts if not draft.overflow)
    return Route(name, targets, tuple(draft.target() for draft in drafts if draft.overflow))


class Names:
    """Reads the entries, then follows their references; for the configuration, or on top of it for a group."""

    def __init__(
        self,
        reader: FieldReader,
        sections: Mapping[str, ProviderSection | None],
        presets: Presets,
        base: Names | None = None,
        path: str = "models",
    ) -> None:
        self.reader = reader
        self.mistakes = reader.mistakes
        self.sections = sections
        self.presets = presets
        self.entries: dict[str, list[_Reference]] = {}
        """Those of ``base`` among them."""
        self._base = base
        self._path = path
        self._own: dict[str, list[_Reference]] = {}
        self._linked: dict[str, tuple[_Draft, ...]] = {}

    def on_top(self, node: Node, path: str) -> Names:
        """These names with the ``routes`` of a group before them."""
        names = Names(self.reader, self.sections, self.presets, self, path)
        names.read(node)
        return names

    def table(self, direct: bool) -> RoutingTable:
        """All routes; only when no mistake was recorded. ``direct``: clients may ask for ``provider/model``."""
        makers = {name: section.target for name, section in self.sections.items() if section} if direct else {}
        return _table({name: _route(name, drafts) for name, drafts in self._linked.items()}, makers)

    def table_on(self, table: RoutingTable) -> RoutingTable:
        """The table of a group, whose configuration has ``table``."""
        known = {**table.routes, **dict(table.patterns)}
        linked = {**{name: self._linked[name] for name in self._own}, **self._linked}
        base = self._base._linked if self._base else {}
        routes = {
            name: known[name] if drafts is base.get(name) else _route(name, drafts) for name, drafts in linked.items()
        }
        own = _table({name: routes[name] for name in self._own}, {})
        return replace(_table(routes, table.direct), before=own)

    # -- reading ----------------------------------------------------------------------------------

    def read(self, node: Node) -> None:
        section = self.reader.section(node, self._path)
        for name, child in section.entries.items():
            mark = section.keys[name]
            if name.endswith("[1m]"):
                hint = f"write {quoted(name[:-4])}: the suffix is taken off before a name is looked up"
                self.mistakes.add(mark, f"{quoted(name)} would never match", hint)
            elif len(name) > MAX_NAME or not name.isprintable() or " " in name:
                self.mistakes.add(mark, f"{quoted(name)} cannot be a model's name", f"no blanks, at most {MAX_NAME}")
            else:
                self._own[name] = self._references(child, f"{self._path}.{name}", ())
        if not section.entries and (isinstance(node, MapNode) or (isinstance(node, ScalarNode) and node.is_null)):
            hint = _EXAMPLE if self._base is None else "leave it out"
            self.mistakes.add(section.mark, f"{quoted(self._path)} is empty", hint)
        self._link_all()

    def _references(
        self, node: Node, path: str, layers: tuple[Mapping[str, Any], ...], overflow: bool = False
    ) -> list[_Reference]:
        if isinstance(node, MapNode):
            return self._overridden(node, path, layers, overflow)
        if isinstance(node, ListNode):
            if not node.items:
                self.mistakes.add(node.mark, f"{shown(path)} is an empty list", "name at least one provider/model")
            if len(node.items) > MAX_TARGETS:
                self.mistakes.add(node.mark, f"{shown(path)}: more than {MAX_TARGETS} targets")
                return []
            found = [self._references(item, path, layers, overflow) for item in node.items]
            return [reference for each in found for reference in each]
        text = self.reader.value(node, str, path)
        return [] if text is INVALID else [_Reference(text.strip(), node.text.strip(), node.mark, layers, overflow)]

    def _overridden(
        self, node: MapNode, path: str, layers: tuple[Mapping[str, Any], ...], overflow: bool
    ) -> list[_Reference]:
        entries = self.reader.section(node, path, KEYS).entries
        layer = self._layer(entries, path)
        if "use" not in entries:
            self.mistakes.add(node.mark, f"{shown(path)} has no 'use'", "use: provider/model")
            return []
        found = self._references(entries["use"], path, (layer, *layers) if layer else layers, overflow)
        if "on_overflow" in entries:
            # What stands beside ``use`` is said of its targets; the others may have their own.
            found += self._references(entries["on_overflow"], f"{path}.on_overflow", layers, overflow=True)
        return found

    def _layer(self, entries: Mapping[str, Node], path: str) -> dict[str, Any]:
        reader = self.reader
        layer = reader.profile(entries["profile"], f"{path}.profile") if "profile" in entries else {}
        shorthands: tuple[tuple[str, str, Any], ...] = (
            ("options", "extra_body", Mapping[str, Any]),
            ("max_tokens", "max_output_tokens", int),
            ("drop", "drop", tuple[str, ...]),
        )
        for key, field, kind in shorthands:
            if key in entries:
                value = reader.value(entries[key], kind, f"{path}.{key}")
                if value is not INVALID:
                    layer[field] = {**layer.get(field, {}), **value} if key == "options" else value
        if "headers" in entries:
            found = reader.headers(entries["headers"], f"{path}.headers")
            layer["extra_headers"] = {**layer.get("extra_headers", {}), **found}
        return layer

    # -- linking ----------------------------------------------------------------------------------

    def _link_all(self) -> None:
        self.entries = {**self._base.entries, **self._own} if self._base else self._own
        if self._base:
            changed = self._changed()
            self._linked = {name: drafts for name, drafts in self._base._linked.items() if name not in changed}
        for name in self.entries:
            self.link(name)
        self._linked = {name: self._linked[name] for name in self.entries}

    def _changed(self) -> set[str]:
        """The own names, and all that lead to one of them."""
        found, pending = set(self._own), list(self._own)
        leading: dict[str, list[str]] = {}
        for name, references in self.entries.items():
            for reference in references:
                leading.setdefault(reference.text, []).append(name)
        while pending:
            new = [name for name in leading.get(pending.pop(), ()) if name not in found]
            found.update(new)
            pending += new
        return found

    def _where(self, name: str) -> str:
        return f"{self._path if name in self._own else 'models'}.{shown(name)}"

    def link(self, name: str, chain: tuple[str, ...] = ()) -> tuple[_Draft, ...]:
        """The targets of one entry; what is wrong with it is recorded once."""
        known = self._linked.get(name)
        if known is not None:
            return known
        found: dict[tuple[object, ...], _Draft] = {}
        # A name's own ``on_overflow`` comes before that of the names it refers to.
        for reference in sorted(self.entries[name], key=lambda each: not each.overflow):
            for draft in self._follow(reference, (*chain, name)):
                if reference.layers or reference.overflow:
                    overflow = draft.overflow or reference.overflow
                    draft = replace(draft, layers=(*draft.layers, *reference.layers), overflow=overflow)
                found.setdefault((draft.overflow, draft.section, draft.model, *map(id, draft.layers)), draft)
            if len(found) > MAX_TARGETS:
                self.mistakes.add(reference.mark, f"{self._where(name)}: more than {MAX_TARGETS} targets")
                found.clear()
                break
        self._linked[name] = tuple(sorted(found.values(), key=lambda draft: draft.overflow))
        return self._linked[name]

    def _follow(self, reference: _Reference, chain: tuple[str, ...]) -> tuple[_Draft, ...]:
        text, name = reference.text, chain[-1]
        provider, slash, model = text.partition("/")
        if slash and model and provider in self.sections:
            section = self.sections[provider]
            return (_Draft(section, model, ()),) if section else ()
        if text in self.entries and not is_pattern(text) and not (text == name and text in self.sections):
            return self._alias(reference, chain)
        if text in self.sections:
            section = self.sections[text]
            return (_Draft(section, None, ()),) if section else ()
        self._unknown(reference, name, provider if slash else None, model)
        return ()

    def _alias(self, reference: _Reference, chain: tuple[str, ...]) -> tuple[_Draft, ...]:
        text = reference.text
        if text == chain[-1] and self._base and text in self._base.entries:
            # The name that this one replaces.
            return self._base.link(text)
        if text in chain:
            circle = " → ".join(map(shown, (*chain[chain.index(text) :], text)))
            self.mistakes.add(reference.mark, f"{self._where(chain[-1])} goes round in a circle: {circle}")
            return ()
        if len(chain) >= MAX_CHAIN:
            self.mistakes.add(reference.mark, f"{self._where(chain[0])}: more than {MAX_CHAIN} names in a row")
            return ()
        return self.link(text, chain)

    def _unknown(self, reference: _Reference, name: str, provider: str | None, model: str) -> None:
        where = self._where(name)
        if provider is None or not model:
            names = chain_of(self.sections, (entry for entry in self.entries if not is_pattern(entry)))
            hint = self.mistakes.did_you_mean(reference.text, names) or "write provider/model"
            message = f"{where}: {quoted(reference.written)} is neither a name under 'models' nor a provider"
        else:
            hint = self.mistakes.did_you_mean(provider, self.sections)
            if provider in self.presets.providers:
                hint = f"it is built in: add '{provider}: {{}}' under 'providers'"
            message = f"{where}: {quoted(reference.written.partition('/')[0])} is not under 'providers'"
            hint = hint or f"there: {listed(self.sections) or 'none'}"
        self.mistakes.add(reference.mark, message, hint)
