"""How cost grows: longer conversations, more tools, more routes and keys, more open streams, through the real gateway.

    python -m bench.scale [--rounds 5] [--only messages,routes] [--json docs/performance/scale.json]

Prints a table for each; with --json, writes the figures that `python -m bench.plots` draws. Every answer is checked
whole. Sizes are measured by turns, round after round, and the median counts.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import platform
import secrets
import sys
import tempfile
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import orjson

from bench.gateways import KEY, OURS, ROOT, Contender, Gateway, Launch, Site, client_headers, ours, started
from bench.guard import whole
from bench.load import Load, Outcome, messages_request
from bench.processes import cores, cpu_seconds, free_port, memory_mb, on_cores, running, settled_cpu_seconds
from bench.sections import REAL, capture, small_body
from gateway.access.key_text import RANDOM_BYTES, make

JSON = dict[str, Any]
Figures = dict[str, float]

MESSAGES = (10, 30, 100, 300, 1000)
TOOLS = (10, 30, 100, 300)
ROUTES = (1, 10, 100, 1000)
KEYS = (1, 10, 100, 1000)
STREAMS = (1, 10, 100, 500, 1000, 2000)
FEW_STREAMS = 100
"""Up to so many open streams run at 20 events a second, more at 4, so that one core is never full."""
WINDOW = 5.0
"""Seconds in which the events of open streams are counted."""


@dataclass(slots=True)
class Table:
    """The figures of one kind of growth."""

    what: str
    """What grows."""
    figures: dict[str, dict[int, list[float]]] = field(default_factory=dict)
    """Name -> size -> one value for each round."""

    def add(self, size: int, figures: Figures) -> None:
        for name, value in figures.items():
            self.figures.setdefault(name, {}).setdefault(size, []).append(value)

    def medians(self) -> dict[str, dict[int, float]]:
        return {
            name: {size: round(median(values), 4) for size, values in sizes.items()}
            for name, sizes in self.figures.items()
        }


def show(what: str, medians: dict[str, dict[int, float]]) -> str:
    """A Markdown table: a row for each size."""
    names = list(medians)
    sizes = list(next(iter(medians.values())))
    rows = [[f"{size:,}", *(plain(medians[name][size]) for name in names)] for size in sizes]
    head = [what, *names]
    return "\n".join(f"| {' | '.join(row)} |" for row in (head, ["---:"] * len(head), *rows))


def plain(value: float) -> str:
    """Three digits that count, at least."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


# -- bodies ----------------------------------------------------------------------------------------------


