"""The series stays bounded and keeps what matters; the sampler is one thread that lets go when it says so."""

from __future__ import annotations

import errno
import threading
import time
from dataclasses import fields, replace
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nbcontainer.cgroups.sampler import COLUMNS, Sampler, SamplerToken, SampleSeries
from nbcontainer.errors import InternalError
from nbcontainer.events import Sample

ZERO = Sample(**{field.name: 0 for field in fields(Sample)})
WAIT_SECONDS = 10.0


def sample(index: int, memory_bytes: int = 0) -> Sample:
    return replace(ZERO, monotonic_seconds=100.0 + index, memory_bytes=memory_bytes, cpu_seconds=index / 8, pids=index)


class FakeCgroup:
    """Counts its samples; can vanish, fail, or hold the reader up."""

    def __init__(self) -> None:
        self.count = 0
        self.error: OSError | None = None
        self.let_go = threading.Event()
        self.let_go.set()
        self.entered = threading.Event()
        self.reading = False

    def sample(self) -> Sample:
        self.reading = True
        self.entered.set()
        assert self.let_go.wait(WAIT_SECONDS)
        self.reading = False
        if self.error is not None:
            raise self.error
        self.count += 1
        return sample(self.count)


def sampler_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "nbcontainer-sampler"]


def wait_until_idle() -> None:
    for thread in sampler_threads():
        thread.join(WAIT_SECONDS)
    assert not sampler_threads()


# ---- series


