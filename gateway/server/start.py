"""From a command line to a running loop; what can go wrong at a start, in one line each."""

from __future__ import annotations

import asyncio
import errno
import logging
from collections.abc import Callable

from gateway.config import Config
from gateway.reload import Reloader
from gateway.server import logs
from gateway.server.http_edge import refuse_unsafe_aiohttp
from gateway.server.run import serve

Announce = Callable[[int, set[str] | None], None]
"""Called with (port, None) as soon as the gateway listens, then with (port, unreachable providers)."""


class StartError(Exception):
    """Why the gateway cannot start; one line."""


def start(
    config: Config, host: str, port: int, *, announce: Announce, reloader: Reloader | None, log_level: str
) -> None:
    """Serves until a signal. Raises StartError."""
    unsafe = refuse_unsafe_aiohttp()
    if unsafe:
        raise StartError(unsafe)
    logs.set_up(log_level, lambda: config.secrets if reloader is None else reloader.secrets)
    try:
        with asyncio.Runner(loop_factory=_loop_factory()) as runner:
            runner.run(serve(config, host, port, announce=announce, reloader=reloader))
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise StartError(f"port {port} on {host} is taken; stop what listens there, or use --port") from None
        raise StartError(f"cannot listen on {host}:{port}: {error.strerror or error}") from None
    except UnicodeError:
        raise StartError(f"cannot listen on {host}: this is no host name") from None
    except KeyboardInterrupt:
        return
    finally:
        # What waits is written now: whoever called us sees to readers that left.
        for handler in logging.getLogger().handlers:
            handler.flush()


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """uvloop where there is one: 15-30 % less CPU for a request (performance.md)."""
    try:
        import uvloop
    except ImportError:
        return None
    factory: Callable[[], asyncio.AbstractEventLoop] = uvloop.new_event_loop
    return factory
