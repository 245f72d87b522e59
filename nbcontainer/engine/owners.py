"""Whose files are those that ``--user`` writes to a volume: the notebook's user's, as those of the container's root are.

In a writable volume that belongs to root, whose kernel this is, root and the container's user change places (an idmapped mount
with another map). Who cannot do that refuses such volumes. With another owner, or with ``:ro``, ids are those of the file
system, as with Docker.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace

from nbcontainer.errors import HostError
from nbcontainer.linux.syscalls import open_without_links
from nbcontainer.mounts import Mount
from nbcontainer.runtime.skeleton import Branch
from nbcontainer.runtime.targets import ContainerTree, find_targets
from nbcontainer.runtime.users import ROOTS_NAMES, find_user, read_text
from nbcontainer.spec import CONTAINER_IDS, ContainerSpec


def own_volumes(spec: ContainerSpec) -> list[Mount]:
    """Those that ``--user`` is to write to as the notebook's user; none where that is the container's root, or ids are the host's."""
    if spec.user.partition(":")[0] in ROOTS_NAMES or "user" not in spec.namespaces:
        return []
    return [mount for mount in spec.mounts if mount.kind == "bind" and not mount.read_only and _is_own(mount.source)]


def refuse_own_volumes(spec: ContainerSpec, why: str, remedy: str = "") -> None:
    """Raises HostError where there are such: ``why`` their owners cannot be mapped."""
    for mount in own_volumes(spec):
        raise HostError(
            f"--user: what {spec.user!r} writes to {mount.shown_source} would not be yours: {why}",
            f"{remedy}leave --user out, or mount it read-only: -v {mount.shown_source}:{mount.target}:ro",
        )


def assigned(spec: ContainerSpec, branches: Sequence[Branch]) -> ContainerSpec:
    """``spec`` with the owners of its volumes. Raises SpecError for mounts that cannot be."""
    volumes = own_volumes(spec)
    if not volumes:
        return spec
    tree = ContainerTree(spec, branches)
    for target in find_targets(spec, branches):
        tree.add(target.mount)

    def read(path: str) -> str:
        source = tree.source(tree.resolve(path))
        return "" if source is None else _read_without_links(source)

    try:
        user = find_user(spec.user, read)
    except KeyError:
        return spec  # the container says so
    if max(user.uid, user.gid) >= CONTAINER_IDS:
        return spec  # likewise
    return spec.replace(mounts=tuple(replace(mount, owner=(user.uid, user.gid)) if mount in volumes else mount for mount in spec.mounts))


def _is_own(path: str) -> bool:
    try:
        return os.stat(path).st_uid == os.geteuid()
    except OSError:
        return False  # whoever mounts it says so


def _read_without_links(path: str) -> str:
    try:
        place = open_without_links(path)
    except OSError:
        return ""
    try:
        return read_text(f"/proc/self/fd/{place}")
    finally:
        os.close(place)
