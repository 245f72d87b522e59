"""What a dead kernel can no longer say: why it died, as a message under the cell that was running.

Its iopub channel is a Unix socket in a directory of ours. While it lives, we listen there for the cells that it runs.
When it is dead, we take its place: whoever was connected comes back by itself (ZeroMQ reconnects), and gets one more
message, signed with the kernel's key.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from dataclasses import dataclass
from typing import Any

import zmq
from jupyter_client.session import DELIM, Session

FIRST_SECONDS, BACK_SECONDS, MOST_SECONDS = 3.0, 1.0, 6.0
"""ZeroMQ comes back after 0.1 to 0.2 s, a second try takes as long again, and a busy machine longer: so much time has the first who
listened, so much the next ones, and so much all of them."""
LINGER_MILLISECONDS = 1000
MOST_HEADER_BYTES = 1 << 16
MOST_CELLS = 64


@dataclass(frozen=True, slots=True)
class Iopub:
    """Where a kernel publishes: the path of its socket, the key of its messages, its CurveZMQ keys (None: not encrypted)."""

    path: str
    key: bytes
    signature_scheme: str
    curve_publickey: bytes | None = None
    curve_secretkey: bytes | None = None


class Listener:
    """Knows which cells a kernel is running. To be used by one thread."""

    def __init__(self, iopub: Iopub) -> None:
        self._iopub = iopub
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._socket = self._context.socket(zmq.SUB)
        self._socket.linger = 0
        if iopub.curve_publickey is not None:
            self._socket.curve_secretkey, self._socket.curve_publickey = iopub.curve_secretkey, iopub.curve_publickey
            self._socket.curve_serverkey = iopub.curve_publickey
        self._socket.subscribe(b"")
        self._socket.connect(f"ipc://{iopub.path}")
        self.cells: dict[str, dict[str, Any]] = {}
        """The headers of the requests that are being executed, by message id."""

    @property
    def fd(self) -> int:
        """Becomes readable when something came: then :meth:`drain`."""
        return int(self._socket.getsockopt(zmq.FD))

    def drain(self) -> None:
        """Take note of everything that has come."""
        while True:
            try:
                frames = self._socket.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                return
            # What a kernel says may be anything.
            with contextlib.suppress(ValueError, IndexError, AttributeError, RecursionError):
                self._note(frames)

    def _note(self, frames: list[bytes]) -> None:
        start = frames.index(DELIM)
        header, parent_header, content = frames[start + 2], frames[start + 3], frames[start + 5]
        # Only these are parsed: a kernel may print a lot.
        if b'"status"' not in header or max(len(header), len(parent_header), len(content)) > MOST_HEADER_BYTES:
            return
        parent = json.loads(parent_header)
        if json.loads(header).get("msg_type") != "status" or parent.get("msg_type") != "execute_request":
            return
        state, name = json.loads(content).get("execution_state"), str(parent.get("msg_id"))
        if state == "busy" and len(self.cells) < MOST_CELLS:
            self.cells[name] = parent
        elif state == "idle":
            self.cells.pop(name, None)

    def close(self) -> None:
        self._context.destroy(linger=0)


def say(iopub: Iopub, cells: list[dict[str, Any]], name: str, text: str) -> None:
    """Publish an error in place of the dead kernel, under each of ``cells``; takes BACK_SECONDS and a bit, FIRST_SECONDS where nobody listens.

    Raises zmq.ZMQError and OSError where the socket cannot be made.
    """
    _remove(iopub.path)
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    try:
        socket = context.socket(zmq.XPUB)
        socket.setsockopt(zmq.XPUB_VERBOSE, 1)  # else it tells of the first listener only
        if iopub.curve_secretkey is not None:
            socket.curve_server, socket.curve_secretkey = True, iopub.curve_secretkey
        socket.bind(f"ipc://{iopub.path}")
        _wait_for_listeners(socket)
        session = Session(key=iopub.key, signature_scheme=iopub.signature_scheme)
        content = {"ename": name, "evalue": text, "traceback": f"\x1b[31m{name}\x1b[39m: {text}".split("\n")}
        for cell in cells:
            session.send(socket, "error", content, parent=cell, ident=b"error")
    finally:
        context.destroy(linger=LINGER_MILLISECONDS)
        _remove(iopub.path)  # ZeroMQ leaves it


def _remove(path: str) -> None:
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)


def _wait_for_listeners(socket: zmq.Socket[bytes]) -> None:
    """Until everybody who listened to the kernel has had the time to come back."""
    begin = time.monotonic()
    deadline = begin + FIRST_SECONDS
    while (left := min(deadline, begin + MOST_SECONDS) - time.monotonic()) > 0:
        if socket.poll(int(left * 1000) + 1) and socket.recv_multipart()[0].startswith(b"\x01"):
            deadline = time.monotonic() + BACK_SECONDS
