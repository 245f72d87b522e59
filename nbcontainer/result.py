"""What came of a run: a Result, and the collector that folds events into one."""

from __future__ import annotations

import os
import signal
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from nbcontainer.cgroups.sampler import SampleSeries
from nbcontainer.errors import HostError, InternalError
from nbcontainer.events import (
    CellError,
    Changed,
    Display,
    Event,
    Finished,
    OutcomeName,
    Output,
    Paused,
    Resumed,
    Sample,
    Started,
    Usage,
    limited_from_outside,
)
from nbcontainer.lines import nothing_follows, quote_line
from nbcontainer.spec import ContainerSpec, Limits
from nbcontainer.units import format_size

if TYPE_CHECKING:
    from matplotlib.figure import Figure

IN_MEMORY_BYTES = 1 << 20
READ_BYTES = 1 << 24
SMALLEST_USEFUL_MIB = 16
MAX_KEPT_DISPLAY_BYTES = 64 << 20
KEPT_DISPLAY_BYTES, SHOWN_DISPLAY_BYTES = 500, 100
"""What even an empty display takes: in this process's memory, and on its way to a front end."""
OnEvent = Callable[[Event], None]


class Text(Protocol):
    """Where a stream's text goes, and where a Result has it from."""

    def write(self, text: str) -> None: ...

    def text(self) -> str: ...


class Spool:
    """Text of any length: in memory while it is short, in an unnamed temporary file when it grows."""

    def __init__(self) -> None:
        self._memory = bytearray()
        self._fd = -1

    def write(self, text: str) -> None:
        self._memory += text.encode("utf-8", "replace")
        if len(self._memory) > IN_MEMORY_BYTES:
            self._spill()

    def _spill(self) -> None:
        """Raises HostError where there is no room."""
        data = memoryview(bytes(self._memory))
        try:
            if self._fd < 0:
                fd, path = tempfile.mkstemp(prefix="nbcontainer-")
                os.unlink(path)
                self._fd = fd
            while data:
                data = data[os.write(self._fd, data) :]
        except OSError as error:
            raise HostError(
                f"the cell's output cannot be kept in {tempfile.gettempdir()}: {error.strerror}",
                "free space there, or choose another directory before the notebook starts: export TMPDIR=...",
            ) from error
        self._memory.clear()

    def text(self) -> str:
        """All of it. Raises OSError where the temporary file cannot be read."""
        spilled = b""
        if self._fd >= 0:
            size = os.fstat(self._fd).st_size
            spilled = b"".join(os.pread(self._fd, READ_BYTES, offset) for offset in range(0, size, READ_BYTES))
        return (spilled + self._memory).decode("utf-8")

    def __del__(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)


@dataclass(frozen=True)
class Result:
    """What came of a run. ``stdout`` and ``stderr`` are complete, also beyond what ``--max-output`` showed."""

    outcome: OutcomeName
    exit_code: int | None
    signal: int | None
    error: CellError | None
    outputs: list[dict[str, Any]]
    """MIME bundles of displays and of the last expression, in order."""
    usage: Usage
    samples: SampleSeries
    spec: ContainerSpec
    note: str = ""
    pid: int | None = None
    """Process id of the cell process as this host saw it."""
    changes: tuple[Paused | Resumed | Changed, ...] = ()
    """Pauses and changes of limits while it ran, in order; ``spec.limits`` are those at the start."""
    memory_by_kind: Mapping[str, int] = field(default_factory=dict)
    """Bytes of anon, file and shmem memory at the last reading before it was short."""
    killed: tuple[str, ...] = ()
    """Processes that were killed for memory, as far as Linux's log says."""
    goes_on: bool = False
    """Only a cell or a process in it has ended: the container runs on."""
    line: str = ""
    """Out of memory: ``3: data = bytearray(200_000_000)``, the line of the code that the cell was last seen at, where it was seen."""
    line_is_certain: bool = False
    """It was killed at that very line: nothing of the code can have run after it. Else it may have gone on from there."""
    values: dict[str, Any] = field(default_factory=dict)
    """The variables that came out (``output``), by name."""
    missing: dict[str, str] = field(default_factory=dict)
    """Those that did not, each with the reason."""
    _stdout: Text = field(default_factory=Spool, repr=False)
    _stderr: Text = field(default_factory=Spool, repr=False)

    @property
    def stdout(self) -> str:
        return self._stdout.text()

    @property
    def stderr(self) -> str:
        return self._stderr.text()

    @property
    def ok(self) -> bool:
        """The cell ended by itself, with exit code 0, and all variables that were asked for came out."""
        return self.outcome == "exited" and self.exit_code == 0 and not self.missing

    @property
    def status_code(self) -> int:
        """As shells and ``docker wait`` have it: the exit code, or 128 and the signal."""
        return self.exit_code if self.exit_code is not None else 128 + (self.signal or 0)

    @property
    def limits(self) -> Limits:
        """The limits at the end."""
        return next((change.limits for change in reversed(self.changes) if isinstance(change, Changed)), self.spec.limits)

    def describe(self) -> str:
        """The verdict in a sentence or two, with what to try."""
        text = _VERDICTS[self.outcome](self)
        if self.missing and self.error is None:
            text = f"{text} {' '.join(self.missing.values())}"
        return f"{text} Note: {self.note}." if self.note else text

    def plot(self) -> Figure:
        """Memory and CPU over time, with limits, as a matplotlib Figure."""
        from nbcontainer.notebook.figure import plot_result

        return plot_result(self)

    def __repr__(self) -> str:
        return f"<Result: {self.describe()}>"


