"""An ordinary user's container that is to be on a network: its user namespace is made below the router's.

Linux lets the router put an end of a veth pair into a namespace whose user namespace is one of its own's children, and into no
other. So a *helper* joins the router's user namespace and clones the container's process there, as the zygote's child
(CLONE_PARENT); it writes the maps too, as nobody outside may.
"""

from __future__ import annotations

import os
import struct

from nbcontainer.linux import syscalls
from nbcontainer.linux.syscalls import ForkImage
from nbcontainer.runtime.steps import write_file

_ANSWER = struct.Struct("=ii")
"""A process id and 0, or 0 and an errno."""


def clone_below(
    image: ForkImage, userns_fd: int, flags: int, cgroup_fd: int, own_id: int, further: tuple[int, int, int] | None
) -> tuple[int, int]:
    """As :meth:`ForkImage.clone`, with the maps written; ``further``: see IdMap.subordinate. Raises OSError."""
    read_end, write_end = os.pipe()
    helper, helper_fd = image.clone(0)
    if helper == 0:
        os.close(read_end)
        answer = (0, 0)
        try:
            syscalls.setns(userns_fd, syscalls.CLONE_NEWUSER)
            pid, _ = image.clone(flags | syscalls.CLONE_PARENT, cgroup_fd)
            if pid == 0:
                os.close(write_end)
                return 0, -1
            answer = (pid, 0)
            _write_maps(pid, own_id, further)
        except OSError as error:
            answer = (answer[0], error.errno or 1)
        os.write(write_end, _ANSWER.pack(*answer))
        os._exit(0)
    os.close(helper_fd)
    os.close(write_end)
    try:
        data = os.read(read_end, _ANSWER.size)
    finally:
        os.close(read_end)
        os.waitpid(helper, 0)
    pid, number = _ANSWER.unpack(data) if data else (0, 5)
    if number:
        if pid:
            os.kill(pid, 9)
            os.waitpid(pid, 0)
        raise OSError(number, os.strerror(number))
    return pid, os.pidfd_open(pid)  # nobody but us can wait for it: the number is still its own


def _write_maps(pid: int, own_id: int, further: tuple[int, int, int] | None) -> None:
    uids, gids = b"0 %d 1\n" % own_id, b"0 %d 1\n" % os.getegid()
    if further is not None:
        first_uid, first_gid, count = further
        uids, gids = uids + b"1 %d %d\n" % (first_uid, count), gids + b"1 %d %d\n" % (first_gid, count)
    else:
        write_file(f"/proc/{pid}/setgroups", b"deny")
    write_file(f"/proc/{pid}/uid_map", uids)
    write_file(f"/proc/{pid}/gid_map", gids)
