"""SSEDecoder: bytes of an event stream in, events out.

Rules (WHATWG HTML, section 9.2.6, and what upstreams really send):
* CR, LF and CRLF end a line, also when a read splits a CRLF; one leading BOM is skipped.
* Bytes are split before anything is decoded, so U+2028 or half a character never ends a line.
* Comments, ``id`` and ``retry`` are skipped; several ``data`` lines join with LF; one optional space
  follows the colon.
* Two leniencies: a field named ``error`` (old llama.cpp) is an event ``error`` with that data, and a
  bare line that opens with ``{`` (an error that a proxy wrote into the stream) is data.
* A line without its end is kept as a list of pieces and joined once, so cost stays linear.
* Bounded: an event over ``max_event`` bytes raises UpstreamProtocolError.
"""

from __future__ import annotations

import re

from gateway.errors import UpstreamProtocolError

MAX_EVENT_BYTES = 4 * 1024 * 1024
"""Far above any real event; aiohttp's own line reader fails at 128 KiB (reliability.md)."""

_BOM = b"\xef\xbb\xbf"
_CR, _LF = b"\r\n"  # as numbers, which bytes are searched for fastest

_EVENTS = re.compile(rb"(event:[^\n]*\n)?data: ([^\n]*)\n\n|(.+)", re.DOTALL)
"""One usual event after another: its name's line, if it has one, and its one line of data. Group 3: all that follows
the last of them, from the first other line on."""

Event = tuple[str | None, bytes]
"""(name or None, data)"""


class SSEDecoder:
    """Splits one event stream; one object per stream."""

    __slots__ = ("_data", "_event", "_head", "_max", "_name", "_named", "_pieces", "_size", "_skip_lf")

    def __init__(self, max_event: int = MAX_EVENT_BYTES) -> None:
        self._max = max_event
        self._head: bytes | None = b""
        self._skip_lf = False
        self._pieces: list[bytes] = []
        self._size = 0
        self._event: str | None = None
        self._data: list[bytes] = []
        self._named, self._name = b"", ""
        """The last line that named an event, and the name: most events are named like the one before."""

    def feed(self, data: bytes) -> list[Event]:
        """The events completed by ``data``. Raises UpstreamProtocolError when one grows too large."""
        if self._head is not None or self._skip_lf:
            data = self._after_last(data)
        plain = _CR not in data
        if plain and _LF not in data:
            if data:
                self._keep(data)
            return []
        if self._pieces:
            self._size -= sum(map(len, self._pieces))
            data = b"".join([*self._pieces, data])
            self._pieces.clear()
        events: list[Event] = []
        if not plain or len(data) > self._max:  # what is shorter than the limit holds no event beyond it
            self._lines(data, events)
            return events
        if self._data or self._event is not None:
            begun, blank, data = data.partition(b"\n\n")
            self._lines(begun + blank, events)
        for named, payload, rest in _EVENTS.findall(data):
            if named:
                if named != self._named:
                    self._named, self._name = named, _name(named)
                events.append((self._name, payload))
            elif rest:
                self._lines(rest, events)
            else:
                events.append((None, payload))
        return events

    def _lines(self, data: bytes, events: list[Event]) -> None:
        """Bytes whose lines may end in any way, and hold anything."""
        lines = data.splitlines()
        rest = b"" if data[-1] in (_CR, _LF) else lines.pop()
        self._skip_lf = data[-1] == _CR
        for line in lines:
            self._line(line, events)
        if rest:
            self._keep(rest)

    def close(self) -> list[Event]:
        """The event that the end of the stream left unterminated, if any."""
        line = (self._head or b"") + b"".join(self._pieces)
        self._pieces.clear()
        events: list[Event] = []
        if line:
            self._line(line, events)
        self._line(b"", events)
        return events

    def _after_last(self, data: bytes) -> bytes:
        """``data`` without what belongs to the beginning of the stream, or to the line end before it."""
        if self._head is not None:
            head = self._head + data
            if len(head) < len(_BOM) and _BOM.startswith(head):
                self._head = head
                return b""
            self._head = None
            data = head.removeprefix(_BOM)
        if self._skip_lf and data:
            self._skip_lf = False
            data = data.removeprefix(b"\n")
        return data

    def _keep(self, piece: bytes) -> None:
        self._pieces.append(piece)
        self._grow(len(piece))

    def _grow(self, size: int) -> None:
        self._size += size
        if self._size > self._max:
            raise UpstreamProtocolError(f"the upstream sent an event of more than {self._max} bytes")

    def _line(self, line: bytes, events: list[Event]) -> None:
        if line.startswith(b"data:"):
            value = line[6:] if line[5:6] == b" " else line[5:]
            self._data.append(value)
            self._grow(len(line))
        elif not line:
            if self._data:
                events.append((self._event, self._data[0] if len(self._data) == 1 else b"\n".join(self._data)))
                self._data = []
            self._event = None
            self._size = 0
        elif line.startswith(b"event:"):
            self._event = _name(line)
        elif line.startswith(b"error:"):
            self._event = "error"
            self._data.append(line[6:].strip())
        elif line.startswith(b"{"):
            self._data.append(line)
            self._grow(len(line))


def _name(line: bytes) -> str:
    return line[6:].strip().decode("utf-8", "replace")


def encode_event(name: str, data: bytes) -> bytes:
    """One event as bytes."""
    return b"event: %b\ndata: %b\n\n" % (name.encode(), data)
