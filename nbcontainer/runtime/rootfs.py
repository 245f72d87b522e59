"""Turns a spec into the plan of its containers: namespaces, root, mounts, and what the process gives up."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from nbcontainer.errors import SpecError
from nbcontainer.linux import capabilities, seccomp, syscalls
from nbcontainer.mounts import Mount
from nbcontainer.runtime import inside, join, rootless, steps
from nbcontainer.runtime.inside import InsideStep
from nbcontainer.runtime.plan import Plan
from nbcontainer.runtime.skeleton import DEVICES, Branch, TopLevel, find_branches, find_top_level
from nbcontainer.runtime.steps import Step
from nbcontainer.runtime.targets import ContainerTree, Target, find_targets, is_below
from nbcontainer.spec import ContainerSpec

CGROUP_ROOT = "/sys/fs/cgroup"
_MASKED = ("acpi", "asound", "interrupts", "kcore", "keys", "latency_stats", "sched_debug", "scsi", "timer_list", "timer_stats")
_MASKED_IN_SYS = ("/sys/firmware", "/sys/devices/virtual/powercap")
_READ_ONLY = ("bus", "fs", "irq", "sys", "sysrq-trigger")


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What the plan needs to know of the host; read once per kernel."""

    branches: tuple[Branch, ...]
    top_level: TopLevel | None
    """What a root is put together from, rootless; None where / itself can be a layer."""
    masked_files: tuple[str, ...]
    masked_directories: tuple[str, ...]
    read_only: tuple[str, ...]
    last_capability: int
    several_ids: bool = True
    """Containers have more ids than root's."""

    def remaining(self) -> Surroundings:
        """Without what the host has no more; what Python runs from must be there."""
        branches = tuple(branch for branch in self.branches if branch.key.startswith("python") or os.path.isdir(branch.path))
        top = self.top_level
        if top is not None:
            top = replace(top, branches=branches, files=tuple(path for path in top.files if os.path.isfile(path)))
        return replace(self, branches=branches, top_level=top)


def look_around(rootless: bool) -> Surroundings:
    top_level = find_top_level() if rootless else None
    masked = [f"/proc/{name}" for name in _MASKED] + list(_MASKED_IN_SYS)
    return Surroundings(
        find_branches() if top_level is None else top_level.branches,
        top_level,
        tuple(path for path in masked if os.path.exists(path) and not os.path.isdir(path)),
        tuple(path for path in masked if os.path.isdir(path)),
        tuple(f"/proc/{name}" for name in _READ_ONLY if os.path.exists(f"/proc/{name}")),
        capabilities.last_capability(),
        several_ids=not rootless,
    )


def branches_of(spec: ContainerSpec, around: Surroundings) -> list[Branch]:
    kind = spec.root.kind
    return [branch for branch in around.branches if kind == "host" or (kind == "system" and branch.in_system)]


@dataclass(slots=True)
class _Draft:
    """A plan in the making: its host steps, and those of the new process before it has a root, before it enters it, and
    after."""

    spec: ContainerSpec
    around: Surroundings
    host: list[Step] = field(default_factory=list)
    first: list[InsideStep] = field(default_factory=list)
    before: list[InsideStep] = field(default_factory=list)
    after: list[InsideStep] = field(default_factory=list)
    waiting: dict[str, list[Step]] = field(default_factory=dict)
    """Host steps by the overlay that they make something in."""

    @property
    def rootless(self) -> bool:
        return self.around.top_level is not None

    @property
    def branches(self) -> list[Branch]:
        """Those that the root consists of, besides itself."""
        return branches_of(self.spec, self.around)

    def place(self, path: str) -> tuple[str, tuple[str, ...], str]:
        """(overlay, its layers, path in it) of a path of the container, for what has to be there before anything is mounted."""
        if self.spec.workspace is not None and path.startswith("/workspace/"):
            return "workspace", ("workspace",), path.removeprefix("/workspace")
        for index, branch in reversed(list(enumerate(self.branches))):
            if is_below(path, branch.path):
                slot = f"branch-{index}"
                layers = rootless.layers(slot, branch, self.branches) if self.rootless else (f"{slot}-skeleton", slot)
                return slot, layers, path.removeprefix(branch.path)
        return "root", self.root_layers, path

    @property
    def root_layers(self) -> tuple[str, ...]:
        if self.rootless and self.spec.root.kind != "dir":
            return ()
        return ("base",) if self.spec.bare else ("skeleton", "base")

    def prepare(self, target: Target) -> None:
        """A place for a mount in the writable layer that will lie there."""
        place = self.place(target.mount.target)
        step = steps.UpperFile(*place) if target.is_file else steps.UpperDirectory(*place)
        self.waiting.setdefault(place[0], []).append(step)

    def prepared(self, overlay: str) -> list[Step]:
        """What has to be in ``overlay``: for when its layers are there, and itself is not yet."""
        return self.waiting.pop(overlay, [])


