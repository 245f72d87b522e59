"""Control groups: what a container may use and what it has used, behind one protocol for cgroup v1, v2 and hybrid hosts.

Sizes are bytes, rates bytes per second, times seconds. A driver says where containers nest, a :class:`Cgroup` is one
container. What would be written is data first (:class:`CgroupWrite`) and then carried out, so that it can be printed.
"""

from __future__ import annotations

import errno
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Protocol

from nbcontainer.errors import HostError, SetupError
from nbcontainer.events import Sample, Usage
from nbcontainer.spec import Limits

PARENT_VARIABLE = "NBCONTAINER_CGROUP_PARENT"
MAKE = "make the cgroup"
PERIOD_MICROSECONDS = 100_000
NEW = Limits(pids=None, swap_bytes=-1)
"""The limits of a cgroup that was just made: none at all."""
_REMOVE_SECONDS = 5.0
_POLL_SECONDS = 0.0002
_READ_BYTES = 16384
GONE = (errno.ENOENT, errno.ENODEV)
"""What a reading of a cgroup that was removed says."""


@dataclass(frozen=True, slots=True)
class CgroupWrite:
    """One effect on the cgroup file system: ``value`` goes to the file ``path``; "" makes the directory ``path``."""

    path: str
    value: str
    why: str


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


@dataclass(frozen=True, slots=True)
class OwnCgroups:
    """The caller's cgroups by controller ("" is v2's) and the part of each hierarchy that is mounted, by mount point."""

    paths: dict[str, str]
    mount_roots: dict[str, str]

    @classmethod
    def read(cls, proc_self_cgroup: str, mountinfo: str) -> OwnCgroups:
        paths: dict[str, str] = {}
        for line in lines(proc_self_cgroup):
            _, controllers, path = line.split(":", 2)
            paths.update(dict.fromkeys(controllers.split(","), path))
        mounts = [line.split(" ") for line in lines(mountinfo)]
        return cls(paths, {fields[4]: fields[3] for fields in mounts if fields[fields.index("-") + 1].startswith("cgroup")})

    def path(self, controller: str, hierarchy: str) -> str:
        """The caller's cgroup below the directory ``hierarchy``. Raises HostError when it cannot be seen from here."""
        path = self.paths.get(controller, "/")
        # Without a cgroup namespace a Docker container mounts /docker/ID, while /proc/self/cgroup counts from the real root.
        mounted = self.mount_roots.get(hierarchy, "/")
        if mounted != "/" and (path == mounted or path.startswith(mounted + "/")):
            path = path[len(mounted) :] or "/"
        if ".." in path.split("/") or not os.path.isdir(hierarchy + path):
            raise HostError(
                f"this process's own cgroup {path} cannot be seen below {hierarchy}",
                f"choose a place that can: export {PARENT_VARIABLE}=/nbcontainer",
            )
        return path


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


def lines(path: str) -> list[str]:
    return read_text(path).splitlines()


def read_text(path: str) -> str:
    """The file's content; raises OSError."""
    with open(path, encoding="utf-8", errors="surrogateescape") as file:
        return file.read()


def text_or_nothing(path: str) -> str:
    """The file's content without white space around it; "" where it is not there."""
    try:
        return read_text(path).strip()
    except FileNotFoundError:
        return ""


def write_text(path: str, value: str) -> None:
    """One write(2), as cgroup files want it; raises OSError."""
    fd = os.open(path, os.O_WRONLY | os.O_TRUNC | os.O_CLOEXEC)
    try:
        os.write(fd, value.encode())
    finally:
        os.close(fd)


def carry_out(write: CgroupWrite) -> None:
    """Raises OSError."""
    if write.value:
        write_text(write.path, write.value)
    else:
        os.mkdir(write.path)


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
            read = os.pread(fd, _READ_BYTES, 0).decode()
        finally:
            os.close(fd)
    except OSError as error:
        number = error.errno or 0
        raise SetupError(step_of(write.path), number, write.path, remedy(write, number)) from error
    written, read = write.value.strip(), read.strip()
    if read != written and not in_force(os.path.basename(write.path), written, read):
        raise SetupError(step_of(write.path), 0, write.path, f"wrote {written!r}, but Linux says {read!r}")


def number(data: bytes) -> int:
    """A file that holds one number; 0 for what is not there."""
    return int(data) if data else 0


def field(data: bytes, key: bytes) -> int:
    """The number after ``key`` (``b"inactive_file "``) at the start of a line; 0 where there is none."""
    _, found, rest = (b"\n" + data).partition(b"\n" + key)
    return int(rest.partition(b"\n")[0]) if found else 0


class KeptFiles:
    """Readings by pread on kept fds cost a third of open, read and close. Other threads may read while one closes."""

    def __init__(self) -> None:
        self._fds: dict[str, int] = {}
        self._lock = threading.Lock()
        self._closed = False
        self._holders = 0

    def open(self, path: str, flags: int = os.O_RDONLY) -> int:
        """A kept fd; raises OSError, ENODEV once all are closed."""
        with self._lock:
            return self._open(path, flags)

    def read(self, path: str) -> bytes:
        """The file's content now; ``""`` is a file that is not there. Raises OSError, ENODEV once all are closed."""
        if not path:
            return b""
        # Not without the lock: the number of a closed fd is soon another file's.
        with self._lock:
            fd = None if self._closed else self._fds.get(path)
            return os.pread(self._open(path, os.O_RDONLY) if fd is None else fd, _READ_BYTES, 0)

    def _open(self, path: str, flags: int) -> int:
        if self._closed:
            raise OSError(errno.ENODEV, os.strerror(errno.ENODEV), path)
        if path not in self._fds:
            self._fds[path] = os.open(path, flags | os.O_CLOEXEC)
        return self._fds[path]

    @contextmanager
    def held(self) -> Iterator[None]:
        """Whoever closes meanwhile leaves the fds to this."""
        with self._lock:
            self._holders += 1
        try:
            yield
        finally:
            with self._lock:
                self._holders -= 1
                self._let_go()

    def close(self) -> None:
        """For good."""
        with self._lock:
            self._closed = True
            self._let_go()

    def _let_go(self) -> None:
        if self._closed and not self._holders:
            fds, self._fds = list(self._fds.values()), {}
            for fd in fds:
                os.close(fd)


