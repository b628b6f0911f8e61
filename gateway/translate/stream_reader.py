"""StreamReader: what every translator of an event stream does before it understands anything.

Rules:
* The first byte that is not blank tells an event stream from JSON (an error, or a server that does not
  stream) and from HTML.
* When an error is due after events of the same read, those go first and the error comes with the next
  call; so the split of the bytes does not matter.
* Half an event at the end is a cut, not a syntax error; what stands in it goes down with the answer.
"""

from __future__ import annotations

from typing import Any, ClassVar

from gateway.errors import GatewayError, UpstreamProtocolError
from gateway.translate.usage import Usage
from gateway.wire.json_text import loads_upstream
from gateway.wire.ndjson import NDJSONDecoder
from gateway.wire.sse import SSEDecoder

MAX_BODY_BYTES = 64 * 1024 * 1024
"""The largest answer that is no event stream."""

_UNKNOWN = Usage(estimated=True)
_BOM = b"\xef\xbb\xbf"
_BLANK = b" "
"""Stands for the blanks before the first byte that is none."""


class StreamReader:
    """Base of the translators (the StreamTranslator contract of adapters/base.py)."""

    new_decoder: ClassVar[type[SSEDecoder] | type[NDJSONDecoder]] = SSEDecoder
    body_starts: ClassVar[tuple[bytes, ...]] = (b"{", b"[")
    """What an answer begins with that is one JSON value, and no stream."""

    __slots__ = (
        "_body",
        "_body_size",
        "_decoder",
        "_failure",
        "_head",
        "_out",
        "_provider",
        "_streams",
        "complete",
        "finished",
        "stop_reason",
        "usage",
    )

    def __init__(self, provider: str, out: list[bytes]) -> None:
        """``provider`` is named in messages. ``out`` is where events are put that are ready to leave."""
        self.usage = _UNKNOWN
        self.stop_reason: str | None = None
        self.finished = self.complete = False
        self._provider = provider
        self._out = out
        self._decoder = self.new_decoder()
        self._streams = False
        """It is known to be an event stream."""
        self._head = b""
        self._body: list[bytes] | None = None
        self._body_size = 0
        self._failure: GatewayError | None = None

    # -- for subclasses --------------------------------------------------------------------------------

    def _event(self, name: str | None, payload: bytes) -> None:
        """One event. Raises GatewayError."""
        raise NotImplementedError

    def _json_body(self, body: Any) -> None:
        """An answer that is one JSON value. Raises GatewayError."""
        raise NotImplementedError

    def _finish(self) -> None:
        """The upstream ended. Raises UpstreamProtocolError when that was too early."""
        raise NotImplementedError

    def _cut_short(self) -> UpstreamProtocolError:
        return UpstreamProtocolError(f"{self._provider} ended its answer early, before it was complete")

    # -- the contract ----------------------------------------------------------------------------------

    def feed(self, data: bytes) -> bytes:
        """Upstream bytes in, whole Anthropic events out."""
        if self.complete:
            if self._failure is not None:
                raise self._failure
            return b""
        try:
            if not self._streams:
                data = self._opening(data)
            for name, payload in self._decoder.feed(data):
                self._event(name, payload)
                if self.complete:  # _event says so
                    break  # type: ignore[unreachable]
        except GatewayError as error:
            return self._fail(error)
        written = b"".join(self._out)
        self._out.clear()
        return written

    def close(self) -> bytes:
        """The upstream ended: the closing events."""
        if self._failure is not None:
            raise self._failure
        try:
            if not self.complete:
                self._read_rest()
            self._finish()
        except GatewayError as error:
            self.complete = True
            self._failure = error
            raise
        return self._take()

    def usage_so_far(self) -> Usage:
        """What an answer that ends here has cost."""
        return self.usage

    def keep_alive(self) -> bytes:
        """A whole event that adds nothing; none here."""
        return b""

    def _fail(self, error: GatewayError) -> bytes:
        self.complete = True
        self._failure = error
        written = self._take()
        if not written:
            raise error
        return written

    def _take(self) -> bytes:
        written = b"".join(self._out)
        self._out.clear()
        return written

    def _opening(self, data: bytes) -> bytes:
        """What of ``data`` is for the decoder, as long as it is not known what comes."""
        if self._body is None:
            if data[:1].isalpha() and not self._head:  # the name of a field
                self._streams = True
                return data
            data = self._sniff(data)
        if self._body is None:
            return data
        self._body_size += len(data)
        if self._body_size > MAX_BODY_BYTES:
            raise UpstreamProtocolError(f"{self._provider} sent a body of more than {MAX_BODY_BYTES >> 20} MiB")
        self._body.append(data)
        return b""

    def _sniff(self, data: bytes) -> bytes:
        """Holds back a piece of a byte order mark; blanks go on, and the first other byte tells what comes."""
        held = self._head
        whole = held + data
        if _BOM.startswith(whole):
            self._head = whole
            return b""
        text = whole.removeprefix(_BOM).lstrip()
        if held != _BLANK:
            data = whole
        if not text:
            self._head = _BLANK
            return data
        if text[:1] == b"<":
            raise UpstreamProtocolError(f"{self._provider} answered with HTML instead of an event stream")
        if text[:1] in self.body_starts:
            self._body = []
            return text
        self._streams = True
        return data

    def _read_rest(self) -> None:
        if self._body is not None:
            try:
                body = loads_upstream(b"".join(self._body))
            except ValueError:
                raise self._cut_short() from None
            self._json_body(body[0] if isinstance(body, list) and body else body)
            return
        for name, payload in self._decoder.close():
            try:
                self._event(name, payload)
            except UpstreamProtocolError:
                if not self.finished:
                    raise self._cut_short() from None

    def _parse(self, payload: bytes) -> Any:
        try:
            return loads_upstream(payload)
        except ValueError:
            raise UpstreamProtocolError(f"{self._provider} sent an event that is not JSON") from None
