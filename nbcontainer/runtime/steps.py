"""The steps of a plan: each is data that explains itself and can be executed, in the zygote or in the new process.

A step that fails raises OSError; whoever executes it reports the step's name, the errno and the path. Host steps work
below the *stage*, a tmpfs that only the zygote's private mount namespace has:

    STAGE/base/KEY        what is laid over a root: device nodes, mount points, whiteouts (see runtime.skeleton)
    STAGE/scratch         one container's tmpfs while it is made: layers l-*, upper u-*, work w-*
    STAGE/root            where the new root is attached before pivot_root

The dataclasses have no slots on purpose: frozen ones with slots are pickled field by field in Python, which made up a
tenth of what a container costs.
"""

from __future__ import annotations

import os
import resource
import stat
from dataclasses import dataclass, field
from typing import ClassVar, Protocol

from nbcontainer.linux import capabilities, syscalls
from nbcontainer.linux.syscalls import AT_EMPTY_PATH, AT_FDCWD, AT_RECURSIVE, OPEN_TREE_CLONE

MOUNT_FLAGS_READ_ONLY = syscalls.MOUNT_ATTR_RDONLY


@dataclass(slots=True)
class Context:
    """What steps share while they are executed: descriptors by slot name."""

    stage: str
    userns_fd: int = -1
    id_base: int = 0
    fds: dict[str, int] = field(default_factory=dict)
    task_fds: tuple[int, ...] = ()

    def scratch(self, name: str) -> str:
        return f"{self.stage}/scratch/{name}"

    def take(self, slot: str) -> int:
        return self.fds.pop(slot)


def write_file(path: str, data: bytes, flags: int = os.O_WRONLY) -> None:
    """One write(2). Not open(): its layers would write to 25 memory pages that a container then has for itself."""
    fd = os.open(path, flags | os.O_CLOEXEC, 0o644)
    try:
        os.write(fd, data)
    finally:
        os.close(fd)


class Step(Protocol):
    """One thing to do; ``name`` is what errors and ``--explain`` call it."""

    @property
    def name(self) -> str: ...
    def explain(self) -> str: ...
    def execute(self, context: Context) -> None: ...


def _idmapped_clone(context: Context, source: str, *, idmapped: bool, recursive: bool = False, read_only: bool = False) -> int:
    flags = OPEN_TREE_CLONE | (AT_RECURSIVE if recursive else 0)
    fd = syscalls.open_tree(AT_FDCWD, source, flags)
    try:
        attributes = syscalls.MOUNT_ATTR_RDONLY if read_only else 0
        if idmapped and context.userns_fd >= 0:
            attributes |= syscalls.MOUNT_ATTR_IDMAP
        if attributes:
            userns = context.userns_fd if attributes & syscalls.MOUNT_ATTR_IDMAP else 0
            syscalls.mount_setattr(fd, attr_set=attributes, userns_fd=userns, recursive=recursive)
    except OSError as error:
        os.close(fd)
        raise OSError(error.errno, error.strerror, source) from None
    return fd


@dataclass(frozen=True)
class Scratch:
    """The tmpfs that takes all writes of the container."""

    size_bytes: int
    name: ClassVar[str] = "writable layer"

    def explain(self) -> str:
        return f"mount(tmpfs, size={self.size_bytes}): the writable layer; its pages count as the container's memory"

    def execute(self, context: Context) -> None:
        path = f"{context.stage}/scratch"
        syscalls.mount("nbcontainer", path, "tmpfs", 0, f"size={self.size_bytes},mode=755,nr_inodes=0")


@dataclass(frozen=True)
class Layer:
    """A directory as a read-only layer, its owners shifted to the container's ids."""

    slot: str
    source: str
    why: str
    staged: bool = False
    """``source`` is a key below STAGE/base instead of a host path."""
    name: ClassVar[str] = "layer"

    def explain(self) -> str:
        return f"open_tree({self.source}, CLONE), mount_setattr(IDMAP): layer {self.slot}, {self.why}"

    def execute(self, context: Context) -> None:
        source = f"{context.stage}/base/{self.source}" if self.staged else self.source
        fd = _idmapped_clone(context, source, idmapped=True)
        try:
            target = context.scratch(f"l-{self.slot}")
            os.mkdir(target)
            # Linux before 6.15 refuses layers that are not attached to the caller's mount namespace.
            syscalls.move_mount(fd, target)
        finally:
            os.close(fd)


@dataclass(frozen=True)
class UpperDirectory:
    """A directory of the upper layer, made beforehand so that something can be mounted or written there."""

    overlay: str
    path: str
    mode: int = 0o755
    name: ClassVar[str] = "prepare directory"

    def explain(self) -> str:
        return f"mkdir({self.path}) in the writable layer"

    def execute(self, context: Context) -> None:
        current = context.scratch(f"u-{self.overlay}")
        os.makedirs(current, exist_ok=True)
        for part in self.path.strip("/").split("/"):
            current = f"{current}/{part}"
            if not os.path.isdir(current):
                os.mkdir(current, self.mode)
                os.chmod(current, self.mode)
                os.chown(current, context.id_base, context.id_base)


