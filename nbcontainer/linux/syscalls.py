"""Thin wrappers of the system calls that Python does not have; each raises OSError. The only module with ctypes.

Functions that take a path accept str; ``dir_fd`` style arguments are plain file descriptors. Numbers are those of
x86_64 and aarch64 where they differ; everything from 2019 on (open_tree and later) is the same on all architectures.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import struct

AT_FDCWD = -100
AT_EMPTY_PATH = 0x1000
AT_RECURSIVE = 0x8000

CLONE_NEWTIME = 0x00000080
CLONE_NEWNS = 0x00020000
CLONE_NEWCGROUP = 0x02000000
CLONE_NEWUTS = 0x04000000
CLONE_NEWIPC = 0x08000000
CLONE_NEWUSER = 0x10000000
CLONE_NEWPID = 0x20000000
CLONE_NEWNET = 0x40000000
CLONE_PIDFD = 0x00001000
CLONE_CHILD_CLEARTID = 0x00200000
CLONE_CHILD_SETTID = 0x01000000
CLONE_INTO_CGROUP = 0x200000000

NAMESPACE_FLAGS = {
    "pid": CLONE_NEWPID,
    "net": CLONE_NEWNET,
    "mnt": CLONE_NEWNS,
    "ipc": CLONE_NEWIPC,
    "uts": CLONE_NEWUTS,
    "user": CLONE_NEWUSER,
    "cgroup": CLONE_NEWCGROUP,
    "time": CLONE_NEWTIME,
}

MS_RDONLY = 0x1
MS_NOSUID = 0x2
MS_NODEV = 0x4
MS_NOEXEC = 0x8
MS_REMOUNT = 0x20
MS_BIND = 0x1000
MS_MOVE = 0x2000
MS_REC = 0x4000
MS_PRIVATE = 1 << 18
MS_SLAVE = 1 << 19
MNT_DETACH = 0x2

MOUNT_ATTR_RDONLY = 0x1
MOUNT_ATTR_NOSUID = 0x2
MOUNT_ATTR_NODEV = 0x4
MOUNT_ATTR_NOEXEC = 0x8
MOUNT_ATTR_IDMAP = 0x00100000
OPEN_TREE_CLONE = 0x1
OPEN_TREE_CLOEXEC = os.O_CLOEXEC
MOVE_MOUNT_F_EMPTY_PATH = 0x4
FSOPEN_CLOEXEC = 0x1
FSMOUNT_CLOEXEC = 0x1
FSCONFIG_SET_FLAG = 0
FSCONFIG_SET_STRING = 1
FSCONFIG_CMD_CREATE = 6

PR_SET_PDEATHSIG = 1
PR_SET_DUMPABLE = 4
PR_CAPBSET_DROP = 24
PR_SET_NO_NEW_PRIVS = 38
PR_GET_TID_ADDRESS = 40
PR_CAP_AMBIENT = 47
PR_CAP_AMBIENT_CLEAR_ALL = 4
PR_SET_NAME = 15

_NUMBERS = {
    "x86_64": {"pivot_root": 155, "capset": 126, "keyctl": 250, "init_module": 175, "reboot": 169},
    "aarch64": {"pivot_root": 41, "capset": 91, "keyctl": 219, "init_module": 105, "reboot": 142},
}.get(platform.machine(), {})
_CLONE3, _OPEN_TREE, _MOVE_MOUNT, _FSOPEN, _FSCONFIG, _FSMOUNT, _MOUNT_SETATTR = 435, 428, 429, 430, 431, 432, 442
_KEYCTL_JOIN_SESSION_KEYRING = 1
_AF_INET, _SOCK_DGRAM, _SIOCSIFFLAGS, _IFF_UP = 2, 2, 0x8914, 1
_LOOPBACK_UP = struct.pack("16sh22x", b"lo", _IFF_UP)
"""struct ifreq."""

_libc = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long
_libc.mount.argtypes = [ctypes.c_char_p, ctypes.c_char_p, ctypes.c_char_p, ctypes.c_ulong, ctypes.c_char_p]
_libc.umount2.argtypes = [ctypes.c_char_p, ctypes.c_int]
_libc.unshare.argtypes = [ctypes.c_int]
_libc.setns.argtypes = [ctypes.c_int, ctypes.c_int]
_libc.prctl.argtypes = [ctypes.c_int, ctypes.c_ulong, ctypes.c_ulong, ctypes.c_ulong, ctypes.c_ulong]
_libc.socket.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_int]
_libc.ioctl.argtypes = [ctypes.c_int, ctypes.c_ulong, ctypes.c_char_p]
_libc.sethostname.argtypes = [ctypes.c_char_p, ctypes.c_size_t]

# PyDLL keeps the GIL: with CDLL the child of clone3 would wait for a GIL that only its parent could give.
_pydll = ctypes.PyDLL(None, use_errno=True)
_pydll.syscall.restype = ctypes.c_long
_pydll.syscall.argtypes = [ctypes.c_long, ctypes.c_void_p, ctypes.c_size_t]
_before_fork = ctypes.pythonapi.PyOS_BeforeFork
_after_fork_parent = ctypes.pythonapi.PyOS_AfterFork_Parent
_after_fork_child = ctypes.pythonapi.PyOS_AfterFork_Child
for _hook in (_before_fork, _after_fork_parent, _after_fork_child):
    _hook.restype = None


def _bytes(text: str | None) -> bytes | None:
    return None if text is None else os.fsencode(text)


def _check(result: int, path: str | None = None) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), path)
    return result


def _number(name: str) -> int:
    if name not in _NUMBERS:
        raise OSError(errno.ENOSYS, f"{name}: unknown machine {platform.machine()}")
    return _NUMBERS[name]


def unshare(flags: int) -> None:
    _check(_libc.unshare(flags))


def setns(fd: int, flags: int) -> None:
    _check(_libc.setns(fd, flags))


def mount(source: str | None, target: str, fstype: str | None, flags: int, data: str | None = None) -> None:
    _check(_libc.mount(_bytes(source), _bytes(target), _bytes(fstype), flags, _bytes(data)), target)


def umount2(path: str, flags: int) -> None:
    _check(_libc.umount2(_bytes(path), flags), path)


def pivot_root(new_root: str, put_old: str) -> None:
    number = ctypes.c_long(_number("pivot_root"))
    _check(_libc.syscall(number, ctypes.c_char_p(_bytes(new_root)), ctypes.c_char_p(_bytes(put_old))), new_root)


def sethostname(name: str) -> None:
    encoded = os.fsencode(name)
    _check(_libc.sethostname(encoded, len(encoded)))


def prctl(option: int, argument: int = 0, third: int = 0) -> int:
    return _check(_libc.prctl(option, argument, third, 0, 0))


def open_tree(dir_fd: int, path: str, flags: int) -> int:
    """A detached copy of a mount (with OPEN_TREE_CLONE) as a file descriptor."""
    call = _libc.syscall
    return _check(
        call(ctypes.c_long(_OPEN_TREE), ctypes.c_int(dir_fd), ctypes.c_char_p(_bytes(path)), ctypes.c_uint(flags | OPEN_TREE_CLOEXEC)), path
    )


def move_mount(from_fd: int, to_path: str) -> None:
    """Attach the detached mount ``from_fd`` at ``to_path``."""
    call = _libc.syscall
    _check(
        call(
            ctypes.c_long(_MOVE_MOUNT),
            ctypes.c_int(from_fd),
            ctypes.c_char_p(b""),
            ctypes.c_int(AT_FDCWD),
            ctypes.c_char_p(_bytes(to_path)),
            ctypes.c_uint(MOVE_MOUNT_F_EMPTY_PATH),
        ),
        to_path,
    )


def mount_setattr(fd: int, *, attr_set: int = 0, attr_clear: int = 0, userns_fd: int = 0, recursive: bool = False) -> None:
    """Change the attributes of the mount ``fd``; ``userns_fd`` goes with MOUNT_ATTR_IDMAP."""
    attributes = struct.pack("=QQQQ", attr_set, attr_clear, 0, userns_fd)
    flags = AT_EMPTY_PATH | (AT_RECURSIVE if recursive else 0)
    _check(
        _libc.syscall(
            ctypes.c_long(_MOUNT_SETATTR),
            ctypes.c_int(fd),
            ctypes.c_char_p(b""),
            ctypes.c_uint(flags),
            ctypes.c_char_p(attributes),
            ctypes.c_size_t(len(attributes)),
        )
    )


def new_filesystem(fstype: str, options: tuple[tuple[str, str | None], ...], attributes: int = 0) -> int:
    """A detached mount of a new ``fstype`` file system: fsopen, fsconfig for each option, fsmount. Returns its fd."""
    call = _libc.syscall
    context = _check(call(ctypes.c_long(_FSOPEN), ctypes.c_char_p(_bytes(fstype)), ctypes.c_uint(FSOPEN_CLOEXEC)), fstype)
    try:
        for key, value in options:
            command = FSCONFIG_SET_FLAG if value is None else FSCONFIG_SET_STRING
            _fsconfig(context, command, key, value)
        _fsconfig(context, FSCONFIG_CMD_CREATE, None, None)
        return _check(
            call(ctypes.c_long(_FSMOUNT), ctypes.c_int(context), ctypes.c_uint(FSMOUNT_CLOEXEC), ctypes.c_uint(attributes)), fstype
        )
    finally:
        os.close(context)


def _fsconfig(context: int, command: int, key: str | None, value: str | None) -> None:
    result = _libc.syscall(
        ctypes.c_long(_FSCONFIG),
        ctypes.c_int(context),
        ctypes.c_uint(command),
        ctypes.c_char_p(_bytes(key)),
        ctypes.c_char_p(_bytes(value)),
        ctypes.c_int(0),
    )
    _check(result, f"{key}={value}" if key else None)


def capset(effective: int, permitted: int, inheritable: int) -> None:
    """Set this thread's capability sets (64-bit masks)."""
    header = struct.pack("=Ii", 0x20080522, 0)
    low = 0xFFFFFFFF
    data = struct.pack(
        "=IIIIII", effective & low, permitted & low, inheritable & low, effective >> 32, permitted >> 32, inheritable >> 32
    )
    _check(_libc.syscall(ctypes.c_long(_number("capset")), ctypes.c_char_p(header), ctypes.c_char_p(data)))