def make_plan(spec: ContainerSpec, around: Surroundings, views: Sequence[str], task_fds: int) -> Plan:
    """The whole plan. ``views``: names below /sys/fs/cgroup of the container's own cgroups; ``task_fds``: how many of
    them it has to enter by itself."""
    draft = _Draft(spec, around)
    own, first = spec.namespaces, draft.first
    keep = capabilities.choose(spec.cap_add, spec.cap_drop)
    first += [inside.Identity("user" in own, not around.several_ids), inside.JoinCgroup(task_fds), inside.OomScore(inside.OOM_SCORE)]
    if "user" in own and "SYS_ADMIN" not in keep:
        # The setting belongs to the user namespace: a shared one is the host's.
        first.append(inside.NoNestedUserNamespaces())
    if "cgroup" in own:
        first.append(inside.CgroupNamespace())
    if "uts" in own:
        first.append(inside.Hostname(spec.hostname))
    if "net" in own:
        first.append(inside.LoopbackUp())
    if "mnt" in own:
        first.append(inside.PrivateMounts())
        if spec.root.kind == "none":
            _host_tree(draft)
        else:
            _own_root(draft, views)
    draft.after += _giving_up(spec, around)
    return Plan(
        tuple(name for name in syscalls.NAMESPACE_FLAGS if name in own),
        tuple(draft.host),
        (*first, *draft.before, *draft.after),
        not spec.program,
        host_mounts="mnt" not in own,
        host_root=spec.root.kind == "host",
        host_steps_after=len(first) if draft.rootless else None,
    )


def _giving_up(spec: ContainerSpec, around: Surroundings) -> list[InsideStep]:
    """The last steps of every process: descriptors and rights that the container is not to have."""
    keep = capabilities.choose(spec.cap_add, spec.cap_drop)
    found: list[InsideStep] = [inside.Descriptors(not spec.program)]
    if spec.ulimits:
        found.append(inside.Ulimits(tuple((limit.name, limit.soft, limit.hard) for limit in spec.ulimits)))
    found.append(inside.SessionKeyring())
    if "user" in spec.namespaces or around.top_level is None:
        # Else it has no capability, and can get none after what follows.
        found.append(inside.BoundCapabilities(keep, capabilities.mask(keep), around.last_capability))
    found.append(inside.NoNewPrivileges())
    if spec.security == "default":
        found.append(inside.SeccompFilter(seccomp.build(keep)))
    return found


def make_join_plan(spec: ContainerSpec, around: Surroundings, task_fds: int) -> Plan:
    """For a further process in a container of ``spec``; ``task_fds``: as in :func:`make_plan`."""
    own, rootless = spec.namespaces, around.top_level is not None
    # The zygote has mounts of its own: also where the container shares the kernel's, they are to be joined.
    joined = own if rootless else own | {"mnt"}
    member = join.BecomeMember("user" in own, not around.several_ids, "cgroup" in own, task_fds)
    return Plan(
        tuple(name for name in syscalls.NAMESPACE_FLAGS if name in joined),
        (),
        (member, *_giving_up(spec, around)),
        not spec.program,
        joins=True,
    )


def _proc() -> inside.FileSystem:
    attributes = syscalls.MOUNT_ATTR_NOSUID | syscalls.MOUNT_ATTR_NODEV | syscalls.MOUNT_ATTR_NOEXEC
    return inside.FileSystem("proc", "proc", (), attributes, "the processes of the container's own pid namespace")


def _host_tree(draft: _Draft) -> None:
    """--root none: the host's tree as it is; only /proc must fit the pid namespace."""
    if "pid" in draft.spec.namespaces:
        draft.after += [_proc(), inside.Attach("proc", "/proc", "the host's /proc would show the wrong processes")]
    _mounts(draft, find_targets(draft.spec, ()))