@dataclass(frozen=True)
class UpperFile:
    """A file of the container's own, such as /etc/hosts."""

    overlay: str
    path: str
    text: str
    name: ClassVar[str] = "own file"

    def explain(self) -> str:
        return f"write {self.path}: the container's own"

    def execute(self, context: Context) -> None:
        directory = os.path.dirname(self.path)
        if directory != "/":
            UpperDirectory(self.overlay, directory).execute(context)
        os.makedirs(context.scratch(f"u-{self.overlay}"), exist_ok=True)
        path = context.scratch(f"u-{self.overlay}") + self.path
        with open(path, "w", encoding="utf-8") as file:
            file.write(self.text)
        os.chown(path, context.id_base, context.id_base)


@dataclass(frozen=True)
class Overlay:
    """A copy-on-write file system from layers (the uppermost first), kept as a descriptor until it is attached."""

    slot: str
    lowers: tuple[str, ...]
    why: str
    read_only: bool = False
    name: ClassVar[str] = "overlay"

    def explain(self) -> str:
        layers = ":".join(self.lowers)
        return f"fsopen(overlay), lowerdir={layers}, upperdir, workdir, fsmount: {self.why}"

    def execute(self, context: Context) -> None:
        upper, work = context.scratch(f"u-{self.slot}"), context.scratch(f"w-{self.slot}")
        os.makedirs(upper, exist_ok=True)
        os.mkdir(work)
        lowers = [context.scratch(f"l-{lower}") for lower in self.lowers]
        # The merged root shows the upper directory's owner and mode: take the bottom layer's, already shifted.
        bottom = os.stat(lowers[-1])
        os.chown(upper, bottom.st_uid, bottom.st_gid)
        os.chmod(upper, stat.S_IMODE(bottom.st_mode))
        options = (("lowerdir", ":".join(lowers)), ("upperdir", upper), ("workdir", work), ("source", "nbcontainer"))
        attributes = syscalls.MOUNT_ATTR_RDONLY if self.read_only else 0
        context.fds[self.slot] = syscalls.new_filesystem("overlay", options, attributes)


@dataclass(frozen=True)
class Tree:
    """A host directory or file itself (not a copy), kept as a descriptor until it is attached."""

    slot: str
    source: str
    why: str
    read_only: bool = False
    idmapped: bool = True
    recursive: bool = False
    name: ClassVar[str] = "bind mount"

    def explain(self) -> str:
        mode = "read-only" if self.read_only else "read-write"
        return f"open_tree({self.source}, CLONE) {mode}: {self.why}"

    def execute(self, context: Context) -> None:
        context.fds[self.slot] = _idmapped_clone(
            context, self.source, idmapped=self.idmapped, recursive=self.recursive, read_only=self.read_only
        )


@dataclass(frozen=True)
class ReleaseScratch:
    """Detach the scratch directory: from here on only the overlays hold it, and it goes with them."""

    name: ClassVar[str] = "release scratch"

    def explain(self) -> str:
        return "umount2(scratch, MNT_DETACH): the writable layer now lives and dies with the container"

    def execute(self, context: Context) -> None:
        syscalls.umount2(f"{context.stage}/scratch", syscalls.MNT_DETACH)


# ---- inside the new process ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class JoinCgroup:
    """cgroup v1: the process moves itself, by ``tasks`` (``cgroup.procs`` costs an RCU grace period of 8-16 ms)."""

    name: ClassVar[str] = "join cgroup"

    def explain(self) -> str:
        return "write 0 to each v1 hierarchy's tasks file (v2: done by CLONE_INTO_CGROUP): limited from here on"

    def execute(self, context: Context) -> None:
        for fd in context.task_fds:
            os.write(fd, b"0")


@dataclass(frozen=True)
class CgroupNamespace:
    name: ClassVar[str] = "cgroup namespace"

    def explain(self) -> str:
        return "unshare(CLONE_NEWCGROUP): its own cgroup is / of what it sees"

    def execute(self, context: Context) -> None:
        syscalls.unshare(syscalls.CLONE_NEWCGROUP)


@dataclass(frozen=True)
class NoNestedUserNamespaces:
    """In a user namespace of its own a cell would have every capability again, and with them most of Linux's code."""

    name: ClassVar[str] = "no nested user namespaces"

    def explain(self) -> str:
        return "write 0 to /proc/sys/user/max_user_namespaces: the cell cannot make itself all-powerful in a namespace of its own"

    def execute(self, context: Context) -> None:
        write_file("/proc/sys/user/max_user_namespaces", b"0")


@dataclass(frozen=True)
class PrivateMounts:
    name: ClassVar[str] = "private mounts"

    def explain(self) -> str:
        return "mount(/, MS_REC | MS_PRIVATE): no mount travels out of, or into, the container"

    def execute(self, context: Context) -> None:
        syscalls.mount(None, "/", None, syscalls.MS_REC | syscalls.MS_PRIVATE)


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

    def execute(self, context: Context) -> None:
        context.fds[self.slot] = syscalls.new_filesystem(self.fstype, self.options, self.attributes)


