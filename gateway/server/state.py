"""What all requests of one process share.

Rule: a request reads ``config`` once and keeps what it read; a reload swaps it with one assignment.
"""

from __future__ import annotations

import asyncio
import os
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from aiohttp import ClientSession, web

from gateway.access.key_ring import KeyRing
from gateway.access.limiter import Limiter
from gateway.config import Config
from gateway.resilience.health import Health
from gateway.server.context_windows import ContextWindows
from gateway.server.direct_upstream import DirectUpstream
from gateway.server.forwarded import TrustedProxies
from gateway.server.host_check import HostCheck
from gateway.server.learned import Learned
from gateway.server.metric_families import CONFIG_STALE, INFLIGHT, KEYS_STALE, LEDGER_DROPPED
from gateway.server.metrics import Metrics
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
    host_check: HostCheck = field(default_factory=HostCheck)
    proxies: TrustedProxies = field(default_factory=TrustedProxies)
    keys: KeyRing = field(default_factory=KeyRing)
    """The clients' keys in force; a reload swaps them with one assignment."""
    keys_error: str | None = None
    """Why the key file as it stands now is not in force."""
    limiter: Limiter = field(default_factory=Limiter)
    ledger: Ledger | None = None
    """None: no records are kept."""
    json_log: bool = False
    """The log is for machines."""
    prompt_log: PromptLog | None = None
    """None: nobody's words are kept."""
    callers: dict[str, Caller] = field(default_factory=dict)
    """By the key's name: what access.py found out last."""
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
    metrics: Metrics = field(init=False)

    def __post_init__(self) -> None:
        self.metrics = Metrics(lambda: self.config)
        self.metrics.watch(INFLIGHT, lambda: len(self.running))
        self.metrics.watch(CONFIG_STALE, lambda: self.config_error is not None)
        self.metrics.watch(KEYS_STALE, lambda: self.keys_error is not None)
        self.metrics.watch(LEDGER_DROPPED, lambda: 0 if self.ledger is None else self.ledger.lost)


if TYPE_CHECKING:
    from gateway.ledger.store import Ledger
    from gateway.server.access import Caller
    from gateway.server.prompt_log import PromptLog

STATE = web.AppKey("STATE", GatewayState)


def new_id(prefix: str) -> str:
    """``req_…`` or ``msg_…``: 24 hex digits, unique."""
    return f"{prefix}_{os.urandom(12).hex()}"