def _own_root(draft: _Draft, views: Sequence[str]) -> None:
    spec, host = draft.spec, draft.host
    targets = find_targets(spec, draft.branches)
    host.append(steps.Scratch(spec.disk_bytes))
    if spec.root.writable:
        _check_mount_points(spec)
        host.append(steps.Tree("root", spec.root.path, "the root: the directory itself", spec.read_only, recursive=True, users=True))
    else:
        if not spec.bare:
            identity = steps.IdentityFiles(*draft.place("/etc"), "uts" in spec.namespaces, spec.network)
            draft.waiting[identity.overlay] = [identity]
        for target in targets:
            if target.within is None:
                draft.prepare(target)
        _root_overlays(draft)
    if spec.workspace is not None and not spec.root.writable and not any(target.mount.target == "/workspace" for target in targets):
        host += [
            steps.Layer("workspace", spec.workspace, "the notebook's directory", users=True),
            *draft.prepared("workspace"),
            steps.Overlay("workspace", ("workspace",), "/workspace, copy-on-write", spec.read_only),
        ]
        draft.after.append(inside.Attach("workspace", "/workspace", "the notebook's directory, copy-on-write"))
        if spec.workspace_hidden:
            keys = tuple(f"/workspace/{path}" for path in spec.workspace_hidden)
            draft.after.append(inside.MaskPaths((), keys, "the keys of Jupyter's kernels"))
    if not spec.bare:
        _kernel_file_systems(draft, views)
    _mounts(draft, targets)
    host.append(steps.ReleaseScratch())
    draft.before.append(inside.EnterRoot("root"))


def _root_overlays(draft: _Draft) -> None:
    spec, host, kind = draft.spec, draft.host, draft.spec.root.kind
    if draft.around.top_level is not None and not spec.bare:
        devices, attach_devices = rootless.device_nodes()
        host += devices
        draft.after += attach_devices
    if draft.around.top_level is not None and kind != "dir":
        parts, attach = rootless.make_root(spec, draft.around.top_level, draft.branches, draft.prepared)
        host += parts
        draft.after[:0] = attach
        return
    lower = spec.root.path if kind == "dir" else "/"
    host.append(steps.Layer("base", lower, "the directory" if kind == "dir" else "the host's tree", users=kind == "dir"))
    if not spec.bare:
        host.append(steps.Layer("skeleton", kind, "device nodes, mount points, and what is hidden", staged=True))
    host += draft.prepared("root")
    host.append(steps.Overlay("root", draft.root_layers, f"the {spec.root} root, copy-on-write", spec.read_only))
    if kind == "dir":
        return
    for index, branch in enumerate(draft.branches):
        slot = f"branch-{index}"
        host += [
            steps.Layer(slot, branch.path, branch.why),
            steps.Layer(f"{slot}-skeleton", branch.key, "hides what others may not read", staged=True),
            *draft.prepared(slot),
            steps.Overlay(slot, (f"{slot}-skeleton", slot), f"{branch.path}, copy-on-write", spec.read_only),
        ]
        draft.after.append(inside.Attach(slot, branch.path, branch.why))


def _kernel_file_systems(draft: _Draft, views: Sequence[str]) -> None:
    """/proc, /sys, /dev/pts, /dev/shm and the own cgroup files."""
    spec = draft.spec
    read_only = syscalls.MOUNT_ATTR_RDONLY
    safe = syscalls.MOUNT_ATTR_NOSUID | syscalls.MOUNT_ATTR_NODEV | syscalls.MOUNT_ATTR_NOEXEC
    if "pid" in spec.namespaces:
        draft.before.append(_proc())
    else:
        draft.host.append(steps.Tree("proc", "/proc", "the pid namespace is shared, and so is /proc", idmapped=False, recursive=draft.rootless))
    if "net" in spec.namespaces:
        draft.before.append(inside.FileSystem("sysfs", "sysfs", (), safe | read_only, "devices, read-only"))
    else:
        draft.host.append(steps.Tree("sysfs", "/sys", "the host's /sys, read-only", True, idmapped=False, recursive=draft.rootless))
    _device_nodes(draft)
    pts = (("newinstance", None), ("ptmxmode", "0666"), ("mode", "0620"))
    shm = (("size", str(spec.shm_bytes)), ("mode", "1777"))
    draft.before += [
        inside.FileSystem("pts", "devpts", pts, syscalls.MOUNT_ATTR_NOSUID | syscalls.MOUNT_ATTR_NOEXEC, "terminals of its own"),
        inside.FileSystem("shm", "tmpfs", shm, safe & ~syscalls.MOUNT_ATTR_NOEXEC, "shared memory of its own"),
    ]
    draft.after += [
        inside.Attach("proc", "/proc", "a /proc of its own"),
        inside.Attach("sysfs", "/sys", "read-only /sys"),
        inside.Attach("pts", "/dev/pts", "terminals"),
        inside.Attach("shm", "/dev/shm", "shared memory"),
    ]
    _cgroup_views(draft, views)
    draft.after.append(inside.ReadOnlyPaths(draft.around.read_only, "as Docker protects them"))
    draft.after.append(inside.MaskPaths(draft.around.masked_files, draft.around.masked_directories))


