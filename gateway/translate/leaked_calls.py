"""LeakedCalls: tool calls that an upstream wrote into its text as markup, made into tool calls again (R92).

Rules:
* Only markup that the profile names, only whole sections, and only calls of tools that the client offered.
  Everything else stays text, byte for byte.
* Text that may be the beginning of markup waits until it is certain; everything before it leaves at once.
* The same text in any split gives the same result.
* Whitespace around a section goes with it.
* Bounded: a section of more than ``MAX_SECTION`` characters is text, so is one that is never closed, and so is
  everything once the ``PATIENCE`` with an answer is used up.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence, Set
from typing import Any, Literal

from gateway.errors import UpstreamProtocolError
from gateway.translate.leaked_forms import FORMS, Markup, RawArgument, is_possible, is_unfinished, loads
from gateway.translate.schema_nodes import argument_types, fits
from gateway.translate.stop_sequences import overlap
from gateway.wire.json_text import dumps

MAX_SECTION = 1024 * 1024
"""Characters from the opening to the closing marker."""
MAX_CLOSINGS = 16
"""Closing markers that are tried as the end of one section; all but the last stand inside an argument."""
PATIENCE = 1024
"""What failures may cost in one answer; one that spends more talks about markup, and all of it is text."""
_COSTS = {"never": 1, "failed": 64, "open": 64}
_MAX_BLANKS = 256
_HEAD = 1024
_STRIDE = 16 * 1024

Piece = tuple[Literal["text"], str] | tuple[Literal["call"], str, str]
Verdict = Literal["open", "never", "failed"]
"""The section may still become one; it cannot be one; it looked like one until it ended."""


class LeakedCalls:
    """The text of one answer; one object per stream."""

    __slots__ = (
        "_after_call",
        "_buffer",
        "_edge",
        "_later",
        "_markups",
        "_offered",
        "_opens",
        "_patience",
        "_room",
        "_suspicious",
    )

    def __init__(self, markups: Sequence[Mapping[str, str]], offered: Mapping[str, dict[str, Any]]) -> None:
        """``markups``: mappings with ``open``, ``close`` and ``form``; an unknown form is never recognised.
        ``offered``: upstream name of each tool the client offers -> the JSON schema of its parameters."""
        known = [Markup(item.get("open", ""), item.get("close", ""), item.get("form", "")) for item in markups]
        usable = [markup for markup in known if markup.open and markup.close and markup.form in FORMS]
        self._markups = usable if offered else []
        self._opens = sorted({markup.open for markup in self._markups}, key=len)
        firsts = "".join(sorted({re.escape(marker[0]) for marker in self._opens}))
        self._suspicious = re.compile(rf"[{firsts}]|\s\Z" if firsts else r"(?!)")
        self._offered = offered
        self._patience = PATIENCE
        self._after_call = False
        self._buffer = ""
        self._later: list[str] = []  # what came after the buffer, while only a closing marker can change anything
        self._edge = ""
        self._room = 0

    def is_plain(self, text: str) -> bool:
        """Whether ``text`` may leave as it is, without ``feed``."""
        return not (self._buffer or self._after_call or len(text) > _STRIDE or self._suspicious.search(text))

    def feed(self, text: str) -> list[Piece]:
        """The pieces that are certain now, in order: ("text", text) or ("call", name, arguments as JSON)."""
        if len(text) <= _STRIDE:
            return self._feed(text)
        return [piece for at in range(0, len(text), _STRIDE) for piece in self._feed(text[at : at + _STRIDE])]

    def _feed(self, text: str) -> list[Piece]:
        if not (self._buffer or self._after_call or self._suspicious.search(text)):
            return [("text", text)] if text else []
        if self._room > 0:
            self._later.append(text)
            self._room -= len(text)
            edge, self._edge = self._edge + text, (self._edge + text)[-len(self._edge) :]
            if self._room > 0 and not any(markup.close in edge for markup in self._markups):
                return []
            text = self._take_later()
        self._buffer += text
        return self._pieces(final=False)

    def close(self) -> list[Piece]:
        """What still waited for a decision, at the end of the answer."""
        self._buffer += self._take_later()
        return self._pieces(final=True)

    def _take_later(self) -> str:
        text = "".join(self._later)
        self._later, self._edge, self._room = [], "", 0
        return text

    def _pieces(self, *, final: bool) -> list[Piece]:
        pieces: list[Piece] = []
        while self._buffer and self._step(pieces, final=final):
            pass
        return pieces

    def _step(self, pieces: list[Piece], *, final: bool) -> bool:
        """One decision; False when it needs more text."""
        if self._after_call:
            self._buffer = self._buffer.lstrip()
            self._after_call = not self._buffer
            return bool(self._buffer)
        opened = self._next_open()
        if opened is None:
            kept = 0 if final or self._is_off else self._held()
            self._release(len(self._buffer) - kept, pieces)
            return False
        start, marker = opened
        blanks = _blanks_before(self._buffer, start)
        if start > blanks:
            self._release(start - blanks, pieces)
            return True
        verdict = self._section(start, marker)
        if verdict == "open" and not final:
            self._wait_for_closing(start, marker)
            return False
        if isinstance(verdict, str):
            self._patience -= _COSTS[verdict]
            self._release(start + len(marker), pieces)
            return True
        calls, end = verdict
        pieces += calls
        self._buffer = self._buffer[end:]
        self._after_call = True
        return True

    def _wait_for_closing(self, start: int, marker: str) -> None:
        """From now on only a closing marker, or too much text, makes a difference."""
        if len(self._buffer) >= start + len(marker) + _HEAD:
            longest = max(len(markup.close) for markup in self._markups)
            self._edge = self._buffer[-longest:]
            self._room = start + MAX_SECTION - len(self._buffer)

    @property
    def _is_off(self) -> bool:
        return not self._markups or self._patience <= 0

    def _release(self, count: int, pieces: list[Piece]) -> None:
        if count > 0:
            pieces.append(("text", self._buffer[:count]))
            self._buffer = self._buffer[count:]

    def _next_open(self) -> tuple[int, str] | None:
        """Where the first opening marker stands, and which."""
        if self._is_off:
            return None
        return min(((at, marker) for marker in self._opens if (at := self._buffer.find(marker)) >= 0), default=None)

    def _held(self) -> int:
        """How many characters at the end may belong to a marker and the whitespace before it."""
        text = self._buffer
        longest = max((overlap(text, marker) for marker in self._opens), default=0)
        return longest + _blanks_before(text, len(text) - longest)

    def _section(self, start: int, marker: str) -> tuple[list[Piece], int] | Verdict:
        """The calls of the section at ``start`` and where it ends, or why there are none."""
        body_at = start + len(marker)
        limit = start + MAX_SECTION
        head = self._buffer[body_at : body_at + _HEAD]
        open_forms = [item for item in self._markups if item.open == marker and is_possible(item, head, self._offered)]
        if not open_forms:
            return "never"
        closings = 0
        end = body_at
        while open_forms and closings < MAX_CLOSINGS:
            found = [(at, item.close) for item in open_forms if (at := self._buffer.find(item.close, end, limit)) >= 0]
            if not found:
                return "open" if len(self._buffer) < limit else "failed"
            at, closing = min(found)
            end = at + len(closing)
            closings += 1
            body = self._buffer[body_at:at]
            for markup in [item for item in open_forms if item.close == closing]:
                calls = self._calls(markup, body)
                if calls:
                    return calls, end
                if not is_unfinished(markup, body):
                    open_forms.remove(markup)
        return "failed"

    def _calls(self, markup: Markup, body: str) -> list[Piece] | None:
        """The calls of one section, if it consists of nothing else and all of them are offered."""
        try:
            raw = FORMS[markup.form](markup, body)
            return [self._call(name, arguments) for name, arguments in raw] if raw else None
        except (ValueError, KeyError, RecursionError, UpstreamProtocolError):
            return None

    def _call(self, name: str, arguments: str | list[RawArgument]) -> Piece:
        name = name.strip()
        schema = self._offered[name]  # KeyError: not offered, so no call
        if isinstance(arguments, str):
            return "call", name, arguments
        types = argument_types(schema) if isinstance(schema, dict) else {}
        values = {key: _value(text, is_text, types.get(key, frozenset())) for key, text, is_text in arguments}
        return "call", name, dumps(values).decode()


def _blanks_before(text: str, end: int) -> int:
    """How many characters before ``end`` are whitespace that goes with what follows."""
    part = text[max(0, end - _MAX_BLANKS) : end]
    return len(part) - len(part.rstrip())


# -- values -------------------------------------------------------------------------------------------------------


def _value(text: str, is_text: bool | None, types: Set[str]) -> Any:
    """What an argument written as bare text means: the string itself, or the JSON it holds.

    ``types``: what JSON types the argument may have; none: unknown.
    """
    if is_text:
        return text
    if is_text is None and types == {"string"}:
        return text
    try:
        value = loads(text.strip())
    except (ValueError, RecursionError):
        word = text.strip().lower()
        return word == "true" if "boolean" in types and word in ("true", "false") else text
    if is_text is None and types and not any(fits(value, kind) for kind in types - {"string"}):
        return text if "string" in types else value
    return value
