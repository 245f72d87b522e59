"""The inside steps of a plan: what the new process does in its namespaces, before any user code, as system calls.

A step is data: it explains itself, and says which calls it makes. The zygote lays the calls out once for each kind of
container; the forked process only makes them. Slots that the launch fills in (see :mod:`nbcontainer.runtime.zygote`):
``release``, ``null``, ``stdout``, ``stderr``, ``channel``, ``task-N`` and the slots of the plan's host steps are
descriptors, ``hostname`` and ``stage-root`` are addresses of texts.
"""

from __future__ import annotations

import os
import resource
import signal
import struct
from dataclasses import dataclass
from typing import ClassVar, Protocol

from nbcontainer.linux import syscalls
from nbcontainer.linux.calls import Call, Pointing, Slot, close, write_file
from nbcontainer.linux.syscalls import AT_EMPTY_PATH, AT_FDCWD, AT_RECURSIVE, OPEN_TREE_CLOEXEC, OPEN_TREE_CLONE

CHANNEL_FD, OOM_SCORE = 3, 500
HIGH_FD = 64
_AF_INET, _SOCK_DGRAM, _SIOCSIFFLAGS, _IFF_UP = 2, 2, 0x8914, 1
_KEYCTL_JOIN_SESSION_KEYRING = 1
_F_DUPFD_CLOEXEC = 1030
_SECCOMP_SET_MODE_FILTER = 1
_FILTER_INSTRUCTION_BYTES = 8


class InsideStep(Protocol):
    """One thing to do; ``name`` is what errors and ``--explain`` call it."""

    @property
    def name(self) -> str: ...
    def explain(self) -> str: ...
    def calls(self) -> tuple[Call, ...]: ...


def prctl(option: int, argument: int = 0) -> Call:
    return Call("prctl", (option, argument))


def _move_mount(slot: str, target: str | Slot) -> Call:
    return Call("move_mount", (Slot(slot), "", AT_FDCWD, target, syscalls.MOVE_MOUNT_F_EMPTY_PATH))


@dataclass(frozen=True)
class Identity:
    """``mapped``: the process has a user namespace of its own, whose maps are in place when ``release`` gives a byte.

    ``keeps_groups``: those of an ordinary user with one id, because Linux lets nobody drop groups that may have been used to deny.
    """

    mapped: bool
    keeps_groups: bool = False
    name: ClassVar[str] = "identity"

    def explain(self) -> str:
        groups = "" if self.keeps_groups else ", setgroups"
        ids = f"{groups}, setresgid, setresuid: root of the container" if self.mapped else ""
        return f"prctl(PDEATHSIG), setsid{ids}; it dies with the kernel and has no terminal"

    def calls(self) -> tuple[Call, ...]:
        dies_with_zygote = prctl(syscalls.PR_SET_PDEATHSIG, signal.SIGKILL)
        calls = [dies_with_zygote, Call("setsid", ()), Call("read", (Slot("release"), bytes(1), 1), expects=1)]
        if self.mapped:
            calls += [] if self.keeps_groups else [Call("setgroups", (0, None))]
            calls += [Call("setresgid", (0, 0, 0)), Call("setresuid", (0, 0, 0))]
            # Changing ids clears both: /proc/self would belong to the host's root, and nobody would end us.
            calls += [prctl(syscalls.PR_SET_DUMPABLE, 1), dies_with_zygote]
        return tuple(calls)


@dataclass(frozen=True)
class JoinCgroup:
    """cgroup v1: the process moves itself, by ``tasks`` (``cgroup.procs`` costs an RCU grace period of 8-16 ms)."""

    task_fds: int
    name: ClassVar[str] = "join cgroup"

    def explain(self) -> str:
        return "write 0 to each v1 hierarchy's tasks file (v2: done by CLONE_INTO_CGROUP): limited from here on"

    def calls(self) -> tuple[Call, ...]:
        return tuple(Call("write", (Slot(f"task-{index}"), b"0", 1), expects=1) for index in range(self.task_fds))


