"""Many containers: in a row, at once, and with a lot to say. Nothing grows, nothing fails, nothing is left."""

from __future__ import annotations

import itertools
import os
import queue
import threading
from pathlib import Path
from typing import Any

import psutil
import pytest
from facilities import full_run

import nbcontainer as nbc
from nbcontainer.engine import local
from nbcontainer.events import Event, Started

RUNS = 20_000 if full_run() else 500
AT_ONCE = 8
MIB = 1 << 20
GROWTH_BYTES = 16 * MIB
"""What Python's own memory may vary by over a soak; a leak of 1 KiB for each of 20,000 runs is more."""

KINDS: tuple[tuple[str, dict[str, Any], str], ...] = (
    ("print('fine')", {}, "exited"),
    ("import sys; sys.exit(3)", {}, "exited"),
    ("1 / 0", {}, "exited"),
    ("from IPython.display import HTML, display; display(HTML('<b>x</b>')); 6 * 7", {}, "exited"),
    ("x = bytearray(200 << 20)", {"mem": "48M"}, "oom"),
    ("import time; time.sleep(60)", {"timeout": 0.05}, "timeout"),
    ("kill -TERM $$; sleep 60", {"program": ["bash"], "init": True}, "signalled"),
    ("head -c 300000 /dev/zero", {"program": ["bash"], "max_output": "64K"}, "exited"),
    ("import os\nfor _ in range(3):\n    if os.fork() == 0: os._exit(0)", {"pids": 8}, "exited"),
)


def _rss() -> tuple[int, int]:
    """Of the kernel (this process) and the zygote."""
    return psutil.Process().memory_info().rss, psutil.Process(local.open_local()._client.pid).memory_info().rss


def test_mixed_outcomes_several_at_a_time() -> None:
    numbers: queue.SimpleQueue[int] = queue.SimpleQueue()
    wrong: list[str] = []

    def work() -> None:
        while not wrong:
            try:
                number = numbers.get_nowait()
            except queue.Empty:
                return
            code, options, outcome = KINDS[number % len(KINDS)]
            result = nbc.run(code, **{"mem": "96M", **options})
            if result.outcome != outcome:
                wrong.append(f"{code!r}: {result.outcome} {result.exit_code} {result.stderr[-300:]}")

    def soak(runs: range) -> None:
        for number in runs:
            numbers.put(number)
        threads = [threading.Thread(target=work) for _ in range(AT_ONCE)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    soak(range(RUNS // 2))
    middle = _rss()
    soak(range(RUNS // 2, RUNS))
    assert not wrong
    for before, after in zip(middle, _rss(), strict=True):
        assert after - before < GROWTH_BYTES


def test_two_hundred_at_once(tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    gate.mkdir(mode=0o755)
    os.chmod(tmp_path, 0o755)
    everybody = threading.Barrier(201, timeout=120)
    results: list[nbc.Result] = []

    def arrive(event: Event) -> None:
        if isinstance(event, Started):
            everybody.wait()

    def live() -> None:
        code = "import os, time\nwhile not os.path.exists('/gate/open'): time.sleep(0.1)"
        results.append(nbc.run(code, mem="64M", pids=16, volumes=[f"{gate}:/gate:ro"], on_event=arrive))

    threads = [threading.Thread(target=live) for _ in range(200)]
    for thread in threads:
        thread.start()
    try:
        everybody.wait()
    finally:
        (gate / "open").touch()
        for thread in threads:
            thread.join()
    assert len(results) == 200
    assert all(result.ok for result in results)


@pytest.mark.parametrize("stream", ["stdout", "stderr"])
def test_a_lot_of_output_does_not_stay_in_the_kernel(stream: str) -> None:
    size = 1_000_000_000 if full_run() else 200_000_000
    before = _rss()[0]
    peak = [before]
    redirect = " >&2" if stream == "stderr" else ""
    counter = itertools.count()

    def look(event: Event) -> None:
        if next(counter) % 64 == 0:
            peak.append(max(peak.pop(), _rss()[0]))

    result = nbc.run(f"head -c {size} /dev/zero | tr '\\0' a{redirect}", program=["bash"], max_output="2G", on_event=look)
    assert result.outcome == "exited"
    assert peak[0] - before < 64 * MIB
    assert len(getattr(result, stream)) == size
