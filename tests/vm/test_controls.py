"""The controls of a running container reach the guest, and Linux's answers come back."""

from __future__ import annotations

import threading

import pytest

import nbcontainer
from nbcontainer.engine import Run
from nbcontainer.errors import SetupError, SpecError
from nbcontainer.events import Changed, Event, Output, Paused, Resumed

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
    result = nbcontainer.run("data = bytearray(200_000_000)", mem="64M", engine="vm")
    assert result.outcome == "oom"
    assert len(result.killed) == 1 and result.memory_by_kind["anon"] > 32 * MIB
