"""The containers of this kernel: those that run in the background, the sessions, and those that were kept."""

from __future__ import annotations

import contextlib
import difflib
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal

from nbcontainer.conduct import conduct
from nbcontainer.engine import Run
from nbcontainer.errors import HostError, InternalError, NbcontainerError, SpecError
from nbcontainer.events import Event, Output, Paused, Readings, Resumed, Running
from nbcontainer.logs import Log, Record
from nbcontainer.result import Collector, OnEvent, Result
from nbcontainer.spec import ContainerSpec, Limits, parse_process

if TYPE_CHECKING:
    from types import TracebackType

STOP_SECONDS = 10.0
"""From SIGTERM to SIGKILL, as ``docker stop``."""
READY_SECONDS = 10.0
INIT_READY_SECONDS = 0.3
"""With an init above it, nobody can tell when a program has begun: an error that comes later is in its log."""
OnStart = Callable[[Run], None]


class Container:
    """A container that runs in the background. Methods may be called from any thread; as a context manager, it is removed."""

    def __init__(self, run: Run, *, keep: bool = False, on_event: OnEvent | None = None) -> None:
        self._run, self._keep = run, keep
        self.id = run.container_id
        self.name = run.spec.name or run.container_id
        self.spec: ContainerSpec = run.spec
        self.created_unix_seconds = time.time()
        self.ended_unix_seconds: float | None = None
        self.result: Result | None = None
        """What came of it, once it has ended."""
        self.paused = False
        self.log = Log()
        self._on_event = on_event
        self._collector = Collector(run.spec, None, self.log.texts())
        self._failure: NbcontainerError | None = None
        self._ready, self._ended = threading.Event(), threading.Event()
        self._removed = False
        self._thread = threading.Thread(target=self._attend, name=f"nbcontainer-{self.name}", daemon=True)

    # ---- its thread

    def _attend(self) -> None:
        try:
            with closing(self._run.events()) as events:
                for event in events:
                    self._take(event)
            self.result = self._collector.result()
        except NbcontainerError as error:
            self._failure = error
        except BaseException as error:
            self._failure = InternalError(f"a container's thread failed: {type(error).__name__}: {error}")
            raise
        finally:
            self.ended_unix_seconds = time.time()
            self.log.close()
            if not self._keep:
                CONTAINERS.forget(self)
            self._ready.set()
            self._ended.set()

    def _take(self, event: Event) -> None:
        if isinstance(event, Output):
            self.log.append(event.stream, event.text)
        elif isinstance(event, Running):
            self._ready.set()
        elif isinstance(event, Paused | Resumed):
            self.paused = isinstance(event, Paused)
        self._collector.take(event)
        if self._on_event is not None:
            self._on_event(event)

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
    def is_session(self) -> bool:
        return self.spec.session

    @property
    def pid(self) -> int | None:
        """Of its first process, as this host sees it."""
        return None if self._ended.is_set() else self._run.pid

    def __repr__(self) -> str:
        return f"<Container {self.name}: {self.status}>"

    # ---- running something in it

    def run(self, code: str, *, on_event: OnEvent | None = None, on_start: OnStart | None = None, **options: Any) -> Result:
        """Run a Python cell: in a session, with what earlier cells have left, else in a new process.

        ``options``: timeout, max_output, interval, and outside a session env, workdir and user. What the code does is in the
        result, of which ``usage`` and ``samples`` are this cell's. Where the session ends with it, ``result.note`` says so.
        """
        return self._conduct(code, (), options, on_event, on_start)

    def exec(
        self,
        program: str | Sequence[str],
        code: str | bytes = "",
        *,
        on_event: OnEvent | None = None,
        on_start: OnStart | None = None,
        **options: Any,
    ) -> Result:
        """Run ``program`` as a new process in its namespaces and its cgroup, as ``docker exec``; ``code`` is its standard input.

        ``options``: as for :meth:`run`. Its user, rights and filter are the container's. Interrupting, a timeout and ``kill`` end
        what it has started, not the container.
        """
        text = code.decode("utf-8", "surrogateescape") if isinstance(code, bytes) else code
        return self._conduct(text, program, options, on_event, on_start)

    def _conduct(
        self, code: str, program: str | Sequence[str], options: dict[str, Any], on_event: OnEvent | None, on_start: OnStart | None
    ) -> Result:
        spec = parse_process(self.spec, program, options)
        self._refuse_after_the_end("exec")
        if self.paused:
            raise SpecError(f"exec: {self.name} is paused; first: %container resume {self.name}")
        result = conduct(lambda: self._run.within(spec, code), on_event, on_start, "" if program else code)
        if not result.goes_on:
            self._ended.wait(READY_SECONDS)  # its thread is about to say so too
        return result

    # ---- what can be done to it

    def pause(self) -> None:
        """Freeze all its processes."""
        self._refuse_after_the_end("pause")
        self._run.pause()

    def resume(self) -> None:
        self._refuse_after_the_end("resume")
        self._run.resume()

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
        hint = f"did you mean {' or '.join(close)}?" if close else f"there are {', '.join(names)}" if names else "this kernel has none"
        raise SpecError(f"{verb}: there is no container {text}; {hint}")


CONTAINERS = Containers()
"""Those of this process."""


def open_container(begin: Callable[[], Run], *, name: str | None, keep: bool, on_event: OnEvent | None) -> Container:
    """Start one in the background by ``begin``."""
    with CONTAINERS.claim(name):
        container = Container(begin(), keep=keep, on_event=on_event)
        CONTAINERS.add(container)
    try:
        container.begin()
    except BaseException:
        CONTAINERS.forget(container)
        raise
    return container


def background(spec: ContainerSpec, *, session: bool) -> ContainerSpec:
    """``spec`` for a container that nobody waits for."""
    return replace(spec, background=True, session=session)
