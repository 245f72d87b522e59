"""What one process of a container says: its two text streams and its channel, as events in the order in which it said them."""

from __future__ import annotations

import codecs
import contextlib
import os
import select
import socket
from collections.abc import Iterator
from typing import Any, Literal

from nbcontainer.engine.messages import read_display, read_error, read_failure
from nbcontainer.errors import NbcontainerError
from nbcontainer.events import CellError, Event, Output
from nbcontainer.runtime.client import Cloned
from nbcontainer.runtime.protocol import FrameReader, ProtocolError

SPOOL_LIMIT_BYTES = 1 << 30
"""A cell that writes more than this is ended with the outcome ``output-limit``."""
PIECE_BYTES = 1 << 16
MAX_JSON_BYTES = 1 << 16
"""The part of a frame that is parsed at once; everything large comes as text."""
PIPE_BYTES = 1 << 20
"""The most that a pipe can hold for a process without privileges (fs.pipe-max-size)."""
_ACKNOWLEDGED = ("display", "error")


class _Pipe:
    """One of the two text streams."""

    def __init__(self, fd: int, stream: Literal["stdout", "stderr"]) -> None:
        self.fd = fd
        self.stream = stream
        self.decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self.open = True
        os.set_blocking(fd, False)


class Streams:
    """Reads what a process says, as a poller finds it ready. ``init``: its status may come from the init above it."""

    def __init__(self, process: Cloned, *, init: bool = False) -> None:
        self._channel = process.channel
        self._pipes = {process.stdout_fd: _Pipe(process.stdout_fd, "stdout")}
        self._pipes[process.stderr_fd] = _Pipe(process.stderr_fd, "stderr")
        self._reader = FrameReader(MAX_JSON_BYTES)
        self._channel_open = True
        self._init = init
        self._may_fail = True
        """The process can still say that its set-up failed: there is no user code that could forge it."""
        self.output_bytes = 0
        self.limit_bytes = SPOOL_LIMIT_BYTES
        self.error: CellError | None = None
        """The exception that it said last."""
        self.inner_status: int | None = None
        self.failure: NbcontainerError | None = None

    @property
    def too_much(self) -> bool:
        return self.output_bytes > self.limit_bytes

    def register(self, poller: select.poll) -> None:
        for fd in (*self._pipes, self._channel.fileno()):
            poller.register(fd, select.POLLIN)

    def read_ready(self, ready: dict[int, int], poller: select.poll) -> Iterator[Event]:
        for fd, pipe in self._pipes.items():
            if fd in ready:
                yield from self._read(pipe)
                if not pipe.open:
                    poller.unregister(fd)
        if self._channel.fileno() in ready:
            yield from self._drain()
            if not self._channel_open:
                poller.unregister(self._channel.fileno())

    def read_rest(self) -> Iterator[Event]:
        """What is left after the end, without waiting for anyone who holds the other ends still."""
        yield from self._drain(final=True)

    def _read(self, pipe: _Pipe) -> Iterator[Output]:
        try:
            data = os.read(pipe.fd, PIECE_BYTES)
        except BlockingIOError:
            return
        self.output_bytes += len(data)
        pipe.open = bool(data)
        text = pipe.decoder.decode(data, final=not data)
        if text:
            yield Output(pipe.stream, text)

    def _drain(self, *, final: bool = False) -> Iterator[Event]:
        """Read the channel; text that was written before a frame is read before it, so that order is kept."""
        channel = self._channel
        while self._channel_open:
            try:
                data = channel.recv(PIECE_BYTES, socket.MSG_DONTWAIT)
            except (BlockingIOError, ConnectionResetError):
                break
            self._channel_open = bool(data)
            try:
                for message in self._reader.feed(data):
                    yield from self._drain_pipes()
                    yield from self._on_message(message)
                    if message["t"] in _ACKNOWLEDGED:
                        self._acknowledge()
            except ProtocolError:
                # The cell wrote garbage to its own channel: its displays end here, its text goes on.
                self._channel_open = False
                channel.shutdown(socket.SHUT_RDWR)
            if not final:
                break
        if final:
            yield from self._drain_pipes(final=True)

    def _acknowledge(self) -> None:
        """Let the cell go on after a frame: what it prints from here on comes after it."""
        with contextlib.suppress(BlockingIOError, BrokenPipeError, ConnectionResetError):
            self._channel.send(b"a", socket.MSG_DONTWAIT)

    def _drain_pipes(self, *, final: bool = False) -> Iterator[Output]:
        for pipe in self._pipes.values():
            # What was written before a frame fits into the pipe; a writer that never stops must not keep us here.
            end = min(self.output_bytes + PIPE_BYTES, self.limit_bytes)
            while pipe.open and self.output_bytes < end:
                before = self.output_bytes
                yield from self._read(pipe)
                if self.output_bytes == before:
                    break
            if final:
                rest = pipe.decoder.decode(b"", final=True)
                if rest:
                    yield Output(pipe.stream, rest)

    def _on_message(self, message: dict[str, Any]) -> Iterator[Event]:
        kind = message["t"]
        if kind == "display":
            display = read_display(message)
            if display is not None:
                yield display
        elif kind == "error":
            self.error = read_error(message)
            yield self.error
        elif kind == "status" and self._init and isinstance(message.get("status"), int):
            self.inner_status = message["status"]
        elif kind == "started":
            self._may_fail = False
        elif kind == "failed" and self._may_fail:
            self.failure = read_failure(message)
