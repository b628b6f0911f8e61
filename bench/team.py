"""A team on one process: 300 users, each with a key and ten streams at once, and somebody who asks in between.

    python -m bench.team [--users 300] [--streams 10] [--rate 4] [--seconds 30] [--json FILE]
    python -m bench.team --users 20 --rate 20 --seconds 270      the loop's timer at 200 streams (P12)

Prints a table of what they get: time to the first token, delay of each event, failures, how evenly that is spread
over the users, what a user with short questions notices, and what it costs. Keys, limits, ledger, metrics and the JSON
access log are on. The gateway has one core, mock and load the other; their own delay is in the figures.

Rules:
* Streams begin one after the other over RAMP seconds; events count from the moment when all are open.
* Every stream is checked to its last byte, after the measurement, and every one must have its row in the ledger.
* A delay is from the stamp that the mock writes into an event to its arrival at the client.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import os
import re
import resource
import secrets
import sqlite3
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from time import monotonic_ns, perf_counter
from urllib.request import urlopen

from bench.answer_check import faults
from bench.gateways import ROOT, Contender, Gateway, Launch, Site, client_headers, ours, started
from bench.load import Connection, Refused, Request, messages_request
from bench.processes import cores, cpu_seconds, free_port, memory_mb, on_cores, running
from bench.scale import compact
from bench.sections import small_body
from bench.streams import Script, script
from gateway.access.key_text import RANDOM_BYTES, make

RAMP = 10.0
"""Seconds in which the streams begin."""
DESCRIPTORS = 3
"""At most so many for each stream: the client's end, the gateway's two, the mock's."""
MARGIN = 0.5
"""Seconds before the end of the first stream, when the measurement ends."""
LATE = 60.0
"""Seconds after which a stream that should have ended has failed."""
PAUSE = 0.2
"""Seconds between two questions of the user who only asks now and then."""
GUEST = "guest"
Row = tuple[str, str]


@dataclass(slots=True)
class User:
    """One key, and what its streams came to."""

    name: str
    key: str
    connections: list[Connection] = field(default_factory=list)
    first_token: list[int] = field(default_factory=list)
    """Nanoseconds."""
    delays: list[int] = field(default_factory=list)
    """Nanoseconds, of the events that arrived while all streams were open."""
    bodies: list[bytes] = field(default_factory=list)
    failures: Counter[str] = field(default_factory=Counter)


def contender(users: Sequence[User]) -> Contender:
    """The gateway with a key for each user."""

    def launch(site: Site) -> Launch:
        launch = ours(site, "openai-chat", {user.name: user.key for user in users}, "--log-format", "json")
        return replace(launch, headers=headers_of(users[0]))

    return Contender("team", "the gateway with a key for each user", launch)


def headers_of(user: User) -> dict[str, str]:
    """What Claude Code sends, with that user's key."""
    return {**client_headers(), "authorization": f"Bearer {user.key}"}


def request_of(user: User, stream: str) -> Request:
    body = compact({**small_body(), "model": stream, "stream": True})
    return messages_request(stream, body, headers=headers_of(user))


# -- load --------------------------------------------------------------------------------------------------


