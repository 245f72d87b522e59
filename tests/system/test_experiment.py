"""Experiments in real containers: each point under its own limits, also several at once, and an end that gives back what there is."""

from __future__ import annotations

import os
import signal
import threading
from pathlib import Path
from typing import Any

import pytest
from facilities import in_guest

import nbcontainer as nbc

MIB = 1 << 20
GROW = "data = bytearray(40_000_000)\nprint(len(data))"
LIMIT = (
    "import glob\n"
    "path = [p for p in ('/sys/fs/cgroup/memory.max', '/sys/fs/cgroup/memory/memory.limit_in_bytes') if glob.glob(p)][0]\n"
    "print(open(path).read())"
)


@pytest.mark.essential
def test_every_combination_runs_under_its_own_limits() -> None:
    table = nbc.sweep(GROW, mem=["24M", "96M"], pids=[32, 64], repeat=2)
    assert [(trial.point, trial.repetition, trial.outcome) for trial in table] == [
        ({"mem": mem, "pids": pids}, repetition, outcome)
        for mem, outcome in (("24M", "oom"), ("96M", "exited"))
        for pids in (32, 64)
        for repetition in (1, 2)
    ]
    assert {result.spec.limits.pids for result in table.results} == {32, 64}
    assert table[-1].result.stdout == "40000000\n"  # type: ignore[union-attr]


def test_runs_at_once_do_not_disturb_each_other_s_limits() -> None:
    sizes = [f"{size}M" for size in range(32, 64, 4)]
    table = nbc.sweep(LIMIT, mem=sizes, parallel=4, repeat=2)
    assert [int(trial.result.stdout) for trial in table if trial.result] == [int(trial.point["mem"][:-1]) * MIB for trial in table]
    assert len(table.results) == 16


def test_runs_at_once_are_at_once_and_only_as_many_as_fit(tmp_path: Path) -> None:
    tmp_path.chmod(0o777)
    meet = "import os, time\nopen(f'/meet/{os.uname().nodename}', 'w').close()\nwhile len(os.listdir('/meet')) < 2: time.sleep(0.01)"
    both = nbc.sweep(meet, hostname=["one", "two"], parallel=2, mem="32M", volumes=[f"{tmp_path}:/meet"], timeout=60)
    assert [result.outcome for result in both.results] == ["exited"] * 2, "each saw the other"
    cores = float(os.cpu_count() or 1)
    apart = nbc.sweep("import time; time.sleep(0.2)", hostname=["one", "two"], parallel=2, mem="32M", cpus=cores)
    first, second = sorted((result.samples.columns()["monotonic_seconds"] for result in apart.results), key=lambda moments: moments[0])
    assert second[0] >= first[-1], "together, they would not get the CPUs that each was promised"


def test_code_by_name_and_options_that_are_lists() -> None:
    codes = {"good": "import os; print(os.environ['N'])", "bad": "raise ValueError('x')"}
    table = nbc.sweep(codes, env=[{"N": "1"}, {"N": "2"}], volumes=[], mem="64M")
    assert [(trial.point["code"], trial.verdict) for trial in table] == [("good", "exited")] * 2 + [("bad", "ValueError")] * 2
    assert [result.stdout for result in table.results[:2]] == ["1\n", "2\n"]
    shells = nbc.sweep("echo $0", program=[["sh"], ["bash", "-s"]], mem="64M")
    assert [result.stdout for result in shells.results] == ["sh\n", "bash\n"]


def test_a_point_that_linux_refuses_is_a_line_of_the_table() -> None:
    table = nbc.sweep("pass", mem=["64K", "64M"])
    assert [trial.outcome for trial in table] == ["not started", "exited"]
    assert "limit memory" in table[0].why_not and table[0].why_not in table.as_text()
    with pytest.raises(nbc.SetupError):
        nbc.sweep("pass", mem=["64K"])


@pytest.mark.parametrize("parallel", [1, 3])
def test_an_interrupt_ends_all_and_gives_back_what_there_is(parallel: int) -> None:
    codes: dict[str, str] = {"quick": "print('done')", **{f"slow {number}": "import time; time.sleep(600)" for number in range(6)}}
    began = threading.Event()
    threading.Thread(target=_interrupt_when, args=(began,), daemon=True).start()
    original = nbc.engine.local.LocalEngine.start  # type: ignore[attr-defined]
    started: list[Any] = []

    def start(self: Any, *how: Any) -> Any:
        run = original(self, *how)
        started.append(run)
        if len(started) == 1 + parallel:
            began.set()
        return run

    nbc.engine.local.LocalEngine.start = start  # type: ignore[attr-defined]
    handler = signal.getsignal(signal.SIGINT)
    try:
        table = nbc.sweep(codes, mem="32M", parallel=parallel, engine="local")
    finally:
        nbc.engine.local.LocalEngine.start = original  # type: ignore[attr-defined]
    assert [(trial.point["code"], trial.outcome) for trial in table] == [("quick", "exited")]
    assert "Stopped after 1 of 7 runs." in table.as_text()
    assert len(started) == 1 + parallel, "nothing is started after the interrupt"
    assert signal.getsignal(signal.SIGINT) is handler


def _interrupt_when(began: threading.Event) -> None:
    assert began.wait(60)
    os.kill(os.getpid(), signal.SIGINT)


def test_cpu_weights_side_by_side() -> None:
    """One CPU, two that want all of it: who weighs more gets more."""
    table = nbc.sweep("while True: pass", cpu_weight=[50, 500], cpuset="0", timeout=8.0 if in_guest() else 1.0, parallel=2, mem="32M")
    light, heavy = (result.usage.cpu_seconds for result in table.results)
    assert heavy > 2 * light
    assert [axes.get_ylabel() for axes in nbc.compare(table, same_clock=True).axes] == ["memory (MiB)", "CPU (% of a core)"]
