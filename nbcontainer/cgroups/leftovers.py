"""Removing the cgroups of a kernel that is dead, by nothing but their directories."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Sequence

from nbcontainer.cgroups import base, files


class Leftover(base.CgroupBase):
    """A container's directories, of whatever version and hierarchy each of them is."""

    def __init__(self, name: str, directories: Sequence[str]) -> None:
        super().__init__(name, directories[0], directories)
        self._each = [base.CgroupBase(name, directory, ()) for directory in directories]

    def pids(self) -> list[int]:
        # Its kernel may have died when a process was in some of its hierarchies and not yet in the others.
        return sorted({pid for directory in self._each for pid in directory.pids()})

    def kill(self) -> None:
        self._write("cgroup.kill", "1")
        # Frozen tasks cannot fork, and die of SIGKILL only when they are thawed.
        self._write("freezer.state", "FROZEN")
        self.signal_all(signal.SIGKILL)
        self._write("freezer.state", "THAWED")

    def _write(self, name: str, value: str) -> None:
        for directory in self._directories:
            if os.path.exists(f"{directory}/{name}"):
                with contextlib.suppress(OSError):  # it has just gone, or cannot be frozen; remove() waits for the end
                    files.write_text(f"{directory}/{name}", value)


def sweep(places: Sequence[str]) -> list[str]:
    """End and remove the containers in the directories ``places``, and then these. Returns the containers' names.

    Raises SetupError where something survives.
    """
    names = base.children(places)
    for name in names:
        Leftover(name, [f"{place}/{name}" for place in places if os.path.isdir(f"{place}/{name}")]).remove()
    base.remove_place(places, ())
    return names
