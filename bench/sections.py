"""What is measured: each section runs one kind of load against one gateway and returns figures by name.

Units are in the names: us (of one core, or of waiting), kb and mb of memory (10^3 and 10^6 bytes), per_s.
"""

from __future__ import annotations

import asyncio
import json
import statistics
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import orjson

from bench.gateways import ROOT, Gateway, client_headers
from bench.load import Load, Outcome, messages_request
from bench.processes import cpu_seconds, memory_mb, settled_cpu_seconds

REAL = "08-second-tool-result-turn"
"""The captured request of about 125 KB: 25 tools, 6 messages."""
MIDDLE = "16-subagent-explore-haiku"
"""About 60 KB: 18 tools; what 1,000 open streams are asked with."""
OPEN_STREAMS = 1000
SETTLE = 0.3
"""Seconds between the last start of a paced stream and the window in which events are measured."""
WINDOW = 2.0
"""Its seconds."""

Figures = dict[str, float]


@dataclass(slots=True)
class Record:
    """One section, one gateway, one round."""

    section: str
    gateway: str
    round: int
    figures: Figures
    failed: int = 0
    faults: dict[str, int] = field(default_factory=dict)
    """The first fault of each failed stream -> how many."""
    others_busy: float = 0.0
    """How much of their core mock and load used, 0 to 1."""


@dataclass(frozen=True, slots=True)
class Scale:
    """How much of each; the command line can shorten it."""

    seconds: float = 1.0
    """How long a closed loop runs."""
    connections: int = 8
    latency_requests: int = 200
    paced_streams: int = 100
    open_streams: int = OPEN_STREAMS
    rest: float = 60.0
    """Seconds from the end of load to the reading of what memory is left."""


def capture(name: str) -> dict[str, Any]:
    body: dict[str, Any] = json.loads((ROOT / "tests" / "captures" / f"{name}.json").read_bytes())["body"]
    return body


def small_body() -> dict[str, Any]:
    """About 1 KB: a question with the two tools that the stream ``tools`` calls."""
    text = {"type": "string", "description": "What it says, as an absolute path or a whole command line."}
    tools = [
        {
            "name": name,
            "description": f"{name} something on the user's machine and give back what came of it, as text.",
            "input_schema": {"type": "object", "properties": {field: text}, "required": [field]},
        }
        for name, field in (("Read", "file_path"), ("Bash", "command"))
    ]
    question = "Read the file that decodes server-sent events, then run its tests and say which of them fail and why."
    return {
        "model": "",
        "max_tokens": 1024,
        "stream": True,
        "system": "You are a coding assistant. Answer briefly, and only with what you have read.",
        "tools": tools,
        "messages": [{"role": "user", "content": question}],
    }


