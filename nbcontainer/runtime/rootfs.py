"""Turns a spec into the plan of its container: namespaces, root, mounts, and what the process gives up."""

from __future__ import annotations

import os
import socket
from collections.abc import Sequence
from dataclasses import dataclass

from nbcontainer.errors import SpecError
from nbcontainer.linux import capabilities, syscalls
from nbcontainer.runtime import steps
from nbcontainer.runtime.plan import IdMap, Plan
from nbcontainer.runtime.skeleton import Branch, find_branches
from nbcontainer.runtime.steps import Step
from nbcontainer.spec import ContainerSpec, Mount

OOM_SCORE = 500
SHM_BYTES = 64 << 20
_MASKED = ("acpi", "asound", "interrupts", "kcore", "keys", "latency_stats", "sched_debug", "scsi", "timer_list", "timer_stats")
_MASKED_IN_SYS = ("/sys/firmware", "/sys/devices/virtual/powercap")
_READ_ONLY = ("bus", "fs", "irq", "sys", "sysrq-trigger")


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What the plan needs to know of the host; read once per kernel."""

    branches: tuple[Branch, ...]
    masked_files: tuple[str, ...]
    masked_directories: tuple[str, ...]
    read_only: tuple[str, ...]
    last_capability: int


def look_around() -> Surroundings:
    masked = [f"/proc/{name}" for name in _MASKED] + list(_MASKED_IN_SYS)
    return Surroundings(
        find_branches(),
        tuple(path for path in masked if os.path.exists(path) and not os.path.isdir(path)),
        tuple(path for path in masked if os.path.isdir(path)),
        tuple(f"/proc/{name}" for name in _READ_ONLY if os.path.exists(f"/proc/{name}")),
        capabilities.last_capability(),
    )


def make_plan(
    spec: ContainerSpec, around: Surroundings, views: Sequence[tuple[str, str]], id_map: IdMap | None, hostname: str
) -> Plan:
    """The whole plan. ``views``: (name below /sys/fs/cgroup, host directory) of the container's own cgroups."""
    host: list[Step] = []
    inside: list[Step] = [steps.JoinCgroup(), steps.OomScore(OOM_SCORE)]
    own = spec.namespaces
    if "user" in own:
        # The setting belongs to the user namespace: a shared one is the host's.
        inside.append(steps.NoNestedUserNamespaces())
    if "cgroup" in own:
        inside.append(steps.CgroupNamespace())
    if "uts" in own:
        inside.append(steps.Hostname(hostname))
    if "net" in own and spec.network == "none":
        inside.append(steps.LoopbackUp())
    if "mnt" in own:
        inside.append(steps.PrivateMounts())
        if spec.root.kind == "none":
            _host_tree(spec, inside, host)
        else:
            _own_root(spec, around, views, host, inside, hostname)
    if spec.ulimits:
        inside.append(steps.Ulimits(tuple((limit.name, limit.soft, limit.hard) for limit in spec.ulimits)))
    keep = capabilities.choose(spec.cap_add, spec.cap_drop)
    inside += [steps.SessionKeyring(), steps.BoundCapabilities(keep, capabilities.mask(keep), around.last_capability)]
    namespaces = tuple(name for name in syscalls.NAMESPACE_FLAGS if name in own)
    return Plan(namespaces, id_map, tuple(host), tuple(inside), not spec.program, host_mounts="mnt" not in own)


def _proc() -> steps.FileSystem:
    attributes = syscalls.MOUNT_ATTR_NOSUID | syscalls.MOUNT_ATTR_NODEV | syscalls.MOUNT_ATTR_NOEXEC
    return steps.FileSystem("proc", "proc", (), attributes, "the processes of the container's own pid namespace")


def _host_tree(spec: ContainerSpec, inside: list[Step], host: list[Step]) -> None:
    """--root none: the host's tree as it is; only /proc must fit the pid namespace."""
    if "pid" in spec.namespaces:
        inside += [_proc(), steps.Attach("proc", "/proc", "the host's /proc would show the wrong processes")]
    for index, mount in enumerate(spec.mounts):
        if not os.path.exists(mount.target):
            raise SpecError(f"--volume, --tmpfs: {mount.target} does not exist, and --root none makes nothing on the host")
        _mount(mount, index, host, inside, spec)


