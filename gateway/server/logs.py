"""Logs: one line each, to stderr, without secrets.

Rule: whatever is logged, no configured key or token leaves the process, and no control character forges a line.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection

FORMAT = "%(asctime)s %(levelname)s %(message)s"


class SafeFormatter(logging.Formatter):
    """Takes secrets and control characters out of every line."""

    def __init__(self, secrets: Callable[[], Collection[str]]) -> None:
        """``secrets`` gives the values in force."""
        super().__init__(FORMAT)
        self._secrets = secrets

    def formatMessage(self, record: logging.LogRecord) -> str:
        """One line, whatever a client or an upstream put into it; a traceback follows it on lines of its own."""
        text = super().formatMessage(record)
        return text if text.isprintable() else "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)

    def format(self, record: logging.LogRecord) -> str:
        text = super().format(record)
        for secret in sorted(self._secrets(), key=len, reverse=True):
            text = text.replace(secret, "[secret]")
        return text


def set_up(level: str, secrets: Callable[[], Collection[str]]) -> None:
    """Logging of the whole process; ``level`` as in ``logging``."""
    handler = logging.StreamHandler()
    handler.setFormatter(SafeFormatter(secrets))
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    # A broken stderr must not stop a request, nor print a traceback for each line.
    logging.raiseExceptions = False
