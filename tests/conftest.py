"""What holds for all tests."""

from __future__ import annotations

import os
import socket
from collections.abc import Generator, Iterator

import pytest

pytest.register_assert_rewrite("tests.fakes", "tests.grammar", "tests.recordings")


@pytest.fixture(scope="session")
def closed_port() -> Iterator[int]:
    """A port on which nobody listens, and nobody else can."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield taken.getsockname()[1]


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """With GATEWAY_TESTS_NO_SKIP a skipped test fails: in CI nothing may be missing."""
    report = yield
    if report.skipped and not hasattr(report, "wasxfail") and os.environ.get("GATEWAY_TESTS_NO_SKIP"):
        report.outcome = "failed"
        report.longrepr = f"skipped where nothing may be skipped: {report.longrepr}"
    return report
