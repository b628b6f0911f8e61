"""NDJSONDecoder: bytes of newline-delimited JSON in, one event for each line out.

Rules:
* LF ends a line, and a CR before it belongs to the end. Blank lines are skipped; so is one leading BOM.
* Bytes are split before anything is decoded, so U+2028 or half a character never ends a line.
* A line without its end is kept as a list of pieces and joined once, so cost stays linear. ``close``
  hands it out as it is: only a parser can tell a whole last line from half of one.
* Bounded: a line over ``max_line`` bytes raises UpstreamProtocolError.
"""

from __future__ import annotations

from gateway.errors import UpstreamProtocolError
from gateway.wire.sse import MAX_EVENT_BYTES, Event

_BOM = b"\xef\xbb\xbf"
_BLANKS = b" \t\r"


class NDJSONDecoder:
    """Splits one stream of lines into events without a name; one object per stream."""

    __slots__ = ("_head", "_max", "_pieces", "_size")

    def __init__(self, max_line: int = MAX_EVENT_BYTES) -> None:
        self._max = max_line
        self._head: bytes | None = b""
        self._pieces: list[bytes] = []
        self._size = 0

    def feed(self, data: bytes) -> list[Event]:
        """The lines completed by ``data``. Raises UpstreamProtocolError when one grows too large."""
        if self._head is not None:
            data = self._without_bom(data)
        if not data:
            return []
        lines = data.split(b"\n")
        rest = lines.pop()
        if lines and self._pieces:
            lines[0] = b"".join([*self._pieces, lines[0]])
            self._pieces.clear()
            self._size = 0
        events: list[Event] = []
        for line in lines:
            if len(line) > self._max:
                raise self._too_long()
            line = line.strip(_BLANKS)
            if line:
                events.append((None, line))
        if rest:
            self._pieces.append(rest)
            self._size += len(rest)
            if self._size > self._max:
                raise self._too_long()
        return events

    def close(self) -> list[Event]:
        """The line that the end of the stream left unterminated, if any."""
        line = ((self._head or b"") + b"".join(self._pieces)).strip(_BLANKS)
        self._pieces.clear()
        return [(None, line)] if line else []

    def _without_bom(self, data: bytes) -> bytes:
        head = (self._head or b"") + data
        if len(head) < len(_BOM) and _BOM.startswith(head):
            self._head = head
            return b""
        self._head = None
        return head.removeprefix(_BOM)

    def _too_long(self) -> UpstreamProtocolError:
        return UpstreamProtocolError(f"the upstream sent a line of more than {self._max} bytes")
