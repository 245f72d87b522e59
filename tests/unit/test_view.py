"""The live panel's state, without a front end: what is folded in, and what travels to the browser."""

from __future__ import annotations

import math
import struct
from dataclasses import fields, replace
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nbcontainer.events import Changed, Finished, Paused, Readings, Resumed, Sample, Started, Usage
from nbcontainer.notebook.view import (
    ROW_FORMAT,
    Host,
    Marker,
    Row,
    View,
    describe_change,
    envelope,
    limits_wire,
    pack_rows,
)
from nbcontainer.spec import Limits

MIB = 1 << 20
ZERO = Sample(**{field.name: 0 for field in fields(Sample)})
LIMITS = Limits(memory_bytes=128 * MIB, cpus=0.5)


def sample(seconds: float, memory_bytes: int = 0, **values: float) -> Sample:
    return replace(ZERO, monotonic_seconds=100.0 + seconds, memory_bytes=memory_bytes, working_set_bytes=memory_bytes, **values)


def started(limits: Limits = LIMITS) -> View:
    view = View(limits)
    view.fold(Started("id", "name", 1, 100.0))
    return view


def test_rates_are_percent_of_a_core_and_time_counts_from_the_start() -> None:
    view = started()
    view.fold(sample(0.1))
    view.fold(sample(0.3, 8 * MIB, cpu_seconds=0.1, user_seconds=0.06, system_seconds=0.04, throttled_seconds=0.05, io_read_bytes=2048))
    row = view.all_rows()[-1]
    assert row.seconds == pytest.approx(0.3)
    assert (row.cpu_percent, row.user_percent, row.system_percent) == pytest.approx((50, 30, 20))
    assert (row.throttled_percent, row.io_read_bytes_per_second) == pytest.approx((25, 10240))
    assert math.isnan(row.host_cpu_percent) and math.isnan(row.cpu_pressure_percent), "unknown is not zero"


def test_dense_samples_become_few_rows_that_keep_the_most_memory() -> None:
    view = started()
    for index in range(100):
        view.fold(sample(index * 0.005, 90 * MIB if index == 37 else MIB))
    assert len(view.all_rows()) <= 11
    assert max(row.memory_bytes for row in view.all_rows()) == 90 * MIB


def test_rows_have_numbers_that_only_grow() -> None:
    view = started()
    view.fold(sample(0.0))
    assert view.rows_since(1) == (1, [])
    view.fold(sample(0.1, MIB))
    first, rows = view.rows_since(1)
    assert first == 1 and [row.memory_bytes for row in rows] == [MIB]
    assert view.rows_since(2) == (2, [])


@given(memory=st.lists(st.integers(0, 1 << 40), min_size=1, max_size=200), capacity=st.integers(4, 40))
def test_a_long_run_is_bounded_and_keeps_its_highest_memory(memory: list[int], capacity: int) -> None:
    view = View(LIMITS, capacity)
    view.fold(Started("id", "name", 1, 100.0))
    number = 0
    for index, value in enumerate(memory):
        view.fold(sample(index * 0.1, value))
        first, new = view.rows_since(number)
        assert first == number and len(new) == 1
        number = first + 1
    rows = view.all_rows()
    assert len(rows) <= capacity
    assert max(row.memory_bytes for row in rows) == max(memory)
    assert [row.seconds for row in rows] == sorted(row.seconds for row in rows)


def test_a_long_run_keeps_bursts_and_dips_of_every_curve() -> None:
    """Memory only grows, so that none of them is where it is highest."""
    view = View(LIMITS, 40)
    view.fold(Started("id", "name", 1, 100.0))
    cpu, read = 0.0, 0
    for index in range(1000):
        cpu += 0.09 if index == 101 else 0.001
        read += 5000 if index == 202 else 0
        memory = 7 if index == 303 else 100 * MIB + index
        view.fold(sample(index * 0.1, memory, cpu_seconds=cpu, io_read_bytes=read, pids=9 if index == 404 else 2))
    rows = view.all_rows()
    assert len(rows) <= 40
    assert max(row.cpu_percent for row in rows) == pytest.approx(90)
    assert max(row.io_read_bytes_per_second for row in rows) == pytest.approx(50_000)
    assert min(row.memory_bytes for row in rows) == 7 and max(row.pids for row in rows) == 9
    for burst, seconds in ((lambda row: row.cpu_percent > 80, 10.2), (lambda row: row.memory_bytes == 7, 30.3), (lambda row: row.pids == 9, 40.4)):
        assert next(row.seconds for row in rows if burst(row)) == pytest.approx(seconds, abs=13), "and where they were, as far as 40 rows can say it"
    assert max(after.seconds - before.seconds for before, after in pairwise(rows)) < 26, "no time is emptier than others"


_NUMBERS = st.sampled_from([math.nan, 0.0, 1.0, 2.0, 3.0])


