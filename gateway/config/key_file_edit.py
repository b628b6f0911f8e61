"""One entry of a keys.yaml that people edit, too: made, changed or taken out, while the rest stays as it is.

Rules:
* Only the lines of that entry change, and of those only the fields concerned: comments, order, quotes and line ends
  of the rest stay, byte for byte.
* The new text is read again before it takes the old one's place; unless every other key is what it was, nothing
  is written.
* The file is replaced whole by a rename, or not at all; behind a symbolic link its target is. A new one is its
  owner's alone.
* One change at a time: the folder is locked, and a file that an editor saved meanwhile is not overwritten.
"""

from __future__ import annotations

import errno
import fcntl
import os
import re
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from gateway.access.client_key import ClientKey
from gateway.access.key_ring import KeyRing
from gateway.config.document import ListNode, MapNode, Node, core_value, read
from gateway.config.key_file import load, loads
from gateway.config.mistakes import ConfigError, Mistakes
from gateway.config.overrides import value_text
from gateway.config.rewrite import replace_file

Fields = Mapping[str, Any]
"""Field -> what YAML's plain types can hold; None takes the field out."""
LOCK_SECONDS = 10.0

_STEP = 2
"""Columns of a level of indentation."""
_NO_ENTRIES = re.compile(r"(\ufeff?keys:)(?:[ \t]+(?:\{[ \t]*\}|~|null))?((?:[ \t]+#.*)?)")


class CannotEdit(Exception):
    """Why nothing was changed; one line."""


def change_key(path: Path, name: str, change: Callable[[KeyRing], Fields | None]) -> ClientKey | None:
    """Puts the fields that ``change`` gives into the entry ``name``, a new one where there is none; None takes it out.

    ``change`` is asked once the file is ours, with what it holds, and may raise to leave it so. Returns the key as it
    is now. Raises ConfigError for a file that is wrong before, and CannotEdit.
    """
    real = Path(os.path.realpath(path))
    try:
        with _locked(real.parent):
            ring = load(path)
            before = real.read_bytes() if ring.required else None
            fields = change(ring)
            after = edited((before or b"keys:\n").decode(), name, fields).encode()
            changed = _checked(ring, after, name, fields is None)
            _save(real, before, after)
    except OSError as error:
        raise CannotEdit(f"{path} cannot be changed, and is as it was: {_reason(error)}") from None
    return changed


def edited(text: str, name: str, fields: Fields | None) -> str:
    """``text``, a right keys.yaml, with the entry ``name`` changed as ``change_key`` says. Raises CannotEdit."""
    newline = "\r\n" if "\r\n" in text else "\n"
    lines = text.splitlines(keepends=True)
    if lines and not lines[-1].endswith(("\n", "\r")):
        lines[-1] += newline
    root = _mapping(read("".join(lines).encode(), Mistakes("the file")))
    keys = _mapping(root.entries["keys"])
    column, place = _STEP, root.keys["keys"].line
    if not keys.entries:
        _make_room(lines, place - 1, newline)
    elif not _in_lines(keys):
        raise CannotEdit("the entries under 'keys' share lines: put each on lines of its own")
    else:
        column, place = keys.mark.column - 1, _span(lines, keys, list(keys.keys)[-1], len(lines)).stop
    if name not in keys.entries:
        lines[place:place] = [] if fields is None else _entry(name, fields, column, newline)
        return "".join(lines)
    entry, span = _mapping(keys.entries[name]), _span(lines, keys, name, len(lines))
    if fields is None:
        del lines[span]
    elif _in_lines(entry):
        _set_fields(lines, entry, span.stop, fields, newline)
    else:
        lines[span] = _entry(name, {**_plain(entry), **fields}, column, newline)
    return "".join(lines)


def _mapping(node: Node) -> MapNode:
    return node if isinstance(node, MapNode) else MapNode(node.mark, {}, {})


def _make_room(lines: list[str], place: int, newline: str) -> None:
    """Makes ``keys: {}`` ready for entries in lines of their own."""
    found = _NO_ENTRIES.fullmatch(lines[place].rstrip("\r\n"))
    if found is None:
        raise CannotEdit("there is no room under 'keys': write 'keys:' on a line of its own, and nothing after it")
    lines[place] = found[1] + found[2] + newline


