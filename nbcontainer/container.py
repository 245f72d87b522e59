"""The public Python API: run code in a container."""

from __future__ import annotations

import errno
import signal
import threading
from collections.abc import Callable, Sequence
from contextlib import closing
from typing import Any

from nbcontainer.engine import Run, open_engine
from nbcontainer.errors import HostError, SpecError
from nbcontainer.events import Started
from nbcontainer.result import Collector, OnEvent, Result
from nbcontainer.spec import make_spec
from nbcontainer.units import check_text

OnStart = Callable[[Run], None]


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


def run(
    code: str | bytes = "",
    *,
    program: str | Sequence[str] = (),
    on_event: OnEvent | None = None,
    on_start: OnStart | None = None,
    engine: str | None = None,
    **options: Any,
) -> Result:
    """Run ``code`` in a new container and wait for its end.

    Without ``program``, ``code`` is Python; with it (``["bash"]``), ``code`` is its standard input, and may be bytes. ``options`` are the
    long option names of the magic with ``_`` for ``-`` (``mem="128M"``, ``cpus=0.5``, ``volumes=["./data:/data:ro"]``).
    ``on_start`` gets the :class:`~nbcontainer.engine.Run` with the first event: its controls may be used from any thread
    while the cell runs. ``on_event`` is called with each event as it happens. What the code does is in the result; raises only SpecError,
    HostError, SetupError and InternalError.
    """
    if isinstance(code, bytes) and program:
        text = code.decode("utf-8", "surrogateescape")
    elif isinstance(code, str):
        text = check_text(code, "code")
    else:
        raise SpecError(f"code: {type(code).__name__} is not a str{'' if program else ' (bytes are for a program)'}")
    with _Interrupts() as interrupts:
        try:
            current = open_engine(engine).start(make_spec(options, program=program), text)
        except OSError as error:
            raise _used_up(error) from error
        collector = Collector(current.spec, on_event)
        interrupts.goes_to(current)
        # Closing ends the container at once, also when on_event raises.
        with closing(current.events()) as events:
            for event in events:
                if on_start is not None and isinstance(event, Started):
                    on_start(current)
                collector.take(event)
    return collector.result()


def explain(*, program: str | Sequence[str] = (), engine: str | None = None, **options: Any) -> str:
    """The plan of a run as text, a line for each system call and cgroup write; nothing is started."""
    spec = make_spec(options, program=program)
    return "\n".join(open_engine(engine).explain(spec))
