"""P11: a day of mixed load; memory stays as it is after the first hour, and no descriptor is left behind.

    python -m tests.soak.mixed_load [--minutes 1440] [> figures.txt]

Twenty streams a second: most are whole, one in five meets a fault, clients leave, the file is edited once a minute.
Memory is sampled at each line. Of a run shorter than two hours the first half is the warm-up; its slope is noise
below about half an hour, so it is judged only from there. Ends with 1 when a promise broke.
"""

from __future__ import annotations

import asyncio
import itertools
import tempfile
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path

from aiohttp import ClientError, ClientSession, TCPConnector

from tests.faults.footprint import Footprint
from tests.server.faulty_upstream import Answer, Connection, FaultyUpstream, beginning, reply, stream, whole
from tests.server.gateway_process import Gateway, running_gateway, turn, until
from tests.soak.figures import Verdict, minutes_asked, slope_per_hour

RATE = 20.0
SAMPLE_SECONDS, EDIT_SECONDS = 30.0, 60.0
IDLE_SECONDS = 45.0
"""Longer than connections to upstreams are kept."""
MOST_SLOPE, MOST_DESCRIPTORS, LEAST_MINUTES = 1.0, 20, 30.0
CONFIG = """\
providers:
  lab: {{api: openai-chat, base_url: "{url}/v1"}}
  ant: {{api: anthropic, base_url: "{url}"}}
models: {{sonnet: lab/{model}}}
"""


def paced(wire: str) -> Answer:
    """A whole answer over about a second."""

    async def answer(connection: Connection) -> None:
        await connection.start()
        for piece in whole(wire, *("word " * 4 for _ in range(20))):
            await connection.chunk(piece)
            await asyncio.sleep(0.05)
        await connection.end("whole")

    return answer


async def dies(connection: Connection) -> None:
    await connection.end("cut")


FAULTS: dict[str, Answer] = {
    "died": dies,
    "500": reply(500, {}, b'{"error":{"message":"no"}}'),
    "429": reply(429, {"retry-after": "30"}, b"{}"),
    "cut": stream(*beginning("chat", "Hi"), ending="cut"),
    "in-band": stream(b'data: {"error":{"message":"full","code":529}}\n\n'),
}


class Load:
    """Clients and their outcomes."""

    def __init__(self, gateway: Gateway, upstream: FaultyUpstream, folder: Path) -> None:
        self._gateway = gateway
        self._upstream = upstream
        self._file = folder / "providers.yaml"
        self.outcomes: Counter[str] = Counter()
        self.waits: list[float] = []
        self.models = {wire: upstream.script(paced(wire)).model for wire in ("chat", "anthropic")}
        faults = [f"lab/{upstream.script(answer).model}" for answer in FAULTS.values()]
        good = ["sonnet", f"lab/{self.models['chat']}", f"ant/{self.models['anthropic']}", "sonnet"]
        self._asked = itertools.cycle([*good, faults[0], *good, faults[1], *good, faults[2], *good, *faults[3:]])

    async def ask(self, session: ClientSession, number: int) -> None:
        """One client; every eleventh leaves in the middle."""
        model = next(self._asked)
        body = turn(model, f"{number} " * 2000, stream=number % 3 != 0)
        began = time.monotonic()
        try:
            async with session.post(f"{self._gateway.url}/v1/messages", json=body) as response:
                await response.content.readany()
                self.waits.append(time.monotonic() - began)
                if number % 11 == 0:
                    response.close()
                    self.outcomes["left"] += 1
                    return
                rest = await response.read()
                broken = response.status != 200 or b"event: error" in rest
                self.outcomes["failed" if broken else "whole"] += 1
        except ClientError as error:
            self.outcomes[type(error).__name__] += 1

    def edit(self, number: int) -> None:
        """The file as it was, with a comment; every fourth version is a bad one."""
        text = CONFIG.format(url=self._upstream.url, model=self.models["chat"])
        self._file.write_text(f"# {number}\n{text}" if number % 4 else "providers: {")

    def forget_visits(self) -> None:
        """The upstream keeps every request; for a day that is too much."""
        for script in self._upstream._scripts.values():
            script.visits.clear()


async def run(gateway: Gateway, upstream: FaultyUpstream, folder: Path, seconds: float, verdict: Verdict) -> None:
    load, footprint = Load(gateway, upstream, folder), Footprint(gateway.pid)
    samples: list[tuple[float, float]] = []
    running: set[asyncio.Task[None]] = set()
    descriptors = footprint.descriptors()
    began = time.monotonic()
    next_sample, next_edit, edits = SAMPLE_SECONDS, EDIT_SECONDS, 0
    async with ClientSession(connector=TCPConnector(limit=0)) as session:
        for number in itertools.count():
            at = time.monotonic() - began
            if at >= seconds:
                break
            task = asyncio.create_task(load.ask(session, number))
            running.add(task)
            task.add_done_callback(running.discard)
            if at >= next_sample:
                next_sample += SAMPLE_SECONDS
                samples.append((at, footprint.resident_mib()))
                load.forget_visits()
                print(f"{at:8.0f} s {samples[-1][1]:8.1f} MiB {footprint.descriptors():5d} fds {len(running):4d} open "
                      f"{dict(load.outcomes)}", flush=True)  # fmt: skip
            if at >= next_edit:
                next_edit, edits = next_edit + EDIT_SECONDS, edits + 1
                load.edit(edits)
            await asyncio.sleep(max(0.0, (number + 1) / RATE - (time.monotonic() - began)))
        await asyncio.gather(*running)
    with suppress(TimeoutError):
        async with asyncio.timeout(IDLE_SECONDS):
            await until(lambda: asyncio.sleep(0.5, footprint.descriptors() <= descriptors + MOST_DESCRIPTORS))
    judge(load, footprint, samples, seconds, descriptors, verdict)


def judge(
    load: Load, footprint: Footprint, samples: list[tuple[float, float]], seconds: float, descriptors: int,
    verdict: Verdict,
) -> None:  # fmt: skip
    """The figures against the promise."""
    warm = min(3600.0, seconds / 2)
    slope = slope_per_hour([sample for sample in samples if sample[0] >= warm])
    judged = seconds >= LEAST_MINUTES * 60
    verdict.figure("memory, MiB an hour", slope, not judged or slope <= MOST_SLOPE, f"at most {MOST_SLOPE:g}")
    verdict.figure("memory at the end, MiB", footprint.resident_mib())
    more = footprint.descriptors() - descriptors
    verdict.figure("descriptors more", more, more <= MOST_DESCRIPTORS, f"at most {MOST_DESCRIPTORS}")
    for name, count in load.outcomes.items():
        verdict.figure(f"requests: {name}", count, name in ("whole", "failed", "left"), "no connection breaks")
    if load.waits:
        verdict.figure("first bytes, 99 of 100 within s", sorted(load.waits)[len(load.waits) * 99 // 100])


def main() -> None:
    minutes = minutes_asked("P11: memory and descriptors over a day of mixed load.", 1440.0)
    verdict = Verdict()
    with FaultyUpstream() as upstream, tempfile.TemporaryDirectory() as folder:
        text = CONFIG.format(url=upstream.url, model=upstream.script(paced("chat")).model)
        with running_gateway(Path(folder), text, "--log-level", "error") as gateway:
            asyncio.run(run(gateway, upstream, Path(folder), minutes * 60, verdict))
    verdict.exit()


if __name__ == "__main__":
    main()
