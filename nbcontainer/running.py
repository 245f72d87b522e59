"""A container that runs, as whoever has its name can use it: look at it, run something in it, change it, end it."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

from nbcontainer import exchange
from nbcontainer.background import BackgroundRun
from nbcontainer.conduct import OnInput, OnStart, conduct, starting
from nbcontainer.data.inward import Inward
from nbcontainer.engine import Run
from nbcontainer.errors import SpecError
from nbcontainer.events import Changed, Event, Paused, Readings, Resumed
from nbcontainer.logs import Log, Record
from nbcontainer.result import Collector, OnEvent, Result
from nbcontainer.spec import ContainerSpec, Limits
from nbcontainer.spelling import nearest
from nbcontainer.state import ContainerRecord
from nbcontainer.threads import start_daemon
from nbcontainer.validate import parse_process

if TYPE_CHECKING:
    from nbcontainer.engine.changes import Change

STOP_SECONDS = 10.0
"""From SIGTERM to SIGKILL, as ``docker stop``."""
END_SECONDS = 10.0


class RunningContainer(ABC):
    """Methods may be called from any thread, and raise SpecError once it has ended."""

    def __init__(self, run: Run, log: Log) -> None:
        self._run = run
        self.log = log
        self.id = run.container_id
        self.name = run.spec.name or run.container_id
        self.spec: ContainerSpec = run.spec
        self.created_unix_seconds = time.time()
        self.ended_unix_seconds: float | None = None
        self.result: Result | None = None
        """What came of it, once it has ended."""
        self.paused = False
        self._paused_seconds = 0.0
        """When :meth:`pause` or :meth:`resume` was done last, monotonic: events of before come later."""
        self._limits = run.spec.limits
        self._failure: BaseException | None = None
        self._ended = threading.Event()
        self._needed: set[int] = set()
        """The thread that takes what it says. Its end needs that one: it cannot wait for the end itself."""
        self._cells_of: list[int] = []
        """Threads that wait for something that runs in it; the end of a session may need them, too."""

    def _note(self, event: Event) -> None:
        """What an event of its run says about it."""
        if isinstance(event, Paused | Resumed) and event.monotonic_seconds > self._paused_seconds:
            self.paused = isinstance(event, Paused)  # by somebody else, such as the panel of a cell
        elif isinstance(event, Changed):
            self._limits = event.limits

    # ---- what it is

    @property
    def status(self) -> Literal["running", "paused", "exited"]:
        return "exited" if self._ended.is_set() else "paused" if self.paused else "running"

    @property
    def limits(self) -> Limits:
        """Those in force, as Linux said last."""
        return self._limits

    def processes(self) -> list[int]:
        """Process ids of all its processes, as this host sees them; its first one's comes first."""
        return self._run.processes()

    @property
    def is_session(self) -> bool:
        return self.spec.session

    @property
    def pid(self) -> int | None:
        """Of its first process, as this host sees it."""
        return None if self._ended.is_set() else self._run.pid

    def record(self) -> ContainerRecord:
        """As other processes see it. Raises SpecError."""
        self._refuse_after_the_end("ps")
        command = " ".join(self.spec.program) or "python"
        return ContainerRecord(
            os.getpid(), self.id, self.name, self._run.pid, self.status, self.created_unix_seconds, command, self.limits.memory_bytes, str(self.spec.root),
            ports=", ".join(map(str, self.spec.ports)), networks=self.spec.network_names, mounts=self.spec.mount_sources,
        )  # fmt: skip

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name}: {self.status}>"

    # ---- running something in it

    def run(
        self,
        code: str,
        *,
        on_event: OnEvent | None = None,
        on_start: OnStart | None = None,
        on_input: OnInput | None = None,
        input: Mapping[str, Any] | Inward | None = None,
        output: str | Sequence[str] = (),
        cell_number: int = 0,
        **options: Any,
    ) -> Result:
        """Run a Python cell: in a session, with what earlier cells have left, else in a new process.

        ``input``, ``output``, ``on_input`` and ``cell_number`` as for :func:`nbcontainer.run`.
        ``options``: timeout, max_output, interval, and outside a session env, workdir and user. What the code does is in the
        result, of which ``usage`` and ``samples`` are this cell's. Where the session ends with it, ``result.note`` says so.
        """
        return self._conduct(code, (), options, on_event, on_start, on_input, input, output, cell_number)

    def exec(
        self,
        program: str | Sequence[str],
        code: str | bytes = "",
        *,
        on_event: OnEvent | None = None,
        on_start: OnStart | None = None,
        input: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> Result:
        """Run ``program`` as a new process in its namespaces and its cgroup, as ``docker exec``; ``code`` is its standard input.

        ``options``: as for :meth:`run`. Its user, rights and filter are the container's. Interrupting, a timeout and ``kill`` end
        what it has started, not the container.
        """
        text = code.decode("utf-8", "surrogateescape") if isinstance(code, bytes) else code
        return self._conduct(text, program, options, on_event, on_start, None, input, ())

    def exec_detached(self, program: str | Sequence[str], code: str | bytes = "", *, on_event: OnEvent | None = None, **options: Any) -> None:
        """As :meth:`exec`, and return when it has begun, as ``docker exec -d``; it ends with the container at the latest.

        ``on_event`` is called in another thread, which ends the process where that raises.
        """
        text = code.decode("utf-8", "surrogateescape") if isinstance(code, bytes) else code
        spec = self._process_spec(program, options).replace(background=True)
        spec, transfer = exchange.prepare(spec, None, ())
        run = starting(partial(self._run.within, spec, text, transfer))
        collector = Collector(spec, on_event)
        BackgroundRun(run, f"nbcontainer-exec-{self.name}", collector.take, lambda failure: None).begin()

    def _process_spec(self, program: str | Sequence[str], options: dict[str, Any]) -> ContainerSpec:
        spec = parse_process(self.spec, program, options).replace(limits=self._limits)
        self._refuse_after_the_end("exec")
        if self.paused:
            raise SpecError(f"exec: {self.name} is paused; first: %container resume {self.name}")
        return spec

    def _conduct(
        self,
        code: str,
        program: str | Sequence[str],
        options: dict[str, Any],
        on_event: OnEvent | None,
        on_start: OnStart | None,
        on_input: OnInput | None,
        given: Mapping[str, Any] | Inward | None,
        output: str | Sequence[str],
        cell_number: int = 0,
    ) -> Result:
        spec = self._process_spec(program, options).replace(cell_number=cell_number)
        spec, transfer = exchange.prepare(spec, given, output)
        self._cells_of.append(threading.get_ident())
        try:
            with exchange.closing(transfer):
                begin = partial(self._run.within, spec, code, transfer)
                result = conduct(begin, on_event, on_start, "" if program else code, transfer=transfer, on_input=on_input)
        finally:
            self._cells_of.remove(threading.get_ident())
        if not result.goes_on:
            self._ended.wait(END_SECONDS)  # its thread is about to say so too
        return result

    # ---- what can be done to it

    def pause(self) -> None:
        """Freeze all its processes."""
        self._refuse_after_the_end("pause")
        self._run.pause()
        self.paused, self._paused_seconds = True, time.monotonic()

    def resume(self) -> None:
        self._refuse_after_the_end("resume")
        self._run.resume()
        self.paused, self._paused_seconds = False, time.monotonic()

    def update(self, **changes: Any) -> Limits:
        """Change limits by their option names; returns what Linux says then."""
        self._refuse_after_the_end("update")
        return self._run.update(**changes)

    def stats(self) -> Readings:
        """Its memory by kind, network traffic and pressure, now."""
        self._refuse_after_the_end("stats")
        return self._run.readings()

    def kill(self, signum: int | str = signal.SIGKILL) -> None:
        """Send a signal (9, "KILL", "SIGKILL") to its process; SIGINT interrupts a session's cell.

        SIGKILL waits for the end, but where the end needs this very thread, as in ``on_event`` or a widget's callback while a cell runs.
        """
        number = signal_number(signum)
        self._refuse_after_the_end("kill")
        if number == signal.SIGKILL:
            self._run.kill()
            if not self._needs_this_thread():
                self._ended.wait()
        else:
            self._run.signal(number)

    def stop(self, timeout: float = STOP_SECONDS) -> None:
        """SIGTERM, and SIGKILL where that has not ended it after ``timeout`` seconds. Nothing happens when it has ended."""
        if self._ended.is_set() or self._done_elsewhere(partial(self.stop, timeout)):
            return
        with contextlib.suppress(SpecError):  # it has ended meanwhile, or is not paused
            self._run.resume()
        with contextlib.suppress(SpecError):
            self._run.signal(signal.SIGTERM)
        if not self._ended.wait(timeout):
            self._run.kill()
            self._ended.wait()

    def wait(self, timeout: float | None = None) -> Result | None:
        """Until it has ended; None when it has not after ``timeout`` seconds. Raises what its thread could not go on from."""
        if not self._ended.is_set() and self._needs_this_thread():
            raise SpecError(f"wait: {self.name} cannot end while this waits for it: what it says is taken here")
        deadline = None if timeout is None else time.monotonic() + timeout
        # In steps, so that a signal's handler is called meanwhile.
        while not self._ended.wait(0.5 if deadline is None else max(0.0, min(0.5, deadline - time.monotonic()))):
            if deadline is not None and time.monotonic() >= deadline:
                return None
        if self._failure is not None:
            raise self._failure
        return self.result

    def logs(self, tail: int | None = None) -> str:
        """What it has written, both streams in order: the last 10 to 20 MiB of it, or the last ``tail`` lines."""
        return "".join(record.text for record in self.log.lines(tail))

    def follow(self, until: float | None = None) -> Iterator[Record]:
        """What it writes from now on, until it ends, or until these Unix seconds."""
        return self.log.follow(until)

    def diff(self) -> list[Change]:
        """Paths of its root that were added (A), changed (C) and deleted (D)."""
        self._refuse_after_the_end("diff")
        return self._run.changes()

    def remove(self, *, force: bool = True) -> None:
        """Forget it, with its log and its layer; ``force`` ends it first. Raises SpecError where it runs."""
        if not self._ended.is_set():
            if not force:
                raise SpecError(f"rm: {self.name} is running; stop it first, or: %container rm -f {self.name}")
            if self._done_elsewhere(self.remove):
                return
            self._run.kill()
            self._ended.wait()
        self._forget()

    @abstractmethod
    def _forget(self) -> None:
        """Let go of what was kept after the end; safe to call twice."""

    def _needs_this_thread(self) -> bool:
        return threading.get_ident() in (*self._needed, *self._cells_of)

    def _done_elsewhere(self, what: Callable[[], None]) -> bool:
        """Another thread does ``what`` waits for the end, where the end needs this one."""
        if not self._needs_this_thread():
            return False
        start_daemon(what, f"nbcontainer-end-{self.name}")
        return True

    def _refuse_after_the_end(self, what: str) -> None:
        if self._ended.is_set():
            raise SpecError(f"{what}: {self.name} has ended")


def signal_number(name: int | str) -> int:
    """Of ``9``, ``"KILL"`` or ``"SIGKILL"``. Raises SpecError."""
    text = str(name).upper()
    try:
        return int(signal.Signals(int(text))) if text.isdigit() else int(signal.Signals[text if text.startswith("SIG") else f"SIG{text}"])
    except (ValueError, KeyError):
        near = nearest(text.removeprefix("SIG"), [one.name.removeprefix("SIG") for one in signal.Signals])
        raise SpecError(f"kill: {str(name)!r} is not a signal" + (f"; did you mean {near}?" if near else " such as TERM, INT or 9")) from None
