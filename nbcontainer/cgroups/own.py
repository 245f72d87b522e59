"""Where this process is in the hierarchies."""

from __future__ import annotations

import os
from dataclasses import dataclass

from nbcontainer.cgroups.files import lines
from nbcontainer.errors import HostError

PARENT_VARIABLE = "NBCONTAINER_CGROUP_PARENT"


@dataclass(frozen=True, slots=True)
class OwnCgroups:
    """The caller's cgroups by controller ("" is v2's) and the part of each hierarchy that is mounted, by mount point."""

    paths: dict[str, str]
    mount_roots: dict[str, str]

    @classmethod
    def read(cls, proc_self_cgroup: str, mountinfo: str) -> OwnCgroups:
        paths: dict[str, str] = {}
        for line in lines(proc_self_cgroup):
            _, controllers, path = line.split(":", 2)
            paths.update(dict.fromkeys(controllers.split(","), path))
        mounts = [line.split(" ") for line in lines(mountinfo)]
        return cls(paths, {fields[4]: fields[3] for fields in mounts if fields[fields.index("-") + 1].startswith("cgroup")})

    def path(self, controller: str, hierarchy: str) -> str:
        """The caller's cgroup below the directory ``hierarchy``. Raises HostError when it cannot be seen from here."""
        path = self.paths.get(controller, "/")
        # Without a cgroup namespace a Docker container mounts /docker/ID, while /proc/self/cgroup counts from the real root.
        mounted = self.mount_roots.get(hierarchy, "/")
        if mounted != "/" and (path == mounted or path.startswith(mounted + "/")):
            path = path[len(mounted) :] or "/"
        if ".." in path.split("/") or not os.path.isdir(hierarchy + path):
            raise HostError(
                f"this process's own cgroup {path} cannot be seen below {hierarchy}",
                f"choose a place that can: export {PARENT_VARIABLE}=/nbcontainer",
            )
        return path
