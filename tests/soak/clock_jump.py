"""P15: the wall clock jumps an hour ahead and an hour back; nobody is refused, cut or kept waiting.

    python -m tests.soak.clock_jump [--minutes 2]

The clock of the gateway alone is moved, by a library that stands before the C library's (needs ``cc`` and Linux).
Streams run all the while, with a limit on silence and pings; new requests come between the jumps, and the file is
edited after each. Ends with 1 when a promise broke.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import sys
import tempfile
import time
from email.utils import parsedate_to_datetime
from pathlib import Path

from tests.server.faulty_upstream import CHAT_END, Answer, Connection, FaultyUpstream, beginning, stream, whole
from tests.server.gateway_process import Gateway, Reply, running_gateway, turn, until
from tests.soak.figures import Verdict, minutes_asked
from tests.soak.long_stream import listen

HOUR = 3600
JUMPS = (HOUR, -HOUR, 0, HOUR * 24 * 400, 0)
"""Seconds from the true time, one after the other; the fourth is more than a year."""
SHIM = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/time.h>
#include <time.h>

static long offset(void) {
    long seconds = 0;
    FILE *file = fopen(getenv("CLOCK_OFFSET_FILE"), "r");
    if (file) { if (fscanf(file, "%ld", &seconds) != 1) seconds = 0; fclose(file); }
    return seconds;
}
int clock_gettime(clockid_t id, struct timespec *now) {
    static int (*real)(clockid_t, struct timespec *);
    if (!real) real = dlsym(RTLD_NEXT, "clock_gettime");
    int result = real(id, now);
    if (id == CLOCK_REALTIME || id == CLOCK_REALTIME_COARSE) now->tv_sec += offset();
    return result;
}
time_t time(time_t *out) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (out) *out = now.tv_sec;
    return now.tv_sec;
}
int gettimeofday(struct timeval *now, void *zone) {
    struct timespec exact;
    clock_gettime(CLOCK_REALTIME, &exact);
    now->tv_sec = exact.tv_sec;
    now->tv_usec = exact.tv_nsec / 1000;
    return 0;
}
"""
CONFIG = """\
providers:
  lab: {{api: openai-chat, base_url: "{url}/v1", profile: {{idle_timeout: 20, max_attempts: 1}}}}
models: {{sonnet: lab/{model}}}
"""


def moved_clock(folder: Path) -> dict[str, str]:
    """Environment of a process whose wall clock is moved by the seconds in ``folder``/offset."""
    compiler = shutil.which("cc")
    if compiler is None or sys.platform != "linux":
        sys.exit("needs Linux and a C compiler named cc")
    (folder / "clock.c").write_text(SHIM)
    library = folder / "clock.so"
    command = [compiler, "-shared", "-fPIC", "-O1", "-o", str(library), str(folder / "clock.c"), "-ldl"]
    subprocess.run(command, check=True)
    (folder / "offset").write_text("0")
    return {"LD_PRELOAD": str(library), "CLOCK_OFFSET_FILE": str(folder / "offset")}


def slow(seconds: float) -> Answer:
    """A word a second."""

    async def answer(connection: Connection) -> None:
        await connection.start()
        for number in range(round(seconds)):
            await connection.chunk(b"".join(beginning("chat", f"[{number}]")))
            await asyncio.sleep(1)
        await connection.chunk(b"".join(CHAT_END))
        await connection.end("whole")

    return answer


def save(file: Path, text: str) -> None:
    """At once and whole."""
    new = file.with_suffix(".new")
    new.write_text(text)
    new.replace(file)


async def after_a_jump(gateway: Gateway, upstream: FaultyUpstream, file: Path, offset: int, verdict: Verdict) -> None:
    """Twenty requests, and an edit of the file."""
    name = f"after {offset:+d} s"
    began = time.monotonic()
    replies = await asyncio.gather(*(gateway.ask("sonnet", stream=number % 2 == 0) for number in range(20)))
    good = sum(reply.status == 200 for reply in replies)
    seconds = time.monotonic() - began
    verdict.figure(f"{name}: answered", good, good == 20, "20 of 20")
    verdict.figure(f"{name}: seconds for them", seconds, seconds < 5, "less than 5")
    told = parsedate_to_datetime(replies[1].headers["date"]).timestamp() - time.time()
    verdict.figure(f"{name}: its clock is ahead by", told, abs(told - offset) < 30, f"about {offset}")
    new = upstream.script(stream(*whole("chat", "New")))
    save(file, CONFIG.format(url=upstream.url, model=new.model))
    began = time.monotonic()

    async def switched() -> bool:
        return (await gateway.ask("sonnet")).headers.get("x-gateway-target") == f"lab/{new.model}"

    await until(switched)
    live = time.monotonic() - began
    verdict.figure(f"{name}: a save is live after", live, live <= 2, "at most 2 s")


async def run(gateway: Gateway, upstream: FaultyUpstream, folder: Path, seconds: float, verdict: Verdict) -> None:
    gap = max(5.0, seconds / (len(JUMPS) + 1))
    lasting = gap * (len(JUMPS) + 1)
    talking, silent = upstream.script(slow(lasting)), upstream.script(stream(ending="open"))
    listening = asyncio.create_task(listen(gateway, f"lab/{talking.model}"))
    began = time.monotonic()
    given_up = asyncio.create_task(gateway.send("POST", "/v1/messages", turn(f"lab/{silent.model}")))
    cut_after: list[float] = []
    given_up.add_done_callback(lambda _: cut_after.append(time.monotonic() - began))
    for offset in JUMPS:
        await asyncio.sleep(max(0.0, gap - 3))
        save(folder / "offset", str(offset))
        await asyncio.sleep(1)
        await after_a_jump(gateway, upstream, folder / "providers.yaml", offset, verdict)
    heard = await listening
    reading = Reply(200, {"content-type": "text/event-stream"}, heard.body).reading()
    verdict.figure("a stream through all jumps: seconds", heard.seconds, reading.finished, "whole")
    status = (await given_up).status
    verdict.figure("an upstream that fell silent: status", status, status == 504, "504")
    verdict.figure("and was given up after", cut_after[0], 20 <= cut_after[0] <= 22, "20 to 22 s")


def main() -> None:
    minutes = minutes_asked("P15: jumps of the wall clock refuse nobody.", 2.0)
    verdict = Verdict()
    with FaultyUpstream() as upstream, tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        first = upstream.script(stream(*whole("chat", "First")))
        os.environ.update(moved_clock(folder))
        with running_gateway(folder, CONFIG.format(url=upstream.url, model=first.model)) as gateway:
            for variable in ("LD_PRELOAD", "CLOCK_OFFSET_FILE"):
                del os.environ[variable]
            asyncio.run(run(gateway, upstream, folder, minutes * 60, verdict))
            verdict.figure("tracebacks", gateway.log().count("Traceback"), "Traceback" not in gateway.log(), "none")
    verdict.exit()


if __name__ == "__main__":
    main()