class CgroupBase:
    """What both versions share. ``main`` is the directory that knows all processes, ``directories`` are removed in turn."""

    def __init__(self, name: str, main: str, directories: Sequence[str]) -> None:
        self.name = name
        self._main = main
        self._directories = tuple(directories)
        self._files = KeptFiles()
        self._memory_peak = self._pids_peak = 0

    def held(self) -> AbstractContextManager[object]:
        return self._files.held()

    def kill(self) -> None:
        raise NotImplementedError

    def pids(self) -> list[int]:
        # Never by a kept fd: on v1 that goes on showing the list of its first reading until a second without readings.
        data = [_procs(self._main)]
        try:
            # kernfs counts subdirectories in st_nlink, so that most calls need not look for nested cgroups.
            if os.stat(self._main).st_nlink > 2:
                data += [_procs(directory) for directory, _, _ in os.walk(self._main) if directory != self._main]
        except FileNotFoundError:
            return []
        # 0 stands for a process outside the reader's pid namespace; to signal "0" would be to signal oneself.
        return [int(pid) for text in data for pid in text.split() if pid != "0"]

    def signal_all(self, signum: int, wanted: Callable[[int], bool] | None = None) -> None:
        """Raises SetupError(step="signal the container") where the user may not signal the container's ids."""
        fds: dict[int, int] = {}
        refused = 0
        try:
            for pid in self.pids():
                try:
                    fds[pid] = os.pidfd_open(pid)
                except ProcessLookupError:
                    continue
            # Whoever is still listed was not recycled between the list and its pidfd.
            for pid in self.pids():
                try:
                    if pid in fds and (wanted is None or wanted(pid)):
                        signal.pidfd_send_signal(fds[pid], signum)
                except (ProcessLookupError, FileNotFoundError):
                    continue
                except PermissionError:
                    refused = pid
        finally:
            for fd in fds.values():
                os.close(fd)
        if refused:
            raise SetupError("signal the container", errno.EPERM, f"process {refused}")

    def remove(self) -> None:
        deadline = time.monotonic() + _REMOVE_SECONDS
        turn = 0
        while pids := self.pids():
            if turn % 50 == 0:
                self.kill()
            if time.monotonic() > deadline:
                remedy = f"processes {pids} survive SIGKILL; look for state D or T in: ps -o pid,stat,wchan,cmd {pids[0]}"
                raise SetupError("remove the cgroup", errno.EBUSY, self._main, remedy)
            turn += 1
            time.sleep(_POLL_SECONDS)
        self.close()
        for directory in self._directories:
            remove_directory(directory, deadline)

    def close(self) -> None:
        self._files.close()

    def _wait_for(self, path: str, wanted: str, step: str, seconds: float = 1.0) -> None:
        deadline = time.monotonic() + seconds
        while wanted not in read_text(path):
            if time.monotonic() > deadline:
                raise SetupError(step, errno.EBUSY, path, "a process of the container waits in Linux; kill the container")
            time.sleep(_POLL_SECONDS)


def _procs(directory: str) -> str:
    try:
        return read_text(f"{directory}/cgroup.procs")
    except OSError as error:
        if error.errno not in GONE:
            raise
        return ""


def remove_directory(path: str, deadline: float) -> None:
    """rmdir, nested cgroups first; a dying process keeps a cgroup busy for a moment. Raises SetupError."""
    while True:
        try:
            os.rmdir(path)
            return
        except FileNotFoundError:
            return
        except OSError as error:
            if error.errno not in (errno.EBUSY, errno.ENOTEMPTY) or time.monotonic() > deadline:
                raise SetupError("remove the cgroup", error.errno or 0, path) from error
        for entry in list(os.scandir(path)):
            if entry.is_dir(follow_symlinks=False):
                remove_directory(entry.path, deadline)
        time.sleep(_POLL_SECONDS)


def remove_place(places: Sequence[str], made: Sequence[str]) -> None:
    """Remove ``places``, and the directories ``made`` above them unless other kernels use them. Raises SetupError."""
    for directory in (*places, *reversed(made)):
        try:
            os.rmdir(directory)
        except OSError as error:
            busy = error.errno in (errno.EBUSY, errno.ENOTEMPTY) and directory not in places
            if not busy and error.errno != errno.ENOENT:
                raise SetupError("remove the cgroup", error.errno or 0, directory) from error


def children(directories: Sequence[str]) -> list[str]:
    """Names of the directories in ``directories``, each once, in order."""
    entries = [entry for directory in directories if os.path.isdir(directory) for entry in os.scandir(directory)]
    return sorted({entry.name for entry in entries if entry.is_dir(follow_symlinks=False)})
