"""What a run says, in the order in which it happened: one vocabulary from the engine to the notebook."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

from nbcontainer.spec import Limits

OutcomeName = Literal["exited", "oom", "timeout", "signalled", "interrupted", "output-limit", "killed"]


@dataclass(frozen=True, slots=True)
class Started:
    """The user's code is about to run, inside its limits."""

    container_id: str
    name: str
    pid: int
    """Process id of the cell process as this host sees it."""
    monotonic_seconds: float


@dataclass(frozen=True, slots=True)
class Running:
    """Of a container in the background: its code has begun, so that nothing of its set-up can fail any more."""

    monotonic_seconds: float


@dataclass(frozen=True, slots=True)
class Output:
    """Text that the container wrote to file descriptor 1 or 2 (invalid UTF-8 arrives as U+FFFD)."""

    stream: Literal["stdout", "stderr"]
    text: str


@dataclass(frozen=True, slots=True)
class Display:
    """A MIME bundle: ``display()``, ``update_display()``, or the value of the last expression."""

    kind: Literal["display", "update", "result", "clear"]
    data: Mapping[str, Any]
    metadata: Mapping[str, Any] = field(default_factory=dict)
    display_id: str | None = None
    size_bytes: int = 0
    """How much it was on its way here; for limits."""
    value: str = ""
    """Of a result that is small and of plain types: itself, as :mod:`nbcontainer.data.small` writes it."""


@dataclass(frozen=True, slots=True)
class CellError:
    """An exception that ended a Python cell; ``traceback`` are the lines as IPython renders them (ANSI colours)."""

    ename: str
    evalue: str
    traceback: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class InputRequest:
    """The cell waits in ``input()`` or ``getpass()``; the engine wants one line back."""

    prompt: str
    password: bool


@dataclass(frozen=True, slots=True)
class Sample:
    """One reading of a container's cgroup files. Counters are cumulative since the container was made."""

    monotonic_seconds: float
    memory_bytes: int
    """All memory that is charged, page cache included."""
    working_set_bytes: int
    """``memory_bytes`` without inactive page cache, as ``docker stats`` shows it."""
    memory_peak_bytes: int
    cpu_seconds: float
    user_seconds: float
    system_seconds: float
    throttled_seconds: float
    pids: int
    oom_kills: int
    io_read_bytes: int
    io_write_bytes: int


@dataclass(frozen=True, slots=True)
class Paused:
    """All processes of the container are frozen."""

    monotonic_seconds: float


@dataclass(frozen=True, slots=True)
class Resumed:
    """They run again."""

    monotonic_seconds: float


@dataclass(frozen=True, slots=True)
class Changed:
    """The container has other limits now; ``limits`` are what its cgroup files say."""

    monotonic_seconds: float
    limits: Limits


@dataclass(frozen=True, slots=True)
class Readings:
    """What is too slow to be in every sample, for live views. Counters are cumulative."""

    monotonic_seconds: float
    pressure_seconds: Mapping[str, float] = field(default_factory=dict)
    """``cpu``, ``memory``, ``io``: how long some process waited for it (PSI); only what this Linux counts."""
    net_rx_bytes: int = 0
    net_tx_bytes: int = 0
    memory_by_kind: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Usage:
    """What a finished container has used, from Linux's own counters."""

    wall_seconds: float = 0.0
    cpu_seconds: float = 0.0
    user_seconds: float = 0.0
    system_seconds: float = 0.0
    throttled_seconds: float = 0.0
    memory_peak_bytes: int = 0
    oom_kills: int = 0
    pids_peak: int = 0
    io_read_bytes: int = 0
    io_write_bytes: int = 0
    net_rx_bytes: int = 0
    net_tx_bytes: int = 0


def limited_from_outside(peak_bytes: int, limit_bytes: int | None) -> bool:
    """Whether a process was killed for memory although its container's own limit was far: one around it was reached."""
    return limit_bytes is not None and 2 * peak_bytes < limit_bytes


@dataclass(frozen=True, slots=True)
class Finished:
    """The last event of a run: everything of the container is gone when it is sent, unless it goes on."""

    outcome: OutcomeName
    exit_code: int | None
    signal: int | None
    error: CellError | None
    usage: Usage
    note: str = ""
    """A sentence for the reader, such as that a child process was killed for memory."""
    memory_by_kind: Mapping[str, int] = field(default_factory=dict)
    """Bytes of anon, file and shmem memory at the last reading near the limit; {} when memory was never short."""
    killed: tuple[str, ...] = ()
    """Processes that were killed for memory, such as ``python (pid 4711)``; only what Linux's log says."""
    goes_on: bool = False
    """Only a cell or a process in it has ended: the container runs on."""
    line: int | None = None
    """Out of memory: the line of the code that it was last seen at, shortly before, as the cell's own process said, which can say anything."""


Event: TypeAlias = (
    Started | Running | Output | Display | CellError | InputRequest | Sample | Paused | Resumed | Changed | Finished
)
