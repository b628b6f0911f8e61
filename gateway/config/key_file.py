"""keys.yaml -> a frozen KeyRing, or every mistake in it at once.

Rules:
* Read whole or refused whole, with the bounds of document.py. Who keeps a ring keeps it when the file goes wrong.
* A file without any key is a ring that admits nobody; only a missing file is no ring. An empty file is a mistake:
  it is what a file looks like while it is being saved.
* No message shows a value that could be a key.
* Nothing is put in: the file is its own, and does not depend on the environment.
"""

from __future__ import annotations

import re
import stat
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NewType

from gateway.access.client_key import ClientKey
from gateway.access.key_ring import KeyRing
from gateway.access.key_text import PREFIX, is_well_formed
from gateway.access.limits import Budget, Limits
from gateway.config.document import MAX_BYTES, MapNode, Node, ScalarNode, read, read_file
from gateway.config.fields import INVALID, FieldReader, shown
from gateway.config.mistakes import NOWHERE, Mark, Mistakes
from gateway.config.variables import Expanded

DEFAULT_FILE = "keys.yaml"
_NAME = re.compile(r"\w[\w.@+-]{0,63}")
"""Of a key, a user and a group: what every log line, table and label can carry."""
_SHA256 = re.compile(r"[0-9a-fA-F]{64}")


_Digest = NewType("_Digest", bytes)
_Name = NewType("_Name", str)
_Moment = NewType("_Moment", float)


@dataclass(frozen=True, slots=True)
class _OldKey:
    """One item of ``previous``."""

    sha256: _Digest
    until: _Moment


@dataclass(frozen=True, slots=True)
class _Entry:
    """What one key's section may hold."""

    sha256: _Digest
    user: _Name | None = None
    group: _Name | None = None
    models: tuple[str, ...] | None = None
    rpm: int | None = None
    tpm: int | None = None
    concurrency: int | None = None
    budget: tuple[Budget, ...] = ()
    expires: _Moment | None = None
    disabled: bool = False
    created: _Moment | None = None
    previous: tuple[_OldKey, ...] = ()
    log_prompts_until: _Moment | None = None

    def key(self, name: str) -> ClientKey:
        """The same under its name."""
        return ClientKey(
            name=name,
            user=self.user or name,
            group=self.group,
            models=self.models,
            limits=Limits(self.rpm, self.tpm, self.concurrency, self.budget),
            expires=self.expires,
            disabled=self.disabled,
            log_prompts_until=self.log_prompts_until,
            digests=((self.sha256, None), *((old.sha256, old.until) for old in self.previous)),
            created=self.created,
        )


def beside(config: Path, keys_file: str | None) -> Path:
    """Where the keys of the gateway with this providers.yaml are; ``keys_file`` is what ``server.keys_file`` says."""
    return config.parent / (keys_file or DEFAULT_FILE)


def load(path: Path) -> KeyRing:
    """The keys in ``path``; a file that is not there is an empty ring. Raises ConfigError."""
    mistakes = Mistakes(str(path))
    try:
        data, mode = read_file(path, mistakes)
    except FileNotFoundError:
        return KeyRing()
    open_to_others = mode & (stat.S_IWGRP | stat.S_IWOTH)
    return _ring(data, mistakes, (f"other users can change {path}: chmod go-w",) if open_to_others else ())


def loads(data: bytes, name: str) -> KeyRing:
    """As ``load``, for the content of a file; ``name`` stands for it in messages."""
    return _ring(data, Mistakes(name), ())


def moment(text: str) -> float:
    """``2027-02-20`` (its beginning) or ``2027-02-20T10:00:00Z`` as seconds since the epoch; UTC unless it says so.

    Raises ValueError.
    """
    try:
        found = datetime.fromisoformat(text)
        return (found if found.tzinfo else found.replace(tzinfo=UTC)).astimezone(UTC).timestamp()
    except (ValueError, OverflowError):
        raise ValueError("this is no date: write e.g. 2027-02-20 or 2027-02-20T10:00:00Z") from None


