"""The zygote: a warm, single-threaded process, one per kernel, from which every container is cloned.

It makes what needs the kernel's privileges (layers, overlays), in a mount namespace of its own, so that whatever ends it, no mount is left
on the host. It alone can wait for containers, and sends each status. It ends with the kernel (end of file), and containers with it.
"""

from __future__ import annotations

import _thread
import contextlib
import errno
import gc
import json
import os
import pickle
import random  # noqa: F401 (for cells: it takes a cell 400 page faults to import it)
import select
import shutil
import signal
import socket
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from nbcontainer.linux import capabilities, syscalls
from nbcontainer.linux.subordinate import SubordinateIds
from nbcontainer.runtime import branches, join, skeleton, stdio
from nbcontainer.runtime.below import clone_below
from nbcontainer.runtime.idmaps import IdMaps, is_ending
from nbcontainer.runtime.init import LaidOutPlan, StepFailed, become_container, walk
from nbcontainer.runtime.inside import OOM_SCORE
from nbcontainer.runtime.plan import Plan
from nbcontainer.runtime.protocol import Go, LaunchRequest
from nbcontainer.runtime.search import Hidden, Search
from nbcontainer.runtime.stage import prepare_stage
from nbcontainer.runtime.steps import SCRATCH, Context, write_file

MAX_REQUEST_BYTES = 1 << 20
MAX_DESCRIPTORS = 64
HELD_MILLISECONDS = 100


@dataclass(frozen=True, slots=True)
class ZygoteConfig:
    """The first message on the launch socket (pickled)."""

    stage: str
    branches: tuple[skeleton.Branch, ...]
    rootless: bool
    kernel_pid: int
    subordinate: SubordinateIds | None
    """Of an ordinary user; it is tried whether they can be used."""
    look_again_seconds: float
    """While containers are made, what "other" may not read is looked for again this often, and hidden when that is done."""
    wait_for_look_seconds: float
    """After a longer pause, the next container waits for it."""


