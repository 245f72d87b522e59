"""Verbs that look at one container, or at what containers share."""

from __future__ import annotations

import argparse
import os
import time
from typing import Any

import psutil

from nbcontainer import networks
from nbcontainer.containers import CONTAINERS
from nbcontainer.errors import SpecError
from nbcontainer.ports import Port
from nbcontainer.running import RunningContainer
from nbcontainer.state import list_containers
from nbcontainer.verbs.lists import add_format, documents
from nbcontainer.verbs.shown import Document, Table

NAMESPACES = ("pid", "net", "mnt", "ipc", "uts", "user", "cgroup", "time")


def _name(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", metavar="NAME", help="name, id, or the beginning of an id")


top_arguments = diff_arguments = _name


def top(given: argparse.Namespace) -> Table:
    container = CONTAINERS.find(given.name, "top")
    if container.status == "exited":
        raise SpecError(f"top: {container.name} has ended")
    rows = []
    for pid in container.processes():
        try:
            process = psutil.Process(pid)
            with process.oneshot():
                started = time.strftime("%H:%M:%S", time.localtime(process.create_time()))
                used = process.cpu_times()
                command = " ".join(process.cmdline()) or f"[{process.name()}]"
                row = (process.username(), pid, process.ppid(), int(100 * process.cpu_percent()) // 100, started, process.terminal() or "?")
                rows.append((*map(str, row), _clock(used.user + used.system), f"{process.memory_info().rss >> 10}K", command))
        except psutil.NoSuchProcess:
            continue
    return Table(("UID", "PID", "PPID", "C", "STIME", "TTY", "TIME", "RSS", "CMD"), tuple(rows), "Ids are those of this host.")


def _clock(seconds: float) -> str:
    whole = int(seconds)
    return f"{whole // 3600:02}:{whole // 60 % 60:02}:{whole % 60:02}"


def diff(given: argparse.Namespace) -> Table | str:
    changes = CONTAINERS.find(given.name, "diff").diff()
    if not changes:
        return "Nothing was written to the container's root."
    note = ""
    if any(change.kind == "D" for change in changes):
        note = "D: the file below is untouched; a whiteout (a device 0/0) in the container's layer hides it."
    return Table(("", "PATH"), tuple((change.kind, change.path) for change in changes), note)


def port_arguments(parser: argparse.ArgumentParser) -> None:
    _name(parser)
    parser.add_argument("port", metavar="PORT[/udp]", nargs="?", help="only this port of the container")


def port(given: argparse.Namespace) -> str:
    container = CONTAINERS.find(given.name, "port")
    if given.port is None:
        return "\n".join(f"{_inner(port)} -> {port.host}:{port.host_port}" for port in _published(container))
    wanted = given.port if "/" in given.port else f"{given.port}/tcp"
    found = [f"{port.host}:{port.host_port}" for port in _published(container) if _inner(port) == wanted]
    if not found:
        raise SpecError(f"port: {wanted} of {container.name} is not published")
    return "\n".join(found)


def _published(container: RunningContainer) -> tuple[Port, ...]:
    return () if container.status == "exited" else container.spec.ports


def _inner(port: Port) -> str:
    return f"{port.container_port}/{port.protocol}"


def inspect_arguments(parser: argparse.ArgumentParser) -> None:
    add_format(parser)
    parser.add_argument("names", metavar="NAME", nargs="+", help="name, id, or the beginning of an id")


def inspect(given: argparse.Namespace) -> Document | str:
    return documents("inspect", [_described(CONTAINERS.find(name, "inspect")) for name in given.names], given.format)


def _described(container: RunningContainer) -> dict[str, Any]:
    spec, limits, result = container.spec, container.limits, container.result
    code = 0 if result is None else result.exit_code if result.exit_code is not None else 128 + (result.signal or 0)
    return {
        "Id": container.id,
        "Name": container.name,
        "Created": _moment(container.created_unix_seconds),
        "Session": spec.session,
        "State": {
            "Status": container.status,
            "Running": container.status != "exited",
            "Paused": container.status == "paused",
            "OOMKilled": result is not None and result.outcome == "oom",
            "Outcome": None if result is None else result.outcome,
            "Pid": container.pid or 0,
            "ExitCode": code,
            "StartedAt": _moment(container.created_unix_seconds),
            "FinishedAt": None if container.ended_unix_seconds is None else _moment(container.ended_unix_seconds),
        },
        "Config": {
            "Hostname": spec.hostname or container.id,
            "User": spec.user,
            "Env": [f"{name}={value}" for name, value in spec.environment],
            "Cmd": list(spec.program) or ["python"],
            "WorkingDir": spec.workdir or "/workspace",
            "Init": spec.init,
        },
        "HostConfig": {
            "Memory": limits.memory_bytes,
            "MemoryHigh": limits.memory_high_bytes,
            "MemorySwap": limits.swap_bytes,
            "NanoCpus": None if limits.cpus is None else int(limits.cpus * 1e9),
            "CpuWeight": limits.cpu_weight,
            "CpusetCpus": limits.cpuset,
            "PidsLimit": limits.pids,
            "NetworkMode": spec.network,
            "ReadonlyRootfs": spec.read_only,
            "CapAdd": list(spec.cap_add),
            "CapDrop": list(spec.cap_drop),
            "SecurityOpt": [f"seccomp={spec.security}"],
            "StorageBytes": spec.disk_bytes,
            "ShmSize": spec.shm_bytes,
        },
        "Root": str(spec.root),
        "Mounts": [
            {"Type": mount.kind, "Source": mount.source, "Destination": mount.target, "RW": not mount.read_only} for mount in spec.mounts
        ],
        "NetworkSettings": _network_settings(container),
        "Namespaces": {} if container.pid is None else namespaces_of(container.pid),
        "Cgroups": [] if container.pid is None else [path for path, _ in cgroups_of(container.pid)],
    }


def _network_settings(container: RunningContainer) -> dict[str, Any]:
    ports: dict[str, list[dict[str, str]]] = {}
    for port in _published(container):
        ports.setdefault(_inner(port), []).append({"HostIp": port.host_address, "HostPort": str(port.host_port)})
    joined = networks.of_container(container.id) if container.spec.networks and container.status != "exited" else ()
    return {
        "Ports": ports,
        "Networks": {network.name: {"IPAddress": network.containers[container.id], "Gateway": network.gateway} for network in joined},
    }


def _moment(unix_seconds: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(unix_seconds))


def namespaces_of(pid: int) -> dict[str, int]:
    """Name → inode number; without those that cannot be seen."""
    found = {}
    for name in NAMESPACES:
        try:
            found[name] = os.stat(f"/proc/{pid}/ns/{name}").st_ino
        except OSError:
            continue
    return found


def cgroups_of(pid: int) -> list[tuple[str, int]]:
    """(path below /sys/fs/cgroup, inode number), one for each hierarchy."""
    try:
        with open(f"/proc/{pid}/cgroup", encoding="utf-8", errors="replace") as file:
            lines = file.read().splitlines()
    except OSError:
        return []
    found = []
    for line in lines:
        _, controllers, path = line.split(":", 2)
        places = [f"/sys/fs/cgroup/{name}" for name in (*controllers.removeprefix("name=").split(","), controllers, "unified", "")]
        for place in dict.fromkeys(places):
            try:
                found.append((f"{place.rstrip('/')}{path}".removeprefix("/sys/fs/cgroup"), os.stat(place + path).st_ino))
                break
            except OSError:
                continue
    return found


def tree_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("names", metavar="NAME", nargs="*", help="these (all that this kernel runs)")


def tree(given: argparse.Namespace) -> Table:
    records = [CONTAINERS.find_record(name, "tree") for name in given.names]
    if not given.names:
        records = [record for record in list_containers() if record.kernel_pid == os.getpid()]
    columns = ("", f"kernel ({os.getpid()})", *(f"{record.name} ({record.pid})" for record in records))
    pids = [os.getpid(), *(record.pid for record in records)]
    rows = [_row(name, [namespaces_of(pid).get(name) for pid in pids]) for name in NAMESPACES]
    rows += _cgroup_rows(pids)
    rows.append(("user ids", *(_user_map(pid) for pid in pids)))
    note = "Inode numbers. = is the kernel's own: shared." if records else "No container runs; start one: %container start lab"
    return Table(columns, tuple(rows), note)


def _row(name: str, numbers: list[int | None]) -> tuple[str, ...]:
    first, *others = numbers
    shown = [f"= {number}" if number == first else str(number or "-") for number in others]
    return (name, str(first or "-"), *shown)


def _cgroup_rows(pids: list[int]) -> list[tuple[str, ...]]:
    """One for each hierarchy: the number, and the end of the path."""
    found = [cgroups_of(pid) for pid in pids]
    one_hierarchy = os.path.exists("/sys/fs/cgroup/cgroup.controllers")
    rows = []
    for index, (path, _) in enumerate(found[0]):
        cells = [f"{groups[index][1]} {_end(groups[index][0])}" if index < len(groups) else "-" for groups in found]
        name = "cgroup" if one_hierarchy else f"cgroup {path.split('/')[1]}"
        rows.append((name, cells[0], *(f"= {cell}" if cell == cells[0] else cell for cell in cells[1:])))
    return rows


def _end(path: str) -> str:
    return "…/" + os.path.basename(path)


def _user_map(pid: int) -> str:
    """Host ids of the container's ids 0 to …"""
    try:
        with open(f"/proc/{pid}/uid_map", encoding="ascii") as file:
            inside, outside, count = file.readline().split()
    except (OSError, ValueError):
        return "-"
    return f"{inside} → {outside} (+{int(count) - 1})"
