"""The section ``server`` -> ServerSettings."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any, get_type_hints

from gateway.config.document import ListNode, MapNode, Node, ScalarNode
from gateway.config.fields import FieldReader, is_header_value
from gateway.config.settings import ServerSettings, TlsSettings

_HINTS = get_type_hints(ServerSettings)
_HOST = re.compile(r"(?:\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(?::[0-9]{1,5})?")
_ORIGIN = re.compile(r"[a-z][a-z0-9+.-]*://(?:\[[0-9a-f:.]+\]|[a-z0-9._-]+)(?::[0-9]{1,5})?")


def read_server(node: Node | None, reader: FieldReader) -> ServerSettings:
    """The settings; what is wrong with them is recorded."""
    if node is None:
        return ServerSettings()
    values: dict[str, Any] = reader.typed(node, "server", _HINTS)
    entries = node.entries if isinstance(node, MapNode) else {}
    values["token"] = _token(values.get("token"), entries.get("token"), reader)
    for name in _LISTS.keys() & values.keys():
        _check(name, values[name], entries[name], reader)
    if values.get("tls"):
        values["tls"] = _in_directory(values["tls"], reader)
    return ServerSettings(**values)


def _token(value: str | None, node: Node | None, reader: FieldReader) -> str | None:
    token = (value or "").strip()
    if token:
        reader.secrets.add(token)
        if isinstance(node, ScalarNode) and "$" not in node.text:
            reader.inline.append("server.token")
    if node is not None and not is_header_value(token):
        reader.mistakes.add(node.mark, "server.token holds characters that a header cannot carry")
    return token or None


def _check(name: str, values: tuple[str, ...], node: Node, reader: FieldReader) -> None:
    """Records the entries of one of _LISTS that would never match."""
    fits, example = _LISTS[name]
    for number, (value, item) in enumerate(zip(values, node.items if isinstance(node, ListNode) else (), strict=True)):
        if not fits(value):
            reader.mistakes.add(item.mark, f"server.{name}[{number}]: expected {example}")


def _is_network(text: str) -> bool:
    from ipaddress import ip_network  # few have a proxy

    try:
        ip_network(text, strict=False)
    except ValueError:
        return False
    return True


_LISTS: dict[str, tuple[Callable[[str], object], str]] = {
    "allowed_hosts": (_HOST.fullmatch, "a host's name, e.g. gateway.lan"),
    # ``null`` is the origin of every sandboxed frame and every data: page.
    "allowed_origins": (_ORIGIN.fullmatch, "scheme://host or scheme://host:port in lower case, e.g. https://chat.lan"),
    "trusted_proxies": (_is_network, "an address or a network, e.g. 10.0.0.1 or 10.0.0.0/8"),
}
"""Of each list, what an entry must be."""


def _in_directory(tls: TlsSettings, reader: FieldReader) -> TlsSettings:
    """Its files, from the folder of providers.yaml."""
    files = {name: getattr(tls, name) for name in ("certificate", "key", "client_ca")}
    return replace(tls, **{name: str(reader.directory / file) for name, file in files.items() if file is not None})