def _in_lines(block: MapNode) -> bool:
    """Whether each entry has lines of its own; one in braces, or shared by an anchor, begins before its first key."""
    return block.mark == next(iter(block.keys.values()), None)


def _span(lines: list[str], block: MapNode, name: str, limit: int) -> slice:
    """The lines of an entry: up to the next one or ``limit``, without comments that are not indented below it."""
    mark = block.keys[name]
    stop = min((other.line - 1 for other in block.keys.values() if other.line > mark.line), default=limit)
    while stop > mark.line and not _belongs(lines[stop - 1], mark.column):
        stop -= 1
    return slice(mark.line - 1, stop)


def _belongs(line: str, column: int) -> bool:
    rest = line.lstrip(" ")
    return bool(rest.strip()) and (not rest.startswith("#") or len(line) - len(rest) >= column)


def _set_fields(lines: list[str], entry: MapNode, end: int, fields: Fields, newline: str) -> None:
    """Field by field, from the last line up, so that places found before stay right."""
    column = entry.mark.column - 1
    new = {field: value for field, value in fields.items() if field not in entry.keys}
    lines[end:end] = _fields(new, column, newline)
    for field in sorted(fields.keys() & entry.keys.keys(), key=lambda field: entry.keys[field].line, reverse=True):
        lines[_span(lines, entry, field, end)] = _fields({field: fields[field]}, column, newline)


def _entry(name: str, fields: Fields, column: int, newline: str) -> list[str]:
    return [f"{' ' * column}{value_text(name)}:{newline}", *_fields(fields, column + _STEP, newline)]


def _fields(fields: Fields, column: int, newline: str) -> list[str]:
    indent = " " * column
    return [f"{indent}{name}: {value_text(value)}{newline}" for name, value in fields.items() if value is not None]


def _plain(node: Node) -> Any:
    """What YAML's plain types say the same with, as far as a keys.yaml goes."""
    if isinstance(node, MapNode):
        return {name: _plain(value) for name, value in node.entries.items()}
    if isinstance(node, ListNode):
        return [_plain(item) for item in node.items]
    value = core_value(node.text) if node.plain else node.text
    return value if isinstance(value, int) else node.text


# -- the file ----------------------------------------------------------------------------------------------


def _checked(before: KeyRing, after: bytes, name: str, removed: bool) -> ClientKey | None:
    """The key after the change. Raises CannotEdit unless all the others are what they were."""
    try:
        ring = loads(after, "the file")
    except ConfigError as error:
        raise CannotEdit(f"with this change the file would be wrong: {error.mistakes[0].message}") from None
    others = [[key for key in each.keys if key.name != name] for each in (before, ring)]
    changed = ring.get(name)
    if others[0] != others[1] or (changed is None) != removed:
        raise CannotEdit("the file is laid out in a way that leaves no place for this change: make it by hand")
    return changed


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """While no other process is here. Raises OSError, and CannotEdit after LOCK_SECONDS."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        deadline = time.monotonic() + LOCK_SECONDS
        while True:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise CannotEdit(f"another process holds the lock on {folder}: try again") from None
                time.sleep(0.02)
            except OSError:
                # A network file system may have no locks; what is compared before the rename protects there, too.
                break
        yield
    finally:
        os.close(handle)


def _save(path: Path, before: bytes | None, after: bytes) -> None:
    if before is None:
        _create(path, after)
    elif before != after:
        replace_file(path, before, after)


def _create(path: Path, data: bytes) -> None:
    """A file that appears whole: for us alone, or, in the folder of another group, for that group to read.

    Raises OSError.
    """
    group = path.parent.stat().st_gid
    handle, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as stream:
            stream.write(data)
            stream.flush()
            if group != os.fstat(stream.fileno()).st_gid:
                with suppress(PermissionError):  # only root may give a file to a group that it is not in
                    os.fchown(stream.fileno(), -1, group)
                    os.fchmod(stream.fileno(), 0o640)
            os.fsync(stream.fileno())
        os.replace(temporary, path)
    except BaseException:
        with suppress(OSError):
            os.unlink(temporary)
        raise


def _reason(error: OSError) -> str:
    if error.errno == errno.EBUSY:
        return "it is mounted by itself: mount its folder instead, or change the file where it comes from"
    return error.strerror or "no reason is known"
