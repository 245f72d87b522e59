"""Samples over time: a series that never outgrows its bound, and the one thread that fills all series of this process."""

from __future__ import annotations

import os
import threading
import time
from array import array
from collections import Counter
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
_TIME = COLUMNS.index("monotonic_seconds")
_COUNTERS = ((COLUMNS.index("cpu_seconds"),), (COLUMNS.index("io_read_bytes"), COLUMNS.index("io_write_bytes")))
_STRETCH_SECONDS = 0.01
_STRETCH_ROWS = 6


class SampleSeries:
    """A container's samples as columns, at most ``capacity`` rows (at least 16) however long it runs.

    When the series is full, six rows of each stretch of time stay, as they are: those with the least and the most memory, both ends
    of the steepest step of CPU and of I/O, and some between. So charts keep peaks, dips and bursts, and cumulative counters stay
    right at every row that is left. The first and the last sample stay.
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
                self._thin()
            for column, name in zip(self._columns, COLUMNS, strict=True):
                column.append(getattr(sample, name))

    def _thin(self) -> None:
        """To half at most. Stretches only ever double: so rows are spread evenly over the time, however often it is done."""
        times, last = self._columns[_TIME], len(self) - 1
        seconds = _STRETCH_SECONDS
        while True:
            counts = Counter(int((times[row] - times[0]) / seconds) for row in range(1, last))
            if sum(min(_STRETCH_ROWS, count) for count in counts.values()) <= self._capacity // 2 - 2:
                break
            seconds *= 2
        kept, start = {0, last}, 1
        for number in sorted(counts):
            rows = range(start, start + counts[number])
            kept |= self._telling(rows) if len(rows) > _STRETCH_ROWS else set(rows)
            start = rows.stop
        self._columns = [array("d", [column[row] for row in sorted(kept)]) for column in self._columns]

    def _telling(self, rows: range) -> set[int]:
        """The rows that charts need most; none of them is before ``rows.start - 1``."""
        times, memory = self._columns[_TIME], self._columns[_MEMORY]
        # Ties go to the outermost rows, so that a flat stretch keeps its ends.
        chosen = {min(rows, key=lambda row: (memory[row], row)), max(rows, key=lambda row: (memory[row], row))}
        for counters in _COUNTERS:
            total = [sum(self._columns[counter][row] for counter in counters) for row in range(rows.start - 1, rows.stop)]
            rates = [(now - before) / ((times[row] - times[row - 1]) or 1.0) for row, before, now in zip(rows, total, total[1:], strict=False)]
            if max(rates) > 0:
                steepest = rows.start + rates.index(max(rates))
                chosen |= {steepest - 1, steepest}
        others, missing = [row for row in rows if row not in chosen], _STRETCH_ROWS - len(chosen)
        return chosen | set(others[:: len(others) // missing][:missing] if missing else [])

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
