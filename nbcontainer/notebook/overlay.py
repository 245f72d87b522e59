"""Charts of several runs in one: their curves over each other, and what an experiment found. matplotlib without pyplot."""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from nbcontainer.errors import SpecError
from nbcontainer.notebook.figure import GREY, MIB, VERMILION, cpu_rates
from nbcontainer.trials import NOT_STARTED, Group, Sweep, Trial, describe_point, value_text
from nbcontainer.units import format_size, parse_size

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from nbcontainer.result import Result

# Okabe and Ito's palette without yellow, which is too faint for lines on white; dashes differ too.
_COLOURS = ("#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9", "#000000")
_DASHES: tuple[Any, ...] = ("-", (0, (5, 2)), (0, (1, 1.5)), (0, (6, 2, 1, 2)))
_MOST_NAMED = 12
"""Labels in a legend."""
_ENDS = {
    "exited": ("o", "#009E73", "exit code 0"),
    "failed": ("s", "#E69F00", "failed"),
    "oom": ("X", VERMILION, "out of memory"),
    "timeout": ("^", "#CC79A7", "timeout"),
    NOT_STARTED: ("x", "#000000", "not started"),
}
_OTHER_END = ("D", GREY, "ended from outside")
_SIZES = frozenset("mem memory_high swap disk max_output io_read io_write".split())


