"""Thin wrappers of the system calls that Python does not have; each raises OSError. The only module with ctypes.

Functions that take a path accept str; ``dir_fd`` style arguments are plain file descriptors. Numbers are those of
x86_64 and aarch64 where they differ; everything from 2019 on (open_tree and later) is the same on all architectures.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import signal
import struct
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

from nbcontainer.linux.calls import Call, Pointing, Slot

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
CLONE_PARENT = 0x00008000
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
MS_MOVE = 0x2000
MS_REC = 0x4000
MS_PRIVATE = 1 << 18
MS_SLAVE = 1 << 19
MNT_DETACH = 0x2
UMOUNT_NOFOLLOW = 0x8

MOUNT_ATTR_RDONLY = 0x1
MOUNT_ATTR_NOSUID = 0x2
MOUNT_ATTR_NODEV = 0x4
MOUNT_ATTR_NOEXEC = 0x8
MOUNT_ATTR_IDMAP = 0x00100000
RESOLVE_NO_SYMLINKS = 0x04
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

_NEW = {
    "open_tree": 428,
    "move_mount": 429,
    "fsopen": 430,
    "fsconfig": 431,
    "fsmount": 432,
    "close_range": 436,
    "mount_setattr": 442,
}
_NUMBERS = {
    "x86_64": {
        **{"read": 0, "write": 1, "close": 3, "ioctl": 16, "socket": 41, "fcntl": 72, "chdir": 80, "umask": 95, "setsid": 112},
        **{"setgroups": 116, "setresuid": 117, "setresgid": 119, "capset": 126, "pivot_root": 155, "prctl": 157, "mount": 165},
        **{"umount2": 166, "sethostname": 170, "setns": 308, "keyctl": 250, "reboot": 169, "init_module": 175, "openat": 257, "mkdirat": 258, "unshare": 272, "dup3": 292},
        **{"prlimit64": 302, "seccomp": 317, **_NEW},
    },
    "aarch64": {
        **{"read": 63, "write": 64, "close": 57, "ioctl": 29, "socket": 198, "fcntl": 25, "chdir": 49, "umask": 166, "setsid": 157},
        **{"setgroups": 159, "setresuid": 147, "setresgid": 149, "capset": 91, "pivot_root": 41, "prctl": 167, "mount": 40},
        **{"umount2": 39, "sethostname": 161, "setns": 268, "keyctl": 219, "reboot": 142, "init_module": 105, "openat": 56, "mkdirat": 34, "unshare": 97, "dup3": 24},
        **{"prlimit64": 261, "seccomp": 277, **_NEW},
    },
}.get(platform.machine(), {})
_CLONE3, _OPEN_TREE, _MOVE_MOUNT, _FSOPEN, _FSCONFIG, _FSMOUNT, _MOUNT_SETATTR, _OPENAT2 = 435, 428, 429, 430, 431, 432, 442, 437

_libc = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long
_libc.mmap.restype = ctypes.c_void_p
_libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long]
_libc.mount.argtypes = [ctypes.c_char_p, ctypes.c_char_p, ctypes.c_char_p, ctypes.c_ulong, ctypes.c_char_p]
_libc.umount2.argtypes = [ctypes.c_char_p, ctypes.c_int]
_libc.unshare.argtypes = [ctypes.c_int]
_libc.setns.argtypes = [ctypes.c_int, ctypes.c_int]
_libc.prctl.argtypes = [ctypes.c_int, ctypes.c_ulong, ctypes.c_ulong, ctypes.c_ulong, ctypes.c_ulong]

# PyDLL keeps the GIL: with CDLL the child of clone3 would wait for a GIL that only its parent could give.
_pydll = ctypes.PyDLL(None, use_errno=True)
_pydll.syscall.restype = ctypes.c_long
_pydll.syscall.argtypes = [ctypes.c_long, ctypes.c_void_p, ctypes.c_size_t]
_raw = ctypes.PyDLL(None, use_errno=True).syscall
_raw.restype = ctypes.c_long
_raw.argtypes = [ctypes.c_long] * 7
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


def prctl(option: int, argument: int = 0, third: int = 0) -> int:
    return _check(_libc.prctl(option, argument, third, 0, 0))


def open_tree(dir_fd: int, path: str, flags: int) -> int:
    """A detached copy of a mount (with OPEN_TREE_CLONE) as a file descriptor."""
    call = _libc.syscall
    return _check(
        call(ctypes.c_long(_OPEN_TREE), ctypes.c_int(dir_fd), ctypes.c_char_p(_bytes(path)), ctypes.c_uint(flags | OPEN_TREE_CLOEXEC)), path
    )


def open_without_links(path: str) -> int:
    """An O_PATH descriptor of ``path``; OSError (ELOOP) where a part of it is a symbolic link."""
    how = struct.pack("=QQQ", os.O_PATH | os.O_CLOEXEC, 0, RESOLVE_NO_SYMLINKS)
    call = _libc.syscall
    number = ctypes.c_long(_OPENAT2)
    return _check(call(number, ctypes.c_int(AT_FDCWD), ctypes.c_char_p(_bytes(path)), ctypes.c_char_p(how), ctypes.c_size_t(len(how))), path)


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


def init_module(module: bytes) -> None:
    """Load a kernel module that is in memory, uncompressed. FileExistsError where it is loaded already."""
    number = ctypes.c_long(_number("init_module"))
    _check(_libc.syscall(number, ctypes.c_char_p(module), ctypes.c_ulong(len(module)), ctypes.c_char_p(b"")))


def restart_machine() -> None:
    """At once: nothing is ended or written before. For the guest's pid 1, whose QEMU ends instead of restarting."""
    magic, restart = (0xFEE1DEAD, 672274793), 0x1234567
    arguments = [ctypes.c_ulong(value) for value in (*magic, restart)]
    _check(_libc.syscall(ctypes.c_long(_number("reboot")), *arguments, None))


