"""The host steps of a plan: each is data that explains itself and can be executed, in the zygote.

A step that fails raises OSError; whoever executes it reports the step's name, the errno and the path. Host steps work
below the *stage*, a tmpfs that only the zygote's private mount namespace has:

    STAGE/base/KEY        what is laid over a root: device nodes, mount points, whiteouts (see runtime.skeleton)
    STAGE/scratch         one container's tmpfs while it is made: layers l-*, upper u-*, work w-*
    STAGE/root            where the new root is attached before pivot_root
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import ClassVar, Protocol

from nbcontainer.linux import syscalls
from nbcontainer.linux.syscalls import AT_EMPTY_PATH, AT_FDCWD, AT_RECURSIVE, OPEN_TREE_CLONE

RESOLVER = "169.254.77.53"
"""Of containers on a network; see :mod:`nbcontainer.network.resolver`."""


@dataclass(slots=True)
class Context:
    """What one container's steps share: where, for whom, and the descriptors that they made, by slot."""

    stage: str
    hostname: str
    cgroup_directories: tuple[str, ...] = ()
    userns_fd: int = -1
    userns_with: Callable[[tuple[int, int]], int] | None = None
    """One in which root's files belong to that user and group of the container."""
    id_base: int = 0
    rootless: bool = False
    """In a user namespace, with one id: nothing can be given to another, and overlays mark deletions otherwise."""
    fds: dict[str, int] = field(default_factory=dict)

    def userns(self, owner: tuple[int, int]) -> int:
        return self.userns_fd if owner == (0, 0) or self.userns_with is None else self.userns_with(owner)

    def scratch(self, name: str) -> str:
        return f"{self.stage}/scratch/{name}"


def write_file(path: str, data: bytes, flags: int = os.O_WRONLY) -> None:
    """One write(2). Not open(), whose layers cost ten times as much."""
    fd = os.open(path, flags | os.O_CLOEXEC, 0o644)
    try:
        os.write(fd, data)
    finally:
        os.close(fd)


SCRATCH = "scratch"


class Step(Protocol):
    """One thing to do; ``name`` is what errors and ``--explain`` call it."""

    @property
    def name(self) -> str: ...
    def explain(self) -> str: ...
    def execute(self, context: Context) -> None: ...


def _open_tree_without_links(source: str, flags: int) -> int:
    """Links were followed when the user's line was read. One that is there now has been put there since, perhaps by a cell
    that may write to a directory above, and would lead wherever that likes."""
    place = syscalls.open_without_links(source)
    try:
        return syscalls.open_tree(place, "", flags | AT_EMPTY_PATH)
    except OSError as error:
        raise OSError(error.errno, error.strerror, source) from None
    finally:
        os.close(place)


def _idmapped_clone(
    context: Context, source: str, *, idmapped: bool, recursive: bool = False, read_only: bool = False, links: bool = True, devices: bool = False,
    owner: tuple[int, int] = (0, 0),
) -> int:  # fmt: skip
    """``devices``: its device nodes can be opened. Elsewhere they cannot, whoever has made them: their numbers are the host's."""
    flags = OPEN_TREE_CLONE | (AT_RECURSIVE if recursive else 0)
    fd = syscalls.open_tree(AT_FDCWD, source, flags) if links else _open_tree_without_links(source, flags)
    try:
        attributes = 0 if devices else syscalls.MOUNT_ATTR_NODEV
        if read_only:
            attributes |= syscalls.MOUNT_ATTR_RDONLY
        if idmapped and context.userns_fd >= 0:
            attributes |= syscalls.MOUNT_ATTR_IDMAP
        if attributes:
            userns = context.userns(owner) if attributes & syscalls.MOUNT_ATTR_IDMAP else 0
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
        context.fds[SCRATCH] = os.open(path, os.O_PATH | os.O_CLOEXEC)  # for the kernel, to look at what was written


@dataclass(frozen=True)
class Layer:
    """A directory as a read-only layer, its owners shifted to the container's ids."""

    slot: str
    source: str
    why: str
    staged: bool = False
    """``source`` is a key below STAGE/base instead of a host path."""
    users: bool = False
    """It is a directory that the user has named: see Tree."""
    name: ClassVar[str] = "layer"

    def explain(self) -> str:
        return f"open_tree({self.source}, CLONE), mount_setattr(IDMAP): layer {self.slot}, {self.why}"

    def execute(self, context: Context) -> None:
        source = f"{context.stage}/base/{self.source}" if self.staged else self.source
        if self.staged and context.rootless:
            # The stage may lie in a directory that is a layer too, and Linux refuses layers that contain each other.
            _copy_skeleton(source, context.scratch(f"l-{self.slot}"))
            return
        fd = _idmapped_clone(context, source, idmapped=True, links=not self.users)
        try:
            target = context.scratch(f"l-{self.slot}")
            os.mkdir(target)
            # Linux before 6.15 refuses layers that are not attached to the caller's mount namespace.
            syscalls.move_mount(fd, target)
        finally:
            os.close(fd)


