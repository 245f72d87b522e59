"""What one process of a container says: its two text streams and its channel, as events in the order in which it said them."""

from __future__ import annotations

import codecs
import contextlib
import os
import select
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

from nbcontainer.engine.held import HeldText
from nbcontainer.engine.messages import read_display, read_error, read_failure, read_question
from nbcontainer.engine.transfer import Transfer
from nbcontainer.errors import NbcontainerError
from nbcontainer.events import CellError, Event, Output
from nbcontainer.runtime.client import Cloned
from nbcontainer.runtime.inside import CHANNEL_FD
from nbcontainer.runtime.protocol import ACKNOWLEDGED, MEMORY, NO, FrameReader, ProtocolError, encode_answer

SPOOL_LIMIT_BYTES = 1 << 30
"""A cell that writes more than this is ended with the outcome ``output-limit``."""
NO_LIMIT_BYTES = 1 << 62
"""What runs in the background may write as long as it runs: its log forgets the beginning."""
PIECE_BYTES = 1 << 16
MAX_JSON_BYTES = 1 << 16
"""The part of a frame that is parsed at once; everything large comes as text."""
MOST_WAITING_BYTES = 1 << 16
PIPE_BYTES = 1 << 20
"""The most that a pipe can hold for a process without privileges (fs.pipe-max-size)."""
_ARE_ACKNOWLEDGED = ("display", "error")
MISUSED = "the cell wrote to file descriptor {fd}, its channel to the notebook, what is no message ({why}): what it displays after that is not shown, what it prints is"
CLOSED = f"the cell closed file descriptor {CHANNEL_FD}, its channel to the notebook"
CUT_OFF = "it ended in the middle of something that it was showing, which is lost"


class _Pipe:
    """One of the two text streams."""

    def __init__(self, fd: int, stream: Literal["stdout", "stderr"], line_fd: int) -> None:
        self.fd = fd
        self.stream = stream
        self.held = HeldText(line_fd, stream)
        self.decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self.open = True
        os.set_blocking(fd, False)


@dataclass(frozen=True, slots=True)
class CellDone:
    """A session's process says that its cell has ended, with this exit code."""

    exit_code: int


Said = Event | CellDone


