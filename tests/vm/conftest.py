"""Tests of the vm engine: guests stay between tests, and at the end no QEMU and no file descriptor is left."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from facilities import require


def qemus() -> list[int]:
    """QEMU processes of this process."""
    return [child.pid for child in psutil.Process().children(recursive=True) if "qemu" in child.name()]


@pytest.fixture(scope="session", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A cache of its own for the whole session, with everything built."""
    from nbcontainer.engine import shutdown
    from nbcontainer.engine.vm import setup

    assert qemus() == []
    fds = len(os.listdir("/proc/self/fd"))
    directory = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NBCONTAINER_VM_CACHE", str(directory))
        found = setup.findings()
        missing = [finding for finding in found if not finding.ok]
        require(not missing, "; ".join(f"{finding.detail} -> {finding.remedy}" for finding in missing))
        setup.set_up(None, False, print)
        yield directory
        shutdown()
    assert qemus() == [], "a QEMU was left behind"
    assert len(os.listdir("/proc/self/fd")) <= fds + 1, "file descriptors were left behind"
