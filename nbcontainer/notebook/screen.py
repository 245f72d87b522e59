"""What a cell says, shown as it comes: text at a pace that Jupyter's server bears, displays as far as they are harmless."""

from __future__ import annotations

import sys
import time
from typing import Any

from nbcontainer.events import CellError, Display, Event, Finished, Output
from nbcontainer.notebook import results
from nbcontainer.notebook.sanitise import DisplayIds, sanitise, sanitise_metadata

JUPYTER_BYTES_PER_SECOND, JUPYTER_BURST_BYTES = 8e5, 2e6
"""The server's default is 1e6, averaged over 3 seconds; encoding as JSON adds some."""


def _display_module() -> Any:
    """IPython.display, whose functions are untyped."""
    import IPython.display

    return IPython.display


class Pace:
    """Keeps output below what Jupyter's server lets through: above 1 MB a second it drops everything, and says so.

    The cell itself is not slowed down before its pipe is full.
    """

    def __init__(self, bytes_per_second: float, burst_bytes: float) -> None:
        self._rate, self._burst = bytes_per_second, burst_bytes
        self._room, self._moment = burst_bytes, time.monotonic()

    def wait_for(self, size_bytes: int) -> None:
        """Sleep until so much more may be sent."""
        now = time.monotonic()
        self._room = min(self._burst, self._room + (now - self._moment) * self._rate) - size_bytes
        self._moment = now
        if self._room < 0:
            time.sleep(-self._room / self._rate)


def pace_of(shell: Any) -> Pace:
    jupyter = type(shell).__name__ == "ZMQInteractiveShell"
    return Pace(JUPYTER_BYTES_PER_SECOND, JUPYTER_BURST_BYTES) if jupyter else Pace(1e15, 1e15)


class Screen:
    """Shows events as they come, in the thread of the cell. ``hidden`` names the streams that go into a variable instead."""

    def __init__(self, shell: Any, hidden: frozenset[str], *, trusted: bool = False) -> None:
        self._shell = shell
        self._hidden = hidden
        self._trusted = trusted
        self._pace = pace_of(shell)
        self._display_ids = DisplayIds()
        self._error: CellError | None = None

    def show(self, event: Event) -> None:
        if isinstance(event, CellError):
            self._show_error()
            self._error = event
        elif isinstance(event, Finished):
            if event.exit_code == 0:
                self._show_error()
        elif isinstance(event, Output):
            self._show_error()
            if event.stream not in self._hidden:
                self._pace.wait_for(len(event.text))
                stream = sys.stdout if event.stream == "stdout" else sys.stderr
                stream.write(event.text)
                stream.flush()
        elif isinstance(event, Display):
            self._show_error()
            self._show_display(event)

    def _show_error(self) -> None:
        """One that did not end the cell, such as of a repr: the cell has gone on. The one that did is raised at the end."""
        error, self._error = self._error, None
        if error is not None:
            self._pace.wait_for(sum(map(len, error.traceback)))
            print("\n".join(error.traceback) or f"{error.ename}: {error.evalue}", file=sys.stderr, flush=True)

    def _show_display(self, event: Display) -> None:
        shown = _display_module()
        if event.kind == "clear":
            shown.clear_output(wait=bool(event.metadata.get("wait")))
            return
        data = dict(event.data) if self._trusted else sanitise(event.data)
        metadata = dict(event.metadata) if self._trusted else sanitise_metadata(event.metadata)
        if event.kind == "result":
            results.show(self._shell, results.value_of(event.value, data, metadata), data, metadata)
        elif event.display_id is None:
            shown.display(data, raw=True, metadata=metadata)
        elif event.kind == "display":
            shown.display(data, raw=True, metadata=metadata, display_id=self._display_ids.new(event.display_id))
        else:
            known = self._display_ids.known(event.display_id)
            if known is not None:
                shown.display(data, raw=True, metadata=metadata, display_id=known, update=True)
