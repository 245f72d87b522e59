"""Samples over time: a series that never outgrows its bound, and the one thread that fills all series of this process."""

from __future__ import annotations

import os
import threading
import time
from array import array
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any, Protocol

from nbcontainer.cgroups.files import GONE
from nbcontainer.errors import InternalError
from nbcontainer.events import Sample
from nbcontainer.threads import start_daemon

if TYPE_CHECKING:
    from pandas import DataFrame

COLUMNS = tuple(column.name for column in fields(Sample))
FIRST_SECOND_INTERVAL_SECONDS = 0.005
INTERVAL_SECONDS = 0.1
_WHOLE = frozenset(column.name for column in fields(Sample) if column.type == "int")
_MEMORY = COLUMNS.index("memory_bytes")
_BUCKET_ROWS = 4


class SampleSeries:
    """A container's samples as columns, at most ``capacity`` rows (at least 16) however long it runs.

    When the series is full, every four rows become the two with the least and the most memory, in time order: charts
    keep their peaks, and cumulative counters stay right at every row that is left. The first and the last sample stay.
    Safe to read while the sampler appends.
    """

    def __init__(self, capacity: int = 4096) -> None:
        if capacity < 16:
            raise InternalError(f"a sample series of {capacity} rows is too small; 16 is the least")
        self._capacity = capacity
        self._columns = [array("d") for _ in COLUMNS]
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._columns[0])

    def append(self, sample: Sample) -> None:
        """Samples come in time order."""
        with self._lock:
            if len(self) >= self._capacity:
                self._halve()
            for column, name in zip(self._columns, COLUMNS, strict=True):
                column.append(getattr(sample, name))

    def _halve(self) -> None:
        memory, last = self._columns[_MEMORY], len(self) - 1
        kept = [0]
        for start in range(1, last, _BUCKET_ROWS):
            rows = range(start, min(start + _BUCKET_ROWS, last))
            # Ties go to the outermost rows, so that a flat stretch keeps its ends.
            least = min(rows, key=lambda row: (memory[row], row))
            most = max(rows, key=lambda row: (memory[row], row))
            kept += sorted({least, most})
        kept.append(last)
        self._columns = [array("d", [column[row] for row in kept]) for column in self._columns]

    def columns(self) -> dict[str, list[float]]:
        """One list per field of :class:`~nbcontainer.events.Sample`, in its units, all of one length."""
        with self._lock:
            return {name: column.tolist() for name, column in zip(COLUMNS, self._columns, strict=True)}

    def rows(self) -> list[Sample]:
        """The samples that are left, in time order."""
        columns = self.columns()
        whole: list[list[Any]] = [
            [int(value) for value in columns[name]] if name in _WHOLE else columns[name] for name in COLUMNS
        ]
        return [Sample(*values) for values in zip(*whole, strict=True)]

    def __iter__(self) -> Iterator[Sample]:
        return iter(self.rows())

    def to_pandas(self) -> DataFrame:
        """A DataFrame of :meth:`columns`, indexed by ``seconds`` since the first sample."""
        from pandas import DataFrame, Index

        columns = self.columns()
        times = columns.pop("monotonic_seconds")
        return DataFrame(columns, index=Index([instant - times[0] for instant in times], name="seconds", dtype="float64"))


class Sampled(Protocol):
    """What can be sampled: a cgroup. ``sample`` raises OSError (ENOENT, ENODEV) once it is gone."""

    def sample(self) -> Sample: ...


@dataclass(eq=False, slots=True)
class SamplerToken:
    """One container in the sampler; from :meth:`Sampler.add`, for :meth:`Sampler.remove`."""

    cgroup: Sampled
    series: SampleSeries | None
    interval_seconds: float | None
    on_sample: Callable[[Sample], None] | None
    started_seconds: float
    due_seconds: float
    busy: bool = False
    error: Exception | None = field(default=None)
    early_interval_seconds: float = FIRST_SECOND_INTERVAL_SECONDS

    def take(self) -> bool:
        """One sample; False when the cgroup is gone."""
        try:
            sample = self.cgroup.sample()
        except OSError as error:
            if error.errno not in GONE:
                raise
            return False
        if self.series is not None:
            self.series.append(sample)
        if self.on_sample is not None:
            self.on_sample(sample)
        return True

    def schedule(self, now_seconds: float) -> None:
        """The next due time; turns that were missed are left out."""
        interval = self.interval_seconds
        if interval is None:
            early = now_seconds - self.started_seconds < 1.0
            interval = self.early_interval_seconds if early else INTERVAL_SECONDS
        self.due_seconds += interval
        if self.due_seconds <= now_seconds:
            self.due_seconds = now_seconds + interval


class Sampler:
    """One daemon thread for all containers of this process, which lives only while there is something to sample."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._tokens: set[SamplerToken] = set()
        self._thread: threading.Thread | None = None
        self.early_interval_seconds = FIRST_SECOND_INTERVAL_SECONDS

    def start_over(self) -> None:
        """In a forked process: the thread is the parent's, and may have held the lock."""
        self._changed, self._thread = threading.Condition(), None
        self._tokens = set()

    def add(
        self,
        cgroup: Sampled,
        series: SampleSeries | None,
        interval_seconds: float | None = None,
        on_sample: Callable[[Sample], None] | None = None,
    ) -> SamplerToken:
        """Sample from now on: every ``interval_seconds``; None: every ``early_interval_seconds`` (5 ms) in the first second, then every 0.1 s.

        ``on_sample`` is called in the sampler's thread and must be quick; an exception of its own ends the sampling of
        this cgroup and is raised by :meth:`remove`.
        """
        now = time.monotonic()
        token = SamplerToken(cgroup, series, interval_seconds, on_sample, now, now, early_interval_seconds=self.early_interval_seconds)
        with self._changed:
            if self._thread is None:
                # It waits for the lock before it looks for what there is to do.
                self._thread = start_daemon(self._run, "nbcontainer-sampler")
            self._tokens.add(token)
            self._changed.notify_all()
        return token

    def remove(self, token: SamplerToken) -> None:
        """Let go of the cgroup: one last sample (in the caller's thread), none after. Idempotent.

        Raises what ``on_sample`` or the reading raised; a cgroup that is gone is no error.
        """
        with self._changed:
            sampling = token in self._tokens
            self._tokens.discard(token)
            self._changed.notify_all()
            while token.busy and threading.current_thread() is not self._thread:
                self._changed.wait()
            error, token.error = token.error, None
        if error is not None:
            raise error
        if sampling:
            token.take()

    def _run(self) -> None:
        while (token := self._next()) is not None:
            going_on, error = False, None
            try:
                going_on = token.take()
            except Exception as raised:  # not swallowed: remove() raises it where somebody can act on it
                error = raised
            with self._changed:
                token.busy, token.error = False, error
                if going_on:
                    token.schedule(time.monotonic())
                else:
                    self._tokens.discard(token)
                self._changed.notify_all()

    def _next(self) -> SamplerToken | None:
        """Wait for the token that is due next and mark it busy; None ends the thread."""
        with self._changed:
            while self._tokens:
                token = min(self._tokens, key=lambda candidate: candidate.due_seconds)
                wait_seconds = token.due_seconds - time.monotonic()
                if wait_seconds <= 0:
                    token.busy = True
                    return token
                self._changed.wait(wait_seconds)
            self._thread = None
            return None


SAMPLER = Sampler()
"""The one of this process."""
os.register_at_fork(after_in_child=SAMPLER.start_over)
