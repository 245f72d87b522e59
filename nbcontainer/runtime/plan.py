"""A plan: what makes containers of one kind, as data. It can be printed (``--explain``), sent to the zygote, and executed there.

``host`` steps (:mod:`nbcontainer.runtime.steps`) run in the zygote, with the kernel's privileges, before the container
exists (rootless: in the new process, which has privileges in its user namespace); ``inside`` steps (:mod:`nbcontainer.runtime.inside`) are calls that the new process makes in its namespaces, before
any user code. What differs from one container to the next (its id, its range of ids, its cgroup) comes with each launch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from nbcontainer.runtime.inside import InsideStep
    from nbcontainer.runtime.steps import Step


@dataclass(frozen=True)
class IdMap:
    """Container ids 0 … count-1 are host ids base … base+count-1."""

    base: int
    count: int
    subordinate: tuple[int, int, int] | None = None
    """An ordinary user's further ids: container ids from 1 on are these (first user id, first group id, count) of the host."""

    def explain(self) -> str:
        if self.subordinate is None:
            last = self.base + self.count - 1
            return f"write uid_map, gid_map: container ids 0-{self.count - 1} are host ids {self.base}-{last}"
        first, _, count = self.subordinate
        return f"newuidmap, newgidmap: container id 0 is host id {self.base}, 1-{count} are subordinate ids from {first} on"


@dataclass(frozen=True)
class Plan:
    """What to do for each container, in order."""

    namespaces: tuple[str, ...]
    host: tuple[Step, ...]
    inside: tuple[InsideStep, ...]
    python: bool = True
    """The cell is Python: the process gets ready for it while it waits."""
    host_mounts: bool = False
    """The mount namespace is shared: clone from the kernel's own, not from the zygote's private one."""
    host_root: bool = False
    """Of the ``host`` kind: what it hides is looked for when the first is made."""
    joins: bool = False
    """For a further process of a container that is there already: it joins ``namespaces`` instead of making them."""
    host_steps_after: int | None = None
    """Rootless: the new process itself executes the host steps, after so many inside steps, as it alone has the rights."""

    def explain(self, id_map: IdMap | None) -> list[str]:
        """One line a step: what is called, and what it is for; ``id_map`` is None where ids are the host's."""
        host = [step.explain() for step in self.host]
        rootless = self.host_steps_after is not None
        lines = [] if rootless else [f"[host]   {line}" for line in host]
        flags = " | ".join(f"CLONE_NEW{_FLAG_SUFFIX[name]}" for name in self.namespaces if name != "cgroup") or "0"
        lines.append(f"[clone]  clone3({flags}): the cell process, with namespaces of its own")
        if id_map is not None:
            lines.append(f"[host]   {id_map.explain()}")
        inside = [step.explain() for step in self.inside]
        if self.host_steps_after is not None:
            inside[self.host_steps_after : self.host_steps_after] = host
        return lines + [f"[inside] {line}" for line in inside]


_FLAG_SUFFIX = {"pid": "PID", "net": "NET", "mnt": "NS", "ipc": "IPC", "uts": "UTS", "user": "USER", "time": "TIME"}
