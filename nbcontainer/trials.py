"""What came of an experiment: each trial with its result, as a table for readers, for pandas, and as charts."""

from __future__ import annotations

import dataclasses
import html
import statistics
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from nbcontainer.errors import SpecError
from nbcontainer.events import Usage
from nbcontainer.spec import Limits
from nbcontainer.units import format_size

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from pandas import DataFrame

    from nbcontainer.result import Result

NOT_STARTED = "not started"


@dataclass(frozen=True)
class Trial:
    """One run of an experiment. ``point`` are the options that vary and their values here, as they were given."""

    point: Mapping[str, Any]
    repetition: int
    """From 1 on."""
    result: Result | None
    """None: this host, or Linux, would not have it; ``why_not`` says why."""
    why_not: str = ""

    @property
    def outcome(self) -> str:
        """``Result.outcome``, or ``"not started"``."""
        return self.result.outcome if self.result is not None else NOT_STARTED

    @property
    def verdict(self) -> str:
        """The outcome as a table shows it: an exit code that is not 0 is part of it."""
        result = self.result
        if result is not None and result.outcome == "exited" and result.exit_code:
            return result.error.ename if result.error is not None else f"exit code {result.exit_code}"
        return self.outcome


@dataclass(frozen=True)
class Group:
    """The trials of one point."""

    point: Mapping[str, Any]
    trials: tuple[Trial, ...]

    @property
    def results(self) -> list[Result]:
        return [trial.result for trial in self.trials if trial.result is not None]

    @property
    def label(self) -> str:
        return describe_point(self.point)


