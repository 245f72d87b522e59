"""How a process ended: outcomes told apart by what Linux says, without guessing."""

from __future__ import annotations

import os
import signal
from dataclasses import dataclass, replace
from typing import Literal

from nbcontainer.events import CellError, OutcomeName, Sample, Usage

Reason = Literal["", "timeout", "output-limit", "killed", "interrupted"]
"""Why we ended it, if we did."""


@dataclass(frozen=True, slots=True)
class Verdict:
    outcome: OutcomeName
    exit_code: int | None
    signal: int | None
    note: str


def judge(status: int, reason: Reason, oom_kills: int, error: CellError | None) -> Verdict:
    """``status``: the wait status; ``oom_kills``: processes that were killed for memory; ``error``: the cell's exception."""
    number = os.WTERMSIG(status) if os.WIFSIGNALED(status) else None
    code = os.WEXITSTATUS(status) if os.WIFEXITED(status) else None
    outcome: OutcomeName = "exited" if number is None else "signalled"
    note = ""
    if reason == "interrupted" and code != 0:
        outcome = "interrupted"
    elif reason in ("timeout", "output-limit", "killed") and number is not None:
        outcome = reason
    elif oom_kills and (number == signal.SIGKILL or (number is None and failed_for_a_child(code, error))):
        outcome = "oom"
    elif oom_kills:
        children = "a child process was" if oom_kills == 1 else f"{oom_kills} child processes were"
        note = f"{children} killed for memory; the cell itself went on"
    return Verdict(outcome, code, number, note)


def failed_for_a_child(exit_code: int | None, error: CellError | None) -> bool:
    """A cell that went on after one of its processes was killed for memory, and failed: because of that, as far as it says so."""
    if error is None:
        return exit_code == 128 + signal.SIGKILL  # as shells end that pass on what killed their last command
    if error.ename == "CalledProcessError":
        return "SIGKILL" in error.evalue or "137" in error.evalue
    return error.ename in ("MemoryError", "BrokenProcessPool", "BrokenPipeError", "EOFError", "ConnectionResetError")


def usage_since(first: Sample, usage: Usage) -> Usage:
    """Without what was used before ``first``: the counters run since the container was made."""
    return replace(
        usage,
        cpu_seconds=usage.cpu_seconds - first.cpu_seconds,
        user_seconds=max(0.0, usage.user_seconds - first.user_seconds),
        system_seconds=max(0.0, usage.system_seconds - first.system_seconds),
        throttled_seconds=usage.throttled_seconds - first.throttled_seconds,
        io_read_bytes=usage.io_read_bytes - first.io_read_bytes,
        io_write_bytes=usage.io_write_bytes - first.io_write_bytes,
    )


def usage_between(first: Sample, last: Sample, highest_bytes: int, wall_seconds: float) -> Usage:
    """What was used between two samples. The peak is Linux's own where it is new, else the highest that was seen."""
    higher = last.memory_peak_bytes > first.memory_peak_bytes
    usage = Usage(
        wall_seconds,
        last.cpu_seconds,
        last.user_seconds,
        last.system_seconds,
        last.throttled_seconds,
        last.memory_peak_bytes if higher else highest_bytes,
        last.oom_kills - first.oom_kills,
        max(first.pids, last.pids),
        last.io_read_bytes,
        last.io_write_bytes,
    )
    return usage_since(first, usage)


