"""The chart that stays: memory and CPU of one run, with its limits and its end. matplotlib without pyplot."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from nbcontainer.events import Changed, Paused, Resumed, Usage, limited_from_outside
from nbcontainer.spec import ContainerSpec, Limits
from nbcontainer.units import format_size

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from nbcontainer.result import Result

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
    if result.goes_on and not result.spec.program and result.outcome in ("timeout", "output-limit"):
        what = what.replace("killed", "interrupted")
    limit, peak = result.limits.memory_bytes, result.usage.memory_peak_bytes
    where = f" at {format_size(peak if limited_from_outside(peak, limit) else limit)}" if result.outcome == "oom" and limit else ""
    return f"{what}{where} after {result.usage.wall_seconds:.2f} s"


def alt_text(result: Result) -> str:
    """The chart for those who cannot see it."""
    limit = result.limits.memory_bytes
    of = f" of {format_size(limit)}" if limit else ""
    high = result.limits.memory_high_bytes
    of += f" (memory-high {format_size(high)})" if high else ""
    usage = result.usage
    killed = "; a child was killed for memory" if usage.oom_kills and result.outcome != "oom" else ""
    throttled = f", throttled for {usage.throttled_seconds:.2f} s" if usage.throttled_seconds >= 0.01 else ""
    return (
        f"Memory and CPU over time: {title(result)}; memory peak {format_size(usage.memory_peak_bytes)}{of}, "
        f"CPU {usage.cpu_seconds:.2f} s{throttled}{killed}."
    )


def caption(result: Result) -> dict[str, str]:
    """The same as a MIME bundle, to stand below the chart."""
    text = alt_text(result)
    return {"text/html": f'<p style="margin:0;font-size:12px;opacity:.75">{html.escape(text)}</p>', "text/plain": text}


def plot_result(result: Result) -> Figure:
    """Two panels over seconds since the start: memory in MiB, CPU in percent of one core."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    # A layout engine would draw everything twice to find what is known here.
    figure = Figure(figsize=(8.0, 3.8), dpi=100)
    FigureCanvasAgg(figure)
    memory, cpu = figure.subplots(2, 1, sharex=True, height_ratios=(3, 2))
    figure.subplots_adjust(left=0.085, right=0.755, top=0.91, bottom=0.125, hspace=0.1)
    columns = result.samples.columns()
    start = columns["monotonic_seconds"][0] if columns["monotonic_seconds"] else 0.0
    seconds = [moment - start for moment in columns["monotonic_seconds"]]
    _draw_memory(memory, seconds, columns, result, start)
    _draw_cpu(cpu, seconds, columns, result, start)
    figure.suptitle(title(result), fontsize=11, x=0.42, y=0.975)
    for axes in (memory, cpu):
        _draw_pauses(axes, result, start)
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
    # Legends last, when all is there that they name.
    for axes in (memory, cpu):
        axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.03), fontsize=8, frameon=False)
    cpu.set_xlabel("seconds")
    return figure


def warm_up() -> None:
    """Draw for nobody: a process's first figure takes half a second, of which importing is but a part; later ones a tenth."""
    from nbcontainer.cgroups.sampler import SampleSeries
    from nbcontainer.result import Result

    nothing = Result("exited", 0, None, None, [], Usage(), SampleSeries(), ContainerSpec(limits=Limits(memory_bytes=MIB, cpus=1.0)))
    png(nothing)


def _limit_steps(result: Result, start: float, of: Callable[[Limits], float | None]) -> list[tuple[float, float | None]]:
    """(seconds, limit from then on): the limit at the start, and its changes."""
    steps = [(0.0, of(result.spec.limits))]
    for change in result.changes:
        if isinstance(change, Changed) and of(change.limits) != steps[-1][1]:
            steps.append((change.monotonic_seconds - start, of(change.limits)))
    return steps


def _draw_limit(axes: Any, steps: list[tuple[float, float | None]], end: float, **style: Any) -> None:
    """A line across, or with steps where the limit was changed."""
    if len(steps) == 1:
        axes.axhline(steps[0][1], **style)
        return
    times = [time for time, _ in steps] + [max(end, steps[-1][0])]
    values = [float("nan") if value is None else value for _, value in steps]
    axes.step(times, [*values, values[-1]], where="post", **style)


def _draw_pauses(axes: Any, result: Result, start: float) -> None:
    begin: float | None = None
    label: str | None = "paused"
    for change in result.changes:
        if isinstance(change, Paused):
            begin = change.monotonic_seconds
        elif isinstance(change, Resumed) and begin is not None:
            axes.axvspan(begin - start, change.monotonic_seconds - start, color=GREY, alpha=0.18, linewidth=0, label=label)
            begin, label = None, None
    if begin is not None:
        axes.axvspan(begin - start, result.usage.wall_seconds, color=GREY, alpha=0.18, linewidth=0, label=label)


