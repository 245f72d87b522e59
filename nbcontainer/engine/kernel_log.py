"""Linux's own log of what it killed for memory. Only root may read it, and only where it is not an outer container's."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

KMSG = "/dev/kmsg"
_RECORD_BYTES = 8192
_MOST_RECORDS = 100_000
_STATS = "Memory cgroup stats for "
_STAT = re.compile(r"\d+,\d+,\d+,[^;]*;(\w+) (\d+)")
_END_OF_STATS = "Tasks state (memory values in pages)"


@dataclass(frozen=True, slots=True)
class OomReport:
    """What the log says of one container; as far as it can be read, and as nothing was left out of it."""

    killed: tuple[str, ...] = ()
    """``("python (pid 4711)",)``: the processes that were killed for memory."""
    memory_by_kind: Mapping[str, int] = field(default_factory=dict)
    """At the last kill, as :meth:`nbcontainer.cgroups.Cgroup.memory_by_kind` has it; {} where it is not told."""


def oom_report(container_id: str, cell_pid: int, path: str = KMSG) -> OomReport:
    return read_report(_records(path), container_id, cell_pid)


def read_report(records: Iterable[str], container_id: str, cell_pid: int) -> OomReport:
    # The first line names the cgroup, but there are at most ten of its kind in five seconds; the second is always there.
    by_cgroup = re.compile(rf"oom-kill:.*task_memcg=[^,]*/{re.escape(container_id)}(?:/[^,]*)?,task=(.*),pid=(\d+),uid=")
    by_pid = re.compile(rf"Memory cgroup out of memory: Killed process ({cell_pid}) \((.*?)\)")
    found: dict[int, str] = {}
    stats: dict[str, int] = {}
    ours = False
    for record in records:
        if _STATS in record:
            ours = record.rstrip("\n").endswith(f"/{container_id}:")
            stats = {} if ours else stats
        elif _END_OF_STATS in record:
            ours = False
        elif ours and (stat := _STAT.match(record)):
            stats[stat[1]] = int(stat[2])
        elif match := by_cgroup.search(record):
            found[int(match[2])] = match[1]
        elif match := by_pid.search(record):
            found.setdefault(int(match[1]), match[2])
    return OomReport(tuple(f"{name} (pid {pid})" for pid, name in found.items()), _by_kind(stats))


def _by_kind(stats: Mapping[str, int]) -> dict[str, int]:
    """Version 2's file has anon, file, shmem; version 1's has total_rss, total_cache, total_shmem. Tmpfs counts as file, too, in both."""
    names = ("anon", "file", "shmem") if "anon" in stats else ("total_rss", "total_cache", "total_shmem")
    if any(name not in stats for name in names):
        return {}
    anon, file, shmem = (stats[name] for name in names)
    return {"anon": anon, "file": max(0, file - shmem), "shmem": shmem}


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
