"""A ledger in a folder of its own, whose thread does not take its time."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from gateway.ledger import store
from gateway.ledger.store import Ledger
from tests.ledger.records import SECONDS, Listener


@pytest.fixture
def listener() -> Iterator[Listener]:
    listener = Listener()
    logger = logging.getLogger("gateway.ledger")
    logger.addHandler(listener)
    yield listener
    logger.removeHandler(listener)


@pytest.fixture
def begin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Ledger]]:
    """Starts ledgers of usage.db; they are closed at the end, if nobody did it before."""
    for name in ("BATCH_SECONDS", "OPEN_AFTER_SECONDS", "RETRY_SECONDS"):
        monkeypatch.setattr(store, name, 0.001)
    begun: list[Ledger] = []

    def begin(path: Path | None = None, **options: Any) -> Ledger:
        ledger = Ledger(path or tmp_path / "usage.db", **options)
        ledger.start()
        begun.append(ledger)
        return ledger

    yield begin
    for ledger in begun:
        ledger.close(SECONDS)
