"""Pause, resume, change limits and kill while a cell runs: what Linux then does, not what we say."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest

import nbcontainer
from nbcontainer.engine import Run
from nbcontainer.errors import SetupError, SpecError
from nbcontainer.events import Changed, Event, Output, Paused, Resumed, Sample
from nbcontainer.result import Result

MIB = 1 << 20
FOREVER = "print('ready', flush=True)\nwhile True: pass"
COUNT = "import sys\nn = 0\nwhile True:\n    n += 1\n    if n % 100_000 == 0: print(n, flush=True)"


class Driver:
    """Runs a cell; calls ``on_ready`` in a thread of its own when the cell has printed something."""

    def __init__(self, code: str, on_ready: Callable[[Driver], None], **options: Any) -> None:
        self._code, self._on_ready, self._options = code, on_ready, {"mem": "128M", "timeout": 30, **options}
        self.events: list[Event] = []
        self.errors: list[BaseException] = []
        self.sampled = threading.Condition()

    def run(self) -> Result:
        self._thread: threading.Thread | None = None
        result = nbcontainer.run(self._code, on_event=self._on_event, on_start=self._on_start, **self._options)
        assert self._thread is not None
        self._thread.join()
        assert not self.errors, self.errors
        return result

    def _on_start(self, run: Run) -> None:
        self.live = run

    def _on_event(self, event: Event) -> None:
        with self.sampled:
            self.events.append(event)
            self.sampled.notify_all()
        if isinstance(event, Output) and self._thread is None:
            self._thread = threading.Thread(target=self._drive)
            self._thread.start()

    def _drive(self) -> None:
        try:
            self._on_ready(self)
        except BaseException as error:
            self.errors.append(error)
            self.live.kill()

    def wait_for(self, wanted: Callable[[list[Event]], bool]) -> None:
        with self.sampled:
            assert self.sampled.wait_for(lambda: wanted(self.events), 20)

    def samples_after(self, event: type) -> list[Sample]:
        """By the clock: one that was read before may come after."""
        since = max(seen.monotonic_seconds for seen in self.events if isinstance(seen, event))
        return [seen for seen in self.events if isinstance(seen, Sample) and seen.monotonic_seconds > since]


def test_a_paused_container_uses_no_cpu_and_goes_on_after() -> None:
    def drive(driver: Driver) -> None:
        driver.live.pause()
        driver.live.pause()
        driver.wait_for(lambda events: any(isinstance(event, Paused) for event in events))
        driver.wait_for(lambda events: len(driver.samples_after(Paused)) > 5)
        driver.live.resume()
        driver.wait_for(lambda events: any(isinstance(event, Resumed) for event in events))
        driver.wait_for(lambda events: len(driver.samples_after(Resumed)) > 5)
        driver.live.kill()

    driver = Driver(COUNT, drive)
    result = driver.run()
    assert result.outcome == "killed"
    assert [type(change) for change in result.changes] == [Paused, Resumed]
    paused, resumed = result.changes
    still = [s.cpu_seconds for s in result.samples if paused.monotonic_seconds < s.monotonic_seconds < resumed.monotonic_seconds]
    # The first of them may have been read before the last process froze.
    assert still[-1] == pytest.approx(still[1], abs=0.02)  # Linux adds up what CPUs have counted now and then
    assert result.usage.cpu_seconds > still[-1]


@pytest.mark.parametrize("how", ["kill", "interrupt", "timeout"])
def test_a_paused_container_can_be_ended(how: str) -> None:
    def drive(driver: Driver) -> None:
        driver.live.pause()
        if how != "timeout":
            getattr(driver.live, how)()

    options = {"timeout": 1} if how == "timeout" else {}
    result = Driver(FOREVER, drive, **options).run()
    assert result.outcome == {"kill": "killed", "interrupt": "interrupted", "timeout": "timeout"}[how]


def test_limits_change_and_the_file_inside_says_so() -> None:
    code = (
        "import glob, time\n"
        "file = next(p for p in ('/sys/fs/cgroup/memory.max', '/sys/fs/cgroup/memory/memory.limit_in_bytes') if glob.glob(p))\n"
        "before = open(file).read()\nprint(before, flush=True)\n"
        "while open(file).read() == before: time.sleep(0.01)\nprint(open(file).read(), flush=True)"
    )

    def drive(driver: Driver) -> None:
        limits = driver.live.update(cpus=0.5, pids=32)
        assert (limits.cpus, limits.pids, limits.memory_bytes) == (0.5, 32, 128 * MIB)
        assert driver.live.update(cpus=None).cpus is None
        assert driver.live.update(mem="200M").memory_bytes == 200 * MIB

    result = Driver(code, drive).run()
    assert result.ok
    assert result.stdout.split() == [str(128 * MIB), str(200 * MIB)]
    assert [change.limits.memory_bytes for change in result.changes if isinstance(change, Changed)][-1] == 200 * MIB
    assert result.limits.memory_bytes == 200 * MIB


def test_memory_below_what_is_in_use_is_refused_and_nothing_changes() -> None:
    def drive(driver: Driver) -> None:
        with pytest.raises(SetupError, match="in use") as refused:
            driver.live.update(mem="8M")
        assert "did not run" not in str(refused.value)
        assert "the container goes on as it was" in str(refused.value)
        assert driver.live.update(cpus=0.5).memory_bytes == 128 * MIB
        driver.live.kill()

    assert Driver("data = bytearray(50_000_000)\n" + FOREVER, drive).run().outcome == "killed"


def test_bad_changes_are_the_users_and_clicks_after_the_end_are_told() -> None:
    def drive(driver: Driver) -> None:
        for changes in ({"mem": "much"}, {"cpus": 0}, {"hostname": "x"}, {"swap": None}, {"mem": "9999T"}):
            with pytest.raises(SpecError):
                driver.live.update(**changes)
        readings = driver.live.readings()
        assert readings.memory_by_kind["anon"] > 0
        driver.live.kill()

    driver = Driver(FOREVER, drive)
    assert driver.run().changes == ()
    driver.live.kill()
    for control in (driver.live.pause, driver.live.resume, driver.live.update, driver.live.readings):
        with pytest.raises(SpecError, match="has ended"):
            control()


def test_attendants_are_called_and_their_errors_end_the_container() -> None:
    class Stop(Exception):
        pass

    def stop() -> None:
        raise Stop

    with pytest.raises(Stop):
        nbcontainer.run("while True: pass", mem="64M", on_start=lambda run: run.attend(stop))


def test_out_of_memory_says_what_was_in_it() -> None:
    result = nbcontainer.run("data = bytearray(200_000_000)", mem="64M")
    assert result.outcome == "oom"
    assert result.memory_by_kind["anon"] > 32 * MIB
    assert result.killed in ((), (f"python (pid {result.pid})",), (f"python3 (pid {result.pid})",))