def _own_root(
    spec: ContainerSpec,
    around: Surroundings,
    views: Sequence[tuple[str, str]],
    host: list[Step],
    inside: list[Step],
    hostname: str,
) -> None:
    attach: list[Step] = []
    host.append(steps.Scratch(spec.disk_bytes))
    if spec.root.writable:
        _check_mount_points(spec)
        host.append(steps.Tree("root", spec.root.path, "the root: the directory itself", spec.read_only, recursive=True))
    else:
        if not spec.bare:
            _own_files(spec, host, hostname)
        for mount in spec.mounts:
            _mount_point(mount, host, spec)
        _root_overlays(spec, around, host, attach)
    if spec.workspace is not None and not any(mount.target == "/workspace" for mount in spec.mounts) and not spec.root.writable:
        host += [
            steps.Layer("workspace", spec.workspace, "the notebook's directory"),
            steps.Overlay("workspace", ("workspace",), "/workspace, copy-on-write", spec.read_only),
        ]
        attach.append(steps.Attach("workspace", "/workspace", "the notebook's directory, copy-on-write"))
    if not spec.bare:
        _kernel_file_systems(spec, around, views, host, inside, attach)
    for index, mount in enumerate(spec.mounts):
        _mount(mount, index, host, attach, spec)
    host.append(steps.ReleaseScratch())
    inside.append(steps.EnterRoot("root"))
    inside += attach


def _root_overlays(spec: ContainerSpec, around: Surroundings, host: list[Step], attach: list[Step]) -> None:
    kind = spec.root.kind
    lower = spec.root.path if kind == "dir" else "/"
    host.append(steps.Layer("base", lower, "the directory" if kind == "dir" else "the host's tree"))
    layers: tuple[str, ...] = ("base",)
    if not spec.bare:
        host.append(steps.Layer("skeleton", kind, "device nodes, mount points, and what is hidden", staged=True))
        layers = ("skeleton", "base")
    host.append(steps.Overlay("root", layers, f"the {spec.root} root, copy-on-write", spec.read_only))
    if kind == "dir":
        return
    for index, branch in enumerate(branch for branch in around.branches if branch.in_system or kind == "host"):
        slot = f"branch-{index}"
        host += [
            steps.Layer(slot, branch.path, branch.why),
            steps.Layer(f"{slot}-skeleton", branch.key, "hides what others may not read", staged=True),
            steps.Overlay(slot, (f"{slot}-skeleton", slot), f"{branch.path}, copy-on-write", spec.read_only),
        ]
        attach.append(steps.Attach(slot, branch.path, branch.why))


def _own_files(spec: ContainerSpec, host: list[Step], hostname: str) -> None:
    host_names = f"127.0.0.1\tlocalhost {hostname}\n::1\tlocalhost ip6-localhost ip6-loopback\n"
    resolver = "# This container has no network.\n"
    if spec.network == "host":
        try:
            with open("/etc/resolv.conf", encoding="utf-8", errors="replace") as file:
                resolver = file.read()
        except OSError:
            resolver = ""
    name = hostname if "uts" in spec.namespaces else socket.gethostname()
    for path, text in (("/etc/hostname", f"{name}\n"), ("/etc/hosts", host_names), ("/etc/resolv.conf", resolver)):
        host.append(steps.UpperFile("root", path, text))


