"""Many containers, many at once, and much to say: ``python tests/benchmarks/load.py [--smoke] [--count 20000]``, as root.

Prints what the soak test asserts: whether memory stays where it is, and how long it takes.
"""

from __future__ import annotations

import argparse
import platform
import sys
import threading
import time
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[1]))

import psutil
from mixture import AT_ONCE, KINDS, resident_bytes, run_many

import nbcontainer as nbc
from nbcontainer.engine import Run
from nbcontainer.events import Event, Output

MIB = 1 << 20


def soak(count: int) -> list[tuple[str, str]]:
    """Memory is compared from a tenth of the way on: before that, buffers and caches fill."""
    wrong = run_many(range(count // 10))
    before, began = resident_bytes(), time.monotonic()
    wrong += run_many(range(count // 10, count))
    seconds, after = time.monotonic() - began, resident_bytes()
    grown = [f"{(new - old) / MIB:+.1f} MiB (to {new / MIB:.0f} MiB)" for old, new in zip(before, after, strict=True)]
    return [
        (f"{count} containers of {len(KINDS)} kinds, {AT_ONCE} at a time: failures", str(len(wrong))),
        ("containers a second, with those that wait for a timeout", f"{(count - count // 10) / seconds:.0f}"),
        ("memory of the kernel, after the first tenth", grown[0]),
        ("memory of the zygote, after the first tenth", grown[1]),
    ]


def crowd(count: int) -> list[tuple[str, str]]:
    everybody = threading.Barrier(count + 1)
    results: list[nbc.Result] = []
    runs: list[Run] = []
    before, began = psutil.virtual_memory().available, time.monotonic()

    def arrive(event: Event) -> None:
        if isinstance(event, Output):
            everybody.wait()

    def sleep() -> None:
        results.append(nbc.run("print('here', flush=True)\nimport time; time.sleep(600)", mem="64M", pids=16, on_event=arrive, on_start=runs.append))

    threads = [threading.Thread(target=sleep) for _ in range(count)]
    for thread in threads:
        thread.start()
    everybody.wait()
    seconds, used = time.monotonic() - began, before - psutil.virtual_memory().available
    for run in runs:
        run.kill()
    for thread in threads:
        thread.join()
    assert [result.outcome for result in results] == ["killed"] * count
    return [(f"{count} containers alive at once, all begun within", f"{seconds:.1f} s"), ("less memory available, for each", f"{used / count / MIB:.1f} MiB")]


def output(size_bytes: int) -> list[tuple[str, str]]:
    before = resident_bytes()[0]
    peak, pieces = before, 0

    def look(event: Event) -> None:
        nonlocal peak, pieces
        pieces += 1
        if pieces % 64 == 0:
            peak = max(peak, resident_bytes()[0])

    began = time.monotonic()
    result = nbc.run(f"head -c {size_bytes} /dev/zero | tr '\\0' a", program=["bash"], max_output="2G", on_event=look)
    seconds = time.monotonic() - began
    assert result.ok
    return [(f"{size_bytes // 10**6} MB through standard output", f"{seconds:.1f} s ({size_bytes / seconds / 1e6:.0f} MB/s)"), ("the kernel grew meanwhile by", f"{(peak - before) / MIB:.1f} MiB")]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--smoke", action="store_true", help="a few of everything: does it work?")
    parser.add_argument("--count", type=int, default=20_000)
    arguments = parser.parse_args()
    count, alive, size = (90, 5, 10**7) if arguments.smoke else (arguments.count, 200, 10**9)
    print(f"Linux {platform.release()}, Python {platform.python_version()}, {psutil.cpu_count()} CPUs\n", flush=True)
    assert nbc.run("1").ok
    for rows in (output(size), crowd(alive), soak(count)):
        for name, value in rows:
            print(f"| {name} | {value} |", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
