"""What is measured, and how: every measure is a function that returns numbers; run.py prints them."""

from __future__ import annotations

import json
import os
import random
import secrets
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
from IPython.core.interactiveshell import InteractiveShell
from IPython.utils.capture import capture_output
from peers import Peers, Timing

LINE = "--mem 128M --cpus 1 --pids 64"
OURS = "nbcontainer"


def _notebook() -> InteractiveShell:
    shell = InteractiveShell.instance()
    if "container" not in shell.magics_manager.magics["cell"]:
        shell.run_line_magic("load_ext", "nbcontainer")
    return shell


def _engine() -> Any:
    from nbcontainer.engine.local import open_local

    return open_local()


def _kernel_cpu_seconds() -> float:
    """Of this process, the zygote, and all that the zygote has waited for: boxes made in advance count."""
    total = 0.0
    for process in (psutil.Process(), psutil.Process(_engine()._client.pid)):
        times = process.cpu_times()
        total += times.user + times.system
        if process.pid != os.getpid():
            total += times.children_user + times.children_system
    return total


def cgroup_exists(container_id: str) -> bool:
    return any(container_id in names for _, names, _ in os.walk("/sys/fs/cgroup"))


def run_cell() -> float:
    """One cell through the magic, as a notebook runs it. Returns wall seconds; checks that it was really contained."""
    shell, nonce = _notebook(), secrets.token_hex(8)
    cell = f"import os\nprint(os.getpid(), os.uname().nodename, {nonce!r})"
    with capture_output() as captured:
        begin = time.perf_counter()
        shell.run_cell_magic("container", LINE, cell)
        wall = time.perf_counter() - begin
    words = captured.stdout.split()
    if len(words) < 3 or words[0] != "1" or words[2] != nonce:
        raise RuntimeError(f"the cell printed {captured.stdout!r} and {captured.stderr!r}")
    _hosts.append(words[1])
    return wall


_hosts: list[str] = []


def session_cells(count: int) -> dict[str, list[float]]:
    """Wall seconds of ``pass`` through the magic, in turns: a fresh container's, a session's cell, and a program started in the session."""
    shell = _notebook()
    lines = {"a fresh container": LINE, "a session's next cell": "--exec bench", "`true` in the session": "--exec bench true"}
    walls: dict[str, list[float]] = {name: [] for name in lines}
    with capture_output():
        shell.run_line_magic("container", "start bench --mem 128M")
    try:
        for number in range(count + 1):
            for name, line in lines.items():
                with capture_output() as captured:
                    begin = time.perf_counter()
                    shell.run_cell_magic("container", line, "\n" if line.endswith("true") else "pass")
                    wall = time.perf_counter() - begin
                if captured.stdout or captured.stderr:
                    raise RuntimeError(f"{name} printed {captured.stdout!r} and {captured.stderr!r}")
                if number:  # the first of each warms up
                    walls[name].append(wall)
    finally:
        with capture_output():
            shell.run_line_magic("container", "rm -f bench")
    return walls


def assert_all_gone() -> None:
    """The cgroups of all cells are gone (a container's hostname is its id). Called after the last measure too."""
    for container_id in _hosts:
        if cgroup_exists(container_id):
            raise RuntimeError(f"the cgroup of {container_id} is still there")
    _hosts.clear()


def start_and_end(peers: Peers, count: int, gap_seconds: float) -> dict[str, list[float]]:
    """Wall seconds of ``count`` runs each, interleaved, in an order that is new in each round."""
    walls: dict[str, list[float]] = {name: [] for name in (*peers.available, OURS)}
    run_cell()
    for name in peers.available:
        peers.run(name)
    for _ in range(count):
        for name in random.sample(list(walls), len(walls)):
            if gap_seconds:
                time.sleep(gap_seconds)
            walls[name].append(run_cell() if name == OURS else peers.run(name).wall_seconds)
            if name == OURS and cgroup_exists(_hosts[-1]):
                raise RuntimeError("the cell's cgroup outlived the cell")
    assert_all_gone()
    return walls


@dataclass(frozen=True)
class Throughput:
    per_second: float
    cpu_seconds: float
    """CPU time of one run, all helpers included."""


def throughput(peers: Peers, name: str, count: int) -> Throughput:
    """One after another, without gaps. Ours includes making the next box, which happens meanwhile."""
    if name == OURS:
        run_cell()
        before = _kernel_cpu_seconds()
        begin = time.perf_counter()
        for _ in range(count):
            run_cell()
        seconds = time.perf_counter() - begin
        cpu = (_kernel_cpu_seconds() - before) / count
        assert_all_gone()
        return Throughput(count / seconds, cpu)
    timings: list[Timing] = [peers.run(name) for _ in range(count)]
    return Throughput(count / sum(t.wall_seconds for t in timings), statistics.fmean(t.cpu_seconds for t in timings))


@dataclass(frozen=True)
class Crowd:
    count: int
    uss_median_bytes: float
    uss_max_bytes: float
    machine_bytes: float
    """How much less memory is available on the machine, for each container."""