@given(memory=st.lists(st.integers(0, 1 << 50), min_size=1, max_size=400), capacity=st.integers(16, 40))
def test_a_series_is_bounded_and_keeps_extremes_ends_and_order(memory: list[int], capacity: int) -> None:
    series = SampleSeries(capacity)
    given_rows = [sample(index, value) for index, value in enumerate(memory)]
    for count, row in enumerate(given_rows, 1):
        series.append(row)
        assert len(series) <= capacity
        assert series.rows()[-1] == row and len(series) >= min(count, capacity // 4)
    rows = series.rows()
    assert rows[0] == given_rows[0]
    assert {max(memory), min(memory)} <= {row.memory_bytes for row in rows}
    assert all(row in given_rows for row in rows), "no row is invented"
    assert [row.monotonic_seconds for row in rows] == sorted({row.monotonic_seconds for row in rows})


def test_a_long_run_keeps_its_whole_span() -> None:
    series = SampleSeries(64)
    for index in range(10_000):
        series.append(sample(index))
    times = series.columns()["monotonic_seconds"]
    assert (times[0], times[-1]) == (100.0, 10_099.0) and 16 < len(times) <= 64
    assert max(after - before for before, after in pairwise(times)) <= 2500, "no time is much emptier than others"


def test_a_long_run_keeps_bursts_of_cpu_and_io() -> None:
    """Memory only grows, so that none of them is where it is lowest or highest."""
    series, cpu, written = SampleSeries(64), 0.0, 0
    for index in range(5000):
        cpu += 0.9 if index == 1234 else 0.01
        written += 7000 if index == 2345 else 1
        series.append(replace(sample(index, index), cpu_seconds=cpu, io_write_bytes=written))
    columns = series.columns()
    assert len(series) <= 64
    for name, rate in (("cpu_seconds", 0.9), ("io_write_bytes", 7000)):
        steps = zip(columns["monotonic_seconds"], columns["monotonic_seconds"][1:], columns[name], columns[name][1:], strict=False)
        assert max((now - before) / (end - begin) for begin, end, before, now in steps) == pytest.approx(rate)


def test_columns_rows_and_types() -> None:
    series = SampleSeries()
    assert series.rows() == [] and len(series) == 0
    series.append(sample(1, 1 << 50))
    series.append(sample(2, 7))
    columns = series.columns()
    assert tuple(columns) == COLUMNS and columns["memory_bytes"] == [float(1 << 50), 7.0]
    first = next(iter(series))
    assert isinstance(first.memory_bytes, int) and isinstance(first.cpu_seconds, float) and first == sample(1, 1 << 50)


def test_to_pandas_counts_seconds_from_the_first_sample() -> None:
    pytest.importorskip("pandas", reason="pandas is optional: pip install pandas")
    series = SampleSeries()
    assert series.to_pandas().empty
    for index in (3, 5):
        series.append(sample(index, index))
    frame = series.to_pandas()
    assert frame.index.tolist() == [0.0, 2.0] and frame.index.name == "seconds"
    assert frame["memory_bytes"].tolist() == [3, 5] and "monotonic_seconds" not in frame


def test_a_series_too_small_to_halve_is_refused() -> None:
    with pytest.raises(InternalError):
        SampleSeries(15)


# ---- sampler


def test_samples_until_removed_then_one_more_and_none_after() -> None:
    sampler, cgroup, series = Sampler(), FakeCgroup(), SampleSeries()
    enough, seen = threading.Event(), []

    def on_sample(taken: Sample) -> None:
        seen.append(taken)
        if len(seen) == 5:
            enough.set()

    token = sampler.add(cgroup, series, 0.001, on_sample)
    assert enough.wait(WAIT_SECONDS)
    sampler.remove(token)
    count = cgroup.count
    assert count >= 6 and series.rows() == seen and len(seen) == count
    sampler.remove(token)
    wait_until_idle()
    assert cgroup.count == count, "the cgroup belongs to the caller again"


def test_one_thread_for_all_and_none_when_idle() -> None:
    sampler = Sampler()
    cgroups = [FakeCgroup() for _ in range(20)]
    tokens = [sampler.add(cgroup, None, 0.001) for cgroup in cgroups]
    for cgroup in cgroups:
        assert cgroup.entered.wait(WAIT_SECONDS)
    assert len(sampler_threads()) == 1 and sampler_threads()[0].daemon
    for token in tokens:
        sampler.remove(token)
    wait_until_idle()
    again = FakeCgroup()
    token = sampler.add(again, None, 3600)
    assert again.entered.wait(WAIT_SECONDS)
    sampler.remove(token)
    wait_until_idle()
    assert again.count == 2


def test_remove_waits_for_a_reading_under_way() -> None:
    sampler, cgroup = Sampler(), FakeCgroup()
    cgroup.let_go.clear()
    token = sampler.add(cgroup, None)
    assert cgroup.entered.wait(WAIT_SECONDS)
    threading.Timer(0.05, cgroup.let_go.set).start()
    sampler.remove(token)
    assert not cgroup.reading
    wait_until_idle()


@pytest.mark.parametrize("number", [errno.ENOENT, errno.ENODEV])
def test_a_vanished_cgroup_is_dropped_quietly(number: int) -> None:
    sampler, cgroup, series = Sampler(), FakeCgroup(), SampleSeries()
    cgroup.error = OSError(number, "gone")
    token = sampler.add(cgroup, series)
    wait_until_idle()
    sampler.remove(token)
    assert len(series) == 0


def test_any_other_error_reaches_who_removes() -> None:
    sampler, cgroup = Sampler(), FakeCgroup()
    cgroup.error = OSError(errno.EIO, "broken")
    token = sampler.add(cgroup, None)
    wait_until_idle()
    with pytest.raises(OSError, match="broken"):
        sampler.remove(token)
    sampler.remove(token)

    def on_sample(taken: Sample) -> None:
        raise ValueError("the listener's own fault")

    token = sampler.add(FakeCgroup(), None, 0.001, on_sample)
    healthy = FakeCgroup()
    other = sampler.add(healthy, None, 0.001)
    with pytest.raises(ValueError, match="own fault"):
        while True:
            assert token.error is not None or sampler_threads()
            if token.error is not None:
                sampler.remove(token)
    assert healthy.entered.wait(WAIT_SECONDS)
    sampler.remove(other)
    wait_until_idle()


def test_a_listener_may_remove_its_own_container() -> None:
    sampler, cgroup = Sampler(), FakeCgroup()
    tokens: list[SamplerToken] = []
    ready = threading.Event()

    def on_sample(taken: Sample) -> None:
        ready.wait(WAIT_SECONDS)
        sampler.remove(tokens[0])

    tokens.append(sampler.add(cgroup, None, 0.001, on_sample))
    ready.set()
    wait_until_idle()


def test_the_default_schedule_is_dense_at_first() -> None:
    sampler = Sampler()
    token = sampler.add(FakeCgroup(), None, 3600)
    sampler.remove(token)
    token.interval_seconds, token.started_seconds, token.due_seconds = None, 10.0, 10.0
    token.schedule(10.001)
    assert token.due_seconds == pytest.approx(10.005)
    token.schedule(10.9)
    assert token.due_seconds == pytest.approx(10.905), "missed turns are left out"
    token.due_seconds = 11.0
    token.schedule(11.001)
    assert token.due_seconds == pytest.approx(11.1)
    wait_until_idle()


def test_ten_samples_a_second_cost_next_to_nothing() -> None:
    sampler, cgroup = Sampler(), FakeCgroup()
    series = SampleSeries()
    token = sampler.add(cgroup, series, 0.001)
    began, cpu = time.monotonic(), time.process_time()
    while cgroup.count < 200 and time.monotonic() - began < WAIT_SECONDS:
        cgroup.entered.clear()
        assert cgroup.entered.wait(WAIT_SECONDS)
    per_sample = (time.process_time() - cpu) / max(1, cgroup.count)
    sampler.remove(token)
    wait_until_idle()
    assert per_sample * 10 < 0.005, f"{per_sample * 1e6:.0f} µs of CPU for each sample"
