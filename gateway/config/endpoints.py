"""``api_key: [a, b]`` and ``endpoints: [{base_url, api_key, weight}]``: a provider with several keys or addresses.

A list under ``api_key`` is short for endpoints at one address. What an endpoint leaves out is the section's.
Rule: names are unique; an endpoint without one is called by its place, from 1.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from gateway.config.document import ListNode, Node
from gateway.config.fields import INVALID, FieldReader
from gateway.config.mistakes import Mark, quoted

KEYS = ("name", "base_url", "api_key", "weight")
MAX_ENDPOINTS = 32

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


@dataclass(frozen=True, slots=True, eq=False)
class WrittenEndpoint:
    """One of them, as it stands in the file."""

    name: str
    weight: int
    path: str
    """Where it stands, for messages."""
    mark: Mark
    key_path: str
    entries: Mapping[str, Node]
    """``base_url`` and ``api_key``, where they are written."""


def has_endpoints(entries: Mapping[str, Node]) -> bool:
    """Whether a section of ``providers`` speaks of several keys or addresses."""
    return "endpoints" in entries or isinstance(entries.get("api_key"), ListNode)


def read_endpoints(entries: Mapping[str, Node], path: str, reader: FieldReader) -> list[WrittenEndpoint]:
    """The endpoints of one section of ``providers``, those without a mistake; none for a section with one of each."""
    keys, listed = entries.get("api_key"), entries.get("endpoints")
    if listed is None:
        return _from_keys(keys, f"{path}.api_key", reader) if isinstance(keys, ListNode) else []
    path = f"{path}.endpoints"
    if isinstance(keys, ListNode):
        hint = "give each endpoint its key, or write one for all"
        reader.mistakes.add(keys.mark, f"{path} and a list under 'api_key' do not go together", hint)
    elif not isinstance(listed, ListNode):
        reader.expected("a list", listed, path)
    elif _has_fitting_size(listed, path, reader):
        read = [_endpoint(node, number, path, reader) for number, node in enumerate(listed.items)]
        found = [each for each in read if each is not None]
        _refuse_twins(found, reader)
        return found
    return []


def _from_keys(keys: ListNode, path: str, reader: FieldReader) -> list[WrittenEndpoint]:
    if not _has_fitting_size(keys, path, reader):
        return []
    return [
        WrittenEndpoint(str(number + 1), 1, f"{path}[{number}]", node.mark, f"{path}[{number}]", {"api_key": node})
        for number, node in enumerate(keys.items)
    ]


def _endpoint(node: Node, number: int, path: str, reader: FieldReader) -> WrittenEndpoint | None:
    """None after a mistake: what else is wrong with it would only follow from that."""
    path = f"{path}[{number}]"
    before = len(reader.mistakes.found)
    entries = reader.section(node, path, KEYS).entries
    name, weight = str(number + 1), 1
    if "name" in entries:
        written = reader.value(entries["name"], str, f"{path}.name")
        if written is not INVALID and not _NAME.fullmatch(written):
            hint = "letters, digits, dot, dash and underscore, at most 64"
            reader.mistakes.add(entries["name"].mark, f"{path}.name cannot be an endpoint's name", hint)
        elif written is not INVALID:
            name = written
    if "weight" in entries:
        written = reader.value(entries["weight"], int, f"{path}.weight")
        weight = 1 if written is INVALID else written
    if not {"base_url", "api_key"} & entries.keys() and len(reader.mistakes.found) == before:
        reader.mistakes.add(node.mark, f"{path} has neither 'base_url' nor 'api_key'")
    if len(reader.mistakes.found) > before:
        return None
    return WrittenEndpoint(name, weight, path, node.mark, f"{path}.api_key", entries)


def _refuse_twins(found: list[WrittenEndpoint], reader: FieldReader) -> None:
    seen: set[str] = set()
    for endpoint in found:
        if endpoint.name in seen:
            reader.mistakes.add(endpoint.mark, f"{endpoint.path}: another endpoint is called {quoted(endpoint.name)}")
        seen.add(endpoint.name)


def _has_fitting_size(node: ListNode, path: str, reader: FieldReader) -> bool:
    if not node.items:
        reader.mistakes.add(node.mark, f"{path} is an empty list", "name at least one, or leave it out")
    elif len(node.items) > MAX_ENDPOINTS:
        reader.mistakes.add(node.mark, f"{path}: more than {MAX_ENDPOINTS}")
    return 0 < len(node.items) <= MAX_ENDPOINTS
