"""The containers of this process: those that run in the background, the sessions, those that were kept, and those of cells that run."""

from __future__ import annotations

import contextlib
import difflib
import os
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

from nbcontainer import control as control  # answers what others ask of these
from nbcontainer.background import BackgroundRun
from nbcontainer.conduct import OnStart
from nbcontainer.engine import Run
from nbcontainer.errors import InternalError, SpecError
from nbcontainer.events import Event, InputRequest, Output
from nbcontainer.logs import Log
from nbcontainer.result import Collector, OnEvent, how_it_ended
from nbcontainer.running import RunningContainer
from nbcontainer.spec import ContainerSpec
from nbcontainer.state import ContainerRecord, list_containers
from nbcontainer.volumes import VolumesInUse

if TYPE_CHECKING:
    from types import TracebackType

    from nbcontainer.engine.changes import Change

MOST_REMEMBERED = 200
"""Names and ids of containers that are gone, of which it is known still how they have ended."""

_STAYS = {"logs": "its log", "inspect": "all of this", "diff": "its files"}
"""By verb: what --keep keeps."""


class Container(RunningContainer):
    """A container that runs in the background. Methods may be called from any thread; as a context manager, it is removed."""

    def __init__(self, run: Run, volumes: VolumesInUse, *, keep: bool = False, on_event: OnEvent | None = None, code: str = "") -> None:
        super().__init__(run, Log())
        self._keep = keep
        self._collector = Collector(run.spec, on_event, self.log.texts(), code)
        self._removed = False
        self._volumes = volumes

    def begin(self) -> None:
        """Have a thread take what it says; returns when its code has begun. Raises what went wrong before that."""
        BackgroundRun(self._run, f"nbcontainer-{self.name}", self._take, self._end).begin()

    def _take(self, event: Event) -> None:
        self._needed = {threading.get_ident()}
        if isinstance(event, Output):
            self.log.append(event.stream, event.text)
        elif isinstance(event, InputRequest) and not self.is_session:
            self._run.answer_input(None, "nobody can type here: the container runs in the background")
        self._note(event)
        self._collector.take(event)

    def _end(self, failure: BaseException | None) -> None:
        try:
            self._volumes.close()
            self.log.close()
            self.result = None if failure is not None else self._collector.result()
        except Exception as error:  # raised by wait(): nobody may wait for an end that does not come
            failure = failure or error
        self._failure = failure
        self.ended_unix_seconds = time.time()
        if not self._keep:
            CONTAINERS.forget(self)
        self._ended.set()

    def diff(self) -> list[Change]:
        """Paths of its root that were added (A), changed (C) and deleted (D), also of one that was kept."""
        if self._ended.is_set() and not self._keep:
            raise SpecError(f"diff: {self.name} has ended, and its files with it; --keep keeps them")
        return self._run.changes()

    def _forget(self) -> None:
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


class CellContainer(RunningContainer):
    """That of a cell which somebody waits for, while it runs: for other threads and other notebooks."""

    def __init__(self, run: Run, collector: Collector) -> None:
        super().__init__(run, Log(on_disk=False))
        self._collector = collector
        self._needed = {threading.get_ident()}

    def take(self, event: Event) -> None:
        if isinstance(event, Output):
            self.log.append(event.stream, event.text)
        else:
            self._note(event)

    def end(self) -> None:
        try:
            with contextlib.suppress(InternalError):  # whoever waits for the cell has it raised
                self.result = self._collector.result()
        finally:
            self.ended_unix_seconds = time.time()
            self.log.close()
            CONTAINERS.forget(self)
            self._ended.set()

    def _forget(self) -> None:
        """It keeps nothing."""