def _device_nodes(draft: _Draft) -> None:
    """/dev, the one mount whose device nodes can be opened; an ordinary user's copy-on-write root has each of them mounted over a file."""
    spec = draft.spec
    if spec.root.writable:
        # What is there may be any device: those that everybody may have are mounted over their places.
        tree = ContainerTree(spec, ())
        present = [name for name in DEVICES if tree.resolve(f"/dev/{name}") == f"/dev/{name}" and tree.kind(f"/dev/{name}") == "file"]
        host, attach = rootless.device_nodes(present)
        draft.host += host
        draft.after += attach
    elif not draft.rootless:
        draft.host.append(steps.Tree("devices", f"{spec.root.kind}/dev", "device nodes, of which there are no others", True, staged=True, devices=True))
        draft.after.append(inside.Attach("devices", "/dev", "device nodes, of which there are no others"))


def _cgroup_views(draft: _Draft, views: Sequence[str]) -> None:
    """One directory at /sys/fs/cgroup itself (v2), or one for each name below it (v1)."""
    draft.host += [steps.CgroupView(index, view) for index, view in enumerate(views)]
    several = any(views)
    if several:
        options = (("size", "64k"), ("mode", "755"))
        room = inside.FileSystem("cgroups", "tmpfs", options, syscalls.MOUNT_ATTR_NOSUID, "room for the v1 hierarchies")
        draft.before.append(room)
        draft.after.append(inside.Attach("cgroups", CGROUP_ROOT, "room for the v1 hierarchies"))
        draft.after.append(inside.Directories(tuple(f"{CGROUP_ROOT}/{view}" for view in views)))
    for index, view in enumerate(views):
        draft.after.append(inside.Attach(f"cgroup-{index}", f"{CGROUP_ROOT}/{view}".rstrip("/"), "its own limits and readings"))
    if several:
        draft.after.append(inside.ReadOnlyPaths((CGROUP_ROOT,), "readings, not settings", in_place=True))


def _mounts(draft: _Draft, targets: Sequence[Target]) -> None:
    """The user's, outer ones first; what lies in a tmpfs has its place made there."""
    made: set[str] = set()
    for index, target in enumerate(targets):
        path, within = target.mount.target, target.within
        if within is not None and within.kind == "tmpfs":
            parts = path.split("/")
            levels = ["/".join(parts[:count]) for count in range(within.target.count("/") + 2, len(parts) + (not target.is_file))]
            draft.after.append(inside.Directories(tuple(level for level in levels if level not in made), path if target.is_file else ""))
            made.update(levels)
        _mount(draft, target.mount, index)


def _mount(draft: _Draft, mount: Mount, index: int) -> None:
    slot = f"mount-{index}"
    if mount.kind == "bind":
        why = f"volume for {mount.target}"
        draft.host.append(steps.Tree(slot, mount.source, why, mount.read_only, recursive=draft.rootless, users=True, owner=mount.owner))
    else:
        options = (("size", str(mount.size_bytes or draft.spec.disk_bytes)), ("mode", "1777"))
        flags = syscalls.MOUNT_ATTR_NOSUID | syscalls.MOUNT_ATTR_NODEV
        draft.after.append(inside.FileSystem(slot, "tmpfs", options, flags, f"memory at {mount.target}"))
    draft.after.append(inside.Attach(slot, mount.target, "as asked for"))


def _check_mount_points(spec: ContainerSpec) -> None:
    """With DIR:rw nothing may be made in the user's directory: every mount point must be there."""
    tree = ContainerTree(spec, ())
    for path in () if spec.bare else ("/proc", "/sys", "/dev/pts", "/dev/shm", "/dev/null"):
        if not tree.kind(tree.resolve(path)):
            raise SpecError(
                f"--root: {spec.root.path} is writable and has no {path}; make it there yourself, or use --bare, or leave out :rw"
            )
