"""The ``system`` and ``host`` roots of ordinary users: put together from one overlay for each directory of the host.

In a user namespace / itself cannot be a lower layer, because what is mounted below it is locked to it. Device nodes
cannot be made there, so the host's own are mounted over empty files.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable

from nbcontainer.runtime import inside, steps
from nbcontainer.runtime.inside import InsideStep
from nbcontainer.runtime.skeleton import (
    DEVICE_LINKS,
    DEVICES,
    OWN_FILES,
    REVEALED,
    Branch,
    TopLevel,
    is_shown,
    python_links,
)
from nbcontainer.runtime.steps import Step
from nbcontainer.spec import ContainerSpec

_EMPTY = {
    **{f"/{name}": 0o755 for name in ("home", "srv", "mnt", "media", "run", "var", "var/lib", "var/log", "var/cache", "var/spool")},
    **{"/tmp": 0o1777, "/var/tmp": 0o1777},
}
"""What a ``system`` root has besides the host's programs."""
_MOUNT_POINTS = ("/proc", "/sys", "/dev", "/dev/pts", "/dev/shm", "/run", "/workspace")


def make_root(
    spec: ContainerSpec, top: TopLevel, branches: list[Branch], prepared: Callable[[str], list[Step]]
) -> tuple[list[Step], list[InsideStep]]:
    """The host steps, and the inside steps that attach what they make. ``prepared``: what an overlay must have in it."""
    system = spec.root.kind == "system"
    files = [path for path in top.files if path not in OWN_FILES and (not system or is_shown(path))]
    directories = dict(_EMPTY) if system else {}
    directories.update((path, mode) for path, mode in top.directories if not system)
    for path in files:
        directories.setdefault(path.rpartition("/")[0], 0o755)
    directories["/root"] = 0o700
    directories.update((name, 0o755) for name in _MOUNT_POINTS)
    for branch in branches:
        if not any(other is not branch and branch.path.startswith(other.path + "/") for other in branches):
            directories.setdefault(branch.path, 0o755)
    links = [(path, target) for path, target in top.links if not system or path.count("/") == 1 or _in(path, branches)]
    if system:
        links.append(("/var/run", "/run"))
        for link, real in python_links():
            if not any(link.startswith(branch.path + "/") for branch in branches):
                directories.setdefault(os.path.dirname(link), 0o755)
                links.append((link, real))
    host: list[Step] = [*prepared("root"), _plain_root(spec, directories, links, files)]
    after: list[InsideStep] = []
    for index, branch in enumerate(branches):
        slot = f"branch-{index}"
        host += _branch(slot, branch, branches)
        host += prepared(slot)
        host.append(steps.Overlay(slot, layers(slot, branch, branches), f"{branch.path}, copy-on-write", spec.read_only))
        after.append(inside.Attach(slot, branch.path, branch.why))
    for index, path in enumerate(files):
        # Read-only: it is the host's own file, not a copy.
        host.append(steps.Tree(f"file-{index}", path, "a file of the host's", read_only=True, idmapped=False))
        after.append(inside.Attach(f"file-{index}", path, "a file of the host's"))
    return host, after


def _in(path: str, branches: list[Branch]) -> bool:
    return any(branch.path.rpartition("/")[0] == path.rpartition("/")[0] for branch in branches)


def _plain_root(spec: ContainerSpec, directories: dict[str, int], links: list[tuple[str, str]], files: list[str]) -> steps.PlainRoot:
    devices = tuple(f"/dev/{name}" for name in DEVICES)
    own = tuple((f"/dev/{name}", target) for name, target in DEVICE_LINKS.items())
    return steps.PlainRoot("root", tuple(sorted(directories.items())), (*devices, *files), (*links, *own), spec.read_only)


def layers(slot: str, branch: Branch, branches: list[Branch]) -> tuple[str, ...]:
    """Of a branch's overlay, the uppermost first."""
    inner = any(other.path.startswith(branch.path + "/") for other in branches)
    return (*((f"{slot}-revealed",) if inner else ()), f"{slot}-skeleton", slot)


def _branch(slot: str, branch: Branch, branches: list[Branch]) -> list[Step]:
    host: list[Step] = [
        steps.Layer(slot, branch.path, branch.why),
        steps.Layer(f"{slot}-skeleton", branch.key, "hides what others may not read", staged=True),
    ]
    if f"{slot}-revealed" in layers(slot, branch, branches):
        host.append(steps.Layer(f"{slot}-revealed", branch.key + REVEALED, "the way to what Python runs from", staged=True))
    return host


def device_nodes(names: Iterable[str] = DEVICES) -> tuple[list[Step], list[InsideStep]]:
    """The host's own nodes, mounted over empty files."""
    host: list[Step] = [steps.Tree(f"dev-{name}", f"/dev/{name}", "a device of everybody's", idmapped=False, devices=True) for name in names]
    return host, [inside.Attach(f"dev-{name}", f"/dev/{name}", "a device of everybody's") for name in names]
