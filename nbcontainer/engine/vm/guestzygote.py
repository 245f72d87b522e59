"""The guest's zygote: forked from the process that becomes the agent, since another Python would take seconds to start there."""

from __future__ import annotations

import os
import select
import signal
import socket
import subprocess
import sys
import traceback
from typing import IO

from nbcontainer.runtime import generated, title, zygote


class ForkedZygote:
    """See :class:`nbcontainer.runtime.client.ZygoteProcess`. To be made while this process has one thread; it waits for its configuration."""

    def __init__(self) -> None:
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._status: int | None = None
        self.pid = os.fork()
        if self.pid == 0:
            self._socket.close()
            _become_zygote(theirs)
        theirs.close()
        self._pidfd = os.pidfd_open(self.pid)

    def start(self, log: IO[bytes]) -> tuple[ForkedZygote, socket.socket]:
        """See :data:`nbcontainer.runtime.client.Starter`. Its last words go to the console, which the host shows."""
        return self, self._socket

    def poll(self) -> int | None:
        if self._status is None and select.select([self._pidfd], [], [], 0)[0]:
            self._status = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        return self._status

    def wait(self, timeout: float | None = None) -> int:
        select.select([self._pidfd], [], [], timeout)
        status = self.poll()
        if status is None:
            raise subprocess.TimeoutExpired("zygote", timeout or 0.0)
        return status

    def kill(self) -> None:
        if self.poll() is None:
            os.kill(self.pid, signal.SIGKILL)


def _become_zygote(launch: socket.socket) -> None:
    """Never returns."""
    try:
        sys.excepthook = sys.__excepthook__
        os.setsid()
        os.dup2(launch.fileno(), 0)
        launch.close()
        null = os.open("/dev/null", os.O_WRONLY | os.O_CLOEXEC)
        os.dup2(null, 1)
        os.close(null)
        title.name_process()
        generated.remove()
        zygote.main()
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(1)
