"""Where containers run: the Engine protocol, and the choice of one."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Generator
from typing import Protocol

from nbcontainer.errors import SpecError
from nbcontainer.events import Event
from nbcontainer.spec import ContainerSpec


class Run(Protocol):
    """One container that runs one cell. Iterate for its events; the other methods may be called from anywhere."""

    spec: ContainerSpec
    """As it is in force: what the engine had to add is in it, with a note."""

    def events(self) -> Generator[Event, None, None]:
        """Everything that happens, ending with Finished; by then nothing of the container is left.

        Closing the generator early ends the container.
        """

    def interrupt(self) -> None:
        """SIGINT to every process; a second call, or one second, kills."""

    def kill(self) -> None:
        """End it now; the outcome is ``killed``."""


class Engine(Protocol):
    name: str

    def start(self, spec: ContainerSpec, code: str) -> Run:
        """A container for ``code``, its limits in force. Raises SpecError, HostError, SetupError or InternalError."""

    def explain(self, spec: ContainerSpec) -> list[str]:
        """The plan, a line each, without starting anything."""


def open_engine(name: str | None = None) -> Engine:
    """The engine of this process by name: ``local``, ``vm`` or ``auto`` (NBCONTAINER_ENGINE, then ``auto``)."""
    name = name or os.environ.get("NBCONTAINER_ENGINE") or "auto"
    if name not in ("auto", "local", "vm"):
        raise SpecError(f"--engine: {name!r} is not an engine; there are auto, local and vm")
    opener: Callable[[], Engine]
    if name == "vm":
        from nbcontainer.engine.vm import open_vm as opener
    elif name == "local":
        from nbcontainer.engine.local import open_local as opener
    else:
        from nbcontainer.engine.auto import open_auto as opener

    return opener()


def shutdown() -> None:
    """End all containers of this process, wherever they run, and whatever serves them."""
    for name in ("local", "vm"):
        module = sys.modules.get(f"nbcontainer.engine.{name}")
        if module is not None:
            module.shutdown()
