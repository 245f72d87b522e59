"""What outlives a call: one locked file per kernel, id ranges, and sweeping what a killed kernel left.

Liveness is a lock, never a pid: a kernel holds an exclusive lock on its file for as long as it lives, however it ends.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import secrets
import shutil
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from nbcontainer.cgroups.leftovers import sweep
from nbcontainer.errors import HostError, SetupError
from nbcontainer.listener import Listener

ID_RANGE_START = 0x70000000
"""Above what systemd gives to its containers (up to 0x6FFFFFFF) and below 2^31, where some programs stop."""
ID_RANGE_COUNT = 65536
ID_RANGES = 4000
CONTROL = "control"
READ_ATTEMPTS = 5


@dataclass(frozen=True, slots=True)
class ContainerRecord:
    """A running container, as ``ps`` shows it; times are Unix seconds, sizes bytes."""

    kernel_pid: int
    id: str
    name: str
    pid: int
    status: str
    created_unix_seconds: float
    command: str
    memory_limit_bytes: int | None
    root: str = ""
    cpus: float | None = None
    sample: dict[str, float] | None = None
    """Of a container that has no cgroup on this host: its last reading, as a :class:`~nbcontainer.events.Sample` has it."""
    ports: str = ""
    """Published ones, as Docker lists them."""
    networks: str = ""
    mounts: str = ""
    """Volumes and paths of the host, with commas between."""


def state_directory() -> Path:
    """/run/nbcontainer for root, else below XDG_RUNTIME_DIR or ~/.local/state; made when missing."""
    if os.geteuid() == 0:
        path = Path("/run/nbcontainer")
    else:
        runtime = os.environ.get("XDG_RUNTIME_DIR")
        path = Path(runtime) / "nbcontainer" if runtime else Path.home() / ".local/state/nbcontainer"
    try:
        # Passable, because a container's root attaches its own root below stage/ with ids that nobody else has.
        for directory, mode in ((path, 0o711), (path / "kernels", 0o700), (path / "stage", 0o711)):
            directory.mkdir(mode=mode, parents=True, exist_ok=True)
        owner = path.stat().st_uid
    except OSError as error:
        elsewhere = "make room on its disk, or export XDG_RUNTIME_DIR= to a directory of your own on another one"
        remedy = elsewhere if error.errno in (errno.ENOSPC, errno.EDQUOT) else f"mkdir -p {path} and make it yours"
        raise HostError(f"no place for state: {path}: {error.strerror}", remedy) from None
    if owner != os.geteuid():
        # Where others may write, such as an XDG_RUNTIME_DIR in /tmp: who owns it chooses what we remove and mount.
        raise HostError(f"no place for state: {path} belongs to user {owner}", "export XDG_RUNTIME_DIR= to a directory of your own, or unset it")
    return path


_serve: Callable[[socket.socket], None] | None = None


def answer_with(serve: Callable[[socket.socket], None]) -> None:
    """What other processes of this user ask of this one's kernel is answered by ``serve``, which knows much more than this module."""
    global _serve
    _serve = serve


class KernelState:
    """This kernel's file: locked while it lives, listing its cgroup place and its running containers.

    From the first container on that is listed, other processes of this user can ask for something, where ``listens``.
    """

    listens = True

    def __init__(self) -> None:
        while True:
            self.place = f"nbc-{secrets.token_hex(4)}"
            self._path = state_directory() / "kernels" / f"{self.place}.json"
            self._fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            fcntl.flock(self._fd, fcntl.LOCK_EX)
            if os.fstat(self._fd).st_nlink:
                break
            os.close(self._fd)  # a prune of another process found it before it was locked, and removed it
        self._changing = threading.Lock()
        self._listener: Listener | None = None
        self._containers: dict[str, ContainerRecord] = {}
        self._cgroups: tuple[str, ...] = ()
        self._write()

    def stage(self, rootless: bool) -> str:
        """A directory for the zygote: a mount point that all kernels share, or, rootless, one of this kernel's own."""
        path = state_directory() / "stage"
        if rootless:
            path = path / self.place
            path.mkdir(mode=0o711)
        return str(path)

    def sockets(self, name: str) -> str:
        """A directory of this kernel's own, for Unix sockets that a container makes; its files end with the kernel's."""
        path = state_directory() / "sockets" / self.place / name
        for directory, mode in ((path.parent.parent, 0o711), (path.parent, 0o711), (path, 0o700)):
            directory.mkdir(mode=mode, exist_ok=True)  # each with its mode, whatever the umask is
        return str(path)

    def nests_in(self, directories: tuple[str, ...]) -> None:
        """Keep the kernel's own cgroup directories, before there is any: whoever sweeps need not have the same parent."""
        with self._changing:
            self._cgroups = directories
            self._write()

    def add(self, record: ContainerRecord) -> None:
        with self._changing:
            if self.listens and self._listener is None and _serve is not None:
                self._listen(_serve)
            self._containers[record.id] = record
            self._write()

    def _listen(self, serve: Callable[[socket.socket], None]) -> None:
        # Where there is no descriptor or thread left, this kernel's containers can be listed still, and the next one tries again.
        with contextlib.suppress(OSError, HostError):
            self._listener = Listener(self.sockets(CONTROL), serve)

    def discard(self, container_id: str) -> None:
        with self._changing:
            if self._containers.pop(container_id, None) is not None:
                self._write()

    def _write(self) -> None:
        containers = [asdict(record) for record in self._containers.values()]
        data = json.dumps({"kernel_pid": os.getpid(), "cgroups": self._cgroups, "containers": containers}).encode()
        # In this order: a kernel that is killed in between leaves a whole record, with a rest that nobody reads.
        os.pwrite(self._fd, data, 0)
        os.ftruncate(self._fd, len(data))

    def leave_to_parent(self) -> None:
        """Let go of the lock in a forked process, without ending it in this one's parent."""
        os.close(self._fd)
        if self._listener is not None:
            self._listener.leave_to_parent()

    def close(self) -> None:
        with self._changing:
            listener, self._listener, self.listens = self._listener, None, False
        if listener is not None:
            listener.close()
        _remove_directories(self.place)
        with contextlib.suppress(FileNotFoundError):
            self._path.unlink()
        os.close(self._fd)


