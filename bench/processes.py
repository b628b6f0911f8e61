"""Processes under measurement, on Linux: pinned to a core, their CPU time and memory read from outside.

Rule: a process counts with all its children; what a peer does in a worker is its cost too.
"""

from __future__ import annotations

import os
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

_CPUCLOCK_SCHED = 2
_STOP_LIMIT = 10.0


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


def cores() -> tuple[int, set[int]]:
    """(the core of the gateway, those of mock and load); the same one if there is no other."""
    first, *others = sorted(os.sched_getaffinity(0))
    return first, set(others) or {first}


@contextmanager
def on_cores(affinity: set[int]) -> Iterator[None]:
    """This process, and those that it starts meanwhile, run there."""
    own = os.sched_getaffinity(0)
    os.sched_setaffinity(0, affinity)
    try:
        yield
    finally:
        os.sched_setaffinity(0, own)


@contextmanager
def running(
    command: list[str], folder: Path, log: str, affinity: set[int], environment: Mapping[str, str] | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    """``command`` in ``folder``, its output in the file ``log`` there; ended, with its children, on the way out."""
    with (folder / log).open("wb") as output, on_cores(affinity):
        process = subprocess.Popen(
            command, cwd=folder, env={**os.environ, **(environment or {})}, start_new_session=True,
            stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT,
        )
    try:
        yield process
    finally:
        tree = family(process.pid)
        process.terminate()
        try:
            process.wait(timeout=_STOP_LIMIT)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        for pid in tree[1:]:
            with suppress(OSError):
                if os.getpgid(pid) == process.pid:
                    os.kill(pid, 9)


def family(pid: int) -> list[int]:
    """``pid`` and all that descend from it."""
    found = [pid]
    for parent in found:
        with suppress(OSError):
            for task in Path(f"/proc/{parent}/task").iterdir():
                found += [int(child) for child in (task / "children").read_text().split()]
    return found


def cpu_seconds(pid: int) -> float:
    """User and system time of ``pid`` and its living children; exact to the nanosecond, unlike /proc/PID/stat."""
    total = 0
    for member in family(pid):
        with suppress(OSError):
            total += time.clock_gettime_ns((~member << 3) | _CPUCLOCK_SCHED)  # clock_getcpuclockid(3)
    return total / 1e9


def settled_cpu_seconds(pid: int, limit: float = 3.0) -> float:
    """The same, once the process has come to rest: some go on working after the answer."""
    until = time.monotonic() + limit
    before = cpu_seconds(pid)
    while time.monotonic() < until:
        time.sleep(0.05)
        now = cpu_seconds(pid)
        if now - before < 0.001:
            return now
        before = now
    return before


def memory_mb(pid: int) -> float:
    """Proportional set size of ``pid`` and its children, in MB (10^6 bytes): a page that n processes share is 1/n."""
    total = 0
    for member in family(pid):
        with suppress(OSError):
            rollup = Path(f"/proc/{member}/smaps_rollup").read_text()
            total += next(int(line.split()[1]) for line in rollup.splitlines() if line.startswith("Pss:"))
    return total * 1024 / 1e6