class Crowd:
    """All users, and the one who asks now and then."""

    def __init__(self, port: int, users: Sequence[User], guest: User, streams: int, plan: Script) -> None:
        self._port = port
        self._users = users
        self._guest = guest
        self._streams = streams
        self._plan = plan
        self.events = 0
        """Of ``seconds``."""
        self.seconds = 0.0
        self.cpu = 0.0
        self.memory = 0.0
        """MB, with all streams open."""
        self.idle_memory = 0.0
        self.descriptors = 0
        self.opening = 0.0
        """Seconds until all streams were open; RAMP of them are the load's own."""
        self._begin = 0.0

    async def run(self, pid: int) -> None:
        """Everything, once."""
        self.idle_memory = memory_mb(pid)
        asked = [(user, request_of(user, self._plan.name)) for user in self._users]
        asking = asyncio.create_task(self._ask_now_and_then())
        # Round by round, so that no user is first with all.
        places = asked * self._streams
        pause = RAMP / len(places)
        begin = self._begin = asyncio.get_running_loop().time()
        gc.disable()  # of the load: its pauses would be measured as the gateway's
        tasks = []
        for count, (user, request) in enumerate(places):
            await asyncio.sleep(begin + count * pause - asyncio.get_running_loop().time())
            tasks.append(asyncio.create_task(self._stream(user, request)))
        await self._all_open(tasks)
        await self._measure(pid, begin + len(self._plan.deltas) / self._plan.rate)
        await asyncio.gather(*tasks)
        gc.enable()
        asking.cancel()
        await asyncio.wait([asking])
        for user in (*self._users, self._guest):
            for connection in user.connections:
                connection.close()

    async def _all_open(self, tasks: Sequence[asyncio.Task[None]]) -> None:
        """Waits until every stream has said something."""
        while sum(each.first_token > 0 for user in self._users for each in user.connections) < len(tasks):
            if any(task.done() for task in tasks):
                raise SystemExit("they are not open at the same time on this machine: more --seconds, or fewer streams")
            await asyncio.sleep(0.05)

    async def _measure(self, pid: int, first_end: float) -> None:
        """From now on all are open, until the first one ends."""
        before = {each: len(each.latencies) for user in self._users for each in user.connections}
        cpu, start = cpu_seconds(pid), perf_counter()
        self.opening = asyncio.get_running_loop().time() - self._begin
        await asyncio.sleep(first_end - MARGIN - asyncio.get_running_loop().time())
        self.cpu, self.seconds = cpu_seconds(pid) - cpu, perf_counter() - start
        for user in self._users:
            for connection in user.connections:
                user.delays += connection.latencies[before.get(connection, 0) :]
        self.events = sum(len(user.delays) for user in self._users)
        self.memory = memory_mb(pid)
        self.descriptors = len(os.listdir(f"/proc/{pid}/fd"))

    async def _stream(self, user: User, request: Request) -> None:
        # Not before: who is connected and says nothing is cut.
        connection = await self._connect()
        user.connections.append(connection)
        try:
            async with asyncio.timeout(len(self._plan.deltas) / self._plan.rate + LATE):
                user.bodies.append(await connection.ask(request, self._plan))
        except Refused as error:
            user.failures[str(error)] += 1
        except TimeoutError:
            user.failures["not ended"] += 1
        else:
            user.first_token.append(connection.first_token)

    async def _ask_now_and_then(self) -> None:
        """A short answer, again and again; ``delays`` are of whole answers."""
        guest, short = self._guest, script("short")
        request = request_of(guest, "short")
        guest.connections.append(await self._connect())
        while True:
            begin = monotonic_ns()
            try:
                guest.bodies.append(await guest.connections[0].ask(request, short))
            except Refused as error:
                guest.failures[str(error)] += 1
                guest.connections[0] = await self._connect()
            else:
                guest.delays.append(monotonic_ns() - begin)
                guest.first_token.append(guest.connections[0].first_token)
            await asyncio.sleep(PAUSE)

    async def _connect(self) -> Connection:
        _, connection = await asyncio.get_running_loop().create_connection(Connection, "127.0.0.1", self._port)
        return connection


def check(user: User, plan: Script) -> None:
    """Every answer to its last byte."""
    for body in user.bodies:
        if fault := next(iter(faults(plan, body)), ""):
            user.failures[fault] += 1


# -- what it came to ---------------------------------------------------------------------------------------


def at(values: Sequence[float], share: float) -> float:
    """The value below which that share of them lies; nan: there are none."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else float("nan")


def milliseconds(values: Sequence[float]) -> str:
    """p50, p99 and the largest."""
    return " / ".join(f"{at(values, share) / 1e6:,.1f}" for share in (0.5, 0.99, 1.0))


def spread(users: Sequence[User], share: float, what: str) -> str:
    """That percentile of every single user: the luckiest, the median and the unluckiest."""
    each = [at(getattr(user, what), share) for user in users]
    return " / ".join(f"{at(each, place) / 1e6:,.1f}" for place in (0.0, 0.5, 1.0))


def stall(text: str) -> str:
    """p99.9 of how late the loop's timer came, as a bucket of the histogram; from a scrape."""
    found = re.findall(r'^gateway_loop_stall_seconds_bucket\{le="([^"]+)"\} (\S+)', text, re.MULTILINE)
    buckets = [(float(edge), float(count)) for edge, count in found]
    total = buckets[-1][1] if buckets else 0.0
    edge = next((edge for edge, count in buckets if count >= 0.999 * total), float("nan"))
    return f"≤ {edge * 1e3:g} ms ({total:,.0f} samples)"


def recorded(folder: Path, wanted: int) -> tuple[int, int]:
    """(rows in the ledger, output tokens in them), once there are ``wanted`` or nothing more comes."""
    database = next(folder.glob("team-*/usage.db"))
    count = tokens = -1
    for _ in range(50):
        with closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as connection:
            query = "SELECT count(*), coalesce(sum(output_tokens), 0) FROM requests WHERE asked LIKE 'paced-%'"
            count, tokens = connection.execute(query).fetchone()
        if count >= wanted:
            break
        time.sleep(0.1)
    return count, tokens


