"""Listen, serve, stop: the life of one process that serves.

Rules:
* The port is open before anything slow is done.
* A process that serves has a role: it is alone (standalone.py), or one of several (worker.py). The role knows
  who is told what, and where a new configuration comes from.
* How it stops is a table in stopping.py.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Coroutine, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Protocol

from aiohttp import ClientSession, web

from gateway.config import Config
from gateway.server.aiohttp_build import unsupported
from gateway.server.app import build_app
from gateway.server.context_windows import ContextWindows
from gateway.server.direct_upstream import DirectUpstream
from gateway.server.http_edge import HANDLER_OPTIONS, EnvelopeRequestHandler
from gateway.server.listening_socket import share_again, steer_away
from gateway.server.memory import give_back
from gateway.server.state import GatewayState
from gateway.server.stopping import CUT_SECONDS, THREAD_NAME, Admission, Signals, drain, end_threads, hand_over
from gateway.server.upstream import new_session

log = logging.getLogger("gateway")

POLL_SECONDS = 0.5
"""How often the files of the configuration are looked at."""
BACKLOG = 1024


@dataclass(frozen=True, slots=True)
class Place:
    """Where one process listens, and how it leaves."""

    sockets: tuple[socket.socket, ...]
    """Bound to one port, or to several addresses."""
    drain_seconds: float
    """How long answers may go on after the signal to stop."""
    inherited: bool = False
    """systemd opened them, and keeps them open."""
    shared: bool = False
    """Others may listen on the port too, and take what comes."""
    steers: bool = False
    """Says itself, when it leaves, that new connections go to the others."""


class Role(Protocol):
    """What differs between a process that is alone and one of several."""

    hears_all: bool
    """SIGINT and SIGHUP are for this process, not only SIGTERM."""

    def listening(self, port: int) -> None:
        """The port is open."""

    def beside(self, state: GatewayState, signals: Signals) -> Iterable[Coroutine[object, object, None]]:
        """What runs beside the requests until the stop."""

    def stopping(self) -> None:
        """The first signal came."""


async def serve(config: Config, place: Place, role: Role) -> None:
    """Serves until a signal. Raises OSError when the port cannot be had."""
    loop = asyncio.get_running_loop()
    threads = ThreadPoolExecutor(thread_name_prefix=THREAD_NAME)
    loop.set_default_executor(threads)
    async with new_session() as session:
        state = GatewayState(config, session, direct_upstream(session))
        windows = state.windows = ContextWindows(session, state.learned.add)
        runner = web.AppRunner(
            build_app(state),
            handler_cancellation=True,
            shutdown_timeout=CUT_SECONDS,
            **HANDLER_OPTIONS,  # type: ignore[arg-type]
        )
        await runner.setup()
        server = runner.server
        assert server is not None
        admission = server.request_handler = Admission(server.request_handler)
        signals = Signals(loop, all_of_them=role.hears_all)
        listeners = [
            await loop.create_server(
                lambda: EnvelopeRequestHandler(server, loop=loop, **HANDLER_OPTIONS),  # type: ignore[arg-type]
                sock=each,
                backlog=BACKLOG,
            )
            for each in place.sockets
        ]
        if place.steers:
            share_again(place.sockets[0])
        role.listening(listeners[0].sockets[0].getsockname()[1])
        windows.ask(config.table)
        tasks = [asyncio.create_task(each) for each in (*role.beside(state, signals), give_back(state))]
        await signals.stop.wait()
        state.ready = False
        role.stopping()
        windows.stop()
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        await _leave(place, listeners, admission, server)
        await drain(state, server, place.drain_seconds)
        await runner.cleanup()
    await end_threads(threads)


async def _leave(place: Place, listeners: list[asyncio.Server], admission: Admission, server: web.Server) -> None:
    """No new connection, then no new request."""
    if place.inherited:
        _close(listeners)  # what waits is the next one's
    if place.steers:
        steer_away(place.sockets[0])
    if place.shared:
        admission.last_chance = True
        await hand_over([] if place.inherited else place.sockets, server)
    _close(listeners)
    admission.closed = True


def _close(listeners: list[asyncio.Server]) -> None:
    for listener in listeners:
        listener.close()


def direct_upstream(session: ClientSession) -> DirectUpstream | None:
    """None, with a warning, where this aiohttp does not allow it."""
    lacking = unsupported()
    if lacking is not None:
        log.warning("server.relay: direct does not work with this aiohttp (%s); its slower client is used", lacking)
        return None
    return DirectUpstream(session)
