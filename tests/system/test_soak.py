"""Many containers: in a row, at once, and with a lot to say. Nothing grows, nothing fails, nothing is left."""

from __future__ import annotations

import itertools
import os
import threading
from pathlib import Path

import pytest
from facilities import full_run, in_guest
from mixture import resident_bytes, run_many

import nbcontainer as nbc
from nbcontainer.events import Event, Started

RUNS = 20_000 if full_run() else 500
MIB = 1 << 20
GROWTH_BYTES = 16 * MIB
"""What Python's own memory may vary by over a soak; a leak of 1 KiB for each of 20,000 runs is more."""


def test_mixed_outcomes_several_at_a_time() -> None:
    wrong = run_many(range(RUNS // 2))
    middle = resident_bytes()
    wrong += run_many(range(RUNS // 2, RUNS))
    assert wrong == []
    for before, after in zip(middle, resident_bytes(), strict=True):
        assert after - before < GROWTH_BYTES


def test_two_hundred_at_once(tmp_path: Path) -> None:
    """Each waits in Linux for a byte, and takes no time from the others."""
    os.chmod(tmp_path, 0o755)
    os.mkfifo(tmp_path / "gate")
    os.chmod(tmp_path / "gate", 0o644)
    count, interval = (40, 2.0) if in_guest() else (200, None)  # where a reading takes milliseconds, so many would take all the time there is
    everybody = threading.Barrier(count + 1, timeout=120)
    results: list[nbc.Result] = []

    def arrive(event: Event) -> None:
        if isinstance(event, Started):
            everybody.wait()

    def live() -> None:
        code = "import os; print(os.read(os.open('/gate/gate', os.O_RDONLY), 1))"
        results.append(nbc.run(code, mem="64M", pids=16, volumes=[f"{tmp_path}:/gate:ro"], on_event=arrive, interval=interval))

    threads = [threading.Thread(target=live) for _ in range(count)]
    for thread in threads:
        thread.start()
    gate = os.open(tmp_path / "gate", os.O_RDWR)
    try:
        everybody.wait()
    finally:
        os.write(gate, b"x" * count)
        for thread in threads:
            thread.join()
        os.close(gate)
    assert len(results) == count
    assert all(result.ok for result in results)


@pytest.mark.parametrize("stream", ["stdout", "stderr"])
def test_a_lot_of_output_does_not_stay_in_the_kernel(stream: str) -> None:
    size = 1_000_000_000 if full_run() else 200_000_000
    before = resident_bytes()[0]
    peak = [before]
    redirect = " >&2" if stream == "stderr" else ""
    counter = itertools.count()

    def look(event: Event) -> None:
        if next(counter) % 64 == 0:
            peak.append(max(peak.pop(), resident_bytes()[0]))

    result = nbc.run(f"head -c {size} /dev/zero | tr '\\0' a{redirect}", program=["bash"], max_output="2G", on_event=look)
    assert result.outcome == "exited"
    assert peak[0] - before < 64 * MIB
    assert len(getattr(result, stream)) == size
