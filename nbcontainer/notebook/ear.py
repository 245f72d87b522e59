"""For how long a kernel could have heard what a front end says: silence means something only then."""

from __future__ import annotations

import time
from typing import Any, Protocol

APART_SECONDS = 0.05
"""The kernel's loop is asked again after this long."""
AT_ONCE_SECONDS = 0.3
"""More than this between two answers was not all spent listening."""


class Ear(Protocol):
    def seconds(self) -> float:
        """Since it was made."""


class PumpEar:
    """The cell's own loop reads messages."""

    def __init__(self) -> None:
        self._begin = time.monotonic()

    def seconds(self) -> float:
        return time.monotonic() - self._begin


class LoopEar:
    """The kernel's loop reads them, when no cell runs. Ask it often, in another thread than the loop's."""

    def __init__(self, kernel: Any) -> None:
        self._loop = getattr(kernel, "io_loop", None)
        self._asked = False
        self._answered_at = 0.0
        self._asked_at = 0.0
        self._seconds = 0.0

    def seconds(self) -> float:
        if self._loop is None:
            return 0.0
        now = time.monotonic()
        if not self._asked and now - self._asked_at >= APART_SECONDS:
            self._asked, self._asked_at = True, now
            self._loop.add_callback(self._answer)
        return self._seconds

    def _answer(self) -> None:
        now = time.monotonic()
        since = now - self._answered_at
        if self._answered_at and since < AT_ONCE_SECONDS:
            self._seconds += since
        self._answered_at, self._asked = now, False
