"""What a container has written to its copy-on-write root: its upper layers, compared with what lies below them.

The container may be at it meanwhile, and is hostile: directories are opened one in the other, never through a link.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from nbcontainer.errors import SpecError
from nbcontainer.runtime.skeleton import OWN_FILES, Branch
from nbcontainer.runtime.targets import ContainerTree, find_targets, is_below
from nbcontainer.spec import ContainerSpec

MOST_CHANGES = 1_000_000
MOST_LEVELS = 250
"""Each takes some stack, and a descriptor."""
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_MADE_BY_US = ("/proc", "/sys", "/dev", "/run", "/workspace", "/tmp", "/var/tmp")
"""Mount points and empty directories that a root gets where it has none."""


@dataclass(frozen=True, slots=True)
class Change:
    """``kind``: A added, C changed, D deleted."""

    kind: Literal["A", "C", "D"]
    path: str


def find_changes(spec: ContainerSpec, branches: Sequence[Branch], scratch_fd: int, *, rootless: bool) -> list[Change]:
    """In the order of their paths. ``scratch_fd``: the directory with the upper layers. Raises SpecError."""
    if spec.root.kind == "none":
        raise SpecError("diff: --root none is the host's own tree, of which there is no copy")
    if spec.root.writable:
        raise SpecError(f"diff: --root {spec.root} writes through to the directory, so that nothing is kept apart")
    if scratch_fd < 0:
        raise SpecError("diff: the container has ended, and its files with it; --keep keeps them")
    uppers = [(f"u-branch-{index}", branch.path) for index, branch in enumerate(branches)]
    uppers += [("u-workspace", "/workspace")] if spec.workspace is not None else []
    tree = ContainerTree(spec, branches)
    ours = {*OWN_FILES, *(target.mount.target for target in find_targets(spec, branches))}
    found: list[Change] = []
    for upper, prefix in [("u-root", ""), *uppers]:
        # The root's own upper layer has mount points for the others.
        others = {path for _, path in uppers if path != prefix}
        with contextlib.suppress(FileNotFoundError):
            fd = os.open(upper, _DIRECTORY, dir_fd=scratch_fd)
            try:
                found += _Walk(tree, ours | others, plain=rootless and not prefix and spec.root.kind != "dir").walk(fd, prefix)
            finally:
                os.close(fd)
    return sorted(found, key=lambda change: change.path)


class _Walk:
    """``plain``: an upper directory without anything below it, as an ordinary user's root is: only what is new in it counts."""

    def __init__(self, tree: ContainerTree, ours: set[str], *, plain: bool) -> None:
        self._tree, self._ours, self._plain = tree, ours, plain
        self._count = 0

    def walk(self, fd: int, path: str) -> Iterator[Change]:
        entries = sorted(os.listdir(fd))
        if _is_opaque(fd):
            yield from (Change("D", f"{path}/{name}") for name in self._tree.names(path) if name not in entries)
        for name in entries:
            self._count += 1
            if self._count > MOST_CHANGES:
                raise SpecError(f"diff: there are more than {MOST_CHANGES:,} changes")
            with contextlib.suppress(FileNotFoundError, NotADirectoryError):
                yield from self._entry(fd, name, f"{path}/{name}")

    def _entry(self, fd: int, name: str, path: str) -> Iterator[Change]:
        status = os.stat(name, dir_fd=fd, follow_symlinks=False)
        below = self._tree.kind(path)
        mine = path in self._ours or (not below and path in _MADE_BY_US)
        if stat.S_ISCHR(status.st_mode) and status.st_rdev == 0:
            yield Change("D", path)
        elif not stat.S_ISDIR(status.st_mode):
            if not mine and not (self._plain and (below or path.startswith("/dev/") or self._is_link_below(path))):
                yield Change("C" if below else "A", path)
        else:
            inner = list(self._inner(fd, name, path))
            if inner or not (mine or below or self._holds_ours(path) or self._plain):
                yield Change("C" if below or mine or self._holds_ours(path) or self._plain else "A", path)
            yield from inner

    def _inner(self, fd: int, name: str, path: str) -> Iterator[Change]:
        if path.count("/") > MOST_LEVELS:
            raise SpecError(f"diff: there are directories more than {MOST_LEVELS} levels deep")
        try:
            inner_fd = os.open(name, _DIRECTORY, dir_fd=fd)
        except PermissionError:
            return  # an ordinary user's container has files of its other ids
        try:
            yield from self.walk(inner_fd, path)
        finally:
            os.close(inner_fd)

    def _holds_ours(self, path: str) -> bool:
        return any(is_below(mine, path) for mine in self._ours)

    def _is_link_below(self, path: str) -> bool:
        return os.path.islink(path)


def _is_opaque(fd: int) -> bool:
    """The directory replaces the one below it, of which nothing is seen any more."""
    for space in ("trusted", "user"):
        try:
            if os.getxattr(fd, f"{space}.overlay.opaque") == b"y":
                return True
        except OSError:
            continue
    return False