def crowd(count: int) -> Crowd:
    """``count`` containers alive at once, each with a cell that waits for a file to appear."""
    import nbcontainer
    from nbcontainer.events import Started

    pids: list[int] = []
    failures: list[str] = []
    all_started = threading.Event()

    def on_event(event: object) -> None:
        if isinstance(event, Started):
            pids.append(event.pid)
            if len(pids) == count:
                all_started.set()

    def live(gate: str) -> None:
        code = "import os, time\nwhile not os.path.exists('/gate/open'): time.sleep(0.2)"
        try:
            result = nbcontainer.run(code, mem="128M", pids=64, volumes=[f"{gate}:/gate:ro"], on_event=on_event)
            if not result.ok:
                failures.append(result.describe())
        except nbcontainer.NbcontainerError as error:
            failures.append(str(error))
        if failures:
            all_started.set()

    run_cell()
    with tempfile.TemporaryDirectory() as gate:
        os.chmod(gate, 0o755)
        before = psutil.virtual_memory().available
        threads = [threading.Thread(target=live, args=(gate,)) for _ in range(count)]
        for thread in threads:
            thread.start()
        try:
            all_started.wait(120)
            time.sleep(1)  # let the cells reach their loop: Started is sent just before
            uss = [psutil.Process(pid).memory_full_info().uss for pid in pids]
            machine = (before - psutil.virtual_memory().available) / count
        finally:
            Path(gate, "open").touch()
            for thread in threads:
                thread.join()
    if failures or len(uss) != count:
        raise RuntimeError(f"{len(uss)} of {count} containers were alive at once: {failures[:1]}")
    return Crowd(count, statistics.median(uss), max(uss), machine)


_LOAD = """
import json, sys, time
from IPython.core.interactiveshell import InteractiveShell
shell = InteractiveShell.instance()
begin = time.perf_counter()
{statement}
seconds = time.perf_counter() - begin
print(json.dumps([seconds, [name for name in ("matplotlib", "pyroute2", "ipywidgets") if name in sys.modules]]))
"""


def load_times(count: int) -> tuple[list[float], list[float]]:
    """Seconds of ``%load_ext nbcontainer`` and of ``import matplotlib.pyplot``, each in fresh processes."""
    ours, pyplot = [], []
    for _ in range(count):
        seconds, loaded = _fresh(_LOAD.format(statement="shell.run_line_magic('load_ext', 'nbcontainer')"))
        if loaded:
            raise RuntimeError(f"%load_ext nbcontainer imports {', '.join(loaded)}")
        ours.append(seconds)
        pyplot.append(_fresh(_LOAD.format(statement="import matplotlib.pyplot"))[0])
    return ours, pyplot


def _fresh(program: str) -> tuple[float, list[str]]:
    output = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True).stdout
    seconds, loaded = json.loads(output.splitlines()[-1])
    return seconds, loaded


_LOOP = """
import time

def work():
    total = 0
    for number in range({rounds}):
        total += number * number % 7

work()
begin = time.perf_counter()
work()
print(time.perf_counter() - begin)
"""
_PAIRS_PER_ZYGOTE = 5
"""All cells of one zygote share its memory layout and hash seed, which matter by some percent: layouts must vary."""


@dataclass(frozen=True)
class Comparison:
    """Median of inside/outside, pair by pair, with the bounds of its 95 % confidence interval (bootstrap)."""

    ratio: float
    low: float
    high: float


def cpu_bound(count: int, rounds: int) -> Comparison:
    """The same loop inside and outside, one after the other, in changing order; each times itself."""
    import nbcontainer
    from nbcontainer.engine import local

    program = _LOOP.format(rounds=rounds)

    def outside() -> float:
        return float(subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True).stdout)

    def inside() -> float:
        result = nbcontainer.run(program, mem="128M", pids=64)
        if not result.ok:
            raise RuntimeError(result.describe())
        _wait_for_spare()
        return float(result.stdout)

    ratios = []
    for number in range(count):
        if number % _PAIRS_PER_ZYGOTE == 0:
            local.shutdown()
            run_cell()
            _wait_for_spare()
        if number % 2:
            ours, plain = inside(), outside()
        else:
            plain, ours = outside(), inside()
        ratios.append(ours / plain)
    return Comparison(statistics.median(ratios), *confidence(ratios))


def _wait_for_spare() -> None:
    """Until the next box is made, which would else take CPU time from what is measured next."""
    engine = _engine()
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        with engine._lock:
            if engine._spares:
                engine._wait_ready(engine._spares[0])
                return
        time.sleep(0.001)
    raise RuntimeError("no box was made in advance")


def confidence(values: Iterable[float], rounds: int = 2000) -> tuple[float, float]:
    """95 % confidence interval of the median, by bootstrap; the same numbers give the same interval."""
    values, chance = list(values), random.Random(0)
    medians = sorted(statistics.median(chance.choices(values, k=len(values))) for _ in range(rounds))
    return medians[round(0.025 * rounds)], medians[round(0.975 * rounds) - 1]


def sampling_share(seconds: float) -> float:
    """CPU seconds per second that this process uses while a cell sleeps and is sampled at 10 Hz."""
    import nbcontainer
    from nbcontainer.events import Sample

    readings: list[tuple[float, float]] = []

    def on_event(event: object) -> None:
        if isinstance(event, Sample):
            readings.append((event.monotonic_seconds, time.process_time()))

    result = nbcontainer.run(f"import time; time.sleep({seconds})", mem="128M", interval=0.1, on_event=on_event)
    if not result.ok or len(readings) < 3:
        raise RuntimeError(f"{len(readings)} samples; {result.describe()}")
    (begin, before), (end, after) = readings[1], readings[-1]
    return (after - before) / (end - begin)
