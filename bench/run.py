"""Gateways under load, side by side: what each adds in time, CPU and memory. Prints; asserts nothing.

    python -m bench.run [--rounds 5] [--peers] [--sections paced,flood] [--targets nginx,translated] [--json FILE]

See README.md beside this file for what each figure means.
"""

from __future__ import annotations

import argparse
import gc
import platform
import resource
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from pathlib import Path

import orjson
import uvloop

from bench import start
from bench.gateways import OURS, ROOT, Contender, Gateway, Unavailable, started
from bench.goals import goals
from bench.peers import PEERS
from bench.processes import cores, memory_mb, on_cores, running
from bench.report import Results, sections
from bench.sections import SECTIONS, Bench, Record, Scale
from bench.streams import events

OPEN = "open-streams"
START = "start"
WARM_UP = ("requests-small", "requests-real")
"""Run once for each gateway and not counted."""
FILES = 16384
GOALS_CHUNK_US = 1.58
"""``chunk_us`` of the machine that the goals were set on."""


def note(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


@contextmanager
def mock(folder: Path, affinity: set[int]) -> Iterator[tuple[int, int]]:
    """(port, process id) of a mock upstream."""
    command = [sys.executable, "-m", "bench.upstream"]
    with running(command, folder, "upstream.log", affinity, {"PYTHONPATH": str(ROOT)}) as process:
        until = time.monotonic() + 10
        while not (said := (folder / "upstream.log").read_text().strip()):
            if process.poll() is not None or time.monotonic() > until:
                sys.exit("the mock upstream did not start")
            time.sleep(0.02)
        yield int(said), process.pid


class Run:
    """One run of the bench; ``records`` grows."""

    def __init__(self, rounds: int, folder: Path, upstream: int, core: int, bench: Bench) -> None:
        self.records: list[Record] = []
        self.missing: dict[str, str] = {}
        """Contender -> why it has no row."""
        self.bench = bench
        self._rounds = rounds
        self._folder = folder
        self._upstream = upstream
        self._core = core

    def rounds(self, contenders: list[Contender], names: list[str]) -> None:
        """Every section with every gateway, one after the other, and that several times."""
        with ExitStack() as stack:
            gateways = list(self._start(contenders, stack))
            for gateway in gateways:
                for section in WARM_UP:
                    self._measure(section, gateway, 0)
            for number in range(1, self._rounds + 1):
                note(f"round {number} of {self._rounds}")
                for section in names:
                    turn = (number - 1) % len(gateways)
                    for gateway in gateways[turn:] + gateways[:turn]:
                        self.records.append(self._measure(section, gateway, number))

    def open_streams(self, contenders: list[Contender]) -> None:
        """In fresh processes, once; all of them rest together at the end."""
        with ExitStack() as stack:
            gateways = list(self._start(contenders, stack))
            for gateway in gateways:
                note(f"{OPEN} {gateway.name}")
                self.records.append(self._measure(OPEN, gateway, 1))
            measured = self.records[len(self.records) - len(gateways) :]
            note(f"rest for {self.bench.scale.rest:g} s")
            time.sleep(self.bench.scale.rest)
            for gateway, record in zip(gateways, measured, strict=True):
                if gateway.pid is not None:
                    rested = memory_mb(gateway.pid)
                    record.figures |= {"rested_mb": rested, "rested_by_idle": rested / record.figures["idle_mb"]}

    def fresh(self, processes: int) -> None:
        """What a start costs, from start.py."""
        note(START)
        start.seconds_to_first_200("GET", "/healthz")
        memory = start.idle_memory()[0]
        idle = memory.get("PSS", memory["RSS"]) * 1024 * 1024 / 1e6
        for number in range(1, processes + 1):
            seconds = start.seconds_to_first_200("POST", "/v1/messages", start.MESSAGE)
            self.records.append(Record(START, "translated", number, {"first_200_s": seconds, "idle_mb": idle}))

    def _start(self, contenders: Iterable[Contender], stack: ExitStack) -> Iterator[Gateway]:
        for contender in contenders:
            if contender.name in self.missing:
                continue
            try:
                yield stack.enter_context(started(contender, self._folder, self._upstream, self._core))
            except Unavailable as reason:
                self.missing[contender.name] = str(reason)

    def _measure(self, section: str, gateway: Gateway, number: int) -> Record:
        gc.collect()
        gc.disable()
        try:
            return uvloop.run(self.bench.measure(section, gateway, number))
        finally:
            gc.enable()


def chunk_us() -> float:
    """What parsing one event costs here, in us of CPU: how fast this machine runs what gateways do."""
    event = events("flood-50", "chat")[5].removeprefix(b"data: ")
    best = float("inf")
    for _ in range(20):
        begun = time.process_time()
        for _ in range(1000):
            orjson.loads(event)
        best = min(best, time.process_time() - begun)
    return best * 1000


def listed(text: str, known: Iterable[str]) -> list[str]:
    """The names in ``text``, in the order of ``known``."""
    names = {name.strip() for name in text.split(",")}
    if unknown := names - set(known):
        raise argparse.ArgumentTypeError(f"{', '.join(sorted(unknown))}: known are {', '.join(known)}")
    return [name for name in known if name in names]


def options(arguments: list[str] | None = None) -> argparse.Namespace:
    names = [*SECTIONS, START]
    contenders = [contender.name for contender in (*OURS, *PEERS)]
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=1.0, help="how long a closed loop runs")
    parser.add_argument("--sections", type=lambda text: listed(text, names), default=names, help=", ".join(names))
    parser.add_argument("--targets", type=lambda text: listed(text, contenders), help=", ".join(contenders))
    parser.add_argument("--peers", action="store_true", help="other gateways too, those that are installed")
    parser.add_argument("--open-streams", type=int, default=1000, help="how many streams are open at once")
    parser.add_argument("--rest", type=float, default=60.0, help="seconds until memory is read again")
    parser.add_argument("--json", type=Path, help="write every figure of every round to this file")
    return parser.parse_args(arguments)


