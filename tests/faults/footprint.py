"""What a process holds: descriptors, memory and connections, read from /proc (Linux)."""

from __future__ import annotations

import os
import time
from pathlib import Path
from threading import get_native_id

import pytest

ESTABLISHED = "01"


class Footprint:
    """One process, seen from outside. Skips the test where there is no /proc."""

    def __init__(self, pid: int) -> None:
        self._place = Path(f"/proc/{pid}")
        if not (self._place / "clear_refs").exists():
            pytest.skip("needs Linux' /proc")

    def descriptors(self) -> int:
        return len(os.listdir(self._place / "fd"))

    def resident_mib(self) -> float:
        return self._memory("VmRSS")

    def peak_mib(self) -> float:
        """The largest since ``forget_peak``."""
        return self._memory("VmHWM")

    def forget_peak(self) -> float:
        """Starts anew; returns the memory of now, in MiB."""
        (self._place / "clear_refs").write_text("5")
        return self.resident_mib()

    def cpu_seconds(self) -> float:
        """User and system time since the start."""
        user, system = (self._place / "stat").read_text().rpartition(")")[2].split()[11:13]
        return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")

    def _memory(self, name: str) -> float:
        return int((self._place / "status").read_text().partition(f"{name}:")[2].split()[0]) / 1024


def connections_to(port: int) -> int:
    """How many TCP connections of this machine lead to that port of the loopback and are open."""
    lines = Path("/proc/net/tcp").read_text().splitlines()[1:]
    fields = [line.split() for line in lines]
    return sum(entry[2] == f"0100007F:{port:04X}" and entry[3] == ESTABLISHED for entry in fields)


class Stopwatch:
    """Seconds since it was made, without those in which the machine had no processor free for the gateway or for us.

    A promise is about the gateway, not about who else is at work: on a machine with ten times more to do than it can,
    a request that takes a millisecond takes a second. Linux counts that waiting (Documentation/scheduler/sched-stats).
    Elsewhere it is a plain clock.
    """

    def __init__(self, pid: int) -> None:
        files = (Path(f"/proc/{pid}/schedstat"), Path(f"/proc/self/task/{get_native_id()}/schedstat"))
        self._starved = {file: _run_delay(file) for file in files if file.exists()}
        self._began = time.monotonic()

    def seconds(self) -> float:
        starved = (_run_delay(file) - before for file, before in self._starved.items() if file.exists())
        return max(0.0, time.monotonic() - self._began - sum(starved))


def _run_delay(file: Path) -> float:
    """Seconds that a thread was ready to run, and did not."""
    return int(file.read_text().split()[1]) / 1e9


def children_seconds() -> float:
    """CPU time of all processes that were started by this one and have ended: what an idle machine would take."""
    times = os.times()
    return times.children_user + times.children_system
