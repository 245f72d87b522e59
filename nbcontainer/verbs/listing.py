"""``ps`` and ``stats``: many containers in one table."""

from __future__ import annotations

import argparse
import string
import time
from collections.abc import Sequence

from nbcontainer.containers import CONTAINERS
from nbcontainer.errors import SpecError
from nbcontainer.running import RunningContainer
from nbcontainer.state import ContainerRecord, list_containers
from nbcontainer.units import format_size
from nbcontainer.verbs.shown import Document, Table

COLUMNS = ("CONTAINER ID", "IMAGE", "COMMAND", "CREATED", "STATUS", "PORTS", "NAMES", "PID", "MEM LIMIT")
PS_NAMES = ("id", "image", "command", "created", "status", "ports", "name", "pid", "limit")
STATS_NAMES = ("id", "name", "cpu", "memory", "share", "net", "block", "pids")
_SHORT = 30


def ps_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-a", "--all", action="store_true", help="also those that have ended and were kept")
    parser.add_argument("-q", "--quiet", action="store_true", help="only ids")
    parser.add_argument("--no-trunc", action="store_true", help="whole commands")
    parser.add_argument("--format", help="json, or text with {id}, {name}, {image}, {command}, {created}, {status}, {pid}, {limit}")


def ps(given: argparse.Namespace) -> Table | Document | str:
    created = [(record.created_unix_seconds, _running(record)) for record in list_containers()]
    if given.all:
        from nbcontainer import elsewhere

        created += [*kept_here(), *elsewhere.kept()]
    created.sort(key=lambda item: item[0], reverse=True)  # as Docker does
    rows = [(*row[:2], _cut(row[2], given.no_trunc), *row[3:]) for _, row in created]
    if given.quiet:
        return "\n".join(row[0] for row in rows)
    if given.format is not None:
        return _formatted("ps", PS_NAMES, rows, given.format)
    return Table(COLUMNS, tuple(rows))


def _formatted(verb: str, names: tuple[str, ...], rows: Sequence[tuple[str, ...]], template: str) -> Document | str:
    if template == "json":
        return Document([dict(zip(names, row, strict=True)) for row in rows])
    try:
        fields = {field for _, field, _, _ in string.Formatter().parse(template) if field is not None}
        if not fields <= set(names):
            raise ValueError
        return "\n".join(template.format(**dict(zip(names, row, strict=True))) for row in rows)
    except ValueError:
        raise SpecError(f"{verb}: --format {template!r} is neither json nor text with {', '.join(f'{{{name}}}' for name in names)}") from None


def _running(record: ContainerRecord) -> tuple[str, ...]:
    since = ago(record.created_unix_seconds)
    status = f"Up {since}" + (" (Paused)" if record.status == "paused" else "")
    return (
        record.id, record.root or "-", record.command, f"{since} ago", status, record.ports, record.name, str(record.pid),
        format_size(record.memory_limit_bytes) if record.memory_limit_bytes else "-",
    )  # fmt: skip


def kept_here() -> list[tuple[float, tuple[str, ...]]]:
    """(when it was made in Unix seconds, row with the whole command) of this kernel's containers that have ended and were kept."""
    return [(container.created_unix_seconds, _ended(container)) for container in CONTAINERS.all() if container.status == "exited"]


def _ended(container: RunningContainer) -> tuple[str, ...]:
    result, limit = container.result, container.spec.limits.memory_bytes
    code = "?" if result is None else result.status_code
    why = "" if result is None or result.outcome in ("exited", "signalled") else f", {result.outcome}"
    status = f"Exited ({code}{why}) {ago(container.ended_unix_seconds or time.time())} ago"
    return (
        container.id, str(container.spec.root), " ".join(container.spec.program) or "python",
        f"{ago(container.created_unix_seconds)} ago", status, "", container.name, "-", format_size(limit) if limit else "-",
    )  # fmt: skip


def _cut(command: str, whole: bool) -> str:
    return command if whole or len(command) <= _SHORT else command[: _SHORT - 1] + "…"


def ago(unix_seconds: float) -> str:
    """How long ago, as Docker says it."""
    seconds = max(0, int(time.time() - unix_seconds))
    for name, size in (("day", 86400), ("hour", 3600), ("minute", 60)):
        if seconds >= 2 * size:
            return f"{seconds // size} {name}s"
    return "1 second" if seconds == 1 else f"{seconds} seconds"


def stats_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--no-stream", action="store_true", help="the table once, instead of one that goes on")
    parser.add_argument("--format", help="json, or text with {id}, {name}, {cpu}, {memory}, {share}, {net}, {block}, {pids}")
    parser.add_argument("names", metavar="NAME", nargs="*", help="only these (all that run)")


def stats(given: argparse.Namespace) -> Table | Document | str:
    from nbcontainer.notebook.crowd import look_twice, stats_table

    table = stats_table(look_twice(ids_of(given.names)))
    return table if given.format is None else _formatted("stats", STATS_NAMES, table.rows, given.format)


def ids_of(names: list[str]) -> frozenset[str] | None:
    """Of running containers of any kernel of this user; None of no names. Raises SpecError."""
    return frozenset(CONTAINERS.find_record(name, "stats").id for name in names) or None
