"""What one thread says and another one waits for: events on their way to whoever iterates a run."""

from __future__ import annotations

import os
import select
import threading
from collections import deque
from types import UnionType
from typing import Generic, TypeVar

from nbcontainer.engine.attendants import TICK_SECONDS, Attendants
from nbcontainer.events import CellError, Display, InputRequest, Output

MOST_EVENTS = 4096
MOST_BYTES = 16 << 20
Said = TypeVar("Said")


class Inbox(Generic[Said]):
    """Bounded: :meth:`put` waits for a reader that is slow, until :meth:`close`."""

    def __init__(self) -> None:
        self._said: deque[Said] = deque()
        self._bytes = 0
        # Reentrant: a signal handler wakes the very thread that may hold it.
        self._room = threading.Condition(threading.RLock())
        self._wake_fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._poller = select.poll()
        self._poller.register(self._wake_fd, select.POLLIN)
        self.attendants = Attendants(self._poller)
        self.closed = False

    # ---- from other threads

    def put(self, said: Said) -> None:
        with self._room:
            while self._full() and not self.closed:
                self._room.wait()
            if not self.closed:
                self._said.append(said)
                self._bytes += _size(said)
                os.eventfd_write(self._wake_fd, 1)

    def _full(self) -> bool:
        return len(self._said) >= MOST_EVENTS or self._bytes >= MOST_BYTES

    def wake(self) -> None:
        """The reader looks at its clock, and at what else it has to look at."""
        with self._room:
            if not self.closed:
                os.eventfd_write(self._wake_fd, 1)

    # ---- from the one that reads

    def next(self, seconds: float) -> Said | None:
        """What was said next; None after ``seconds``, or when woken. Whoever attends is called meanwhile."""
        if not self._said:
            wait = min(seconds, TICK_SECONDS) if self.attendants else seconds
            ready = dict(self._poller.poll(max(0.0, wait) * 1000 + 0.5))
            if self._wake_fd in ready:
                os.eventfd_read(self._wake_fd)
            self.attendants.call(ready)
        with self._room:
            if not self._said:
                return None
            said = self._said.popleft()
            self._bytes -= _size(said)
            self._room.notify()
        return said

    def holds(self, kinds: type | UnionType) -> bool:
        """Something of ``kinds`` was said, and has not been read yet."""
        with self._room:
            return any(isinstance(said, kinds) for said in self._said)

    def close(self) -> None:
        """Nothing is read any more. Safe to call twice."""
        with self._room:
            if not self.closed:
                self.closed = True
                self._said.clear()
                os.close(self._wake_fd)
                self._room.notify_all()


def _size(said: object) -> int:
    if isinstance(said, Output):
        return len(said.text)
    if isinstance(said, Display):
        return said.size_bytes
    if isinstance(said, CellError):
        return len(said.ename) + len(said.evalue) + sum(map(len, said.traceback))
    return len(said.prompt) if isinstance(said, InputRequest) else 0
