"""From a command line to running processes; what can go wrong at a start, in one line each."""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from gateway.access.key_ring import KeyRing
from gateway.config import Config
from gateway.config.settings import AdminSettings
from gateway.reload import KeyReloader, Reloader
from gateway.server import listening_socket, logs
from gateway.server.aiohttp_build import refuse_unsafe_aiohttp
from gateway.server.reloading import Reloading
from gateway.server.run import Place, serve
from gateway.server.standalone import Announce, Standalone

if TYPE_CHECKING:
    from gateway.server.server_tls import ServerTls

DRAIN_SECONDS = 30.0

Reloaders = tuple[Reloader, KeyReloader]
"""Of providers.yaml and of the clients' keys."""


class StartError(Exception):
    """Why the gateway cannot start; one line."""


@dataclass(frozen=True, slots=True)
class Options:
    """How the gateway listens, and stops."""

    host: str
    port: int
    """0: any free one."""
    inherited: Sequence[socket.socket] = ()
    """Listening sockets that systemd opened; host and port are theirs then."""
    loopback: bool = True
    """Only this machine can reach the gateway."""
    reuse_port: bool = False
    """Another gateway may have the port too."""
    workers: int = 1
    json_log: bool = False
    prompts: Path | None = None
    """The folder for ``--log-prompts``."""
    drain_seconds: float = DRAIN_SECONDS


def inherited_sockets() -> list[socket.socket]:
    """The sockets that systemd hands over; none without socket activation. Raises StartError."""
    try:
        return listening_socket.inherited(os.environ)
    except OSError as error:
        raise StartError(f"socket activation: {error}") from None


def start(
    config: Config, keys: KeyRing, options: Options, *, announce: Announce, reloaders: Reloaders | None, log_level: str
) -> None:
    """Serves until a signal; ``reloaders`` None: there is no file. Raises StartError."""
    unsafe = refuse_unsafe_aiohttp()
    if unsafe:
        raise StartError(unsafe)
    logs.set_up(
        log_level, lambda: config.secrets if reloaders is None else reloaders[0].secrets, as_json=options.json_log
    )
    tls = _tls(config)
    admin = _admin_socket(config.server.admin, options)
    reloading = (
        None
        if reloaders is None
        else Reloading(reloaders[0], config, reloaders[1], keys, loopback=options.loopback)
    )
    try:
        sockets = tuple(options.inherited) or tuple(
            listening_socket.bind(options.host, options.port, reuse_port=options.reuse_port, count=options.workers)
        )
        inherited = bool(options.inherited)
        steers = options.reuse_port and not inherited
        place = Place(
            sockets,
            options.drain_seconds,
            inherited,
            shared=inherited or steers,
            steers=steers,
            tls=tls,
            json_log=options.json_log,
            prompts=options.prompts,
            admin=admin,
        )
        if options.workers > 1:
            _supervise(config, keys, place, options, reloading, announce)
        else:
            role = Standalone(config, reloading, announce, options.drain_seconds)
            with asyncio.Runner(loop_factory=loop_factory()) as runner:
                runner.run(serve(config, keys, place, role))
    except OSError as error:
        where = f"port {options.port} on {options.host}"
        if error.errno == errno.EADDRINUSE:
            raise StartError(f"{where} is taken; stop what listens there, or use --port") from None
        raise StartError(f"cannot listen on {options.host}:{options.port}: {error.strerror or error}") from None
    except UnicodeError:
        raise StartError(f"cannot listen on {options.host}: this is no host name") from None
    except KeyboardInterrupt:
        return
    finally:
        # What waits is written now: whoever called us sees to readers that left.
        for handler in logging.getLogger().handlers:
            handler.flush()


def _tls(config: Config) -> ServerTls | None:
    if config.server.tls is None:
        return None
    from gateway.server.server_tls import ServerTls, TlsError  # most gateways have none

    try:
        return ServerTls(config.server.tls)
    except TlsError as error:
        raise StartError(str(error)) from None


def _admin_socket(settings: AdminSettings | None, options: Options) -> socket.socket | None:
    """Bound, and listening already, so that what is wrong with it is not taken for the clients' port's fault."""
    if settings is None:
        return None
    where = f"server.admin: port {settings.port} on {settings.host}"
    try:
        [listening] = listening_socket.bind(settings.host, settings.port, reuse_port=options.reuse_port)
        listening.listen()
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise StartError(f"{where} is taken; stop what listens there, or name another") from None
        raise StartError(f"{where}: cannot listen there: {error.strerror or error}") from None
    except UnicodeError:
        raise StartError(f"{where}: this is no host name") from None
    host, port = listening.getsockname()[:2]
    url = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
    logging.getLogger("gateway").info("metrics are at %s/metrics", url)
    return listening


def _supervise(
    config: Config, keys: KeyRing, place: Place, options: Options, reloading: Reloading | None, announce: Announce
) -> None:
    from gateway.server.supervisor import Supervisor  # most gateways are one process

    factory = loop_factory()
    status = Supervisor(config, keys, place, options.workers, reloading, announce, factory).run()
    if status:
        raise SystemExit(status)


def loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """uvloop where there is one: 15-30 % less CPU for a request (performance.md)."""
    try:
        import uvloop
    except ImportError:
        return None
    factory: Callable[[], asyncio.AbstractEventLoop] = uvloop.new_event_loop
    return factory
