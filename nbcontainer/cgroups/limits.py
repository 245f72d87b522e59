"""Limits: which are asked for, and putting one in force."""

from __future__ import annotations

import os
from collections.abc import Callable

from nbcontainer.cgroups.files import READ_BYTES, CgroupWrite
from nbcontainer.errors import SetupError
from nbcontainer.spec import Limits

PERIOD_MICROSECONDS = 100_000
NEW = Limits(pids=None, swap_bytes=-1)
"""The limits of a cgroup that was just made: none at all."""


def asked(limits: Limits) -> list[tuple[str, str]]:
    """(controller by its v2 name, option) for each limit that is asked for."""
    knobs = (
        ("memory", "--mem", (limits.memory_bytes, limits.memory_high_bytes)),
        ("pids", "--pids", (limits.pids,)),
        ("cpu", "--cpus", (limits.cpus, limits.cpu_weight)),
        ("cpuset", "--cpuset", (limits.cpuset,)),
        ("io", "--io-read, --io-write", (limits.io_read_bytes_per_second, limits.io_write_bytes_per_second)),
    )
    return [(controller, option) for controller, option, values in knobs if any(value is not None for value in values)]


def step_of(path: str) -> str:
    """``/…/memory.max`` → ``"limit memory"``."""
    return "limit " + os.path.basename(path).split(".")[0].replace("blkio", "io")


def put_limit(
    write: CgroupWrite, in_force: Callable[[str, str, str], bool], remedy: Callable[[CgroupWrite, int], str]
) -> None:
    """Write a limit and read it back: ``in_force(file name, written, read)``. Raises SetupError, with ``remedy(write, errno)``."""
    try:
        fd = os.open(write.path, os.O_RDWR | os.O_TRUNC | os.O_CLOEXEC)
        try:
            os.write(fd, write.value.encode())
            read = os.pread(fd, READ_BYTES, 0).decode()
        finally:
            os.close(fd)
    except OSError as error:
        number = error.errno or 0
        raise SetupError(step_of(write.path), number, write.path, remedy(write, number)) from error
    written, read = write.value.strip(), read.strip()
    if read != written and not in_force(os.path.basename(write.path), written, read):
        raise SetupError(step_of(write.path), 0, write.path, f"wrote {written!r}, but Linux says {read!r}")
