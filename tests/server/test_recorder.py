"""What the access log calls things is what its page says; from outside: tests/faults/test_ledger.py."""

from __future__ import annotations

import re
from pathlib import Path

from gateway.ledger.record import UsageRecord
from gateway.server.recorder import AccessLine, AnswerLine

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "operations.md").read_text(encoding="utf-8")
SECTION = PAGE.partition("## The log\n")[2].partition("\n## ")[0]


def test_every_field_of_a_line_is_in_the_documents() -> None:
    rows = [line.split("|")[1] for line in SECTION.splitlines() if line.startswith("| `")]
    told = [name for row in rows for name in re.findall(r"`(\w+)`", row)]
    record = UsageRecord(0.0, "req_1", "ok", 200)
    assert sorted(told) == sorted(AccessLine(record, "words", "::1").fields())
    (short,) = (line for line in SECTION.splitlines() if line.startswith("Requests that ask no upstream"))
    line = AnswerLine("req_1", "GET", "/v1/models", 200, "anna", "::1")
    assert re.findall(r"`(\w+)`", short)[1:] == list(line.fields())
