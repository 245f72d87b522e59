"""The kernel's end of the zygote: starting it, and asking it for containers."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import pickle
import shutil
import socket
import subprocess
import sys
import sysconfig
import tempfile
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import IO, Any, Protocol

from nbcontainer.cgroups import Cgroup
from nbcontainer.errors import HostError, InternalError, SetupError
from nbcontainer.runtime.plan import IdMap, Plan
from nbcontainer.runtime.protocol import HELD_BYTES, HELD_OFFSET, HELD_STREAMS, LaunchRequest
from nbcontainer.runtime.zygote import ZygoteConfig

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
START_SECONDS = 60.0
CONTROL_MESSAGE_BYTES = 4096
LINE_FILE = "nbcontainer-line"
KEPT_PLANS = 32
_REMEDIES = {
    ("clone", 1): "namespaces are not allowed here: see nbcontainer doctor",
    ("clone", 28): "too many namespaces: raise /proc/sys/user/max_*_namespaces",
    ("clone", 24): "too many open files in the zygote: start Jupyter after: ulimit -n 65536",
    ("clone", 11): "no more processes are allowed here: end some, or raise the pids limit around the kernel",
    ("zygote", 1): "containers need root on this host: start Jupyter as root, or see nbcontainer doctor",
    ("layer", 22): "this file system has no idmapped mounts (Linux 5.19 with ext4, xfs or btrfs has): use --share user",
    ("bind mount", 40): "it leads through a symbolic link that was not there when the line was read",
    ("layer", 40): "it leads through a symbolic link that was not there when the line was read",
    ("bind mount", 22): "what is there has no idmapped mounts (directories on ext4, xfs, btrfs and tmpfs have): use --share user",
    ("new proc", 1): "the /proc here is masked: use --share pid, or see nbcontainer doctor",
    ("ulimits", 1): "only CAP_SYS_RESOURCE may raise a hard limit: ask for less",
    ("writable layer", 22): "give a larger --disk",
    ("own file", 28): "the writable layer is too small for the container's own files: give a larger --disk",
    ("overlay", 28): "the writable layer is too small: give a larger --disk",
}


def setup_error(message: dict[str, Any]) -> SetupError:
    """The typed error of a ``failed`` message."""
    step, number = str(message.get("step", "?")), int(message.get("errno") or 0)
    return SetupError(step, number, str(message.get("path", "")), _REMEDIES.get((step, number), ""))


def _own_program() -> IO[bytes] | contextlib.nullcontext[None]:
    """A sealed copy of the Python that this is, where it belongs to this ordinary user; for the length of a ``with``.

    Cells are forked, not executed: /proc/self/exe leads to the host's file, past all mounts, and its owner may change
    its mode. Root's containers are nobody's there.
    """
    if os.geteuid() == 0 or os.stat(sys.executable).st_uid != os.geteuid():
        return contextlib.nullcontext()
    file = os.fdopen(os.memfd_create("python", os.MFD_ALLOW_SEALING), "w+b", buffering=0)
    with open(sys.executable, "rb") as original:
        shutil.copyfileobj(original, file)
    fcntl.fcntl(file, fcntl.F_ADD_SEALS, fcntl.F_SEAL_WRITE | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_SEAL)
    return file


@dataclass(slots=True)
class Cloned:
    """A new container's process, as this host sees it, and what the kernel holds of it."""

    pid: int
    pidfd: int
    control: socket.socket
    channel: socket.socket
    stdout_fd: int
    stderr_fd: int
    line_fd: int = -1
    """A memory file, where the process of a Python cell writes where it is when it is asked; -1 for a program."""
    scratch_fd: int = -1
    """The container's writable layers (O_PATH); -1 where it has none."""

    def close(self) -> None:
        for fd in (self.pidfd, self.stdout_fd, self.stderr_fd, self.line_fd, self.scratch_fd):
            if fd >= 0:
                os.close(fd)
        self.control.close()
        self.channel.close()


