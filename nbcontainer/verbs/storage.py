"""``volume``: named volumes."""

from __future__ import annotations

import argparse
import time

from nbcontainer import volumes
from nbcontainer.errors import NbcontainerError
from nbcontainer.units import format_size
from nbcontainer.verbs.shown import Document, Table

VERBS = ("create", "ls", "inspect", "rm", "prune")


def volume_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("verb", nargs="?", choices=VERBS, default="ls", metavar="VERB", help=f"{', '.join(VERBS)} (ls)")
    parser.add_argument("-q", "--quiet", action="store_true", help="ls: only names")
    parser.add_argument("-f", "--force", action="store_true", help="prune: as Docker has it; nothing is asked anyway")
    parser.add_argument("names", metavar="NAME", nargs="*")


def volume(given: argparse.Namespace) -> Table | Document | str:
    names: list[str] = given.names
    if given.verb == "ls":
        if given.quiet:
            return "\n".join(found.name for found in volumes.find_all())
        rows = [("local", found.name, format_size(found.size_bytes()), "yes" if found.in_use() else "", str(found.path)) for found in volumes.find_all()]
        return Table(("DRIVER", "VOLUME NAME", "SIZE", "IN USE", "MOUNTPOINT"), tuple(rows), key=1)
    if given.verb == "prune":
        gone = [found.name for found in volumes.find_all() if not found.in_use()]
        for name in gone:
            volumes.remove(name)
        return "\n".join([*(f"removed {name}" for name in gone), f"{len(gone)} removed"])
    if given.verb == "create":
        return "\n".join(volumes.create(name).name for name in names or [volumes.new_name()])
    found = [volumes.find(name) for name in names]
    if given.verb == "inspect":
        return Document([_described(one) for one in found])
    failure: NbcontainerError | None = None
    for name in names:
        try:
            volumes.remove(name)
        except NbcontainerError as error:
            failure = failure or error
    if failure is not None:
        raise failure
    return "\n".join(names)


def _described(found: volumes.Volume) -> dict[str, object]:
    created = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(found.created_unix_seconds()))
    return {
        "Name": found.name,
        "Driver": "local",
        "Mountpoint": str(found.path),
        "CreatedAt": created,
        "Scope": "local",
        "SizeBytes": found.size_bytes(),
        "InUse": found.in_use(),
    }
