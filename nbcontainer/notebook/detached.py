"""What a container in the background says, below the cell that started it, whichever cell runs meanwhile."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any

from nbcontainer.events import CellError, Display, Event, Output
from nbcontainer.notebook import results
from nbcontainer.notebook.live import TICK_SECONDS, Live, is_kernel
from nbcontainer.notebook.sanitise import DisplayIds, sanitise, sanitise_metadata
from nbcontainer.notebook.screen import pace_of
from nbcontainer.threads import start_daemon

if TYPE_CHECKING:
    from nbcontainer.containers import Container
    from nbcontainer.engine import Run
    from nbcontainer.result import Result


class DetachedScreen:
    """Made in the cell; :meth:`show` is called in the container's thread.

    In Jupyter, messages name the cell that they belong to: print and display would name the one that runs now.
    """

    def __init__(self, shell: Any, *, trusted: bool = False) -> None:
        self._kernel = shell.kernel if is_kernel(shell) else None
        self._outs, self._number = shell.user_ns["_oh"], shell.displayhook.prompt_count
        self._parent = None if self._kernel is None else self._kernel.get_parent("shell")
        self._pace = pace_of(shell)
        self._trusted = trusted
        self._display_ids = DisplayIds()

    def show(self, event: Event) -> None:
        if isinstance(event, Output):
            self._write(event.stream, event.text)
        elif isinstance(event, CellError):
            self._write("stderr", ("\n".join(event.traceback) or f"{event.ename}: {event.evalue}") + "\n")
        elif isinstance(event, Display) and event.kind != "clear":
            self._display(event)

    def say(self, text: str) -> None:
        """A line of ours."""
        self._write("stderr", f"\x1b[2m{text}\x1b[0m\n")

    def place(self, bundle: dict[str, Any], metadata: dict[str, Any] | None = None, *, display_id: str | None = None, update: bool = False) -> None:
        """As :func:`nbcontainer.notebook.live.show`, in Jupyter."""
        self._pace.wait_for(sum(len(str(data)) for data in bundle.values()))
        transient = {} if display_id is None else {"display_id": display_id}
        self._send("update_display_data" if update else "display_data", {"data": bundle, "metadata": metadata or {}, "transient": transient})

    def _write(self, stream: str, text: str) -> None:
        self._pace.wait_for(len(text))
        if self._kernel is None:
            file = sys.stdout if stream == "stdout" else sys.stderr
            file.write(text)
            file.flush()
        else:
            self._send("stream", {"name": stream, "text": text})

    def _display(self, event: Display) -> None:
        data = dict(event.data) if self._trusted else sanitise(event.data)
        metadata = dict(event.metadata) if self._trusted else sanitise_metadata(event.metadata)
        if event.kind == "result":  # ``Out[5]`` of the cell that started it; ``_`` is the cell's that runs now
            self._outs[self._number] = results.value_of(event.value, data, metadata)
        if self._kernel is None:
            self._write("stdout", f"{data.get('text/plain', '')}\n")
            return
        if event.kind == "result":
            self._pace.wait_for(event.size_bytes)
            self._send("execute_result", {"execution_count": self._number, "data": data, "metadata": metadata})
            return
        transient = {}
        kind = "display_data"
        if event.display_id is not None:
            known = self._display_ids.known(event.display_id) if event.kind == "update" else self._display_ids.new(event.display_id)
            if known is None:
                return
            kind = "update_display_data" if event.kind == "update" else kind
            transient = {"display_id": known}
        self._pace.wait_for(event.size_bytes)
        self._send(kind, {"data": data, "metadata": metadata, "transient": transient})

    def _send(self, kind: str, content: dict[str, Any]) -> None:
        kernel: Any = self._kernel
        # ipykernel's iopub socket hands on to its own thread, from whichever thread.
        kernel.session.send(kernel.iopub_socket, kind, content, parent=self._parent, ident=kind.encode())


class DetachedView:
    """The live view of a container in the background, below the cell that started it, until the figure takes its place."""

    def __init__(self, shell: Any, screen: DetachedScreen) -> None:
        self._live = Live(shell, True, screen.place)
        self._events: SimpleQueue[Event] = SimpleQueue()

    def take(self, event: Event) -> None:
        """In the container's thread, which is not to wait for the view's."""
        if not isinstance(event, Output | Display | CellError):
            self._events.put(event)

    def begin(self, run: Run, container: Container, card_of: Callable[[Result], dict[str, str] | None]) -> None:
        """In the cell's thread; from then on another one draws. ``card_of`` says what comes below the figure."""
        self._live.open_beside(run)
        start_daemon(lambda: self._follow(container, card_of), f"nbcontainer-view-{container.name}")

    def _follow(self, container: Container, card_of: Callable[[Result], dict[str, str] | None]) -> None:
        result = None
        try:
            while (result := container.wait(TICK_SECONDS)) is None:
                self._fold()
                self._live.tick()
        finally:
            self._fold()
            self._live.close(result, worth_a_figure=True, card=None if result is None else card_of(result))

    def _fold(self) -> None:
        with contextlib.suppress(Empty):
            while True:
                self._live.fold(self._events.get_nowait())