@dataclass(frozen=True)
class Sweep:
    """What :func:`nbcontainer.sweep` returns: its trials in the order of the options' values, repetitions together.

    ``len``, indexing and iterating give the trials. In a notebook it is shown as a table, in a terminal as text.
    """

    trials: tuple[Trial, ...]
    varied: Mapping[str, Sequence[Any]]
    """The options that vary, each with all its values."""
    planned: int
    """How many trials there were to be: more than there are, when it was stopped."""
    _groups: tuple[Group, ...] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        found: dict[str, list[Trial]] = {}
        for trial in self.trials:
            found.setdefault(describe_point(trial.point), []).append(trial)
        groups = tuple(Group(trials[0].point, tuple(trials)) for trials in found.values())
        object.__setattr__(self, "_groups", groups)

    def __len__(self) -> int:
        return len(self.trials)

    def __iter__(self) -> Iterator[Trial]:
        return iter(self.trials)

    def __getitem__(self, index: int) -> Trial:
        return self.trials[index]

    @property
    def groups(self) -> tuple[Group, ...]:
        """The trials of each point together."""
        return self._groups

    @property
    def results(self) -> list[Result]:
        """The results of all trials that ran."""
        return [trial.result for trial in self.trials if trial.result is not None]

    def to_pandas(self) -> DataFrame:
        """A row for each trial: what varies, ``repetition``, ``outcome``, ``exit_code``, ``signal``, the limits and the usage.

        Texts that vary are ordered categories, so that ``32M`` sorts and groups before ``128M`` where it was given so.
        """
        from pandas import Categorical, DataFrame

        frame = DataFrame([_row(trial) for trial in self.trials])
        for name, values in self.varied.items():
            if not all(isinstance(value, int | float) and not isinstance(value, bool) for value in values):
                frame[name] = Categorical(frame.get(name, []), [value_text(value) for value in values], ordered=True)
        return frame

    def plot(self) -> Figure:
        """Run time and outcome over what varies, and beside it the curves of memory and CPU of all runs, one over the other."""
        from nbcontainer.notebook.overlay import plot_sweep

        return plot_sweep(self)

    # ---- for readers

    def as_text(self) -> str:
        lines = self._table()
        widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
        table = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines]
        return "\n".join([*table, *self._notes()])

    def __repr__(self) -> str:
        return self.as_text()

    def _repr_html_(self) -> str:
        head, *body = self._table()
        rows = "".join("<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in line) + "</tr>" for line in body)
        notes = "".join(f"<p>{html.escape(note)}</p>" for note in self._notes())
        columns = "".join(f'<th scope="col">{html.escape(name)}</th>' for name in head)
        return f"<table><thead><tr>{columns}</tr></thead><tbody>{rows}</tbody></table>{notes}"

    def _table(self) -> list[tuple[str, ...]]:
        """A line for each point."""
        throttled = any(result.usage.throttled_seconds > 0.01 for result in self.results)
        head = (*self.varied, *(["runs"] if self._repeated else []), "outcome", "run time", "CPU time", "memory peak")
        lines: list[tuple[str, ...]] = [(*head, *(["throttled"] if throttled else []))]
        for group in self.groups:
            usages = [result.usage for result in group.results]
            cells = [value_text(value) for value in group.point.values()]
            cells += [str(len(group.trials))] if self._repeated else []
            cells += [_verdicts(group.trials), _spread([usage.wall_seconds for usage in usages], _seconds)]
            cells += [_spread([usage.cpu_seconds for usage in usages], _seconds)]
            cells += [_spread([usage.memory_peak_bytes for usage in usages], format_size)]
            cells += [_spread([usage.throttled_seconds for usage in usages], _seconds)] if throttled else []
            lines.append(tuple(cells))
        return lines

    @property
    def _repeated(self) -> bool:
        return any(trial.repetition > 1 for trial in self.trials)

    def _notes(self) -> list[str]:
        notes = [f"{group.label}: {group.trials[0].why_not}" for group in self.groups if group.trials[0].why_not]
        if self._repeated:
            notes.append("Numbers are medians, with the least and the most in brackets.")
        if len(self) < self.planned:
            notes.append(f"Stopped after {len(self)} of {self.planned} runs.")
        return notes


def _row(trial: Trial) -> dict[str, Any]:
    result = trial.result
    limits = result.limits if result is not None else Limits()
    usage = result.usage if result is not None else None
    return {
        **{name: value if isinstance(value, int | float) else value_text(value) for name, value in trial.point.items()},
        "repetition": trial.repetition,
        "outcome": trial.outcome,
        "exit_code": result.exit_code if result is not None else None,
        "signal": result.signal if result is not None else None,
        "memory_limit_bytes": limits.memory_bytes,
        "cpus_limit": limits.cpus,
        **{column.name: getattr(usage, column.name, None) for column in dataclasses.fields(Usage)},
    }


def value_text(value: Any) -> str:
    """One value of an option, short: lists and mappings as they are written on the magic's line."""
    if isinstance(value, Mapping):
        return " ".join(f"{name}={item}" for name, item in value.items())
    if isinstance(value, list | tuple | set | frozenset):
        return " ".join(str(item) for item in value)
    return f"{value:g}" if isinstance(value, float) else "none" if value is None else str(value)


def describe_point(point: Mapping[str, Any]) -> str:
    """``mem 64M, cpus 0.5``; of a code, only its name."""
    parts = [value_text(value) if name == "code" else f"{name} {value_text(value)}" for name, value in point.items()]
    return ", ".join(parts) or "all"


def _verdicts(trials: Sequence[Trial]) -> str:
    counts = Counter(trial.verdict for trial in trials)
    if len(counts) == 1:
        return next(iter(counts))
    return ", ".join(f"{count} × {verdict}" for verdict, count in counts.most_common())


def _seconds(seconds: float) -> str:
    return f"{seconds:.2f} s" if seconds >= 0.1 else f"{seconds * 1000:.1f} ms"


def _spread(values: Sequence[float], form: Callable[[float], str]) -> str:
    if not values:
        return "-"
    middle = form(statistics.median(values))
    least, most = form(min(values)), form(max(values))
    if least == most:
        return middle
    unit = " " + middle.rpartition(" ")[2]
    if least.endswith(unit) and most.endswith(unit):
        least, most = least.removesuffix(unit), most.removesuffix(unit)
    return f"{middle} ({least} – {most})"


def name_results(results: Sequence[Result]) -> list[str]:
    """A label for each: its container's name, else the limits in which it differs from the others, else its number."""
    if all(result.spec.name for result in results):
        return [str(result.spec.name) for result in results]
    differing = [
        column.name for column in dataclasses.fields(Limits) if len({getattr(result.spec.limits, column.name) for result in results}) > 1
    ]
    labels = [", ".join(_limit_text(result.spec.limits, name) for name in differing) for result in results]
    return [label if label and labels.count(label) == 1 else ", ".join(filter(None, (label, f"run {number}"))) for number, label in enumerate(labels, 1)]


def _limit_text(limits: Limits, name: str) -> str:
    value = getattr(limits, name)
    option = name.replace("memory_bytes", "mem").removesuffix("_bytes_per_second").removesuffix("_bytes").replace("_", "-")
    return f"{option} {format_size(value) if '_bytes' in name and value is not None else value_text(value)}"


def as_labelled(results: Any, labels: Sequence[str] | None) -> list[tuple[str, list[Result]]]:
    """(label, results that share it) of what :func:`nbcontainer.compare` takes. Raises SpecError."""
    from nbcontainer.result import Result

    if isinstance(results, Sweep):
        found = [(group.label, group.results) for group in results.groups if group.results]
    elif isinstance(results, Mapping):
        found = [(str(name), [result]) for name, result in results.items()]
    elif isinstance(results, Sequence) and not isinstance(results, str):
        listed = list(results)
        known = all(isinstance(result, Result) for result in listed)
        found = [(name, [result]) for name, result in zip(name_results(listed) if known else [""] * len(listed), listed, strict=True)]
    else:
        raise SpecError(f"results: a {type(results).__name__} is neither a Sweep, nor a list of Results, nor a dict of them by label")
    for _, members in found:
        for member in members:
            if not isinstance(member, Result):
                raise SpecError(f"results: there is a {type(member).__name__} among them; all must be Results, as nbcontainer.run returns them")
    if not found:
        raise SpecError("results: there is none to draw")
    if labels is not None:
        if isinstance(labels, str) or len(labels) != len(found):
            raise SpecError(f"labels: give a list of {len(found)}, one for each")
        found = [(str(label), members) for label, (_, members) in zip(labels, found, strict=True)]
    return found
