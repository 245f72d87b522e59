"""All containers of this user, of all kernels: readings, rates and a short history of each. No front end in here."""

from __future__ import annotations

import math
import os
import time
from collections import deque
from dataclasses import dataclass, field
from pathlib import PurePath

from nbcontainer.cgroups import Cgroup, Driver, open_driver
from nbcontainer.cgroups.readback import limits_in_force
from nbcontainer.engine.controls import network_bytes
from nbcontainer.errors import HostError
from nbcontainer.events import Sample
from nbcontainer.spec import Limits
from nbcontainer.state import ContainerRecord, Place, list_places
from nbcontainer.units import format_size
from nbcontainer.verbs.listing import STATS
from nbcontainer.verbs.shown import Table

HISTORY = 60


@dataclass(slots=True)
class Member:
    """One running container; what cannot be read is NaN. Percent are of one core."""

    record: ContainerRecord
    cgroup: Cgroup | None
    limits: Limits = field(default_factory=Limits)
    last: Sample | None = None
    cpu_percent: float = math.nan
    cpu_history: deque[float] = field(default_factory=lambda: deque(maxlen=HISTORY))
    memory_history: deque[int] = field(default_factory=lambda: deque(maxlen=HISTORY))

    def look(self) -> None:
        try:
            sample = self._sample()
        except OSError:
            return  # it has just ended
        if sample is None:
            return
        if self.last is not None and sample.monotonic_seconds > self.last.monotonic_seconds:
            width = sample.monotonic_seconds - self.last.monotonic_seconds
            self.cpu_percent = max(0.0, 100 * (sample.cpu_seconds - self.last.cpu_seconds) / width)
            self.cpu_history.append(self.cpu_percent)
        self.memory_history.append(sample.memory_bytes)
        self.last = sample

    def _sample(self) -> Sample | None:
        if self.cgroup is not None:
            self.limits = limits_in_force(self.cgroup, self.limits)
            return self.cgroup.sample()
        # In a virtual machine: what its own kernel has published.
        self.limits = Limits(memory_bytes=self.record.memory_limit_bytes, cpus=self.record.cpus)
        return Sample(**self.record.sample) if self.record.sample is not None else None  # type: ignore[arg-type]


    def network_bytes(self) -> tuple[int, int] | None:
        """(received, sent) in a network namespace of its own; zeros where it has the host's; None where it cannot be seen."""
        if self.cgroup is None:
            return None
        try:
            shared = os.stat(f"/proc/{self.record.pid}/ns/net").st_ino == os.stat("/proc/self/ns/net").st_ino
        except OSError:
            return None
        return (0, 0) if shared else network_bytes(self.record.pid)


class Crowd:
    """Look at it again and again; :meth:`close` when done."""

    def __init__(self, only: frozenset[str] | None = None) -> None:
        """``only``: the containers of these ids."""
        self._only = only
        self._drivers: dict[str, Driver | None] = {}
        self._members: dict[str, Member] = {}

    def look(self) -> list[Member]:
        """The containers that run now, each with one more reading."""
        everything = ((place, record) for place in list_places() for record in place.containers)
        found = {record.id: (place, record) for place, record in everything if self._only is None or record.id in self._only}
        for gone in self._members.keys() - found.keys():
            self._forget(gone)
        for container_id, (place, record) in found.items():
            if container_id not in self._members:
                self._members[container_id] = Member(record, self._open(place, container_id))
            self._members[container_id].record = record
            self._members[container_id].look()
        return sorted(self._members.values(), key=lambda member: member.record.created_unix_seconds)

    def _open(self, place: Place, container_id: str) -> Cgroup | None:
        if place.name not in self._drivers:
            try:
                self._drivers[place.name] = open_driver(place.name, parent=parent_of(place.directories))
            except HostError:
                self._drivers[place.name] = None
        driver = self._drivers[place.name]
        # A container in a virtual machine has none here.
        return driver.adopt(container_id) if driver is not None and container_id in driver.names() else None

    def _forget(self, container_id: str) -> None:
        cgroup = self._members.pop(container_id).cgroup
        if cgroup is not None:
            cgroup.close()

    def close(self) -> None:
        for container_id in list(self._members):
            self._forget(container_id)


def parent_of(directories: tuple[str, ...], root: str = "/sys/fs/cgroup") -> str | None:
    """Where a kernel nests, below each hierarchy's root: its NBCONTAINER_CGROUP_PARENT need not be ours. None: it differs."""
    hierarchies = 0 if os.path.exists(f"{root}/cgroup.controllers") else 1
    parents = {PurePath(directory).relative_to(root).parent.parts[hierarchies:] for directory in directories}
    return "/" + "/".join(parents.pop()) if len(parents) == 1 else None


def stats_table(members: list[Member]) -> Table:
    """With ``docker stats``' columns. What is not known is ``-``."""
    table = STATS.shown(list(map(stats_row, members)), None)
    assert isinstance(table, Table)
    return table


def stats_row(member: Member) -> dict[str, str]:
    """By the names that Docker's templates have."""
    record, last, limit = member.record, member.last, member.limits.memory_bytes
    traffic = member.network_bytes()
    received, sent = map(format_size, traffic) if traffic is not None else ("-", "-")
    return {
        "ID": record.id,
        "Name": record.name,
        "Container": record.name,
        "CPUPerc": "-" if math.isnan(member.cpu_percent) else f"{member.cpu_percent:.2f}%",
        "MemUsage": f"{format_size(last.memory_bytes) if last else '-'} / {format_size(limit) if limit else '-'}",
        "MemPerc": f"{100 * last.memory_bytes / limit:.2f}%" if last and limit else "-",
        "NetIO": f"{received} / {sent}",
        "BlockIO": f"{format_size(last.io_read_bytes)} / {format_size(last.io_write_bytes)}" if last else "-",
        "PIDs": str(last.pids) if last else "-",
    }


def look_twice(only: frozenset[str] | None = None, seconds: float = 0.2) -> list[Member]:
    """Two readings, so that there are rates. ``only``: the containers of these ids."""
    crowd = Crowd(only)
    try:
        crowd.look()
        time.sleep(seconds)
        return crowd.look()
    finally:
        crowd.close()
