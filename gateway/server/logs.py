"""Logs: one line each, to stderr, without secrets.

Rules:
* Whatever is logged, no configured key or token leaves the process, and no control character forges a line.
* No request waits for its line: what is less than a warning is gathered for FLUSH_SECONDS and leaves in one
  write, in order. A warning takes what waited with it, at once.
* Nobody waits for a reader: what a full pipe does not take waits in a bounded buffer, and beyond that it is lost
  and counted.
* Several processes may write to one pipe: what they write are whole lines, in pieces that the system keeps together.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import select
import socket
import stat
import sys
import time
from collections.abc import Callable, Collection
from contextlib import nullcontext, suppress
from datetime import UTC, datetime
from functools import partial
from typing import Any, TextIO

from gateway.server.redaction import redact

FORMAT = "%(asctime)s %(levelname)s %(message)s"
LOST = "%d lines of this log were lost: they could not be written"

FLUSH_SECONDS = 0.1
"""How long a line may wait: what a killed process loses at most."""
SOON_SECONDS = 0.005
"""How long a reader that keeps reading gets to make room."""
MAX_WAITING_BYTES = 1 << 20
"""What waits for a reader."""
LAST_SECONDS = 0.5
"""What a slow reader gets at the end of the process."""
PIECE_BYTES = 4096
"""PIPE_BUF of Linux: a write of so much to a pipe is never mixed with another's, and done completely or not at all."""
MAX_VALUE_CHARACTERS = 2000
"""Of one value in a JSON line; PIECE_BYTES holds the line whole."""
_CUT = b" ... (cut: the line is too long)\n"


class SafeFormatter(logging.Formatter):
    """Takes secrets and control characters out of every line."""

    def __init__(self, secrets: Callable[[], Collection[str]]) -> None:
        """``secrets`` gives the values in force."""
        super().__init__(FORMAT)
        self._secrets = secrets
        self._second = (0, "")

    def anew(self, secrets: Callable[[], Collection[str]]) -> SafeFormatter:
        """The same kind, for another process."""
        return type(self)(secrets)

    def formatTime(self, record: logging.LogRecord, datefmt: str | None = None) -> str:
        """As the base class; a second is spelled once."""
        second = int(record.created)
        if second != self._second[0]:
            self._second = (second, time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(second)))
        return f"{self._second[1]},{record.msecs:03.0f}"

    def formatMessage(self, record: logging.LogRecord) -> str:
        """One line, whatever a client or an upstream put into it; a traceback follows it on lines of its own."""
        text = super().formatMessage(record)
        return text if text.isprintable() else "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)

    def format(self, record: logging.LogRecord) -> str:
        return redact(super().format(record), self._secrets())


class JsonFormatter(SafeFormatter):
    """One JSON object a line, ASCII alone; what is logged as an object with ``fields`` says those."""

    def format(self, record: logging.LogRecord) -> str:
        fields: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
        }
        if hasattr(record.msg, "fields"):
            fields |= record.msg.fields()
        else:
            fields["message"] = record.getMessage()
        if record.exc_info:
            fields["traceback"] = self.formatException(record.exc_info)
        secrets = self._secrets()
        for name, value in fields.items():
            if isinstance(value, str):
                fields[name] = shorten(redact(value, secrets))
        return json.dumps(fields, separators=(",", ":"))


def shorten(text: str) -> str:
    """``text``, or its two ends where it is too long for a line that collectors take whole."""
    if len(text) <= MAX_VALUE_CHARACTERS:
        return text
    half = MAX_VALUE_CHARACTERS // 2
    return f"{text[:half]} … {text[-half:]}"


