"""How much memory this process may still take, before Linux kills it or what it starts."""

from __future__ import annotations

import os

from nbcontainer.cgroups.files import field, number, read_text
from nbcontainer.cgroups.own import OwnCgroups
from nbcontainer.errors import HostError

V1 = ("memory.limit_in_bytes", "memory.usage_in_bytes", b"total_inactive_file ")
V2 = ("memory.max", "memory.current", b"inactive_file ")
NO_LIMIT_BYTES = 1 << 60


def memory_left_bytes(
    root: str = "/sys/fs/cgroup", proc_self_cgroup: str = "/proc/self/cgroup", mountinfo: str = "/proc/self/mountinfo"
) -> int | None:
    """The least that any of the caller's cgroups has left of its limit, without what Linux can give back at once; None where there is no limit to be seen."""
    try:
        own = OwnCgroups.read(proc_self_cgroup, mountinfo)
        v1 = "memory" in own.paths
        hierarchy = f"{root}/memory" if v1 else root
        path = hierarchy + own.path("memory" if v1 else "", hierarchy)
    except (OSError, HostError, ValueError):
        return None
    left: list[int] = []
    while path.startswith(hierarchy):
        left += _left_at(path.rstrip("/"), V1 if v1 else V2)
        path = os.path.dirname(path)
    return min(left, default=None)


def _left_at(directory: str, names: tuple[str, str, bytes]) -> list[int]:
    limit_name, usage_name, inactive = names
    try:
        limit = read_text(f"{directory}/{limit_name}").strip()
        if limit == "max" or int(limit) >= NO_LIMIT_BYTES:
            return []
        usage = number(read_text(f"{directory}/{usage_name}").strip().encode())
        return [max(0, int(limit) - usage + field(read_text(f"{directory}/memory.stat").encode(), inactive))]
    except (OSError, ValueError):
        return []  # the root of a hierarchy has no such files
