"""Memory given back after load.

Bodies of some 100 KB come and go between objects that stay; glibc keeps the holes for later. When load falls,
it is asked to hand them to the system. Where the C library is another one, nothing happens.
"""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Callable

from gateway.server.state import GatewayState

LOOK_SECONDS = 10.0
ROUNDS = 5
"""How often memory is given back after load fell: connections and their buffers go later than requests."""


def trimmer() -> Callable[[int], int] | None:
    """glibc's malloc_trim; None where there is none."""
    import ctypes  # not at the start: 0.3 MB for whoever never had load

    try:
        trim: Callable[[int], int] = ctypes.CDLL(None).malloc_trim
    except (OSError, AttributeError, TypeError):
        return None
    return trim


async def give_back(state: GatewayState) -> None:
    """Gives memory back whenever half as many requests run as did before; never ends."""
    rounds = 0
    while True:
        await asyncio.sleep(LOOK_SECONDS)
        peak, state.peak_running = state.peak_running, len(state.running)
        if peak and len(state.running) <= peak // 2:
            rounds = ROUNDS
        if rounds:
            rounds -= 1
            gc.collect()
            trim = trimmer()
            if trim is None:
                return
            await asyncio.to_thread(trim, 0)
