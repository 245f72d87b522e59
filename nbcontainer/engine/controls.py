"""What can be done to a running container from outside: freeze it, change its limits, look at it more closely."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from typing import Any

from nbcontainer.cgroups import Cgroup
from nbcontainer.cgroups.readback import limits_in_force, pressure_seconds
from nbcontainer.engine.processes import is_exiting
from nbcontainer.errors import SetupError, SpecError
from nbcontainer.events import Changed, Paused, Readings, Resumed, Sample
from nbcontainer.spec import Limits
from nbcontainer.validate import change_limits

NEAR_THE_LIMIT = 0.75
"""From this share of the memory limit on, it is noted what the memory is made of: after a kill, nobody can tell."""

FREEZE_TRIES = 3
"""On version 1, one process that waits in Linux for another, which is frozen already, holds it up: once they have gone on, it is past that."""


class Controls:
    """Safe to call from any thread. ``say`` is called with each event; ``pid`` is the cell process, for its network, and
    ``limit_network`` sets the limits of that."""

    def __init__(
        self, cgroup: Cgroup, limits: Limits, pid: int, say: Callable[[Paused | Resumed | Changed], None], limit_network: Callable[[Limits], None]
    ) -> None:
        self._cgroup, self._pid, self._say = cgroup, pid, say
        self._limit_network = limit_network
        self._lock = threading.Lock()
        self._ended = False
        self._highest_bytes = 0
        self.limits = limits
        self.paused = False
        self.memory_by_kind: dict[str, int] = {}

    def pause(self) -> None:
        with self._lock:
            self._refuse_after_the_end("pause")
            if self.paused:
                return
            for tries_left in reversed(range(FREEZE_TRIES)):
                try:
                    self._cgroup.freeze()
                    break
                except SetupError:
                    self._cgroup.thaw()  # half frozen is neither running nor paused
                    if is_exiting(self._pid):
                        raise SpecError("pause: the container has ended") from None
                    if not tries_left:
                        raise
            self.paused = True
            self._say(Paused(time.monotonic()))

    def resume(self) -> None:
        with self._lock:
            self._refuse_after_the_end("resume")
            self._thaw()

    def release(self) -> None:
        """Like :meth:`resume`, for signals: frozen processes do not see them."""
        with self._lock:
            if not self._ended:
                self._thaw()

    def signal_group(self, number: int) -> None:
        """``number`` to the process group of the container's first process, as a terminal does; nothing after the end."""
        with self._lock:
            if not self._ended:
                self._thaw()
                self._cgroup.signal_all(number, lambda pid: os.getpgid(pid) == self._pid)

    def _thaw(self) -> None:
        if self.paused:
            self._cgroup.thaw()
            self.paused = False
            self._say(Resumed(time.monotonic()))

    def update(self, changes: dict[str, Any]) -> Limits:
        with self._lock:
            self._refuse_after_the_end("update")
            wanted = change_limits(self.limits, changes)
            if wanted != self.limits:
                shaped = _network_limits(wanted) != _network_limits(self.limits)
                if shaped:
                    self._limit_network(wanted)
                try:
                    self._cgroup.set_limits(wanted, self.limits)
                except SetupError as error:
                    if shaped:
                        self._limit_network(self.limits)
                    raise error.of_a_change() from error.__cause__
            self.limits = limits_in_force(self._cgroup, wanted)
            self._say(Changed(time.monotonic(), self.limits))
            return self.limits

    def readings(self, own_network: bool) -> Readings:
        with self._lock:
            self._refuse_after_the_end("stats")
            received, sent = network_bytes(self._pid) if own_network else (0, 0)
            return Readings(
                time.monotonic(), pressure_seconds(self._cgroup), received, sent, self._cgroup.memory_by_kind()
            )

    def note_memory(self, sample: Sample) -> None:
        """Called with each sample, before the cgroup can be gone."""
        limit = self.limits.memory_bytes
        if limit and sample.memory_bytes > max(self._highest_bytes, NEAR_THE_LIMIT * limit):
            self._highest_bytes = sample.memory_bytes
            self.memory_by_kind = self._cgroup.memory_by_kind()

    def close(self) -> None:
        """The container has ended; waits for a control that is at it."""
        with self._lock:
            self._ended = True

    def _refuse_after_the_end(self, what: str) -> None:
        if self._ended:
            raise SpecError(f"{what}: the container has ended")


def _network_limits(limits: Limits) -> tuple[int | None, float | None]:
    return limits.net_bytes_per_second, limits.net_delay_seconds


def network_bytes(pid: int) -> tuple[int, int]:
    """(received, sent) by all interfaces but ``lo`` in the network namespace of a process; zeros when it is gone."""
    received = sent = 0
    try:
        with open(f"/proc/{pid}/net/dev", encoding="ascii") as file:
            for line in file.readlines()[2:]:
                name, _, numbers = line.partition(":")
                if name.strip() != "lo":
                    fields = numbers.split()
                    received, sent = received + int(fields[0]), sent + int(fields[8])
    except OSError:
        return 0, 0
    return received, sent