def plot_overlay(groups: Sequence[tuple[str, Sequence[Result]]], *, same_clock: bool = False) -> Figure:
    """Memory in MiB and CPU in percent of a core over seconds; runs of one group share colour and label."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8.0, 4.0), dpi=100, layout="constrained")
    memory, cpu = figure.subplots(2, 1, sharex=True, height_ratios=(3, 2))
    _overlay(memory, cpu, groups, _styles(len(groups)), same_clock)
    figure.legend(*_named(memory), loc="outside right upper", fontsize=8, frameon=False)
    return figure


def _overlay(memory: Axes, cpu: Axes, groups: Sequence[tuple[str, Sequence[Result]]], styles: Sequence[dict[str, Any]], same_clock: bool) -> None:
    zero = min((result.samples.columns()["monotonic_seconds"][0] for _, results in groups for result in results if len(result.samples)), default=0.0)
    limits = {result.spec.limits.memory_bytes for _, results in groups for result in results}
    top = 1.0
    for (label, results), style in zip(groups, styles, strict=True):
        for number, result in enumerate(results):
            columns = result.samples.columns()
            moments = columns["monotonic_seconds"]
            if not moments:
                continue
            begin = zero if same_clock else moments[0]
            seconds = [moment - begin for moment in moments]
            usage = [value / MIB for value in columns["memory_bytes"]]
            faint = {**style, "alpha": 0.9 if len(results) == 1 else 0.6, "linewidth": 1.6 if len(results) == 1 else 1.1}
            memory.plot(seconds, usage, label=f"_{label}" if number else label, **faint)
            if result.outcome == "oom":
                memory.plot(seconds[-1:], [result.usage.memory_peak_bytes / MIB], marker="X", markersize=8, linestyle="", color=style["color"])
            cpu.plot(*cpu_rates(seconds, columns["cpu_seconds"]), **faint)
            top = max(top, *usage, result.usage.memory_peak_bytes / MIB)
    colours = [style["color"] for style in styles]
    top = _draw_limits(memory, cpu, groups, colours, top, one=len(limits) == 1)
    memory.set_ylim(0, top * 1.1)
    cpu.set_ylim(bottom=0)
    memory.set_ylabel("memory (MiB)")
    cpu.set_ylabel("CPU (% of a core)")
    cpu.set_xlabel("seconds" + (" since the first start" if same_clock else " since each start"))
    _tidy((memory, cpu))


def _draw_limits(
    memory: Axes, cpu: Axes, groups: Sequence[tuple[str, Sequence[Result]]], colours: Sequence[Any], top: float, *, one: bool
) -> float:
    """Limits in the colour of their runs; a common one in red. One far above the curves would press them flat."""
    drawn: set[tuple[bool, float]] = set()
    highest = top
    for (_, results), colour in zip(groups, colours, strict=True):
        for limits in (result.spec.limits for result in results):
            mebibytes, percent = (limits.memory_bytes or 0) / MIB, 100 * (limits.cpus or 0.0)
            if 0 < mebibytes <= 4 * top and (True, mebibytes) not in drawn:
                drawn.add((True, mebibytes))
                highest = max(highest, mebibytes)
                memory.axhline(mebibytes, color=VERMILION if one else colour, linestyle="--", linewidth=0.9, alpha=0.8)
                text, place = f"limit {format_size(mebibytes * MIB)}", ("axes fraction", "data")
                memory.annotate(text, (1, mebibytes), (-4, 2), xycoords=place, textcoords="offset points", ha="right", fontsize=7, color=GREY)
            if percent and (False, percent) not in drawn:
                drawn.add((False, percent))
                cpu.axhline(percent, color=GREY, linestyle="--", linewidth=0.9, alpha=0.8)
    return highest


def _styles(count: int) -> list[dict[str, Any]]:
    """Colour and dashes for each; of many, a scale from dark to bright in their order."""
    if count <= len(_COLOURS):
        return [{"color": colour, "linestyle": dash} for colour, dash in zip(_COLOURS[:count], itertools.cycle(_DASHES), strict=False)]
    from matplotlib import colormaps

    scale = colormaps["cividis"]
    return [{"color": scale(0.92 * index / (count - 1)), "linestyle": "-"} for index in range(count)]


def _named(axes: Axes) -> tuple[list[Any], list[str]]:
    handles, labels = axes.get_legend_handles_labels()
    if len(labels) > _MOST_NAMED:
        kept = sorted({round(index * (len(labels) - 1) / (_MOST_NAMED - 1)) for index in range(_MOST_NAMED)})
        return [handles[index] for index in kept], [labels[index] for index in kept]
    return handles, labels


def _tidy(all_axes: Iterable[Axes]) -> None:
    for axes in all_axes:
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)


# ---- an experiment


def plot_sweep(sweep: Sweep) -> Figure:
    """Run time and outcome over the first option that varies; memory and CPU of all runs beside it. Raises SpecError."""
    from matplotlib.figure import Figure

    if not sweep.trials:
        raise SpecError("plot: there is no run to draw")
    figure = Figure(figsize=(10.5, 4.4), dpi=100, layout="constrained")
    grid = figure.add_gridspec(2, 2, width_ratios=(4, 5), height_ratios=(3, 2))
    found = figure.add_subplot(grid[:, 0])
    memory = figure.add_subplot(grid[0, 1])
    cpu = figure.add_subplot(grid[1, 1], sharex=memory)
    _draw_found(found, sweep)
    groups = [group for group in sweep.groups if group.results]
    _overlay(memory, cpu, [(group.label, group.results) for group in groups], _styles_of(groups, sweep), False)
    handles, labels = _named(memory)
    if len(labels) > 1:
        figure.legend(handles, labels, loc="outside right upper", fontsize=8, frameon=False)
    return figure


def _styles_of(groups: Sequence[Group], sweep: Sweep) -> list[dict[str, Any]]:
    """A colour for each value of the first option that varies, dashes for those of the others."""
    name = next(iter(sweep.varied), None)
    if name is None or len(sweep.varied) == 1:
        return _styles(len(groups))
    colours = dict(zip(map(value_text, sweep.varied[name]), (style["color"] for style in _styles(len(sweep.varied[name]))), strict=True))
    rests = list(dict.fromkeys(_rest(group, name) for group in groups))
    return [
        {"color": colours[value_text(group.point[name])], "linestyle": _DASHES[rests.index(_rest(group, name)) % len(_DASHES)]}
        for group in groups
    ]


def _rest(group: Group, name: str | None) -> str:
    rest = {key: value for key, value in group.point.items() if key != name}
    return describe_point(rest) if rest else ""


def _draw_found(axes: Axes, sweep: Sweep) -> None:
    name = next(iter(sweep.varied), None)
    values = list(sweep.varied[name]) if name is not None else [""]
    places, numeric = _places(name, values)
    where = dict(zip(map(value_text, values), places, strict=True))
    others: dict[str, list[Group]] = {}
    for group in sweep.groups:
        others.setdefault(_rest(group, name), []).append(group)

    def place(group: Group) -> float:
        return where[value_text(group.point[name])] if name is not None else 0.0

    for (label, groups), style in zip(others.items(), _styles(len(others)), strict=True):
        known = [(place(group), statistics.median(result.usage.wall_seconds for result in group.results)) for group in groups if group.results]
        if known:
            axes.plot(*zip(*sorted(known), strict=True), label=label, alpha=0.8, linewidth=1.4, **style)
        for group in groups:
            for trial in group.trials:
                marker, colour, _ = _end(trial)
                seconds = trial.result.usage.wall_seconds if trial.result is not None else 0.0
                axes.plot([place(group)], [seconds], marker=marker, color=colour, markersize=7, linestyle="", clip_on=False, zorder=3)
    if numeric and min(places) > 0 and max(places) / min(places) >= 4:
        axes.set_xscale("log", base=2)
    axes.minorticks_off()
    axes.set_xticks(places, [value_text(value) for value in values], rotation=0 if len(values) <= 8 else 45)
    axes.set_xlabel(f"--{name.replace('_', '-')}" if name and name != "code" else name or "")
    axes.set_ylim(bottom=0)
    axes.set_ylabel("run time (s)")
    axes.set_title("outcome and run time", fontsize=10)
    _tidy((axes,))
    _legends(axes, sweep, len(others) > 1)


def _legends(axes: Axes, sweep: Sweep, several: bool) -> None:
    from matplotlib.lines import Line2D

    ends = dict.fromkeys(_end(trial) for trial in sweep.trials)
    handles: list[Any] = [Line2D([], [], marker=marker, color=colour, linestyle="", label=text) for marker, colour, text in ends]
    if several:
        handles += _named(axes)[0]
    axes.legend(handles=handles, fontsize=8, frameon=True, framealpha=0.8, loc="best")


def _places(name: str | None, values: Sequence[Any]) -> tuple[list[float], bool]:
    """Where values go on the axis, and whether that is their size: else one after the other."""
    try:
        numbers = [float(parse_size(value)) if name in _SIZES else float(value) for value in values]
    except (SpecError, TypeError, ValueError):
        return [float(index) for index in range(len(values))], False
    return numbers, True


def _end(trial: Trial) -> tuple[str, str, str]:
    outcome = trial.outcome
    if outcome == "exited" and trial.result is not None and not trial.result.ok:
        outcome = "failed"
    return _ENDS.get(outcome, _OTHER_END)
