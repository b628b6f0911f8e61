"""AnswerText: the text of one answer, on its way from a translator to the writer.

Rules:
* In this order: reasoning between tags is taken out, leaked tool calls are healed, and what is left ends at
  the first stop sequence.
* Text that may be the beginning of any of these waits until it is certain; everything before it leaves at once.
* Reasoning is signed before anything else follows it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from gateway.translate.leaked_calls import LeakedCalls, Piece
from gateway.translate.stop_sequences import StopSequences
from gateway.translate.think_tags import ThinkTags
from gateway.translate.tool_calls import ToolCalls
from gateway.translate.writer import MessageStreamWriter


class AnswerText:
    """One object per stream."""

    def __init__(
        self,
        writer: MessageStreamWriter,
        calls: ToolCalls,
        *,
        think_tags: bool,
        leaked_calls: LeakedCalls | None,
        stop_sequences: StopSequences,
        on_thinking: Callable[[str], None],
        on_sign: Callable[[], None],
        on_stop: Callable[[], None],
    ) -> None:
        """``on_thinking`` takes reasoning that stood between tags, ``on_sign`` closes a run of reasoning,
        ``on_stop`` is called when a stop sequence was met."""
        self.stop_sequence: str | None = None
        """The stop sequence that was met here."""
        self._writer = writer
        self._calls = calls
        self._tags = ThinkTags() if think_tags else None
        self._leaked = leaked_calls
        self._stops = stop_sequences
        self._on_thinking = on_thinking
        self._on_sign = on_sign
        self._on_stop = on_stop

    @property
    def gaps(self) -> list[str] | None:
        """The blanks around the tags, once some were found."""
        return self._tags.gaps if self._tags is not None and self._tags.found else None

    def is_asked(self, sequence: object) -> bool:
        """Whether the client asked for this stop sequence."""
        return isinstance(sequence, str) and sequence in self._stops.asked

    def content(self, text: str) -> None:
        """Text that may begin with reasoning between tags."""
        if self._tags is None:
            self.text(text)
        else:
            self._tagged(self._tags.feed(text))

    def text(self, text: str) -> None:
        """Text without such tags."""
        if self._leaked is None:
            self._visible(text)
        else:
            self._pieces(self._leaked.feed(text))

    def flush(self) -> None:
        """Something else follows: what waited for a possible tag, call or stop sequence is text after all."""
        if self._tags is not None:
            self._tagged(self._tags.close())
        if self._leaked is not None:
            self._pieces(self._leaked.close())
        self._write(self._stops.close())

    def _tagged(self, pieces: Sequence[tuple[str, str]]) -> None:
        for kind, piece in pieces:
            if kind == "thinking":
                self._on_thinking(piece)
            else:
                self.text(piece)

    def _pieces(self, pieces: list[Piece]) -> None:
        for piece in pieces:
            if self.stop_sequence is not None:
                return
            if piece[0] == "text":
                self._visible(piece[1])
            else:
                self._on_sign()
                self._calls.whole(piece[1], piece[2])

    def _visible(self, text: str) -> None:
        text, stopped = self._stops.feed(text)
        self._write(text)
        if stopped is not None:
            self.stop_sequence = stopped
            self._on_stop()

    def _write(self, text: str) -> None:
        if text.strip():
            self._on_sign()
        self._writer.text(text)