@dataclass(frozen=True)
class CgroupNamespace:
    name: ClassVar[str] = "cgroup namespace"

    def explain(self) -> str:
        return "unshare(CLONE_NEWCGROUP): its own cgroup is / of what it sees"

    def calls(self) -> tuple[Call, ...]:
        return (Call("unshare", (syscalls.CLONE_NEWCGROUP,)),)


@dataclass(frozen=True)
class NoNestedUserNamespaces:
    """In a user namespace of its own a cell would have every capability again, and with them most of Linux's code."""

    name: ClassVar[str] = "no nested user namespaces"

    def explain(self) -> str:
        return "write 0 to /proc/sys/user/max_user_namespaces: the cell cannot make itself all-powerful in a namespace of its own"

    def calls(self) -> tuple[Call, ...]:
        return write_file("/proc/sys/user/max_user_namespaces", b"0")


@dataclass(frozen=True)
class PrivateMounts:
    name: ClassVar[str] = "private mounts"

    def explain(self) -> str:
        return "mount(/, MS_REC | MS_PRIVATE): no mount travels out of, or into, the container"

    def calls(self) -> tuple[Call, ...]:
        return (Call("mount", (None, "/", None, syscalls.MS_REC | syscalls.MS_PRIVATE, None)),)


@dataclass(frozen=True)
class FileSystem:
    """A new file system as a descriptor; made before pivot_root, because Linux lets a user namespace mount proc and
    sysfs only where it can still see a full one."""

    slot: str
    fstype: str
    options: tuple[tuple[str, str | None], ...]
    attributes: int
    why: str

    @property
    def name(self) -> str:
        return f"new {self.fstype}"

    def explain(self) -> str:
        return f"fsopen({self.fstype}), fsmount: {self.why}"

    def calls(self) -> tuple[Call, ...]:
        context = Slot("context")
        calls = [Call("fsopen", (self.fstype, syscalls.FSOPEN_CLOEXEC), "context")]
        for key, value in self.options:
            command = syscalls.FSCONFIG_SET_FLAG if value is None else syscalls.FSCONFIG_SET_STRING
            calls.append(Call("fsconfig", (context, command, key, value, 0)))
        calls.append(Call("fsconfig", (context, syscalls.FSCONFIG_CMD_CREATE, None, None, 0)))
        calls.append(Call("fsmount", (context, syscalls.FSMOUNT_CLOEXEC, self.attributes), self.slot))
        return (*calls, close("context"))


@dataclass(frozen=True)
class EnterRoot:
    """Attach the new root and leave the old one behind."""

    slot: str
    name: ClassVar[str] = "pivot_root"

    def explain(self) -> str:
        return "move_mount, pivot_root('.', '.'), umount2('.', MNT_DETACH): the host's tree is out of reach"

    def calls(self) -> tuple[Call, ...]:
        stage = Slot("stage-root")
        return (
            _move_mount(self.slot, stage),
            close(self.slot),
            Call("chdir", (stage,)),
            # With both arguments the same, the old root lies on top of the new one and can be detached from there.
            Call("pivot_root", (".", ".")),
            Call("umount2", (".", syscalls.MNT_DETACH)),
            Call("chdir", ("/",)),
        )


@dataclass(frozen=True)
class Attach:
    """Attach a descriptor's mount at a path of the container."""

    slot: str
    target: str
    why: str

    @property
    def name(self) -> str:
        return f"mount {self.target}"

    def explain(self) -> str:
        return f"move_mount({self.slot}, {self.target}): {self.why}"

    def calls(self) -> tuple[Call, ...]:
        return (_move_mount(self.slot, self.target), close(self.slot))