def _kernel_file_systems(
    spec: ContainerSpec,
    around: Surroundings,
    views: Sequence[tuple[str, str]],
    host: list[Step],
    inside: list[Step],
    attach: list[Step],
) -> None:
    """/proc, /sys, /dev/pts, /dev/shm and the own cgroup files."""
    read_only = syscalls.MOUNT_ATTR_RDONLY
    safe = syscalls.MOUNT_ATTR_NOSUID | syscalls.MOUNT_ATTR_NODEV | syscalls.MOUNT_ATTR_NOEXEC
    if "pid" in spec.namespaces:
        inside.append(_proc())
    else:
        host.append(steps.Tree("proc", "/proc", "the pid namespace is shared, and so is /proc", idmapped=False))
    if "net" in spec.namespaces:
        inside.append(steps.FileSystem("sysfs", "sysfs", (), safe | read_only, "devices, read-only"))
    else:
        host.append(steps.Tree("sysfs", "/sys", "the host's /sys, read-only", read_only=True, idmapped=False))
    pts = (("newinstance", None), ("ptmxmode", "0666"), ("mode", "0620"))
    shm = (("size", str(min(SHM_BYTES, spec.disk_bytes))), ("mode", "1777"))
    inside += [
        steps.FileSystem("pts", "devpts", pts, syscalls.MOUNT_ATTR_NOSUID | syscalls.MOUNT_ATTR_NOEXEC, "terminals of its own"),
        steps.FileSystem("shm", "tmpfs", shm, safe & ~syscalls.MOUNT_ATTR_NOEXEC, "shared memory of its own"),
    ]
    attach += [
        steps.Attach("proc", "/proc", "a /proc of its own"),
        steps.Attach("sysfs", "/sys", "read-only /sys"),
        steps.Attach("pts", "/dev/pts", "terminals"),
        steps.Attach("shm", "/dev/shm", "shared memory"),
    ]
    _cgroup_views(views, host, inside, attach)
    attach.append(steps.ReadOnlyPaths(around.read_only, "as Docker protects them"))
    attach.append(steps.MaskPaths(around.masked_files, around.masked_directories))


def _cgroup_views(views: Sequence[tuple[str, str]], host: list[Step], inside: list[Step], attach: list[Step]) -> None:
    where = "/sys/fs/cgroup"
    for index, (_, path) in enumerate(views):
        host.append(steps.Tree(f"cgroup-{index}", path, "the container's own cgroup, read-only", read_only=True, idmapped=False))
    if any(name for name, _ in views):
        options = (("size", "64k"), ("mode", "755"))
        inside.append(steps.FileSystem("cgroups", "tmpfs", options, syscalls.MOUNT_ATTR_NOSUID, "room for the v1 hierarchies"))
        attach.append(steps.Attach("cgroups", where, "room for the v1 hierarchies"))
        attach.append(steps.Directories(tuple(f"{where}/{name}" for name, _ in views)))
    for index, (name, _) in enumerate(views):
        attach.append(steps.Attach(f"cgroup-{index}", f"{where}/{name}".rstrip("/"), "its own limits and readings"))
    if any(name for name, _ in views):
        attach.append(steps.ReadOnlyPaths((where,), "readings, not settings", in_place=True))


def _mount_point(mount: Mount, host: list[Step], spec: ContainerSpec) -> None:
    """A place for ``mount`` in the writable layer that will lie there: the root's, or the workspace's."""
    overlay, target = "root", mount.target
    if target.startswith("/workspace/") and spec.workspace is not None:
        overlay, target = "workspace", target.removeprefix("/workspace")
    if mount.kind == "bind" and not os.path.isdir(mount.source):
        host.append(steps.UpperFile(overlay, target, ""))
    elif mount.target != "/workspace":
        host.append(steps.UpperDirectory(overlay, target))


def _mount(mount: Mount, index: int, host: list[Step], attach: list[Step], spec: ContainerSpec) -> None:
    slot = f"mount-{index}"
    if mount.kind == "bind":
        host.append(steps.Tree(slot, mount.source, f"volume for {mount.target}", mount.read_only))
    else:
        options = (("size", str(mount.size_bytes or spec.disk_bytes)), ("mode", "1777"))
        flags = syscalls.MOUNT_ATTR_NOSUID | syscalls.MOUNT_ATTR_NODEV
        attach.append(steps.FileSystem(slot, "tmpfs", options, flags, f"memory at {mount.target}"))
    attach.append(steps.Attach(slot, mount.target, "as asked for"))


def _check_mount_points(spec: ContainerSpec) -> None:
    """With DIR:rw nothing may be made in the user's directory: every mount point must be there."""
    needed = [] if spec.bare else ["/proc", "/sys", "/dev/pts", "/dev/shm", "/dev/null"]
    needed += [mount.target for mount in spec.mounts]
    for target in needed:
        if not os.path.exists(spec.root.path + target):
            raise SpecError(
                f"--root: {spec.root.path} is writable and has no {target}; make it there yourself, or use --bare, or leave out :rw"
            )