def map_shared(fd: int, size_bytes: int, offset: int) -> memoryview:
    """The file's own memory, for good. Unlike :class:`mmap.mmap` it keeps no descriptor of its own."""
    read_write, shared = 3, 1
    address = _libc.mmap(None, size_bytes, read_write, shared, fd, offset)
    if address == ctypes.c_void_p(-1).value:
        _check(-1)
    return memoryview((ctypes.c_char * size_bytes).from_address(address)).cast("B")


def buffer_c_by_lines() -> None:
    """C's own standard output, in a process that has not used it yet."""
    by_lines = 1
    _libc.setvbuf(ctypes.c_void_p.in_dll(_libc, "stdout"), None, by_lines, 0)


def flush_c() -> None:
    """C's own standard output. Not all of its files: of one that another thread reads, it would wait for the end."""
    _libc.fflush(ctypes.c_void_p.in_dll(_libc, "stdout"))


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
        # With CLONE_PARENT, the signal is the one that the caller's own parent gets.
        end_signal = 0 if flags & CLONE_PARENT else signal.SIGCHLD
        arguments = struct.pack(
            "=11Q", flags, ctypes.addressof(self._pidfd), child_tid, 0, end_signal, 0, 0, 0, 0, 0, max(cgroup_fd, 0)
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


class Program:
    """Calls laid out in memory, to be made by :func:`make_calls`, again and again, in processes that are forked later."""

    def __init__(self, calls: Iterable[Call]) -> None:
        self.calls = tuple(calls)
        self._texts: dict[bytes, Any] = {}
        self.rows = [self._row(call) for call in self.calls]

    def _row(self, call: Call) -> tuple[int, list[int], tuple[tuple[int, str], ...], str, int | None]:
        values = [0 if isinstance(argument, Slot) else self._value(argument) for argument in call.arguments]
        values += [0] * (6 - len(values))
        places = tuple((index, argument.name) for index, argument in enumerate(call.arguments) if isinstance(argument, Slot))
        return _number(call.name), values, places, call.gives, call.expects

    def _value(self, argument: int | str | bytes | Pointing | None) -> int:
        if argument is None or isinstance(argument, int):
            return argument or 0
        if isinstance(argument, Pointing):
            return self.address(argument.head + struct.pack("=Q", self.address(argument.target)))
        return self.address(argument)

    def address(self, text: str | bytes) -> int:
        """Where ``text`` lies, for as long as this program does."""
        data = os.fsencode(text) if isinstance(text, str) else text
        if data not in self._texts:
            self._texts[data] = ctypes.create_string_buffer(data)  # with a zero byte at its end
        return ctypes.addressof(self._texts[data])


class Text:
    """A text at an address, for as long as this object lives."""

    def __init__(self, text: str) -> None:
        data = os.fsencode(text)
        self._buffer = ctypes.create_string_buffer(data)
        self.address = ctypes.addressof(self._buffer)
        self.size = len(data)


class CallFailed(OSError):
    """``index``: which call of the program it was."""

    def __init__(self, index: int, number: int) -> None:
        super().__init__(number, os.strerror(number))
        self.index = index


def make_calls(program: Program, slots: dict[str, int]) -> None:
    """Make them one after the other; raises CallFailed at the first that fails."""
    for index, (number, values, places, gives, expects) in enumerate(program.rows):
        for place, slot in places:
            values[place] = slots[slot]
        result = _raw(number, *values)
        if result < 0 or (expects is not None and result != expects):
            raise CallFailed(index, ctypes.get_errno() if result < 0 else errno.EIO)
        if gives:
            slots[gives] = result


@dataclass(frozen=True)
class Comparison:
    """Of one argument of a system call with a number; ``masked``: after the argument was masked with ``mask``."""

    argument: int
    operation: Literal["==", ">", "masked"]
    value: int
    mask: int = 0


@dataclass(frozen=True)
class FilterRule:
    """What a seccomp filter says to a system call (where ``comparison`` holds): 0 allows it, else it answers ``errno``."""

    name: str
    errno: int = 0
    comparison: Comparison | None = None


class _ArgumentComparison(ctypes.Structure):
    """libseccomp's struct scmp_arg_cmp."""

    _fields_ = (("arg", ctypes.c_uint), ("op", ctypes.c_int), ("datum_a", ctypes.c_uint64), ("datum_b", ctypes.c_uint64))


_SCMP_ALLOW, _SCMP_ERRNO = 0x7FFF0000, 0x00050000
_SCMP_BAD_ARCHITECTURE, _SCMP_OPTIMIZE, _SCMP_BINARY_TREE = 2, 8, 2
_SCMP_OPERATIONS = {"==": 4, ">": 6, "masked": 7}


def _seccomp_library() -> ctypes.CDLL:
    library = ctypes.CDLL("libseccomp.so.2")  # OSError where it is missing
    library.seccomp_init.restype = ctypes.c_void_p
    library.seccomp_init.argtypes = [ctypes.c_uint32]
    library.seccomp_attr_set.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_uint32]
    library.seccomp_syscall_resolve_name.argtypes = [ctypes.c_char_p]
    library.seccomp_rule_add_array.argtypes = [ctypes.c_void_p, ctypes.c_uint32, ctypes.c_int, ctypes.c_uint, ctypes.c_void_p]
    library.seccomp_export_bpf.argtypes = [ctypes.c_void_p, ctypes.c_int]
    library.seccomp_release.argtypes = [ctypes.c_void_p]
    return library


