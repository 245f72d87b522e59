"""Students per host: what one costs on JupyterHub, measured, and what follows for machines of several sizes.

    tests/run --lane hub                  # once: makes what this needs
    NBCONTAINER_HUB_HOME=/var/tmp/nbcontainer-hub .venv/bin/python tests/benchmarks/hub.py [STUDENTS]

As root. Memory is PSS (each shared page in equal parts to those who have it), CPU is that of the users' cgroups.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import statistics
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from hub.hubs import PLACE, Hub, Student, cgroups_of, processes_of, remove_servers, unix_users

from nbcontainer.cgroups import open_driver

WATCH_SECONDS = 6.0
QUOTA = 0.25
LIVE = f"%%container --live --mem 128M --cpus {QUOTA}\nimport time\nend = time.time() + {{seconds}}\nwhile time.time() < end: sum(range(100_000))"
HOSTS = ((4, 16), (8, 32), (16, 64), (64, 256))
"""(cores, GiB)."""


def memory_mib(names: list[str]) -> float:
    """Median over the users, of the PSS of everything that is theirs."""
    totals = []
    for name in names:
        total = 0
        for process in processes_of(name):
            with contextlib.suppress(psutil.NoSuchProcess):
                total += process.memory_full_info().pss
        totals.append(total / (1 << 20))
    return statistics.median(totals)


def cpu_seconds(name: str) -> float:
    for directory in map(Path, cgroups_of(name)):
        if (directory / "cpuacct.usage").exists():
            return int((directory / "cpuacct.usage").read_text()) / 1e9
        if (directory / "memory.max").exists():
            return int((directory / "cpu.stat").read_text().split()[1]) / 1e6
    return 0.0


def cores(names: list[str]) -> float:
    """Median over the users, of cores in use in the next WATCH_SECONDS."""
    before = {name: cpu_seconds(name) for name in names}
    time.sleep(WATCH_SECONDS)
    return statistics.median((cpu_seconds(name) - before[name]) / WATCH_SECONDS for name in names)


async def measure(hub: Hub, names: list[str]) -> list[tuple[str, float, float]]:
    """(what, MiB, cores) of one student."""
    rows = [("a server, no notebook", memory_mib(names), cores(names))]
    students = [Student(hub, name) for name in names]
    for student in students:
        await student.open()
    rows.append(("a notebook that is open", memory_mib(names), cores(names)))
    for student in students:
        await student.run("%load_ext nbcontainer")
        await student.run("%%container --mem 128M --no-live\nprint(1)")
    rows.append(("after a first %%container cell", memory_mib(names), cores(names)))
    # As many at a time as can have their quarter of a core.
    some = students[: max(1, (os.cpu_count() or 1) * 2)]
    running = [asyncio.create_task(student.run(LIVE.format(seconds=WATCH_SECONDS + 8))) for student in some]
    await asyncio.sleep(4)
    busy = [student.name for student in some]
    rows.append(("while a cell at --cpus 0.25 runs, live", await asyncio.to_thread(memory_mib, busy), await asyncio.to_thread(cores, busy)))
    await asyncio.gather(*running)
    for student in students:
        await student.close()
    return rows


def print_table(rows: list[tuple[str, float, float]], hub_mib: float) -> None:
    print(f"the hub and its proxy: {hub_mib:.0f} MiB\n\n| one student | memory | CPU |\n|---|---:|---:|")
    for what, mib, used in rows:
        print(f"| {what} | {mib:.0f} MiB | {100 * used:.1f} % of a core |")
    mib = rows[2][1] + 128
    idle, busy = rows[2][2], max(rows[3][2], QUOTA)  # on a busy machine the quota is not used up
    print("\n| host | by memory | by CPU, one in four computing at --cpus 0.25 |\n|---|---:|---:|")
    for cpus, gib in HOSTS:
        by_memory = (gib * 1024 * 0.9 - hub_mib) / mib
        by_cpu = cpus / (0.75 * idle + 0.25 * busy)
        print(f"| {cpus} cores, {gib} GiB | {by_memory:.0f} | {by_cpu:.0f} |")
    print(f"\nMemory: {mib:.0f} MiB for each student (a cell of 128 MiB included), 90 % of the host's. Everybody at once is extrapolated, not measured.")


def main() -> None:
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 4
    home = Path(os.environ["NBCONTAINER_HUB_HOME"])
    driver = open_driver(PLACE.strip("/"), parent="/")
    with unix_users(count, home / "home") as names, tempfile.TemporaryDirectory() as directory:
        hub = Hub(Path(directory), home, names)
        try:
            hub.start()
            with ThreadPoolExecutor(2) as pool:
                list(pool.map(hub.start_server, names))
            print_table(asyncio.run(measure(hub, names)), hub.memory_mib())
        finally:
            hub.stop(signal.SIGKILL)
            hub.end_proxy()
            remove_servers(driver)


if __name__ == "__main__":
    main()
