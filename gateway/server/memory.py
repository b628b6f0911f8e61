"""Memory given back after load.

What load leaves behind is little, but lies wherever there was room at its peak. glibc gives back a page with nothing in
it; Python an arena of 1 MiB, and of a thousand streams' arenas nearly each one holds some block that stays:

| what stays                                                        | what is done about it                     |
|-------------------------------------------------------------------|-------------------------------------------|
| holes, where bodies of some 100 KB came and went                  | malloc_trim                               |
| cycles, and CPython's own freed tuples, dicts, contexts           | gc.collect frees both                     |
| names in its cache of attributes, one for each new connection     | the cache is cleared                      |
| up to 255 freed objects of a kind, kept for the next by uvloop,   | exchanged for new ones, which Python puts |
| asyncio, aiohttp and multidict                                    | where most is in use already              |

Where the C library is another one, nothing is trimmed.
"""

from __future__ import annotations

import asyncio
import gc
import sys
from collections.abc import Callable
from functools import partial
from typing import Any

from aiohttp import http, web

from gateway.server.state import GatewayState

LOOK_SECONDS = 5.0
ROUNDS = 18
"""How often memory is given back after load fell. Connections go later than requests: those to upstreams
within 60 s, those of clients after 75 s."""
MANY = 100
"""What fewer requests at once leave behind is not scattered; ``FEW_ROUNDS`` are enough."""
FEW_ROUNDS = 2
KEPT = 256
"""At least what the longest list of freed objects holds (250 in uvloop and aiohttp, 255 in asyncio)."""


class Tide:
    """When to give memory back: while at most half as many requests run as did at the peak."""

    def __init__(self) -> None:
        self.many = False
        """The peak was of MANY requests."""
        self._peak = 0
        self._rounds = 0

    def ebbs(self, highest: int, running: int) -> bool:
        """``highest``: the most requests at once since the last look; ``running``: those of now."""
        if highest * 2 > self._peak:
            self._peak = max(self._peak, highest)
            self.many = self._peak >= MANY
            self._rounds = ROUNDS if self.many else FEW_ROUNDS
        if not self._rounds or running * 2 > self._peak:
            return False
        self._rounds -= 1
        if not self._rounds:
            self._peak = running
        return True


async def give_back(state: GatewayState) -> None:
    """Gives memory back whenever load has fallen; never ends."""
    tide = Tide()
    trim = None
    while True:
        await asyncio.sleep(LOOK_SECONDS)
        highest, state.peak_running = state.peak_running, len(state.running)
        if highest and trim is None:
            trim = trimmer()
        if tide.ebbs(highest, len(state.running)):
            if tide.many:
                await exchange_kept()
            clear_caches()
            if trim is not None:
                await asyncio.to_thread(trim, 0)


def trimmer() -> Callable[[int], int] | None:
    """glibc's malloc_trim; None where there is none."""
    import ctypes  # 0.3 MB: not for who never has a request, and before load, or it would be scattered like the rest

    try:
        trim: Callable[[int], int] = ctypes.CDLL(None).malloc_trim
    except (OSError, AttributeError, TypeError):
        return None
    return trim


async def exchange_kept() -> None:
    """The freed objects that are kept for the next, for others that lie together. Some 10 ms of CPU."""
    for make in _kept_kinds():
        try:
            make()
        except TypeError:  # another aiohttp may want other arguments; then its lists stay as they are
            continue
        old = [make() for _ in range(4 * KEPT)]  # what was kept; the rest fills gaps in arenas that are to be emptied
        new = [make() for _ in range(KEPT)]
        await asyncio.sleep(2 * _SOON)  # the loop lets go of its own
        del new  # kept from now on; there is no room for the old ones
        del old


def clear_caches() -> None:
    """What Python itself keeps: garbage in cycles, freed objects, the names of attributes that were looked for."""
    gc.collect()
    clear: Callable[[], None] = getattr(sys, "_clear_internal_caches", None) or sys._clear_type_cache
    clear()


_SOON = 0.001


def _kept_kinds() -> list[Callable[[], object]]:
    """What makes one of each kind of which many are kept."""
    loop = asyncio.get_running_loop()
    message: Any = http.RawRequestMessage
    sizes = (5, 10, 20)
    headers = [web.Response(headers={f"name-{number}": "" for number in range(size)}).headers for size in sizes]
    return [
        partial(loop.call_soon, _nothing),
        partial(loop.call_later, _SOON, _nothing),
        partial(iter, loop.create_future()),
        partial(message, "", "", None, None, (), False, None, False, False, None),
        *(each.copy for each in headers),
    ]


def _nothing() -> None:
    """What an empty handle runs."""
