"""Process, container, virtual machine: the same line of Python in each, side by side, as an experiment for the course."""

from __future__ import annotations

import html
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from nbcontainer.errors import NbcontainerError, SpecError
from nbcontainer.units import format_size

if TYPE_CHECKING:
    from matplotlib.figure import Figure

CODE = "import os, resource; print(os.getpid(), os.uname().release, len([n for n in os.listdir('/proc') if n.isdigit()]), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"
_COLUMNS = ("", "first", "later", "memory", "its pid", "processes it sees", "its Linux")


@dataclass(frozen=True, slots=True)
class Row:
    """One way to run it; times are from the call until everything of it is gone again."""

    name: str
    first_seconds: float = 0.0
    """With what is made once: the zygote, or the guest."""
    later_seconds: float = 0.0
    """The median of the others."""
    memory_bytes: int = 0
    """Process: its resident memory. Container: what it was charged with at most. Virtual machine: QEMU's own, all of it."""
    pid_inside: int = 0
    processes_seen: int = 0
    linux_inside: str = ""
    why_not: str = ""
    """Why this way is not possible here; everything else is then empty."""

    def cells(self) -> tuple[str, ...]:
        if self.why_not:
            return (self.name, *[""] * 5, f"not here: {self.why_not}")
        times = (f"{self.first_seconds * 1000:.0f} ms", f"{self.later_seconds * 1000:.0f} ms")
        return (self.name, *times, format_size(self.memory_bytes), str(self.pid_inside), str(self.processes_seen), self.linux_inside)


@dataclass(frozen=True, slots=True)
class Comparison:
    """What :func:`compare_isolation` found, as a table and as a chart."""

    rows: tuple[Row, ...]

    def as_text(self) -> str:
        lines = [_COLUMNS, *(row.cells() for row in self.rows)]
        widths = [max(len(line[column]) for line in lines[:]) for column in range(len(_COLUMNS))]
        return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines)

    def __repr__(self) -> str:
        return self.as_text()

    def _repr_html_(self) -> str:
        head = "".join(f"<th>{html.escape(name)}</th>" for name in _COLUMNS)
        body = "".join("<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row.cells()) + "</tr>" for row in self.rows)
        return f"<table><tr>{head}</tr>{body}</table>"

    def plot(self) -> Figure:
        """Two bar charts, time and memory, both with logarithmic scales."""
        from nbcontainer.notebook.figure import plot_comparison

        rows = [row for row in self.rows if not row.why_not]
        return plot_comparison([row.name for row in rows], [row.later_seconds for row in rows], [row.memory_bytes for row in rows])


def compare_isolation(repeat: int = 5) -> Comparison:
    """Run one line of Python as a plain process, in a container on this host, and in one in a virtual machine.

    ``repeat``: how often each, after a first time. A way that is not possible here is a row that says why.
    """
    if isinstance(repeat, bool) or not isinstance(repeat, int) or not 1 <= repeat <= 1000:
        raise SpecError(f"repeat: {repeat!r} is not a whole number from 1 to 1000")
    ways: tuple[tuple[str, Callable[[], tuple[str, int]]], ...] = (
        ("process", _in_process),
        ("container", lambda: _in_engine("local")),
        ("virtual machine", lambda: _in_engine("vm")),
    )
    return Comparison(tuple(_row(name, run, repeat) for name, run in ways))


def _row(name: str, run: Callable[[], tuple[str, int]], repeat: int) -> Row:
    seconds = []
    try:
        for _ in range(repeat + 1):
            began = time.monotonic()
            output, memory = run()
            seconds.append(time.monotonic() - began)
    except NbcontainerError as error:
        return Row(name, why_not=str(error))
    pid, release, seen, resident_kib = output.split()
    return Row(name, seconds[0], statistics.median(seconds[1:]), memory or int(resident_kib) << 10, int(pid), int(seen), release)


def _in_process() -> tuple[str, int]:
    done = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, check=True)
    return done.stdout, 0


def _in_engine(name: str) -> tuple[str, int]:
    from nbcontainer.container import run

    result = run(CODE, engine=name, mem="64M", workspace="none")
    if not result.ok:
        raise SpecError(result.describe())
    if name == "vm":
        from nbcontainer.engine.vm.engine import open_vm

        return result.stdout, open_vm().memory_bytes()
    return result.stdout, result.usage.memory_peak_bytes
