"""Who asks, and what that opens: names, routes and limits.

Rules:
* Both headers are looked at, and any one that is right opens. What is compared is compared in constant time.
* A key whose group is gone from providers.yaml opens nothing: nobody could say what it may.
* What a caller may not ask for is not shown to it either.
"""

from __future__ import annotations

import hmac
import time
from dataclasses import dataclass

from aiohttp import web

from gateway.access.client_key import ClientKey
from gateway.access.key_ring import KeyRing
from gateway.access.key_text import PREFIX
from gateway.access.limiter import Holder
from gateway.config import Config
from gateway.errors import AuthenticationFailed, NotFound, PermissionDenied
from gateway.routing import Route, RoutingTable, may_ask
from gateway.server.state import STATE, GatewayState

TOKEN = ClientKey("(token)", "(token)")
"""Who came with ``server.token``: everything is open to it. No key can have this name."""
MAX_CALLERS = 10_000
_NAMES_SHOWN = 30


@dataclass(frozen=True, slots=True)
class Caller:
    """One client key, and what it opens under one configuration."""

    key: ClientKey | None
    """None: the gateway asks nobody for a key."""
    config: Config
    table: RoutingTable
    allowed: tuple[tuple[str, ...], ...]
    """Lists of names; a name must be in each of them."""
    holders: tuple[Holder, ...]
    """Whose limits hold."""

    def route(self, asked: str) -> Route:
        """The route of a model name. Raises NotFound, PermissionDenied."""
        try:
            route = self.table.resolve(asked)
        except NotFound:
            if self.allowed:
                raise self._denied(asked) from None
            raise
        if self.allowed and not self.may_ask(asked, route):
            raise self._denied(asked)
        return route

    def may_ask(self, asked: str, route: Route) -> bool:
        """Whether ``asked``, which goes to ``route``, is open to it."""
        return all(may_ask(models, route, asked) for models in self.allowed)

    def _denied(self, asked: str) -> PermissionDenied:
        assert self.key is not None
        names = [name for name, route in self.table.routes.items() if self.may_ask(name, route)]
        known = ", ".join(names[:_NAMES_SHOWN]) or "none"
        more = f" and {len(names) - _NAMES_SHOWN} more" if len(names) > _NAMES_SHOWN else ""
        return PermissionDenied(
            f"model: {asked[:200]} is not open to the key {self.key.name}, and no login helps. "
            f"It may ask for: {known}{more}"
        )


def caller_of(request: web.Request) -> Caller:
    """Who sent ``request``. Raises AuthenticationFailed, PermissionDenied."""
    state = request.app[STATE]
    key = _key_of(request, state)
    name = "" if key is None else key.name
    caller = state.callers.get(name)
    if caller is None or caller.key is not key or caller.config is not state.config:
        caller = _caller(key, state.config)
        if len(state.callers) >= MAX_CALLERS:
            state.callers.clear()
        state.callers[name] = caller
    return caller


def has_budgets(config: Config, keys: KeyRing) -> bool:
    """Whether anybody's spending is limited."""
    limits = [key.limits for key in keys.keys]
    limits += [group.limits for group in config.groups.values()]
    limits += [provider.limits for provider in config.providers.values()]
    return any(each.budget for each in limits)


def _key_of(request: web.Request, state: GatewayState) -> ClientKey | None:
    token, ring = state.config.server.token, state.keys
    if token is None and not ring:
        return None
    scheme, _, bearer = request.headers.get("authorization", "").partition(" ")
    offered = [request.headers.get("x-api-key", ""), bearer.strip() if scheme.lower() == "bearer" else ""]
    # Both are always compared, so that time tells nothing.
    if token is not None and any(
        [hmac.compare_digest(value.encode("utf-8", "replace"), token.encode()) for value in offered]
    ):
        return TOKEN
    refusals = []
    # Of two that do not open, a key of ours has more to say than whatever Claude Code sends beside it.
    for value in sorted(filter(None, offered), key=lambda value: not value.startswith(PREFIX)) if ring else ():
        try:
            return ring.identify(value, time.time())
        except AuthenticationFailed as refusal:
            refusals.append(refusal)
    if refusals:
        raise refusals[0]
    if ring:
        raise AuthenticationFailed("this gateway wants a key: set ANTHROPIC_AUTH_TOKEN to the one you were given")
    raise AuthenticationFailed(
        "this gateway wants its token: set ANTHROPIC_AUTH_TOKEN to the value of server.token in providers.yaml"
    )


def _caller(key: ClientKey | None, config: Config) -> Caller:
    if key is None or key is TOKEN:
        return Caller(key, config, config.table, (), ())
    group = None
    if key.group is not None:
        group = config.groups.get(key.group)
        if group is None:
            raise PermissionDenied(
                f"the key {key.name} is of the group {key.group}, which is not in providers.yaml: "
                "ask whoever runs this gateway"
            )
    allowed = (key.models, None if group is None else group.models)
    # Those without limits too: what they take counts for limits that a reload may bring.
    holders = [Holder("key", key.name, key.limits)]
    if group is not None:
        holders.append(Holder("group", group.name, group.limits))
    return Caller(
        key,
        config,
        config.table if group is None else group.table,
        tuple(models for models in allowed if models is not None),
        tuple(holders),
    )
