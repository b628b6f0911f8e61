"""Standalone: the role of a process that serves alone. It talks to people, to systemd and to the file itself."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Coroutine, Iterable

from gateway import adapters
from gateway.config import Config
from gateway.server import run
from gateway.server.probe import unreachable
from gateway.server.reloading import Reloading, follow
from gateway.server.service_notify import notify, watchdog_interval
from gateway.server.state import GatewayState
from gateway.server.stopping import Signals, log
from gateway.server.tls import tls_context

Announce = Callable[[int, set[str] | None], None]
"""Called with (port, None) as soon as the gateway listens, then with (port, unreachable providers)."""


class Standalone:
    """A Role (run.py)."""

    hears_all = True

    def __init__(self, config: Config, reloading: Reloading | None, announce: Announce, drain_seconds: float) -> None:
        """``reloading`` is None where there is no file."""
        self._config = config
        self._reloading = reloading
        self._announce = announce
        self._drain_seconds = drain_seconds
        self._port = 0

    def listening(self, port: int) -> None:
        self._port = port
        self._announce(port, None)
        notify("READY=1")

    def beside(self, state: GatewayState, signals: Signals) -> Iterable[Coroutine[object, object, None]]:
        yield probe(self._config, self._port, self._announce)
        if self._reloading is not None:
            yield follow(state, self._reloading, signals.reload, run.POLL_SECONDS, notify)
        else:
            yield _nothing_to_reload(signals)
        interval = watchdog_interval(os.environ)
        if interval is not None:
            yield _feed_watchdog(interval)

    def stopping(self) -> None:
        notify("STOPPING=1", f"EXTEND_TIMEOUT_USEC={int((self._drain_seconds + 10) * 1e6)}")


async def probe(config: Config, port: int, announce: Announce) -> None:
    """What the first request would wait for, and who cannot be reached."""
    if any(
        place.base_url.startswith("https:")
        for provider in config.providers.values()
        if provider.missing_key is None
        for place in provider.endpoints or (provider,)
    ):
        await asyncio.to_thread(tls_context)
    for api in {target.api for _, route in config.named_routes for target in (*route.targets, *route.on_overflow)}:
        await asyncio.to_thread(adapters.get, api)
    announce(port, await unreachable(config.providers.values()))


async def _nothing_to_reload(signals: Signals) -> None:
    while True:
        await signals.reload.wait()
        signals.reload.clear()
        log.info("SIGHUP: there is no file to read anew in demo mode")


async def _feed_watchdog(interval: float) -> None:
    while True:
        notify("WATCHDOG=1")
        await asyncio.sleep(interval)
