"""Containers on this host: boxes from the zygote, one of them ready in advance.

A *box* is a container that has everything but limits and code: its cgroup, its namespaces, its root, and a warm process
that waits. A run takes a box, writes its limits, and only then hands it the code. While that code runs, the zygote
makes the next box of the same shape, so that the next run need not wait for it.
"""

from __future__ import annotations

import contextlib
import errno
import os
import queue
import secrets
import signal
import threading
import time
from collections import deque
from dataclasses import replace

from nbcontainer.cgroups import Cgroup, Driver
from nbcontainer.engine import Run, ids, owners
from nbcontainer.engine.box import Box, Sources, has_ended, make_go, shape_of, wait_ready
from nbcontainer.engine.changes import Change, find_changes
from nbcontainer.engine.exec import start_within
from nbcontainer.engine.localrun import LocalRun
from nbcontainer.engine.networks import LocalNetworks
from nbcontainer.engine.session import SessionRun
from nbcontainer.engine.single import Single
from nbcontainer.engine.site import Site
from nbcontainer.engine.transfer import Transfer
from nbcontainer.errors import HostError, InternalError, NbcontainerError, SetupError, SpecError
from nbcontainer.linux import capabilities
from nbcontainer.runtime import rootfs
from nbcontainer.runtime.client import KEPT_PLANS, Launch, Starter, ZygoteClient, start_program
from nbcontainer.runtime.plan import IdMap, Plan
from nbcontainer.runtime.protocol import Go, ProtocolError, encode_go
from nbcontainer.runtime.zygote import ZygoteConfig
from nbcontainer.spec import ContainerSpec
from nbcontainer.state import KernelState, prune
from nbcontainer.threads import start_daemon
from nbcontainer.units import MIB

BURST_SECONDS = 0.02
"""Runs that follow each other faster than this have the next boxes made while they run; others after they end."""
BURST_SPARES = 2
OWN_BYTES = 32 * MIB
"""More than a box ever has in use before its cell begins."""


