"""A small directory in memory for each user who has a server, outside of the homes: on a full disk of all homes, new kernels
and their first containers begin there still. Made and removed by root.

As systemd-logind does it at a login, each is a file system of its own: what one user writes there takes room from nobody else.
A login's own /run/user/UID would not do, because it ends with the login, and a server does not.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import urllib.parse
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager

from nbcontainer.errors import SetupError
from nbcontainer.linux import syscalls

ROOT = "/run/nbcontainer-hub"
SIZE_BYTES = 64 << 20
INODES = 16384
MAKE, REMOVE = "make the server's directory in memory", "remove the server's directory in memory"


def environment(directory: str) -> dict[str, str]:
    """What leads nbcontainer and Jupyter there; nothing without a directory."""
    return {"XDG_RUNTIME_DIR": directory, "JUPYTER_RUNTIME_DIR": f"{directory}/jupyter"} if directory else {}


class RuntimeDirectories:
    """Those of the servers of one place for cgroups: hubs with places of their own have directories of their own.

    All methods raise SetupError. ``root``: a directory in which root alone can write.
    """

    def __init__(self, place: str, root: str = ROOT) -> None:
        self._root = root
        self._place = f"{root}/{urllib.parse.quote(place.strip('/'), safe='')}"

    def of(self, uid: int) -> str:
        """That of a user; "" where there is none."""
        path = f"{self._place}/{uid}"
        return path if os.path.ismount(path) else ""

    def make(self, uid: int, gid: int) -> str:
        """What is there already, from another server of the user's, stays. "" where root may not mount or /run is read-only, as in some
        containers: then all is below the home, as it is without a hub."""
        if not os.access(os.path.dirname(self._root), os.W_OK):
            return ""
        with self._locked(MAKE):
            if path := self.of(uid):
                return path
            path = f"{self._place}/{uid}"
            # A directory that is there already stays: after a restart in a mount namespace of its own, a hub does not see what is mounted
            # there for servers that go on, and Linux would unmount it for them if the directory went.
            for directory, mode in ((self._place, 0o711), (path, 0o700)):
                _make_directory(directory, mode)
            try:
                syscalls.mount("tmpfs", path, "tmpfs", syscalls.MS_NOSUID | syscalls.MS_NODEV, f"size={SIZE_BYTES},nr_inodes={INODES},mode=0700,uid={uid},gid={gid}")
            except OSError as error:
                self._take_away(path)
                if error.errno != errno.EPERM:
                    raise
                return ""
            return path

    def keep_only(self, owners: Callable[[], Collection[int]]) -> None:
        """Remove those of everybody else. A server has its cgroup before it has this, so that ``owners``, asked meanwhile, knows it."""
        if not os.path.isdir(self._place):
            return
        with self._locked(REMOVE):
            kept = {str(uid) for uid in owners()}
            for name in os.listdir(self._place) if os.path.isdir(self._place) else ():
                if name not in kept:
                    self._take_away(f"{self._place}/{name}")
            _remove_directory(self._place)

    @contextmanager
    def _locked(self, step: str) -> Iterator[None]:
        """Hubs and stewards are several processes; the lock is the directory that stays."""
        try:
            _make_directory(self._root, 0o711)
            fd = os.open(self._root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                fcntl.flock(fd, fcntl.LOCK_EX)
                yield
            finally:
                os.close(fd)
        except OSError as error:
            raise SetupError(step, error.errno or 0, str(error.filename or self._root)) from error

    @staticmethod
    def _take_away(path: str) -> None:
        """Never by the files in it: they are a user's. What that user has mounted there goes with it."""
        while True:
            try:
                syscalls.umount2(path, syscalls.MNT_DETACH | syscalls.UMOUNT_NOFOLLOW)
            except OSError as error:
                if error.errno not in (errno.EINVAL, errno.ENOENT, errno.EPERM):  # nothing is mounted there
                    raise
                break
        _remove_directory(path)


def _make_directory(path: str, mode: int) -> None:
    """Where there is one already, it is taken only if it is root's and nobody else may write to it. Raises OSError."""
    try:
        os.mkdir(path, mode)
        os.chmod(path, mode)  # whatever the umask is
    except FileExistsError:
        pass
    found = os.lstat(path)
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid() or found.st_mode & 0o022:
        raise PermissionError(errno.EPERM, "not a directory that only root can write to", path)


def _remove_directory(path: str) -> None:
    """Unless there is something in it, or it is not there. Raises OSError."""
    try:
        os.rmdir(path)
    except OSError as error:
        if error.errno not in (errno.ENOENT, errno.ENOTEMPTY, errno.EEXIST):
            raise
