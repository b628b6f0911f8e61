"""Records for the ledger, and a way to wait for what it logs."""

from __future__ import annotations

import logging
import re
import sqlite3
import threading
from contextlib import closing
from itertools import count
from pathlib import Path
from typing import Any

from gateway.ledger.record import UsageRecord

SECONDS = 20.0
"""For what should take milliseconds."""
NOON = 1_795_262_400.0
"""2026-11-22 00:00 UTC, a Sunday, and twelve hours less than that: 2026-11-21 12:00."""

_numbers = count(1)


def record(**changes: Any) -> UsageRecord:
    """One with an id of its own."""
    values: dict[str, Any] = {"time": NOON, "request_id": f"req_{next(_numbers)}", "outcome": "ok", "status": 200}
    return UsageRecord(**(values | changes))


def rows(path: Path, columns: str = "request_id") -> list[Any]:
    """What is in the file; single columns without their tuples."""
    with closing(sqlite3.connect(path)) as connection:
        found = connection.execute(f"SELECT {columns} FROM requests ORDER BY id").fetchall()
    return [row[0] if len(row) == 1 else row for row in found]


class Listener(logging.Handler):
    """Remembers what was logged, and can be waited for."""

    def __init__(self) -> None:
        super().__init__()
        self.said: list[str] = []
        self._news = threading.Condition()

    def emit(self, message: logging.LogRecord) -> None:
        with self._news:
            self.said.append(message.getMessage())
            self._news.notify_all()

    def wait_for(self, pattern: str) -> str:
        """The first line that ``pattern`` is found in."""
        with self._news:
            assert self._news.wait_for(lambda: self._found(pattern), SECONDS), self.said
        return self._found(pattern)

    def _found(self, pattern: str) -> str:
        return next((line for line in self.said if re.search(pattern, line)), "")