def loopback_up() -> None:
    """SIOCSIFFLAGS: the interface ``lo`` of this network namespace is up."""
    handle = _check(_libc.socket(_AF_INET, _SOCK_DGRAM | os.O_CLOEXEC, 0), "lo")
    try:
        _check(_libc.ioctl(handle, _SIOCSIFFLAGS, _LOOPBACK_UP), "lo")
    finally:
        os.close(handle)


def new_session_keyring() -> None:
    """Leave the inherited session keyring (keyrings are not namespaced)."""
    _check(_libc.syscall(ctypes.c_long(_number("keyctl")), ctypes.c_long(_KEYCTL_JOIN_SESSION_KEYRING), None))


def init_module(module: bytes) -> None:
    """Load a kernel module that is in memory, uncompressed. FileExistsError where it is loaded already."""
    number = ctypes.c_long(_number("init_module"))
    _check(_libc.syscall(number, ctypes.c_char_p(module), ctypes.c_ulong(len(module)), ctypes.c_char_p(b"")))


def restart_machine() -> None:
    """At once: nothing is ended or written before. For the guest's pid 1, whose QEMU ends instead of restarting."""
    magic, restart = (0xFEE1DEAD, 672274793), 0x1234567
    arguments = [ctypes.c_ulong(value) for value in (*magic, restart)]
    _check(_libc.syscall(ctypes.c_long(_number("reboot")), *arguments, None))


