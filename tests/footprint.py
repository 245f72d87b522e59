"""What this process has on the machine: processes, cgroups, mounts, file descriptors, temporary files.

A test takes a footprint before and after; whatever is new has leaked. The zygote may stay between tests; the boxes that
the engine makes in advance are dropped first, so that nothing needs to be forgiven.
"""

from __future__ import annotations

import contextlib
import gc
import glob
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import Any

import psutil

CGROUP_ROOT = "/sys/fs/cgroup"
SETTLE_SECONDS = 5.0
"""Linux and the zygote clean up asynchronously; what is still there after this long has leaked."""


@dataclass(frozen=True)
class Footprint:
    """Each field is a sorted tuple with one line for each thing."""

    processes: tuple[str, ...]
    cgroups: tuple[str, ...]
    mounts: tuple[str, ...]
    fds: tuple[str, ...]
    temporary: tuple[str, ...]

    def leaks(self, before: Footprint) -> list[str]:
        """What is here and was not ``before``, a line each."""
        found = []
        for field in fields(self):
            ours, theirs = getattr(self, field.name), getattr(before, field.name)
            new = list(ours)
            for line in theirs:
                if line in new:
                    new.remove(line)
            # File descriptors are told apart by what they lead to, and pipes have new numbers all the time: count.
            if field.name == "fds" and len(ours) <= len(theirs):
                continue
            found += [f"{field.name}: {line}" for line in new]
        return found


def _local_engine() -> object | None:
    module = sys.modules.get("nbcontainer.engine.local")
    return module.ENGINE.current if module is not None else None


def places() -> set[str]:
    """Names of this process's directories in the cgroup hierarchies (one for each engine that was opened)."""
    engine: Any = _local_engine()
    if engine is not None:
        _PLACES.add(engine.state.place)
    return _PLACES


_PLACES: set[str] = set()


def cgroup_directories(place: str) -> list[str]:
    """Every cgroup directory of that name, and below it, in every hierarchy."""
    found = []
    for directory, names, _ in os.walk(CGROUP_ROOT):
        if place in directory.split("/"):
            found.append(directory)
        else:
            # Other kernels' containers come and go while we walk; there is nothing of ours in them.
            names[:] = [name for name in names if not name.startswith("nbc-") or name == place]
    return sorted(found)


def _container_cgroups() -> list[str]:
    return [path for place in sorted(places()) for path in cgroup_directories(place) if os.path.basename(path) != place]


@contextlib.contextmanager
def _without_spares() -> Iterator[None]:
    """While this lasts, there are no boxes that were made in advance: the engine makes them under its lock."""
    engine: Any = _local_engine()
    if engine is None:
        yield
        return
    with engine._lock:
        engine.drop_spares()
        yield


def processes() -> list[str]:
    """This process's descendants, without the zygote itself and the router of its networks."""
    engine = _local_engine()
    helpers = (getattr(engine, "_client", None), *(getattr(getattr(engine, "networks", None), name, None) for name in ("_router", "_pasta")))
    staying = {helper.pid for helper in helpers if helper is not None}
    found = []
    for child in psutil.Process().children(recursive=True):
        if child.pid in staying:
            continue
        try:
            if child.name() == "find" and child.ppid() in staying:
                continue  # the zygote looks for unreadable files once a minute, beside its work
            if any(word.endswith("own_network.py") for word in child.cmdline()):
                continue  # the other machine of the host that these tests are on
            found.append(f"{child.pid} {child.status()} {' '.join(child.cmdline())[:100]}")
        except psutil.NoSuchProcess:
            continue
    return found


def _fds() -> list[str]:
    """Without the engine's control socket, which is there from the first container on that lives for a moment."""
    listener: Any = getattr(getattr(_local_engine(), "state", None), "_listener", None)
    control = listener._socket.fileno() if listener is not None else -1
    found = []
    for fd in os.listdir("/proc/self/fd"):
        if int(fd) == control:
            continue
        try:
            found.append(os.readlink(f"/proc/self/fd/{fd}"))
        except FileNotFoundError:
            continue  # the descriptor that listed the directory
    return sorted(found)


def _mounts() -> list[str]:
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as table:
        return sorted(line.strip() for line in table)


def take() -> Footprint:
    """The footprint now."""
    gc.collect()
    with _without_spares():
        return Footprint(
            processes=tuple(processes()),
            cgroups=tuple(_container_cgroups()),
            mounts=tuple(_mounts()),
            fds=tuple(_fds()),
            temporary=tuple(sorted(glob.glob(f"{tempfile.gettempdir()}/nbc*"))),
        )


def leaks_since(before: Footprint) -> list[str]:
    """What leaked since ``before``; waits for what is on its way out."""
    deadline = time.monotonic() + SETTLE_SECONDS
    while True:
        leaks = take().leaks(before)
        if not leaks or time.monotonic() > deadline:
            return leaks
        time.sleep(0.02)  # nothing tells when the last of several asynchronous clean-ups is done