@dataclass(frozen=True)
class EnterRoot:
    """Attach the new root and leave the old one behind."""

    slot: str
    name: ClassVar[str] = "pivot_root"

    def explain(self) -> str:
        return "move_mount, pivot_root('.', '.'), umount2('.', MNT_DETACH): the host's tree is out of reach"

    def execute(self, context: Context) -> None:
        root = f"{context.stage}/root"
        fd = context.take(self.slot)
        syscalls.move_mount(fd, root)
        os.close(fd)
        os.chdir(root)
        # With both arguments the same, the old root lies on top of the new one and can be detached from there.
        syscalls.pivot_root(".", ".")
        syscalls.umount2(".", syscalls.MNT_DETACH)
        os.chdir("/")


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

    def execute(self, context: Context) -> None:
        fd = context.take(self.slot)
        syscalls.move_mount(fd, self.target)
        os.close(fd)


@dataclass(frozen=True)
class Directories:
    """Mount points on a file system of the container's own."""

    paths: tuple[str, ...]
    name: ClassVar[str] = "mount points"

    def explain(self) -> str:
        return f"mkdir {' '.join(self.paths)}: mount points"

    def execute(self, context: Context) -> None:
        for path in self.paths:
            os.mkdir(path)


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

    def execute(self, context: Context) -> None:
        for path in self.paths:
            flags = AT_EMPTY_PATH if self.in_place else OPEN_TREE_CLONE | AT_RECURSIVE
            fd = syscalls.open_tree(AT_FDCWD, path, 0 if self.in_place else flags)
            try:
                syscalls.mount_setattr(fd, attr_set=MOUNT_FLAGS_READ_ONLY)
                if not self.in_place:
                    syscalls.move_mount(fd, path)
            finally:
                os.close(fd)


@dataclass(frozen=True)
class MaskPaths:
    """Cover what a container must not read: files by /dev/null, directories by one empty read-only tmpfs."""

    files: tuple[str, ...]
    directories: tuple[str, ...]
    name: ClassVar[str] = "masked paths"

    def explain(self) -> str:
        return f"cover {' '.join(self.files + self.directories)}: as Docker masks them"

    def execute(self, context: Context) -> None:
        for path in self.files:
            self._cover("/dev/null", path)
        if self.directories:
            options = (("size", "0"), ("mode", "555"))
            fd = syscalls.new_filesystem("tmpfs", options, MOUNT_FLAGS_READ_ONLY)
            syscalls.move_mount(fd, self.directories[0])
            os.close(fd)
        for path in self.directories[1:]:
            self._cover(self.directories[0], path)

    @staticmethod
    def _cover(source: str, path: str) -> None:
        fd = syscalls.open_tree(AT_FDCWD, source, OPEN_TREE_CLONE)
        syscalls.move_mount(fd, path)
        os.close(fd)


@dataclass(frozen=True)
class Hostname:
    hostname: str
    name: ClassVar[str] = "hostname"

    def explain(self) -> str:
        return f"sethostname({self.hostname!r})"

    def execute(self, context: Context) -> None:
        syscalls.sethostname(self.hostname)


@dataclass(frozen=True)
class LoopbackUp:
    """A new network namespace has one interface, and it is down."""

    name: ClassVar[str] = "loopback"

    def explain(self) -> str:
        return "ioctl(SIOCSIFFLAGS, lo, IFF_UP): 127.0.0.1 works, nothing else is there"

    def execute(self, context: Context) -> None:
        syscalls.loopback_up()


@dataclass(frozen=True)
class Ulimits:
    limits: tuple[tuple[str, int, int], ...]
    name: ClassVar[str] = "ulimits"

    def explain(self) -> str:
        return "setrlimit " + ", ".join(f"{name}={soft}:{hard}" for name, soft, hard in self.limits)

    def execute(self, context: Context) -> None:
        for name, soft, hard in self.limits:
            number = getattr(resource, f"RLIMIT_{name.upper()}")
            try:
                resource.setrlimit(number, (soft, hard))
            except ValueError as error:
                raise OSError(1, str(error), f"RLIMIT_{name.upper()}") from None


@dataclass(frozen=True)
class OomScore:
    score: int
    name: ClassVar[str] = "oom score"

    def explain(self) -> str:
        return f"write {self.score} to /proc/self/oom_score_adj: where the whole host runs out of memory, this goes first"

    def execute(self, context: Context) -> None:
        write_file("/proc/self/oom_score_adj", b"%d" % self.score)


@dataclass(frozen=True)
class BoundCapabilities:
    keep: tuple[str, ...]
    keep_mask: int
    last: int
    name: ClassVar[str] = "capability bounds"

    def explain(self) -> str:
        return f"prctl(PR_CAPBSET_DROP): no program can ever regain more than {' '.join(self.keep) or 'nothing'}"

    def execute(self, context: Context) -> None:
        capabilities.drop_bounding(self.keep_mask, self.last)


@dataclass(frozen=True)
class SessionKeyring:
    name: ClassVar[str] = "session keyring"

    def explain(self) -> str:
        return "keyctl(JOIN_SESSION_KEYRING): the kernel's keys stay outside"

    def execute(self, context: Context) -> None:
        syscalls.new_session_keyring()
