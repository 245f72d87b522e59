"""What a test needs from the machine: there, or a skip with a reason; in CI a failure."""

from __future__ import annotations

import os

import pytest

from nbcontainer.errors import HostError
from nbcontainer.linux import subordinate


def require(condition: object, reason: str) -> None:
    """Go on if ``condition`` holds. Else skip and say why, or fail where everything must be there."""
    if condition:
        return
    if os.environ.get("NBCONTAINER_REQUIRE") == "all":
        pytest.fail(f"needed here (NBCONTAINER_REQUIRE=all): {reason}", pytrace=False)
    pytest.skip(reason)


def rootless() -> bool:
    """Whether containers here are an ordinary user's."""
    return os.geteuid() != 0


def one_id() -> bool:
    """Whether they have that user's id and no other."""
    if not rootless():
        return False
    try:
        subordinate.find()
    except HostError:
        return True
    return False


def only_as_root(reason: str) -> None:
    """Skip a test that an ordinary user cannot do; tests/run does it as root."""
    if rootless():
        pytest.skip(f"only as root: {reason}")


def in_guest() -> bool:
    """Whether this is the guest lane's virtual machine, by software emulation and with few programs."""
    return os.environ.get("NBCONTAINER_TEST_GUEST") == "1"


def full_run() -> bool:
    """Whether this is ``tests/run --full``, where long tests run at full length."""
    return os.environ.get("NBCONTAINER_FULL") == "1"
