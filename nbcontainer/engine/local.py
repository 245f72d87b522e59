"""Containers on this host: boxes from the zygote, one of them ready in advance.

A *box* is a container that has everything but limits and code: its cgroup, its namespaces, its root, and a warm process
that waits. A run takes a box, writes its limits, and only then hands it the code. While that code runs, the zygote
makes the next box of the same shape, so that the next run need not wait for it.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import queue
import secrets
import select
import signal
import socket
import sys
import threading
import time
from collections import deque
from dataclasses import dataclass, replace
from typing import Protocol

from nbcontainer.cgroups import Cgroup, Driver, open_driver
from nbcontainer.engine.watch import LocalRun
from nbcontainer.errors import HostError, InternalError, SetupError, SpecError
from nbcontainer.linux import capabilities
from nbcontainer.runtime import rootfs
from nbcontainer.runtime.client import PATH, Cloned, ZygoteClient, setup_error
from nbcontainer.runtime.plan import IdMap
from nbcontainer.runtime.protocol import FrameReader, ProtocolError, encode
from nbcontainer.runtime.zygote import ZygoteConfig
from nbcontainer.spec import ContainerSpec, Limits
from nbcontainer.state import ID_RANGE_COUNT, ID_RANGE_START, IdRanges, KernelState, prune, state_directory

READY_SECONDS = 30.0
BURST_SECONDS = 0.02
"""Runs that follow each other faster than this have the next boxes made while they run; others after they end."""
BURST_SPARES = 2

def shape_of(spec: ContainerSpec) -> ContainerSpec:
    """The part of a spec that decides how a box is made; equal shapes can share a box made in advance."""
    limits = Limits(
        cpuset=spec.limits.cpuset,
        pids=None,
        io_read_bytes_per_second=spec.limits.io_read_bytes_per_second,
        io_write_bytes_per_second=spec.limits.io_write_bytes_per_second,
    )
    return replace(
        spec,
        limits=limits,
        environment=(),
        workdir=None,
        user="root",
        timeout_seconds=None,
        max_output_bytes=1,
        init=False,
        name=None,
        program=("program",) if spec.program else (),
        interval_seconds=None,
        memory_by_default=False,
        notes=(),
    )


@dataclass(slots=True, eq=False)
class Box:
    """A container without limits and code. Its owner ends it with :meth:`LocalEngine.discard`."""

    container_id: str
    shape: ContainerSpec
    cgroup: Cgroup
    process: Cloned
    id_map: IdMap | None
    ready: bool = False


class Ids(Protocol):
    """Where a container's ids come from: :class:`nbcontainer.state.IdRanges`, or the guest's."""

    def take(self) -> IdMap: ...

    def give_back(self, id_map: IdMap) -> None: ...

    def close(self) -> None: ...


class LocalEngine:
    """One per kernel process."""

    name = "local"

    def __init__(self, *, around: rootfs.Surroundings | None = None, ids: Ids | None = None) -> None:
        """In the guest of the vm engine, ``around`` and ``ids`` are not what this process would find out by itself."""
        if os.geteuid() != 0:
            raise HostError(
                "the local engine needs root for now", "run Jupyter as root in a virtual machine of your own, or: sudo nbcontainer run"
            )
        with contextlib.suppress(SetupError):
            prune()  # what cannot be removed now harms no new container, and `nbcontainer prune` says what it is
        self._owner_pid = os.getpid()
        self._lock = threading.RLock()
        self._spares: deque[Box] = deque()
        self.around = around or rootfs.look_around()
        self.state = KernelState()
        self._ids: Ids = ids or IdRanges()
        try:
            self._driver: Driver = open_driver(self.state.place)
            self._config = ZygoteConfig(str(state_directory() / "stage"), self.around.branches)
            self._client = ZygoteClient(self._config)
        except BaseException:
            self.state.close()
            self._ids.close()
            raise
        self._live: dict[str, Box] = {}
        self._last_end = 0.0
        self._closed = False
        self._wanted: queue.SimpleQueue[ContainerSpec | None] = queue.SimpleQueue()
        threading.Thread(target=self._make_spares, name="nbcontainer-spare", daemon=True).start()

    # ---- boxes

    def _make_box(self, shape: ContainerSpec) -> Box:
        container_id = secrets.token_hex(6)
        id_map = self._ids.take() if "user" in shape.namespaces else None
        cgroup: Cgroup | None = None
        try:
            cgroup = self._driver.create(container_id, shape.limits)
            if shape.limits.cpuset is not None:
                # cgroup v1 lets nobody into a cpuset that has no CPUs yet.
                cgroup.set_limits(shape.limits)
            views = cgroup.views() if shape.root.kind != "none" and not shape.bare else ()
            plan = rootfs.make_plan(shape, self.around, views, id_map, shape.hostname or container_id)
            if not self._client.alive:
                self._client.close()
                self._client = ZygoteClient(self._config)
            process = self._client.launch(container_id, plan, cgroup.clone_fd(), cgroup.task_fds())
        except BaseException:
            if cgroup is not None:
                cgroup.remove()
            if id_map is not None:
                self._ids.give_back(id_map)
            raise
        box = Box(container_id, shape, cgroup, process, id_map)
        self._live[container_id] = box
        return box

    def _wait_ready(self, box: Box) -> None:
        """Until the plan's inside steps are done. Raises what went wrong."""
        if box.ready:
            return
        self._client.finish(box.process)
        poller = select.poll()
        channel = box.process.channel
        poller.register(channel, select.POLLIN)
        poller.register(box.process.pidfd, select.POLLIN)
        reader = FrameReader()
        deadline = time.monotonic() + READY_SECONDS
        while time.monotonic() < deadline:
            if not poller.poll(1000):
                continue
            try:
                data = channel.recv(65536, socket.MSG_DONTWAIT)
            except (BlockingIOError, ConnectionResetError):
                data = b""
            if not data:
                raise InternalError("a container's process ended before it was ready")
            try:
                for message in reader.feed(data):
                    if message["t"] == "failed":
                        raise setup_error(message)
                    box.ready = message["t"] == "ready"
            except ProtocolError as error:
                raise InternalError(f"a container's process said nonsense before it was ready: {error}") from None
            if box.ready:
                return
        raise InternalError(f"a container was not ready after {READY_SECONDS:.0f} s")

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
            box.cgroup.remove()
        finally:
            box.process.close()
            self.state.discard(box.container_id)
        # Only now: ids of processes that cannot be killed are not for others.
        if box.id_map is not None:
            self._ids.give_back(box.id_map)

    def _take_box(self, shape: ContainerSpec) -> Box:
        """A ready box of this shape: the spare one if it fits and lives, else a new one."""
        with self._lock:
            if not self._client.alive:
                self.drop_spares()  # they are dying with their zygote
            while self._spares:
                spare = self._spares.popleft()
                try:
                    if spare.shape == shape:
                        self._wait_ready(spare)
                        if not _has_ended(spare):
                            return spare
                except InternalError:
                    pass  # it was killed while it waited: another takes its place
                except BaseException:
                    self.discard(spare)
                    raise
                self.discard(spare)
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
                except (HostError, InternalError, SetupError, OSError):
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
        if not self._spares:
            self._wanted.put(box.shape)

    def _make_spares(self) -> None:
        while (shape := self._wanted.get()) is not None:
            self.make_spares(shape, 1)

    # ---- the Engine protocol

    def start(self, spec: ContainerSpec, code: str) -> LocalRun:
        shape = shape_of(spec)
        try:
            go = encode(_go(spec, code))
        except ProtocolError:
            raise SpecError(
                f"code: {len(code)} characters are more than a message to a container can hold (64 MiB); bring it in with -v"
            ) from None
        box = self._take_box(shape)
        try:
            box.cgroup.set_limits(spec.limits, shape.limits if spec.limits.cpuset is not None else None)
            first = box.cgroup.sample()
            box.process.channel.sendall(go)
        except BaseException as error:
            self.discard(box)
            if isinstance(error, BrokenPipeError | ConnectionResetError):
                raise InternalError("a container's process ended before its cell began") from None
            raise
        if time.monotonic() - self._last_end < BURST_SECONDS:
            self.make_spares(shape, BURST_SPARES)
        return LocalRun(self, box, spec, first)

    def explain(self, spec: ContainerSpec) -> list[str]:
        lines = [
            f"[host]   {'mkdir' if not write.value else 'write ' + write.value + ' to'} {write.path}: {write.why}"
            for write in self._driver.plan("CONTAINER", spec.limits)
        ]
        id_map = IdMap(ID_RANGE_START, ID_RANGE_COUNT) if "user" in spec.namespaces else None
        plan = rootfs.make_plan(spec, self.around, (), id_map, spec.hostname or "CONTAINER")
        keep = " ".join(capabilities.choose(spec.cap_add, spec.cap_drop)) or "none"
        what = " ".join(spec.program) or "the cell, by IPython"
        last = [f"[inside] capset({keep}), prctl(NO_NEW_PRIVS): no more rights than these", f"[inside] run {what}"]
        return lines + plan.explain() + last

    def close(self) -> None:
        """End every container, the zygote, and this kernel's cgroups."""
        if os.getpid() != self._owner_pid:
            return
        with self._lock:
            self._closed = True
        self._wanted.put(None)
        for box in list(self._live.values()):
            self.discard(box)
        self._client.close()
        self._driver.remove_place()
        self.state.close()
        self._ids.close()