@dataclass(slots=True)
class Zygote:
    config: ZygoteConfig
    launch: socket.socket
    kernel_pidfd: int
    null_fd: int
    own_mounts_fd: int
    kernel_mounts_fd: int
    shell: Any
    stage_root: syscalls.Text
    image: syscalls.ForkImage
    id_maps: IdMaps
    pins_oom_score: bool
    """What this process writes, with CAP_SYS_RESOURCE, is the least that a container can go back to."""
    plans: dict[int, LaidOutPlan] = field(default_factory=dict)
    search: Search | None = None
    looked_seconds: float = field(default_factory=time.monotonic)
    children: dict[int, tuple[int, socket.socket]] = field(default_factory=dict)
    held: list[int] = field(default_factory=list)
    poller: select.poll = field(default_factory=select.poll)
    child_poller: select.poll = field(default_factory=select.poll)

    def serve(self) -> None:
        """Until the kernel closes the socket."""
        self.poller.register(self.launch, select.POLLIN)
        # Not only the end of file: whoever the kernel forked may hold the other end too.
        self.poller.register(self.kernel_pidfd, select.POLLIN)
        while True:
            for pidfd in list(self.held):
                self._reap(pidfd)
            for fd, _ in self.poller.poll(HELD_MILLISECONDS if self.held else None):
                if fd == self.kernel_pidfd:
                    return
                if fd != self.launch.fileno():
                    self._reap(fd)
                elif not self._accept():
                    return

    def _reap(self, pidfd: int) -> None:
        pid, control = self.children.get(pidfd, (0, None))
        # The event may be old: the descriptor's number can belong to a younger child by now.
        ended, status = os.waitpid(pid, os.WNOHANG) if control is not None else (0, 0)
        if control is None:
            return
        if not ended:
            # Or a process of its container traces it, and has not let it go: its pidfd would tell of its end again and again.
            if pidfd not in self.held and select.select([pidfd], [], [], 0)[0]:
                self.held.append(pidfd)
                self.poller.unregister(pidfd)
                self.child_poller.unregister(pidfd)
            return
        del self.children[pidfd]
        if pidfd in self.held:
            self.held.remove(pidfd)
        else:
            self.poller.unregister(pidfd)
            self.child_poller.unregister(pidfd)
        _send(control, b'{"t": "exited", "status": %d}' % status)
        control.close()
        os.close(pidfd)

    def _reap_ended(self) -> None:
        """Statuses do not wait for a container that is being made for somebody else."""
        for pidfd, _ in self.child_poller.poll(0):
            self._reap(pidfd)

    def _reap_strangers(self) -> None:
        """What a cell without a filter has made this process's child (CLONE_PARENT), in a shared pid namespace."""
        known = {pid for pid, _ in self.children.values()} | (self.search.pids if self.search is not None else set())
        with contextlib.suppress(ChildProcessError):
            while (ended := os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)) is not None and ended.si_pid not in known:
                os.waitpid(ended.si_pid, 0)

    def _accept(self) -> bool:
        data, fds, flags, _ = socket.recv_fds(self.launch, MAX_REQUEST_BYTES, MAX_DESCRIPTORS)
        if not data:
            return False
        self._reap_strangers()
        request = LaunchRequest(*pickle.loads(data))
        if request.plan:
            self.plans[request.plan_number] = LaidOutPlan(pickle.loads(request.plan))
            gc.freeze()  # else a collection in a container would write to every page that it lies in
        if not fds:
            return True  # no number is left even for the first; the kernel sees its other end closed
        control = socket.socket(fileno=fds[0])
        try:
            if flags & socket.MSG_CTRUNC:
                raise StepFailed("clone", OSError(errno.EMFILE, "the zygote has no more descriptors"))
            pid, pidfd, scratch = self._launch(request, fds)
        except StepFailed as failure:
            _tell(control, {"t": "failed", "step": failure.step, "errno": failure.number, "path": failure.path})
            control.close()
        else:
            socket.send_fds(control, [b'{"t": "cloned", "pid": %d}' % pid], [pidfd, *scratch])
            fds += scratch
            self.children[pidfd] = (pid, control)
            self.poller.register(pidfd, select.POLLIN)
            self.child_poller.register(pidfd, select.POLLIN)
        for fd in fds[1:]:
            os.close(fd)
        return True

    def _launch(self, request: LaunchRequest, fds: list[int]) -> tuple[int, int, list[int]]:
        """(pid, pidfd, [descriptor of its writable layer])"""
        laid_out = self.plans[request.plan_number]
        rootless = self.config.rootless
        context = Context(self.config.stage, request.hostname, request.cgroup_directories, rootless=rootless)
        slots = {"null": self.null_fd, "channel": fds[1], "stdout": fds[2], "stderr": fds[3]}
        others = fds[4:]
        if laid_out.plan.python:
            slots["line"] = others.pop(0)
        cgroup_fd = others.pop(0) if request.has_cgroup_fd else -1
        userns_fd = others.pop(0) if request.below else -1
        slots.update((f"task-{index}", fd) for index, fd in enumerate(others))
        if laid_out.plan.joins:
            return (*self._join(laid_out, request.within, slots, cgroup_fd), [])
        try:
            self._look_again()
            self._skeletons(laid_out.plan)
            if not rootless:
                # Ids that are the host's own need no idmapped mounts, which the vm engine's guest has not: 9p has none.
                if request.id_map is not None and request.id_map[0]:
                    context.userns_fd = self._user_namespace(request.id_map)
                    context.userns_with = partial(self.id_maps.namespace, request.id_map)
                    context.id_base = request.id_map[0]
                walk(laid_out.plan.host, context, self._reap_ended)
                slots.update(context.fds)
            pid, pidfd = self._clone(laid_out, context, request, slots, (cgroup_fd, userns_fd))
            return pid, pidfd, [context.fds.pop(SCRATCH)] if SCRATCH in context.fds else []
        finally:
            for fd in context.fds.values():
                os.close(fd)
            os.chdir("/")
            if not rootless and os.path.ismount(f"{self.config.stage}/scratch"):
                syscalls.umount2(f"{self.config.stage}/scratch", syscalls.MNT_DETACH)

    def _clone(
        self, laid_out: LaidOutPlan, context: Context, request: LaunchRequest, slots: dict[str, int], fds: tuple[int, int]
    ) -> tuple[int, int]:
        """``fds``: of the v2 cgroup to be in, and of the user namespace to be below; -1 for none."""
        flags = 0
        cgroup_fd, userns_fd = fds
        host_mounts = laid_out.plan.host_mounts and not context.rootless
        for name in laid_out.plan.namespaces:
            # The cgroup namespace is made by the process itself, once it is in its cgroup: that becomes its root.
            flags |= 0 if name == "cgroup" else syscalls.NAMESPACE_FLAGS[name]
        if _thread._count():  # it does not count the main thread
            raise StepFailed("clone", OSError(errno.EDEADLK, "the zygote has threads"))
        hostname = syscalls.Text(request.hostname)
        slots |= {"stage-root": self.stage_root.address, "hostname": hostname.address, "hostname-size": hostname.size}
        try:
            slots["release"], write_end = os.pipe()
        except OSError as error:
            raise StepFailed("clone", error) from None
        try:
            if host_mounts:
                syscalls.setns(self.kernel_mounts_fd, syscalls.CLONE_NEWNS)
            if userns_fd >= 0 and request.id_map is not None:
                pid, pidfd = clone_below(self.image, userns_fd, flags, cgroup_fd, request.id_map[0], request.subordinate)
            else:
                pid, pidfd = self.image.clone(flags, cgroup_fd)
            if pid == 0:
                os.close(write_end)
                become_container(laid_out, context, slots, self._run_python, self._warm)
        except OSError as error:
            os.close(write_end)
            raise StepFailed("clone", error) from None
        finally:
            os.close(slots["release"])
            if host_mounts:
                syscalls.setns(self.own_mounts_fd, syscalls.CLONE_NEWNS)
        try:
            if request.id_map is not None and userns_fd < 0:
                self.id_maps.write(pid, request.id_map, request.subordinate)
            if self.pins_oom_score:
                write_file(f"/proc/{pid}/oom_score_adj", b"%d" % OOM_SCORE)
            with contextlib.suppress(BrokenPipeError):
                os.write(write_end, b"m")
        except OSError as error:
            if not is_ending(pidfd):  # else it has said why on its channel
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
                os.close(pidfd)
                raise StepFailed("id maps", error) from None
        finally:
            os.close(write_end)
        return pid, pidfd

    def _join(self, laid_out: LaidOutPlan, within: int, slots: dict[str, int], cgroup_fd: int) -> tuple[int, int]:
        container_fd = next((pidfd for pidfd, (pid, _) in self.children.items() if pid == within), -1)
        if container_fd < 0:
            raise StepFailed("join", OSError(errno.ESRCH, "the container has ended"))
        slots["container"] = container_fd
        member = join.Member(self.image, laid_out, slots, cgroup_fd, self.config.rootless)
        return member.make(lambda: become_container(laid_out, Context("", ""), slots, self._run_python, self._warm))

    def _user_namespace(self, id_map: tuple[int, int]) -> int:
        try:
            return self.id_maps.namespace(id_map)
        except OSError as error:
            raise StepFailed("user namespace", error) from None

    def _run_python(self, go: Go, channel_fd: int) -> int:
        from nbcontainer.runtime.cell import run_python

        return run_python(self.shell, go, channel_fd)

    def _warm(self) -> None:
        from nbcontainer.runtime.cell import warm

        warm(self.shell)

    def _look_again(self) -> None:
        """Files that somebody has made unreadable since the last look are hidden too, in all containers."""
        age = time.monotonic() - self.looked_seconds
        if self.search is None and age > self.config.look_again_seconds:
            self.search = self._search()
        if self.search is None or not (self.search.done or age > self.config.wait_for_look_seconds):
            return
        search, self.search = self.search, None
        try:
            hidden = search.result()
            for branch in self.config.branches:
                self._hide(branch.key, branch.path, hidden)
            for key in ("system", "host"):
                self._hide(key, "/", hidden)
        except OSError as error:
            raise StepFailed("hide unreadable files", error) from None
        self.looked_seconds = time.monotonic()

    def _hide(self, key: str, lower: str, hidden: Hidden) -> None:
        base, rootless = f"{self.config.stage}/base/{key}", self.config.rootless
        if os.path.isdir(base) and not (rootless and lower == "/"):
            skeleton.SkeletonBuilder(base, lower, rootless=rootless, exists=True).hide(hidden)

    def _search(self) -> Search:
        """One process: it runs beside the user's containers, for nobody who waits."""
        if os.path.isdir(f"{self.config.stage}/base/host"):
            return branches.search_host(self.config.branches, 1)
        return branches.search_system(self.config.branches, 1)

    def _skeletons(self, plan: Plan) -> None:
        """The ``host`` root's skeleton needs a walk over everything; it is made when it is first asked for."""
        if not plan.host_root:
            return
        base = f"{self.config.stage}/base/host"
        if os.path.isdir(base):
            return
        try:
            hidden = branches.search_host(self.config.branches).result()
            branches.build(self.config.stage, self.config.branches, hidden, in_system=False, rootless=self.config.rootless)
            if self.config.rootless:
                os.mkdir(base)  # its branches are all of it; this is the mark that they are made
            else:
                skeleton.build_host(base, hidden, [branch.path for branch in self.config.branches])
        except OSError as error:
            for branch in self.config.branches:
                if not branch.in_system:
                    shutil.rmtree(f"{self.config.stage}/base/{branch.key}", ignore_errors=True)  # else the next try finds half of it
            shutil.rmtree(base, ignore_errors=True)
            raise StepFailed("hide unreadable files", error) from None


