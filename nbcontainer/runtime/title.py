"""What ``ps`` shows of the zygote and of all that is forked from it: not how Python was started."""

from __future__ import annotations

import os

TITLE = b"python (nbcontainer)"
_ARGUMENTS = 45
"""Where arg_start and arg_end are among the fields of /proc/self/stat behind the process's name (proc(5): 48 and 49)."""


def name_process(title: bytes = TITLE) -> None:
    """Where Linux refuses, the old name stays: it is for readers only.

    /proc/PID/cmdline ends at the first NUL where the last byte of the arguments is none any more: so Linux lets setproctitle(3) work.
    """
    try:
        with open("/proc/self/stat", "rb") as file:
            start, end = map(int, file.read().rpartition(b")")[2].split()[_ARGUMENTS : _ARGUMENTS + 2])
        if end - start < len(title) + 2:
            return
        fd = os.open("/proc/self/mem", os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.pwrite(fd, title + b"\0", start)
            os.pwrite(fd, b"-", end - 1)
        finally:
            os.close(fd)
    except (OSError, ValueError):
        return