def told(
    crowd: Crowd, users: Sequence[User], guest: User, plan: Script, rows: tuple[int, int], scrape: str
) -> list[Row]:
    """The table; ``rows``: of ``recorded``."""
    streams = sum(len(user.connections) for user in users)
    failures: Counter[str] = Counter()
    for user in users:
        failures += user.failures
    delays = [delay for user in users for delay in user.delays]
    what = "; ".join(f"{count} x {words}" for words, count in failures.most_common(3))
    return [
        ("users x streams, open at once", f"{len(users)} x {streams // len(users)} = {streams:,}"),
        ("seconds until all were open, begun over", f"{crowd.opening:.1f}, {RAMP:g}"),
        ("events/s, sent and arrived", f"{streams * plan.rate:,.0f}, {crowd.events / crowd.seconds:,.0f}"),
        ("failed streams", f"{failures.total()}{f' ({what})' if what else ''}"),
        ("rows in the ledger; tokens in them, and sent", f"{rows[0]:,}; {rows[1]:,}, {streams * len(plan.deltas):,}"),
        ("first token, ms: p50 / p99 / max", milliseconds([each for user in users for each in user.first_token])),
        ("delay of an event, ms: p50 / p99 / max", milliseconds(delays)),
        ("a user's p50 of first tokens, ms: best / median / worst", spread(users, 0.5, "first_token")),
        ("a user's p99 of event delays, ms: best / median / worst", spread(users, 0.99, "delays")),
        ("events of a user: fewest / most", f"{min(len(user.delays) for user in users):,} / "
                                            f"{max(len(user.delays) for user in users):,}"),
        (f"a short question meanwhile ({len(guest.delays)}), ms: p50 / p90 / max",
         " / ".join(f"{at(guest.delays, share) / 1e6:,.1f}" for share in (0.5, 0.9, 1.0))),
        ("short questions that failed", str(guest.failures.total())),
        ("gateway: share of a core, µs for an event", f"{crowd.cpu / crowd.seconds:.0%}, "
                                                      f"{crowd.cpu / max(1, crowd.events) * 1e6:.0f}"),
        ("gateway: MB idle and with all open, KB for a stream",
         f"{crowd.idle_memory:.0f}, {crowd.memory:.0f}, {(crowd.memory - crowd.idle_memory) * 1000 / streams:.0f}"),
        ("gateway: descriptors", f"{crowd.descriptors:,}"),
        ("gateway: late by, p99.9 of the loop's timer", stall(scrape)),
    ]  # fmt: skip


# -- the run -----------------------------------------------------------------------------------------------


def raise_limit(streams: int) -> None:
    """Descriptors for so many streams; the gateway and the mock inherit the limit. Exits where that cannot be."""
    needed = streams * DESCRIPTORS + 500
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < needed:
        raise SystemExit(f"{streams:,} streams need {needed:,} open files; the limit here is {hard:,} (ulimit -Hn)")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, needed), hard))


@contextmanager
def gateway_with(users: Sequence[User], folder: Path) -> Iterator[tuple[Gateway, int]]:
    """The gateway on its core, the mock on the other, where the load runs too; and the port of its metrics."""
    core, others = cores()
    mock_port = free_port()
    mock = [sys.executable, "-m", "bench.upstream", "--port", str(mock_port)]
    with (
        running(mock, folder, "mock.log", others, {"PYTHONPATH": str(ROOT)}),
        on_cores(others),
        started(contender(users), folder, mock_port, core) as gateway,
    ):
        config = json.loads(next(folder.glob("team-*/providers.yaml")).read_text())
        admin: int = config["server"]["admin"]["port"]
        yield gateway, admin


def measured(users: Sequence[User], streams: int, plan: Script) -> list[Row]:
    if len(plan.deltas) / plan.rate < RAMP + 2 * MARGIN:
        raise SystemExit("the streams are too short to be open at the same time: more --seconds")
    guest = User(GUEST, make(secrets.token_bytes(RANDOM_BYTES)))
    with tempfile.TemporaryDirectory(prefix="gateway-team-") as name:
        folder = Path(name)
        with gateway_with([*users, guest], folder) as (gateway, admin):
            crowd = Crowd(gateway.port, users, guest, streams, plan)
            asyncio.run(crowd.run(gateway.pid or 0))
            for user in users:
                check(user, plan)
            check(guest, script("short"))
            with urlopen(f"http://127.0.0.1:{admin}/metrics", timeout=10) as answer:
                scrape = answer.read().decode()
            return told(crowd, users, guest, plan, recorded(folder, len(users) * streams), scrape)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--users", type=int, default=300)
    parser.add_argument("--streams", type=int, default=10, help="of each user, at once")
    parser.add_argument("--rate", type=int, default=4, help="events a second of each stream")
    parser.add_argument("--seconds", type=int, default=30, help="that each stream lasts")
    parser.add_argument("--json", type=Path, help="where to write the table")
    options = parser.parse_args()
    raise_limit(options.users * options.streams)
    users = [User(f"user-{number}", make(secrets.token_bytes(RANDOM_BYTES))) for number in range(options.users)]
    table = measured(users, options.streams, script(f"paced-{options.rate}x{options.rate * options.seconds}"))
    print("\n".join(f"| {what} | {value} |" for what, value in (("what", "got"), ("---", "---:"), *table)), flush=True)
    if options.json:
        options.json.write_text(json.dumps(dict(table), indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
