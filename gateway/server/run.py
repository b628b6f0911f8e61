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
import time
from collections.abc import Coroutine, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from aiohttp import ClientSession, web

from gateway.access.key_ring import KeyRing
from gateway.access.limiter import Limiter
from gateway.config import Config, is_loopback
from gateway.ledger.store import Ledger, ledger_path
from gateway.server.accepting import Acceptor
from gateway.server.access import has_budgets
from gateway.server.aiohttp_build import unsupported
from gateway.server.app import build_app
from gateway.server.context_windows import ContextWindows
from gateway.server.direct_upstream import DirectUpstream
from gateway.server.host_check import HostCheck
from gateway.server.http_edge import HANDLER_OPTIONS, EnvelopeRequestHandler
from gateway.server.listening_socket import share_again, steer_away
from gateway.server.memory import give_back
from gateway.server.state import GatewayState
from gateway.server.stopping import (
    CUT_SECONDS,
    HANDOVER_SECONDS,
    THREAD_NAME,
    Admission,
    Signals,
    drain,
    end_threads,
    first_requests,
    hand_over,
)
from gateway.server.upstream import new_session

if TYPE_CHECKING:
    from gateway.access.counters import Counters
    from gateway.server.admin import AdminListener
    from gateway.server.metrics_board import Page
    from gateway.server.server_tls import ServerTls

log = logging.getLogger("gateway")

POLL_SECONDS = 0.5
"""How often the files of the configuration are looked at."""
LEDGER_SECONDS = 2.0
"""What the ledger gets to write its last records."""
BUDGET_SECONDS = 3.0
"""How often it is looked at who has a budget."""


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
    followed: bool = False
    """A worker: the supervisor keeps the sockets open, and another worker takes what waits there."""
    steers: bool = False
    """Says itself, when it leaves, that new connections go to the others."""
    tls: ServerTls | None = None
    json_log: bool = False
    prompts: Path | None = None
    """The folder for the words of users who want them kept."""
    admin: socket.socket | None = None
    """For the admin listener (admin.py); workers share it."""
    page: Page | None = None
    """Where a worker's numbers are shown to the others."""
    counters: Counters | None = None
    """By which limits are kept with the other workers."""

    @property
    def steered(self) -> tuple[socket.socket, ...]:
        """One of each port, by which the kernel is told."""
        return self.sockets[:1] if self.admin is None else (self.sockets[0], self.admin)


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


async def serve(config: Config, keys: KeyRing, place: Place, role: Role) -> None:
    """Serves until a signal. Raises OSError when the port cannot be had."""
    loop = asyncio.get_running_loop()
    threads = ThreadPoolExecutor(thread_name_prefix=THREAD_NAME)
    loop.set_default_executor(threads)
    async with new_session() as session:
        state = GatewayState(config, session, direct_upstream(session), keys=keys)
        ledger = _equip(state, place)
        await _restore_budgets(state)
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
        acceptor = Acceptor(
            place.sockets,
            lambda: EnvelopeRequestHandler(server, loop=loop, **HANDLER_OPTIONS),  # type: ignore[arg-type]
            place.tls.connection_options() if place.tls is not None else None,
        )
        await acceptor.open()
        admin = await _open_admin(state, place)
        if place.steers:
            for each in place.steered:
                share_again(each)
        role.listening(place.sockets[0].getsockname()[1])
        windows.ask(*config.tables)
        beside = [*role.beside(state, signals), give_back(state)]
        if place.tls is not None:
            beside.append(place.tls.follow())
        if ledger is not None:
            beside.append(_follow_budgets(state))
        tasks = [asyncio.create_task(each) for each in beside]
        await signals.stop.wait()
        state.ready = False
        role.stopping()
        windows.stop()
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        await _leave(place, acceptor, admission, server)
        await drain(state, server, place.drain_seconds)
        await runner.cleanup()
        if admin is not None:
            await admin.close()
        if ledger is not None:
            await asyncio.to_thread(ledger.close, LEDGER_SECONDS)
    await end_threads(threads)


def _equip(state: GatewayState, place: Place) -> Ledger | None:
    """Gives ``state`` what depends on the place; the ledger, which begins to write."""
    state.host_check = HostCheck(loopback=all(is_loopback(each.getsockname()[0]) for each in place.sockets))
    state.ledger = _open_ledger(state.config)
    state.json_log = place.json_log
    if place.counters is not None:
        state.limiter = Limiter(counters=place.counters)
    if place.prompts is not None:
        from gateway.server.prompt_log import PromptLog  # most gateways keep nobody's words

        state.prompt_log = PromptLog(place.prompts)
    return state.ledger


def _open_ledger(config: Config) -> Ledger | None:
    """None: there is no file to keep it beside, or none is wanted."""
    settings = config.server.ledger
    if config.path is None or not settings.enabled:
        return None
    ledger = Ledger(ledger_path(settings.file, config.path.parent), settings.retention_days)
    ledger.start()
    return ledger


async def _restore_budgets(state: GatewayState) -> None:
    """Counts what was spent in the current periods, if anybody has a budget."""
    if state.ledger is not None and has_budgets(state.config, state.keys):
        state.limiter.restore(await asyncio.to_thread(state.ledger.totals, time.time()))


async def _follow_budgets(state: GatewayState) -> None:
    """Those that a reload brings."""
    known = state.config, state.keys
    while True:
        await asyncio.sleep(BUDGET_SECONDS)
        in_force = state.config, state.keys
        if in_force != known:
            await _restore_budgets(state)
            known = in_force


async def _open_admin(state: GatewayState, place: Place) -> AdminListener | None:
    if place.admin is None:
        return None
    from gateway.server.admin import AdminListener  # most gateways have none

    if place.page is not None:
        state.metrics.share(place.page)
    listener = AdminListener(state, place.admin)
    await listener.open()
    return listener


async def _leave(place: Place, acceptor: Acceptor, admission: Admission, server: web.Server) -> None:
    """No new connection, then no new request."""
    if place.inherited:
        acceptor.close()  # what waits is the next one's
    if place.steers:
        for each in place.steered:
            steer_away(each)
    if place.shared:
        admission.last_chance = True
        await hand_over([] if place.inherited else place.sockets, server)
    elif place.followed:
        acceptor.close()
        admission.last_chance = True
        await first_requests(server, HANDOVER_SECONDS)
    acceptor.close()
    admission.closed = True


def direct_upstream(session: ClientSession) -> DirectUpstream | None:
    """None, with a warning, where this aiohttp does not allow it."""
    lacking = unsupported()
    if lacking is not None:
        log.warning("server.relay: direct does not work with this aiohttp (%s); its slower client is used", lacking)
        return None
    return DirectUpstream(session)
