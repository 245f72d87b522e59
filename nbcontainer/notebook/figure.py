"""The chart that stays: memory and CPU of one run, with its limits and its end. matplotlib without pyplot."""

from __future__ import annotations

import base64
import io
from typing import TYPE_CHECKING, Any

from nbcontainer.spec import format_size

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from nbcontainer.container import Result

MIB = 1 << 20
# Okabe and Ito's palette, which colour-blind readers can tell apart.
BLUE, ORANGE, GREEN, VERMILION, GREY = "#0072B2", "#E69F00", "#009E73", "#D55E00", "#666666"
_TITLES = {
    "oom": "killed: out of memory",
    "timeout": "killed: timeout",
    "signalled": "ended by a signal",
    "interrupted": "interrupted",
    "output-limit": "killed: too much output",
    "killed": "killed on request",
}


def title(result: Result) -> str:
    """The outcome in a few words: ``killed: out of memory at 128 MiB after 0.61 s``."""
    what = _TITLES.get(result.outcome, f"exit code {result.exit_code}")
    limit = result.spec.limits.memory_bytes
    where = f" at {format_size(limit)}" if result.outcome == "oom" and limit else ""
    return f"{what}{where} after {result.usage.wall_seconds:.2f} s"


def alt_text(result: Result) -> str:
    """The chart for those who cannot see it."""
    limit = result.spec.limits.memory_bytes
    of = f" of {format_size(limit)}" if limit else ""
    return (
        f"Memory and CPU over time: {title(result)}; memory peak {format_size(result.usage.memory_peak_bytes)}{of}, "
        f"CPU {result.usage.cpu_seconds:.2f} s."
    )


def plot_result(result: Result) -> Figure:
    """Two panels over seconds since the start: memory in MiB, CPU in percent of one core."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 3.6), dpi=100, layout="constrained")
    FigureCanvasAgg(figure)
    memory, cpu = figure.subplots(2, 1, sharex=True, height_ratios=(3, 2))
    columns = result.samples.columns()
    start = columns["monotonic_seconds"][0] if columns["monotonic_seconds"] else 0.0
    seconds = [moment - start for moment in columns["monotonic_seconds"]]
    _draw_memory(memory, seconds, columns, result)
    _draw_cpu(cpu, seconds, columns, result)
    figure.suptitle(title(result), fontsize=11)
    for axes in (memory, cpu):
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
    cpu.set_xlabel("seconds")
    return figure


def _draw_memory(axes: Any, seconds: list[float], columns: dict[str, list[float]], result: Result) -> None:
    usage = [value / MIB for value in columns["memory_bytes"]]
    working_set = [value / MIB for value in columns["working_set_bytes"]]
    axes.fill_between(seconds, usage, color=BLUE, alpha=0.15, linewidth=0)
    axes.plot(seconds, usage, color=BLUE, label="usage")
    axes.plot(seconds, working_set, color=GREEN, linestyle=":", label="working set")
    top = max([*usage, result.usage.memory_peak_bytes / MIB, 1.0])
    limits = result.spec.limits
    if limits.memory_high_bytes:
        axes.axhline(limits.memory_high_bytes / MIB, color=ORANGE, linestyle="-.", label="memory-high")
    # A limit far above the curve would press it flat; the title of the axis names it then.
    if limits.memory_bytes and limits.memory_bytes / MIB <= 4 * top:
        top = max(top, limits.memory_bytes / MIB)
        axes.axhline(limits.memory_bytes / MIB, color=VERMILION, linestyle="--", label=f"limit {format_size(limits.memory_bytes)}")
    if seconds:
        peak = result.usage.memory_peak_bytes / MIB
        if result.outcome == "oom":
            axes.plot([seconds[-1]], [peak], color=VERMILION, marker="X", markersize=9, linestyle="", label="out of memory")
        else:
            axes.axhline(peak, color=GREY, linewidth=0.8, linestyle=":", label=f"peak {format_size(result.usage.memory_peak_bytes)}")
    axes.set_ylim(0, top * 1.12)
    axes.set_ylabel("memory (MiB)")
    axes.legend(loc="lower right", fontsize=8, framealpha=0.8)


def _rates(seconds: list[float], counter: list[float]) -> tuple[list[float], list[float]]:
    """(times, percent of one core) between readings that are far enough apart to mean something."""
    times: list[float] = []
    rates: list[float] = []
    last = 0
    for index in range(1, len(seconds)):
        width = seconds[index] - seconds[last]
        if width >= 0.02 or index == len(seconds) - 1:
            if width > 0:
                times += [seconds[last], seconds[index]]
                rates += [100 * (counter[index] - counter[last]) / width] * 2
            last = index
    return times, rates


def _draw_cpu(axes: Any, seconds: list[float], columns: dict[str, list[float]], result: Result) -> None:
    times, percent = _rates(seconds, columns["cpu_seconds"])
    axes.plot(times, percent, color=BLUE, label="CPU")
    throttled_times, throttled = _rates(seconds, columns["throttled_seconds"])
    if any(throttled):
        axes.fill_between(throttled_times, throttled, color=ORANGE, alpha=0.3, linewidth=0, label="throttled")
    top = max([*percent, *throttled, 10.0])
    if result.spec.limits.cpus:
        quota = 100 * result.spec.limits.cpus
        axes.axhline(quota, color=VERMILION, linestyle="--", label=f"quota {quota:g} %")
        top = max(top, quota)
    axes.set_ylim(0, top * 1.15)
    axes.set_ylabel("CPU (% of a core)")
    axes.legend(loc="upper right", fontsize=8, framealpha=0.8)


def png(result: Result) -> str:
    """The chart as a PNG, base64-encoded as Jupyter carries it."""
    buffer = io.BytesIO()
    plot_result(result).savefig(buffer, format="png")
    return base64.b64encode(buffer.getvalue()).decode("ascii")
