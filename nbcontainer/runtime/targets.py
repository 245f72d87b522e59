"""Where the user's mounts go: paths of a container, found by looking at the host before there is a container.

Symbolic links are followed as Linux will follow them in the container's root, and never out of it: a link to ``/x`` in a
root ``DIR`` means ``DIR/x``.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence
from dataclasses import dataclass, replace

from nbcontainer.errors import SpecError
from nbcontainer.mounts import Mount
from nbcontainer.runtime.skeleton import DIRECTORIES_OF_A_DIR, OWN_FILES, SHOWN, Branch
from nbcontainer.spec import ContainerSpec

MOST_LINKS = 40
_EMPTY_IN_HOST = ("/run", "/workspace")
_OF_LINUX = ("/proc", "/sys", "/dev")


@dataclass(frozen=True, slots=True)
class Target:
    """``mount``, with the path that it goes to: without links. ``within``: the user's mount that this lies in."""

    mount: Mount
    within: Mount | None

    @property
    def is_file(self) -> bool:
        return self.mount.kind == "bind" and not os.path.isdir(self.mount.source)


class ContainerTree:
    """What of the host a path of the container will show."""

    def __init__(self, spec: ContainerSpec, branches: Sequence[Branch]) -> None:
        self._spec = spec
        self._branches = sorted((branch.path for branch in branches), key=len, reverse=True)
        self._mounts: list[Mount] = []
        self.as_it_is = spec.root.kind == "none" or spec.root.writable
        """Nothing may be made in it."""

    def add(self, mount: Mount) -> None:
        """``mount.target`` without links; the deepest come last."""
        self._mounts.append(mount)

    def mount_above(self, path: str) -> Mount | None:
        return next((mount for mount in reversed(self._mounts) if is_below(path, mount.target)), None)

    def resolve(self, path: str) -> str:
        """``path`` without links. Raises SpecError where they go round in circles."""
        waiting, current, links = path.split("/")[::-1], "", 0
        while waiting:
            part = waiting.pop()
            if part in ("", "."):
                continue
            if part == "..":
                current = os.path.dirname(current).rstrip("/")
                continue
            leads_to = self._link(f"{current}/{part}")
            if leads_to is None:
                current = f"{current}/{part}"
                continue
            links += 1
            if links > MOST_LINKS:
                raise SpecError(f"--volume, --tmpfs: {path} cannot be reached: its symbolic links go round in circles")
            current = "" if leads_to.startswith("/") else current
            waiting += leads_to.split("/")[::-1]
        return current or "/"

    def kind(self, path: str) -> str:
        """Of a path without links: ``directory``, ``file``, or ``""`` for what is not there, or only by our own making."""
        if path in OWN_FILES and not self.as_it_is:
            return "file"
        source = self.source(path)
        try:
            mode = 0 if source is None else os.lstat(source).st_mode
        except OSError:
            mode = 0
        return "directory" if stat.S_ISDIR(mode) else "file" if mode else ""

    def names(self, path: str) -> list[str]:
        """What is in a directory; [] where that is not the host's."""
        source = self.source(path)
        try:
            return [] if source is None else sorted(os.listdir(source))
        except OSError:
            return []

    def _link(self, path: str) -> str | None:
        if self._spec.root.kind == "system" and path == "/var/run":
            return "/run"
        if path in OWN_FILES and not self.as_it_is:
            return None
        source = self.source(path)
        try:
            return None if source is None else os.readlink(source)
        except OSError:
            return None

    def source(self, path: str) -> str | None:
        """The host's path of a path without links; None for what is not the host's."""
        above = self.mount_above(path)
        if above is not None:
            return None if above.kind == "tmpfs" else above.source + path.removeprefix(above.target)
        kind = self._spec.root.kind
        if kind == "none" or self.as_it_is:
            return self._spec.root.path + path
        if self._spec.workspace is not None and is_below(path, "/workspace"):
            return self._spec.workspace + path.removeprefix("/workspace")
        top = "/" + path.split("/")[1]
        if kind == "dir":
            # The skeleton's directories lie over whatever the directory has there.
            hidden = top[1:] in DIRECTORIES_OF_A_DIR and os.path.islink(self._spec.root.path + top)
            return None if hidden else self._spec.root.path + path
        if any(is_below(path, branch) for branch in self._branches):
            return path
        if kind == "host":
            return None if top in _EMPTY_IN_HOST else path
        return path if top[1:] in SHOWN or (path == top and os.path.islink(path)) else None


def is_below(path: str, directory: str) -> bool:
    """The directory itself counts."""
    return path == directory or path.startswith(directory + "/")


def find_targets(spec: ContainerSpec, branches: Sequence[Branch]) -> list[Target]:
    """Where each mount of ``spec`` goes, outer ones first. Raises SpecError for what cannot be mounted there."""
    tree = ContainerTree(spec, branches)
    depth = {mount: tree.resolve(mount.target).count("/") for mount in spec.mounts}
    targets: list[Target] = []
    for mount in sorted(spec.mounts, key=depth.__getitem__):
        path = tree.resolve(mount.target)
        target = Target(replace(mount, target=path), tree.mount_above(path))
        _check(target, tree, spec, mount)
        tree.add(target.mount)
        targets.append(target)
    return targets


def _check(target: Target, tree: ContainerTree, spec: ContainerSpec, asked: Mount) -> None:
    option = "--volume" if asked.kind == "bind" else "--tmpfs"
    path, within = target.mount.target, target.within
    if path == "/" or any(is_below(path, own) for own in _OF_LINUX):
        raise SpecError(f"{option}: {asked.target} leads to {path}, which belongs to the container itself")
    if within is not None and within.target == path:
        raise SpecError(f"{option}: two mounts at {path}")
    parts = path.split("/")
    for ancestor in ("/".join(parts[:count]) for count in range(2, len(parts))):
        if tree.kind(ancestor) == "file":
            raise SpecError(f"{option}: {asked.target} cannot be there, as {ancestor} is a file in the container")
    found, wanted = tree.kind(path), "file" if target.is_file else "directory"
    if found and found != wanted:
        raise SpecError(f"{option}: {asked.target} is a {found} in the container, and {asked.source or 'a tmpfs'} is a {wanted}")
    if found:
        return
    command = "touch" if target.is_file else "mkdir -p"
    if within is not None and within.kind == "bind":
        place = within.source + path.removeprefix(within.target)
        raise SpecError(f"{option}: {asked.target} lies in {within.source}, where nothing is made for you; make it yourself: {command} {place}")
    if within is None and spec.root.kind == "none":
        raise SpecError(f"{option}: {asked.target} does not exist, and --root none makes nothing on the host")
    if within is None and tree.as_it_is:
        raise SpecError(f"{option}: {asked.target} is not in {spec.root}, where nothing is made for you; make it yourself: {command} {spec.root.path}{path}")
