"""Memory given back after load: when, and that Python's arenas do get empty."""

from __future__ import annotations

import asyncio
import importlib.util
import subprocess
import sys
from typing import Any, cast

import pytest

from gateway.server import memory
from gateway.server.memory import FEW_ROUNDS, MANY, ROUNDS, Tide, give_back
from gateway.server.state import GatewayState

SCATTERED = """
import asyncio, os, sys, tempfile
import aiohttp, uvloop
from gateway.server import memory

def arenas():
    with tempfile.TemporaryFile() as file:
        stderr = os.dup(2)
        os.dup2(file.fileno(), 2)
        sys._debugmallocstats()
        os.dup2(stderr, 2)
        file.seek(0)
        return int(file.read().partition(b"# arenas allocated current")[2].split()[1])

async def main():
    await memory.exchange_kept()
    kinds = memory._kept_kinds()
    before = arenas()
    kept, bodies = [], []
    for _ in range(600):
        bodies.append([bytes(400) for _ in range(250)])
        kept += [make() for make in kinds]
        text = "".join(["res", "ult"])
        getattr(asyncio.Future, text)
    await asyncio.sleep(0.1)
    full = arenas()
    del kept, bodies, text
    left = arenas()
    for _ in range(3):
        await memory.exchange_kept()
        memory.clear_caches()
    print(before, full, left, arenas())

uvloop.run(main())
"""
"""Objects of which many are kept, made among sixty arenas of others."""


@pytest.mark.skipif(
    sys.implementation.name != "cpython" or importlib.util.find_spec("uvloop") is None,
    reason="arenas are CPython's, and the kept objects uvloop's",
)
def test_leftovers_of_a_load_do_not_hold_its_arenas() -> None:
    told = subprocess.run([sys.executable, "-c", SCATTERED], capture_output=True, check=True, text=True).stdout
    before, full, left, after = map(int, told.split())
    assert full >= before + 50
    assert left > before + 4  # without anything done
    assert after <= before + 4


def looks(tide: Tide, *pairs: tuple[int, int]) -> list[bool]:
    return [tide.ebbs(highest, running) for highest, running in pairs]


def test_nothing_is_given_back_before_a_request_and_while_load_lasts() -> None:
    tide = Tide()
    assert not any(looks(tide, (0, 0), (0, 0), (1, 1), (800, 800), (900, 600), (600, 600)))


@pytest.mark.parametrize(("peak", "rounds"), [(1, FEW_ROUNDS), (MANY - 1, FEW_ROUNDS), (MANY, ROUNDS), (5000, ROUNDS)])
def test_after_load_it_is_given_back_some_times_and_then_no_more(peak: int, rounds: int) -> None:
    tide = Tide()
    assert looks(tide, (peak, 0), *[(0, 0)] * (rounds + 5)) == [True] * rounds + [False] * 6


def test_a_few_requests_after_many_do_not_begin_it_anew() -> None:
    tide = Tide()
    assert looks(tide, (1000, 10), *[(20, 10)] * (ROUNDS - 1)) == [True] * ROUNDS
    assert not any(looks(tide, (20, 11), (20, 20)))
    assert looks(tide, (20, 0), (0, 0), (0, 0)) == [True, True, False]


def test_new_load_interrupts_it() -> None:
    tide = Tide()
    assert looks(tide, (1000, 0), (900, 900), (900, 900), (900, 0)) == [True, False, False, True]
    assert looks(tide, *[(0, 0)] * ROUNDS) == [True] * (ROUNDS - 1) + [False]


@pytest.mark.parametrize(
    ("peak", "each_time"), [(3, ["cleared", "trimmed to 0"]), (MANY, ["exchanged", "cleared", "trimmed to 0"])]
)
async def test_it_is_done_while_the_gateway_runs(
    peak: int, each_time: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    done: asyncio.Queue[str] = asyncio.Queue()

    async def exchange_kept() -> None:
        done.put_nowait("exchanged")

    monkeypatch.setattr(memory, "LOOK_SECONDS", 0)
    monkeypatch.setattr(memory, "exchange_kept", exchange_kept)
    monkeypatch.setattr(memory, "clear_caches", lambda: done.put_nowait("cleared"))
    monkeypatch.setattr(memory, "trimmer", lambda: lambda kept: done.put_nowait(f"trimmed to {kept}"))
    state = GatewayState(cast(Any, None), cast(Any, None))
    task = asyncio.create_task(give_back(state))
    state.peak_running = peak
    try:
        assert [await done.get() for _ in range(2 * len(each_time))] == each_time * 2
        assert state.peak_running == 0
    finally:
        task.cancel()


def test_trimming_is_glibcs() -> None:
    trim = memory.trimmer()
    if sys.platform == "linux" and trim is not None:
        assert trim(0) in (0, 1)
