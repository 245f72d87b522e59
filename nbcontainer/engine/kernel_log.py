"""Linux's own log of what it killed for memory. Only root may read it, and only where it is not an outer container's."""

from __future__ import annotations

import errno
import os
import re

KMSG = "/dev/kmsg"
_RECORD_BYTES = 8192
_MOST_RECORDS = 100_000


def killed_processes(container_id: str, cell_pid: int, path: str = KMSG) -> tuple[str, ...]:
    """``("python (pid 4711)",)``: the processes of a container that were killed for memory, as far as the log can be read."""
    # The first line names the cgroup, but there are at most ten of its kind in five seconds; the second is always there.
    by_cgroup = re.compile(rf"oom-kill:.*task_memcg=[^,]*/{re.escape(container_id)}(?:/[^,]*)?,task=(.*),pid=(\d+),uid=")
    by_pid = re.compile(rf"Memory cgroup out of memory: Killed process ({cell_pid}) \((.*?)\)")
    found: dict[int, str] = {}
    for record in _records(path):
        if match := by_cgroup.search(record):
            found[int(match[2])] = match[1]
        elif match := by_pid.search(record):
            found.setdefault(int(match[1]), match[2])
    return tuple(f"{name} (pid {pid})" for pid, name in found.items())


def _records(path: str) -> list[str]:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return []
    records = []
    try:
        for _ in range(_MOST_RECORDS):
            try:
                data = os.read(fd, _RECORD_BYTES)
            except OSError as error:
                if error.errno == errno.EPIPE:
                    continue  # this record was overwritten while we read
                break  # EAGAIN: that was all
            if not data:
                break
            records.append(data.decode("utf-8", "replace"))
    finally:
        os.close(fd)
    return records
