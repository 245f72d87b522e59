"""The containers of this kernel: those that run in the background, the sessions, and those that were kept."""

from __future__ import annotations

import contextlib
import difflib
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

from nbcontainer import exchange
from nbcontainer.conduct import OnInput, OnStart, conduct
from nbcontainer.data.inward import Inward
from nbcontainer.engine import Run
from nbcontainer.errors import HostError, SpecError
from nbcontainer.events import Changed, Event, InputRequest, Output, Paused, Readings, Resumed, Running
from nbcontainer.logs import Log, Record
from nbcontainer.result import Collector, OnEvent, Result
from nbcontainer.spec import ContainerSpec, Limits, parse_process
from nbcontainer.state import list_containers
from nbcontainer.volumes import VolumesInUse

if TYPE_CHECKING:
    from types import TracebackType

    from nbcontainer.engine.changes import Change

STOP_SECONDS = 10.0
"""From SIGTERM to SIGKILL, as ``docker stop``."""
READY_SECONDS = 10.0
INIT_READY_SECONDS = 0.3
"""With an init above it, nobody can tell when a program has begun: an error that comes later is in its log."""


class Container:
    """A container that runs in the background. Methods may be called from any thread; as a context manager, it is removed."""

    def __init__(self, run: Run, volumes: VolumesInUse, *, keep: bool = False, on_event: OnEvent | None = None) -> None:
        self._run, self._keep = run, keep
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
        self.log = Log()
        self._collector = Collector(run.spec, on_event, self.log.texts())
        self._failure: BaseException | None = None
        self._ready, self._ended = threading.Event(), threading.Event()
        self._removed = False
        self._volumes = volumes
        self._thread = threading.Thread(target=self._attend, name=f"nbcontainer-{self.name}", daemon=True)

    # ---- its thread

    def _attend(self) -> None:
        try:
            with closing(self._run.events()) as events:
                for event in events:
                    self._take(event)
            self.result = self._collector.result()
        except BaseException as error:  # raised where somebody waits: also what on_event raised
            self._failure = error
        finally:
            self.ended_unix_seconds = time.time()
            self.log.close()
            self._volumes.close()
            if not self._keep:
                CONTAINERS.forget(self)
            self._ready.set()
            self._ended.set()

    def _take(self, event: Event) -> None:
        if isinstance(event, Output):
            self.log.append(event.stream, event.text)
        elif isinstance(event, InputRequest) and not self.is_session:
            self._run.answer_input(None, "nobody can type here: the container runs in the background")
        elif isinstance(event, Running):
            self._ready.set()
        elif isinstance(event, Paused | Resumed) and event.monotonic_seconds > self._paused_seconds:
            self.paused = isinstance(event, Paused)  # by somebody else, such as the panel of a cell
        elif isinstance(event, Changed):
            self._limits = event.limits
        self._collector.take(event)

    def begin(self) -> None:
        """Have its thread take what it says; returns when its code has begun. Raises what went wrong before that."""
        try:
            self._thread.start()
        except RuntimeError as error:
            self._run.kill()
            self._attend()  # to its end, in this thread
            raise HostError(f"the kernel's own process: {error}", "end some processes, or raise the pids limit around the kernel") from None
        self._ready.wait(INIT_READY_SECONDS if self.spec.init else READY_SECONDS)
        if self._failure is not None:
            raise self._failure

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

    def __repr__(self) -> str:
        return f"<Container {self.name}: {self.status}>"

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
        **options: Any,
    ) -> Result:
        """Run a Python cell: in a session, with what earlier cells have left, else in a new process.

        ``input``, ``output`` and ``on_input`` as for :func:`nbcontainer.run`.
        ``options``: timeout, max_output, interval, and outside a session env, workdir and user. What the code does is in the
        result, of which ``usage`` and ``samples`` are this cell's. Where the session ends with it, ``result.note`` says so.
        """
        return self._conduct(code, (), options, on_event, on_start, on_input, input, output)

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
    ) -> Result:
        spec = parse_process(self.spec, program, options).replace(limits=self._limits)
        self._refuse_after_the_end("exec")
        if self.paused:
            raise SpecError(f"exec: {self.name} is paused; first: %container resume {self.name}")
        spec, transfer = exchange.prepare(spec, given, output)
        with exchange.closing(transfer):
            begin = partial(self._run.within, spec, code, transfer)
            result = conduct(begin, on_event, on_start, "" if program else code, transfer=transfer, on_input=on_input)
        if not result.goes_on:
            self._ended.wait(READY_SECONDS)  # its thread is about to say so too
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
        """Send a signal (9, "KILL", "SIGKILL") to its process; SIGINT interrupts a session's cell. SIGKILL waits for the end."""
        number = signal_number(signum)
        self._refuse_after_the_end("kill")
        if number == signal.SIGKILL:
            self._run.kill()
            self._ended.wait()
        else:
            self._run.signal(number)

    def stop(self, timeout: float = STOP_SECONDS) -> None:
        """SIGTERM, and SIGKILL where that has not ended it after ``timeout`` seconds. Nothing happens when it has ended."""
        if self._ended.is_set():
            return
        with contextlib.suppress(SpecError):
            self._run.resume()
        self._run.signal(signal.SIGTERM)
        if not self._ended.wait(timeout):
            self._run.kill()
            self._ended.wait()

    def wait(self, timeout: float | None = None) -> Result | None:
        """Until it has ended; None when it has not after ``timeout`` seconds. Raises what its thread could not go on from."""
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

    def follow(self) -> Iterator[Record]:
        """What it writes from now on, until it ends."""
        return self.log.follow()

    def diff(self) -> list[Change]:
        """Paths of its root that were added (A), changed (C) and deleted (D), also of one that was kept."""
        if self._ended.is_set() and not self._keep:
            raise SpecError(f"diff: {self.name} has ended, and its files with it; --keep keeps them")
        return self._run.changes()

    def remove(self, *, force: bool = True) -> None:
        """Forget it, with its log and its layer; ``force`` ends it first. Raises SpecError where it runs."""
        if not self._ended.is_set():
            if not force:
                raise SpecError(f"rm: {self.name} is running; stop it first, or: %container rm -f {self.name}")
            self._run.kill()
            self._ended.wait()
        if not self._removed:
            self._removed = True
            CONTAINERS.forget(self)
            self.log.forget()
            self._run.forget()
            self._volumes.close()

    def __enter__(self) -> Container:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        self.remove()

    def _refuse_after_the_end(self, what: str) -> None:
        if self._ended.is_set():
            raise SpecError(f"{what}: {self.name} has ended")


