"""What a container's cgroup files say beside the samples: its limits in force, and its pressure. Both versions."""

from __future__ import annotations

import dataclasses

from nbcontainer.cgroups import Cgroup
from nbcontainer.cgroups.files import read_text
from nbcontainer.spec import Limits

_UNLIMITED_BYTES = 1 << 62
_RESOURCES = ("cpu", "memory", "io")


def limits_in_force(cgroup: Cgroup, asked: Limits) -> Limits:
    """``asked`` with what Linux rounds (memory, in pages) or may have been changed by others, as the files say."""
    directories = dict(cgroup.views())
    v2 = directories.get("")
    if v2 is not None:
        memory, high, quota = _number(f"{v2}/memory.max"), _number(f"{v2}/memory.high"), _words(f"{v2}/cpu.max")
    else:
        memory, high = _number(f"{directories.get('memory', '')}/memory.limit_in_bytes"), None
        cpu = directories.get("cpu", "")
        quota = [*_words(f"{cpu}/cpu.cfs_quota_us"), *_words(f"{cpu}/cpu.cfs_period_us")]
    cpus = None
    if len(quota) == 2 and quota[0] not in ("max", "-1"):
        cpus = round(int(quota[0]) / int(quota[1]), 5)
    pids = _number(f"{directories.get('pids', v2 or '')}/pids.max")
    return dataclasses.replace(asked, memory_bytes=memory, memory_high_bytes=high, cpus=cpus, pids=pids)


def pressure_seconds(cgroup: Cgroup) -> dict[str, float]:
    """``cpu``, ``memory``, ``io`` → seconds in which some process waited for it; without what this Linux does not count."""
    directories = dict(cgroup.views())
    directory = directories.get("", directories.get("unified", ""))
    found = {}
    for resource in _RESOURCES:
        for word in _words(f"{directory}/{resource}.pressure"):
            if word.startswith("total="):
                found[resource] = int(word.removeprefix("total=")) / 1e6
                break  # the first line is "some", the second "full"
    return found


def _words(path: str) -> list[str]:
    """[] for a file that is not there or cannot be read (PSI may be compiled in and turned off: EOPNOTSUPP)."""
    try:
        return read_text(path).split()
    except OSError:
        return []


def _number(path: str) -> int | None:
    words = _words(path)
    if not words or words[0] == "max" or int(words[0]) >= _UNLIMITED_BYTES:
        return None
    return int(words[0])
