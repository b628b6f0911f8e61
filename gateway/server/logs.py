"""Logs: one line each, to stderr, without secrets.

Rules:
* Whatever is logged, no configured key or token leaves the process, and no control character forges a line.
* No request waits for its line: what is less than a warning is gathered for FLUSH_SECONDS and leaves in one
  write, in order. A warning takes what waited with it, at once.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Collection
from contextlib import nullcontext
from typing import TextIO

FORMAT = "%(asctime)s %(levelname)s %(message)s"


FLUSH_SECONDS = 0.1
"""How long a line may wait: what a killed process loses at most."""


class SafeFormatter(logging.Formatter):
    """Takes secrets and control characters out of every line."""

    def __init__(self, secrets: Callable[[], Collection[str]]) -> None:
        """``secrets`` gives the values in force."""
        super().__init__(FORMAT)
        self._secrets = secrets
        self._second = (0, "")

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
        text = super().format(record)
        for secret in sorted(self._secrets(), key=len, reverse=True):
            text = text.replace(secret, "[secret]")
        return text


class GatheringHandler(logging.StreamHandler[TextIO]):
    """Writes to stderr in gathered lines, while an event loop runs; at once where none does."""

    def __init__(self) -> None:
        super().__init__()
        self._waiting: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self._waiting.append(record)
        if record.levelno < logging.WARNING:
            if len(self._waiting) > 1:
                return
            try:
                asyncio.get_running_loop().call_later(FLUSH_SECONDS, self.flush)
            except RuntimeError:
                pass
            else:
                return
        self.flush()

    def flush(self) -> None:
        """Writes what waits."""
        with self.lock or nullcontext():
            records, self._waiting = self._waiting, []
            if not records:
                return
            try:
                self.stream.write("".join([f"{self.format(record)}\n" for record in records]))
                self.stream.flush()
            except Exception:
                self.handleError(records[-1])


def set_up(level: str, secrets: Callable[[], Collection[str]]) -> None:
    """Logging of the whole process; ``level`` as in ``logging``."""
    handler = GatheringHandler()
    handler.setFormatter(SafeFormatter(secrets))
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    # Nobody prints where a line came from; to find out takes half of what a line costs (logging HOWTO, Optimization).
    logging._srcfile = None
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
    # A broken stderr must not stop a request, nor print a traceback for each line.
    logging.raiseExceptions = False