class Streams:
    """Reads what a process says, as a poller finds it ready.

    ``init``: its status may come from the init above it. ``session``: it runs one cell after the other. ``endless``: it may
    write as much as it likes.
    """

    def __init__(self, process: Cloned, *, init: bool = False, session: bool = False, endless: bool = False) -> None:
        self._channel = process.channel
        self._pipes = {process.stdout_fd: _Pipe(process.stdout_fd, "stdout", process.line_fd)}
        self._pipes[process.stderr_fd] = _Pipe(process.stderr_fd, "stderr", process.line_fd)
        self._held_is_due = False
        self._reader = FrameReader(MAX_JSON_BYTES)
        self._channel_open = True
        self._waiting = bytearray()
        self._poller: select.poll | None = None
        self._watches_room = False
        self._init, self._session = init, session
        self._may_fail = True
        """The process can still say that its set-up failed: there is no user code that could forge it."""
        self.output_bytes = 0
        self.limit_bytes = NO_LIMIT_BYTES if endless else SPOOL_LIMIT_BYTES
        self.error: CellError | None = None
        """The exception that it said last."""
        self.inner_status: int | None = None
        self.failure: NbcontainerError | None = None
        self.complaint = ""
        """Why some of what it said is lost; a sentence for the reader."""
        self.transfer: Transfer | None = None
        """The variables that go into and come out of the cell."""

    @property
    def too_much(self) -> bool:
        return self.output_bytes > self.limit_bytes

    @property
    def under_way(self) -> bool:
        """The code has begun, or the program has taken the process over and closed the channel."""
        return self.failure is None and not (self._may_fail and self._channel_open)

    @property
    def speechless(self) -> bool:
        """Its channel is closed, or was misused: no cell can reach it any more."""
        return not self._channel_open

    def note_after(self, note: str) -> str:
        """``note``, and the complaint, if there is one."""
        return "; ".join(filter(None, (note, self.complaint)))

    def register(self, poller: select.poll) -> None:
        for fd in (*self._pipes, self._channel.fileno()):
            poller.register(fd, select.POLLIN)
        self._poller = poller
        self._watch_room()

    def read_ready(self, ready: dict[int, int], poller: select.poll) -> Iterator[Said]:
        for fd, pipe in self._pipes.items():
            if fd in ready:
                yield from self._read(pipe)
                if not pipe.open:
                    poller.unregister(fd)
        events = ready.get(self._channel.fileno(), 0)
        if events & ~select.POLLOUT:
            yield from self._drain()
            if not self._channel_open:
                poller.unregister(self._channel.fileno())
        if self._channel_open and (self._waiting or events & select.POLLOUT):
            self._send_waiting()
        if self._held_is_due:
            self._held_is_due = False
            yield from self._take_held()

    def look_for_held(self, now_seconds: float) -> bool:
        """Text without the end of its line is to be shown, by :meth:`read_ready`. Called by the sampler's thread."""
        if any([pipe.held.is_due(now_seconds) for pipe in self._pipes.values()]):
            self._held_is_due = True
        return self._held_is_due

    def _take_held(self) -> Iterator[Output]:
        yield from self._drain_pipes()
        for pipe in self._pipes.values():
            text = pipe.held.take().decode("utf-8", "replace")
            if text:
                yield Output(pipe.stream, text)

    def read_rest(self) -> Iterator[Said]:
        """What is left after the end, without waiting for anyone who holds the other ends still."""
        yield from self._drain(final=True)

    def _read(self, pipe: _Pipe) -> Iterator[Output]:
        try:
            data = os.read(pipe.fd, PIECE_BYTES)
        except BlockingIOError:
            return
        self.output_bytes += len(data)
        pipe.open = bool(data)
        text = pipe.decoder.decode(pipe.held.unshown(data), final=not data)
        if text:
            yield Output(pipe.stream, text)

    def _drain(self, *, final: bool = False) -> Iterator[Said]:
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
                    if message["t"] in _ARE_ACKNOWLEDGED and message.get("answer", True):
                        self.answer(ACKNOWLEDGED)
            except ProtocolError as error:
                self.complaint = MISUSED.format(fd=CHANNEL_FD, why=error)
                self._channel_open = False
                channel.shutdown(socket.SHUT_RDWR)
            if not final:
                break
        if final:
            if self._reader.is_in_a_message and not self.complaint:
                self.complaint = CUT_OFF
            yield from self._drain_pipes(final=True)

    def answer(self, data: bytes) -> None:
        """What the process has asked for. Who asks again and again without reading answers is no cell that waits for one."""
        if len(self._waiting) < MOST_WAITING_BYTES:
            self.send(data)

    def send(self, data: bytes) -> None:
        """To the process, which need not read it: what it does not take now waits. Answers, and a session's cells.

        After a frame, an answer lets the cell go on: what it prints from here on comes after it.
        """
        self._waiting += data
        self._send_waiting()

    def _send_waiting(self) -> None:
        try:
            while self._waiting and self._channel_open:
                del self._waiting[: self._channel.send(self._waiting, socket.MSG_DONTWAIT)]
        except BlockingIOError:
            pass
        except (BrokenPipeError, ConnectionResetError):
            self._waiting.clear()
        self._watch_room()

    def _watch_room(self) -> None:
        """Have the poller say when there is room for what waits."""
        waits = bool(self._waiting)
        if waits != self._watches_room and self._poller is not None and self._channel_open:
            self._poller.modify(self._channel.fileno(), select.POLLIN | (select.POLLOUT if waits else 0))
            self._watches_room = waits

    @property
    def is_flushed(self) -> bool:
        """The process has been sent all that there was for it."""
        return not self._waiting

    def send_memory(self, fd: int) -> None:
        """A descriptor; only to a process that has read all that came before, or is about to."""
        self._send_waiting()
        with contextlib.suppress(BlockingIOError, BrokenPipeError, ConnectionResetError):
            if not self._waiting:
                socket.send_fds(self._channel, [MEMORY], [fd], socket.MSG_DONTWAIT)

    def _offer(self, size_bytes: object) -> None:
        """Memory for the variables that come out."""
        fd, why = (-1, "nobody asked for variables") if self.transfer is None else self.transfer.allow(size_bytes)
        if fd < 0:
            self.answer(encode_answer(NO, why))
        else:
            self.send_memory(fd)
            os.close(fd)

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
                rest = pipe.decoder.decode(pipe.held.rest(), final=True)
                if rest:
                    yield Output(pipe.stream, rest)

    def _on_message(self, message: dict[str, Any]) -> Iterator[Said]:
        kind = message["t"]
        if kind == "display":
            display = read_display(message)
            if display is not None:
                yield display
        elif kind == "error":
            self.error = read_error(message)
            yield self.error
        elif kind == "input":
            yield read_question(message)
        elif kind == "values":
            self._offer(message.get("size"))
        elif kind == "filled" and self.transfer is not None:
            self.transfer.filled = True
        elif kind == "status" and self._init and isinstance(message.get("status"), int):
            self.inner_status = message["status"]
        elif kind == "started":
            self._may_fail = False
        elif kind == "done" and self._session and isinstance(message.get("code"), int):
            yield CellDone(message["code"] & 0xFF)
        elif kind == "failed" and self._may_fail:
            self.failure = read_failure(message)