def describe_end(event: Event, *, quiet: bool) -> str:
    """A line for how something in the background has ended; "" where there is nothing to say."""
    if not isinstance(event, Finished) or (quiet and event.outcome == "exited"):
        return ""
    return f"ended ({how_it_ended(event)}) after {event.usage.wall_seconds:.1f} s{f'; {event.note}' if event.note else ''}"


def how_it_ended(end: Finished | Result) -> str:
    """In a word or two: ``exit code 3``, ``out of memory``."""
    if end.outcome in ("exited", "signalled"):
        return f"exit code {end.exit_code}" if end.exit_code is not None else f"signal {end.signal}"
    return {"oom": "out of memory", "output-limit": "too much output"}.get(end.outcome, end.outcome)


def _exited(result: Result) -> str:
    seconds, peak = result.usage.wall_seconds, format_size(result.usage.memory_peak_bytes)
    if result.error is not None:
        return f"The cell raised {result.error.ename}: {result.error.evalue}"
    return f"The cell ended with exit code {result.exit_code} after {seconds:.2f} s; its peak of memory was {peak}."


def _oom(result: Result) -> str:
    usage, limit = result.usage, result.limits.memory_bytes
    limited = f"--mem {format_size(limit)}" if limit else "its limit"
    who = "the cell's own process" if result.signal else "a process that the cell had started"
    larger = f"{max(-(-limit * 2 >> 20), SMALLEST_USEFUL_MIB)}M" if limit else "of a larger size"
    if limited_from_outside(usage.memory_peak_bytes, limit):
        return (
            f"Out of memory: Linux killed {who} after {usage.wall_seconds:.2f} s, not for {limited}, of which the container had used {format_size(usage.memory_peak_bytes)}: "
            "a limit around the notebook, or the machine's memory, was reached. "
            + _at_line(result)
            + "Work on smaller pieces, or end other notebooks."
        )
    return (
        f"Out of memory: Linux killed {who} when the container reached {limited} after {usage.wall_seconds:.2f} s "
        f"(peak {format_size(usage.memory_peak_bytes)}, {usage.oom_kills} process{'es' if usage.oom_kills != 1 else ''} killed). "
        + _at_line(result)
        + (
            f"A cell needs some {SMALLEST_USEFUL_MIB} MiB for itself: try --mem {larger}."
            if limit and limit < SMALLEST_USEFUL_MIB << 20
            else f"Try --mem {larger}, or work on smaller pieces."
        )
    )


def _at_line(result: Result) -> str:
    if not result.line:
        return ""
    return f"It was at line {result.line}. " if result.line_is_certain else f"It was last seen at line {result.line}. "


def _timeout(result: Result) -> str:
    option = f"--timeout {result.spec.timeout_seconds:g}" + (f"; {_goes_on(result)}" if result.goes_on else "")
    done = "interrupted" if result.goes_on and not result.spec.program else "killed"
    return f"Timeout: the cell was {done} after {result.usage.wall_seconds:.1f} s ({option})."


def _signalled(result: Result) -> str:
    number = result.signal or 0
    try:
        name = signal.Signals(number).name
    except ValueError:
        name = "an unknown signal"
    return f"The cell process ended by signal {number} ({name}) after {result.usage.wall_seconds:.2f} s."


def _interrupted(result: Result) -> str:
    what = _goes_on(result) or "all processes of the container are gone"
    return f"Interrupted after {result.usage.wall_seconds:.1f} s; {what}."