def _tell(control: socket.socket, message: dict[str, Any]) -> None:
    _send(control, json.dumps(message).encode())


def _send(control: socket.socket, data: bytes) -> None:
    try:
        control.send(data)
    except (BrokenPipeError, ConnectionResetError):
        pass  # the kernel has given this container up


def _start(launch: socket.socket) -> Zygote:
    config: ZygoteConfig = pickle.loads(launch.recv(MAX_REQUEST_BYTES))
    kernel_pidfd = os.pidfd_open(config.kernel_pid)
    if os.getppid() != config.kernel_pid:
        sys.exit("the kernel ended before its zygote began")
    try:
        own_mounts, kernel_mounts = prepare_stage(config.stage, config.rootless)
        shown = [branch.path for branch in config.branches if branch.in_system]
        search = branches.search_system(config.branches)
        from nbcontainer.runtime.cell import build_shell  # 0.3 s, while find(1) works beside us

        shell = build_shell(f"{config.stage}/ipython")
        sys.path[:] = [path for path in sys.path if path]
        hidden = search.result()
        base = f"{config.stage}/base"
        if not config.rootless:
            skeleton.build_system(f"{base}/system", hidden, shown)
        skeleton.build_directory(f"{base}/dir", rootless=config.rootless)
        branches.build(config.stage, config.branches, hidden, in_system=True, rootless=config.rootless)
    except OSError as error:
        _tell(launch, {"t": "failed", "step": "zygote", "errno": error.errno or 0, "path": str(error.filename or "")})
        raise
    null_fd = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
    image = syscalls.ForkImage()
    pins = not config.rootless and capabilities.has("SYS_RESOURCE")
    id_maps = IdMaps(image, config.rootless, config.subordinate)
    return Zygote(config, launch, kernel_pidfd, null_fd, own_mounts, kernel_mounts, shell, syscalls.Text(f"{config.stage}/root"), image, id_maps, pins)


def main(warm: Callable[[], None] = lambda: None) -> None:
    """Serve on descriptor 0, a socket from the kernel. ``warm`` is called when all that cells share has been imported."""
    launch = socket.socket(fileno=os.dup(0))
    launch.set_inheritable(False)
    null = os.open("/dev/null", os.O_RDWR)
    os.dup2(null, 0)
    os.close(null)
    os.umask(0o022)  # whatever the kernel's is: /etc/hosts is for everybody in a container
    signal.signal(signal.SIGINT, _ignore_interrupt)
    stdio.install()
    zygote = _start(launch)
    warm()
    os.environ.clear()
    gc.collect()
    gc.disable()
    gc.freeze()
    _tell(launch, {"t": "serving", "subordinate": zygote.id_maps.has_subordinate})
    zygote.serve()
    os._exit(0)


def _ignore_interrupt(number: int, frame: object) -> None:
    """A handler, not SIG_IGN, in the zygote; init gives the cell Python's own."""
