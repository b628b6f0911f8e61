"""RoutingTable: the asked model name -> Route -> Targets. Immutable; a request keeps the one it began with.

Rules of ``RoutingTable.resolve``, in order; a ``[1m]`` suffix is taken off first, and a name over 200
characters is nobody's:
1. the name as written in ``models``;
2. the Claude family: ``sonnet`` takes ``claude-sonnet-5``, ``claude-3-5-sonnet-latest``, ``claude-sonnet``;
3. the patterns in ``models`` (``gpt-*``), in the order of the file;
4. ``provider/model``, if the configuration allows clients to spell it;
5. ``default``;
6. NotFound, with the names that exist.
In a group's table the first three are asked of its own routes, and then of the configuration's.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase, translate
from typing import Any, TypeVar

from gateway.access.limits import NO_LIMITS, Limits
from gateway.errors import NotFound
from gateway.profile import Profile

FAMILIES = ("opus", "sonnet", "haiku", "fable")
"""Claude's model families, as they stand in model ids (client.md, finding 4)."""

MAX_NAME = 200
"""The longest model name, in characters; it also bounds the work of the patterns."""
MAX_RESOLVED = 1000
"""Names whose routes are remembered; beyond that all are forgotten at once."""

ASKED_NAME = "*"
"""``Target.model`` of a route that sends each name on as the client asked for it."""

_FAMILY = re.compile(
    r"(?:[a-z]{2,6}\.)?(?:anthropic[./])?claude-(?:[\w.-]*-)?(opus|sonnet|haiku|fable)(?:[-@:][\w.@:-]*)?", re.ASCII
)
_LONG_CONTEXT_SUFFIX = "[1m]"
_NAMES_SHOWN = 100