class Containers:
    """By name and by id. A name belongs to one, from before it is made until it is forgotten."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._names: set[str] = set()
        self._containers: dict[str, RunningContainer] = {}
        self._gone: OrderedDict[str, tuple[str, int | None]] = OrderedDict()
        """How those that are not here any more have ended, by name and id: in words, and the exit code."""

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

    @contextlib.contextmanager
    def of_cell(self, run: Run, collector: Collector) -> Iterator[CellContainer]:
        """The container of a cell, which is here while this lasts."""
        container = CellContainer(run, collector)
        self.add(container)
        try:
            yield container
        finally:
            container.end()

    def add(self, container: RunningContainer) -> None:
        with self._lock:
            self._containers[container.id] = container

    def forget(self, container: RunningContainer) -> None:
        with self._lock:
            if self._containers.pop(container.id, None) is None:
                return
            ended = f"{container.name} has ended" + (f" ({how_it_ended(container.result)})" if container.result is not None else "")
            again = f"; start it anew: %container start {container.name}" if container.is_session and container.name != container.id else ""
            for key in (container.id, container.name):
                self._gone[key] = ended + again, None if container.result is None else container.result.status_code
                self._gone.move_to_end(key)
            while len(self._gone) > MOST_REMEMBERED:
                self._gone.popitem(last=False)

    def all(self) -> list[RunningContainer]:
        with self._lock:
            return sorted(self._containers.values(), key=lambda container: container.created_unix_seconds)

    def find(self, text: str, verb: str = "exec") -> RunningContainer:
        """By name, id, or the beginning of an id. Raises SpecError with the nearest names."""
        found = self._called(text)
        if len(found) == 1:
            return found[0]
        if found:
            raise SpecError(f"{verb}: {text} is the beginning of {len(found)} ids; give more of it")
        elsewhere = next((record for record in list_containers() if text in (record.name, record.id)), None)
        if elsewhere is not None and elsewhere.kernel_pid != os.getpid():
            raise SpecError(f"{verb}: {text} belongs to another notebook (process {elsewhere.kernel_pid}), and so do its variables")
        raise self._no_such(text, verb)

    def status_code_of_gone(self, text: str) -> int | None:
        """Of one that has ended and was not kept; None where that is not known."""
        return None if self._called(text) else self._gone.get(text, ("", None))[1]

    def knows(self, text: str) -> bool:
        """A container of this kernel is meant."""
        return bool(self._called(text))

    def _called(self, text: str) -> list[RunningContainer]:
        known = self.all()
        found = [container for container in known if text in (container.name, container.id)]
        return found or [container for container in known if text and container.id.startswith(text)]

    def _no_such(self, text: str, verb: str) -> SpecError:
        if text in self._gone:
            kept = f"; what runs with -d --keep can be asked for {_STAYS[verb]} afterwards" if verb in _STAYS else ""
            return SpecError(f"{verb}: {self._gone[text][0]}{kept}")
        names = list(dict.fromkeys([*(container.name for container in self.all()), *(record.name for record in list_containers())]))
        close = difflib.get_close_matches(text, names, 2, 0.5)
        hint = f"did you mean {' or '.join(close)}?" if close else f"there are {', '.join(names)}" if names else "none is running"
        return SpecError(f"{verb}: there is no container {text}; {hint}")

    def find_record(self, text: str, verb: str) -> ContainerRecord:
        """Of a container that runs, of whichever kernel of this user. Raises SpecError with the nearest names."""
        records = list_containers()
        found = [record for record in records if text in (record.name, record.id)] or [record for record in records if text and record.id.startswith(text)]
        if found:
            return found[0]
        return self.find(text, verb).record()  # it has just begun, and is not listed yet


CONTAINERS = Containers()
"""Those of this process."""


def open_container(begin: Callable[[], Run], spec: ContainerSpec, on_event: OnEvent | None, on_start: OnStart | None = None, code: str = "") -> Container:
    """Start one in the background by ``begin``, which starts one of ``spec``; ``code``: a Python cell's, to quote from."""
    with CONTAINERS.claim(spec.name):
        volumes = VolumesInUse(mount.source for mount in spec.mounts)
        try:
            run = begin()
            container = Container(run, volumes, keep=spec.keep, on_event=on_event, code=code)
        except BaseException:
            volumes.close()
            raise
        CONTAINERS.add(container)
    try:
        container.begin()
    except BaseException:
        CONTAINERS.forget(container)
        raise
    if on_start is not None:
        on_start(run)
    return container


def background(spec: ContainerSpec, *, session: bool, keep: bool) -> ContainerSpec:
    """``spec`` for a container that nobody waits for."""
    return replace(spec, background=True, session=session, keep=keep)
