"""What all requests of one process share.

Rule: a request reads ``config`` once and keeps what it read; a reload swaps it with one assignment.
"""

from __future__ import annotations

import asyncio
import os
from dataclasses import dataclass, field
from typing import Any

from aiohttp import ClientSession, web

from gateway.config import Config
from gateway.resilience.health import Health
from gateway.server.context_windows import ContextWindows
from gateway.server.direct_upstream import DirectUpstream
from gateway.server.learned import Learned
from gateway.server.places import Places
from gateway.translate.token_estimate import TokenEstimator
from gateway.wire.request_reader import RequestReader


@dataclass(slots=True)
class GatewayState:
    """One per process."""

    config: Config
    session: ClientSession
    direct: DirectUpstream | None = None
    """The fast way to upstreams; None: by the session alone."""
    estimator: TokenEstimator = field(default_factory=TokenEstimator)
    learned: Learned = field(default_factory=Learned)
    reader: RequestReader = field(default_factory=RequestReader)
    health: Health = field(default_factory=Health)
    places: Places = field(default_factory=Places)
    windows: ContextWindows | None = None
    """Asks the servers whose context window is theirs to say; None in tests that need none."""
    ping_interval: float = 9.0
    """Seconds of silence after which a streaming client gets a ping: it never hears 10 s of nothing (S12, S13)."""
    ready: bool = True
    running: set[asyncio.Task[Any]] = field(default_factory=set)
    """The tasks of the requests in the pipeline."""
    peak_running: int = 0
    """The most of them at once since memory.py looked."""
    cutting: bool = False
    """The time to drain is over; a cancelled request ends with an error of its own."""
    config_error: str | None = None
    """Why the file as it stands now is not in force."""


STATE = web.AppKey("STATE", GatewayState)


def new_id(prefix: str) -> str:
    """``req_…`` or ``msg_…``: 24 hex digits, unique."""
    return f"{prefix}_{os.urandom(12).hex()}"
