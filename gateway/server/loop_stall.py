"""How long the event loop keeps everybody waiting: a timer, and how late it comes.

Rule: cheap. It looks four times a second; once a second a worker's numbers go to the board.
"""

from __future__ import annotations

import asyncio
import time

from gateway.server.metrics import Metrics

TICK_SECONDS = 0.25
TICKS_TO_PUBLISH = 4


async def watch_loop(metrics: Metrics) -> None:
    """Measures until it is cancelled."""
    ticks = 0
    due = time.monotonic()
    while True:
        due += TICK_SECONDS
        await asyncio.sleep(TICK_SECONDS)
        # Not the loop's own time: uvloop's stands still while a callback runs.
        now = time.monotonic()
        metrics.stalled(max(0.0, now - due))
        due = now
        ticks += 1
        if ticks % TICKS_TO_PUBLISH == 0:
            metrics.publish()
