"""Fixtures for all tests."""

from __future__ import annotations

import os
from collections.abc import Iterator

import footprint
import pytest
from hypothesis import settings

settings.register_profile("nbcontainer", deadline=None, derandomize=bool(os.environ.get("CI")))
settings.load_profile("nbcontainer")


@pytest.fixture
def nothing_leaks() -> Iterator[None]:
    """Fails the test when it leaves a process, a cgroup, a mount, a file descriptor or a temporary file behind."""
    before = footprint.take()
    yield
    leaks = footprint.leaks_since(before)
    assert not leaks, "left behind:\n" + "\n".join(leaks)


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """All of it takes hours in the guest: what failed is said at once, and not only at the end."""
    if report.failed and os.environ.get("NBCONTAINER_TEST_GUEST"):
        print(f"\n{report.nodeid} ({report.when}) failed:\n{report.longreprtext}\n", flush=True)
