"""``volume``: named volumes."""

from __future__ import annotations

import argparse
import time

from nbcontainer import volumes
from nbcontainer.errors import NbcontainerError, SpecError
from nbcontainer.units import format_size
from nbcontainer.verbs.lists import Field, Listing, add_format, documents, matches
from nbcontainer.verbs.shown import Document, Table

LS = Listing(
    "volume ls",
    (
        Field("Driver", "DRIVER"), Field("Name", "VOLUME NAME"), Field("Size", "SIZE"), Field("InUse", "IN USE"), Field("Mountpoint", "MOUNTPOINT"),
        Field("Scope", "SCOPE", False), Field("CreatedAt", "CREATED AT", False),
    ),
    "Name",
    {"name": (), "dangling": ("true", "false"), "driver": ("local",)},
)  # fmt: skip


def _some(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("names", metavar="NAME", nargs="+")


def volume_create_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("names", metavar="NAME", nargs="*", help="a name of letters, digits and _ . - (one that is made up)")


def volume_create(given: argparse.Namespace) -> str:
    return "\n".join(volumes.create(name).name for name in given.names or [volumes.new_name()])


volume_ls_arguments = LS.add_arguments


def volume_ls(given: argparse.Namespace) -> Table | Document | str:
    chosen = LS.chosen(given.filter)
    found = [volume for volume in volumes.find_all() if _fits(volume, chosen)]
    if given.quiet and given.format is None:
        return "\n".join(volume.name for volume in found)  # without a look at all of their files
    return LS.shown([_row(volume) for volume in found], given.format, quiet=given.quiet)


def _fits(volume: volumes.Volume, chosen: dict[str, list[str]]) -> bool:
    """``dangling``: no container has it."""
    if "dangling" in chosen and ("false" if volume.in_use() else "true") not in chosen["dangling"]:
        return False
    return "name" not in chosen or matches(chosen["name"], volume.name)


def _row(volume: volumes.Volume) -> dict[str, str]:
    described = _described(volume)
    return {
        **{name: str(described[name]) for name in ("Driver", "Name", "Mountpoint", "Scope", "CreatedAt")},
        "Size": format_size(volume.size_bytes()),
        "InUse": "yes" if volume.in_use() else "",
    }


def volume_inspect_arguments(parser: argparse.ArgumentParser) -> None:
    add_format(parser)
    _some(parser)


def volume_inspect(given: argparse.Namespace) -> Document | str:
    return documents("volume inspect", [{**_described(one), "SizeBytes": one.size_bytes(), "InUse": one.in_use()} for one in map(volumes.find, given.names)], given.format)


def volume_rm_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-f", "--force", action="store_true", help="no error where there is no such volume")
    _some(parser)


def volume_rm(given: argparse.Namespace) -> str:
    failure: NbcontainerError | None = None
    for name in given.names:
        try:
            volumes.remove(name)
        except NbcontainerError as error:
            gone = given.force and isinstance(error, SpecError) and name not in {volume.name for volume in volumes.find_all()}
            failure = failure or (None if gone else error)
    if failure is not None:
        raise failure
    return "\n".join(given.names)


def volume_prune_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-a", "--all", action="store_true", help="as Docker has it; all that no container has are removed anyway")
    parser.add_argument("-f", "--force", action="store_true", help="as Docker has it; nothing is asked anyway")


def volume_prune(given: argparse.Namespace) -> str:
    gone = [found.name for found in volumes.find_all() if not found.in_use()]
    for name in gone:
        volumes.remove(name)
    return "\n".join([*(f"removed {name}" for name in gone), f"{len(gone)} removed"])


def _described(found: volumes.Volume) -> dict[str, object]:
    created = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(found.created_unix_seconds()))
    return {"Name": found.name, "Driver": "local", "Mountpoint": str(found.path), "CreatedAt": created, "Scope": "local"}
