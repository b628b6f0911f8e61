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
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from gateway.access.key_ring import KeyRing
from gateway.config import Config, ConfigError
from gateway.config.mistakes import MOST_SHOWN
from gateway.file_watch import Loaded, Watch
from gateway.reload import KeyReloader, Reloader, describe_change, describe_key_change
from gateway.server.state import GatewayState

log = logging.getLogger("gateway")

NO_TOKEN = "server.token is gone, and the gateway listens to the network: not taken over"
KEPT = "the file has mistakes; the configuration before stays in force"
KEYS_KEPT = "the key file has mistakes; the keys before stay in force"


@dataclass(frozen=True, slots=True)
class News:
    """What a look at the files came to."""

    config: Config | None = None
    """The one to take over; None: the one before stays."""
    error: str | None = None
    """Why providers.yaml as it stands is not in force."""
    keys: KeyRing | None = None
    """As ``config``, for the clients' keys."""
    keys_error: str | None = None
    """Why the key file as it stands is not in force."""
    lines: tuple[tuple[int, str], ...] = ()
    """(level, text) for the log."""

    def log(self) -> None:
        for level, text in self.lines:
            log.log(level, "%s", text)


class Reloading:
    """Looks at the files, and remembers what is in force."""

    def __init__(
        self, reloader: Reloader, config: Config, keys_reloader: KeyReloader, keys: KeyRing, *, loopback: bool
    ) -> None:
        """``loopback``: only this machine can reach the gateway."""
        self.config = config
        self.keys = keys
        self._reloader = reloader
        self._keys_reloader = keys_reloader
        self._error: str | None = None
        self._keys_error: str | None = None
        self._loopback = loopback

    def look(self, *, forced: bool) -> News | None:
        """None: nothing changed. ``forced`` loads all the same, and always has something to say."""
        # The keys first: whether a token is needed depends on them.
        keys = self._look_at(self._keys_reloader, forced)
        config = self._look_at(self._reloader, forced)
        if keys is None and config is None:
            return None
        lines: list[tuple[int, str]] = []
        new_keys = self._take_keys(keys, lines) if keys is not None else None
        new_config = self._take_config(config, lines) if config is not None else None
        return News(new_config, self._error, new_keys, self._keys_error, tuple(lines))

    def _look_at(self, watch: Watch[Loaded], forced: bool) -> Loaded | ConfigError | None:
        try:
            return watch.reload() if forced else watch.poll()
        except Exception:
            # A defect must not end the watch: the next save may be the one that matters.
            log.exception("a defect of the gateway: %s was not read", watch.path)
            return None

    def _take_config(self, result: Config | ConfigError, lines: list[tuple[int, str]]) -> Config | None:
        if isinstance(result, ConfigError):
            self._error = str(result)
            lines += [(logging.ERROR, KEPT), *((logging.ERROR, str(mistake)) for mistake in result.mistakes)]
            return None
        if result.server.token is None and not self.keys and not self._loopback:
            self._error = NO_TOKEN
            lines.append((logging.ERROR, NO_TOKEN))
            return None
        changes = describe_change(self.config, result) or ["no route changed"]
        lines += _told(changes)
        lines += [(logging.WARNING, warning) for warning in result.warnings]
        self._error = None
        self.config = result
        return result

    def _take_keys(self, result: KeyRing | ConfigError, lines: list[tuple[int, str]]) -> KeyRing | None:
        if isinstance(result, ConfigError):
            self._keys_error = str(result)
            lines += [(logging.ERROR, KEYS_KEPT), *((logging.ERROR, str(mistake)) for mistake in result.mistakes)]
            return None
        lines += _told(describe_key_change(self.keys, result))
        lines += [(logging.WARNING, warning) for warning in result.warnings]
        self._keys_error = None
        self.keys = result
        return result


def _told(changes: Sequence[str]) -> list[tuple[int, str]]:
    """The lines of the log; the first MOST_SHOWN, and how many more."""
    more = len(changes) - MOST_SHOWN
    rest = [f"{more:,} changes more"] if more > 0 else []
    return [(logging.INFO, f"reloaded: {line}") for line in (*changes[:MOST_SHOWN], *rest)]


def take_over(state: GatewayState, news: News) -> None:
    """Puts ``news`` in force, and what is wrong into /readyz. On the loop."""
    state.config_error, state.keys_error = news.error, news.keys_error
    if news.keys is not None:
        state.keys = news.keys
    if news.config is not None:
        state.config = news.config
        state.learned.clear()
        if state.windows is not None:
            state.windows.ask(*news.config.tables)


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
        news = await asyncio.to_thread(reloading.look, forced=by_signal)
        if news is not None:
            take_over(state, news)
            news.log()
        if by_signal:
            notify("READY=1")
