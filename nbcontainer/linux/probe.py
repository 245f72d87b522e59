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
MAPPED_IDS = 0x70000000


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
        _write(f"/proc/self/{name}", text)


def _write(path: str, text: str) -> None:
    # Plain os.open: as another user, Python may not be able to read the modules that text files need.
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, text.encode())
    finally:
        os.close(fd)


def _ordinary_user_namespace() -> None:
    _become_nobody()
    _user_namespace()


def _namespace(name: str) -> Callable[[], None]:
    def action() -> None:
        ordinary = os.geteuid() != 0
        if ordinary:
            _user_namespace()
        if name != "user" or not ordinary:
            syscalls.unshare(syscalls.NAMESPACE_FLAGS[name])

    return action


def _overlay_of_nobody() -> None:
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


def _overlay() -> None:
    """A read-only overlay, attached nowhere; Linux loads the module when it is first asked for."""
    _mount_namespace()
    os.close(syscalls.new_filesystem("overlay", (("lowerdir", "/usr:/etc"),)))


def _mount_namespace() -> None:
    if os.geteuid() != 0:
        _user_namespace()
    syscalls.unshare(syscalls.CLONE_NEWNS)


def _idmapped() -> None:
    """Clones of / and of a new tmpfs, attached nowhere, with the map of another user namespace."""
    user_namespace = _mapped_user_namespace()
    syscalls.unshare(syscalls.CLONE_NEWNS)
    clones: dict[str, Callable[[], int]] = {
        "/": lambda: syscalls.open_tree(syscalls.AT_FDCWD, "/", syscalls.OPEN_TREE_CLONE),
        "a tmpfs": lambda: syscalls.new_filesystem("tmpfs", ()),
    }
    for where, clone in clones.items():
        try:
            syscalls.mount_setattr(clone(), attr_set=syscalls.MOUNT_ATTR_IDMAP, userns_fd=user_namespace)
        except OSError as error:
            raise OSError(error.errno, error.strerror, where) from None


def _mapped_user_namespace() -> int:
    """An fd of a new user namespace, mapped from outside, as Linux wants it for mounts."""
    ready_read, ready_write = os.pipe()
    done_read, done_write = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(done_write)
        try:
            syscalls.unshare(syscalls.CLONE_NEWUSER)
            os.write(ready_write, b"\0")
            os.read(done_read, 1)
        except OSError as error:
            os.write(ready_write, bytes([error.errno or 255]))
        os._exit(0)
    os.close(ready_write)
    try:
        number = (os.read(ready_read, 1) or b"\xff")[0]
        if number:
            raise OSError(number, "", "a user namespace")
        for name in ("uid_map", "gid_map"):
            _write(f"/proc/{child}/{name}", f"0 {MAPPED_IDS} 1")
        return os.open(f"/proc/{child}/ns/user", os.O_RDONLY | os.O_CLOEXEC)
    finally:
        os.close(done_write)
        os.waitpid(child, 0)


PROBES: dict[str, Callable[[], None]] = {
    **{f"namespace {name}": _namespace(name) for name in syscalls.NAMESPACE_FLAGS},
    "user namespace for ordinary users": _ordinary_user_namespace,
    "overlay": _overlay,
    "overlay in a user namespace": _overlay_of_nobody,
    "idmapped mounts": _idmapped,
    "a /proc of its own": _proc,
}


def main() -> None:
    json.dump({name: attempt(action) for name, action in PROBES.items()}, sys.stdout)


if __name__ == "__main__":
    main()
