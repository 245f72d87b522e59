"""Text that a Python cell has printed without the end of its line: shown soon, and not lost where the process was killed.

It waits in the process, and stands in its memory file, see :mod:`nbcontainer.runtime.stdio`. What is there may be forged: it is output
of the cell, no more.
"""

from __future__ import annotations

import os
import signal

from nbcontainer.engine.line import listens
from nbcontainer.runtime.client import Cloned
from nbcontainer.runtime.protocol import FLUSH_SIGNAL, HELD_BYTES, HELD_LENGTH, HELD_OFFSET, HELD_STREAMS

WAIT_SECONDS = 0.1
"""A print that waits for so long is asked for; faster ones come with the end of their line."""


def held_text(line_fd: int, stream: str) -> bytes:
    """What waits there; b"" where nothing does, or there is no such file."""
    place = HELD_OFFSET + HELD_STREAMS.index(stream) * HELD_BYTES
    data = os.pread(line_fd, HELD_BYTES, place) if line_fd >= 0 else b""
    if len(data) < HELD_BYTES:
        return b""
    return data[HELD_LENGTH.size :][: HELD_LENGTH.unpack_from(data)[0]]


class HeldText:
    """Of one cell process. :meth:`note` is called by the sampler's thread."""

    def __init__(self, process: Cloned) -> None:
        self._process = process
        self._since_seconds: float | None = None

    def note(self, now_seconds: float) -> None:
        """Ask for what has been waiting since an earlier call."""
        if not any(held_text(self._process.line_fd, stream) for stream in HELD_STREAMS):
            self._since_seconds = None
        elif self._since_seconds is None:
            self._since_seconds = now_seconds
        elif now_seconds - self._since_seconds >= WAIT_SECONDS:
            self._since_seconds = None
            if listens(self._process):
                try:
                    signal.pidfd_send_signal(self._process.pidfd, FLUSH_SIGNAL)
                except OSError:
                    return  # it has just ended: its text is read at the end