@dataclass(frozen=True, slots=True)
class Launch:
    """One container to be made by ``plan``; ``id_map`` is None where ids are the host's."""

    plan: Plan
    hostname: str
    id_map: IdMap | None
    within: int = 0
    """Process id of the container to join, where the plan does that."""
    userns_fd: int = -1
    """The user namespace that its own is to be below; -1: this process's."""


class _SentPlans:
    """Which plans the zygote has, by number: each travels once. The oldest gives its number away."""

    def __init__(self) -> None:
        self._numbers: dict[int, Plan] = {}
        self._next = 0

    def number(self, plan: Plan) -> tuple[int, bytes]:
        """The number, and the plan itself where it has to be sent."""
        for number, known in self._numbers.items():
            if known is plan:
                return number, b""
        number, self._next = self._next, (self._next + 1) % KEPT_PLANS
        self._numbers[number] = plan
        return number, pickle.dumps(plan)


class HelperProcess(Protocol):
    """A process that serves this one; what of :class:`subprocess.Popen` it has to have."""

    @property
    def pid(self) -> int: ...

    def poll(self) -> int | None: ...

    def wait(self, timeout: float | None = None) -> int: ...

    def kill(self) -> None: ...


Starter = Callable[[IO[bytes]], tuple[HelperProcess, socket.socket]]
"""Takes the file for its last words; gives the process, and this end of its socket."""


