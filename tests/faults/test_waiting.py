"""Clients that say too little, and clients that hear too little (long_waits.py). This file is the last to be run."""

from __future__ import annotations

import pytest

from tests.faults.long_waits import (
    PING_LATE_SECONDS,
    PING_SECONDS,
    PINGS,
    SILENCES,
    UNFINISHED_BODIES,
    UNFINISHED_HEADS,
    LongWaits,
)


@pytest.mark.parametrize("name", UNFINISHED_HEADS)
def test_an_unfinished_head_is_cut(long_waits: LongWaits, name: str) -> None:
    """H1."""
    assert long_waits.result("head", name) is not None


@pytest.mark.parametrize("name", SILENCES)
def test_a_client_hears_pings_in_time(long_waits: LongWaits, name: str) -> None:
    """S12, S13: two of them; no silence is longer than the interval and half a second."""
    heard = long_waits.result("ping", name)
    assert heard.body.startswith(b"HTTP/1.1 200 ")
    assert heard.body.count(b"event: ping") == PINGS
    assert max(heard.silences) <= PING_SECONDS + PING_LATE_SECONDS


@pytest.mark.parametrize("name", UNFINISHED_BODIES)
def test_an_unfinished_body_is_cut(long_waits: LongWaits, name: str) -> None:
    """H2."""
    assert long_waits.result("body", name) is not None