def build_filter(rules: Iterable[FilterRule], default_errno: int) -> bytes:
    """libseccomp's program for ``rules``, in a binary tree; calls in no rule, and of other machine types, answer
    ``default_errno``. Names that this machine does not have are left out. Raises OSError."""
    library = _seccomp_library()
    refuse = _SCMP_ERRNO | default_errno
    context = library.seccomp_init(refuse)

    def check(result: int, what: str) -> None:
        if result < 0:
            raise OSError(-result, f"libseccomp: {what}: {os.strerror(-result)}")

    try:
        check(library.seccomp_attr_set(context, _SCMP_BAD_ARCHITECTURE, refuse), "other architectures")
        check(library.seccomp_attr_set(context, _SCMP_OPTIMIZE, _SCMP_BINARY_TREE), "binary tree")
        for rule in rules:
            number = library.seccomp_syscall_resolve_name(rule.name.encode())
            action = _SCMP_ERRNO | rule.errno if rule.errno else _SCMP_ALLOW
            if number < 0 or action == refuse:
                continue
            if (test := rule.comparison) is None:
                check(library.seccomp_rule_add_array(context, action, number, 0, None), rule.name)
                continue
            values = (test.mask, test.value) if test.operation == "masked" else (test.value, 0)
            compared = _ArgumentComparison(test.argument, _SCMP_OPERATIONS[test.operation], *values)
            check(library.seccomp_rule_add_array(context, action, number, 1, ctypes.byref(compared)), rule.name)
        with os.fdopen(os.memfd_create("filter"), "rb") as file:
            check(library.seccomp_export_bpf(context, file.fileno()), "export")
            file.seek(0)
            return file.read()
    finally:
        library.seccomp_release(context)
