"""Tries what Linux allows here, in short-lived processes of its own, and prints JSON; run as ``python -m``.

Each probe is a fork that makes its namespaces and ends, so nothing is ever mounted or changed in the caller's.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from collections.abc import Callable

from nbcontainer.linux import syscalls

NOBODY = 65534


def attempt(action: Callable[[], None]) -> tuple[int, str]:
    """(errno, where) of ``action`` in a child; (0, "") when it worked."""
    read_end, write_end = os.pipe()
    child = os.fork()
    if child == 0:
        number, where = 255, "it died"
        try:
            action()
            number, where = 0, ""
        except OSError as error:
            number, where = error.errno or 255, str(error.filename or "")
        finally:
            os.write(write_end, json.dumps([number, where]).encode())
            os._exit(0)
    os.close(write_end)
    data = os.read(read_end, 4096)
    os.close(read_end)
    os.waitpid(child, 0)
    number, where = json.loads(data) if data else (255, "it died")
    return int(number), str(where)


def _become_nobody() -> None:
    if os.geteuid() == 0:
        os.setgroups([])
        os.setresgid(NOBODY, NOBODY, NOBODY)
        os.setresuid(NOBODY, NOBODY, NOBODY)


def _user_namespace() -> None:
    """A user namespace in which this process is root, as an ordinary user can have it."""
    uid, gid = os.geteuid(), os.getegid()
    syscalls.prctl(syscalls.PR_SET_DUMPABLE, 1)
    syscalls.unshare(syscalls.CLONE_NEWUSER)
    for name, text in (("setgroups", "deny"), ("uid_map", f"0 {uid} 1"), ("gid_map", f"0 {gid} 1")):
        # Plain os.open: as another user, Python may not be able to read the modules that text files need.
        fd = os.open(f"/proc/self/{name}", os.O_WRONLY)
        os.write(fd, text.encode())
        os.close(fd)


def _ordinary_user_namespace() -> None:
    _become_nobody()
    _user_namespace()


def _namespace(name: str) -> Callable[[], None]:
    def action() -> None:
        if name != "user" and os.geteuid() != 0:
            _user_namespace()
        syscalls.unshare(syscalls.NAMESPACE_FLAGS[name])

    return action


def _overlay() -> None:
    """Copy-on-write as an ordinary user, over /usr."""
    directory = tempfile.gettempdir()
    _ordinary_user_namespace()
    syscalls.unshare(syscalls.CLONE_NEWNS)
    syscalls.mount("probe", directory, "tmpfs", 0)
    for name in ("upper", "work", "merged"):
        os.mkdir(f"{directory}/{name}")
    options = f"lowerdir=/usr,upperdir={directory}/upper,workdir={directory}/work,userxattr"
    syscalls.mount("probe", f"{directory}/merged", "overlay", 0, options)


def _proc() -> None:
    """A /proc of its own in a new pid namespace, which a masked outer /proc forbids."""
    _ordinary_user_namespace()
    syscalls.unshare(syscalls.CLONE_NEWNS | syscalls.CLONE_NEWPID)
    child = os.fork()
    if child == 0:
        try:
            os.close(syscalls.new_filesystem("proc", ()))
            os._exit(0)
        except OSError as error:
            os._exit(error.errno or 255)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if status:
        raise OSError(status, "", "/proc")


def _idmapped() -> None:
    """A clone of / whose attributes can be changed (the map itself needs a file system that has it)."""
    fd = syscalls.open_tree(syscalls.AT_FDCWD, "/", syscalls.OPEN_TREE_CLONE)
    syscalls.mount_setattr(fd, attr_set=syscalls.MOUNT_ATTR_NODEV)


PROBES: dict[str, Callable[[], None]] = {
    **{f"namespace {name}": _namespace(name) for name in syscalls.NAMESPACE_FLAGS},
    "user namespace for ordinary users": _ordinary_user_namespace,
    "overlay in a user namespace": _overlay,
    "a /proc of its own": _proc,
    "mount attributes": _idmapped,
}


def main() -> None:
    json.dump({name: attempt(action) for name, action in PROBES.items()}, sys.stdout)


if __name__ == "__main__":
    main()