def _copy_skeleton(source: str, target: str) -> None:
    """Directories, empty files, links and whiteouts."""
    os.mkdir(target)
    os.chmod(target, stat.S_IMODE(os.stat(source).st_mode))
    with os.scandir(source) as entries:
        for entry in entries:
            path = f"{target}/{entry.name}"
            if entry.is_symlink():
                os.symlink(os.readlink(entry.path), path)
            elif entry.is_dir():
                _copy_skeleton(entry.path, path)
            else:
                os.mknod(path, entry.stat().st_mode)


@dataclass(frozen=True)
class UpperDirectory:
    """A directory of the upper layer, made beforehand so that something can be mounted or written there.

    It and those above it look as in the layers below, which they would hide else: an upper directory's mode and owner win.
    """

    overlay: str
    lowers: tuple[str, ...]
    """The overlay's layers, the uppermost first."""
    path: str
    """Without symbolic links."""
    name: ClassVar[str] = "prepare directory"

    def explain(self) -> str:
        return f"mkdir({self.path or '/'}) in the writable layer of {self.overlay}"

    def execute(self, context: Context) -> None:
        current = context.scratch(f"u-{self.overlay}")
        os.makedirs(current, exist_ok=True)
        layers = [context.scratch(f"l-{lower}") for lower in self.lowers]
        for part in filter(None, self.path.split("/")):
            current = f"{current}/{part}"
            layers, like = _enter(layers, part)
            if os.path.isdir(current):
                continue
            os.mkdir(current)
            if not context.rootless:
                os.chown(current, *((like.st_uid, like.st_gid) if like else (context.id_base, context.id_base)))
            os.chmod(current, stat.S_IMODE(like.st_mode) if like else 0o755)


def _enter(layers: list[str], name: str) -> tuple[list[str], os.stat_result | None]:
    """The directories ``name`` of some layers that together are one in the overlay, and the uppermost's status."""
    found: list[str] = []
    uppermost: os.stat_result | None = None
    for layer in layers:
        path = f"{layer}/{name}"
        try:
            status = os.lstat(path)
        except OSError:
            continue
        if not stat.S_ISDIR(status.st_mode):
            break  # a whiteout or a file: it hides what is below it
        found.append(path)
        uppermost = uppermost or status
        try:
            os.getxattr(path, "trusted.overlay.opaque")
            break
        except OSError:
            continue
    return found, uppermost


@dataclass(frozen=True)
class UpperFile:
    """An empty file of the upper layer, for something to be mounted over it."""

    overlay: str
    lowers: tuple[str, ...]
    path: str
    name: ClassVar[str] = "prepare file"

    def explain(self) -> str:
        return f"create {self.path} in the writable layer of {self.overlay}"

    def execute(self, context: Context) -> None:
        UpperDirectory(self.overlay, self.lowers, os.path.dirname(self.path)).execute(context)
        _own_file(context, context.scratch(f"u-{self.overlay}") + self.path, b"")


@dataclass(frozen=True)
class IdentityFiles:
    """/etc/hostname, /etc/hosts and /etc/resolv.conf."""

    overlay: str
    lowers: tuple[str, ...]
    etc: str
    """Where /etc is in that overlay."""
    own_hostname: bool
    network: str
    name: ClassVar[str] = "own file"

    def explain(self) -> str:
        return "write /etc/hostname, /etc/hosts, /etc/resolv.conf: the container's own"

    def execute(self, context: Context) -> None:
        UpperDirectory(self.overlay, self.lowers, self.etc).execute(context)
        name = context.hostname if self.own_hostname else os.uname().nodename
        resolver = b"# This container has no network.\n"
        if self.network == "bridge":
            resolver = f"nameserver {RESOLVER}\n".encode()
        if self.network == "host":
            try:
                with open("/etc/resolv.conf", "rb") as file:
                    resolver = file.read()
            except FileNotFoundError:
                resolver = b""
        own_name = "" if self.network == "bridge" else f" {context.hostname}"  # others know it by its address, and so does it
        hosts = f"127.0.0.1\tlocalhost{own_name}\n::1\tlocalhost ip6-localhost ip6-loopback\n"
        directory = context.scratch(f"u-{self.overlay}") + self.etc
        _own_file(context, f"{directory}/hostname", f"{name}\n".encode())
        _own_file(context, f"{directory}/hosts", hosts.encode())
        _own_file(context, f"{directory}/resolv.conf", resolver)