def _ring(data: bytes, mistakes: Mistakes, warnings: tuple[str, ...]) -> KeyRing:
    if len(data) <= MAX_BYTES and _is_blank(data.decode("utf-8-sig", "replace")):
        raise mistakes.error(NOWHERE, "the file is empty", "no keys at all are 'keys: {}'")
    root = read(data, mistakes)
    if not isinstance(root, MapNode):
        raise mistakes.error(root.mark, "the file has no keys", "it needs 'keys'")
    reader = _KeyFileReader(mistakes)
    sections = reader.section(root, "the file", ("keys",)).entries
    if "keys" not in sections and not mistakes.found:
        mistakes.add(root.mark, "'keys' is missing")
    keys = reader.keys(sections["keys"]) if "keys" in sections else ()
    mistakes.raise_if_any()
    return KeyRing(keys, required=True, warnings=warnings)


def _is_blank(text: str) -> bool:
    return all(line.strip()[:1] in ("", "#") for line in text.splitlines())


class _KeyFileReader(FieldReader):
    """Reads the entries of one file."""

    def __init__(self, mistakes: Mistakes) -> None:
        super().__init__(mistakes, {}, Path())
        self._places: dict[bytes, str] = {}
        """Digest -> the entry that it stands in."""

    def keys(self, node: Node) -> tuple[ClientKey, ...]:
        """All entries; good for nothing when there are mistakes."""
        section = self.section(node, "keys")
        found = (self._key(name, child, section.keys[name]) for name, child in section.entries.items())
        return tuple(key for key in found if key)

    def expand(self, node: ScalarNode, path: str) -> Expanded | None:
        """The text as it stands."""
        if "${" not in node.text:
            return super().expand(node, path)
        self.mistakes.add(node.mark, f"{shown(path)}: no variables are put in here", "write the value itself")
        return None

    def value(self, node: Node, kind: Any, path: str) -> Any:
        """As a FieldReader's, and what only this file has."""
        if kind is _Digest:
            return self._digest(node, path)
        if kind is _Name:
            return self._checked(node, path, checked_name)
        if kind is _Moment:
            return self._checked(node, path, moment)
        return super().value(node, kind, path)

    def _key(self, name: str, node: Node, mark: Mark) -> ClientKey | None:
        """None after a mistake that leaves nothing of it."""
        try:
            checked_name(name)
        except ValueError as error:
            self.mistakes.add(mark, str(error))
            name = "?"
        path = f"keys.{name}"
        entry = self.value(node, _Entry, path)
        if not isinstance(entry, _Entry):
            return None
        if entry.models == ():
            self.mistakes.add(mark, f"{shown(path)}.models is an empty list", "leave it out to allow all")
        if not all(text.strip() and text.isprintable() for text in entry.models or ()):
            self.mistakes.add(mark, f"{shown(path)}.models holds a name that is blank or not printable")
        return entry.key(name)

    def _checked(self, node: Node, path: str, check: Callable[[str], Any]) -> Any:
        """The text through ``check``, whose ValueError is a mistake."""
        text = self.value(node, str, path)
        try:
            return INVALID if text is INVALID else check(text)
        except ValueError as error:
            self.mistakes.add(node.mark, f"{shown(path)}: {error}")
            return INVALID

    def _digest(self, node: Node, path: str) -> Any:
        """What stands there is not shown: it may be the key."""
        text = self.value(node, str, path)
        if text is INVALID:
            return INVALID
        if not _SHA256.fullmatch(text):
            hint = "this looks like the key itself" if text.startswith(PREFIX) else ""
            self.mistakes.add(node.mark, f"{shown(path)}: expected the 64 hexadecimal digits of a SHA-256", hint)
            return INVALID
        digest = bytes.fromhex(text)
        first = self._places.setdefault(digest, path)
        if first is not path:
            self.mistakes.add(node.mark, f"{shown(path)} is also {shown(first)}", "every key is one client's")
        return digest


def checked_name(text: str) -> str:
    """``text``, if it can be the name of a key, a user or a group. Raises ValueError."""
    if is_well_formed(text):
        raise ValueError("this is a key, not its name")
    if not _NAME.fullmatch(text):
        raise ValueError("this cannot be a name: letters, digits and . _ @ + -, at most 64")
    return text


def when(seconds: float) -> str:
    """Seconds since the epoch as ``moment`` reads them, to the second."""
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%SZ}"