def conversation(count: int) -> JSON:
    """``count`` messages: a question, then answers that call a tool and the tool's results, about 1.3 KB a pair."""
    listing = "\n".join(f"{line:3} def feed(self, data: bytes) -> list[Event]:  # piece {line}" for line in range(18))
    messages: list[JSON] = [{"role": "user", "content": "Which of these files decodes events? Read them all."}]
    for number in range((count - 1) // 2):
        call = f"toolu_{number:08}"
        read = {"type": "tool_use", "id": call, "name": "Read", "input": {"file_path": f"/src/part_{number}.py"}}
        result = {"type": "tool_result", "tool_use_id": call, "content": f"{number}\n{listing}"}
        messages += [
            {"role": "assistant", "content": [{"type": "text", "text": "The next one."}, read]},
            {"role": "user", "content": [result]},
        ]
    messages += [{"role": "user", "content": "Go on."}] * (count - len(messages))
    return {**small_body(), "messages": messages}


def tools(count: int) -> JSON:
    """``count`` tools: the 25 of Claude Code, 3.5 KB each, and then those of an MCP server, 1.2 KB each."""
    known = capture(REAL)["tools"]
    fields = ("repository", "branch", "path", "pattern", "since", "limit")
    properties = {name: {"type": "string", "description": f"The {name} to look in. " * 4} for name in fields}
    schema = {"type": "object", "properties": properties, "required": [fields[0]], "additionalProperties": False}
    more = [
        {"name": f"mcp__server__tool_{number}", "description": f"Does thing {number}. " * 20, "input_schema": schema}
        for number in range(len(known), count)
    ]
    return {**small_body(), "tools": [*known[:count], *more]}


def compact(content: JSON) -> bytes:
    """As Claude Code writes it."""
    return orjson.dumps(content)


def spaced(content: JSON) -> bytes:
    """With a blank after each comma: a spelling in which tools are not known again."""
    return json.dumps(content, ensure_ascii=False).encode()


Encode = Callable[[JSON], bytes]


def ask(port: int, model: str, stream: str, content: JSON, encode: Encode = compact, **how: Any) -> Load:
    """``model``: what is asked for; ``stream``: what must come back."""
    data = encode({**content, "model": model, "stream": True})
    return Load(port, messages_request(stream, data, headers=client_headers()), **how)


async def milliseconds(gateway: Gateway, model: str, content: JSON, count: int, encode: Encode = compact) -> float:
    """CPU for one request with a short answer."""
    before = cpu_seconds(gateway.pid or 0)
    load = ask(gateway.port, model, "short", content, encode, connections=2, requests=count)
    outcome: Outcome = whole(await load.run())
    return (settled_cpu_seconds(gateway.pid or 0) - before) / outcome.requests * 1000


def enough(kilobytes: float) -> int:
    """How many requests of that size make a figure."""
    return max(6, min(80, round(4000 / kilobytes)))


# -- what grows ------------------------------------------------------------------------------------------


class Growth:
    """The processes of one run."""

    def __init__(self, rounds: int, folder: Path, upstream: int, core: int) -> None:
        self.rounds = rounds
        self._folder = folder
        self._upstream = upstream
        self._core = core

    @contextmanager
    def _started(self, contenders: Sequence[Contender]) -> Iterator[list[Gateway]]:
        with ExitStack() as stack:
            yield [
                stack.enter_context(started(contender, self._folder, self._upstream, self._core))
                for contender in contenders
            ]

    async def _bodies(self, what: str, bodies: dict[int, JSON], rows: Mapping[str, tuple[str, Encode]]) -> Table:
        """CPU per request against the size of the body. ``rows``: figure -> (the gateway, how the body is written)."""
        table = Table(what)
        ours = [contender for contender in OURS if contender.name in ("translated", "passthrough")]
        with self._started(ours) as started:
            gateways = {gateway.name: gateway for gateway in started}
            for number in range(self.rounds + 1):
                for size, content in bodies.items():
                    kilobytes = len(compact(content)) / 1000
                    figures = {
                        name: await milliseconds(gateways[gateway], "short", content, enough(kilobytes), encode)
                        for name, (gateway, encode) in rows.items()
                    }
                    if number:  # the first round warms up
                        each = {"translated, µs each": figures["translated, ms"] * 1000 / size}
                        table.add(size, {"body, KB": kilobytes, **figures, **each})
        return table

    async def messages(self) -> Table:
        rows = {"translated, ms": ("translated", compact), "pass-through, ms": ("passthrough", compact)}
        return await self._bodies("messages", {size: conversation(size) for size in MESSAGES}, rows)

    async def tools(self) -> Table:
        rows = {
            "translated, ms": ("translated", compact),
            "pass-through, ms": ("passthrough", compact),
            "translated, new tools, ms": ("translated", spaced),
        }
        return await self._bodies("tools", {size: tools(size) for size in TOOLS}, rows)

    async def routes(self) -> Table:
        """CPU per request against the number of routes; the last one is asked for."""
        table = Table("routes")
        kinds = {"names, ms": "model-{}", "patterns, ms": "model-{}-*"}
        contenders = [
            Contender(f"{kind.split(',')[0]}-{size}", "", with_routes(form, size))
            for size in ROUTES
            for kind, form in kinds.items()
        ]
        with self._started(contenders) as gateways:
            waiting = dict(zip([(size, kind) for size in ROUTES for kind in kinds], gateways, strict=True))
            for number in range(self.rounds + 1):
                for (size, kind), gateway in waiting.items():
                    model = kinds[kind].format(size).replace("*", "x")
                    cost = await milliseconds(gateway, model, small_body(), 80)
                    if number:
                        table.add(size, {kind: cost})
        return table

    async def keys(self) -> Table:
        """CPU per request against the number of keys, each with limits; the last one asks."""
        table = Table("keys")
        contenders = [Contender(f"keys-{size}", "", with_keys(size)) for size in KEYS]
        with self._started(contenders) as gateways:
            for number in range(self.rounds + 1):
                for size, gateway in zip(KEYS, gateways, strict=True):
                    cost = await milliseconds(gateway, "short", small_body(), 80)
                    if number:
                        table.add(size, {"a request, ms": cost, "memory, MB": memory_mb(gateway.pid or 0)})
        return table

    async def streams(self) -> Table:
        """CPU per event, and memory, against the number of open streams; a fresh process each time."""
        table = Table("open streams")
        (ours,) = (contender for contender in OURS if contender.name == "translated")
        for _ in range(max(1, self.rounds // 2)):
            for size in STREAMS:
                with self._started([ours]) as (gateway,):
                    table.add(size, await open_streams(gateway, size))
        return table


async def open_streams(gateway: Gateway, count: int) -> Figures:
    pid = gateway.pid or 0
    stream = "paced-20x200" if count <= FEW_STREAMS else "paced-4x40"
    ramp = min(2.0, count / 500)
    idle = memory_mb(pid)
    load = ask(gateway.port, stream, stream, small_body(), connections=count, requests=count, ramp=ramp)
    task = asyncio.create_task(load.run())
    await load.started.wait()
    await asyncio.sleep(0.5)
    cpu, events = cpu_seconds(pid), load.arrived
    await asyncio.sleep(WINDOW)
    cpu, events = cpu_seconds(pid) - cpu, load.arrived - events
    memory = memory_mb(pid)
    whole(await task)
    return {
        "events/s": events / WINDOW,
        "µs/event": cpu / max(1, events) * 1e6,
        "memory, MB": memory,
        "KB/stream": (memory - idle) * 1000 / count,
    }


def with_routes(form: str, count: int) -> Callable[[Site], Launch]:
    """Our gateway with ``count`` routes of that form; all of them lead to the stream ``short``."""

    def launch(site: Site) -> Launch:
        config = {
            "server": {"host": "127.0.0.1", "port": site.port, "token": KEY},
            "providers": {
                "mock": {"api": "openai-chat", "base_url": f"http://127.0.0.1:{site.upstream}/v1", "api_key": "k"}
            },
            # What the start waits for is asked by its own name.
            "models": {**{form.format(number): "mock/short" for number in range(1, count + 1)}, "short": "mock/short"},
        }
        (site.folder / "providers.yaml").write_text(json.dumps(config))
        command = [sys.executable, "-m", "gateway", "serve", "--config", "providers.yaml"]
        return Launch(command, {"PYTHONPATH": str(ROOT)})

    return launch


def with_keys(count: int) -> Callable[[Site], Launch]:
    """Our gateway with ``count`` keys, the bench's own the last of them."""
    others = {f"user-{number}": make(secrets.token_bytes(RANDOM_BYTES)) for number in range(1, count)}
    return lambda site: ours(site, "openai-chat", {**others, "bench": KEY})


GROWTHS: dict[str, Callable[[Growth], Awaitable[Table]]] = {
    "messages": Growth.messages,
    "tools": Growth.tools,
    "routes": Growth.routes,
    "keys": Growth.keys,
    "streams": Growth.streams,
}


def measured(names: Sequence[str], rounds: int) -> Iterator[tuple[str, Table]]:
    core, others = cores()
    with tempfile.TemporaryDirectory(prefix="gateway-scale-") as name:
        folder, port = Path(name), free_port()
        mock = [sys.executable, "-m", "bench.upstream", "--port", str(port)]
        with running(mock, folder, "mock.log", others, {"PYTHONPATH": str(ROOT)}), on_cores(others):
            growth = Growth(rounds, folder, port, core)
            for kind in names:
                yield kind, asyncio.run(run(GROWTHS[kind], growth))


async def run(measure: Callable[[Growth], Awaitable[Table]], growth: Growth) -> Table:
    return await measure(growth)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", default=",".join(GROWTHS), help="comma-separated")
    parser.add_argument("--json", type=Path, help="where to write the figures")
    options = parser.parse_args()
    told: JSON = json.loads(options.json.read_text()) if options.json and options.json.exists() else {}
    for kind, table in measured(options.only.split(","), options.rounds):
        medians = table.medians()
        print(f"\n## {kind}\n\n{show(table.what, medians)}", flush=True)
        told[kind] = {"what": table.what, "python": platform.python_version(), "figures": medians}
    if options.json:
        options.json.parent.mkdir(exist_ok=True)
        options.json.write_text(json.dumps(told, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
