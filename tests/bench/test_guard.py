"""The guard of CPU time finds a gateway that became slower, lets an unchanged one pass, believes no wrong answer."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path

import pytest

from bench import guard
from bench.gateways import Contender, Launch, Site, started
from bench.guard import GUARDED, MEASURES, RECORDED, REFERENCE, Gateway, Measure, Wrong, each_request, grown, whole
from bench.processes import cores, free_port, running

linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux tells the CPU time of others")

SLOWER = """
import sys, uvloop
from bench import reference
plain = reference.to_chat
reference.to_chat = lambda body: [plain(body) for _ in range(200)][0]
uvloop.run(reference.main(int(sys.argv[1]), int(sys.argv[2])))
"""
"""The reference, translating each request two hundred times."""


def _slower(site: Site) -> Launch:
    return Launch(
        [sys.executable, "-c", SLOWER, str(site.port), str(site.upstream)], {"PYTHONPATH": str(guard.ROOT)}
    )


UNCHANGED = Contender("unchanged", "the reference itself", REFERENCE.launch)
SLOW = Contender("slow", "a gateway that became slower", _slower)
BRIEF: dict[str, Measure] = {"request": lambda gateway: each_request(gateway, "small", 40)}


@linux
def test_finds_the_slower_one(capsys: pytest.CaptureFixture[str]) -> None:
    recorded = {"unchanged: request": 2.0, "slow: request": 1.0}
    assert guard.guard(recorded, (UNCHANGED, SLOW), BRIEF, rounds=3) == ["slow: request"]
    shown = capsys.readouterr().out
    first, again = shown.split("once more: slow: request")
    assert "unchanged: request" in first
    assert "unchanged: request" not in again, "only what grew is measured once more"


@linux
def test_a_wrong_answer_is_no_measurement(tmp_path: Path) -> None:
    async def ask(gateway: Gateway, stream: str) -> None:
        whole(await guard.load(gateway, "small", stream, requests=1).run())

    core, others = cores()
    port = free_port()
    mock = [sys.executable, "-m", "bench.upstream", "--port", str(port)]
    with (
        running(mock, tmp_path, "mock.log", others, {"PYTHONPATH": str(guard.ROOT)}),
        started(UNCHANGED, tmp_path, port, core) as gateway,
    ):
        asyncio.run(ask(gateway, "tools"))
        with pytest.raises(Wrong, match="text differ"):
            asyncio.run(ask(gateway, "short~corrupt"))


def test_a_third_is_the_limit() -> None:
    recorded = {"a": 3.0, "b": 3.0}
    assert grown({"a": 4.0, "b": 4.01}, recorded) == ["b"]


def test_what_nobody_recorded_fails() -> None:
    assert grown({"new": 0.1}, {}) == ["new"]


def test_what_grew_once_only_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    told = iter([{"a": [9.0], "b": [1.0]}, {"a": [1.0]}])
    asked: list[object] = []

    def measured(*_: object, only: object = None, **__: object) -> guard.Run:
        asked.append(only)
        return guard.Run(next(told), {})

    monkeypatch.setattr(guard, "measured", measured)
    assert guard.guard({"a": 1.0, "b": 1.0}) == []
    assert asked == [None, ["a"]]


@pytest.mark.parametrize("suspects", [[], ["translated: event, flood"]])
def test_the_exit_code(suspects: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["guard"])
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(guard, "guard", lambda recorded: suspects)
    if not suspects:
        guard.main()
        return
    with pytest.raises(SystemExit, match="translated: event, flood"):
        guard.main()


def test_every_figure_is_recorded() -> None:
    recorded = json.loads(RECORDED.read_text())["ratios"]
    assert set(recorded) == {f"{contender.name}: {name}" for contender in GUARDED for name in MEASURES}
