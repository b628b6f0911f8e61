"""Start, listen, reload, stop.

Rules:
* The listening socket opens before anything slow, and a taken port is one clear line.
* The file is looked at twice a second; a good one is swapped in whole, a bad one is reported and the old
  one serves on.
* The first signal stops taking work and lets streams finish; a second one ends at once.
"""

from __future__ import annotations

import asyncio
import logging
import signal
import socket
from collections.abc import Callable

from aiohttp import ClientSession, web

from gateway import adapters
from gateway.config import Config, ConfigError, is_loopback
from gateway.reload import Reloader, describe_change
from gateway.server.app import build_app
from gateway.server.context_windows import ContextWindows
from gateway.server.direct_upstream import DirectUpstream, unsupported
from gateway.server.http_edge import HANDLER_OPTIONS, EnvelopeRequestHandler
from gateway.server.memory import give_back
from gateway.server.probe import unreachable
from gateway.server.state import GatewayState
from gateway.server.tls import tls_context
from gateway.server.upstream import new_session

log = logging.getLogger("gateway")

POLL_SECONDS = 0.5
DRAIN_SECONDS = 30.0
CUT_SECONDS = 1.0
BACKLOG = 1024


async def serve(
    config: Config,
    host: str,
    port: int,
    *,
    announce: Callable[[int, set[str] | None], None],
    reloader: Reloader | None,
) -> None:
    """Serves until a signal. ``announce``: see start.py. Raises OSError when the port cannot be had."""
    loop = asyncio.get_running_loop()
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
        listener = await loop.create_server(
            lambda: EnvelopeRequestHandler(server, loop=loop, **HANDLER_OPTIONS),  # type: ignore[arg-type]
            sock=_listening_socket(host, port),
            backlog=BACKLOG,
        )
        stopped = _stop_on_signal(loop)
        actual_port = listener.sockets[0].getsockname()[1]
        announce(actual_port, None)
        windows.ask(config.table)
        tasks = [
            asyncio.create_task(_probe(config, actual_port, announce)),
            asyncio.create_task(give_back(state)),
        ]
        if reloader is not None:
            tasks.append(asyncio.create_task(_watch(state, reloader, is_loopback(host))))
        await stopped
        state.ready = False
        listener.close()
        windows.stop()
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        await _drain(state)
        await runner.cleanup()


def direct_upstream(session: ClientSession) -> DirectUpstream | None:
    """None, with a warning, where this aiohttp does not allow it."""
    lacking = unsupported()
    if lacking is not None:
        log.warning("server.relay: direct does not work with this aiohttp (%s); its slower client is used", lacking)
        return None
    return DirectUpstream(session)


async def _drain(state: GatewayState) -> None:
    """Lets requests finish; past the limit each one ends with an error of its own."""
    if state.running:
        await asyncio.wait(state.running, timeout=DRAIN_SECONDS)
    state.cutting = True
    for task in state.running:
        task.cancel()
    if state.running:
        await asyncio.wait(state.running, timeout=CUT_SECONDS)


def _listening_socket(host: str, port: int) -> socket.socket:
    """Bound, not yet listening. Raises OSError when the address is taken or not ours."""
    family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    listening = socket.socket(family, kind, protocol)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(address)
    except OSError:
        listening.close()
        raise
    return listening


def _stop_on_signal(loop: asyncio.AbstractEventLoop) -> asyncio.Future[None]:
    """Done at the first SIGINT or SIGTERM; the second one ends the process."""
    stopped: asyncio.Future[None] = loop.create_future()

    def stop(number: int) -> None:
        if stopped.done():
            raise SystemExit(128 + number)
        log.info("stopping: no new requests, streams may finish (again to end at once)")
        stopped.set_result(None)

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop, number)
    return stopped


async def _probe(config: Config, port: int, announce: Callable[[int, set[str] | None], None]) -> None:
    """What the first request would wait for, and who cannot be reached."""
    if any(p.base_url.startswith("https:") and p.missing_key is None for p in config.providers.values()):
        await asyncio.to_thread(tls_context)
    for api in {target.api for route in config.table.routes.values() for target in route.targets}:
        await asyncio.to_thread(adapters.get, api)
    announce(port, await unreachable(config.providers.values()))


async def _watch(state: GatewayState, reloader: Reloader, loopback: bool) -> None:
    while True:
        await asyncio.sleep(POLL_SECONDS)
        try:
            result = await asyncio.to_thread(reloader.poll)
        except Exception:
            # A defect must not end the watch: the next save may be the one that matters.
            log.exception("a defect of the gateway: the file was not read")
            continue
        if isinstance(result, ConfigError):
            state.config_error = str(result)
            log.error("the file has mistakes; the configuration before stays in force")
            for mistake in result.mistakes:
                log.error("%s", mistake)
        elif result is not None and result.server.token is None and not loopback:
            state.config_error = "server.token is gone, and the gateway listens to the network: not taken over"
            log.error("%s", state.config_error)
        elif result is not None:
            for line in describe_change(state.config, result) or ["no route changed"]:
                log.info("reloaded: %s", line)
            for warning in result.warnings:
                log.warning("%s", warning)
            state.config, state.config_error = result, None
            state.learned.clear()
            if state.windows is not None:
                state.windows.ask(result.table)
