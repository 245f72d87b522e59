"""Control groups: what a container may use and what it has used, behind one protocol for cgroup v1, v2 and hybrid hosts.

Sizes are bytes, rates bytes per second, times seconds. A driver says where containers nest, a :class:`Cgroup` is one
container. What would be written is data first (:class:`CgroupWrite`) and then carried out, so that it can be printed.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial
from typing import Protocol

from nbcontainer.cgroups.files import CgroupWrite
from nbcontainer.cgroups.own import PARENT_VARIABLE, OwnCgroups
from nbcontainer.errors import HostError
from nbcontainer.events import Sample, Usage
from nbcontainer.spec import Limits


class Cgroup(Protocol):
    """One container's cgroup (on v1: one directory per hierarchy). It owns every fd that it hands out."""

    name: str

    def set_limits(self, limits: Limits, previous: Limits | None = None) -> None:
        """Put ``limits`` in force and read them back; with ``previous``, change a running container's.

        Raises HostError when this host cannot, before anything is written; SetupError(step="limit memory", "limit cpu",
        "limit cpuset", "limit pids" or "limit io") when Linux refuses; ``previous`` is then in force again.
        """

    def task_fds(self) -> list[int]:
        """v1: ``tasks`` files, one per hierarchy, open for writing; the child itself writes ``0`` to each. v2: []."""

    def clone_fd(self) -> int:
        """v2, hybrid: the directory for CLONE_INTO_CGROUP; -1 on plain v1."""

    def held(self) -> AbstractContextManager[object]:
        """While this lasts, the fds that it has handed out stay open, also when another thread closes it."""

    def views(self) -> tuple[tuple[str, str], ...]:
        """(name below /sys/fs/cgroup in the container, directory on the host)."""

    def sample(self) -> Sample:
        """One reading. Raises OSError (ENOENT, ENODEV) when the cgroup is gone."""

    def usage(self, wall_seconds: float, last: Sample | None = None) -> Usage:
        """The final account, of ``last`` or a new sample; before :meth:`remove`."""

    def oom_kills(self) -> int: ...

    def memory_by_kind(self) -> dict[str, int]:
        """Bytes of ``anon`` memory, ``file`` (page cache without tmpfs) and ``shmem`` (tmpfs and shared memory)."""

    def pids(self) -> list[int]:
        """Host-side ids of all processes, those in nested cgroups included; [] when the cgroup is gone."""

    def signal_all(self, signum: int, wanted: Callable[[int], bool] | None = None) -> None:
        """``wanted`` chooses processes by their host-side ids; it may raise ProcessLookupError or FileNotFoundError."""

    def kill(self) -> None:
        """SIGKILL to every process, frozen ones too; returns before they are gone."""

    def freeze(self) -> None: ...

    def thaw(self) -> None: ...

    def remove(self) -> None:
        """Kill what is left, wait up to 5 s, remove all, close the fds. Idempotent. Raises SetupError("remove the cgroup")."""

    def close(self) -> None: ...


class Driver(Protocol):
    """Where the containers of one kernel nest."""

    version: int
    """2, or 1 (hybrid hosts too)."""
    place: str
    """For people: where containers nest."""
    directories: tuple[str, ...]
    """The kernel's own directories, absolute, one in each hierarchy; each container has one in each of them."""
    controllers: frozenset[str]
    """Controllers that containers can have here, by their names on this host."""

    def create(self, name: str, limits: Limits) -> Cgroup:
        """Directories, without limits yet, for a container that will have ``limits``. HostError, SetupError."""

    def plan(self, name: str, limits: Limits) -> tuple[CgroupWrite, ...]:
        """What :meth:`create` and :meth:`Cgroup.set_limits` will do, in order; no effect. Raises HostError."""

    def views(self, limits: Limits) -> tuple[str, ...]:
        """The names of :meth:`Cgroup.views` for a container that will have ``limits``."""

    def names(self) -> list[str]: ...

    def adopt(self, name: str) -> Cgroup:
        """An existing container's cgroup, to look at or remove."""

    def remove_place(self) -> None:
        """Remove the kernel's own directory. Raises SetupError while containers are in it."""


def open_driver(
    place: str,
    *,
    root: str = "/sys/fs/cgroup",
    proc_self_cgroup: str = "/proc/self/cgroup",
    parent: str | None = None,
    mountinfo: str = "/proc/self/mountinfo",
    io_directory: str = "/",
) -> Driver:
    """The driver for what is mounted at ``root``; containers live in ``<hierarchy>/<parent>/<place>/<name>``.

    ``parent`` (a path below each hierarchy's root) defaults to $NBCONTAINER_CGROUP_PARENT, else to the caller's own
    cgroups. I/O limits hold for the disk of ``io_directory``. Nothing is made or moved before the first ``create``.
    Raises HostError with the command that mends the host.
    """
    from nbcontainer.cgroups.devices import block_device
    from nbcontainer.cgroups.v1 import V1Driver
    from nbcontainer.cgroups.v2 import V2Driver

    if parent is None:
        parent = os.environ.get(PARENT_VARIABLE) or None
    if parent is not None:
        if ".." in parent.split("/"):
            raise HostError(f"{PARENT_VARIABLE}={parent} leads out of the hierarchy", f"export {PARENT_VARIABLE}=/nbcontainer")
        parent = "/" + parent.strip("/")
    own, device = OwnCgroups.read(proc_self_cgroup, mountinfo), partial(block_device, io_directory)
    driver = V2Driver if os.path.exists(f"{root}/cgroup.controllers") else V1Driver
    try:
        return driver(root, place, parent, own, device)
    except HostError:
        if os.environ.get("container") != "nbcontainer":  # noqa: SIM112 (systemd's name for it)
            raise
        raise HostError(
            "this is a container of nbcontainer's already, which can read its limits and not make others",
            "run this cell in a kernel of the host's, or in a virtual machine: --engine vm",
        ) from None
