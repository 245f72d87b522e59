"""Who wants to be called while a thread waits for a run: ten times a second, or when a descriptor can be read."""

from __future__ import annotations

import select
import time
from collections.abc import Callable, Container

TICK_SECONDS = 0.1


class Attendants:
    """Called, added and cleared by the thread that waits."""

    def __init__(self, poller: select.poll | None = None) -> None:
        self._callbacks: list[tuple[Callable[[], None], int]] = []
        self._all_at = 0.0
        self._poller = poller

    def __bool__(self) -> bool:
        return bool(self._callbacks)

    def wait_with(self, poller: select.poll) -> None:
        """The descriptors of all of them are waited for by this one."""
        self._poller = poller
        for _, fd in self._callbacks:
            self._register(fd)

    def add(self, callback: Callable[[], None], fd: int = -1) -> None:
        self._callbacks.append((callback, fd))
        self._register(fd)

    def _register(self, fd: int) -> None:
        if fd >= 0 and self._poller is not None:
            self._poller.register(fd, select.POLLIN)

    def call(self, ready: Container[int] = ()) -> None:
        """Those of the descriptors in ``ready``; all, ten times a second."""
        now = time.monotonic()
        all_of_them = now >= self._all_at
        if all_of_them:
            self._all_at = now + TICK_SECONDS
        for callback, fd in self._callbacks:
            if all_of_them or fd in ready:
                callback()

    def clear(self) -> None:
        self._callbacks.clear()
