"""``ps`` and ``stats``: many containers in one table."""

from __future__ import annotations

import argparse
import contextlib
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass

from nbcontainer.containers import CONTAINERS
from nbcontainer.errors import SpecError
from nbcontainer.ports import port_filter
from nbcontainer.running import RunningContainer
from nbcontainer.state import ContainerRecord, list_containers
from nbcontainer.units import format_size, parse_number
from nbcontainer.verbs.lists import Field, Listing, matches
from nbcontainer.verbs.shown import Document, Table

PS = Listing(
    "ps",
    (
        Field("ID", "CONTAINER ID"), Field("Image", "IMAGE"), Field("Command", "COMMAND"), Field("RunningFor", "CREATED"), Field("Status", "STATUS"),
        Field("Ports", "PORTS"), Field("Names", "NAMES"), Field("Pid", "PID"), Field("MemLimit", "MEM LIMIT"),
        Field("State", "STATE", False), Field("CreatedAt", "CREATED AT", False), Field("Networks", "NETWORKS", False), Field("Mounts", "MOUNTS", False),
    ),
    "ID",
    {"id": (), "name": (), "status": ("running", "paused", "exited", "created", "restarting", "removing", "dead"), "exited": (), "ancestor": (), "before": (), "since": (), "network": (), "volume": (), "publish": (), "expose": ()},
)  # fmt: skip
STATS = Listing(
    "stats",
    (
        Field("ID", "CONTAINER ID"), Field("Name", "NAME"), Field("CPUPerc", "CPU %"), Field("MemUsage", "MEM USAGE / LIMIT"), Field("MemPerc", "MEM %"),
        Field("NetIO", "NET I/O"), Field("BlockIO", "BLOCK I/O"), Field("PIDs", "PIDS"), Field("Container", "CONTAINER", False),
    ),
    "ID",
    {},
)  # fmt: skip
_SHORT = 30
_PORT = re.compile(r":(?P<host>\d+)->(?P<own>\d+)/(?P<protocol>\w+)")


@dataclass(frozen=True, slots=True)
class Listed:
    """A container as ``ps`` shows it: one that runs, or one that has ended and was kept."""

    id: str
    name: str
    image: str
    command: str
    created_unix_seconds: float
    state: str
    status: str
    """In words."""
    memory_limit_bytes: int | None = None
    ports: str = ""
    pid: int | None = None
    exit_code: int | None = None
    networks: str = ""
    mounts: str = ""

    def row(self, *, whole: bool) -> dict[str, str]:
        """By Docker's names."""
        return {
            "ID": self.id,
            "Image": self.image or "-",
            "Command": self.command if whole or len(self.command) <= _SHORT else self.command[: _SHORT - 1] + "…",
            "RunningFor": f"{ago(self.created_unix_seconds)} ago",
            "Status": self.status,
            "Ports": self.ports,
            "Names": self.name,
            "Pid": str(self.pid or "-"),
            "MemLimit": format_size(self.memory_limit_bytes) if self.memory_limit_bytes else "-",
            "State": self.state,
            "CreatedAt": time.strftime("%Y-%m-%d %H:%M:%S %z %Z", time.localtime(self.created_unix_seconds)),
            "Networks": self.networks,
            "Mounts": self.mounts,
        }


def ps_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-a", "--all", action="store_true", help="also those that have ended and were kept")
    parser.add_argument("-n", "--last", metavar="N", help="the N that were made last, whatever their state")
    parser.add_argument("-l", "--latest", action="store_true", help="the one that was made last, whatever its state")
    parser.add_argument("--no-trunc", action="store_true", help="whole commands")
    PS.add_arguments(parser)


def ps(given: argparse.Namespace) -> Table | Document | str:
    chosen = PS.chosen(given.filter)
    last = 1 if given.latest else None if given.last is None else int(parse_number(given.last, "ps: --last", minimum=0, maximum=10**6, whole=True))
    found = [_running(record) for record in records()]
    if given.all or last is not None or "exited" in chosen or "exited" in chosen.get("status", ()):
        from nbcontainer import elsewhere

        found += [*kept_here(), *elsewhere.kept()]
    found.sort(key=lambda listed: listed.created_unix_seconds, reverse=True)  # as Docker does
    ports = {key: [port_filter(text, f"ps: --filter {key}") for text in chosen.pop(key, ())] for key in ("publish", "expose")}
    found = [listed for listed in found if all(not wanted or any(_leads(listed, key, one) for one in wanted) for key, wanted in ports.items())]
    made = {text: _made(found, text, key) for key in ("before", "since") for text in chosen.get(key, ())}
    found = [listed for listed in found if all(any(_fits(listed, key, value, made) for value in values) for key, values in chosen.items())]
    return PS.shown([listed.row(whole=given.no_trunc) for listed in found[:last]], given.format, quiet=given.quiet)


