"""bench/team.py on a small team: what it says is what happened."""

from __future__ import annotations

import math

import pytest

from bench import team
from bench.gateways import keys_yaml
from bench.streams import script
from gateway.access.key_text import make
from gateway.config.key_file import loads

SCRAPE = """\
gateway_loop_stall_seconds_bucket{le="0.05"} 998.0
gateway_loop_stall_seconds_bucket{le="0.1"} 999.0
gateway_loop_stall_seconds_bucket{le="+Inf"} 1000.0
"""


def users(count: int) -> list[team.User]:
    return [team.User(f"user-{number}", make(bytes([number]) * 32)) for number in range(count)]


def test_a_small_team(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(team, "RAMP", 0.2)
    told = dict(team.measured(users(3), 2, script("paced-20x60")))
    assert told["users x streams, open at once"] == "3 x 2 = 6"
    assert told["failed streams"] == "0"
    assert told["short questions that failed"] == "0"
    assert told["rows in the ledger; tokens in them, and sent"] == "6; 360, 360"
    assert not [what for what, value in told.items() if "nan" in value]


def test_streams_that_are_not_open_together_are_no_measurement(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(team, "RAMP", 0.2)
    with pytest.raises(SystemExit, match="more --seconds"):
        team.measured(users(1), 1, script("paced-20x20"))


def test_a_wrong_answer_is_a_failed_stream() -> None:
    (user,) = users(1)
    user.bodies = [b"event: message_start\n\n"]
    team.check(user, script("short"))
    assert user.failures.total() == 1


def test_the_keys_of_a_team_fit_into_a_file() -> None:
    ring = loads(keys_yaml({user.name: user.key for user in users(200)}).encode(), "keys.yaml")
    assert len(ring.keys) == 200


def test_shares_and_stalls() -> None:
    assert [team.at([3, 1, 2], share) for share in (0.0, 0.5, 1.0)] == [1, 2, 3]
    assert math.isnan(team.at([], 0.5))
    assert team.stall(SCRAPE) == "≤ 100 ms (1,000 samples)"


def test_more_streams_than_files_is_said_at_once() -> None:
    with pytest.raises(SystemExit, match="open files"):
        team.raise_limit(10**9)