@dataclass(frozen=True)
class Directories:
    """Mount points on a file system of the container's own."""

    paths: tuple[str, ...]
    file: str = ""
    """An empty file, made after them."""
    name: ClassVar[str] = "mount points"

    def explain(self) -> str:
        words = [f"mkdir {' '.join(self.paths)}"] if self.paths else []
        words += [f"create {self.file}"] if self.file else []
        return f"{', '.join(words)}: mount points"

    def calls(self) -> tuple[Call, ...]:
        calls = [Call("umask", (0o022,)), *(Call("mkdirat", (AT_FDCWD, path, 0o755)) for path in self.paths)]
        if self.file:
            flags = os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC
            calls += [Call("openat", (AT_FDCWD, self.file, flags, 0o644), "tree"), close("tree")]
        return tuple(calls)


@dataclass(frozen=True)
class ReadOnlyPaths:
    """Make paths of the container read-only, each by a mount of itself."""

    paths: tuple[str, ...]
    why: str
    in_place: bool = False
    """The path is a mount point already: only change its attributes."""
    name: ClassVar[str] = "read-only paths"

    def explain(self) -> str:
        return f"mount_setattr(RDONLY) {' '.join(self.paths)}: {self.why}"

    def calls(self) -> tuple[Call, ...]:
        flags = 0 if self.in_place else OPEN_TREE_CLONE | AT_RECURSIVE
        read_only = struct.pack("=QQQQ", syscalls.MOUNT_ATTR_RDONLY, 0, 0, 0)
        tree = Slot("tree")
        calls: list[Call] = []
        for path in self.paths:
            calls.append(Call("open_tree", (AT_FDCWD, path, flags | OPEN_TREE_CLOEXEC), "tree"))
            calls.append(Call("mount_setattr", (tree, "", AT_EMPTY_PATH, read_only, len(read_only))))
            if not self.in_place:
                calls.append(_move_mount("tree", path))
            calls.append(close("tree"))
        return tuple(calls)


@dataclass(frozen=True)
class MaskPaths:
    """Cover what a container must not read: files by /dev/null, directories by one empty read-only tmpfs."""

    files: tuple[str, ...]
    directories: tuple[str, ...]
    why: str = "as Docker masks them"
    name: ClassVar[str] = "masked paths"

    def explain(self) -> str:
        return f"cover {' '.join(self.files + self.directories)}: {self.why}"

    def calls(self) -> tuple[Call, ...]:
        calls: list[Call] = [call for path in self.files for call in self._cover("/dev/null", path)]
        if self.directories:
            empty = FileSystem("tree", "tmpfs", (("size", "0"), ("mode", "555")), syscalls.MOUNT_ATTR_RDONLY, "")
            calls += [*empty.calls(), _move_mount("tree", self.directories[0]), close("tree")]
        for path in self.directories[1:]:
            calls += self._cover(self.directories[0], path)
        return tuple(calls)

    @staticmethod
    def _cover(source: str, path: str) -> tuple[Call, ...]:
        clone = Call("open_tree", (AT_FDCWD, source, OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC), "tree")
        return (clone, _move_mount("tree", path), close("tree"))


@dataclass(frozen=True)
class Hostname:
    hostname: str | None
    """None: the container's id."""
    name: ClassVar[str] = "hostname"

    def explain(self) -> str:
        return f"sethostname({self.hostname or 'the id of the container'})"

    def calls(self) -> tuple[Call, ...]:
        return (Call("sethostname", (Slot("hostname"), Slot("hostname-size"))),)


@dataclass(frozen=True)
class LoopbackUp:
    """A new network namespace has one interface, and it is down."""

    name: ClassVar[str] = "loopback"

    def explain(self) -> str:
        return "ioctl(SIOCSIFFLAGS, lo, IFF_UP): 127.0.0.1 works; without --net, nothing else is there"

    def calls(self) -> tuple[Call, ...]:
        request = struct.pack("16sh22x", b"lo", _IFF_UP)
        return (
            Call("socket", (_AF_INET, _SOCK_DGRAM | os.O_CLOEXEC, 0), "socket"),
            Call("ioctl", (Slot("socket"), _SIOCSIFFLAGS, request)),
            close("socket"),
        )


