"""A box: a container that has everything but limits and code; what decides how it is made, and what it is told to run."""

from __future__ import annotations

import os
import select
import socket
import sys
import time
from dataclasses import dataclass, replace

from nbcontainer.cgroups import Cgroup
from nbcontainer.errors import InternalError, SpecError
from nbcontainer.runtime.client import PATH, Cloned, ZygoteClient, setup_error
from nbcontainer.runtime.plan import IdMap
from nbcontainer.runtime.protocol import FrameReader, Go, ProtocolError
from nbcontainer.spec import ContainerSpec, Limits

READY_SECONDS = 30.0
RESOLVER = "/etc/resolv.conf"


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
        session=False,
        ports=(),
        keep=False,
        background=False,
        notes=(),
        cell_number=0,
    )


class Sources:
    """Everything of the user's that a box of this shape pins when it is made; a path may lead to another file later.

    Each is held open, so that no other can get its inode number. Raises SpecError where one is gone.
    """

    def __init__(self, shape: ContainerSpec) -> None:
        self._fds: list[int] = []
        paths = [mount.source for mount in shape.mounts if mount.kind == "bind"]
        paths += [path for path in (shape.workspace, shape.root.path) if path]
        try:
            for path in paths:
                self._fds.append(os.open(path, os.O_PATH | os.O_CLOEXEC))
        except OSError as error:
            self.close()
            raise SpecError(f"{path}: {error.strerror}; it was there when the line was read") from None
        statuses = [os.fstat(fd) for fd in self._fds]
        self._identity = [(status.st_dev, status.st_ino) for status in statuses]
        if shape.network == "host" and os.path.exists(RESOLVER):
            status = os.stat(RESOLVER)
            self._identity.append((status.st_ino, status.st_mtime_ns))  # its text is copied

    def are_those_of(self, shape: ContainerSpec) -> bool:
        """The paths of ``shape`` still lead to the same. Raises SpecError where one leads nowhere."""
        now = Sources(shape)
        now.close()
        return now._identity == self._identity

    def close(self) -> None:
        while self._fds:
            os.close(self._fds.pop())


@dataclass(slots=True, eq=False)
class Box:
    """A container without limits and code. Its owner ends it with :meth:`LocalEngine.discard`."""

    container_id: str
    shape: ContainerSpec
    cgroup: Cgroup
    process: Cloned
    id_map: IdMap | None
    sources: Sources
    ready: bool = False
    attached: bool = False
    """To its networks, if it has any."""
    why_no_way_out: str = ""
    network_limits: tuple[int | None, float | None] = (None, None)
    """Rate in bytes per second, delay in seconds: in force."""


def wait_ready(box: Box, client: ZygoteClient) -> None:
    """Until the plan's inside steps are done. Raises what went wrong."""
    if box.ready:
        return
    client.finish(box.process)
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
            data, received, _, _ = socket.recv_fds(channel, 65536, 1, socket.MSG_DONTWAIT)
        except (BlockingIOError, ConnectionResetError):
            data, received = b"", []
        for fd in received:
            os.set_inheritable(fd, False)
            box.process.scratch_fd = fd
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


def has_ended(box: Box) -> bool:
    poller = select.poll()
    poller.register(box.process.pidfd, select.POLLIN)
    return bool(poller.poll(0))


def _current_directory() -> tuple[str, ...]:
    """Nothing where it has been deleted."""
    try:
        return (os.getcwd(),)
    except OSError:
        return ()


def make_go(spec: ContainerSpec, code: str, mask: int) -> Go:
    """Message 6 of the handshake; ``mask``: the capabilities that it may have."""
    own_root = spec.root.kind != "none"
    path = PATH
    if spec.root.kind in ("system", "host", "none"):
        programs = f"{sys.prefix}/bin"
        # PATH knows no escapes: a directory with a colon in its name would become two others.
        path = PATH if programs in PATH.split(":") or ":" in programs else f"{programs}:{PATH}"
    environment = {"PATH": path, "LANG": "C.UTF-8", "TERM": "xterm-256color", "container": "nbcontainer"}
    if not spec.program:
        environment["MPLBACKEND"] = "module://matplotlib_inline.backend_inline"
    environment.update(spec.environment)
    if spec.workdir is not None:
        directories: tuple[str, ...] = (spec.workdir,)
    else:
        directories = ("/workspace", "/") if own_root else (*_current_directory(), "/")
    return Go(code, spec.program, environment, directories, spec.user, mask, spec.init, spec.session, cell_number=spec.cell_number)