def start_program(log: IO[bytes]) -> tuple[HelperProcess, socket.socket]:
    """A new Python with a clean environment."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    package_parent = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    bootstrap = (
        f"import sys; sys.path.append({package_parent!r}); from nbcontainer.runtime import forkhooks, title; forkhooks.hold(); title.name_process(); "
        "from nbcontainer.runtime.zygote import main; main()"
    )
    environment = {
        "PATH": PATH,
        "LANG": "C.UTF-8",
        "HOME": "/root",
        "PYTHONUTF8": "1",
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    with theirs, _own_program() as program:
        if program is not None and (libraries := sysconfig.get_config_var("LIBDIR")):
            environment["LD_LIBRARY_PATH"] = libraries  # Linux's loader takes $ORIGIN from where the program lies
        process = subprocess.Popen(
            [sys.executable, "-P", "-c", bootstrap],
            executable=None if program is None else f"/proc/self/fd/{program.fileno()}",
            pass_fds=() if program is None else (program.fileno(),),
            stdin=theirs.fileno(),
            stdout=subprocess.DEVNULL,
            stderr=log,
            env=environment,
            cwd="/",
            start_new_session=True,
        )
    return process, ours


class ZygoteClient:
    """One zygote; its methods may be called from any thread."""

    def __init__(self, config: ZygoteConfig, start: Starter = start_program) -> None:
        self._lock = threading.Lock()
        self._plans = _SentPlans()
        self._log: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 (open as long as the zygote lives)
        self._process, self._launch = start(self._log)
        self._serving = self._dead = False
        self._has_subordinate_ids = False
        self._launch.send(pickle.dumps(config))

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def alive(self) -> bool:
        return not self._dead and self._process.poll() is None

    def has_subordinate_ids(self) -> bool:
        """Whether newuidmap and newgidmap did what the zygote asked of them; waits until it serves."""
        self.wait()
        return self._has_subordinate_ids

    def wait(self) -> None:
        """Until it serves. Raises HostError, SetupError, InternalError."""
        with self._lock:
            self._wait_until_serving()

    def _wait_until_serving(self) -> None:
        if self._serving:
            return
        self._launch.settimeout(START_SECONDS)
        try:
            data = self._launch.recv(CONTROL_MESSAGE_BYTES)
        except TimeoutError:
            raise InternalError(f"the zygote did not start within {START_SECONDS:.0f} s") from None
        self._launch.settimeout(None)
        message = json.loads(data) if data else {"t": "ended"}
        if message["t"] == "failed":
            if message["errno"] in (1, 13):
                raise HostError(
                    "this process may not make mount namespaces", "run Jupyter as root, or see: nbcontainer doctor"
                )
            raise setup_error(message)
        if message["t"] != "serving":
            raise self.death("while it started")
        self._serving = True
        self._has_subordinate_ids = bool(message["subordinate"])

    def death(self, when: str) -> InternalError:
        """An InternalError with the last words of the zygote."""
        self._log.seek(0)
        words = self._log.read()[-2000:].decode("utf-8", "replace").strip().splitlines()
        return InternalError(f"the zygote ended {when}" + (f": {words[-1]}" if words else ""))

    def launch(self, launch: Launch, cgroup: Cgroup) -> Cloned:
        """Ask for a container's process without waiting for it; :meth:`finish` waits. Raises OSError where the cgroup is gone."""
        with cgroup.held():
            return self._launch_in(launch, cgroup)

    def _launch_in(self, launch: Launch, cgroup: Cgroup) -> Cloned:
        cgroup_fd, task_fds = cgroup.clone_fd(), cgroup.task_fds()
        control, their_control = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        channel, their_channel = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        stdout_fd, their_stdout = os.pipe()
        stderr_fd, their_stderr = os.pipe()
        line_fd = -1
        if launch.plan.python:
            line_fd = os.memfd_create(LINE_FILE)
            os.ftruncate(line_fd, HELD_OFFSET + len(HELD_STREAMS) * HELD_BYTES)
        result = Cloned(-1, -1, control, channel, stdout_fd, stderr_fd, line_fd)
        fds = [their_control.fileno(), their_channel.fileno(), their_stdout, their_stderr]
        fds += ([line_fd] if line_fd >= 0 else []) + ([cgroup_fd] if cgroup_fd >= 0 else [])
        fds += ([launch.userns_fd] if launch.userns_fd >= 0 else []) + task_fds
        ids = launch.id_map
        id_map, further = (None, None) if ids is None else ((ids.base, ids.count), ids.subordinate)
        directories = tuple(directory for _, directory in cgroup.views())
        try:
            with self._lock:
                self._wait_until_serving()
                plan_number, plan = self._plans.number(launch.plan)
                request = LaunchRequest(launch.hostname, id_map, further, directories, cgroup_fd >= 0, plan_number, plan, launch.within, launch.userns_fd >= 0)
                socket.send_fds(self._launch, [pickle.dumps(tuple(request))], fds)
        except (BrokenPipeError, ConnectionResetError):
            result.close()
            self._dead = True  # also where Linux has not told us yet
            raise self.death("before it made a container") from None
        except BaseException:
            result.close()
            raise
        finally:
            their_control.close()
            their_channel.close()
            os.close(their_stdout)
            os.close(their_stderr)
        return result

    def finish(self, cloned: Cloned) -> None:
        """Wait for the process of :meth:`launch`. Raises SetupError, or InternalError where the zygote died."""
        if cloned.pidfd >= 0:
            return
        try:
            data, received, _, _ = socket.recv_fds(cloned.control, CONTROL_MESSAGE_BYTES, 2)
        except ConnectionResetError:
            data, received = b"", []
        if not data:
            raise self.death("while it made a container")
        message = json.loads(data)
        if message["t"] == "failed":
            raise setup_error(message)
        cloned.pid, cloned.pidfd = message["pid"], received[0]
        cloned.scratch_fd = received[1] if len(received) > 1 else -1
        for fd in received:
            os.set_inheritable(fd, False)

    def leave_to_parent(self) -> None:
        """In a forked process: let go, without ending anything."""
        self._launch.close()
        self._log.close()

    def close(self) -> None:
        """End the zygote and all its containers; returns when it is gone."""
        self._launch.close()
        try:
            self._process.wait(5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._log.close()
