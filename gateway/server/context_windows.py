"""ContextWindows: asks the servers that speak the ``ollama`` API how much their models hold, and warns.

Rules:
* In the background: no start, reload or request waits for it, and a server that is down is no news (debug
  log). It is asked again with the next configuration, or a request, but at most once in RETRY_SECONDS.
* What it finds out is handed on as a layer of Profile fields. Where two routes ask one model for
  different windows, only what holds for both is.
* A window that cannot hold a coding agent's prompt is a warning, once for each target and text.
* Bounded: time, size of an answer, questions at a time, targets remembered.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from math import inf
from time import monotonic
from typing import Any

import aiohttp
import orjson

from gateway.adapters.base import MessagesRequest
from gateway.adapters.headers import upstream_headers
from gateway.routing import RoutingTable, Target
from gateway.server.tls import tls_context
from gateway.translate import ollama_window

log = logging.getLogger("gateway")

API = "ollama"
ANSWER_SECONDS = 10.0
RETRY_SECONDS = 60.0
MAX_ANSWER_BYTES = 8 * 1024 * 1024
"""The answer about a model holds its licence and its template; some are hundreds of KiB."""
MAX_TARGETS = 1000
AT_A_TIME = 4

_NOBODY = MessagesRequest(body={"model": "", "messages": []}, headers={}, query="", message_id="", input_tokens=1)

Learn = Callable[[str, Mapping[str, Any]], object]
"""Takes ``provider/model`` and the layer for it."""


class ContextWindows:
    """One per process; needs a running loop."""

    def __init__(self, session: aiohttp.ClientSession, learn: Learn) -> None:
        self._session = session
        self._learn = learn
        self.warnings: list[str] = []
        """What the operator should know of the configuration in force."""
        self._due: dict[str, float] = {}
        self._warned: set[str] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._room = asyncio.Semaphore(AT_A_TIME)

    def ask(self, *tables: RoutingTable) -> None:
        """Asks about every target that ``tables`` name; what was known before is forgotten."""
        self.stop()
        self._due.clear()
        self.warnings.clear()
        for targets in _named_targets(tables).values():
            self._start(targets)

    def remind(self, target: Target) -> None:
        """Asks about ``target`` unless that was done; for targets of requests. Costs next to nothing."""
        if target.api == API and monotonic() >= self._due.get(target.name, 0.0):
            self._start([target])

    def stop(self) -> None:
        """Gives up what is under way."""
        for task in self._tasks:
            task.cancel()

    async def settled(self) -> None:
        """Waits until nothing is under way."""
        while self._tasks:
            await asyncio.wait(self._tasks)

    # -- asking ----------------------------------------------------------------------------------------

    def _start(self, targets: Sequence[Target]) -> None:
        name = targets[0].name
        if name not in self._due and len(self._due) >= MAX_TARGETS:
            return
        self._due[name] = monotonic() + RETRY_SECONDS
        task = asyncio.create_task(self._ask(targets))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _ask(self, targets: Sequence[Target]) -> None:
        target = targets[0]
        try:
            async with self._room, asyncio.timeout(ANSWER_SECONDS):
                show = await self._answer(target, "/api/show", {"model": target.model})
                unsaid = any(ollama_window.window_in_force(each.profile, show) is None for each in targets)
                loaded = await self._answer(target, "/api/ps") if unsaid else None
                version = await self._answer(target, "/api/version")
        except (aiohttp.ClientError, OSError, TimeoutError, ValueError) as error:
            log.debug("%s: its context window is not known: %s", target.name, type(error).__name__)
            return
        except Exception:
            log.exception("a defect of the gateway: %s was not asked for its context window", target.name)
            return
        self._due[target.name] = inf
        self._file(targets, show, loaded)
        if ollama_window.cuts_silently(version):
            self._warn(f"{target.provider.name}: {ollama_window.TOO_OLD}")

    async def _answer(self, target: Target, path: str, question: Mapping[str, Any] | None = None) -> Any:
        """The JSON answer; None for a path that the server does not know. Raises ClientError, OSError, ValueError."""
        url = target.base_url + path
        async with self._session.request(
            "GET" if question is None else "POST",
            url,
            data=None if question is None else orjson.dumps(question),
            headers={**upstream_headers(_NOBODY, target), "accept": "application/json"},
            allow_redirects=False,
            timeout=aiohttp.ClientTimeout(total=ANSWER_SECONDS),
            ssl=await asyncio.to_thread(tls_context) if url.startswith("https:") else True,
        ) as response:
            if response.status == 404 and question is None:
                return None
            if response.status != 200:
                raise ValueError(f"status {response.status}")
            received = bytearray()
            async for piece in response.content.iter_any():
                received += piece
                if len(received) > MAX_ANSWER_BYTES:
                    raise ValueError("too large")
        return orjson.loads(received)

    # -- what follows ----------------------------------------------------------------------------------

    def _file(self, targets: Sequence[Target], show: Any, loaded: Any) -> None:
        name = targets[0].name
        layers = [ollama_window.learned_fields(target.profile, show) for target in targets]
        layer = {
            field: value
            for field, value in layers[0].items()
            if all(field in other and other[field] == value for other in layers)
        }
        if layer:
            log.debug("%s: the server says %s", name, layer)
            self._learn(name, layer)
        windows = [
            ollama_window.window_in_force(target.profile, show) or ollama_window.loaded_window(loaded, target.model)
            for target in targets
        ]
        smallest = min((window for window in windows if window is not None), default=None)
        if smallest is not None and smallest < ollama_window.AGENT_WINDOW:
            self._warn(ollama_window.too_small(name, smallest, show))
        if not ollama_window.takes_tools(show):
            self._warn(f"{name}: {ollama_window.NO_TOOLS}")

    def _warn(self, text: str) -> None:
        if text not in self.warnings:
            self.warnings.append(text)
        if text not in self._warned and len(self._warned) < MAX_TARGETS:
            self._warned.add(text)
            log.warning("%s", text)


def _named_targets(tables: tuple[RoutingTable, ...]) -> dict[str, list[Target]]:
    """``provider/model`` -> the targets of that name that can be asked about, in the order of the file."""
    found: dict[str, list[Target]] = {}
    for route in (route for table in tables for _, route in table.entries()):
        for target in (*route.targets, *route.on_overflow):
            askable = target.api == API and target.for_name is None and target.provider.missing_key is None
            if askable and target not in found.setdefault(target.name, []):
                found[target.name].append(target)
    return found
