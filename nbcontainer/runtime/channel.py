"""The cell process's end of the channel: frames in order with prints, and the kernel's answers to them."""

from __future__ import annotations

import contextlib
import os
import select
import socket
import sys
import threading
from typing import Any

from nbcontainer.linux.syscalls import flush_c
from nbcontainer.runtime.protocol import ACKNOWLEDGED, LENGTH, MEMORY, NO, ProtocolError, encode

ANSWER_SECONDS = 10.0
MAX_ANSWER_BYTES = 1 << 20


def flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError, AttributeError):
            pass  # the cell closed or replaced it: its business
    flush_c()


class Refused(Exception):
    """The kernel said no; the text is its reason."""


class Channel:
    """Writes frames in order with prints: text that was printed before is flushed first, and the kernel answers each
    frame with one byte when it has read that far, so that text printed later cannot overtake it."""

    def __init__(self) -> None:
        self.fd = -1
        """-1 while there is nobody to talk to: in the zygote, and while a box warms itself up."""
        # Reentrant: a signal handler may show something too.
        self._writing = threading.RLock()
        os.register_at_fork(after_in_child=self._after_fork)

    def _after_fork(self) -> None:
        self._writing = threading.RLock()  # another thread may have held it, and is not in this process

    def send(self, message: dict[str, Any], parts: dict[str, str]) -> None:
        """Raises OSError where the cell has closed its channel."""
        if self.fd < 0:
            return
        # What comes next may be an answer or, in a session, the next cell: only one thread can wait for it.
        waits = threading.current_thread() is threading.main_thread()
        with self._writing:
            self._write(message if waits else {**message, "answer": False}, parts)
        # Bounded, because a cell that writes half a frame to its own channel gets no answer any more.
        if waits and select.select([self.fd], [], [], ANSWER_SECONDS)[0]:
            os.read(self.fd, 1)

    def _write(self, message: dict[str, Any], parts: dict[str, str]) -> None:
        flush()
        try:
            data = memoryview(encode(message, parts))
        except ProtocolError as error:
            data = memoryview(encode({"t": "display", "kind": "display"}, {"data text/plain": f"[not shown: {error}]"}))
        while data:
            data = data[os.write(self.fd, data) :]

    def ask(self, message: dict[str, Any], parts: dict[str, str] | None = None) -> tuple[str, int]:
        """Send ``message`` and wait, for as long as it takes, for what it asks for: (a text, -1), or ("", a descriptor).

        Raises Refused, or OSError where the cell has closed its channel.
        """
        if threading.current_thread() is not threading.main_thread():
            raise Refused("only the cell's main thread can ask, and this is another one")
        with self._writing:
            self._write(message, parts or {})
        return self.receive()

    def receive(self) -> tuple[str, int]:
        """What the kernel sends next, as for :meth:`ask`."""
        with contextlib.closing(socket.socket(fileno=os.dup(self.fd))) as end:
            return _answer(end)

    def tell(self, message: dict[str, Any]) -> None:
        """Send ``message``, to which there is no answer."""
        with self._writing:
            self._write(message, {})


def _answer(end: socket.socket) -> tuple[str, int]:
    kind = ACKNOWLEDGED
    while kind == ACKNOWLEDGED:  # of a frame that was given up waiting for
        kind, descriptors, _, _ = socket.recv_fds(end, 1, 1)
        if not kind:
            raise OSError("the channel is closed")
    if kind == MEMORY:
        return "", descriptors[0]
    size = LENGTH.unpack(_exactly(end, LENGTH.size))[0]
    text = _exactly(end, min(size, MAX_ANSWER_BYTES)).decode("utf-8", "replace")
    if kind == NO:
        raise Refused(text)
    return text, -1


def _exactly(end: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        piece = end.recv(size - len(data))
        if not piece:
            raise OSError("the channel is closed")
        data += piece
    return data


CHANNEL = Channel()