def thread_id_address() -> int:
    """Where glibc keeps this thread's id, so that a raw clone can renew it as fork does; 0 if Linux does not tell."""
    address = ctypes.c_ulong(0)
    try:
        prctl(PR_GET_TID_ADDRESS, ctypes.addressof(address))
    except OSError:
        return 0
    return address.value


class ForkImage:
    """clone3 for a Python process: everything it needs is laid out once, before the first call."""

    def __init__(self) -> None:
        self._pidfd = ctypes.c_int(-1)
        self._thread_id_address = thread_id_address()

    def clone(self, flags: int, cgroup_fd: int = -1) -> tuple[int, int]:
        """(0, -1) in the child, (pid, pidfd) in the parent; as os.fork, with namespaces and a v2 cgroup.

        Runs Python's fork hooks around the call, as os.fork does (locks, random state). Only for single-threaded
        processes.
        """
        flags |= CLONE_PIDFD
        if cgroup_fd >= 0:
            flags |= CLONE_INTO_CGROUP
        child_tid = 0
        if self._thread_id_address:
            flags |= CLONE_CHILD_SETTID | CLONE_CHILD_CLEARTID
            child_tid = self._thread_id_address
        arguments = struct.pack(
            "=11Q", flags, ctypes.addressof(self._pidfd), child_tid, 0, 17, 0, 0, 0, 0, 0, max(cgroup_fd, 0)
        )
        buffer = ctypes.create_string_buffer(arguments, len(arguments))
        _before_fork()
        pid = _pydll.syscall(_CLONE3, ctypes.addressof(buffer), len(arguments))
        if pid == 0:
            _after_fork_child()
            return 0, -1
        number = ctypes.get_errno()
        _after_fork_parent()
        if pid < 0:
            raise OSError(number, os.strerror(number), "clone3")
        os.set_inheritable(self._pidfd.value, False)
        return int(pid), int(self._pidfd.value)
