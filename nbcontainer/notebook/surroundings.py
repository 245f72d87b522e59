"""The host around the containers, read by psutil: at most four times a second, however many panels ask."""

from __future__ import annotations

import math
import os
import threading
import time

import psutil

from nbcontainer.notebook.view import Host

FRESH_SECONDS = 0.25


class Surroundings:
    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._host = Host()
        self._read_at = 0.0
        self._busy_seconds = 0.0

    def host(self) -> Host:
        """CPU in percent of one core since the reading before, and memory in use (what is not available)."""
        now = time.monotonic()
        with self._lock:
            if now - self._read_at >= FRESH_SECONDS:
                times = psutil.cpu_times()
                busy = sum(times) - times.idle - getattr(times, "iowait", 0.0) - getattr(times, "guest", 0.0)
                percent = math.nan
                if self._read_at:
                    percent = min(100.0 * cores(), max(0.0, 100 * (busy - self._busy_seconds) / (now - self._read_at)))
                memory = psutil.virtual_memory()
                self._host = Host(percent, memory.total - memory.available)
                self._read_at, self._busy_seconds = now, busy
            return self._host


def cores() -> int:
    return os.cpu_count() or 1


SURROUNDINGS = Surroundings()
"""The one of this process."""