def records() -> list[ContainerRecord]:
    """Of all that run, this kernel's youngest included, which it has told nobody of yet."""
    found = list_containers()
    known = {record.id for record in found}
    for container in CONTAINERS.all():
        if container.id not in known:
            with contextlib.suppress(SpecError):  # it has ended
                found.append(container.record())
    return found


def _leads(listed: Listed, key: str, wanted: tuple[range, str]) -> bool:
    """One of its published ports is wanted: by the host's number, or by its own."""
    return any(int(found["host" if key == "publish" else "own"]) in wanted[0] and found["protocol"] == wanted[1] for found in _PORT.finditer(listed.ports))


def _made(found: list[Listed], text: str, key: str) -> float:
    """When the container of this name or id was made. Raises SpecError."""
    there = next((listed for listed in found if text in (listed.name, listed.id)), None)
    return there.created_unix_seconds if there is not None else CONTAINERS.find(text, f"ps: --filter {key}").created_unix_seconds


def _fits(listed: Listed, key: str, value: str, made: Mapping[str, float]) -> bool:
    match key:
        case "id":
            return listed.id.startswith(value)
        case "name":
            return matches((value,), listed.name)
        case "status":
            return listed.state == value
        case "exited":
            return listed.state == "exited" and listed.exit_code == int(float(value))
        case "ancestor":
            return listed.image == value
        case "before":
            return listed.created_unix_seconds < made[value]
        case "since":
            return listed.created_unix_seconds > made[value]
        case "network":
            return value in listed.networks.split(",")
        case _:
            return value.rstrip("/") in listed.mounts.split(",")


def _running(record: ContainerRecord) -> Listed:
    since = ago(record.created_unix_seconds)
    return Listed(
        record.id, record.name, record.root, record.command, record.created_unix_seconds, record.status,
        f"Up {since}" + (" (Paused)" if record.status == "paused" else ""),
        record.memory_limit_bytes, record.ports, record.pid, networks=record.networks, mounts=record.mounts,
    )  # fmt: skip


def kept_here() -> list[Listed]:
    """This kernel's containers that have ended and were kept."""
    return [_ended(container) for container in CONTAINERS.all() if container.status == "exited"]


def _ended(container: RunningContainer) -> Listed:
    result, spec = container.result, container.spec
    code = "?" if result is None else result.status_code
    why = "" if result is None or result.outcome in ("exited", "signalled") else f", {result.outcome}"
    return Listed(
        container.id, container.name, str(spec.root), " ".join(spec.program) or "python", container.created_unix_seconds, "exited",
        f"Exited ({code}{why}) {ago(container.ended_unix_seconds or time.time())} ago", spec.limits.memory_bytes,
        exit_code=None if result is None else result.status_code, networks=spec.network_names, mounts=spec.mount_sources,
    )  # fmt: skip


def ago(unix_seconds: float) -> str:
    """How long ago, as Docker says it."""
    seconds = max(0, int(time.time() - unix_seconds))
    for name, size in (("day", 86400), ("hour", 3600), ("minute", 60)):
        if seconds >= 2 * size:
            return f"{seconds // size} {name}s"
    return "1 second" if seconds == 1 else f"{seconds} seconds"


def stats_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--no-stream", action="store_true", help="the table once, instead of one that goes on")
    parser.add_argument("--no-trunc", action="store_true", help="as Docker has it; nothing is cut anyway")
    STATS.add_arguments(parser)
    parser.add_argument("names", metavar="NAME", nargs="*", help="only these (all that run)")


def stats(given: argparse.Namespace) -> Table | Document | str:
    from nbcontainer.notebook.crowd import look_twice, stats_row

    return STATS.shown([stats_row(member) for member in look_twice(ids_of(given.names))], given.format)


def ids_of(names: list[str]) -> frozenset[str] | None:
    """Of running containers of any kernel of this user; None of no names. Raises SpecError."""
    return frozenset(CONTAINERS.find_record(name, "stats").id for name in names) or None
