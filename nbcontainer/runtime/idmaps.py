"""User and group ids of containers, as the zygote writes them into the maps of user namespaces."""

from __future__ import annotations

import os
import select
from collections.abc import Callable

from nbcontainer.linux import subordinate, syscalls
from nbcontainer.linux.subordinate import SubordinateIds
from nbcontainer.runtime.steps import write_file

ENDS_MILLISECONDS = 100


def is_ending(pidfd: int) -> bool:
    """Also just before it can be waited for: its files in /proc are root's then."""
    poller = select.poll()
    poller.register(pidfd, select.POLLIN)
    return bool(poller.poll(ENDS_MILLISECONDS))


def exchanged(id_map: tuple[int, int], other: int) -> bytes:
    """The lines of a map in which ids 0 and ``other`` have changed places."""
    base, count = id_map
    first = [(0, base + other, 1), (1, base + 1, other - 1), (other, base, 1)] if other else [(0, base, 1)]
    rest = (other + 1, base + other + 1, count - other - 1)
    return b"".join(b"%d %d %d\n" % line for line in (*first, rest) if line[2] > 0)


class IdMaps:
    """``rootless``: the zygote is an ordinary user's, with ``ids`` besides its own, or None."""

    def __init__(self, image: syscalls.ForkImage, rootless: bool, ids: SubordinateIds | None) -> None:
        self._image, self._rootless = image, rootless
        self._programs = None if ids is None else (ids.newuidmap, ids.newgidmap)
        self._namespaces: dict[tuple[tuple[int, int], tuple[int, int]], int] = {}
        self.has_subordinate = ids is not None and self._try(ids)
        """Tried, as LSMs, mount options and user namespaces around this one can forbid what the files allow."""

    def write(self, pid: int, id_map: tuple[int, int], further: tuple[int, int, int] | None) -> None:
        """The maps of a process in a new user namespace; ``further``: see IdMap.subordinate. Raises OSError."""
        if further is not None and self._programs is not None:
            subordinate.write_maps(self._programs, pid, (os.geteuid(), os.getegid()), further)
            return
        data = b"0 %d %d\n" % id_map
        write_file(f"/proc/{pid}/uid_map", data)
        if self._rootless:
            # One's own two ids need no privilege, the group's once setgroups is given up.
            write_file(f"/proc/{pid}/setgroups", b"deny")
            data = b"0 %d 1\n" % os.getegid()
        write_file(f"/proc/{pid}/gid_map", data)

    def namespace(self, id_map: tuple[int, int], owner: tuple[int, int] = (0, 0)) -> int:
        """A user namespace with this map, for idmapped mounts; kept, as ranges are used again and again. Raises OSError.

        ``owner``: user and group that change places with root, so that what they write is root's in the file system.
        """
        if (id_map, owner) not in self._namespaces:

            def write_maps(pid: int) -> None:
                for name, other in zip(("uid_map", "gid_map"), owner, strict=True):
                    write_file(f"/proc/{pid}/{name}", exchanged(id_map, other))

            self._namespaces[id_map, owner] = self._new_namespace(write_maps)
        return self._namespaces[id_map, owner]

    def _try(self, ids: SubordinateIds) -> bool:
        try:
            os.close(self._new_namespace(lambda pid: self.write(pid, (os.geteuid(), 1), ids.range(0))))
        except OSError:
            return False
        return True

    def _new_namespace(self, write_maps: Callable[[int], None]) -> int:
        """A descriptor of a new user namespace, whose maps ``write_maps`` writes for the process that it is given."""
        read_end, write_end = os.pipe()
        try:
            pid, pidfd = self._image.clone(syscalls.CLONE_NEWUSER)
            if pid == 0:
                os.close(write_end)
                os.read(read_end, 1)
                os._exit(0)
            os.close(pidfd)
            try:
                write_maps(pid)
                return os.open(f"/proc/{pid}/ns/user", os.O_RDONLY | os.O_CLOEXEC)
            finally:
                os.close(write_end)
                write_end = -1
                os.waitpid(pid, 0)
        finally:
            os.close(read_end)
            if write_end >= 0:
                os.close(write_end)
