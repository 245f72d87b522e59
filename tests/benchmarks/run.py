#!/usr/bin/env python
"""Speed and size, side by side with the peers: prints Markdown tables. ``--smoke`` only checks that everything works."""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import data
import measures
import panel
import peers as peers_module
from measures import OURS
from peers import BWRAP, CRUN, PEERS, RUNC, Peers

ROUNDS = 5


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    print("| " + " | ".join(header) + " |")
    print("|" + "|".join(["---"] + ["---:"] * (len(header) - 1)) + "|")
    for row in rows:
        print("| " + " | ".join(row) + " |")
    print(flush=True)


def _ms(seconds: float) -> str:
    return f"{seconds * 1000:.1f}"


def report_start(peers: Peers, count: int, gap_seconds: float) -> None:
    walls = measures.start_and_end(peers, count, gap_seconds)
    ours = statistics.median(walls[OURS])
    rows = []
    for name in (OURS, *PEERS):
        if name not in walls:
            rows.append([name, peers.missing[name], "", "", ""])
            continue
        median = statistics.median(walls[name])
        low, high = measures.confidence(walls[name])
        rows.append([name, _ms(median), f"{_ms(low)} to {_ms(high)}", _ms(_percentile(walls[name], 0.9)), f"{ours / median:.2f}"])
    pause = f"with {gap_seconds * 1000:.0f} ms between runs" if gap_seconds else "back to back"
    print(f"### Start a container, run a little Python, end it, {pause} ({count} runs each, interleaved)\n")
    table(["", "median ms", "95 % confidence", "90th percentile", f"{OURS} / this"], rows)


def _percentile(values: Sequence[float], share: float) -> float:
    return sorted(values)[min(int(share * len(values)), len(values) - 1)]


