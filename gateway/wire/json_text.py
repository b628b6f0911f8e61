"""JSON that survives what orjson refuses: lone surrogate escapes.

Rules:
* orjson first; the slow way only for what it refuses.
* A client's lone surrogate becomes U+FFFD at once: no upstream takes it.
* An upstream's stays in the ``str``, because its other half may come with the next delta.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import groupby
from math import isfinite
from typing import Any

import orjson

from gateway.errors import InvalidRequest, UpstreamProtocolError

MAX_DEPTH = 1000
"""Just below what orjson reads."""
TOO_DEEP = "body: nested more than 250 levels deep"

_ESCAPE = re.compile(
    rb"\\(?:u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}|(u[dD][89a-fA-F][0-9a-fA-F]{2})|.)", re.DOTALL
)


def loads_request(data: bytes) -> Any:
    """A client's JSON. Raises ValueError (orjson.JSONDecodeError) with line and column."""
    try:
        return orjson.loads(data)
    except orjson.JSONDecodeError:
        if b"\\ud" not in data and b"\\uD" not in data:
            raise
    return orjson.loads(_ESCAPE.sub(lambda found: b"\\ufffd" if found[1] else found[0], data))


def loads_upstream(data: bytes | str) -> Any:
    """An upstream's JSON; strings may hold lone surrogates. Raises ValueError."""
    try:
        return orjson.loads(data)
    except orjson.JSONDecodeError:
        pass
    try:
        value = json.loads(data)
    except RecursionError:
        raise ValueError("nested too deeply") from None
    # How deep the interpreter itself reads differs from version to version.
    level = [value]
    for _ in range(MAX_DEPTH):
        level = [child for item in level for child in _children(item)]
        if not level:
            return value
    raise ValueError("nested too deeply")


def _children(value: Any) -> Iterable[Any]:
    return value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()


def dumps(value: Any) -> bytes:
    """An upstream's value as JSON in valid UTF-8, whatever was in it: lone surrogates, huge integers.

    Raises UpstreamProtocolError for what is nested too deeply (orjson reads 1,024 levels and writes 254).
    """
    try:
        return orjson.dumps(value)
    except TypeError:
        pass
    try:
        return json.dumps(_whole_characters(value), ensure_ascii=False, separators=(",", ":")).encode()
    except (RecursionError, ValueError, TypeError):
        raise UpstreamProtocolError("the upstream sent JSON that is nested too deeply") from None


def dumps_request(value: Any) -> bytes:
    """A client's value as JSON. Raises InvalidRequest for what is nested too deeply."""
    try:
        return orjson.dumps(value)
    except TypeError:
        raise InvalidRequest(TOO_DEEP) from None


@dataclass(frozen=True, slots=True)
class Encoded:
    """JSON text without NUL, in pieces."""

    pieces: tuple[bytes, ...]


def encoded_items(items: Iterable[bytes]) -> Encoded:
    """A list of what ``dumps_item`` made."""
    pieces = [piece for item in items for piece in (b",", item)]
    return Encoded((b"[", *pieces[1:], b"]"))


def dumps_item(value: Any) -> bytes:
    """One item of a list on top of a body, without NUL. Raises InvalidRequest for what is nested too deeply there."""
    return without_nul(dumps_request([[value]])[2:-2])


def dumps_body(fields: Mapping[str, Any]) -> bytes:
    """A body for an upstream, without NUL; a field on top may be ``Encoded``, and goes in as it is.

    Raises InvalidRequest for what is nested too deeply.
    """
    if Encoded not in map(type, fields.values()):
        return without_nul(dumps_request(fields))
    pieces: list[bytes | memoryview] = [b"{"]
    for encoded, run in groupby(fields.items(), lambda field: type(field[1]) is Encoded):
        if encoded:
            for name, value in run:
                pieces += (without_nul(orjson.dumps(name)), b":", *value.pieces, b",")
        else:
            pieces += (memoryview(without_nul(dumps_request(dict(run))))[1:-1], b",")
    pieces[-1] = b"}"
    return b"".join(pieces)


def _whole_characters(value: Any) -> Any:
    if isinstance(value, str):
        return without_surrogates(value)
    if isinstance(value, float) and not isfinite(value):
        return None  # as orjson writes it
    if isinstance(value, dict):
        return {without_surrogates(key): _whole_characters(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_whole_characters(item) for item in value]
    return value


def without_surrogates(text: str) -> str:
    """``text`` with surrogate pairs joined and lone halves replaced by U+FFFD."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def without_nul(data: bytes) -> bytes:
    """JSON text with escaped NUL characters replaced; servers behind a database choke on them."""
    if b"u0000" not in data:  # without the backslash: for more than five characters Python prepares a table first
        return data
    return _ESCAPE_OR_NUL.sub(lambda found: rb"\ufffd" if found[1] else found[0], data)


_ESCAPE_OR_NUL = re.compile(rb"\\(?:(u0000)|.)", re.DOTALL)
