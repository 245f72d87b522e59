"""The guest's zygote and router: forked from the process that becomes the agent, since another Python would take seconds to start there."""

from __future__ import annotations

import os
import random
import select
import signal
import socket
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterable
from typing import IO, TYPE_CHECKING

from nbcontainer.engine.vm.layout import NETWORKS_PATH
from nbcontainer.runtime import bundle, title, zygote

if TYPE_CHECKING:
    from nbcontainer.runtime.client import HelperProcess

PREPARE, START = b"p", b"s"
PREPARE_SECONDS = 60.0
AGAIN_SECONDS = 0.002


class ForkedHelper:
    """See :class:`nbcontainer.runtime.client.HelperProcess`. To be made while this process has one thread; ``serve`` is what it runs, with
    its end of a socket on descriptor 0. Its last words go to the console, which the host shows."""

    def __init__(self, kind: socket.SocketKind, serve: Callable[[], None], others: Iterable[ForkedHelper] = ()) -> None:
        """``others``: made before, whose descriptors are not for this one."""
        self.socket, theirs = socket.socketpair(socket.AF_UNIX, kind)
        self._status: int | None = None
        self.pid = os.fork()
        if self.pid == 0:
            self.socket.close()
            for other in others:
                other.socket.close()
                os.close(other._pidfd)
            _become(serve, theirs)
        theirs.close()
        self._pidfd: int = os.pidfd_open(self.pid)

    def poll(self) -> int | None:
        if self._status is None and select.select([self._pidfd], [], [], 0)[0]:
            self._status = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        return self._status

    def wait(self, timeout: float | None = None) -> int:
        select.select([self._pidfd], [], [], timeout)
        status = self.poll()
        if status is None:
            raise subprocess.TimeoutExpired("helper", timeout or 0.0)
        return status

    def kill(self) -> None:
        if self.poll() is None:
            os.kill(self.pid, signal.SIGKILL)


def _become(serve: Callable[[], None], control: socket.socket) -> None:
    """Never returns."""
    try:
        sys.excepthook = sys.__excepthook__
        os.setsid()
        os.dup2(control.fileno(), 0)
        control.close()
        null = os.open("/dev/null", os.O_WRONLY | os.O_CLOEXEC)
        os.dup2(null, 1)
        os.close(null)
        title.name_process()
        with open("/proc/self/comm", "w", encoding="utf-8") as name:
            name.write(os.path.basename(os.path.realpath(sys.executable)))  # not "init", which Linux's log would say was killed
        serve()
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(1)


class ForkedZygote(ForkedHelper):
    """It waits for its configuration."""

    def __init__(self) -> None:
        super().__init__(socket.SOCK_SEQPACKET, _serve_as_zygote)

    def start(self, log: IO[bytes]) -> tuple[HelperProcess, socket.socket]:
        """See :data:`nbcontainer.runtime.client.Starter`."""
        return self, self.socket


class ForkedRouter(ForkedHelper):
    """The first router of a guest. It waits to be asked; until then, a guest that goes on from a snapshot has nothing of it in memory."""

    def __init__(self, zygote: ForkedZygote) -> None:
        super().__init__(socket.SOCK_STREAM, _serve_as_router, [zygote])
        self._used = False

    def prepare(self) -> None:
        """Have it import what it needs; returns when it has, or has ended (where there is no pyroute2)."""
        self.socket.settimeout(PREPARE_SECONDS)
        try:
            self.socket.sendall(PREPARE)
            self.socket.recv(1)
        except OSError:
            self.kill()
        self.socket.settimeout(None)
        _await_modules()

    def start(self, name: str, rootless: bool, log: IO[bytes]) -> tuple[HelperProcess, socket.socket]:
        """See :data:`nbcontainer.network.client.Starter`. The second one is a program of its own, as everywhere."""
        from nbcontainer.network.client import start_program

        _await_modules()
        if self._used or rootless or self.poll() is not None:
            return start_program(name, rootless, log)
        self._used = True
        self.socket.sendall(START + name.encode() + b"\n")
        return self, self.socket


def _await_modules() -> None:
    """Until process 1 has loaded what networks need; if it cannot, it ends the guest."""
    while not os.path.exists(NETWORKS_PATH):
        time.sleep(AGAIN_SECONDS)


def _serve_as_zygote() -> None:
    zygote.main(bundle.remove)


def _serve_as_router() -> None:
    from nbcontainer.network.lean import import_router

    kernel_pid = os.getppid()
    with socket.socket(fileno=os.dup(0)) as control:
        wish = control.recv(1)
        if not wish:
            return
        router = import_router()
        bundle.remove()
        if wish == PREPARE:
            control.sendall(wish)
            if control.recv(1) != START:
                return
        name = b""
        while not name.endswith(b"\n"):  # what comes behind it is for the router
            name += control.recv(1) or b"\n"
    random.seed()  # all guests of a snapshot had the same state
    router.main(name.decode().strip(), False, kernel_pid)
