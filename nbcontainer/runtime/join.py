"""A further process in a container that is there already: what ``docker exec`` does.

Two processes make it, because a pid namespace holds only for children:

1. the zygote forks a *helper*, which makes itself undumpable, joins all namespaces at once and stays outside the container's
   cgroup, so that no limit of the container can hold it, or the zygote that waits for it, up
2. the helper clones the *member* as the zygote's child (CLONE_PARENT), on v2 into the cgroup; it tells the member's id and ends
3. the member walks its plan: on v1 into the cgroup, then the ids, descriptors, capabilities and filter of the container

The container's processes are hostile, and see the member from its first moment on. Because it is not dumpable, its memory
belongs to the user namespace of the zygote's program: nobody in the container may trace it, or open its /proc/PID/mem, exe, fd,
cwd or root. That ends with exec, or after the last of its rights and descriptors has gone. Its program is the host's Python,
which the container's root may not write to (an ordinary user's is a sealed copy).
"""

from __future__ import annotations

import errno
import os
import select
import signal
import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, NoReturn

from nbcontainer.linux import syscalls
from nbcontainer.linux.calls import Call, Slot
from nbcontainer.runtime.init import LaidOutPlan, StepFailed
from nbcontainer.runtime.inside import OOM_SCORE, JoinCgroup, prctl
from nbcontainer.runtime.steps import write_file

if TYPE_CHECKING:
    from nbcontainer.linux.syscalls import ForkImage

_MADE, _REFUSED = 0, 1
_ANSWER = struct.Struct("=iii")
"""_MADE and a process id, or _REFUSED, an errno and the index of the step in _STEPS."""
_STEPS = ("oom score", "join namespaces", "clone")


@dataclass(frozen=True)
class BecomeMember:
    """The beginning of a further process in a container: its root's ids, if it has a user namespace of its own.

    It is not dumpable since before it could be seen there, and stays so.
    """

    mapped: bool
    keeps_groups: bool
    cgroup_namespace: bool
    task_fds: int
    name: ClassVar[str] = "join"

    def explain(self) -> str:
        return "setsid, write 0 to each v1 tasks file, setns(CGROUP), setresgid, setresuid: a process of the container"

    def calls(self) -> tuple[Call, ...]:
        dies_with_zygote = prctl(syscalls.PR_SET_PDEATHSIG, signal.SIGKILL)
        calls = [dies_with_zygote, Call("setsid", ()), *JoinCgroup(self.task_fds).calls()]
        if self.cgroup_namespace:
            # Only now: with nsdelegate, Linux lets nobody into a cgroup that their namespace does not show.
            calls.append(Call("setns", (Slot("container"), syscalls.CLONE_NEWCGROUP)))
        if self.mapped:
            calls += [] if self.keeps_groups else [Call("setgroups", (0, None))]
            calls += [Call("setresgid", (0, 0, 0)), Call("setresuid", (0, 0, 0)), dies_with_zygote]
        return tuple(calls)


@dataclass(slots=True)
class Member:
    """``slots``: as for any plan, and ``container``, the pidfd of the container's first process."""

    image: ForkImage
    laid_out: LaidOutPlan
    slots: dict[str, int]
    cgroup_fd: int
    rootless: bool

    def make(self, become: Callable[[], NoReturn]) -> tuple[int, int]:
        """(pid, pidfd) of a new child of this process; there, ``become`` is called. Raises StepFailed."""
        read_end, write_end = os.pipe()
        try:
            helper, helper_fd = self.image.clone(0)
            if helper == 0:
                self._help(write_end, become)
        except OSError as error:
            raise StepFailed("clone", error) from None
        finally:
            os.close(write_end)
        try:
            answer = _wait_for(read_end, helper_fd)
        finally:
            os.close(read_end)
            os.close(helper_fd)
            os.waitpid(helper, 0)
        if answer is None:
            raise StepFailed("join", OSError(errno.ESRCH, "the process that was to join the container has ended"))
        kind, number, step = answer
        if kind == _REFUSED:
            raise StepFailed(_STEPS[step], OSError(number, os.strerror(number)))
        return number, os.pidfd_open(number)  # nobody but us can wait for it: the number is still its own

    def _help(self, write_end: int, become: Callable[[], NoReturn]) -> NoReturn:
        step = 0
        try:
            # Both while /proc/self is still the host's, and ours to write to.
            write_file("/proc/self/oom_score_adj", str(OOM_SCORE).encode())
            syscalls.prctl(syscalls.PR_SET_DUMPABLE, 0)
            step = 1
            flags = 0
            for name in self.laid_out.plan.namespaces:
                # The cgroup namespace is for the member, once it is in its cgroup.
                flags |= 0 if name == "cgroup" else syscalls.NAMESPACE_FLAGS[name]
            if flags:
                syscalls.setns(self.slots["container"], flags)
            step = 2
            pid, _ = self.image.clone(syscalls.CLONE_PARENT, self.cgroup_fd)
            if pid == 0:
                become()
            os.write(write_end, _ANSWER.pack(_MADE, pid, 0))
        except OSError as error:
            os.write(write_end, _ANSWER.pack(_REFUSED, error.errno or errno.EIO, step))
        finally:
            os._exit(0)


def _wait_for(read_end: int, helper_fd: int) -> tuple[int, int, int] | None:
    """Its answer; None where it has ended without one."""
    poller = select.poll()
    poller.register(read_end, select.POLLIN)
    poller.register(helper_fd, select.POLLIN)
    ready = dict(poller.poll())
    if read_end not in ready and not select.select([read_end], [], [], 0)[0]:
        return None
    data = os.read(read_end, _ANSWER.size)
    kind, number, step = _ANSWER.unpack(data) if len(data) == _ANSWER.size else (_REFUSED, errno.EIO, 1)
    return kind, number, step
