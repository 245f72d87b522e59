"""Iterating a run to its end, in the caller's thread: events go out, a Result comes back, interrupts go in."""

from __future__ import annotations

import errno
import signal
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager, closing, nullcontext
from typing import Any, Protocol, TypeVar

from nbcontainer import exchange
from nbcontainer.engine import Run
from nbcontainer.engine.transfer import Transfer
from nbcontainer.errors import HostError
from nbcontainer.events import Event, InputRequest, Started
from nbcontainer.result import Collector, OnEvent, Result

OnStart = Callable[[Run], None]
Made = TypeVar("Made")
OnInput = Callable[[InputRequest], str | None]


class Observer(Protocol):
    """Somebody who is told besides."""

    def take(self, event: Event) -> None: ...


Observed = Callable[[Run, Collector], AbstractContextManager[Observer]]


class _Nobody:
    def take(self, event: Event) -> None: ...


_NOBODY = nullcontext(_Nobody())


def unobserved(run: Run, collector: Collector) -> AbstractContextManager[Observer]:
    return _NOBODY


class _Interrupts:
    """SIGINT (the stop button, Ctrl-C) goes to the container instead of raising KeyboardInterrupt somewhere in here.

    One that comes before there is a run is kept for it.
    """

    def __init__(self) -> None:
        self._run: Run | None = None
        self._early = False
        self._previous: Any = None
        self._installed = threading.current_thread() is threading.main_thread()

    def __enter__(self) -> _Interrupts:
        if self._installed:
            self._previous = signal.signal(signal.SIGINT, self._on_signal)
        return self

    def __exit__(self, *unused: object) -> None:
        if self._installed:
            signal.signal(signal.SIGINT, self._previous)

    def _on_signal(self, number: int, frame: object) -> None:
        if self._run is None:
            self._early = True
        else:
            self._run.interrupt()

    def goes_to(self, run: Run) -> None:
        self._run = run
        if self._early:
            run.interrupt()


def _used_up(error: OSError) -> HostError:
    """This process itself cannot go on: it has used up what it may have."""
    remedies = {
        errno.EMFILE: "restart the notebook's kernel, or start Jupyter after: ulimit -n 65536",
        errno.ENFILE: "sudo sysctl -w fs.file-max=1000000",
        errno.EAGAIN: "end some processes, or raise the pids limit around the kernel",
        errno.ENOSPC: "free space in /tmp and /run, or set TMPDIR",
        errno.ENOMEM: "end some programs",
    }
    where = f" ({error.filename})" if error.filename else ""
    return HostError(
        f"the kernel's own process cannot start a container: {error.strerror or error}{where}",
        remedies.get(error.errno or 0, "see: nbcontainer doctor"),
    )


def starting(begin: Callable[[], Made]) -> Made:
    """Call ``begin``; what this process itself has used up is a HostError."""
    try:
        return begin()
    except OSError as error:
        raise _used_up(error) from error


def conduct(
    begin: Callable[[], Run],
    on_event: OnEvent | None,
    on_start: OnStart | None,
    code: str = "",
    *,
    transfer: Transfer | None = None,
    on_input: OnInput | None = None,
    observed: Observed = unobserved,
) -> Result:
    """Begin a run and wait for its end. ``code``: of a Python cell, to quote from; ``transfer``: the one that it was begun with."""
    with _Interrupts() as interrupts:
        current = starting(begin)
        collector = Collector(current.spec, on_event, code=code)
        interrupts.goes_to(current)
        # Closing ends the run at once, also when on_event raises.
        with observed(current, collector) as observer, closing(current.events()) as events:
            for event in events:
                if on_start is not None and isinstance(event, Started):
                    on_start(current)
                observer.take(event)
                collector.take(event)
                if isinstance(event, InputRequest):
                    exchange.answer(current, event, on_input)
    return collector.result(*exchange.read_back(transfer))
