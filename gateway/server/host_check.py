"""Whose requests are heard at all: not those of web pages, unless they are listed.

A browser on the gateway's own machine reaches a listener on loopback, whatever page it shows. Such a page can send
requests (CSRF: then ``Origin`` names it), and with a name of its own that leads to 127.0.0.1 it can read the answers
too (DNS rebinding: then ``Host`` is that name).

Rules:
* Every path is checked, /healthz too, and before the key: a web page has no business here.
* On loopback, ``Host`` must name this machine, or be listed in ``server.allowed_hosts``. On the network it is not
  looked at: nobody knows by which names a gateway is called there, and without a key nobody is served.
* ``Origin``, with which a browser signs what a page sends, must be listed in ``server.allowed_origins``, wherever the
  gateway listens. Nobody else sends one.
* No answer grants a page anything (CORS), unless its origin is listed.
* The port in ``Host`` is not looked at: who forwards a port does not know ours.
"""

from __future__ import annotations

from aiohttp import hdrs, web

from gateway.config import ServerSettings, is_loopback
from gateway.errors import PermissionDenied

GRANT = web.RequestKey("GRANT", dict[str, str])
"""The headers that let a listed page read the answer to this request."""

_LOCAL = ("localhost", "127.0.0.1", "[::1]")
_PREFLIGHT_SECONDS = "600"
_MAX_KNOWN = 64


class HostCheck:
    """One per process. It follows the settings that it is asked with."""

    def __init__(self, *, loopback: bool = True) -> None:
        """``loopback``: only this machine can reach the gateway."""
        self._loopback = loopback
        self._settings: ServerSettings | None = None
        self._hosts: frozenset[str] = frozenset()
        self._known: set[str] = set()
        """Values of ``Host`` that were found to be ours, as clients spell them."""
        self._origins: frozenset[str] = frozenset()

    def admit(self, request: web.Request, settings: ServerSettings) -> web.Response | None:
        """None: go on. A listed page's preflight gets its answer here. Raises PermissionDenied.

        For any other request of a listed page, ``request[GRANT]`` is what the answer must say.
        """
        if settings is not self._settings:
            self._follow(settings)
        if self._loopback:
            host = request.headers.get(hdrs.HOST, "")
            if host not in self._known and not self._is_ours(host):
                raise PermissionDenied(
                    f"this gateway serves its own machine, as localhost, and not as {host[:100]!a}; "
                    "to call it so, list the name in server.allowed_hosts of providers.yaml",
                    should_retry=False,
                )
        origin = request.headers.get(hdrs.ORIGIN)
        return None if origin is None else self._admit_page(request, origin)

    def _follow(self, settings: ServerSettings) -> None:
        self._hosts = frozenset((*_LOCAL, *map(str.lower, settings.allowed_hosts)))
        self._known.clear()
        self._origins = frozenset(settings.allowed_origins)
        self._settings = settings

    def _is_ours(self, host: str) -> bool:
        name = host.lower()
        if name not in self._hosts:
            before, colon, port = name.rpartition(":")
            name = before if colon and port.isdecimal() else name
        ours = name in self._hosts or is_loopback(name)
        if ours and len(self._known) < _MAX_KNOWN:
            self._known.add(host)
        return ours

    def _admit_page(self, request: web.Request, origin: str) -> web.Response | None:
        if origin not in self._origins:
            raise PermissionDenied(
                f"this gateway serves no web page, and this request is from one: {origin[:100]!a}; "
                "to let it, list it in server.allowed_origins of providers.yaml",
                should_retry=False,
            )
        grant = request[GRANT] = {"access-control-allow-origin": origin, "vary": "origin"}
        if request.method != hdrs.METH_OPTIONS or hdrs.ACCESS_CONTROL_REQUEST_METHOD not in request.headers:
            return None
        asked = request.headers.get(hdrs.ACCESS_CONTROL_REQUEST_HEADERS)
        headers = {**grant, "access-control-allow-methods": "GET, POST", "access-control-max-age": _PREFLIGHT_SECONDS}
        if asked:
            headers["access-control-allow-headers"] = asked
        return web.Response(status=204, headers=headers)
