"""Which line a Python cell is at while its memory runs short: after a kill, nobody can tell.

The kernel sends a signal, and the cell's process writes its stack into a memory file that the kernel made for it. That
costs nothing before, and a few microseconds then. What is there may be forged: a line number is taken from it, no more.
It is where the process was when it was asked, a few milliseconds before its end: :mod:`nbcontainer.lines` says when that is certain.
"""

from __future__ import annotations

import hashlib
import os
import re
import signal
import time

from nbcontainer.events import Sample
from nbcontainer.runtime.client import LINE_FILE, Cloned
from nbcontainer.runtime.protocol import LINE_FD, LINE_SIGNAL

FROM_SHARE = 0.5
"""Of the memory limit: from here on the process is asked."""
STEP_SHARE = 0.02
"""Again when its memory has grown by so much, also after it had fallen."""
FRESH_SECONDS = 0.5
"""An older answer says too little about the end."""
ANSWER_BYTES = 8192
_FRAME = re.compile(rb'^  File "<ipython-input-\d{1,9}-([0-9a-f]{12})>", line (\d{1,7}) in ', re.MULTILINE)


def listens(process: Cloned) -> bool:
    """It is still the Python that a signal was agreed with: other programs would be killed by it."""
    try:
        # A cell that has closed the descriptor may have another file there by now.
        return os.readlink(f"/proc/{process.pid}/fd/{LINE_FD}").startswith(f"/memfd:{LINE_FILE} ")
    except OSError:
        return False  # it has just ended, or is nothing that we may look into


class LineProbe:
    """Of one cell process. :meth:`note` is called by the sampler's thread, :meth:`last` when that is done with it."""

    def __init__(self, process: Cloned) -> None:
        self._process = process
        self._asked_at_share = 0.0
        # Two places in turns: who is killed over an answer has given the one before.
        self._asked_seconds = [-1e9, -1e9]
        self._turn = 0
        self._digest = b""

    def cell_is(self, code: str) -> None:
        """One of several that the process runs: only frames of this very code count from now on."""
        self._digest = hashlib.sha1(code.encode("utf-8", "replace"), usedforsecurity=False).hexdigest()[:12].encode()  # as IPython names it
        self._asked_at_share, self._asked_seconds = 0.0, [-1e9, -1e9]

    def note(self, sample: Sample, limit_bytes: int | None) -> None:
        if not limit_bytes or self._process.line_fd < 0:
            return
        share = sample.memory_bytes / limit_bytes
        # It falls when the process has just been killed, too: no answer is to be lost to a question that nobody answers.
        self._asked_at_share = min(self._asked_at_share, share)
        if share >= FROM_SHARE and share - self._asked_at_share >= STEP_SHARE:
            self._asked_at_share = share
            self._ask()

    def _ask(self) -> None:
        process = self._process
        if not listens(process):
            return
        try:
            self._turn = 1 - self._turn
            place = self._turn * ANSWER_BYTES
            os.pwrite(process.line_fd, bytes(ANSWER_BYTES), place)
            os.lseek(process.line_fd, place, os.SEEK_SET)
            # Without a handler, pid 1 of a container does not see it.
            signal.pidfd_send_signal(process.pidfd, LINE_SIGNAL)
        except OSError:
            return  # it has just ended
        self._asked_seconds[self._turn] = time.monotonic()

    def last(self) -> int | None:
        """The line of its last answer, if that was just now."""
        oldest = time.monotonic() - FRESH_SECONDS
        for turn in (self._turn, 1 - self._turn):
            if self._asked_seconds[turn] >= oldest:
                for digest, number in _FRAME.findall(os.pread(self._process.line_fd, ANSWER_BYTES, turn * ANSWER_BYTES)):
                    if self._digest in (b"", digest):
                        return int(number)
        return None