def _goes_on(result: Result) -> str:
    if not result.goes_on:
        return ""
    return "the session goes on, with its variables" if result.spec.session and not result.spec.program else "the container goes on"


def _output_limit(result: Result) -> str:
    return "The cell was ended because it wrote more than 1 GiB. Write to a file in a volume (-v) instead."


def _killed(result: Result) -> str:
    return f"Killed on request after {result.usage.wall_seconds:.1f} s."


_VERDICTS: dict[str, Callable[[Result], str]] = {
    "exited": _exited,
    "oom": _oom,
    "timeout": _timeout,
    "signalled": _signalled,
    "interrupted": _interrupted,
    "output-limit": _output_limit,
    "killed": _killed,
}


class Collector:
    """Folds events into a Result, and passes on to the caller what ``--max-output`` allows.

    ``texts``: where (stdout, stderr) are kept. ``code``: of a Python cell, to quote from.
    """

    def __init__(self, spec: ContainerSpec, on_event: OnEvent | None, texts: tuple[Text, Text] | None = None, code: str = "") -> None:
        self._spec, self._on_event, self._code = spec, on_event, code
        self._stdout, self._stderr = texts or (Spool(), Spool())
        self._samples = SampleSeries()
        self._outputs: list[dict[str, Any]] = []
        self._display_bytes = 0
        self._shown_bytes = 0
        self._cut = False
        self._error: CellError | None = None
        self._pid: int | None = None
        self._changes: list[Paused | Resumed | Changed] = []
        self._finished: Finished | None = None

    def take(self, event: Event) -> None:
        match event:
            case Output():
                self._take_output(event)
                return
            case Display():
                self._take_display(event)
                return
            case Sample():
                self._samples.append(event)
            case CellError():
                self._take_error(event)
                return
            case Started():
                self._pid = event.pid
            case Paused() | Resumed() | Changed():
                self._changes.append(event)
            case Finished():
                self._finished = event
        self._emit(event)

    def _emit(self, event: Event) -> None:
        if self._on_event is not None:
            self._on_event(event)

    def _take_display(self, event: Display) -> None:
        """Displays and text share the room of ``--max-output``; what is kept is bounded too, as it stays in memory."""
        self._display_bytes += event.size_bytes + KEPT_DISPLAY_BYTES
        if event.kind in ("display", "result") and self._display_bytes <= MAX_KEPT_DISPLAY_BYTES:
            self._outputs.append(dict(event.data))
        self._shown_bytes += event.size_bytes + SHOWN_DISPLAY_BYTES
        if self._shown_bytes <= self._spec.max_output_bytes:
            self._emit(event)
        else:
            self._say_cut()

    def _take_error(self, event: CellError) -> None:
        """The last may be what ended the cell, and is in the result; the others are output."""
        self._error = event
        self._shown_bytes += sum(map(len, event.traceback)) + SHOWN_DISPLAY_BYTES
        if self._shown_bytes <= self._spec.max_output_bytes:
            self._emit(event)
        else:
            self._say_cut()

    def _take_output(self, event: Output) -> None:
        (self._stdout if event.stream == "stdout" else self._stderr).write(event.text)
        room = self._spec.max_output_bytes - self._shown_bytes
        self._shown_bytes += len(event.text)
        if room >= len(event.text):
            self._emit(event)
        elif not self._cut:
            self._emit(Output(event.stream, event.text[: max(room, 0)]))
            self._say_cut()

    def _say_cut(self) -> None:
        if not self._cut:
            self._cut = True
            limit = format_size(self._spec.max_output_bytes)
            notice = f"\n[the rest of the output is not shown (--max-output {limit}); it is in the result's stdout, stderr and outputs]\n"
            self._emit(Output("stderr", notice))

    def result(self, values: Mapping[str, Any] | None = None, missing: Mapping[str, str] | None = None) -> Result:
        end = self._finished
        if end is None:
            raise InternalError("a run ended without saying how")
        return Result(
            end.outcome, end.exit_code, end.signal, None if end.exit_code == 0 else end.error, self._outputs, end.usage, self._samples, self._spec, end.note, self._pid,
            changes=tuple(self._changes), memory_by_kind=end.memory_by_kind, killed=end.killed, goes_on=end.goes_on,
            line=quote_line(self._code, end.line), line_is_certain=not values and not missing and nothing_follows(self._code, end.line), values=dict(values or {}), missing=dict(missing or {}), _stdout=self._stdout, _stderr=self._stderr,
        )  # fmt: skip
