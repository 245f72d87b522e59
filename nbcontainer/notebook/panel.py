"""The live panel's widget: rows and markers go to the browser, clicks come back. Imported when a panel is shown."""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable
from importlib.resources import files
from typing import Any

import anywidget
import ipywidgets
import traitlets

from nbcontainer.engine import Run
from nbcontainer.errors import NbcontainerError, SetupError
from nbcontainer.linux.meminfo import host_memory_bytes
from nbcontainer.notebook.surroundings import cores
from nbcontainer.notebook.view import View, describe_change, limits_wire, marker_wire, pack_rows

LEFT_OPEN = 8
WITHOUT_PUMP = "This kernel cannot hear clicks while a cell runs: only the stop button (interrupt) works."
_SOURCES = files("nbcontainer.notebook")


class RunPanel(anywidget.AnyWidget):
    """Synchronised is only what never changes; all else are custom messages, so that nothing is sent twice."""

    _esm = (_SOURCES / "panel.js").read_text(encoding="utf-8")
    _css = (_SOURCES / "panel.css").read_text(encoding="utf-8")
    config = traitlets.Dict().tag(sync=True)


class PanelLink:
    """Between one view and its widget. ``tick`` runs in the cell's thread; messages may come in another one."""

    def __init__(self, view: View, run: Run, title: str, *, controls: bool, note: str = "") -> None:
        self._view, self._run = view, run
        self._lock = threading.Lock()
        self._limits = view.limits
        self._next_row = self._next_marker = 0
        self._told: tuple[Any, ...] = ()
        self._ticks_until_all = 0
        self._hellos = 0
        self._ended: _Ended | None = None
        config = {
            "title": title,
            "limits": limits_wire(view.limits),
            "host_memory": host_memory_bytes()[0],
            "host_cpus": cores(),
            "controls": controls,
            "interval": run.spec.interval_seconds if run is not None else None,
            "note": note if controls else WITHOUT_PUMP,
        }
        self._controls = controls
        self.widget = RunPanel(config=config)
        self.widget.on_msg(self._on_message)

    @property
    def answered(self) -> bool:
        """A front end has drawn it and said so."""
        return self._hellos > 0

    # ---- out

    def tick(self) -> None:
        """Send what is new since the last one, in one message."""
        with self._lock:
            if not self._controls and self._ticks_until_all <= 0:
                # Nobody can ask for what the browser missed while it loaded: send all of it now and then.
                self._ticks_until_all = 20
                self._send_all()
            else:
                self._ticks_until_all -= 1
                self._send_new()

    def _send_new(self) -> None:
        view = self._view
        first, rows = view.rows_since(self._next_row)
        message: dict[str, Any] = {"k": "d", "n": first, **self._news()}
        markers = view.markers[self._next_marker :]
        if markers:
            message["m"] = [marker_wire(marker) for marker in markers]
        if rows or len(message) > 2:
            self.widget.send(message, [pack_rows(rows)] if rows else None)
        self._next_row, self._next_marker = first + len(rows), self._next_marker + len(markers)

    def _send_all(self) -> None:
        view = self._view
        first, rows = view.rows_since(0)
        self._told = ()
        markers = [marker_wire(marker) for marker in view.markers]
        self.widget.send({"k": "all", "n": first, "m": markers, **self._news()}, [pack_rows(rows)])
        self._next_row, self._next_marker = first + len(rows), len(markers)

    def _news(self) -> dict[str, Any]:
        """Status, limits and warning, when they are other than what was sent last."""
        view = self._view
        now = (view.status, view.limits, view.warning)
        if now == self._told:
            return {}
        self._told = now
        return {"s": view.status, "l": limits_wire(view.limits), "w": view.warning}

    # ---- in

    def _on_message(self, widget: Any, content: Any, buffers: Any) -> None:
        """From the browser, so from anyone who can type there: only what is known is done."""
        kind = content.get("k") if isinstance(content, dict) else None
        if kind == "hello":
            with self._lock:
                self._hellos += 1
                if self._ended is None:
                    self._send_all()
                else:
                    self._ended.tell()
            return
        actions: dict[Any, Callable[[], str]] = {
            "pause": self._pause,
            "resume": self._resume,
            "stop": self._stop,
            "kill": self._kill,
            "update": lambda: self._update(content.get("set")),
        }
        if kind not in actions:
            return
        try:
            text, ok = actions[kind](), True
        except SetupError as error:
            text, ok = f"Linux refused it: {os.strerror(error.errno) if error.errno else error.step}. {error.remedy}", False
        except NbcontainerError as error:
            text, ok = str(error), False
        widget.send({"k": "said", "ok": ok, "text": text})

    def _pause(self) -> str:
        self._run.pause()
        return "All processes are frozen."

    def _resume(self) -> str:
        self._run.resume()
        return "All processes run again."

    def _stop(self) -> str:
        self._run.interrupt()
        return "Interrupted (SIGINT); a second time kills."

    def _kill(self) -> str:
        self._run.kill()
        return "Killed."

    def _update(self, changes: Any) -> str:
        if not isinstance(changes, dict) or not all(isinstance(value, int | float | None) for value in changes.values()):
            return "Nothing was changed."
        before = self._limits
        self._limits = self._run.update(**{str(name): value for name, value in changes.items()})
        change = describe_change(before, self._limits)
        return f"Linux says: {change}." if change else "Linux says: as before."

    def end(self, outputs: list[dict[str, Any]]) -> None:
        """The panel's display is replaced. But a page that was loaded again, or comes later, sees only the widget, and gets it from there.

        ``outputs``: data and metadata of the figure, of its caption, and of what comes below them; none where nothing stays.
        """
        with self._lock:
            self.widget.on_msg(self._on_message, remove=True)
            if not outputs:
                self.widget.close()
                return
            self._ended = _Ended(self.widget, outputs)
            if self._hellos > 1:
                self._ended.tell()
            leave_open(self.widget)


class _Ended:
    """What is left of a link when its run has ended."""

    def __init__(self, widget: RunPanel, outputs: list[dict[str, Any]]) -> None:
        self._widget, self._outputs = widget, outputs
        widget.on_msg(self._on_message)

    def tell(self) -> None:
        self._widget.send({"k": "end", "id": self._widget.model_id, "outputs": self._outputs})

    def _on_message(self, widget: Any, content: Any, buffers: Any) -> None:
        if isinstance(content, dict) and content.get("k") == "hello":
            self.tell()


def leave_open(widget: ipywidgets.DOMWidget) -> None:
    """For pages that come back: the last few."""
    _LEFT_OPEN.append(widget)
    while len(_LEFT_OPEN) > LEFT_OPEN:
        _LEFT_OPEN.popleft().close()


_LEFT_OPEN: deque[ipywidgets.DOMWidget] = deque()
