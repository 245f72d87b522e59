"""A kernel's end of a Unix socket, by which other processes of this user ask for something; what they may ask is :mod:`nbcontainer.control`'s."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
from collections.abc import Callable
from functools import partial

from nbcontainer.errors import HostError
from nbcontainer.threads import start_daemon

NAME = "s"
AGAIN_SECONDS = 0.1


def address_in(directory_fd: int) -> str:
    """Of the socket in a directory, however long the directory's own path is."""
    return f"/proc/self/fd/{directory_fd}/{NAME}"


class Listener:
    """Calls ``serve`` with each connection, in a thread, until :meth:`close`. Raises OSError, HostError where it cannot be made."""

    def __init__(self, directory: str, serve: Callable[[socket.socket], None]) -> None:
        self._serve = serve
        self._closed = threading.Event()
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        try:
            directory_fd = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                self._socket.bind(address_in(directory_fd))
            finally:
                os.close(directory_fd)
            self._socket.listen(16)
            self._thread = start_daemon(self._accept, "nbcontainer-control")
        except BaseException:
            self._socket.close()
            raise

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                if self._closed.wait(AGAIN_SECONDS):
                    return
                continue  # out of descriptors: some will be closed, and whoever has connected waits
            try:
                start_daemon(partial(self._serve, connection), "nbcontainer-control")
            except HostError:
                connection.close()

    def leave_to_parent(self) -> None:
        self._socket.close()

    def close(self) -> None:
        self._closed.set()
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)  # wakes accept
        if self._thread is not threading.current_thread():
            self._thread.join()
        self._socket.close()