class Bench:
    """One run's load: its scale, and the mock whose CPU is watched."""

    def __init__(self, scale: Scale, mock_pid: int) -> None:
        self.scale = scale
        self._mock = mock_pid
        self._bodies = {"small": small_body(), "middle": capture(MIDDLE), "real": capture(REAL)}
        self._headers = client_headers()

    def size(self, body: str) -> int:
        """Bytes of a body as it is sent."""
        return len(orjson.dumps(self._bodies[body]))

    def load(self, gateway: Gateway, body: str, stream: str, **how: Any) -> Load:
        data = orjson.dumps({**self._bodies[body], "model": gateway.model_prefix + stream, "stream": True})
        headers = {**self._headers, **gateway.headers}
        request = messages_request(stream, data, path="/v1/messages?beta=true", headers=headers)
        return Load(gateway.port, request, **how)

    async def measure(self, section: str, gateway: Gateway, number: int) -> Record:
        """Runs a section of SECTIONS once."""
        others, clock = self._others_cpu(), time.monotonic()
        figures, outcome = await SECTIONS[section].measure(self, gateway)
        busy = (self._others_cpu() - others) / (time.monotonic() - clock)
        faults = dict(Counter(outcome.faults).most_common(3))
        return Record(section, gateway.name, number, figures, outcome.failed, faults, busy)

    def _others_cpu(self) -> float:
        return cpu_seconds(self._mock) + time.process_time()

    # -- sections --------------------------------------------------------------------------------------

    async def latency(self, gateway: Gateway, body: str) -> tuple[Figures, Outcome]:
        """One client, one request after the other."""
        outcome = await self.load(
            gateway, body, "short", requests=self.scale.latency_requests, seconds=4 * self.scale.seconds
        ).run()
        return _percentiles("first_token", outcome.first_token), outcome

    async def throughput(self, gateway: Gateway, body: str, stream: str) -> tuple[Figures, Outcome]:
        """As many requests as it takes, from several clients."""
        before = _cpu(gateway)
        outcome = await self.load(
            gateway, body, stream, connections=self.scale.connections, seconds=self.scale.seconds
        ).run()
        figures: Figures = {"requests_per_s": outcome.requests / outcome.seconds}
        if gateway.pid is not None and outcome.requests:
            figures["cpu_us_per_request"] = (settled_cpu_seconds(gateway.pid) - before) / outcome.requests * 1e6
        return figures, outcome

    async def flood(self, gateway: Gateway) -> tuple[Figures, Outcome]:
        """Long streams, as fast as they go."""
        before = _cpu(gateway)
        outcome = await self.load(gateway, "small", "flood-2000", connections=4, seconds=self.scale.seconds).run()
        figures: Figures = {"events_per_s": outcome.events / outcome.seconds}
        if gateway.pid is not None and outcome.events:
            figures["cpu_us_per_event"] = (settled_cpu_seconds(gateway.pid) - before) / outcome.events * 1e6
        return figures, outcome

    async def paced(self, gateway: Gateway) -> tuple[Figures, Outcome]:
        """Many streams at a model's pace; CPU is taken while all of them run, so that no request is in it."""
        count = self.scale.paced_streams
        load = self.load(gateway, "small", "paced-50x150", connections=count, requests=count, ramp=0.4)
        start = _cpu(gateway)
        task = asyncio.create_task(load.run())
        await load.started.wait()
        await asyncio.sleep(SETTLE)
        cpu, events = _cpu(gateway), load.arrived
        await asyncio.sleep(WINDOW)
        cpu, events = _cpu(gateway) - cpu, load.arrived - events
        outcome = await task
        figures = _percentiles("event_latency", outcome.latencies)
        if events < count * 50 * WINDOW / 2:  # too slow for this load: all of it counts
            cpu, events = _cpu(gateway) - start, len(outcome.latencies)
        if gateway.pid is not None and events:
            figures["cpu_us_per_event"] = cpu / events * 1e6
        return figures, outcome

    async def open_streams(self, gateway: Gateway) -> tuple[Figures, Outcome]:
        """A thousand at once, slow ones; memory in the middle. ``gateway`` must be a fresh process."""
        count = self.scale.open_streams
        idle = memory_mb(gateway.pid) if gateway.pid is not None else 0.0
        load = self.load(
            gateway, "middle", "paced-4x40", connections=count, requests=count, ramp=count / 400, limit=60.0
        )
        task = asyncio.create_task(load.run())
        await load.started.wait()
        await asyncio.sleep(3.0)
        middle = memory_mb(gateway.pid) if gateway.pid is not None else 0.0
        outcome = await task
        figures = _percentiles("event_latency", outcome.latencies)
        figures["failed"] = float(outcome.failed)
        if gateway.pid is not None:
            figures |= {"idle_mb": idle, "open_mb": middle, "kb_per_stream": (middle - idle) * 1000 / count}
        return figures, outcome


def _cpu(gateway: Gateway) -> float:
    return cpu_seconds(gateway.pid) if gateway.pid is not None else 0.0


def _percentiles(name: str, nanoseconds: list[int]) -> Figures:
    if len(nanoseconds) < 2:
        return {}
    cuts = statistics.quantiles(nanoseconds, n=100, method="inclusive")
    return {f"{name}_p50_us": cuts[49] / 1000, f"{name}_p99_us": cuts[98] / 1000}


@dataclass(frozen=True, slots=True)
class Section:
    title: str
    measure: Callable[[Bench, Gateway], Awaitable[tuple[Figures, Outcome]]]


SECTIONS: dict[str, Section] = {
    "latency-small": Section("one client, small body", lambda bench, at: bench.latency(at, "small")),
    "latency-real": Section("one client, real body", lambda bench, at: bench.latency(at, "real")),
    "requests-small": Section("small body, short answer", lambda bench, at: bench.throughput(at, "small", "short")),
    "requests-real": Section("real body, short answer", lambda bench, at: bench.throughput(at, "real", "short")),
    "requests-tools": Section(
        "real body; reasoning, text, two tool calls", lambda bench, at: bench.throughput(at, "real", "tools")
    ),
    "paced": Section("streams of 50 events a second", lambda bench, at: bench.paced(at)),
    "flood": Section("streams of 2,000 events, unpaced", lambda bench, at: bench.flood(at)),
    "open-streams": Section("many slow streams at once", lambda bench, at: bench.open_streams(at)),
}
"""By the name on the command line. All but ``open-streams`` run in every round."""
