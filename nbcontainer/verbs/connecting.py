"""``network``: networks of this kernel's containers."""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from typing import TYPE_CHECKING

from nbcontainer import networks
from nbcontainer.errors import SpecError
from nbcontainer.verbs.lists import Field, Listing, add_format, documents, matches
from nbcontainer.verbs.shown import Document, Table

if TYPE_CHECKING:
    from nbcontainer.network.described import NetworkDescription, NetworkPicture

ENGINES = ("auto", "local", "vm")
LS = Listing(
    "network ls",
    (
        Field("Name", "NAME"), Field("Subnet", "SUBNET"), Field("SubnetV6", "IPV6 SUBNET"), Field("Gateway", "GATEWAY"), Field("Containers", "CONTAINERS"),
        Field("WayOut", "WAY OUT"), Field("Driver", "DRIVER", False), Field("Scope", "SCOPE", False), Field("Internal", "INTERNAL", False), Field("IPv6", "IPV6", False),
    ),
    "Name",
    {"name": (), "driver": ("bridge",), "internal": ("true", "false")},
)  # fmt: skip


def _engine(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--engine", metavar="ENGINE", help=f"{', '.join(ENGINES)}: whose networks (auto)")


def network_create_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--subnet", metavar="NETWORK", help="an IPv4 network such as 10.77.0.0/24 (one that is free)")
    parser.add_argument("--internal", action="store_true", help="without a way out")
    _engine(parser)
    parser.add_argument("names", metavar="NAME", nargs="*")


def network_create(given: argparse.Namespace) -> str:
    if len(given.names) != 1:
        raise SpecError("network create: give one NAME, such as: network create --subnet 10.77.0.0/24 lab")
    made = networks.create(given.names[0], subnet=given.subnet, internal=given.internal, engine=given.engine)
    return f"{made.name}: {made.subnet}, gateway {made.gateway}"


def network_ls_arguments(parser: argparse.ArgumentParser) -> None:
    LS.add_arguments(parser)
    parser.add_argument("--no-trunc", action="store_true", help="as Docker has it; nothing is cut anyway")
    _engine(parser)


def network_ls(given: argparse.Namespace) -> Table | Document | str:
    chosen = LS.chosen(given.filter)
    found = [_row(network) for network in networks.ls(engine=given.engine)]
    return LS.shown([row for row in found if _fits(row, chosen)], given.format, quiet=given.quiet)


def as_table(found: Iterable[NetworkDescription]) -> str:
    return str(LS.shown(list(map(_row, found)), None))


def _fits(row: dict[str, str], chosen: dict[str, list[str]]) -> bool:
    if "internal" in chosen and row["Internal"] not in chosen["internal"]:
        return False
    return "name" not in chosen or matches(chosen["name"], row["Name"])


def _row(network: NetworkDescription) -> dict[str, str]:
    return {
        "Name": network.name,
        "Subnet": network.subnet,
        "SubnetV6": network.subnet_v6 or "-",
        "Gateway": network.gateway,
        "Containers": str(len(network.containers)),
        "WayOut": network.way_out or ("none (internal)" if network.internal else "none"),
        "Driver": "bridge",
        "Scope": "local",
        "Internal": str(network.internal).lower(),
        "IPv6": str(network.subnet_v6 is not None).lower(),
    }


def network_inspect_arguments(parser: argparse.ArgumentParser) -> None:
    add_format(parser)
    _engine(parser)
    parser.add_argument("names", metavar="NAME", nargs="*", help=f"without it, {networks.DEFAULT}")


def network_inspect(given: argparse.Namespace) -> NetworkPicture | Document | str:
    """A picture; with a format, what Docker has of it."""
    names = given.names or [networks.DEFAULT]
    if given.format is None:
        if len(names) > 1:
            raise SpecError("network inspect: takes one name; with --format several")
        return networks.inspect(names[0], engine=given.engine)
    return documents("network inspect", [_described(networks.inspect(name, engine=given.engine).network) for name in names], given.format)


def _described(network: NetworkDescription) -> dict[str, object]:
    subnets = [{"Subnet": network.subnet, "Gateway": network.gateway}, *([{"Subnet": network.subnet_v6}] if network.subnet_v6 else [])]
    return {
        "Name": network.name,
        "Driver": "bridge",
        "Scope": "local",
        "Internal": network.internal,
        "EnableIPv6": network.subnet_v6 is not None,
        "IPAM": {"Config": subnets},
        "Containers": {container_id: {"IPv4Address": address} for container_id, address in network.containers.items()},
        "WayOut": network.way_out,
    }


def network_rm_arguments(parser: argparse.ArgumentParser) -> None:
    _engine(parser)
    parser.add_argument("names", metavar="NAME", nargs="*")


def network_rm(given: argparse.Namespace) -> str:
    if not given.names:
        raise SpecError("network rm: a NAME is missing; %container network ls shows them")
    for name in given.names:
        networks.rm(name, engine=given.engine)
    return "\n".join(given.names)


def network_prune_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-f", "--force", action="store_true", help="as Docker has it; nothing is asked anyway")
    _engine(parser)


def network_prune(given: argparse.Namespace) -> str:
    removed = networks.prune(engine=given.engine)
    return "\n".join([*removed, f"{len(removed)} removed"])