def _has_ended(box: Box) -> bool:
    poller = select.poll()
    poller.register(box.process.pidfd, select.POLLIN)
    return bool(poller.poll(0))


def _go(spec: ContainerSpec, code: str) -> dict[str, object]:
    """Message 6 of the handshake."""
    own_root = spec.root.kind != "none"
    path = PATH
    if spec.root.kind in ("system", "host", "none"):
        path = f"{sys.prefix}/bin:{PATH}" if f"{sys.prefix}/bin" not in PATH.split(":") else PATH
    environment = {"PATH": path, "LANG": "C.UTF-8", "TERM": "xterm-256color", "container": "nbcontainer"}
    if not spec.program:
        environment["MPLBACKEND"] = "module://matplotlib_inline.backend_inline"
    environment.update(spec.environment)
    if spec.workdir is not None:
        directories = [spec.workdir]
    else:
        directories = ["/workspace", "/"] if own_root else [os.getcwd(), "/"]
    return {
        "t": "go",
        "code": code,
        "program": list(spec.program),
        "environment": environment,
        "directories": directories,
        "user": spec.user,
        "capability_mask": capabilities.mask(capabilities.choose(spec.cap_add, spec.cap_drop)),
        "init": spec.init,
    }


_engine: LocalEngine | None = None
_engine_lock = threading.Lock()


def open_local() -> LocalEngine:
    """The engine of this process, made at first use and closed at its end."""
    global _engine
    with _engine_lock:
        if _engine is None or _engine._owner_pid != os.getpid():
            _engine = LocalEngine()
            atexit.register(shutdown)
        return _engine


def shutdown() -> None:
    """End all containers of this process and whatever serves them; the next run starts afresh."""
    global _engine
    with _engine_lock:
        engine, _engine = _engine, None
    if engine is not None:
        engine.close()