class Outlet:
    """The way out for whole lines; nobody waits for a reader.

    Of a pipe that is full, the lines of MAX_WAITING_BYTES wait; those after them are lost and counted, until there is
    room again. A file and a terminal are written to directly.
    """

    def __init__(self, stream: TextIO, notice: Callable[[int], str]) -> None:
        """A ``stream`` without a descriptor is written to as text; ``notice`` words how many lines were lost."""
        self._stream = stream
        self._notice = notice
        self._encoding = stream.encoding if isinstance(getattr(stream, "encoding", None), str) else "utf-8"
        self._in_pieces = True
        self._waiting = bytearray()
        self._lost = 0
        self._owner = os.getpid()
        self.try_again: float | None = None
        """Something waits, and in so many seconds another ``push`` may help."""
        self._socket: socket.socket | None = None
        self._pipe: int | None = None
        try:
            self._descriptor = stream.fileno()
            mode = os.fstat(self._descriptor).st_mode
            stream.flush()
        except (AttributeError, OSError, ValueError):
            self._in_pieces, self._write = False, self._write_text
            return
        if stat.S_ISSOCK(mode):
            self._socket = socket.socket(fileno=os.dup(self._descriptor))
            self._write = self._send
        elif stat.S_ISFIFO(mode):
            self._write = self._write_where_there_is_room
            with suppress(OSError):
                # O_NONBLOCK on the descriptor itself would be one for all who share it: a shell, or our own stdout.
                self._pipe = os.open(f"/proc/self/fd/{self._descriptor}", os.O_WRONLY | os.O_NONBLOCK)
                self._write = partial(os.write, self._pipe)
        else:
            self._in_pieces, self._write = False, partial(os.write, self._descriptor)

    def put(self, text: str) -> None:
        """Takes whole lines, and writes what it can."""
        if self._owner != os.getpid():
            # We were forked: what waits is the other process's to say.
            self._owner, self._lost = os.getpid(), 0
            self._waiting.clear()
        data = text.encode(self._encoding, "backslashreplace")
        if self._lost:
            self.push()
        if self._lost:
            self._lost += data.count(b"\n")
            return
        self._waiting += data
        self.push()
        if len(self._waiting) > MAX_WAITING_BYTES:
            self._lose(self._waiting.rfind(b"\n", 0, MAX_WAITING_BYTES) + 1)

    def push(self) -> None:
        """Writes what can be written now."""
        self.try_again, again = None, FLUSH_SECONDS
        try:
            while self._waiting:
                written = self._write(bytes(self._piece() if self._in_pieces else self._waiting))
                del self._waiting[:written]
                again = SOON_SECONDS
            if self._lost:
                self._write(self._notice(self._lost).encode("ascii"))
                self._lost = 0
        except BlockingIOError:
            self.try_again = again
        except Exception:
            # The reader is gone, the disk is full, the file is closed.
            self._lose(0)

    def push_out(self, seconds: float) -> None:
        """Writes what waits; a reader has so long to make room for it. What it does not take is lost."""
        end = time.monotonic() + seconds
        self.push()
        while self._waiting and (left := end - time.monotonic()) > 0:
            self._has_room(left)
            self.push()
        self._lose(0)

    def close(self) -> None:
        """What comes later is written where that needs no wait."""
        if self._socket is not None:
            self._socket.close()
        elif self._pipe is not None:
            os.close(self._pipe)
        else:
            return
        self._socket = self._pipe = None
        self._write = self._write_where_there_is_room

    def _piece(self) -> bytearray:
        """The whole lines that one write takes without being cut into by other writers."""
        end = self._waiting.rfind(b"\n", 0, PIECE_BYTES) + 1
        if not end:
            end = self._waiting.find(b"\n") + 1
            kept = self._waiting[: PIECE_BYTES - len(_CUT)].decode(self._encoding, "ignore")
            line = kept.encode(self._encoding) + _CUT
            self._waiting[:end] = line
            end = len(line)
        return self._waiting[:end]

    def _lose(self, begin: int) -> None:
        self._lost += self._waiting.count(b"\n", begin)
        del self._waiting[begin:]

    def _has_room(self, seconds: float) -> bool:
        poll = select.poll()
        poll.register(self._descriptor, select.POLLOUT)
        return bool(poll.poll(seconds * 1000))

    def _write_where_there_is_room(self, data: bytes) -> int:
        """For a pipe that cannot be opened anew, which takes /proc. It waits only where another writes just then."""
        if not self._has_room(0):
            raise BlockingIOError
        return os.write(self._descriptor, data)

    def _send(self, data: bytes) -> int:
        assert self._socket is not None
        return self._socket.send(data, socket.MSG_DONTWAIT)

    def _write_text(self, data: bytes) -> int:
        self._stream.write(data.decode(self._encoding))
        self._stream.flush()
        return len(data)


class GatheringHandler(logging.Handler):
    """Writes to stderr in gathered lines, while an event loop runs; at once where none does."""

    def __init__(self) -> None:
        super().__init__()
        self._outlet = Outlet(sys.stderr, self._notice)
        self._waiting: list[logging.LogRecord] = []
        self._due = False
        """A timer runs."""

    def emit(self, record: logging.LogRecord) -> None:
        self._waiting.append(record)
        if record.levelno < logging.WARNING and (self._due or self._write_later()):
            return
        self._write()

    def flush(self) -> None:
        """Writes what waits, for it is the end: LAST_SECONDS at most for a reader that is slow."""
        with self.lock or nullcontext():
            self._write()
            self._outlet.push_out(LAST_SECONDS)

    def close(self) -> None:
        self.flush()
        self._outlet.close()
        super().close()

    def _write_later(self, seconds: float = FLUSH_SECONDS) -> bool:
        try:
            asyncio.get_running_loop().call_later(seconds, self._write_now)
        except RuntimeError:
            return False
        self._due = True
        return True

    def _write_now(self) -> None:
        with self.lock or nullcontext():
            self._due = False
            self._write()
            if self._outlet.try_again is not None:
                self._write_later(self._outlet.try_again)

    def _notice(self, lost: int) -> str:
        known = {"name": "gateway", "levelno": logging.WARNING, "levelname": "WARNING", "msg": LOST, "args": (lost,)}
        return f"{self.format(logging.makeLogRecord(known))}\n"

    def _write(self) -> None:
        records, self._waiting = self._waiting, []
        try:
            self._outlet.put("".join([f"{self.format(record)}\n" for record in records]))
        except Exception:
            self.handleError(records[-1])


def set_up(level: str, secrets: Callable[[], Collection[str]], *, as_json: bool = False) -> None:
    """Logging of the whole process; ``level`` as in ``logging``."""
    handler = GatheringHandler()
    handler.setFormatter((JsonFormatter if as_json else SafeFormatter)(secrets))
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    # Nobody prints where a line came from; to find out takes half of what a line costs (logging HOWTO, Optimization).
    logging._srcfile = None
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
    # A broken stderr must not stop a request, nor print a traceback for each line.
    logging.raiseExceptions = False
