#!/usr/bin/env python
"""Speed of networks, as JSON: what a network adds to a cell, and throughput over a bridge beside that of a veth pair made by hand.

A program of its own, because it leaves the machine's network namespace first. ``--smoke`` only checks that everything works.
"""

from __future__ import annotations

import json
import os
import statistics
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

sys.path[:0] = [str(Path(__file__).resolve().parents[2]), str(Path(__file__).resolve().parents[1])]

import hostnet  # noqa: E402

import nbcontainer as nbc  # noqa: E402
from nbcontainer.linux import syscalls  # noqa: E402

ADDRESSES = ("198.51.100.1", "198.51.100.2")
SERVER = """
import socket, time
server = socket.create_server(("", 5201))
print("ready", flush=True)
while True:
    client, _ = server.accept()
    while client.recv_into(buffer := bytearray(1 << 18)): pass
    client.close()
"""
CLIENT = """
import json, socket, time
def connect(address):
    deadline = time.monotonic() + 20
    while True:
        try:
            sock = socket.create_connection((address, 5201), timeout=1); break
        except OSError:
            if time.monotonic() > deadline: raise
            time.sleep(0.05)
    sock.settimeout(None)
    return sock
def measure(address):
    data, total = bytes(1 << 18), 0
    with connect(address) as sock:
        begin = time.monotonic()
        while (now := time.monotonic()) - begin < {seconds}:
            sock.sendall(data); total += len(data)
    return total / (now - begin)
addresses = {addresses}
for address in addresses: connect(address).close()
found = []
for number in range({rounds}):
    turn = addresses if number % 2 else addresses[::-1]
    rates = dict((address, measure(address)) for address in turn)
    found.append([rates[address] for address in addresses])
print(json.dumps(found))
"""


def cells(count: int) -> dict[str, float]:
    """Median seconds of a cell, by its network; in turns of blocks, as a box made in advance is of one kind."""
    walls: dict[str, list[float]] = {"none": [], "bridge": []}
    for _ in range(4):
        for net, found in walls.items():
            for number in range(max(1, count // 4) + 3):
                begin = time.perf_counter()
                assert nbc.run("print(1)", mem="128M", cpus=1, pids=64, net=net, workspace="none", engine="local").ok
                if number >= 3:
                    found.append(time.perf_counter() - begin)
    return {net: statistics.median(found) for net, found in walls.items()}


@contextmanager
def running(code: str, until: str, **options: Any) -> Iterator[Any]:
    runs: list[Any] = []
    ready = threading.Event()
    thread = threading.Thread(
        target=lambda: nbc.run(
            code, on_start=runs.append, on_event=lambda event: ready.set() if until in str(getattr(event, "text", "")) else None, engine="local", **options
        )
    )
    thread.start()
    try:
        assert ready.wait(30)
        yield runs[0]
    finally:
        runs[0].kill()
        thread.join()


def throughput(seconds: float, rounds: int) -> list[tuple[float, float]]:
    """(over a bridge, over a veth pair made by hand) in bytes per second, of each round: the same two processes send in turns over
    one and the other, so that what else the machine does, and on which CPUs they are, is the same for both."""
    found: list[nbc.Result] = []
    with running(SERVER, "ready", net="bridge", name="server") as server:
        started: list[Any] = []
        begun = threading.Event()

        def on_start(run: Any) -> None:
            started.append(run)
            begun.set()

        code = CLIENT.format(addresses=["server", ADDRESSES[0]], seconds=seconds, rounds=rounds)
        client = threading.Thread(target=lambda: found.append(nbc.run(code, net="bridge", on_start=on_start, engine="local")))
        client.start()
        assert begun.wait(30)
        _make_pair(server.pid, started[0].pid)
        client.join()
    assert found[0].ok, (found[0].error, found[0].stderr)
    return [(bridge, pair) for bridge, pair in json.loads(found[0].stdout)]


def _make_pair(first: int, second: int) -> None:
    from pyroute2 import IPRoute

    own = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
    with IPRoute() as route:
        route.link("add", ifname="p0", kind="veth", net_ns_pid=first, peer={"ifname": "p1", "net_ns_pid": second})
    for pid, name, address in ((first, "p0", ADDRESSES[0]), (second, "p1", ADDRESSES[1])):
        fd = os.open(f"/proc/{pid}/ns/net", os.O_RDONLY)
        syscalls.setns(fd, syscalls.CLONE_NEWNET)
        try:
            with IPRoute() as route:
                (index,) = route.link_lookup(ifname=name)
                route.addr("add", index=index, address=address, prefixlen=24)
                route.link("set", index=index, state="up")
        finally:
            syscalls.setns(own, syscalls.CLONE_NEWNET)
            os.close(fd)
    os.close(own)


def main() -> None:
    smoke = "--smoke" in sys.argv
    hostnet.leave_real_host()
    found: dict[str, float] = cells(4 if smoke else 100)
    rounds = throughput(0.2 if smoke else 0.5, 2 if smoke else 30)
    print(json.dumps({**found, "over_a_bridge": _median(rounds, 0), "over_a_pair": _median(rounds, 1), "ratio": statistics.median(a / b for a, b in rounds)}))


def _median(rounds: list[tuple[float, float]], which: int) -> float:
    return statistics.median(rates[which] for rates in rounds)


if __name__ == "__main__":
    main()