def signal_number(name: int | str) -> int:
    """Of ``9``, ``"KILL"`` or ``"SIGKILL"``. Raises SpecError."""
    text = str(name).upper()
    try:
        return int(signal.Signals(int(text))) if text.isdigit() else int(signal.Signals[text if text.startswith("SIG") else f"SIG{text}"])
    except (ValueError, KeyError):
        raise SpecError(f"kill: {str(name)!r} is not a signal such as TERM, INT or 9") from None


class Containers:
    """By name and by id. A name belongs to one, from before it is made until it is forgotten."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._names: set[str] = set()
        self._containers: dict[str, Container] = {}

    @contextlib.contextmanager
    def claim(self, name: str | None) -> Iterator[None]:
        """The name is taken while this lasts. Raises SpecError where it is."""
        if name is None:
            yield
            return
        with self._lock:
            other = next((container for container in self._containers.values() if container.name == name), None)
            if other is not None or name in self._names:
                state = other.status if other else "running"
                raise SpecError(f"--name: there is a container {name} already ({state}); choose another name, or: %container rm -f {name}")
            self._names.add(name)
        try:
            yield
        finally:
            with self._lock:
                self._names.discard(name)

    def add(self, container: Container) -> None:
        with self._lock:
            self._containers[container.id] = container

    def forget(self, container: Container) -> None:
        with self._lock:
            self._containers.pop(container.id, None)

    def all(self) -> list[Container]:
        with self._lock:
            return sorted(self._containers.values(), key=lambda container: container.created_unix_seconds)

    def find(self, text: str, verb: str = "exec") -> Container:
        """By name, id, or the beginning of an id. Raises SpecError with the nearest names."""
        known = self.all()
        found = [container for container in known if text in (container.name, container.id)]
        found = found or [container for container in known if text and container.id.startswith(text)]
        if len(found) == 1:
            return found[0]
        if found:
            raise SpecError(f"{verb}: {text} is the beginning of {len(found)} ids; give more of it")
        names = [container.name for container in known]
        close = difflib.get_close_matches(text, names, 2, 0.5)
        elsewhere = next((record for record in list_containers() if text in (record.name, record.id)), None)
        if elsewhere is not None:
            owner = "is run by a cell" if elsewhere.kernel_pid == os.getpid() else f"belongs to another kernel (process {elsewhere.kernel_pid})"
            raise SpecError(f"{verb}: {text} {owner}, and only containers that this kernel started in the background can be used")
        hint = f"did you mean {' or '.join(close)}?" if close else f"there are {', '.join(names)}" if names else "this kernel has none"
        raise SpecError(f"{verb}: there is no container {text}; {hint}")


CONTAINERS = Containers()
"""Those of this process."""


def open_container(begin: Callable[[], Run], spec: ContainerSpec, on_event: OnEvent | None) -> Container:
    """Start one in the background by ``begin``, which starts one of ``spec``."""
    with CONTAINERS.claim(spec.name):
        volumes = VolumesInUse(mount.source for mount in spec.mounts)
        try:
            container = Container(begin(), volumes, keep=spec.keep, on_event=on_event)
        except BaseException:
            volumes.close()
            raise
        CONTAINERS.add(container)
    try:
        container.begin()
    except BaseException:
        CONTAINERS.forget(container)
        raise
    return container


def background(spec: ContainerSpec, *, session: bool, keep: bool) -> ContainerSpec:
    """``spec`` for a container that nobody waits for."""
    return replace(spec, background=True, session=session, keep=keep)