Told = TypeVar("Told")


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One of several keys or addresses of a provider. ``repr`` never shows the key."""

    name: str
    """For logs: as written, or its place in the list, from 1."""
    base_url: str
    """The address for the API of whoever holds this, without a trailing slash."""
    api_key: str | None = field(default=None, repr=False)
    key_source: str | None = None
    """What the key was read from."""
    weight: int = 1
    """Its share of the clients' sessions, in proportion to the others'."""


@dataclass(frozen=True, slots=True)
class Provider:
    """One section of ``providers``: where it is and what opens it. ``repr`` never shows the key."""

    name: str
    api: str
    """The API of its models, unless their profile says otherwise."""
    base_url: str
    """The address for ``api``, without a trailing slash; empty for embedded APIs."""
    api_key: str | None = field(default=None, repr=False)
    """None: no key is configured and none is needed."""
    missing_key: str | None = None
    """The environment variable or file that should hold the key and does not; the provider is disabled."""
    key_source: str | None = None
    """What the key was read from, for messages: ``DEEPSEEK_API_KEY``."""
    preset: str | None = None
    """The built-in profile it builds on."""
    endpoints: tuple[Endpoint, ...] = ()
    """Its keys and addresses where it has several; ``api_key`` and ``base_url`` are then those of the first."""
    limits: Limits = NO_LIMITS
    """For all requests that go there together."""


@dataclass(frozen=True, slots=True)
class Target:
    """One upstream model of one provider, with everything known about it."""

    provider: Provider
    model: str
    """The model's id at the upstream."""
    profile: Profile
    base_url: str = ""
    """The address for the model's API, without a trailing slash; empty for embedded APIs."""
    for_name: Callable[[str], Target] | None = field(default=None, repr=False, compare=False)
    """Builds the target for an asked name, where ``model`` is ASKED_NAME; None: the model is fixed."""
    endpoints: tuple[Endpoint, ...] = ()
    """The provider's, with the addresses for the model's API."""
    name: str = field(init=False, repr=False, compare=False)
    """``provider/model``."""
    _told: dict[Callable[[Target], Any], Any] = field(init=False, repr=False, compare=False, default_factory=dict)
    """What ``once`` was told; may hold the key, so ``repr`` leaves it out."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "name", f"{self.provider.name}/{self.model}")

    @property
    def api(self) -> str:
        """The API that the model speaks."""
        return self.profile.api

    def at(self, endpoint: Endpoint) -> Target:
        """The same model by another key or address of the provider; one of ``endpoints``."""
        return self.once(_at_endpoints)[endpoint]

    def is_larger_than(self, other: Target) -> bool:
        """Whether a prompt that is too long for ``other`` may fit; an unknown window may be any."""
        window, others = self.profile.context_window, other.profile.context_window
        return window is None or others is None or window > others

    def once(self, tell: Callable[[Target], Told]) -> Told:
        """What ``tell`` says of this target; asked only once, because a target never changes."""
        if tell in self._told:
            told: Told = self._told[tell]
            return told
        told = self._told[tell] = tell(self)
        return told


@dataclass(frozen=True, slots=True)
class Route:
    """Where one asked name goes: targets in the order in which they are tried. Never empty."""

    name: str
    """The key in ``models`` that matched, or ``provider/model``."""
    targets: tuple[Target, ...]
    on_overflow: tuple[Target, ...] = ()
    """Those for a request that was too long for one of ``targets``, in order; may be empty."""

    def for_name(self, name: str) -> Route:
        """The route of one asked name, where a target is made for its name."""
        if not any(target.for_name for target in (*self.targets, *self.on_overflow)):
            return self
        return Route(self.name, _for_name(self.targets, name), _for_name(self.on_overflow, name))


@dataclass(frozen=True, slots=True)
class RoutingTable:
    """All routes of one configuration."""

    routes: Mapping[str, Route]
    """Exact names (``default`` among them), in the order of the file."""
    patterns: tuple[tuple[str, Route], ...] = ()
    """Names with ``*``, ``?`` or ``[``, in the order of the file."""
    direct: Mapping[str, Callable[[str], Target]] = field(default_factory=dict, repr=False)
    """Provider name -> callable(model) -> Target, for ``provider/model``; empty when clients may not spell it."""
    before: RoutingTable | None = field(default=None, repr=False)
    """A group's own routes, in a group's table; they stand in ``routes`` and ``patterns``, too."""
    _first_match: re.Pattern[str] = field(init=False, repr=False, compare=False)
    """All patterns as one, a group for each: a thousand of them cost one search."""
    _resolved: dict[str, Route] = field(init=False, repr=False, compare=False, default_factory=dict)
    """What was asked before: a target that is made for its name is made once."""

    def __post_init__(self) -> None:
        groups = (f"({translate(pattern)})" for pattern, _ in self.patterns)
        object.__setattr__(self, "_first_match", re.compile("|".join(groups) or r"(?!)"))

    def resolve(self, asked: str) -> Route:
        """The route of a model name. Raises NotFound; its message lists the known names."""
        route = self._resolved.get(asked)
        if route is None:
            route = self._resolve(asked)
            if len(self._resolved) >= MAX_RESOLVED:
                self._resolved.clear()
            self._resolved[asked] = route
        return route

    def _resolve(self, asked: str) -> Route:
        name = asked.removesuffix(_LONG_CONTEXT_SUFFIX)
        route = self._find(name) if 0 < len(name) <= MAX_NAME else None
        if route is None:
            raise self._not_found(asked)
        return route.for_name(name)

    def _find(self, name: str) -> Route | None:
        """The first rule that applies; None when none does."""
        route = (self.before._named(name) if self.before else None) or self._named(name)
        if route is not None:
            return route
        provider, _, model = name.partition("/")
        if model and provider in self.direct:
            return Route(name, (self.direct[provider](model),))
        return self.routes.get("default")

    def _named(self, name: str) -> Route | None:
        """By the first three rules."""
        route = self.routes.get(name)
        if route is not None:
            return route
        family = family_of(name)
        if family is not None and family in self.routes:
            return self.routes[family]
        match = self._first_match.match(name)
        if match is not None and match.lastindex is not None:
            return self.patterns[match.lastindex - 1][1]
        return None

    def _not_found(self, asked: str) -> NotFound:
        names = self.names()
        known = ", ".join(names[:_NAMES_SHOWN]) or "none"
        more = f" and {len(names) - _NAMES_SHOWN} more" if len(names) > _NAMES_SHOWN else ""
        shown = asked if len(asked) <= MAX_NAME else f"{asked[:MAX_NAME]}…"
        return NotFound(
            f"model: {shown} is not known here. Known names: {known}{more}. "
            "Add it under 'models' in providers.yaml, or set 'default' there."
        )

    def entries(self) -> list[tuple[str, Route]]:
        """Every name and pattern with its route, in the order of the file."""
        return [*self.routes.items(), *self.patterns]

    def names(self) -> list[str]:
        """Every name and pattern under ``models``, in the order of the file."""
        return [*self.routes, *(pattern for pattern, _ in self.patterns)]


def may_ask(models: Sequence[str] | None, route: Route, asked: str) -> bool:
    """Whether a list of names and patterns (None: all) opens ``asked``, which goes to ``route``.

    It does by the asked name itself, without ``[1m]``, or by the entry of ``models`` that took it.
    """
    if models is None or route.name in models:
        return True
    name = asked.removesuffix(_LONG_CONTEXT_SUFFIX)
    # A pattern that is matched by a pattern would open more names than it says.
    names = (name,) if is_pattern(route.name) else (name, route.name)
    return any(fnmatchcase(each, entry) for entry in models for each in names)


def family_of(model: str) -> str | None:
    """``sonnet`` for ``claude-sonnet-4-6-20260101``; None for a name that is no Claude model's."""
    match = _FAMILY.fullmatch(model)
    return match[1] if match else None


def _at_endpoints(target: Target) -> dict[Endpoint, Target]:
    def at(endpoint: Endpoint) -> Target:
        provider = replace(target.provider, api_key=endpoint.api_key, key_source=endpoint.key_source)
        return replace(target, provider=provider, base_url=endpoint.base_url)

    return {endpoint: at(endpoint) for endpoint in target.endpoints}


def _for_name(targets: tuple[Target, ...], name: str) -> tuple[Target, ...]:
    return tuple(target.for_name(name) if target.for_name else target for target in targets)


def is_pattern(name: str) -> bool:
    """Whether a name under ``models`` stands for many."""
    return any(char in name for char in "*?[")
