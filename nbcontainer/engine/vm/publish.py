"""What other kernels see of a container in a guest: its record, with readings that nobody but this kernel can take."""

from __future__ import annotations

import threading
import time
from dataclasses import asdict, replace

from nbcontainer.events import Changed, Paused, Resumed, Sample
from nbcontainer.state import ContainerRecord, KernelState

INTERVAL_SECONDS = 1.0
"""As often as tables of containers look."""


class Publisher:
    """Keeps the record of one container up to date, from what its guest says; :meth:`close` takes it away."""

    def __init__(self, state: KernelState, record: ContainerRecord) -> None:
        self._state, self._record = state, record
        self._lock = threading.Lock()
        self._published_seconds = 0.0
        self._open = True
        state.add(record)

    def take(self, said: object) -> None:
        if isinstance(said, Sample):
            if time.monotonic() - self._published_seconds >= INTERVAL_SECONDS:
                self._published_seconds = time.monotonic()
                self._publish(replace(self._record, sample=asdict(said)))
        elif isinstance(said, Paused | Resumed):
            self._publish(replace(self._record, status="paused" if isinstance(said, Paused) else "running"))
        elif isinstance(said, Changed):
            self._publish(replace(self._record, memory_limit_bytes=said.limits.memory_bytes, cpus=said.limits.cpus))

    def _publish(self, record: ContainerRecord) -> None:
        with self._lock:
            if self._open:
                self._record = record
                self._state.add(record)

    def close(self) -> None:
        with self._lock:
            self._open = False
            self._state.discard(self._record.id)
