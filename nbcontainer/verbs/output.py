"""``logs`` and ``attach``: what containers in the background write."""

from __future__ import annotations

import argparse
import itertools
import time
from collections.abc import Iterator

from nbcontainer.containers import CONTAINERS
from nbcontainer.errors import SpecError
from nbcontainer.logs import Record
from nbcontainer.running import RunningContainer
from nbcontainer.units import parse_moment, parse_number


def logs_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-f", "--follow", action="store_true", help="go on until it ends, or you stop it")
    parser.add_argument("-n", "--tail", metavar="N", default="all", help="the last N lines (all)")
    parser.add_argument("--since", metavar="TIME", help="what was written since then: 2026-11-28T10:00:00, Unix seconds, or 10m ago")
    parser.add_argument("--until", metavar="TIME", help="what was written until then")
    parser.add_argument("-t", "--timestamps", action="store_true", help="when each line was begun")
    parser.add_argument("name", metavar="NAME")


def logs(given: argparse.Namespace) -> Iterator[Record]:
    container = CONTAINERS.find(given.name, "logs")
    tail = -1 if given.tail == "all" else int(parse_number(given.tail, "logs: --tail", minimum=-1, maximum=10**9, whole=True))
    since, until = (None if text is None else parse_moment(text, f"logs: {option}") for text, option in ((given.since, "--since"), (given.until, "--until")))
    following = container.follow(until) if given.follow and (until is None or until > time.time()) else iter(())
    lines = [line for line in container.log.lines() if (since is None or line.unix_seconds >= since) and (until is None or line.unix_seconds <= until)]
    lines = lines if tail < 0 else lines[max(0, len(lines) - tail) :]
    records = itertools.chain(lines, following)
    return map(_stamped, records) if given.timestamps else records


def _stamped(record: Record) -> Record:
    moment = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.unix_seconds)) + f"{record.unix_seconds % 1:.6f}"[1:] + "Z"
    return Record(record.unix_seconds, record.stream, f"{moment} {record.text}")


def attach_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--sig-proxy", choices=("true", "false"), default="true", help="false: the stop button only stops showing it")
    parser.add_argument("name", metavar="NAME")


def attach(given: argparse.Namespace) -> Iterator[Record]:
    container = CONTAINERS.find(given.name, "attach")
    if container.status == "exited":
        raise SpecError(f"attach: {container.name} has ended; %container logs {container.name} shows what it wrote")
    return _attached(container, container.follow(), proxy=given.sig_proxy == "true")


def _attached(container: RunningContainer, records: Iterator[Record], *, proxy: bool) -> Iterator[Record]:
    while True:
        try:
            yield from records
            return
        except KeyboardInterrupt:
            if not proxy or container.status == "exited":
                return
            container.kill("INT")
            records = container.follow()
