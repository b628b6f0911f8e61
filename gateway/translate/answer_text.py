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

    __slots__ = (
        "_calls",
        "_leaked",
        "_on_sign",
        "_on_stop",
        "_on_thinking",
        "_plain",
        "_stops",
        "_tags",
        "_waiting",
        "_writer",
        "stop_sequence",
        "unsigned",
    )

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
        self.unsigned = False
        """Reasoning was told of (``reasoned``) that waits for a signature; who signs it puts this back."""
        self._plain = False
        """Nothing is left to be done about ``content``."""
        self._waiting = False
        """Some text may wait for what follows it."""
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
        if self._plain:
            self._writer.text(text)
            return
        if self._tags is None or self._tags.over:
            self.text(text)
            self._plain = not (self.unsigned or self._stops.cuts or self._leaked)
        else:
            self._waiting = True
            self._tagged(self._tags.feed(text))

    def reasoned(self) -> None:
        """Reasoning came that nobody signed yet."""
        self.unsigned = True
        self._plain = False

    def text(self, text: str) -> None:
        """Text without such tags."""
        if self._leaked is not None and not self._leaked.is_plain(text):
            self._waiting = True
            self._pieces(self._leaked.feed(text))
        elif self._stops.cuts:
            self._cut(text)
        else:
            self._write(text)

    def flush(self) -> None:
        """Something else follows: what waited for a possible tag, call or stop sequence is text after all."""
        if not self._waiting:
            return
        if self._tags is not None:
            self._tagged(self._tags.close())
        if self._leaked is not None:
            self._pieces(self._leaked.close())
        self._write(self._stops.close())
        self._waiting = False

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
                self._cut(piece[1])
            else:
                self._on_sign()
                self._calls.whole(piece[1], piece[2])

    def _cut(self, text: str) -> None:
        self._waiting = True
        text, stopped = self._stops.feed(text)
        self._write(text)
        if stopped is not None:
            self.stop_sequence = stopped
            self._on_stop()

    def _write(self, text: str) -> None:
        if self.unsigned and text.strip():
            self._on_sign()
        self._writer.text(text)
