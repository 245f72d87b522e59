"""Experiments without containers: what is refused, what is to be run, and the table and charts of what came of it."""

from __future__ import annotations

from typing import Any

import pytest

import nbcontainer as nbc
from nbcontainer.cgroups.sampler import SampleSeries
from nbcontainer.events import Sample, Usage
from nbcontainer.result import Result
from nbcontainer.spec import ContainerSpec, Limits
from nbcontainer.trials import Sweep, Trial, describe_point, name_results

MIB = 1 << 20


def make_result(outcome: str = "exited", mem: int = 64, cpus: float | None = None, seconds: float = 1.0, code: int | None = 0) -> Result:
    samples = SampleSeries()
    for index in range(11):
        moment, size = 100 + seconds * index / 10, index * mem * MIB // 12
        samples.append(Sample(moment, size, size, size, 0.4 * seconds * index / 10, 0.0, 0.0, 0.0, 1, 0, 0, 0))
    usage = Usage(wall_seconds=seconds, cpu_seconds=0.4 * seconds, memory_peak_bytes=mem * MIB)
    spec = ContainerSpec(limits=Limits(memory_bytes=mem * MIB, cpus=cpus))
    return Result(outcome, code, None, None, [], usage, samples, spec)  # type: ignore[arg-type]


def make_sweep() -> Sweep:
    trials = [
        Trial({"mem": text, "cpus": cpus}, repetition, make_result("oom" if mem < 64 else "exited", mem, cpus, 0.2 * repetition, None if mem < 64 else 0))
        for text, mem in (("8M", 8), ("32M", 32), ("128M", 128))
        for cpus in (0.5, 1)
        for repetition in (1, 2)
    ]
    trials += [Trial({"mem": "<1M>", "cpus": cpus}, 1, None, "too <small>") for cpus in (0.5, 1)]
    return Sweep(tuple(trials), {"mem": ["8M", "32M", "128M", "<1M>"], "cpus": [0.5, 1]}, 16)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"mem": ["32M", "nonsense"]}, "--mem: 'nonsense' is not a size"),
        ({"mem": []}, "0 runs"),
        ({"mem": ["32M", "32M"]}, "in the list twice"),
        ({"memry": ["32M"]}, "unknown option 'memry'"),
        ({"cpus": [0.5, -1]}, "--cpus"),
        ({"repeat": 0}, "repeat: 0"),
        ({"repeat": True}, "repeat: True"),
        ({"parallel": 65}, "parallel: 65"),
        ({"pids": range(1, 1002)}, "1001 runs"),
    ],
)
def test_what_is_wrong_is_said_before_anything_runs(options: dict[str, Any], text: str) -> None:
    with pytest.raises(nbc.SpecError, match=text):
        nbc.sweep("raise SystemExit('this must not run')", progress=False, **options)


@pytest.mark.parametrize("code", [1, None, {"a": 2}, {3: "x"}])
def test_code_is_text_or_texts_by_name(code: Any) -> None:
    with pytest.raises(nbc.SpecError, match="code"):
        nbc.sweep(code)


def test_table() -> None:
    sweep = make_sweep()
    assert len(sweep) == len(list(sweep)) == 14 and len(sweep.results) == 12
    lines = sweep.as_text().splitlines()
    assert lines[0].split() == ["mem", "cpus", "runs", "outcome", "run", "time", "CPU", "time", "memory", "peak"]
    assert lines[1].split()[:4] == ["8M", "0.5", "2", "oom"] and "0.30 s (0.20 – 0.40)" in lines[1]
    assert "mem <1M>, cpus 0.5: too <small>" in lines
    assert lines[-1] == "Stopped after 14 of 16 runs."
    assert "&lt;1M&gt;" in sweep._repr_html_() and "<1M>" not in sweep._repr_html_()


def test_pandas_keeps_the_order_of_sizes() -> None:
    frame = make_sweep().to_pandas()
    assert frame["mem"].cat.categories.tolist() == ["8M", "32M", "128M", "<1M>"]
    assert frame.groupby("mem", observed=True)["wall_seconds"].median().index.tolist() == ["8M", "32M", "128M", "<1M>"]
    assert frame["cpus"].dtype == "float64"
    assert frame["outcome"].tolist()[-1] == "not started" and frame["outcome"].tolist()[:4] == ["oom"] * 4
    assert frame["memory_limit_bytes"].tolist()[0] == 8 * MIB


def test_charts() -> None:
    found, memory, cpu = make_sweep().plot().axes
    assert found.get_xlabel() == "--mem" and found.get_xscale() == "linear", "<1M> is no size: one after the other"
    assert [text.get_text() for text in found.get_xticklabels()] == ["8M", "32M", "128M", "<1M>"]
    legend = [text.get_text() for text in found.get_legend().get_texts()]
    assert legend == ["out of memory", "exit code 0", "not started", "cpus 0.5", "cpus 1"]
    assert len([line for line in memory.lines if len(line.get_xdata()) == 11]) == 12
    assert cpu.get_ylabel() == "CPU (% of a core)"


def test_an_empty_experiment_has_no_chart() -> None:
    with pytest.raises(nbc.SpecError, match="no run"):
        Sweep((), {}, 3).plot()


def test_compare_overlays_with_labels() -> None:
    results = [make_result(mem=32, seconds=0.5), make_result(mem=64, cpus=0.5)]
    assert name_results(results) == ["mem 32 MiB, cpus none", "mem 64 MiB, cpus 0.5"]
    figure = nbc.compare(results, labels=["victim", "neighbour"])
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["victim", "neighbour"]
    curve = next(line for line in figure.axes[0].lines if line.get_label() == "neighbour")
    assert curve.get_xdata()[-1] == pytest.approx(1.0) and max(curve.get_ydata()) == pytest.approx(64 * 10 / 12, rel=0.01)
    by_name = nbc.compare({"a": results[0], "b": results[1]}, same_clock=True)
    assert [text.get_text() for text in by_name.legends[0].get_texts()] == ["a", "b"]
    assert nbc.compare(make_sweep()).axes


def test_results_that_do_not_differ_are_numbered() -> None:
    assert name_results([make_result(), make_result()]) == ["run 1", "run 2"]


@pytest.mark.parametrize(
    ("results", "labels", "text"),
    [
        ([], None, "none to draw"),
        ({}, None, "none to draw"),
        (7, None, "a int is neither"),
        ("text", None, "a str is neither"),
        ([1, 2], None, "a int among them"),
        ([make_result()], ["a", "b"], "list of 1"),
        ([make_result()], "a", "list of 1"),
    ],
)
def test_compare_refuses_what_is_no_result(results: Any, labels: Any, text: str) -> None:
    with pytest.raises(nbc.SpecError, match=text):
        nbc.compare(results, labels)


def test_points_in_words() -> None:
    assert describe_point({"mem": "64M", "cpus": 0.5, "cpuset": None}) == "mem 64M, cpus 0.5, cpuset none"
    assert describe_point({"code": "slow", "env": {"A": 1}}) == "slow, env A=1"
    assert describe_point({}) == "all"
