"""AnswerText: the text of one answer, on its way from a translator to the writer.

Rules:
* In this order: reasoning between tags is taken out, leaked tool calls are healed, and what is left ends at
  the first stop sequence.
* Text that may be the beginning of any of these waits until it is certain; everything before it leaves at once.
* Reasoning is signed before anything else follows it.
"""

from __future__ import annotations

from collections.abc import Sequence

from gateway.translate.leaked_calls import LeakedCalls, Piece
from gateway.translate.stop_sequences import StopSequences
from gateway.translate.stream_reader import StreamReader
from gateway.translate.think_tags import ThinkTags, may_open
from gateway.translate.tool_calls import ToolCalls
from gateway.translate.upstream_errors import ErrorContext
from gateway.translate.usage import Usage
from gateway.translate.writer import MessageStreamWriter


class AnswerText(StreamReader):
    """Base of the translators of answers whose text may hold more than text."""

    __slots__ = (
        "_calls",
        "_context",
        "_leaked",
        "_met_stop",
        "_plain",
        "_stops",
        "_tags",
        "_tags_over",
        "_unsigned",
        "_waiting",
        "_writer",
    )

    def __init__(
        self,
        writer: MessageStreamWriter,
        calls: ToolCalls,
        context: ErrorContext,
        *,
        think_tags: bool,
        stop_sequences: StopSequences | None,
        leaked_calls: LeakedCalls | None,
    ) -> None:
        """``stop_sequences``: None where the client asked for none."""
        super().__init__(context.provider, writer.out)
        self._writer = writer
        self._calls = calls
        self._context = context
        self._tags: ThinkTags | None = None
        self._tags_over = not think_tags
        """Whatever comes is no reasoning between tags."""
        self._leaked = leaked_calls
        self._stops = stop_sequences
        self._met_stop: str | None = None
        """The stop sequence that was met here."""
        self._unsigned = False
        """Reasoning waits for a signature."""
        self._plain = False
        """Nothing is left to be done about ``_content`` but to write it."""
        self._waiting = False
        """Some text may wait for what follows it."""

    def usage_so_far(self) -> Usage:
        """What an answer that ends here has cost."""
        return self._writer.usage_so_far if self.usage.estimated else self.usage

    def keep_alive(self) -> bytes:
        """A whole event that adds nothing to the answer."""
        if not self.complete:
            self._writer.keep_alive()
        return self._take()

    # -- for subclasses --------------------------------------------------------------------------------

    def _think_in_tags(self, text: str) -> None:
        """Reasoning that stood between tags."""
        raise NotImplementedError

    def _sign(self) -> None:
        """Closes a run of reasoning, if there is one."""
        raise NotImplementedError

    def _stop(self) -> None:
        """A stop sequence was met: nothing more is wanted."""
        raise NotImplementedError

    # -- text ------------------------------------------------------------------------------------------

    @property
    def _gaps(self) -> list[str] | None:
        """The blanks around the tags, once some were found."""
        return self._tags.gaps if self._tags is not None and self._tags.found else None

    def _content(self, text: str) -> None:
        """Text that may begin with reasoning between tags."""
        if not self._tags_over and (self._tags is not None or may_open(text)):
            if self._tags is None:
                self._tags = ThinkTags()
            self._waiting = True
            self._tagged(self._tags.feed(text))
            self._tags_over = self._tags.over
        else:
            self._tags_over = True
            self._text(text)
            self._plain = not (self._unsigned or self._leaked or (self._stops is not None and self._stops.cuts))

    def _reasoned(self) -> None:
        """Reasoning came that nobody signed yet."""
        self._unsigned = True
        self._plain = False

    def _text(self, text: str) -> None:
        """Text without such tags."""
        if self._leaked is not None and not self._leaked.is_plain(text):
            self._waiting = True
            self._pieces(self._leaked.feed(text))
        elif self._stops is not None and self._stops.cuts:
            self._cut(self._stops, text)
        else:
            self._write(text)

    def _flush(self) -> None:
        """Something else follows: what waited for a possible tag, call or stop sequence is text after all."""
        if not self._waiting:
            return
        if self._tags is not None:
            self._tagged(self._tags.close())
        if self._leaked is not None:
            self._pieces(self._leaked.close())
        if self._stops is not None:
            self._write(self._stops.close())
        self._waiting = False

    def _tagged(self, pieces: Sequence[tuple[str, str]]) -> None:
        for kind, piece in pieces:
            if kind == "thinking":
                self._think_in_tags(piece)
            else:
                self._text(piece)

    def _pieces(self, pieces: list[Piece]) -> None:
        for piece in pieces:
            if self._met_stop is not None:
                return
            if piece[0] != "text":
                self._sign()
                self._calls.whole(piece[1], piece[2])
            elif self._stops is not None:
                self._cut(self._stops, piece[1])
            else:
                self._write(piece[1])

    def _cut(self, stops: StopSequences, text: str) -> None:
        self._waiting = True
        text, stopped = stops.feed(text)
        self._write(text)
        if stopped is not None:
            self._met_stop = stopped
            self._stop()

    def _write(self, text: str) -> None:
        if self._unsigned and text.strip():
            self._sign()
        self._writer.text(text)
