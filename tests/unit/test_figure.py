"""The chart of a run: what it shows, and that it leaves matplotlib's global state alone."""

from __future__ import annotations

import base64
import subprocess
import sys
from dataclasses import replace

import pytest

from nbcontainer.cgroups.sampler import SampleSeries
from nbcontainer.events import Sample, Usage
from nbcontainer.notebook.figure import alt_text, plot_result, png, title
from nbcontainer.result import Result
from nbcontainer.spec import ContainerSpec, Limits

MIB = 1 << 20


def _sample(index: int) -> Sample:
    return Sample(10 + index * 0.05, index * 8 * MIB, index * 7 * MIB, index * 8 * MIB, index * 0.02, 0, 0, index * 0.01, 1, 0, 0, 0)


def _result(count: int = 16, outcome: str = "oom") -> Result:
    series = SampleSeries()
    for index in range(count):
        series.append(_sample(index))
    usage = Usage(wall_seconds=0.8, cpu_seconds=0.3, memory_peak_bytes=128 * MIB, oom_kills=1)
    spec = ContainerSpec(limits=Limits(memory_bytes=128 * MIB, cpus=0.5, memory_high_bytes=100 * MIB))
    return Result(outcome, None, 9, None, [], usage, series, spec)  # type: ignore[arg-type]


def test_limits_curves_and_the_end_are_in_it() -> None:
    figure = plot_result(_result())
    memory, cpu = figure.axes
    labels = [text.get_text() for text in memory.get_legend().get_texts()]
    assert {"usage", "working set", "memory-high", "limit 128 MiB", "out of memory"} <= set(labels)
    assert "quota 50 %" in [text.get_text() for text in cpu.get_legend().get_texts()]
    usage = next(line for line in memory.lines if line.get_label() == "usage")
    assert list(usage.get_ydata())[:3] == [0, 8, 16]
    assert list(usage.get_xdata())[1] == pytest.approx(0.05)


def test_a_limit_far_above_the_curve_is_named_and_does_not_press_it_flat() -> None:
    result = _result(outcome="exited")
    memory = plot_result(replace(result, spec=ContainerSpec(limits=Limits(memory_bytes=2 << 30)))).axes[0]
    assert "limit 2 GiB ↑" in [text.get_text() for text in memory.get_legend().get_texts()] and memory.get_ylim()[1] < 150


@pytest.mark.parametrize("count", [0, 1, 2])
def test_short_runs_have_a_chart_too(count: int) -> None:
    assert base64.b64decode(png(_result(count))).startswith(b"\x89PNG")


@pytest.mark.parametrize("outcome", ["oom", "timeout", "exited", "signalled", "interrupted", "killed", "output-limit"])
def test_title_and_alternative_text(outcome: str) -> None:
    result = _result(outcome=outcome)
    assert "0.80 s" in title(result)
    assert title(result) in alt_text(result)
    assert ("a child was killed for memory" in alt_text(result)) == (outcome != "oom"), "it did not end the cell"


def test_no_name_in_the_legend_is_cut_off() -> None:
    series = SampleSeries()
    for index in range(16):
        series.append(replace(_sample(index), oom_kills=index // 8))
    figure = plot_result(replace(_result(outcome="exited"), samples=series))
    figure.canvas.draw()
    texts = [text for axes in figure.axes for text in axes.get_legend().get_texts()]
    assert "a child was killed" in [text.get_text() for text in texts]
    assert max(text.get_window_extent().x1 for text in texts) <= figure.bbox.width


def test_pyplot_stays_out() -> None:
    code = "import sys, nbcontainer.notebook.figure as f; import matplotlib.figure; print('matplotlib.pyplot' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"
