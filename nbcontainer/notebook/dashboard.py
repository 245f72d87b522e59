"""All containers in one live table, as a widget that a thread of its own feeds: also while a cell blocks the kernel."""

from __future__ import annotations

import math
import threading
import time
import weakref
from importlib.resources import files
from typing import Any

import anywidget
import traitlets

from nbcontainer.notebook.crowd import Crowd, Member, look_twice, stats_table
from nbcontainer.verbs.listing import ids_of

INTERVAL_SECONDS = 1.0
_SOURCES = files("nbcontainer.notebook")


class Dashboard(anywidget.AnyWidget):
    """``close()`` ends it, and so does deleting it. Rows travel as custom messages once a second."""

    _esm = (_SOURCES / "dashboard.js").read_text(encoding="utf-8")
    _css = (_SOURCES / "panel.css").read_text(encoding="utf-8")
    interval = traitlets.Float(INTERVAL_SECONDS).tag(sync=True)

    def __init__(self, only: frozenset[str] | None = None) -> None:
        super().__init__()
        self._only = only
        self._asked = threading.Event()
        self.on_msg(self._on_message)
        # The thread must not keep alive what nobody looks at any more.
        threading.Thread(target=_feed, args=(weakref.ref(self), self._asked, only), name="nbcontainer-dashboard", daemon=True).start()

    def _on_message(self, widget: Any, content: Any, buffers: Any) -> None:
        if isinstance(content, dict) and content.get("k") == "hello":
            self._asked.set()

    def close(self) -> None:
        super().close()
        self._asked.set()

    def _repr_mimebundle_(self, **unused: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        view = {"version_major": 2, "version_minor": 0, "model_id": self.model_id}
        return {"application/vnd.jupyter.widget-view+json": view, "text/plain": stats_table(look_twice(self._only)).as_text()}, {}


def _feed(reference: weakref.ref[Dashboard], asked: threading.Event, only: frozenset[str] | None) -> None:
    crowd = Crowd(only)
    try:
        while (dashboard := reference()) is not None and dashboard.comm is not None:
            dashboard.send({"k": "rows", "rows": [row_wire(member) for member in crowd.look()]})
            del dashboard
            asked.wait(INTERVAL_SECONDS)
            asked.clear()
    finally:
        crowd.close()


def row_wire(member: Member) -> dict[str, Any]:
    """What the table shows of one container; null is not known, or no limit."""
    last, record = member.last, member.record
    received, sent = member.network_bytes() or (None, None)
    return {
        "id": record.id,
        "name": record.name,
        "status": record.status,
        "command": record.command[:40],
        "kernel": record.kernel_pid,
        "age": round(max(0.0, time.time() - record.created_unix_seconds), 1),
        "cpu": None if math.isnan(member.cpu_percent) else round(member.cpu_percent, 1),
        "cpus": member.limits.cpus,
        "memory": last.memory_bytes if last else None,
        "limit": member.limits.memory_bytes,
        "received": received,
        "sent": sent,
        "read": last.io_read_bytes if last else None,
        "written": last.io_write_bytes if last else None,
        "pids": last.pids if last else None,
        "cpuHistory": [round(value, 1) for value in member.cpu_history],
        "memoryHistory": list(member.memory_history),
    }


def dashboard(*names: str) -> Dashboard:
    """A live table of all containers of this user, or of those of these names; the last line of a cell shows it. Raises SpecError."""
    return Dashboard(ids_of(list(names)))
