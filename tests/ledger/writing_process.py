"""A process that writes to a ledger, as a worker of the gateway does. Says on stdout when it put what.

    python -m tests.ledger.writing_process FILE NAME COUNT [flush]

Puts COUNT records NAME-0, NAME-1, … with one token each, some of which have the name ``shared-…``. Then it closes the
ledger with ``flush``, just ends with ``end``, or else waits to be killed.
"""

from __future__ import annotations

import logging
import sys
import time
from pathlib import Path

from gateway.ledger.store import Ledger
from tests.ledger.records import record


def main(file: str, name: str, number: str, end: str) -> None:
    logging.basicConfig(level="INFO")
    ledger = Ledger(Path(file))
    ledger.start()
    for each in range(int(number)):
        request_id = f"shared-{each}" if each % 10 == 0 else f"{name}-{each}"
        ledger.put(record(request_id=request_id, key="k", output_tokens=1, cost=2, time=1_795_262_400.0))
        if end == "kill":
            print(request_id, time.monotonic(), flush=True)
            time.sleep(0.001)
    if end == "flush":
        ledger.close(20.0)
        print(ledger.lost, ledger.waiting, flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
