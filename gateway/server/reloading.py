"""From a poll of the file to the configuration in force: what is taken over, what is refused, what is said.

Rules:
* ``look`` may take its time and is run in a thread, or in a process that serves nobody; ``take_over`` is one
  assignment for the requests to come, on the loop.
* What changed is logged after it is in force: whoever reads the line may rely on it.
* One check beyond the file's own: no reload opens to the network what would not have started so.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass

from gateway.config import Config, ConfigError
from gateway.reload import Reloader, describe_change
from gateway.server.state import GatewayState

log = logging.getLogger("gateway")

NO_TOKEN = "server.token is gone, and the gateway listens to the network: not taken over"
KEPT = "the file has mistakes; the configuration before stays in force"


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one look at the file came to."""

    config: Config | None
    """The one to take over; None: the one before stays."""
    error: str | None
    """Why the file as it stands is not in force."""
    lines: tuple[tuple[int, str], ...]
    """(level, text) for the log."""

    def log(self) -> None:
        for level, text in self.lines:
            log.log(level, "%s", text)


class Reloading:
    """Looks at the file, and remembers the configuration in force."""

    def __init__(self, reloader: Reloader, config: Config, *, loopback: bool) -> None:
        """``loopback``: only this machine can reach the gateway."""
        self.config = config
        self._reloader = reloader
        self._loopback = loopback

    def look(self, *, forced: bool) -> Outcome | None:
        """None: nothing changed. ``forced`` loads all the same, and always has something to say."""
        try:
            result = self._reloader.reload() if forced else self._reloader.poll()
        except Exception:
            # A defect must not end the watch: the next save may be the one that matters.
            log.exception("a defect of the gateway: the file was not read")
            return None
        if result is None:
            return None
        if isinstance(result, ConfigError):
            mistakes = tuple((logging.ERROR, str(mistake)) for mistake in result.mistakes)
            return Outcome(None, str(result), ((logging.ERROR, KEPT), *mistakes))
        if result.server.token is None and not self._loopback:
            return Outcome(None, NO_TOKEN, ((logging.ERROR, NO_TOKEN),))
        changes = describe_change(self.config, result) or ["no route changed"]
        lines = [(logging.INFO, f"reloaded: {line}") for line in changes]
        lines += [(logging.WARNING, warning) for warning in result.warnings]
        self.config = result
        return Outcome(result, None, tuple(lines))


def take_over(state: GatewayState, config: Config | None, error: str | None) -> None:
    """Puts ``config`` in force, if there is one, and ``error`` into /readyz. On the loop."""
    state.config_error = error
    if config is not None:
        state.config = config
        state.learned.clear()
        if state.windows is not None:
            state.windows.ask(config.table)


async def follow(
    state: GatewayState,
    reloading: Reloading,
    forced: asyncio.Event,
    poll_seconds: float,
    notify: Callable[..., None],
) -> None:
    """Follows the file, and looks at once when ``forced`` is set; never ends. ``notify``: service_notify.py."""
    while True:
        try:
            async with asyncio.timeout(poll_seconds):
                await forced.wait()
        except TimeoutError:
            pass
        by_signal = forced.is_set()
        forced.clear()
        if by_signal:
            notify("RELOADING=1", monotonic=True)
        outcome = await asyncio.to_thread(reloading.look, forced=by_signal)
        if outcome is not None:
            take_over(state, outcome.config, outcome.error)
            outcome.log()
        if by_signal:
            notify("READY=1")
