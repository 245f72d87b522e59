"""Every system test runs on a working engine and leaves nothing behind; at the end, the engine leaves nothing either."""

from __future__ import annotations

from collections.abc import Iterator

import footprint
import hostnet
import pytest
from facilities import require, rootless

if not rootless():
    # Networks of root's containers have a link to the host. That host is one of the tests' own.
    hostnet.leave_real_host()


@pytest.fixture(scope="package", autouse=True)
def engine_leaves_nothing() -> Iterator[None]:
    """Opens the engine once, so that no test sees what first use makes, and asserts at the end that all of it goes."""
    import nbcontainer
    from nbcontainer.engine import local

    before = footprint.take()
    try:
        result = nbcontainer.run("import time; time.sleep(0.1)", mem="128M")  # long enough to be listed
    except nbcontainer.HostError as error:
        require(False, f"no containers for this user here: {error}")
    assert result.ok, result.describe()
    footprint.places()
    yield
    footprint.places()
    local.shutdown()
    leaks = footprint.leaks_since(before)
    leaks += [f"cgroups: {path}" for place in footprint.places() for path in footprint.cgroup_directories(place)]
    leaks += [f"state: {path}" for place in footprint.places() for path in _state_files(place)]
    assert not leaks, "the engine left behind:\n" + "\n".join(leaks)


def _state_files(place: str) -> list[str]:
    from nbcontainer.state import state_directory

    return [str(path) for path in state_directory().rglob(f"{place}*")]


@pytest.fixture(autouse=True)
def each_test_leaves_nothing(engine_leaves_nothing: None, nothing_leaks: None) -> None:
    """Every system test is held to it."""
