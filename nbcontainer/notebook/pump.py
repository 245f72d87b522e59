"""Widget messages while a cell blocks the kernel: handled in the cell's own wait loop.

A kernel reads its shell channel in the thread that runs cells, so that a click waits until the cell has ended. The pump
reads that channel meanwhile: it answers messages of widgets (comms) and questions that change nothing, and keeps all
others, in order, for the kernel's own loop. It uses names that ipykernel does not promise; where one is missing,
:func:`open_pump` says so and the stop button is all there is. Seen to work on ipykernel 6.31, 7.1, 7.3 and 7.4.
"""

from __future__ import annotations

import asyncio
import inspect
from typing import Any

import zmq
from zmq.eventloop.zmqstream import ZMQStream

COMMS = ("comm_open", "comm_msg", "comm_close")
QUESTIONS = ("comm_info_request", "kernel_info_request")
"""A front end that was reloaded asks these before it shows a widget again."""
_UNDER_WAY: set[Any] = set()
"""Tasks of messages that were given back: the loop alone holds no reference that keeps them."""


class PumpUnavailable(Exception):
    """This kernel's shell channel cannot be reached from inside a cell; the text says what is missing."""


class MessagePump:
    """Call it when :meth:`fileno` is readable, in the thread that runs cells. :meth:`close` gives back what it kept."""

    def __init__(self, kernel: Any, stream: Any, replies: Any) -> None:
        self._kernel, self._stream, self._replies = kernel, stream, replies
        self._socket = stream.socket
        self._kept: list[Any] = []
        self._busy = False

    def fileno(self) -> int:
        """It tells of changes, not of states: call the pump once before waiting for it."""
        return int(self._socket.fd)

    def __call__(self) -> None:
        if self._busy:
            return  # a handler that waits for something may come here again
        self._busy = True
        try:
            while self._socket.getsockopt(zmq.EVENTS) & zmq.POLLIN:
                self._take(self._socket.recv_multipart(zmq.NOBLOCK, copy=False))
        finally:
            self._busy = False

    def _take(self, frames: list[Any]) -> None:
        session = self._kernel.session
        try:
            idents, parts = session.feed_identities(frames, copy=False)
            kind = session.unpack(parts[1].bytes)["msg_type"]
            wanted = kind in COMMS or kind in QUESTIONS
            # A signature must be good, and a message is accepted once only: so only those that are not given back.
            message = session.deserialize(parts, content=True, copy=False) if wanted else None
        except (ValueError, IndexError, KeyError, TypeError):
            message = None  # nonsense, or ipykernel's own one-frame messages: not for us
        if message is None:
            self._kept.append(frames)
            return
        self._kernel._publish_status("busy", "shell", parent=message)
        try:
            self._handle(kind, idents, message)
        finally:
            self._kernel._publish_status("idle", "shell", parent=message)
            # Front ends show the last status that they hear, and the cell is still at it.
            self._kernel._publish_status("busy", "shell")

    def _handle(self, kind: str, idents: Any, message: Any) -> None:
        if kind in COMMS:
            # The comm manager logs what a handler raises.
            getattr(self._kernel.comm_manager, kind)(self._replies, idents, message)
            return
        answer = self._kernel.shell_handlers[kind](self._replies, idents, message)
        if inspect.iscoroutine(answer):
            try:
                answer.send(None)  # these two are coroutines by form only: they never wait
            except StopIteration:
                pass
            else:
                answer.close()
        if isinstance(self._replies, ZMQStream):
            self._replies.flush(zmq.POLLOUT)  # ipykernel 6: else it is sent by the loop that this cell blocks

    def close(self) -> None:
        """Give what was kept to the kernel's own loop, before it can see anything that came later."""
        kept, self._kept = self._kept, []
        for frames in kept:
            result = self._stream._recv_callback(frames)
            if inspect.isawaitable(result):
                task = asyncio.ensure_future(result)
                _UNDER_WAY.add(task)
                task.add_done_callback(_UNDER_WAY.discard)
        # The socket's fd tells of changes only, and the pump has taken note of them: have the loop look by itself.
        self._stream.io_loop.add_callback(self._stream._handle_events, self._socket, 0)


def open_pump(kernel: Any) -> MessagePump:
    """Raises PumpUnavailable."""
    try:
        thread = getattr(kernel, "shell_channel_thread", None)
        if thread is not None:
            # ipykernel 7: another thread reads the channel, and hands messages on through a socket pair.
            manager = thread.manager
            stream, replies = manager._shell_channel_to_main.to_stream, manager._main_to_shell_channel.from_socket
        else:
            stream = replies = kernel.shell_stream
        needed = (stream._recv_callback, stream._handle_events, stream.io_loop, stream.socket.fd, kernel._publish_status)
        handlers = (kernel.comm_manager.comm_msg, kernel.shell_handlers["comm_info_request"], kernel.session.feed_identities)
    except (AttributeError, KeyError) as error:
        raise PumpUnavailable(f"this ipykernel has no {error}") from None
    if not all(callable(name) for name in (needed[0], needed[1], needed[4], *handlers)):
        raise PumpUnavailable("this ipykernel receives messages in a way that is not known here")
    return MessagePump(kernel, stream, replies)
