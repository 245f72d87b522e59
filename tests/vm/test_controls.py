"""The controls of a running container reach the guest, and Linux's answers come back."""

from __future__ import annotations

import threading
import time

import pytest

import nbcontainer
from nbcontainer.engine import Run
from nbcontainer.errors import SetupError, SpecError
from nbcontainer.events import Changed, Event, Output, Paused, Resumed
from nbcontainer.notebook.crowd import Crowd, Member, stats_table

MIB = 1 << 20


def test_pause_update_and_readings_in_a_guest() -> None:
    ready = threading.Event()
    ticks: list[float] = []
    failures: list[BaseException] = []

    def on_event(event: Event) -> None:
        if isinstance(event, Output):
            ready.set()

    def drive(run: Run) -> None:
        try:
            assert ready.wait(60)
            run.pause()
            assert run.readings().memory_by_kind["anon"] > 20_000_000
            run.resume()
            limits = run.update(mem="100M", cpus=0.5)
            assert (limits.memory_bytes, limits.cpus) == (100 * MIB, 0.5)
            with pytest.raises(SetupError, match="in use"):
                run.update(mem="4M")
        except BaseException as error:
            failures.append(error)
        finally:
            run.kill()

    def on_start(run: Run) -> None:
        runs.append(run)
        run.attend(lambda: ticks.append(0.0))
        threading.Thread(target=drive, args=(run,)).start()

    runs: list[Run] = []
    code = "data = bytearray(20_000_000)\nprint('ready', flush=True)\nwhile True: pass"
    result = nbcontainer.run(code, mem="64M", engine="vm", on_start=on_start, on_event=on_event)
    assert not failures
    assert result.outcome == "killed"
    assert [type(change) for change in result.changes] == [Paused, Resumed, Changed]
    assert result.limits.memory_bytes == 100 * MIB
    assert ticks
    with pytest.raises(SpecError, match="has ended"):
        runs[0].pause()


def test_the_guest_s_linux_says_what_it_killed() -> None:
    code = "import time\ndata = []\nwhile True: data.append(bytearray(1 << 20)); time.sleep(0.02)"  # so slowly that it is seen near the limit
    result = nbcontainer.run(code, mem="64M", engine="vm")
    assert result.outcome == "oom"
    (killed,) = result.killed
    assert killed.startswith("python")
    assert result.memory_by_kind["anon"] > 32 * MIB


def test_tables_of_containers_have_a_guest_s_readings() -> None:
    runs: list[Run] = []
    options = {"engine": "vm", "mem": "128M", "cpus": 0.5, "name": "far", "timeout": 120}
    code = "data = bytearray(50_000_000)\nwhile True: pass"
    thread = threading.Thread(target=nbcontainer.run, args=(code,), kwargs={"on_start": runs.append, **options})
    thread.start()
    crowd = Crowd()

    def look() -> Member | None:
        return next((member for member in crowd.look() if runs and member.record.id == runs[0].container_id), None)

    try:
        while not ((member := look()) and member.last and member.last.memory_bytes > 50_000_000 and member.cpu_percent > 0):
            assert thread.is_alive()
            time.sleep(0.05)
        assert (member.limits.memory_bytes, member.limits.cpus) == (128 * MIB, 0.5)
        assert "/ 128 MiB" in stats_table([member]).as_text()
        runs[0].update(mem="200M")
        runs[0].pause()
        while (member := look()) and member.record.status != "paused":
            time.sleep(0.05)
        assert member and member.limits.memory_bytes == 200 * MIB
    finally:
        runs[0].kill()
        thread.join()
        assert look() is None
        crowd.close()
