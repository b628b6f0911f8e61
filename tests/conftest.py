"""What holds for all tests."""

from __future__ import annotations

import os
from collections.abc import Generator

import pytest

pytest.register_assert_rewrite("tests.fakes", "tests.grammar", "tests.recordings")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """With GATEWAY_TESTS_NO_SKIP a skipped test fails: in CI nothing may be missing."""
    report = yield
    if report.skipped and not hasattr(report, "wasxfail") and os.environ.get("GATEWAY_TESTS_NO_SKIP"):
        report.outcome = "failed"
        report.longrepr = f"skipped where nothing may be skipped: {report.longrepr}"
    return report
