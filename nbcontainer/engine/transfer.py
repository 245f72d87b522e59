"""Variables of one cell, on their way through an engine: what goes in, what is wanted back, and what came.

An engine knows bytes only. It has :meth:`Transfer.start` hand them to the cell, answers its announcement with :meth:`Transfer.allow`, and
notes that it has filled what it got. Who made the transfer reads it with :meth:`Transfer.take`, when the cell has ended.
"""

from __future__ import annotations

import contextlib
import os
import socket
import threading
from collections.abc import Callable

from nbcontainer.data.blob import Blob
from nbcontainer.engine import memory
from nbcontainer.linux.meminfo import host_memory_bytes
from nbcontainer.runtime.protocol import MEMORY, Go
from nbcontainer.spec import ContainerSpec
from nbcontainer.units import format_size


class Transfer:
    """Owns its descriptors; :meth:`close` it.

    A cell can have ended, and the transfer be closed, while an engine's thread is at it still: then there is nothing to give or
    take. Never a descriptor without the lock: its number may be another file's by then.
    """

    def __init__(self, outputs: tuple[str, ...] = (), *, lenient: bool = False) -> None:
        self.outputs = outputs
        self.lenient = lenient
        """What cannot be rebuilt in the container is left out, with a note (``-i '*'``)."""
        self.limit_bytes: int | None = None
        """The container's memory limit: more cannot come out of it."""
        self.same_users = False
        """The container has no user namespace of its own."""
        self.input_fd = -1
        self.input_bytes = 0
        self.filled = False
        self._output_fd = -1
        self._output_bytes = -1
        self._received_bytes = 0
        self._lock = threading.Lock()
        self._closed = False

    def put(self, blob: Blob) -> None:
        """Have ``blob`` go in. Raises OSError where there is no room."""
        self.put_by(blob.size_bytes, blob.write)

    def put_by(self, size_bytes: int, write: Callable[[int], None]) -> None:
        fd = memory.allocate(size_bytes, reserve=False)
        try:
            write(fd)
        except BaseException:
            os.close(fd)
            raise
        self.input_fd, self.input_bytes = memory.finish(fd), size_bytes

    def mentioned_in(self, go: Go, spec: ContainerSpec) -> Go:
        """The message to go, saying that there are these variables."""
        self.same_users = "user" not in spec.namespaces
        return go._replace(has_input=self.input_fd >= 0, lenient=self.lenient, outputs=self.outputs)

    def start(self, channel: socket.socket, limit_bytes: int | None) -> None:
        """Behind the message to go: the cell gets its variables."""
        self.limit_bytes = limit_bytes
        self.give(lambda fd: socket.send_fds(channel, [MEMORY], [fd]))

    def give(self, send: Callable[[int], object]) -> None:
        """``send`` what goes in, if there is anything."""
        with self._lock:
            if self.input_fd >= 0:
                send(self.input_fd)

    def read_input(self, length_bytes: int, offset: int) -> bytes:
        """A piece of what goes in; b"" where the transfer was closed."""
        with self._lock:
            return os.pread(self.input_fd, length_bytes, offset) if self.input_fd >= 0 else b""

    def allow(self, size_bytes: object) -> tuple[int, str]:
        """The cell's announcement: (descriptor to fill, which is the caller's, "") or (-1, why not). Only the first one counts."""
        with self._lock:
            return self._allow(size_bytes)

    def _allow(self, size_bytes: object) -> tuple[int, str]:
        if type(size_bytes) is not int or size_bytes < 0 or self._output_bytes >= 0 or not self.outputs or self._closed:
            return -1, "that was not to be announced"
        self._output_bytes = size_bytes
        if self.limit_bytes is not None and size_bytes > self.limit_bytes:
            most = f"--mem {format_size(self.limit_bytes)} is the most that can come out of this container"
            return -1, f"{most}; give it --mem {-(-size_bytes // (1 << 29)) / 2 + 0.5:g}G, or bring out a smaller part"
        if size_bytes > host_memory_bytes()[1]:
            return -1, f"this host has only {format_size(host_memory_bytes()[1])} of memory left"
        try:
            self._output_fd = memory.allocate(size_bytes, reserve=True, sealable=self.same_users)
        except OSError as error:
            return -1, f"the kernel got no memory for it: {error.strerror}"
        return memory.lend(self._output_fd), ""

    def receive(self, size_bytes: int, offset: int, data: bytes) -> None:
        """Where the cell is in another machine: its output in pieces, in order; what does not fit together is left out."""
        with self._lock:
            self._receive(size_bytes, offset, data)

    def _receive(self, size_bytes: int, offset: int, data: bytes) -> None:
        if self._output_bytes < 0:
            fd, _ = self._allow(size_bytes)
            if fd >= 0:
                os.close(fd)
        if self._output_fd < 0 or (size_bytes, offset) != (self._output_bytes, self._received_bytes):
            return
        view = memoryview(data)
        while view:
            written = os.pwrite(self._output_fd, view, self._received_bytes)
            view, self._received_bytes = view[written:], self._received_bytes + written
        self.filled = self._received_bytes == self._output_bytes

    def take(self) -> memoryview | None:
        """What the cell has written, as memory that nobody else can change; None where it announced nothing or did not get to the end of it."""
        with self._lock:
            if self._output_fd < 0 or not self.filled:
                return None
            try:
                return memory.take_back(self._output_fd, self._output_bytes)
            finally:
                self._close_output()

    def _close_output(self) -> None:
        if self._output_fd >= 0:
            with contextlib.suppress(OSError):
                os.close(self._output_fd)
            self._output_fd = -1

    def close(self) -> None:
        """Safe to call twice."""
        with self._lock:
            self._closed = True
            if self.input_fd >= 0:
                os.close(self.input_fd)
                self.input_fd = -1
            self._close_output()