def _draw_memory(axes: Any, seconds: list[float], columns: dict[str, list[float]], result: Result, start: float) -> None:
    usage = [value / MIB for value in columns["memory_bytes"]]
    working_set = [value / MIB for value in columns["working_set_bytes"]]
    end = seconds[-1] if seconds else 0.0
    axes.fill_between(seconds, usage, color=BLUE, alpha=0.15, linewidth=0)
    axes.plot(seconds, usage, color=BLUE, label="usage")
    axes.plot(seconds, working_set, color=GREEN, linestyle=":", label="working set")
    top = max([*usage, result.usage.memory_peak_bytes / MIB, 1.0])
    high = _limit_steps(result, start, lambda limits: limits.memory_high_bytes and limits.memory_high_bytes / MIB)
    if any(value for _, value in high):
        _draw_limit(axes, high, end, color=ORANGE, linestyle="-.", label="memory-high")
    limit = _limit_steps(result, start, lambda limits: limits.memory_bytes and limits.memory_bytes / MIB)
    # A limit far above the curve would press it flat; the legend names it then.
    near = [value for _, value in limit if value and value <= 4 * top]
    label = " → ".join(format_size(value * MIB) if value else "none" for _, value in limit[-2:])
    if near:
        top = max(top, *near)
        _draw_limit(axes, limit, end, color=VERMILION, linestyle="--", label=f"limit {label}")
    elif any(value for _, value in limit):
        axes.plot([], [], color=VERMILION, linestyle="--", label=f"limit {label} ↑")
    if seconds:
        peak = result.usage.memory_peak_bytes / MIB
        kills = _kills(seconds, columns["oom_kills"])
        if result.outcome == "oom":
            axes.plot([end], [peak], color=VERMILION, marker="X", markersize=9, linestyle="", label="out of memory")
        else:
            axes.axhline(peak, color=GREY, linewidth=0.8, linestyle=":", label=f"peak {format_size(result.usage.memory_peak_bytes)}")
            if kills:
                axes.plot(kills, [peak] * len(kills), color=VERMILION, marker="X", linestyle="", label="a child was killed")
    axes.set_ylim(0, top * 1.12)
    axes.set_ylabel("memory (MiB)")


def _kills(seconds: list[float], counter: list[float]) -> list[float]:
    """When processes were killed for memory."""
    return [seconds[index] for index in range(1, len(seconds)) if counter[index] > counter[index - 1]]


def cpu_rates(seconds: list[float], counter: list[float], least_seconds: float = 0.02) -> tuple[list[float], list[float]]:
    """(times, percent of one core) between readings that are far enough apart to mean something."""
    times: list[float] = []
    rates: list[float] = []
    last = 0
    for index in range(1, len(seconds)):
        width = seconds[index] - seconds[last]
        if width >= least_seconds or index == len(seconds) - 1:
            if width > 0:
                times += [seconds[last], seconds[index]]
                rates += [100 * (counter[index] - counter[last]) / width] * 2
            last = index
    return times, rates


def _draw_cpu(axes: Any, seconds: list[float], columns: dict[str, list[float]], result: Result, start: float) -> None:
    times, percent = cpu_rates(seconds, columns["cpu_seconds"])
    axes.plot(times, percent, color=BLUE, label="CPU")
    throttled_times, throttled = cpu_rates(seconds, columns["throttled_seconds"], 0.1)  # the period of the quota
    if any(throttled):
        axes.fill_between(throttled_times, throttled, color=ORANGE, alpha=0.3, linewidth=0, label="throttled")
    top = max([*percent, 10.0])
    steps = _limit_steps(result, start, lambda limits: limits.cpus and 100 * limits.cpus)
    quotas = [value for _, value in steps if value]
    if quotas:
        label = " → ".join(f"{value:g} %" if value else "none" for _, value in steps[-2:])
        _draw_limit(axes, steps, seconds[-1] if seconds else 0.0, color=VERMILION, linestyle="--", label=f"quota {label}")
        top = max(top, *quotas)
    axes.set_ylim(0, top * 1.15)
    axes.set_ylabel("CPU (% of a core)")


def png(result: Result) -> str:
    """The chart as a PNG, base64-encoded as Jupyter carries it."""
    buffer = io.BytesIO()
    # In the file too, for whoever takes the picture out of the notebook.
    plot_result(result).savefig(buffer, format="png", metadata={"Description": alt_text(result)})
    return base64.b64encode(buffer.getvalue()).decode("ascii")


def plot_comparison(names: list[str], seconds: list[float], memory_bytes: list[int]) -> Figure:
    """Two bar charts side by side; logarithmic, because a virtual machine dwarfs the others."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8.0, 2.6), dpi=100, layout="constrained")
    panels: tuple[tuple[str, list[float], Callable[[float], str]], ...] = (
        ("time of one run", [value * 1000 for value in seconds], lambda value: f"{value:.0f} ms"),
        ("memory", [float(value) for value in memory_bytes], format_size),
    )
    for axes, (heading, values, label) in zip(figure.subplots(1, 2), panels, strict=True):
        bars = axes.barh(names, values, color=[BLUE, GREEN, ORANGE][: len(names)])
        axes.bar_label(bars, [label(value) for value in values], padding=3)
        axes.set_xscale("log")
        axes.set_xlim(right=max(values, default=1.0) * 6)
        axes.set_xticks([])
        axes.minorticks_off()
        axes.set_title(heading, fontsize=10)
        axes.invert_yaxis()
        axes.spines[["top", "right", "bottom"]].set_visible(False)
    return figure
