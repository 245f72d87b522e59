"""What is written to put limits in force on cgroup v1, and whether it is."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from nbcontainer.cgroups import files, v2
from nbcontainer.cgroups.files import CgroupWrite
from nbcontainer.cgroups.limits import NEW, PERIOD_MICROSECONDS
from nbcontainer.spec import Limits

if TYPE_CHECKING:
    from nbcontainer.cgroups.v1 import V1Driver

_MEMSW = "memory.memsw.limit_in_bytes"


def limit_writes(
    directories: dict[str, str], limits: Limits, previous: Limits | None, driver: V1Driver
) -> list[CgroupWrite]:
    """The writes that lead from ``previous`` (None: a new cgroup) to ``limits``."""
    old, writes = previous or NEW, []

    def put(controller: str, file: str, value: str, why: str) -> None:
        writes.append(CgroupWrite(f"{directories[controller]}/{file}", value, why))

    if "memory" in directories and previous is None:
        put("memory", "memory.oom_control", "0", "a parent may stall its children instead of killing them; that is inherited")
    if "memory" in directories:
        writes += _memory_writes(directories["memory"], limits, old, driver.counts_swap())
    if limits.cpus != old.cpus:
        quota = -1 if limits.cpus is None else round(limits.cpus * PERIOD_MICROSECONDS)
        put("cpu", "cpu.cfs_period_us", str(PERIOD_MICROSECONDS), "--cpus: the period in microseconds")
        put("cpu", "cpu.cfs_quota_us", str(quota), "--cpus: microseconds of CPU time in each period")
    if limits.cpu_weight != old.cpu_weight:
        shares = max(2, round((limits.cpu_weight or 100) * 1024 / 100))
        put("cpu", "cpu.shares", str(shares), "--cpu-weight: the share when CPUs are short (1024 is everybody's)")
    if limits.cpuset != old.cpuset:
        directory = directories["cpuset"]
        cpus = limits.cpuset or files.text_or_nothing(f"{os.path.dirname(directory)}/cpuset.cpus")
        put("cpuset", "cpuset.cpus", cpus, "--cpuset: the CPUs it may run on")
    if limits.pids != old.pids:
        put("pids", "pids.max", "max" if limits.pids is None else str(limits.pids), "--pids: processes and threads")
    for kind, rate, before in (
        ("read", limits.io_read_bytes_per_second, old.io_read_bytes_per_second),
        ("write", limits.io_write_bytes_per_second, old.io_write_bytes_per_second),
    ):
        if rate != before:
            why = f"--io-{kind}: bytes per second of this disk; v1 throttles direct I/O only"
            put("blkio", f"blkio.throttle.{kind}_bps_device", f"{driver.device()} {rate or 0}", why)
    return writes


def _memory_writes(directory: str, limits: Limits, old: Limits, counts_swap: bool) -> list[CgroupWrite]:
    def both(given: Limits) -> tuple[float, float]:
        memory = float("inf") if given.memory_bytes is None else given.memory_bytes
        return memory, memory + max(0, given.swap_bytes)

    (memory, with_swap), (old_memory, old_with_swap) = both(limits), both(old)
    writes = []
    if memory != old_memory:
        writes.append(CgroupWrite(f"{directory}/memory.limit_in_bytes", _bytes(memory), "--mem: above it Linux kills"))
    if counts_swap and with_swap != old_with_swap:
        why = "memory and swap together: no swap beyond --swap"
        writes.append(CgroupWrite(f"{directory}/{_MEMSW}", _bytes(with_swap), why))
    # v1 refuses (EINVAL) any moment at which the limit is above the limit with swap.
    return writes[::-1] if memory > old_with_swap else writes


def _bytes(limit: float) -> str:
    return "-1" if limit == float("inf") else str(int(limit))


def in_force(name: str, written: str, read: str) -> bool:
    """Whether the cgroup v1 file ``name`` that reads ``read`` says what ``written`` asked for."""
    if name == "memory.oom_control":
        return f"oom_kill_disable {written}" in read.splitlines()
    if name.startswith("blkio."):
        return written in read.splitlines() or (written.endswith(" 0") and written.split()[0] not in read.split())
    return v2.in_force(name, written, read)