def control_directory(place: str) -> str:
    """Where a kernel's socket is for those who ask for something."""
    return str(state_directory() / "sockets" / place / CONTROL)


def _remove_directories(place: str) -> None:
    for name in ("stage", "sockets"):
        shutil.rmtree(state_directory() / name / place, ignore_errors=True)


class SharedNumbers:
    """Numbers, each in use once among all processes: a byte of the file ``name`` is locked for it."""

    def __init__(self, name: str) -> None:
        self._fd = os.open(state_directory() / name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self._taken: set[int] = set()

    def take(self, numbers: Iterable[int]) -> int | None:
        """The first of ``numbers`` that is free; None where there is none."""
        for number in numbers:
            # Open file description locks do not conflict within one process: that is what the set is for.
            if number not in self._taken and self._lock(number, fcntl.F_WRLCK):
                self._taken.add(number)
                return number
        return None

    def give_back(self, number: int) -> None:
        # In this order: a number that is free for our other threads must not be unlocked any more.
        self._lock(number, fcntl.F_UNLCK)
        self._taken.discard(number)

    def _lock(self, number: int, kind: int) -> bool:
        # struct flock: l_type, l_whence, l_start, l_len, l_pid.
        request = struct.pack("hhqqi4x", kind, os.SEEK_SET, number, 1, 0)
        try:
            fcntl.fcntl(self._fd, fcntl.F_OFD_SETLK, request)
        except OSError:
            return False
        return True

    def close(self) -> None:
        os.close(self._fd)


def _kernel_files() -> Iterator[tuple[Path, bool]]:
    """(file, its kernel is dead) for every kernel of this user; a dead one's lock is held by us meanwhile."""
    for path in sorted((state_directory() / "kernels").glob("nbc-*.json")):
        try:
            fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError:
            continue
        try:
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                yield path, True
            except BlockingIOError:
                yield path, False
        finally:
            os.close(fd)


def _read(path: Path) -> dict[str, Any]:
    """A kernel's record; empty where there is none. Raises OSError, ValueError."""
    for _ in range(READ_ATTEMPTS):
        with contextlib.suppress(ValueError):
            return _decode(path)
        time.sleep(0.001)  # it is being written at this moment
    return _decode(path)


def _decode(path: Path) -> dict[str, Any]:
    text = path.read_text(encoding="utf-8")
    content: dict[str, Any] = json.JSONDecoder().raw_decode(text)[0] if text else {"cgroups": [], "containers": []}
    return content


def list_containers() -> list[ContainerRecord]:
    """The running containers of all living kernels of this user."""
    return [record for place in list_places() for record in place.containers]


@dataclass(frozen=True, slots=True)
class Place:
    """A living kernel's: the name of its directory in each hierarchy, where these are, and what runs there."""

    name: str
    directories: tuple[str, ...]
    containers: tuple[ContainerRecord, ...]
    kernel_pid: int = 0


def list_places() -> list[Place]:
    """Those of all living kernels of this user."""
    places: list[Place] = []
    for path, dead in _kernel_files():
        if dead:
            continue
        try:
            content = _read(path)
            containers = tuple(ContainerRecord(**entry) for entry in content["containers"])
            places.append(Place(path.stem, tuple(content["cgroups"]), containers, int(content.get("kernel_pid", 0))))
        except (OSError, ValueError, KeyError, TypeError):
            continue  # its kernel has just ended, or is another version's
    return places


def _remove_forgotten() -> None:
    """Directories of kernels that have no file any more: a kernel makes its file first."""
    for name in ("stage", "sockets"):
        for path in (state_directory() / name).glob("nbc-*"):
            if not (state_directory() / "kernels" / f"{path.name}.json").exists():
                shutil.rmtree(path, ignore_errors=True)


def prune() -> list[str]:
    """Remove what dead kernels left: their processes, cgroups and files. Returns what was removed.

    Raises SetupError at the end where something could not be removed; its kernel's file stays for the next time.
    """
    removed: list[str] = []
    failure: SetupError | None = None
    for path, dead in _kernel_files():
        if not dead:
            continue
        try:
            directories = _read(path)["cgroups"]
        except (OSError, ValueError, KeyError, TypeError):
            continue  # another version's, who alone knows what it means
        place = path.stem
        try:
            # Whatever the file says, nothing but this kernel's own directories.
            names = sweep([str(directory) for directory in directories if os.path.basename(str(directory)) == place])
        except SetupError as error:
            failure = failure or error
            continue
        removed += [f"container {name} of {place}" for name in names]
        _remove_directories(place)
        path.unlink(missing_ok=True)
        removed.append(f"kernel state {place}")
    _remove_forgotten()
    if failure is not None:
        raise failure
    return removed
