"""A repair for ipykernel 7.0 to 7.3, which stop reading the shell channel for good, now and then, on a busy machine.

They send a reply with the socket itself, while a stream reads requests from that socket. A send takes note of what has
arrived in the meantime, and the stream, which waits for news, never hears of it (https://github.com/ipython/ipykernel/issues/1554).
ipykernel 7.4 sends through the stream. With the older ones the stream is told to look after each reply.
"""

from __future__ import annotations

from typing import Any


def look_after_replies(kernel: Any) -> bool:
    """Repair this kernel, once. Returns whether it needed that: other versions, and other kernels, are left as they are."""
    thread = getattr(kernel, "shell_channel_thread", None)
    if thread is None or hasattr(thread, "shell_stream"):
        return False
    try:
        manager, stream = thread.manager, kernel.shell_stream
        send, replies = manager._send_on_shell_channel, manager._main_to_shell_channel.to_stream
        look, loop = stream._handle_events, thread.io_loop
    except AttributeError:
        return False  # made in a way that is not known here
    if getattr(send, "looks", False):
        return False

    def send_and_look(message: Any) -> None:
        send(message)
        loop.add_callback(look, stream.socket, 0)

    send_and_look.looks = True  # type: ignore[attr-defined]
    manager._send_on_shell_channel = send_and_look  # for subshells that are made later
    loop.add_callback(replies.on_recv, send_and_look, copy=False)
    return True
