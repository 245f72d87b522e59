"""The directories of a cgroup, whatever the version: its processes, and its end."""

from __future__ import annotations

import errno
import os
import signal
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager

from nbcontainer.cgroups.files import GONE, KeptFiles, read_text
from nbcontainer.errors import SetupError

_REMOVE_SECONDS = 5.0
_POLL_SECONDS = 0.0002


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
