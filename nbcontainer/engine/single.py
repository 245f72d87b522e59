"""One engine of a kind for each process: made at first use, closed at its end."""

from __future__ import annotations

import atexit
import os
import threading
from collections.abc import Callable
from typing import Generic, Protocol, TypeVar


class Closable(Protocol):
    def close(self) -> None: ...


Kind = TypeVar("Kind", bound=Closable)


class Single(Generic[Kind]):
    """A process that was forked has none of its own yet, whatever its parent had."""

    def __init__(self, make: Callable[[], Kind]) -> None:
        self._make = make
        self._lock = threading.Lock()
        self._owner_pid = 0
        self.current: Kind | None = None
        os.register_at_fork(after_in_child=self._after_fork)

    def _after_fork(self) -> None:
        self._lock = threading.Lock()  # a thread that is in the parent only may have held it

    def open(self) -> Kind:
        with self._lock:
            if self.current is None or self._owner_pid != os.getpid():
                self.current, self._owner_pid = self._make(), os.getpid()
                atexit.register(self.shutdown)
            return self.current

    def shutdown(self) -> None:
        """The next :meth:`open` starts afresh."""
        with self._lock:
            engine, self.current = self.current, None
        if engine is not None:
            engine.close()