def chosen(asked: argparse.Namespace) -> list[Contender]:
    everybody = (*OURS, *PEERS) if asked.peers or asked.targets else OURS
    return [contender for contender in everybody if not asked.targets or contender.name in asked.targets]


def main() -> None:
    asked = options()
    if sys.platform != "linux":
        sys.exit("This bench reads CPU time and memory from /proc; it needs Linux.")
    resource.setrlimit(resource.RLIMIT_NOFILE, (FILES, max(FILES, resource.getrlimit(resource.RLIMIT_NOFILE)[1])))
    core, others = cores()
    scale = Scale(seconds=asked.seconds, open_streams=asked.open_streams, rest=asked.rest)
    contenders = chosen(asked)
    print(
        f"{platform.system()} {platform.machine()}, Python {platform.python_version()}; "
        f"gateway on core {core}, load and mock on {', '.join(map(str, sorted(others)))}; "
        f"one event is parsed in {chunk_us():.2f} us (where the goals were set: {GOALS_CHUNK_US})",
        flush=True,
    )
    with tempfile.TemporaryDirectory(prefix="gateway-bench-") as name, mock(Path(name), others) as (port, pid):
        run = Run(asked.rounds, Path(name), port, core, Bench(scale, pid))
        repeated = [section for section in asked.sections if section not in (OPEN, START)]
        with on_cores(others):
            if repeated:
                run.rounds(contenders, repeated)
            if OPEN in asked.sections:
                run.open_streams(contenders)
    if START in asked.sections:
        try:
            run.fresh(asked.rounds)
        except SystemExit as reason:  # what was measured so far is still worth showing
            note(f"{START}: {reason}")
    show(run, contenders)
    if asked.json:
        asked.json.write_bytes(orjson.dumps([asdict(record) for record in run.records], option=orjson.OPT_INDENT_2))


def show(run: Run, contenders: list[Contender]) -> None:
    results = Results(run.records)
    rows = [[contender.name, run.missing.get(contender.name, contender.what)] for contender in contenders]
    print("\n".join(f"  {name:<12} {what}" for name, what in rows))
    for line in sections(results, {body: run.bench.size(body) for body in ("small", "middle", "real")}):
        print(line)
    for line in goals(results):
        print(line)


if __name__ == "__main__":
    main()
