"""``%container stats``: what the table says of containers that run in other threads."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

import nbcontainer
from nbcontainer.engine import Run
from nbcontainer.events import Event, Output
from nbcontainer.notebook.crowd import Crowd, Member, parent_of, stats_table
from nbcontainer.notebook.dashboard import row_wire

MIB = 1 << 20


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
        table = stats_table(members)
        row = dict(zip(table.columns, table.rows[0], strict=True))
        assert (row["NAME"], row["NET I/O"], row["PIDS"]) == ("busy", "0 B / 0 B", "1")
        assert row["MEM USAGE / LIMIT"].endswith("/ 128 MiB") and row["CPU %"].endswith("%")
        wire = row_wire(member)
        assert (wire["name"], wire["limit"], wire["cpus"]) == ("busy", 128 * MIB, 0.5)
        assert (wire["received"], wire["sent"]) == (0, 0) and min(wire["read"], wire["written"]) >= 0
    finally:
        runs[0].kill()
        thread.join()
        gone = [member.record.id for member in crowd.look()]
        crowd.close()
    assert runs[0].container_id not in gone


@pytest.mark.parametrize(
    ("version_2", "directories", "parent"),
    [
        (False, ("memory/lab/nbc-1", "cpu,cpuacct/lab/nbc-1"), "/lab"),
        (False, ("memory/lab/nbc-1", "cpu,cpuacct/nbc-1"), None),
        (False, ("memory/a/b/nbc-1",), "/a/b"),
        (True, ("user.slice/x.scope/nbc-1",), "/user.slice/x.scope"),
        (True, (), None),
    ],
)
def test_where_another_kernel_nests(tmp_path: Path, version_2: bool, directories: tuple[str, ...], parent: str | None) -> None:
    if version_2:
        (tmp_path / "cgroup.controllers").touch()
    assert parent_of(tuple(f"{tmp_path}/{directory}" for directory in directories), str(tmp_path)) == parent


def test_a_kernel_that_nests_elsewhere_is_in_the_table_too() -> None:
    if os.geteuid() != 0:
        pytest.skip("an ordinary user has but one place where containers may nest")
    elsewhere = f"{os.environ.get('NBCONTAINER_CGROUP_PARENT') or '/nbcontainer'}-elsewhere-{os.getpid()}"
    code = "import nbcontainer; nbcontainer.run('data = bytearray(30_000_000)\\nwhile True: pass', mem='64M', name='elsewhere')"
    other = subprocess.Popen([sys.executable, "-c", code], env={**os.environ, "NBCONTAINER_CGROUP_PARENT": elsewhere, "NBCONTAINER_ENGINE": "local"})
    crowd = Crowd()

    def look() -> Member | None:
        return next((member for member in crowd.look() if member.record.kernel_pid == other.pid), None)

    try:
        while not ((member := look()) and member.last and member.last.memory_bytes > 30_000_000):
            assert other.poll() is None
        assert member.limits.memory_bytes == 64 * MIB
    finally:
        other.send_signal(signal.SIGINT)
        other.wait()
        crowd.close()
        for hierarchy in ("", *os.listdir("/sys/fs/cgroup")):
            with contextlib.suppress(OSError):
                os.rmdir(f"/sys/fs/cgroup/{hierarchy}{elsewhere}")
