"""What a live panel shows: a state folded from events, and the rows that travel to the browser. No front end in here."""

from __future__ import annotations

import math
import struct
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any, Literal, NamedTuple

from nbcontainer.events import Changed, Event, Finished, Paused, Readings, Resumed, Sample, Started
from nbcontainer.spec import Limits
from nbcontainer.units import format_size

ROW_SECONDS = 0.05
"""Samples that are closer than this become one row; it keeps the most memory of them."""
CAPACITY_ROWS = 2400
HIGH_SHARE = 0.9
"""From this share of the memory limit on, the panel warns."""
CALM_SHARE = 0.1
"""So much less than what it warned of has to be in use before it stops: who hears it is to hear it once."""


class Row(NamedTuple):
    """One point of all curves; rates are over the time since the row before, NaN is not known (yet).

    In the browser: float32, in this order.
    """

    seconds: float
    memory_bytes: float
    working_set_bytes: float
    peak_bytes: float
    cpu_percent: float
    user_percent: float
    system_percent: float
    throttled_percent: float
    pids: float
    io_read_bytes_per_second: float
    io_write_bytes_per_second: float
    net_rx_bytes_per_second: float
    net_tx_bytes_per_second: float
    cpu_pressure_percent: float
    memory_pressure_percent: float
    io_pressure_percent: float
    host_cpu_percent: float
    host_memory_bytes: float


ROW_FORMAT = f"<{len(Row._fields)}f"


@dataclass(frozen=True, slots=True)
class Marker:
    """A moment worth a line in the charts."""

    seconds: float
    kind: str
    """start, pause, resume, limits, oom or end."""
    text: str


@dataclass(frozen=True, slots=True)
class Host:
    """The machine as a whole: CPU in percent of one core, memory in use in bytes."""

    cpu_percent: float = math.nan
    memory_bytes: float = math.nan


class Rates(NamedTuple):
    """Of two readings, in the order of :class:`Row`."""

    net_rx_bytes_per_second: float = math.nan
    net_tx_bytes_per_second: float = math.nan
    cpu_pressure_percent: float = math.nan
    memory_pressure_percent: float = math.nan
    io_pressure_percent: float = math.nan