@dataclass(frozen=True)
class Ulimits:
    limits: tuple[tuple[str, int, int], ...]
    name: ClassVar[str] = "ulimits"

    def explain(self) -> str:
        return "prlimit " + ", ".join(f"{name}={soft}:{hard}" for name, soft, hard in self.limits)

    def calls(self) -> tuple[Call, ...]:
        unlimited = (1 << 64) - 1
        calls = []
        for name, soft, hard in self.limits:
            limits = struct.pack("=QQ", unlimited if soft < 0 else soft, unlimited if hard < 0 else hard)
            calls.append(Call("prlimit64", (0, getattr(resource, f"RLIMIT_{name.upper()}"), limits, None)))
        return tuple(calls)


@dataclass(frozen=True)
class OomScore:
    score: int
    name: ClassVar[str] = "oom score"

    def explain(self) -> str:
        return f"write {self.score} to /proc/self/oom_score_adj: where the whole host runs out of memory, this goes first"

    def calls(self) -> tuple[Call, ...]:
        return write_file("/proc/self/oom_score_adj", str(self.score).encode())


@dataclass(frozen=True)
class BoundCapabilities:
    keep: tuple[str, ...]
    keep_mask: int
    last: int
    name: ClassVar[str] = "capability bounds"

    def explain(self) -> str:
        return f"prctl(PR_CAPBSET_DROP): no program can ever regain more than {' '.join(self.keep) or 'nothing'}"

    def calls(self) -> tuple[Call, ...]:
        numbers = [number for number in range(self.last + 1) if not self.keep_mask >> number & 1]
        return tuple(prctl(syscalls.PR_CAPBSET_DROP, number) for number in numbers)


@dataclass(frozen=True)
class NoNewPrivileges:
    name: ClassVar[str] = "no new privileges"

    def explain(self) -> str:
        return "prctl(PR_SET_NO_NEW_PRIVS): a set-uid program gives nothing"

    def calls(self) -> tuple[Call, ...]:
        return (prctl(syscalls.PR_SET_NO_NEW_PRIVS, 1),)


@dataclass(frozen=True)
class SeccompFilter:
    """``program``: instructions as :func:`nbcontainer.linux.seccomp.build` gives them."""

    program: bytes
    name: ClassVar[str] = "seccomp filter"

    def explain(self) -> str:
        return f"seccomp(SET_MODE_FILTER, {len(self.program) // _FILTER_INSTRUCTION_BYTES} instructions): only usual system calls"

    def calls(self) -> tuple[Call, ...]:
        head = struct.pack("=H6x", len(self.program) // _FILTER_INSTRUCTION_BYTES)
        return (Call("seccomp", (_SECCOMP_SET_MODE_FILTER, 0, Pointing(head, self.program))),)


@dataclass(frozen=True)
class SessionKeyring:
    name: ClassVar[str] = "session keyring"

    def explain(self) -> str:
        return "keyctl(JOIN_SESSION_KEYRING): the kernel's keys stay outside"

    def calls(self) -> tuple[Call, ...]:
        return (Call("keyctl", (_KEYCTL_JOIN_SESSION_KEYRING, None)),)


@dataclass(frozen=True)
class Descriptors:
    """0, 1, 2, the channel and, in a Python cell's process, the file for its line; nothing else of the zygote stays open."""

    python: bool
    name: ClassVar[str] = "descriptors"

    def explain(self) -> str:
        return "dup3, close_range: standard input, output, error and the channel, and no other descriptor"

    def calls(self) -> tuple[Call, ...]:
        slots = ("null", "stdout", "stderr", "channel", *(["line"] if self.python else []))
        # First out of the way: any of them may lie where another has to go.
        calls = [Call("fcntl", (Slot(slot), _F_DUPFD_CLOEXEC, HIGH_FD), slot) for slot in slots]
        for number, slot in enumerate(slots):
            calls.append(Call("dup3", (Slot(slot), number, os.O_CLOEXEC if number >= CHANNEL_FD else 0)))
        return (*calls, Call("close_range", (len(slots), 0xFFFFFFFF, 0)), Call("umask", (0o022,)))
