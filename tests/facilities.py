"""What a test needs from the machine: there, or a skip with a reason; in CI a failure."""

from __future__ import annotations

import os

import pytest


def require(condition: object, reason: str) -> None:
    """Go on if ``condition`` holds. Else skip and say why, or fail where everything must be there."""
    if condition:
        return
    if os.environ.get("NBCONTAINER_REQUIRE") == "all":
        pytest.fail(f"needed here (NBCONTAINER_REQUIRE=all): {reason}", pytrace=False)
    pytest.skip(reason)


def rootless() -> bool:
    """Whether containers here are an ordinary user's, who has one user id."""
    return os.geteuid() != 0


def only_as_root(reason: str) -> None:
    """Skip a test that an ordinary user cannot do; tests/run does it as root."""
    if rootless():
        pytest.skip(f"only as root: {reason}")


def full_run() -> bool:
    """Whether this is ``tests/run --full``, where long tests run at full length."""
    return os.environ.get("NBCONTAINER_FULL") == "1"
