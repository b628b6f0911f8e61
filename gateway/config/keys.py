"""``api_key`` as written -> what opens a provider.

Rules:
* What should hold a key and does not is named, and no mistake: the rest of the configuration works.
* A key is remembered as a secret. No message holds it.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from gateway.config.document import MapNode, Node, ScalarNode
from gateway.config.fields import FieldReader, is_header_value, shown
from gateway.config.mistakes import Mark


@dataclass(frozen=True, slots=True)
class Key:
    """What opens a provider. ``repr`` never shows it."""

    text: str | None = field(default=None, repr=False)
    """None: there is none, or none is needed."""
    source: str | None = None
    """The variable or file that it is read from."""
    missing: bool = False
    """``source`` should hold it and does not."""


NO_KEY = Key()


def read_key(node: Node, path: str, reader: FieldReader) -> Key:
    """The key that ``node`` says; NO_KEY after a mistake."""
    if not isinstance(node, ScalarNode):
        hint = 'a value that begins with { needs quotes: "${VAR}"' if isinstance(node, MapNode) else ""
        reader.mistakes.add(node.mark, f"{shown(path)}: expected text", hint)
        return NO_KEY
    expanded = None if node.is_null else reader.expand(node, path)
    if expanded is None:
        if node.is_null:
            _empty(node, path, reader)
        return NO_KEY
    text = expanded.text.strip()
    if not expanded.sources:
        if not text:
            _empty(node, path, reader)
            return NO_KEY
        reader.inline.append(path)
        return checked_key(text, None, node.mark, path, reader)
    if not text and expanded.defaulted:
        # "${VAR:-}": a key if there is one, for servers that take both.
        return NO_KEY
    missing = expanded.missing or (expanded.sources if not text else ())
    return checked_key("" if missing else text, (missing or expanded.sources)[0], node.mark, path, reader)


def checked_key(text: str, source: str | None, mark: Mark, path: str, reader: FieldReader) -> Key:
    """``text`` as a key, remembered as a secret; an empty one is missing from ``source``."""
    if not text:
        return Key(None, source, missing=True)
    if not is_header_value(text):
        hint = "it may have been cut or pasted with line breaks"
        reader.mistakes.add(mark, f"{shown(path)} holds characters that a header cannot carry", hint)
        return NO_KEY
    reader.secrets.add(text)
    return Key(text, source)


def _empty(node: Node, path: str, reader: FieldReader) -> None:
    reader.mistakes.add(node.mark, f"{path} is empty", "write ${VAR}, or leave it out")
