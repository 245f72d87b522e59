"""``%container stats``: what the table says of containers that run in other threads."""

from __future__ import annotations

import threading

import nbcontainer
from nbcontainer.engine import Run
from nbcontainer.events import Event, Output
from nbcontainer.notebook.crowd import Crowd, bars, format_stats
from nbcontainer.notebook.dashboard import row_wire

MIB = 1 << 20


def test_bars() -> None:
    assert bars([]) == ""
    assert bars([0, 50, 100]) == "▁▅█"
    assert bars([10], top=100) == "▁"


def test_running_containers_are_in_the_table_and_leave_it() -> None:
    runs: list[Run] = []
    ready = threading.Event()
    code = "data = bytearray(50_000_000)\nprint('ready', flush=True)\nwhile True: pass"

    def on_event(event: Event) -> None:
        if isinstance(event, Output):
            ready.set()

    options = {"mem": "128M", "cpus": 0.5, "pids": 32, "name": "busy", "timeout": 60}
    thread = threading.Thread(target=nbcontainer.run, args=(code,), kwargs={"on_event": on_event, "on_start": runs.append, **options})
    thread.start()
    crowd = Crowd()
    try:
        assert ready.wait(30)
        while not (members := [member for member in crowd.look() if member.record.id == runs[0].container_id]):
            pass  # a container is listed some milliseconds after it began
        while members[0].cpu_percent != members[0].cpu_percent or members[0].cpu_percent == 0:
            members = [member for member in crowd.look() if member.record.id == runs[0].container_id]
        (member,) = members
        assert member.last is not None and member.last.memory_bytes > 50_000_000
        assert (member.limits.memory_bytes, member.limits.cpus, member.limits.pids) == (128 * MIB, 0.5, 32)
        table = format_stats(members)
        assert table.splitlines()[0].split()[:2] == ["CONTAINER", "ID"]
        assert "busy" in table and "/ 128 MiB" in table
        wire = row_wire(member)
        assert (wire["name"], wire["limit"], wire["cpus"]) == ("busy", 128 * MIB, 0.5)
    finally:
        runs[0].kill()
        thread.join()
        gone = [member.record.id for member in crowd.look()]
        crowd.close()
    assert runs[0].container_id not in gone
