"""Where containers run: the Engine protocol, and the choice of one."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Generator
from typing import TYPE_CHECKING, Any, Protocol

from nbcontainer.errors import SpecError
from nbcontainer.events import Event, Readings
from nbcontainer.spec import ContainerSpec, Limits
from nbcontainer.spelling import hint

if TYPE_CHECKING:
    from nbcontainer.engine.changes import Change
    from nbcontainer.engine.transfer import Transfer
    from nbcontainer.network.described import NetworkDescription, NetworkPicture


class Run(Protocol):
    """One container that runs one cell. Iterate for its events; the other methods may be called from any thread.

    After the end, ``interrupt`` and ``kill`` do nothing, and the other controls raise SpecError.
    """

    container_id: str
    spec: ContainerSpec
    """As it is in force: what the engine had to add is in it, with a note."""

    @property
    def pid(self) -> int:
        """Of its process, as this host sees it; in a virtual machine, of the machine."""

    def events(self) -> Generator[Event, None, None]:
        """Everything that happens, ending with Finished; by then nothing of the container is left.

        Closing the generator early ends the container.
        """

    def interrupt(self) -> None:
        """SIGINT to every process; a second call, or one second, kills."""

    def kill(self) -> None:
        """End it now, also when it is paused; the outcome is ``killed``."""

    def signal(self, number: int) -> None:
        """Send a signal to its process alone, as ``docker kill -s``; SIGKILL ends the container."""

    def within(self, spec: ContainerSpec, code: str, transfer: Transfer | None = None) -> Run:
        """Run something in this container, which goes on when it has ended. ``spec`` is the container's with another program.

        Without a program in a session: its next cell. Else a new process. Its run's ``kill`` ends that process, or the
        session; the controls are the container's. Raises SpecError, HostError, SetupError, InternalError.
        """

    def processes(self) -> list[int]:
        """Ids of all processes of the container, as this host sees them."""

    def changes(self) -> list[Change]:
        """What was added, changed and deleted in its copy-on-write root; also after the end, where the spec says ``keep``.

        Raises SpecError where it has no such root, or it is gone.
        """

    def forget(self) -> None:
        """Let go of what was kept after the end."""

    def pause(self) -> None:
        """Freeze all processes; says Paused. Nothing happens when they are. Raises HostError or SetupError."""

    def resume(self) -> None:
        """Let them run again; says Resumed."""

    def update(self, **changes: Any) -> Limits:
        """Change limits, by their option names (``mem="256M"``, ``cpus=0.5``; None takes a limit away); says Changed.

        Returns what the cgroup files say then. Raises SpecError, HostError, or SetupError with what Linux answered;
        the limits are then as they were.
        """

    def readings(self) -> Readings:
        """What is too slow for every sample."""

    def answer_input(self, line: str | None, why: str = "") -> None:
        """A line for the cell that an InputRequest told of. None: nobody answers, and ``why``; ``"EOF"``: they ended the input."""

    def is_over(self) -> bool:
        """Its end is near: the cell has ended, is to be killed, or has run out of time; what :meth:`events` says next tells."""

    def attend(self, callback: Callable[[], None], fd: int = -1) -> None:
        """Have the thread that iterates :meth:`events` call ``callback`` ten times a second, and when ``fd`` can be read.

        To be called in that thread, from the first event on; a callback may do so too.
        """


class Networks(Protocol):
    """The networks of an engine; see :mod:`nbcontainer.networks`. All raise SpecError, HostError, SetupError or InternalError."""

    def create(self, name: str, *, subnet: str | None = None, internal: bool = False) -> NetworkDescription: ...
    def list(self) -> tuple[NetworkDescription, ...]: ...
    def inspect(self, name: str) -> NetworkPicture: ...
    def remove(self, name: str) -> None: ...
    def names(self) -> tuple[str, ...]:
        """Of those that are known to be there, without starting anything."""


class Engine(Protocol):
    name: str

    @property
    def networks(self) -> Networks: ...

    def start(self, spec: ContainerSpec, code: str, transfer: Transfer | None = None) -> Run:
        """A container for ``code``, its limits in force; ``transfer``: the variables that go in and come out, which stays the caller's.

        Raises SpecError, HostError, SetupError or InternalError.
        """

    def explain(self, spec: ContainerSpec) -> list[str]:
        """The plan, a line each, without starting anything."""


def open_engine(name: str | None = None) -> Engine:
    """The engine of this process by name: ``local``, ``vm`` or ``auto`` (NBCONTAINER_ENGINE, then ``auto``)."""
    name = name or os.environ.get("NBCONTAINER_ENGINE") or "auto"
    if name not in ("auto", "local", "vm"):
        raise SpecError(f"--engine: {name!r} is not an engine; {hint(str(name), ('auto', 'local', 'vm'))}")
    opener: Callable[[], Engine]
    if name == "vm":
        from nbcontainer.engine.vm.engine import open_vm as opener
    elif name == "local":
        from nbcontainer.engine.local import open_local as opener
    else:
        from nbcontainer.engine.auto import open_auto as opener

    return opener()


def shutdown() -> None:
    """End all containers of this process, wherever they run, and whatever serves them."""
    for name in ("local", "vm.engine"):
        module = sys.modules.get(f"nbcontainer.engine.{name}")
        if module is not None:
            module.shutdown()