class LocalEngine:
    """One per kernel process; the guest of the vm engine has one of its own kind."""

    name = "local"
    look_again_seconds = (60.0, 600.0)
    """See ZygoteConfig."""

    def __init__(self, start_zygote: Starter = start_program) -> None:
        self._rootless = not capabilities.may_administer()
        with contextlib.suppress(SetupError):
            prune()  # what cannot be removed now harms no new container, and `nbcontainer prune` says what it is
        self._owner_pid = os.getpid()
        self._lock = threading.RLock()
        self._spares: deque[Box] = deque()
        self.around = self._look_around()
        self.state = KernelState()
        self._user_ids = ids.UserIds() if self._rootless else None
        self._ids: ids.Ids = self._user_ids or ids.ShiftedIds()
        self._wanted: queue.SimpleQueue[ContainerSpec | None] = queue.SimpleQueue()
        try:
            start_daemon(self._make_spares, "nbcontainer-spare")
            stage, subordinate = self.state.stage(self._rootless), None if self._user_ids is None else self._user_ids.found
            self._config = ZygoteConfig(stage, self.around.branches, self._rootless, os.getpid(), subordinate, *self.look_again_seconds)
            self._site = Site(self.state, self._config, start_zygote)
        except BaseException:
            self._wanted.put(None)
            self.state.close()
            self._ids.close()
            raise
        self.networks = LocalNetworks(self.state.place, self._user_ids, self.drop_spares)
        self._live: dict[str, Box] = {}
        self._unremoved: list[Cgroup] = []
        self._plans: dict[ContainerSpec, Plan] = {}
        self._last_end = 0.0
        self._closed = False

    @property
    def _client(self) -> ZygoteClient:
        return self._site.client

    @property
    def _driver(self) -> Driver:
        return self._site.driver

    # ---- boxes

    def _make_box(self, shape: ContainerSpec) -> Box:
        container_id = secrets.token_hex(6)
        sources = Sources(shape)
        id_map: IdMap | None = None
        cgroup: Cgroup | None = None
        try:
            if not self._client.alive:
                self._site.renew()
            id_map = self._take_ids() if "user" in shape.namespaces else None
            cgroup = self._driver.create(container_id, shape.limits)
            if shape.limits.cpuset is not None:
                # cgroup v1 lets nobody into a cpuset that has no CPUs yet.
                cgroup.set_limits(shape.limits)
            plan = self._plan(shape, cgroup)
            process = self._client.launch(Launch(plan, shape.hostname or container_id, id_map, userns_fd=self.networks.user_namespace(shape)), cgroup)
        except BaseException:
            sources.close()
            self._give_back_ids(id_map)
            if cgroup is not None:
                with contextlib.suppress(SetupError, OSError):  # the first error tells more
                    self._remove(cgroup)
            raise
        box = Box(container_id, shape, cgroup, process, id_map, sources)
        self._live[container_id] = box
        return box

    def _look_around(self) -> rootfs.Surroundings:
        return rootfs.look_around(self._rootless)

    def _take_ids(self) -> IdMap:
        self._confirm_ids()
        return self._ids.take()

    def _confirm_ids(self) -> None:
        if self._user_ids is not None and self._user_ids.found is not None and not self.around.several_ids:
            self._user_ids.confirm(self._client.has_subordinate_ids)
            self.around = replace(self.around, several_ids=self._user_ids.found is not None)

    def _give_back_ids(self, id_map: IdMap | None) -> None:
        if id_map is not None:
            self._ids.give_back(id_map)

    def _plan(self, shape: ContainerSpec, cgroup: Cgroup) -> Plan:
        """Equal shapes have one plan. What has mounts of the user's is looked at anew, as they may have changed."""
        plan = self._plans.get(shape)
        if plan is None or shape.mounts or shape.root.writable:
            views = [name for name, _ in cgroup.views()] if shape.root.kind != "none" and not shape.bare else []
            made = rootfs.make_plan(shape, self.around, views, len(cgroup.task_fds()))
            plan = plan if made == plan else made
            if len(self._plans) >= KEPT_PLANS:
                self._plans.clear()
            self._plans[shape] = plan
        return plan

    def _wait_ready(self, box: Box) -> None:
        if not box.ready:
            self._client.finish(box.process)
            self.networks.attach(box)
            wait_ready(box, self._client)

    def discard(self, box: Box) -> None:
        """End a box and everything of it. Safe to call twice."""
        with self._lock:
            if self._live.pop(box.container_id, None) is None:
                return
            if box in self._spares:
                self._spares.remove(box)
        try:
            # The zygote may be at it still: what it has not made yet cannot be ended.
            self._client.finish(box.process)
            signal.pidfd_send_signal(box.process.pidfd, signal.SIGKILL)
        except (SetupError, InternalError, ProcessLookupError):
            pass  # there is no such process, or no more
        try:
            try:
                self.networks.detach(box)
            finally:
                self._remove(box.cgroup)
        finally:
            box.process.close()
            box.sources.close()
            self.state.discard(box.container_id)
        # Only now: ids of processes that cannot be killed are not for others.
        self._give_back_ids(box.id_map)

    def _remove(self, cgroup: Cgroup) -> None:
        """What cannot be removed now, because descriptors have run out, say, is tried again later."""
        try:
            cgroup.remove()
        except BaseException:
            self._unremoved.append(cgroup)
            raise

    def _take_box(self, shape: ContainerSpec) -> Box:
        """A ready box of this shape: the spare one if it fits and lives, else a new one."""
        with self._lock:
            if not self._client.alive:
                self.drop_spares()  # they are dying with their zygote
            while self._spares:
                spare = self._spares.popleft()
                try:
                    if spare.shape == shape and spare.sources.are_those_of(shape):
                        self._wait_ready(spare)
                        if not has_ended(spare):
                            return spare
                except (InternalError, SetupError):
                    pass  # it was killed while it waited, or made of what was just being replaced: another takes its place
                except BaseException:
                    self.discard(spare)
                    raise
                self.discard(spare)
            while True:
                try:
                    return self._new_box(shape)
                except InternalError:
                    # Its zygote or its process was killed. Nothing of the cell has begun: once more, and then it is ours to explain.
                    return self._new_box(shape)
                except SetupError:
                    if not self._forget_what_is_gone():
                        raise

    def _forget_what_is_gone(self) -> bool:
        """Roots are put together from what the host had when it was looked at; whether some of that is gone."""
        remaining = self.around.remaining()
        if remaining == self.around:
            return False
        self.around = remaining
        self._plans.clear()
        self.drop_spares()
        return True

    def _new_box(self, shape: ContainerSpec) -> Box:
        box = self._make_box(shape)
        try:
            self._wait_ready(box)
        except BaseException:
            self.discard(box)
            raise
        return box

    def make_spares(self, shape: ContainerSpec, count: int) -> None:
        """Have the zygote make boxes for the next runs; failures show when those runs make their own."""
        with self._lock:
            while len(self._spares) < count and not self._closed:
                try:
                    self._spares.append(self._make_box(shape))
                    if shape.networks:
                        self._client.finish(self._spares[-1].process)
                        self.networks.attach(self._spares[-1])
                except (NbcontainerError, OSError):
                    return

    def drop_spares(self) -> None:
        """End the boxes that were made in advance."""
        with self._lock:
            while self._spares:
                self.discard(self._spares.popleft())

    def ended(self, box: Box) -> None:
        """A run is over: everything of its box goes, and the next box is made while nobody waits."""
        self.discard(box)
        self._last_end = time.monotonic()
        if not self._spares and not box.shape.once:
            self._wanted.put(box.shape)

    def _make_spares(self) -> None:
        while (shape := self._wanted.get()) is not None:
            self.make_spares(shape, 1)

    # ---- the Engine protocol

    def start(self, spec: ContainerSpec, code: str, transfer: Transfer | None = None) -> LocalRun:
        spec = self._adapted(spec)
        shape = shape_of(spec)
        go = self._encoded(spec, code, transfer)
        box = self._take_box(shape)
        try:
            box.cgroup.set_limits(spec.limits, shape.limits if spec.limits.cpuset is not None else None)
            if (spec.limits.memory_bytes or OWN_BYTES) < OWN_BYTES and box.cgroup.oom_kills():
                raise BrokenPipeError  # it may take Linux a moment until it is gone
            spec = self.networks.begin(box, spec)
            first = box.cgroup.sample()
            box.process.channel.sendall(go)
            if transfer is not None:
                transfer.start(box.process.channel, spec.limits.memory_bytes)
        except BaseException as error:
            # On cgroup v2, a limit below what the box itself has in use kills it at once.
            too_small = isinstance(error, BrokenPipeError | ConnectionResetError) and box.cgroup.oom_kills() > 0
            self.discard(box)
            if too_small:
                raise SetupError("limit memory", errno.ENOMEM, "", "a cell needs some 16 MiB for itself: give a larger --mem") from None
            if isinstance(error, BrokenPipeError | ConnectionResetError):
                raise InternalError("a container's process ended before its cell began") from None
            raise
        if time.monotonic() - self._last_end < BURST_SECONDS and not spec.once:
            if shape.networks:
                self._wanted.put(shape)  # attaching takes too long to be done here
            else:
                self.make_spares(shape, BURST_SPARES)
        return SessionRun(self, box, spec, first) if spec.session else LocalRun(self, box, spec, first, transfer)

    def run_within(self, run: LocalRun, spec: ContainerSpec, code: str, transfer: Transfer | None) -> Run:
        """See :meth:`nbcontainer.engine.Run.within`."""
        if isinstance(run, SessionRun) and not spec.program:
            return run.begin_cell(spec, self._encoded(spec, code, transfer), code, transfer)
        return start_within(run, spec, self._encoded(spec, code, transfer), self.around, self._client, transfer)

    def changes_in(self, spec: ContainerSpec, scratch_fd: int) -> list[Change]:
        """See :meth:`nbcontainer.engine.Run.changes`."""
        return find_changes(spec, rootfs.branches_of(spec, self.around), scratch_fd, rootless=self._rootless)

    def _encoded(self, spec: ContainerSpec, code: str, transfer: Transfer | None = None) -> bytes:
        go = self._go(spec, code)
        try:
            return encode_go(go if transfer is None else transfer.mentioned_in(go, spec))
        except ProtocolError:
            raise SpecError(
                f"code: {len(code)} characters are more than a message to a container can hold (64 MiB); bring it in with -v"
            ) from None

    def _adapted(self, spec: ContainerSpec) -> ContainerSpec:
        """What an ordinary user has to have besides, with a note; what such a user cannot have is a HostError."""
        if not self._rootless:
            return self._owned(spec)
        if spec.user not in ("root", "0"):
            self._refuse_one_id(spec.user)
        if spec.namespaces and "user" not in spec.namespaces:
            note = "A user namespace is made too: without root, Linux makes the others only inside one."
            spec = spec.replace(namespaces=spec.namespaces | {"user"}, notes=(*spec.notes, note))
        owners.refuse_own_volumes(spec, "in an ordinary user's container, only root is you")
        return spec

    def _owned(self, spec: ContainerSpec) -> ContainerSpec:
        return owners.assigned(spec, rootfs.branches_of(spec, self.around))

    def _refuse_one_id(self, user: str) -> None:
        self._confirm_ids()
        why_not = None if self._user_ids is None else self._user_ids.why_not
        if why_not is not None:
            raise HostError(
                f"--user: {user!r} needs a second user id, and you have one: in the container, root is you ({why_not.message})",
                f"leave --user out, or: {why_not.remedy}",
            )

    def _go(self, spec: ContainerSpec, code: str) -> Go:
        # An ordinary user has capabilities in a user namespace only.
        keep = () if self._rootless and "user" not in spec.namespaces else capabilities.choose(spec.cap_add, spec.cap_drop)
        return make_go(spec, code, capabilities.mask(keep))

    def explain(self, spec: ContainerSpec) -> list[str]:
        spec = self._adapted(spec)
        lines = [
            f"[host]   {'mkdir' if not write.value else 'write ' + write.value + ' to'} {write.path}: {write.why}"
            for write in self._driver.plan("CONTAINER", spec.limits)
        ]
        self._confirm_ids()
        id_map = self._ids.example() if "user" in spec.namespaces else None
        plan = rootfs.make_plan(spec, self.around, self._driver.views(spec.limits), len(self._driver.views(spec.limits)))
        keep = " ".join(capabilities.choose(spec.cap_add, spec.cap_drop)) or "none"
        what = " ".join(spec.program) or "the cell, by IPython"
        last = [f"[inside] capset({keep}), prctl(NO_NEW_PRIVS): no more rights than these", f"[inside] run {what}"]
        return lines + plan.explain(id_map) + self.networks.explain(spec) + last

    def _leave_to_parent(self) -> None:
        """In a process that the kernel forks: its copies of our descriptors must not keep anything alive."""
        self._client.leave_to_parent()
        self.state.leave_to_parent()
        self.networks.leave_to_parent()
        self._ids.close()
        for box in self._live.values():
            box.process.close()
            box.sources.close()

    def close(self) -> None:
        """End every container, the zygote, and this kernel's cgroups."""
        if os.getpid() != self._owner_pid:
            return
        with self._lock:
            self._closed = True
        self._wanted.put(None)
        for box in list(self._live.values()):
            self.discard(box)
        self._site.close()
        self.networks.close()
        for cgroup in self._unremoved:
            cgroup.remove()
        self._site.remove_place()
        self.state.close()
        self._ids.close()


ENGINE = Single(LocalEngine)
open_local, shutdown = ENGINE.open, ENGINE.shutdown


def _after_fork() -> None:
    if ENGINE.current is not None:
        ENGINE.current._leave_to_parent()


os.register_at_fork(after_in_child=_after_fork)