class View:
    """Fold events into it; take rows and markers from it. The first row has the number 0."""

    def __init__(self, limits: Limits, capacity: int = CAPACITY_ROWS) -> None:
        self._capacity = capacity
        self.limits = limits
        self.status = "starting"
        self.markers: list[Marker] = []
        self.outcome = ""
        self.last: Sample | None = None
        self.host = Host()
        self.readings: Readings | None = None
        self._rates = Rates()
        self._history: tuple[int, list[Row]] = (0, [])
        """How many rows were thinned out, and those that are left: changed together, as another thread may send them meanwhile."""
        self._start = 0.0
        self._base: Sample | None = None
        self._most_bytes = 0
        self._oom_kills = 0
        self._tight: Literal["", "high", "mem"] = ""

    # ---- in

    def fold(self, event: Event) -> None:
        match event:
            case Started():
                self._start = event.monotonic_seconds
                self.status = "running"
                self._mark(event.monotonic_seconds, "start", "start")
            case Sample():
                self._sample(event)
            case Paused():
                self.status = "paused"
                self._mark(event.monotonic_seconds, "pause", "paused")
            case Resumed():
                self.status = "running"
                self._mark(event.monotonic_seconds, "resume", "resumed")
            case Changed():
                text = describe_change(self.limits, event.limits)
                self.limits = event.limits
                self._tight = ""
                self._tighten()
                if text:
                    self._mark(event.monotonic_seconds, "limits", text)
            case Finished():
                self.status, self.outcome, self._tight = "ended", event.outcome, ""
                seconds = self._start + event.usage.wall_seconds
                self._mark(seconds, "oom" if event.outcome == "oom" else "end", event.outcome.replace("oom", "out of memory"))

    def look_around(self, host: Host, readings: Readings | None) -> None:
        """The host and the slower readings, for the rows from here on."""
        self.host = host
        if readings is not None:
            if self.readings is not None:
                self._rates = _reading_rates(self.readings, readings)
            self.readings = readings

    def _mark(self, monotonic_seconds: float, kind: str, text: str) -> None:
        self.markers.append(Marker(round(max(0.0, monotonic_seconds - self._start), 3), kind, text))

    def _tighten(self) -> None:
        if self.last is None:
            return
        limit, high = self.limits.memory_bytes, self.limits.memory_high_bytes
        if high and self.last.memory_bytes >= high * (0.99 - CALM_SHARE * (self._tight == "high")):
            self._tight = "high"
        elif limit and self.last.working_set_bytes >= limit * (HIGH_SHARE - CALM_SHARE * (self._tight == "mem")):
            self._tight = "mem"
        else:
            self._tight = ""

    def _sample(self, sample: Sample) -> None:
        self.last = sample
        self._tighten()
        if sample.oom_kills > self._oom_kills:
            self._mark(sample.monotonic_seconds, "oom", f"out of memory: {sample.oom_kills} killed")
            self._oom_kills = sample.oom_kills
        base = self._base
        self._most_bytes = max(self._most_bytes, sample.memory_bytes)
        if base is not None and sample.monotonic_seconds - base.monotonic_seconds < ROW_SECONDS:
            return
        rows = self._history[1]
        rows.append(self._row(base or sample, sample))
        self._base, self._most_bytes = sample, 0
        if len(rows) > self._capacity:
            self._thin()

    def _row(self, before: Sample, now: Sample) -> Row:
        width = (now.monotonic_seconds - before.monotonic_seconds) or 1.0

        def rate(name: str, scale: float = 100.0) -> float:
            difference: float = getattr(now, name) - getattr(before, name)
            return max(0.0, scale * difference / width)

        return Row(
            now.monotonic_seconds - self._start,
            max(self._most_bytes, now.memory_bytes),
            now.working_set_bytes,
            now.memory_peak_bytes,
            rate("cpu_seconds"),
            rate("user_seconds"),
            rate("system_seconds"),
            rate("throttled_seconds"),
            now.pids,
            rate("io_read_bytes", 1.0),
            rate("io_write_bytes", 1.0),
            *self._rates,
            self.host.cpu_percent,
            self.host.memory_bytes,
        )

    def _thin(self) -> None:
        """The newest quarter stays as it is."""
        dropped, rows = self._history
        old = rows[: self._capacity * 3 // 4]
        kept = envelope(old, self._capacity // 2)
        self._history = dropped + len(old) - len(kept), kept + rows[len(old) :]

    # ---- out

    def rows_since(self, number: int) -> tuple[int, list[Row]]:
        """(the number of the first of them, the rows from ``number`` on that are left); also while another thread folds events.

        Rows that were thinned out keep none of their numbers."""
        dropped, rows = self._history
        start = max(0, number - dropped)
        return dropped + start, rows[start:]

    def all_rows(self) -> list[Row]:
        return self.rows_since(0)[1]

    @property
    def warning(self) -> str:
        """A sentence when memory is nearly used up or held back, else "". Without what changes all the time: it is read aloud."""
        if self._tight == "high":
            return f"Above --memory-high {format_size(self.limits.memory_high_bytes or 0)}: Linux slows the container down and reclaims its memory."
        if self._tight == "mem":
            return f"Memory is nearly used up: beyond --mem {format_size(self.limits.memory_bytes or 0)}, Linux kills."
        return ""

    def text_line(self) -> str:
        """Everything in one line, for front ends without widgets and for screen readers."""
        last = self.last
        if last is None:
            return "starting"
        limit = f" of {format_size(self.limits.memory_bytes)}" if self.limits.memory_bytes else ""
        quota = f" of {100 * self.limits.cpus:g} %" if self.limits.cpus else ""
        rows = self._history[1]
        row = rows[-1] if rows else None
        cpu = f"{row.cpu_percent:.0f} %{quota}" if row else "-"
        state = f"{self.status}, " if self.status != "running" else ""
        processes = "1 process" if last.pids == 1 else f"{last.pids} processes"
        seconds = last.monotonic_seconds - self._start
        return f"{state}memory {format_size(last.memory_bytes)}{limit} · CPU {cpu} · {processes} · {seconds:.1f} s"


def envelope(rows: Sequence[Row], most: int) -> list[Row]:
    """At most so many rows (2 or more), evenly over the time: two of each stretch of it, with the least and the most of each column.

    So each curve keeps its bursts and its dips, however often it is done: stretches only ever double, and nothing leaves its own.
    ``panel.js`` does the same.
    """
    width = ROW_SECONDS
    while sum(min(2, count) for count in Counter(int(row.seconds / width) for row in rows).values()) > most:
        width *= 2
    kept: list[Row] = []
    for _, group in groupby(rows, lambda row: int(row.seconds / width)):
        stretch = list(group)
        if len(stretch) > 2:
            pairs = [_extremes(column) for column in zip(*stretch, strict=True)]
            stretch = [Row(*(first for first, _ in pairs)), Row(*(second for _, second in pairs))]
        kept += stretch
    return kept


def _extremes(values: Sequence[float]) -> tuple[float, float]:
    known = [value for value in values if not math.isnan(value)]
    if not known:
        return math.nan, math.nan
    least, most = min(known), max(known)
    return (least, most) if known.index(least) <= known.index(most) else (most, least)


def _reading_rates(before: Readings, now: Readings) -> Rates:
    width = (now.monotonic_seconds - before.monotonic_seconds) or 1.0

    def waited(resource: str) -> float:
        if resource not in now.pressure_seconds:
            return math.nan
        seconds = now.pressure_seconds.get(resource, 0.0) - before.pressure_seconds.get(resource, 0.0)
        return min(100.0, max(0.0, 100 * seconds / width))

    received = max(0.0, (now.net_rx_bytes - before.net_rx_bytes) / width)
    sent = max(0.0, (now.net_tx_bytes - before.net_tx_bytes) / width)
    return Rates(received, sent, waited("cpu"), waited("memory"), waited("io"))


def describe_change(before: Limits, after: Limits) -> str:
    """``"mem 128 MiB → 256 MiB"``; "" when nothing that is drawn has changed."""
    parts = []
    for name, old, new in (
        ("mem", before.memory_bytes, after.memory_bytes),
        ("memory-high", before.memory_high_bytes, after.memory_high_bytes),
    ):
        if old != new:
            parts.append(f"{name} {format_size(old) if old else 'none'} → {format_size(new) if new else 'none'}")
    for name, old_number, new_number in (("cpus", before.cpus, after.cpus), ("pids", before.pids, after.pids)):
        if old_number != new_number:
            parts.append(f"{name} {'none' if old_number is None else f'{old_number:g}'} → {'none' if new_number is None else f'{new_number:g}'}")
    return ", ".join(parts)


def pack_rows(rows: Sequence[Row]) -> bytes:
    return b"".join(struct.pack(ROW_FORMAT, *row) for row in rows)


def limits_wire(limits: Limits) -> dict[str, Any]:
    """The limits that the panel draws and controls; null is none."""
    return {"mem": limits.memory_bytes, "high": limits.memory_high_bytes, "cpus": limits.cpus, "pids": limits.pids}


def marker_wire(marker: Marker) -> list[Any]:
    return [marker.seconds, marker.kind, marker.text]
