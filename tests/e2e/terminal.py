"""A terminal for tests: a pseudo-terminal, and a screen that understands what full-screen programs send.

Rules:
* Whoever waits, waits for something on the screen, never for time to pass.
* Only what Claude Code uses is understood: cursor movement, erasing, scrolling. Colours and modes are skipped.
"""

from __future__ import annotations

import codecs
import fcntl
import os
import pty
import re
import select
import struct
import subprocess
import termios
import time
import unicodedata
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

WAIT_SECONDS = 60
_SEQUENCE = re.compile(
    r"\x1b\[(?P<params>[0-9:;<=>?]*)[ !\"#$%&'()*+,\-./]*(?P<final>[@-~])"
    r"|\x1b[\]PX^_].*?(?:\x07|\x1b\\)"
    r"|\x1b[ #%()*+\-./].|\x1b(?P<single>[^\[\]PX^_ #%()*+\-./])",
    re.DOTALL,
)


class Screen:
    """Rows and columns of characters, and the lines that scrolled off the top."""

    def __init__(self, rows: int, columns: int) -> None:
        self.rows, self.columns = rows, columns
        self.row = self.column = 0
        self.scrolled: list[str] = []
        self._cells = [[" "] * columns for _ in range(rows)]
        self._saved = (0, 0)
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._pending = ""

    def text(self) -> str:
        """The screen's lines, without trailing spaces."""
        return "\n".join("".join(row).rstrip() for row in self._cells)

    def everything(self) -> str:
        """What scrolled off, and the screen."""
        return "\n".join([*self.scrolled, self.text()])

    def feed(self, data: bytes) -> None:
        text = self._pending + self._decoder.decode(data)
        self._pending = ""
        position = 0
        while position < len(text):
            if text[position] == "\x1b":
                match = _SEQUENCE.match(text, position)
                if match is None:
                    self._pending = text[position:]
                    return
                self._sequence(match)
                position = match.end()
            else:
                self._character(text[position])
                position += 1

    def _character(self, character: str) -> None:
        if character == "\r":
            self.column = 0
        elif character == "\n":
            self._down()
        elif character == "\b":
            self.column = max(0, self.column - 1)
        elif character == "\t":
            self.column = min(self.columns - 1, self.column // 8 * 8 + 8)
        elif character >= " " and not unicodedata.combining(character):
            width = 2 if unicodedata.east_asian_width(character) in "WF" else 1
            if self.column + width > self.columns:
                self.column = 0
                self._down()
            self._cells[self.row][self.column : self.column + width] = [character, ""][:width]
            self.column += width

    def _down(self) -> None:
        if self.row < self.rows - 1:
            self.row += 1
            return
        self.scrolled.append("".join(self._cells.pop(0)).rstrip())
        self._cells.append([" "] * self.columns)

    def _sequence(self, match: re.Match[str]) -> None:
        single, final, params = match["single"], match["final"], match["params"] or ""
        if single == "7":
            self._saved = (self.row, self.column)
        elif single == "8":
            self.row, self.column = self._saved
        if final is None or params[:1] in {"?", ">", "<", "="}:
            return
        numbers = [int(item) if item.isdigit() else 0 for item in params.split(";")]
        move = _MOVES.get(final)
        if move is not None:
            down, right = move
            count = max(1, numbers[0])
            self._go(self.row + down * count, self.column + right * count)
        elif final in "EF":
            self._go(self.row + max(1, numbers[0]) * (1 if final == "E" else -1), 0)
        elif final == "G":
            self._go(self.row, max(1, numbers[0]) - 1)
        elif final == "d":
            self._go(max(1, numbers[0]) - 1, self.column)
        elif final in "Hf":
            self._go(max(1, numbers[0]) - 1, max(1, numbers[1] if len(numbers) > 1 else 1) - 1)
        elif final in "JK":
            self._erase(final, numbers[0])

    def _go(self, row: int, column: int) -> None:
        self.row = min(max(row, 0), self.rows - 1)
        self.column = min(max(column, 0), self.columns - 1)

    def _erase(self, final: str, mode: int) -> None:
        """``K``: within the line; ``J``: within the screen. 0: to the end, 1: from the start, 2: all."""
        start = 0 if mode else self.column
        end = self.column + 1 if mode == 1 else self.columns
        self._cells[self.row][start:end] = [" "] * (end - start)
        if final == "J":
            first, last = {0: (self.row + 1, self.rows), 1: (0, self.row)}.get(mode, (0, self.rows))
            for row in range(first, last):
                self._cells[row] = [" "] * self.columns
            if mode == 3:
                self.scrolled.clear()


_MOVES: Mapping[str, tuple[int, int]] = {"A": (-1, 0), "B": (1, 0), "C": (0, 1), "D": (0, -1)}


class Terminal:
    """A program in a pseudo-terminal of its own."""

    def __init__(
        self,
        command: Sequence[str],
        *,
        folder: Path,
        environment: Mapping[str, str],
        rows: int = 60,
        columns: int = 120,
    ) -> None:
        self.screen = Screen(rows, columns)
        self._master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
        self.process = subprocess.Popen(
            command, cwd=folder, env=environment, stdin=slave, stdout=slave, stderr=slave, start_new_session=True
        )
        os.close(slave)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        os.close(self._master)

    def send(self, text: str) -> None:
        os.write(self._master, text.encode())

    def wait_for(self, what: str, *, absent: bool = False, seconds: float = WAIT_SECONDS) -> None:
        """Returns once ``what`` is on the screen (or no longer is). Raises TimeoutError with the screen."""
        until = time.monotonic() + seconds
        while (what in self.screen.text()) == absent:
            readable, _, _ = select.select([self._master], [], [], max(0.0, until - time.monotonic()))
            try:
                data = os.read(self._master, 65536) if readable else b""
            except OSError:
                data = b""
            if not data:
                raise TimeoutError(f"{'still' if absent else 'not'} on the screen: {what}\n{self.screen.everything()}")
            self.screen.feed(data)

    def confirm(self, question: str) -> None:
        """Waits for a question and presses Enter until it is gone: a dialog ignores keys while it is opening."""
        self.wait_for(question)
        for _ in range(WAIT_SECONDS):
            self.send("\r")
            try:
                return self.wait_for(question, absent=True, seconds=1)
            except TimeoutError:
                continue
        raise TimeoutError(f"no answer was taken: {question}\n{self.screen.everything()}")
