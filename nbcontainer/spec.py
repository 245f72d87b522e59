"""What a container is to be: frozen dataclasses; :mod:`nbcontainer.validate` makes them of what users write.

Sizes are bytes, rates bytes per second, times seconds, CPU shares cores.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, Literal

from nbcontainer.errors import SpecError
from nbcontainer.mounts import Mount, Root
from nbcontainer.ports import Port
from nbcontainer.units import MIB, parse_number, shown

NAMESPACES = ("pid", "net", "mnt", "ipc", "uts", "user", "cgroup")
"""The namespaces of a container by default; ``time`` exists too and is only made when it is asked for."""
ALL_NAMESPACES = (*NAMESPACES, "time")
DEFAULT_PIDS = 256
DEFAULT_MAX_OUTPUT_BYTES = 10 * MIB
DEFAULT_SHM_BYTES = 64 * MIB
"""Docker's; of a writable layer that is smaller, as much as that."""
MINIMUM_NOFILE = 16
"""The runtime itself needs some descriptors until the cell begins."""
CONTAINER_IDS = 65536
"""User and group ids of a container with a user namespace of its own."""
Network = Literal["none", "host", "bridge"]
_ULIMITS = "as core cpu data fsize memlock msgqueue nice nofile nproc rss rtprio rttime sigpending stack".split()


@dataclass(frozen=True, slots=True)
class Limits:
    """What a container may use. ``None`` means: no limit of its own (its parents' still hold)."""

    memory_bytes: int | None = None
    memory_high_bytes: int | None = None
    swap_bytes: int = 0
    cpus: float | None = None
    cpu_weight: int | None = None
    """1 to 10000, 100 is what everybody has (cgroup v2's scale)."""
    cpuset: str | None = None
    pids: int | None = DEFAULT_PIDS
    io_read_bytes_per_second: int | None = None
    io_write_bytes_per_second: int | None = None
    net_bytes_per_second: int | None = None
    """On each network, in each direction."""
    net_delay_seconds: float | None = None


@dataclass(frozen=True, slots=True)
class Ulimit:
    """One resource limit (setrlimit); ``name`` as in ``ulimit``/Docker, such as ``nofile``."""

    name: str
    soft: int
    hard: int

    @classmethod
    def parse(cls, text: str) -> Ulimit:
        """``nofile=64`` or ``nofile=64:128``; -1 is unlimited."""
        name, equals, values = text.partition("=")
        parts = values.split(":")
        if name not in _ULIMITS or not equals or len(parts) > 2:
            raise SpecError(f"--ulimit: {shown(text)} is not NAME=SOFT[:HARD] with NAME one of {', '.join(_ULIMITS)}")
        limits = [int(parse_number(part, "--ulimit", minimum=-1, maximum=2**62, whole=True)) for part in parts]
        if limits[-1] != -1 and not 0 <= limits[0] <= limits[-1]:
            raise SpecError(f"--ulimit: {text!r} has a soft limit above the hard one")
        if name == "nofile" and 0 <= limits[0] < MINIMUM_NOFILE:
            raise SpecError(f"--ulimit: {text!r} leaves no descriptors to start with; give nofile={MINIMUM_NOFILE} or more")
        return cls(name, limits[0], limits[-1])


@dataclass(frozen=True, slots=True)
class ContainerSpec:
    """One container, completely described; build it with :func:`make_spec`."""

    limits: Limits = Limits()
    namespaces: frozenset[str] = frozenset(NAMESPACES)
    root: Root = dataclasses.field(default_factory=Root)
    bare: bool = False
    hostname: str | None = None
    mounts: tuple[Mount, ...] = ()
    read_only: bool = False
    user: str = "root"
    environment: tuple[tuple[str, str], ...] = ()
    workdir: str | None = None
    """None: /workspace where there is one, else /."""
    workspace: str | None = None
    """Host directory that is /workspace, copy-on-write; None: an empty /workspace."""
    workspace_hidden: tuple[str, ...] = ()
    """Directories in it that are empty in the container: those with the keys of Jupyter's kernels."""
    network: Network = "none"
    networks: tuple[str, ...] = ()
    """Where ``network`` is ``bridge``: the networks that it is on, the first of them with its default route."""
    ports: tuple[Port, ...] = ()
    disk_bytes: int = 256 * MIB
    shm_bytes: int = DEFAULT_SHM_BYTES
    """Size of /dev/shm."""
    timeout_seconds: float | None = None
    max_output_bytes: int = DEFAULT_MAX_OUTPUT_BYTES
    ulimits: tuple[Ulimit, ...] = ()
    init: bool = False
    name: str | None = None
    program: tuple[str, ...] = ()
    """Empty: the code is Python, run by the kernel's own Python."""
    interval_seconds: float | None = None
    """None: every 5 ms in the first second, then every 0.1 s."""
    cap_add: tuple[str, ...] = ()
    cap_drop: tuple[str, ...] = ()
    security: str = "default"
    """``default``: with a seccomp filter; ``unconfined``: without."""
    memory_by_default: bool = False
    """``--mem`` was not given: an engine with less memory may lower the limit."""
    session: bool = False
    """Its process runs Python cells that come one after the other."""
    keep: bool = False
    """What it has written stays when it has ended."""
    background: bool = False
    """Nobody waits for it: what it writes goes to a log that forgets."""
    notes: tuple[str, ...] = ()
    """Sentences for the reader about what was chosen, such as an empty /workspace."""
    once: bool = False
    """No other container of this kind is to be expected: none is made in advance."""
    cell_number: int = 0
    """The number of the notebook's cell, as in ``In [5]``; 0: none."""

    @property
    def network_names(self) -> str:
        """As ``docker ps`` lists them, with commas between."""
        return ",".join(self.networks) or self.network

    @property
    def mount_sources(self) -> str:
        return ",".join(mount.shown_source for mount in self.mounts if mount.source)

    def replace(self, **changes: Any) -> ContainerSpec:
        return dataclasses.replace(self, **changes)