@given(columns=st.lists(st.tuples(_NUMBERS, _NUMBERS), max_size=40), most=st.integers(2, 40))
def test_an_envelope_has_the_extremes_of_each_column_and_the_ends_in_time(columns: list[tuple[float, float]], most: int) -> None:
    zeros = [0.0] * (len(Row._fields) - 3)
    rows = [Row(float(index), first, second, *zeros) for index, (first, second) in enumerate(columns)]
    thin = envelope(rows, most)
    assert len(thin) <= most
    assert [row.seconds for row in thin] == sorted(row.seconds for row in thin)
    assert [row.seconds for row in thin[:1] + thin[-1:]] == [row.seconds for row in rows[:1] + rows[-1:]]
    for index in (1, 2):
        before, after = ([row[index] for row in some if not math.isnan(row[index])] for some in (rows, thin))
        assert (min(before, default=0), max(before, default=0)) == (min(after, default=0), max(after, default=0))


def test_markers_status_and_limits_follow_events() -> None:
    view = started()
    view.fold(Paused(101.0))
    assert view.status == "paused"
    view.fold(Resumed(102.0))
    view.fold(Changed(103.0, replace(LIMITS, memory_bytes=256 * MIB)))
    view.fold(Changed(103.5, replace(LIMITS, memory_bytes=256 * MIB)))
    view.fold(sample(4.0, oom_kills=1))
    view.fold(Finished("oom", None, 9, None, Usage(wall_seconds=5.0)))
    assert [(marker.seconds, marker.kind) for marker in view.markers] == [
        (0.0, "start"), (1.0, "pause"), (2.0, "resume"), (3.0, "limits"), (4.0, "oom"), (5.0, "oom"),
    ]  # fmt: skip
    assert view.markers[3] == Marker(3.0, "limits", "mem 128 MiB → 256 MiB")
    assert view.status == "ended" and view.limits.memory_bytes == 256 * MIB


def test_readings_become_rates() -> None:
    view = started()
    view.look_around(Host(150.0, 1e9), Readings(100.0, {"cpu": 1.0, "memory": 0.0}, 0, 0))
    view.look_around(Host(150.0, 1e9), Readings(102.0, {"cpu": 2.0, "memory": 0.0}, 4096, 2048))
    view.fold(sample(2.0))
    row = view.all_rows()[-1]
    assert (row.cpu_pressure_percent, row.memory_pressure_percent) == (50.0, 0.0)
    assert math.isnan(row.io_pressure_percent), "this Linux does not count it"
    assert (row.net_rx_bytes_per_second, row.net_tx_bytes_per_second, row.host_cpu_percent) == (2048, 1024, 150.0)


def test_warnings_before_the_kill() -> None:
    view = started(replace(LIMITS, memory_high_bytes=100 * MIB))
    view.fold(sample(1.0, 50 * MIB))
    assert view.warning == ""
    view.fold(sample(2.0, 100 * MIB))
    assert view.warning.startswith("Above --memory-high 100 MiB")
    view = started()
    view.fold(sample(1.0, 120 * MIB))
    said = view.warning
    assert said == "Memory is nearly used up: beyond --mem 128 MiB, Linux kills."
    for seconds, used in ((2.0, 126), (3.0, 110), (4.0, 120), (5.0, 104)):
        view.fold(sample(seconds, used * MIB))
        assert view.warning == said, "it is read aloud: not each time that memory moves a little"
    view.fold(sample(6.0, 100 * MIB))
    assert view.warning == ""
    view.fold(sample(7.0, 110 * MIB))
    assert view.warning == ""
    view.fold(Changed(107.0, replace(LIMITS, memory_bytes=112 * MIB)))
    assert view.warning == said.replace("128", "112")
    view.fold(Changed(108.0, LIMITS))
    assert view.warning == ""
    view.fold(sample(9.0, 120 * MIB))
    view.fold(Finished("oom", None, 9, None, Usage()))
    assert view.warning == ""


def test_one_line_says_it_all() -> None:
    view = started()
    assert view.text_line() == "starting"
    view.fold(sample(0.5))
    view.fold(sample(1.5, 64 * MIB, cpu_seconds=0.5, pids=3))
    assert view.text_line() == "memory 64 MiB of 128 MiB · CPU 50 % of 50 % · 3 processes · 1.5 s"
    view.fold(Paused(102.0))
    assert view.text_line().startswith("paused, ")


def test_changes_in_words() -> None:
    assert describe_change(LIMITS, LIMITS) == ""
    assert describe_change(LIMITS, replace(LIMITS, cpus=None, pids=None)) == "cpus 0.5 → none, pids 256 → none"
    assert describe_change(Limits(), replace(Limits(), memory_bytes=MIB)) == "mem none → 1 MiB"


def test_wire_shapes() -> None:
    rows = [Row(*(float(index) for index in range(len(Row._fields))))] * 2
    packed = pack_rows(rows)
    assert len(packed) == 2 * struct.calcsize(ROW_FORMAT) == 2 * 4 * len(Row._fields)
    assert struct.unpack_from(ROW_FORMAT, packed, len(packed) // 2) == rows[0]
    assert limits_wire(LIMITS) == {"mem": 128 * MIB, "high": None, "cpus": 0.5, "pids": 256}