def report_throughput(peers: Peers, count: int) -> None:
    # In turns, because a virtual machine has slow and fast moments: each measure alone takes a second or two.
    rounds = [{name: measures.throughput(peers, name, max(1, count // ROUNDS)) for name in (OURS, *peers.available)} for _ in range(ROUNDS)]
    results = {
        name: measures.Throughput(
            statistics.median(each[name].per_second for each in rounds), statistics.median(each[name].cpu_seconds for each in rounds)
        )
        for name in rounds[0]
    }
    rows = []
    for name in (OURS, *PEERS):
        if name in results:
            # bwrap leaves without waiting for its child, so nobody can say what CPU time that took.
            cpu = "unknown" if name == BWRAP else _ms(results[name].cpu_seconds)
            rows.append([name, f"{results[name].per_second:.0f}", cpu])
        else:
            rows.append([name, peers.missing[name], ""])
    print(f"### One after another (medians of {ROUNDS} rounds of {max(1, count // ROUNDS)} runs each, in turns)\n")
    table(["", "containers a second", "CPU ms of one, helpers included"], rows)


def report_crowd(count: int) -> None:
    crowd = measures.crowd(count)
    mib = 1 << 20
    print(f"### {crowd.count} containers alive at once\n")
    table(
        ["", "MiB"],
        [
            ["USS of one, median", f"{crowd.uss_median_bytes / mib:.2f}"],
            ["USS of one, largest", f"{crowd.uss_max_bytes / mib:.2f}"],
            ["less memory available on the machine, for each", f"{crowd.machine_bytes / mib:.2f}"],
        ],
    )


def report_sessions(count: int) -> None:
    walls = measures.session_cells(count)
    fresh = statistics.median(walls["a fresh container"])
    print(f"### `pass` in a session ({count} runs each, in turns; the aim for a cell is half of a fresh container)\n")
    table(
        ["", "median ms", "/ a fresh container"],
        [[name, _ms(statistics.median(times)), f"{statistics.median(times) / fresh:.2f}"] for name, times in walls.items()],
    )


def report_overhead(smoke: bool) -> None:
    load, pyplot = measures.load_times(3 if smoke else 15)
    ratio = statistics.median(load) / statistics.median(pyplot)
    cpu = measures.cpu_bound(3, 200_000) if smoke else measures.cpu_bound(100, 1_500_000)
    share = measures.sampling_share(1.0 if smoke else 15.0)
    print("### Overhead\n")
    table(
        ["", ""],
        [
            ["`%load_ext nbcontainer`", f"{_ms(statistics.median(load))} ms"],
            ["the same, over `import matplotlib.pyplot`", f"{ratio:.2f}"],
            ["CPU-bound Python, inside / outside", f"{cpu.ratio:.3f} (95 %: {cpu.low:.3f} to {cpu.high:.3f})"],
            ["sampling at 10 Hz", f"{share * 100:.2f} % of a core"],
        ],
    )


def report_panel(smoke: bool) -> None:
    cost = panel.measure(smoke)
    print("### Live panels\n")
    table(
        ["", "", "aim"],
        [
            ["CPU of the kernel for one frame", f"{cost.frame_cpu_ms:.2f} ms", "1.5 ms"],
            ["size of one push, as it arrives", f"{cost.push_bytes:.0f} bytes", "1000 bytes"],
            ["one panel at 10 Hz, sampling included", f"{cost.one_share * 100:.1f} % of a core", "2 %"],
            [f"{cost.crowd} panels", f"{cost.crowd_share * 100:.1f} % of a core", "15 %"],
            [f"{cost.crowd} containers without panels", f"{cost.crowd_without_share * 100:.1f} % of a core", ""],
            ["the figure that stays", f"{cost.figure_ms:.0f} ms (the first one: {cost.first_figure_ms:.0f} ms)", "150 ms"],
        ],
    )


def report_data(smoke: bool) -> None:
    size = 32 << 20 if smoke else 1 << 30
    moved = data.transfers(size, 1 if smoke else 5)
    ours, script = data.printing(200 if smoke else 10_000, 1 if smoke else 9)
    print(f"### Variables and output: a NumPy array of {size >> 20} MiB\n")
    table(
        ["", "", "aim"],
        [
            ["`array.copy()`", f"{_ms(moved.copy)} ms", ""],
            ["into a cell, without the import of NumPy", f"{_ms(moved.inwards)} ms", f"{_ms(moved.bound())} ms"],
            ["out of a cell", f"{_ms(moved.outwards)} ms", f"{_ms(moved.bound())} ms"],
            ["printed lines, over `%%script`", f"{ours / script:.2f}", "1.2"],
        ],
    )


def report_network(smoke: bool) -> None:
    if os.geteuid():
        print("### Networks\n\nonly as root\n")
        return
    program = str(Path(__file__).with_name("network.py"))
    done = subprocess.run([sys.executable, program, *(["--smoke"] if smoke else [])], stdout=subprocess.PIPE, check=True, timeout=600)
    found = json.loads(done.stdout)
    print("### Networks\n")
    table(
        ["", "", "aim"],
        [
            ["a cell with `--net bridge`, over one without a network", f"{found['bridge'] / found['none']:.2f}", "1.6"],
            ["the two of them", f"{_ms(found['bridge'])} ms, {_ms(found['none'])} ms", ""],
            ["throughput over a bridge, over that of a veth pair made by hand (medians of the two in turns)", f"{found['ratio']:.2f}", "0.9"],
            ["over the bridge", f"{found['over_a_bridge'] / 1e9:.2f} GB/s", ""],
        ],
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--smoke", action="store_true", help="three runs of everything: does it work?")
    parser.add_argument("--count", type=int, default=100, help="runs of each for the medians (100)")
    arguments = parser.parse_args()
    count = 3 if arguments.smoke else arguments.count
    begin = time.monotonic()
    versions = "; ".join(peers_module.version(name) for name in (BWRAP, CRUN, RUNC))
    print(f"Linux {platform.release()}, Python {platform.python_version()}; {versions}\n", flush=True)
    peers = Peers()
    try:
        report_start(peers, count, 0.0)
        report_start(peers, count, 0.1)
        report_throughput(peers, count if arguments.smoke else 250)
    finally:
        peers.close()
    report_crowd(3 if arguments.smoke else 100)
    report_sessions(count)
    report_overhead(arguments.smoke)
    report_panel(arguments.smoke)
    report_data(arguments.smoke)
    report_network(arguments.smoke)
    print(f"All of it worked; {time.monotonic() - begin:.0f} s.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