def _own_file(context: Context, path: str, data: bytes) -> None:
    write_file(path, data, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
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
        return f"fsopen(overlay), lowerdir={layers}, upperdir, workdir, fsmount(NODEV): {self.why}"

    def execute(self, context: Context) -> None:
        # Relative names: fsconfig takes no text of more than 255 bytes.
        os.chdir(f"{context.stage}/scratch")
        upper, work = f"u-{self.slot}", f"w-{self.slot}"
        os.makedirs(upper, exist_ok=True)
        os.mkdir(work)
        lowers = [f"l-{lower}" for lower in self.lowers]
        # The merged root shows the upper directory's owner and mode: take the bottom layer's, already shifted.
        bottom = os.stat(lowers[-1])
        if not context.rootless:
            os.chown(upper, bottom.st_uid, bottom.st_gid)
        os.chmod(upper, stat.S_IMODE(bottom.st_mode))
        options: tuple[tuple[str, str | None], ...] = (
            *(("lowerdir", ":".join(lowers)), ("upperdir", upper), ("workdir", work), ("source", "nbcontainer")),
            *((("userxattr", None),) if context.rootless else ()),
        )
        attributes = syscalls.MOUNT_ATTR_NODEV | (syscalls.MOUNT_ATTR_RDONLY if self.read_only else 0)
        context.fds[self.slot] = syscalls.new_filesystem("overlay", options, attributes)


@dataclass(frozen=True)
class PlainRoot:
    """A root without a lower layer, as / itself cannot be one in a user namespace: directories and links to begin with."""

    slot: str
    directories: tuple[tuple[str, int], ...]
    """(path, mode); parents first."""
    files: tuple[str, ...]
    links: tuple[tuple[str, str], ...]
    read_only: bool = False
    name: ClassVar[str] = "root directory"

    def explain(self) -> str:
        return f"mkdir, symlink in the writable layer: {' '.join(path for path, _ in self.directories)}; open_tree(CLONE): the root"

    def execute(self, context: Context) -> None:
        top = context.scratch(f"u-{self.slot}")
        os.makedirs(top, exist_ok=True)
        for path, mode in self.directories:
            os.makedirs(top + path, exist_ok=True)
            os.chmod(top + path, mode)
        for path in self.files:
            write_file(top + path, b"", os.O_WRONLY | os.O_CREAT)
        for path, target in self.links:
            os.symlink(target, top + path)
        context.fds[self.slot] = _idmapped_clone(context, top, idmapped=False, read_only=self.read_only)


@dataclass(frozen=True)
class Tree:
    """A host directory or file itself (not a copy), kept as a descriptor until it is attached."""

    slot: str
    source: str
    why: str
    read_only: bool = False
    idmapped: bool = True
    recursive: bool = False
    users: bool = False
    """The user has named it, and it has no links in it."""
    staged: bool = False
    """``source`` is below STAGE/base instead of a host path."""
    devices: bool = False
    """It is a device node, or has those in it that a container may open."""
    owner: tuple[int, int] = (0, 0)
    """See Mount."""
    name: ClassVar[str] = "bind mount"

    def explain(self) -> str:
        mode = ("read-only" if self.read_only else "read-write") + ("" if self.devices else ", NODEV")
        mode += ", the host's root is {}:{}".format(*self.owner) if any(self.owner) else ""
        return f"open_tree({self.source}, CLONE) {mode}: {self.why}"

    def execute(self, context: Context) -> None:
        source = f"{context.stage}/base/{self.source}" if self.staged else self.source
        context.fds[self.slot] = _idmapped_clone(
            context, source, idmapped=self.idmapped, recursive=self.recursive, read_only=self.read_only, links=not self.users,
            devices=self.devices, owner=self.owner,
        )  # fmt: skip


@dataclass(frozen=True)
class CgroupView:
    """One of the container's own cgroup directories, for it to read; kept as a descriptor until it is attached."""

    index: int
    view: str
    name: ClassVar[str] = "cgroup view"

    def explain(self) -> str:
        return f"open_tree(the container's {self.view or 'cgroup'} directory, CLONE) read-only: its own limits and readings"

    def execute(self, context: Context) -> None:
        source = context.cgroup_directories[self.index]
        context.fds[f"cgroup-{self.index}"] = _idmapped_clone(context, source, idmapped=False, read_only=True)


@dataclass(frozen=True)
class ReleaseScratch:
    """Detach the scratch directory: from here on only the overlays hold it, and it goes with them."""

    name: ClassVar[str] = "release scratch"

    def explain(self) -> str:
        return "umount2(scratch, MNT_DETACH): the writable layer now lives and dies with the container"

    def execute(self, context: Context) -> None:
        os.chdir("/")
        syscalls.umount2(f"{context.stage}/scratch", syscalls.MNT_DETACH)
