"""Links, addresses, routes and queues: what there is to be, as netlink requests."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network
from typing import Any

from pyroute2.netlink.rtnl.ifaddrmsg import ifaddrmsg
from pyroute2.netlink.rtnl.ifinfmsg import ifinfmsg
from pyroute2.netlink.rtnl.rtmsg import rtmsg

from nbcontainer.errors import HostError, NbcontainerError, SetupError
from nbcontainer.linux import syscalls
from nbcontainer.network.netlink import CREATE, EXCLUSIVE, Netlink, request
from nbcontainer.network.subnets import address

NEW_LINK, DELETE_LINK, GET_LINK = 16, 17, 18
NEW_ADDRESS, GET_ADDRESS = 20, 22
NEW_ROUTE, DELETE_ROUTE, GET_ROUTE = 24, 25, 26
IFF_UP = 1
_AF_INET, _AF_INET6 = 2, 10
_NO_DAD = 0x02
_MAIN_TABLE, _STATIC, _UNICAST, _UNIVERSE = 254, 4, 1, 0
NEW = CREATE | EXCLUSIVE
FIRST_INNER_INDEX = 2
"""In a new namespace, lo is 1."""


@dataclass(frozen=True, slots=True)
class Bridge:
    """One network's switch in the router; ``number``: of the network."""

    index: int
    name: str
    v4: IPv4Network
    v6: IPv6Network | None
    """None where this Linux has no IPv6, or the administrator has switched it off."""
    mtu: int

    @property
    def gateway(self) -> str:
        return address(self.v4, 1)

    @property
    def gateway_v6(self) -> str | None:
        return None if self.v6 is None else address(self.v6, 1)


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A container's place in a network: a veth pair, one end of it in the router's bridge, one in the container."""

    bridge: Bridge
    host: int
    """The number of its addresses in the subnets."""
    outer_index: int
    position: int
    """0 for eth0."""

    @property
    def outer_name(self) -> str:
        return f"veth{self.outer_index}"

    @property
    def inner_name(self) -> str:
        return f"eth{self.position}"

    @property
    def inner_index(self) -> int:
        return FIRST_INNER_INDEX + self.position

    @property
    def v4(self) -> str:
        return address(self.bridge.v4, self.host)

    @property
    def v6(self) -> str | None:
        return None if self.bridge.v6 is None else address(self.bridge.v6, self.host)


def mac_of(v4: str) -> str:
    """Locally administered, and the same for the same address, so that nobody's table of neighbours goes stale."""
    return "02:6e:" + ":".join(f"{int(part):02x}" for part in v4.split("."))


def add_address(index: int, text: str, length: int) -> bytes:
    family, flags = (_AF_INET6, _NO_DAD) if ":" in text else (_AF_INET, 0)
    # Nobody else can have it: duplicate address detection would only keep it unusable for a second.
    attrs = [("IFA_LOCAL", text), ("IFA_ADDRESS", text)]
    return request(ifaddrmsg, NEW_ADDRESS, NEW, family=family, prefixlen=length, index=index, flags=flags, attrs=attrs)


def _route(kind: int, flags: int, index: int, via: str, destination: IPv4Network | IPv6Network | None) -> bytes:
    family = _AF_INET6 if ":" in via else _AF_INET
    attrs: list[tuple[str, Any]] = [("RTA_GATEWAY", via), ("RTA_OIF", index)]
    length = 0
    if destination is not None:
        attrs.insert(0, ("RTA_DST", str(destination.network_address)))
        length = destination.prefixlen
    return request(
        rtmsg, kind, flags, family=family, dst_len=length, table=_MAIN_TABLE, proto=_STATIC, scope=_UNIVERSE, type=_UNICAST, attrs=attrs
    )


def add_route(index: int, via: str, destination: IPv4Network | IPv6Network | None = None) -> bytes:
    """The default route where there is no ``destination``."""
    return _route(NEW_ROUTE, NEW, index, via, destination)


def delete_route(index: int, via: str, destination: IPv4Network | IPv6Network) -> bytes:
    return _route(DELETE_ROUTE, 0, index, via, destination)


def set_up(index: int) -> bytes:
    return request(ifinfmsg, NEW_LINK, index=index, flags=IFF_UP, change=IFF_UP)


def delete(index: int) -> bytes:
    return request(ifinfmsg, DELETE_LINK, index=index)


def make_bridge(bridge: Bridge) -> list[bytes]:
    attrs = [
        ("IFLA_IFNAME", bridge.name),
        ("IFLA_MTU", bridge.mtu),
        # Else it takes the lowest of its ports' and changes it when they come and go.
        ("IFLA_ADDRESS", mac_of(bridge.gateway)),
        # Snooping would drop multicast between containers until a querier is found, and there is none.
        ("IFLA_LINKINFO", {"attrs": [("IFLA_INFO_KIND", "bridge"), ("IFLA_INFO_DATA", {"attrs": [("IFLA_BR_MCAST_SNOOPING", 0)]})]}),
    ]
    link = request(ifinfmsg, NEW_LINK, NEW, index=bridge.index, flags=IFF_UP, change=IFF_UP, attrs=attrs)
    requests = [link, add_address(bridge.index, bridge.gateway, bridge.v4.prefixlen)]
    if bridge.v6 is not None:
        requests.append(add_address(bridge.index, address(bridge.v6, 1), bridge.v6.prefixlen))
    return requests


def make_veth(endpoint: Endpoint, namespace_fd: int) -> bytes:
    """Both ends in one message, the inner one made where it belongs. It cannot be up before its peer is: see :func:`inside`."""
    bridge = endpoint.bridge
    inner = [
        ("IFLA_IFNAME", endpoint.inner_name),
        ("IFLA_MTU", bridge.mtu),
        ("IFLA_ADDRESS", mac_of(endpoint.v4)),
        ("IFLA_NET_NS_FD", namespace_fd),
    ]
    peer = ("VETH_INFO_PEER", {"index": endpoint.inner_index, "attrs": inner})
    attrs = [
        ("IFLA_IFNAME", endpoint.outer_name),
        ("IFLA_MTU", bridge.mtu),
        ("IFLA_MASTER", bridge.index),
        ("IFLA_LINKINFO", {"attrs": [("IFLA_INFO_KIND", "veth"), ("IFLA_INFO_DATA", {"attrs": [peer]})]}),
    ]
    return request(ifinfmsg, NEW_LINK, NEW, index=endpoint.outer_index, flags=IFF_UP, change=IFF_UP, attrs=attrs)


def inside(endpoints: list[Endpoint], way_out: int) -> list[bytes]:
    """What the container's own namespace needs: its ends up, their addresses, and the default route by the one at ``way_out``."""
    requests = []
    for endpoint in endpoints:
        index, bridge = endpoint.inner_index, endpoint.bridge
        requests += [set_up(index), add_address(index, endpoint.v4, bridge.v4.prefixlen)]
        if bridge.v6 is not None:
            requests.append(add_address(index, address(bridge.v6, endpoint.host), bridge.v6.prefixlen))
    first = endpoints[way_out]
    gateways = (first.bridge.gateway, first.bridge.gateway_v6)
    return [*requests, *(add_route(first.inner_index, gateway) for gateway in gateways if gateway)]


@contextmanager
def in_namespace(fd: int, own_fd: int) -> Iterator[None]:
    """This thread alone is in the network namespace ``fd`` (or, of a pidfd, its process's); a socket made there stays there."""
    syscalls.setns(fd, syscalls.CLONE_NEWNET)
    try:
        yield
    finally:
        syscalls.setns(own_fd, syscalls.CLONE_NEWNET)


def own_namespace() -> int:
    """A descriptor of the network namespace of this thread."""
    return os.open(f"/proc/self/task/{threading.get_native_id()}/ns/net", os.O_RDONLY | os.O_CLOEXEC)


def routed(netlink: Netlink) -> list[IPv4Network]:
    """Where a namespace sends IPv4 packets to, in all its tables, besides its default routes."""
    found = []
    for route in netlink.dump(rtmsg, GET_ROUTE, family=_AF_INET):
        destination = route.get_attr("RTA_DST")
        if destination is not None and route["dst_len"]:
            found.append(IPv4Network((destination, route["dst_len"]), strict=False))
    return found


def global_addresses(netlink: Netlink) -> list[str]:
    """Of all links, but for loopback and link-local ones."""
    found = (item.get_attr("IFA_LOCAL") or item.get_attr("IFA_ADDRESS") for item in netlink.dump(ifaddrmsg, GET_ADDRESS) if item["scope"] == _UNIVERSE)
    return [str(text) for text in found]


def default_mtu(netlink: Netlink) -> int:
    """Of the link that packets leave by, at most Ethernet's."""
    indexes = {
        route.get_attr("RTA_OIF")
        for route in netlink.dump(rtmsg, GET_ROUTE, family=_AF_INET)
        if not route["dst_len"] and route.get_attr("RTA_OIF")
    }
    mtus = [link.get_attr("IFLA_MTU") for link in netlink.dump(ifinfmsg, GET_LINK) if link["index"] in indexes]
    return min([1500, *(int(mtu) for mtu in mtus if mtu)])


def why_refused(step: str, what: str, error: OSError, *needed: tuple[Netlink, int, str]) -> NbcontainerError:
    """What to raise where Linux refused: HostError where an interface (its namespace, index, name) is not there any more, else SetupError."""
    for netlink, index, name in needed:
        if all(link["index"] != index for link in netlink.dump(ifinfmsg, GET_LINK)):
            return HostError(f"{what}: its interface {name} has been removed", "restart the notebook's kernel, which makes networks anew")
    return SetupError(step, error.errno or 0, f"{what} ({error.strerror})")


def statistics(netlink: Netlink) -> dict[int, tuple[int, int]]:
    """(received, sent) bytes by interface index."""
    found = {}
    for link in netlink.dump(ifinfmsg, GET_LINK):
        counters = link.get_attr("IFLA_STATS64")
        found[link["index"]] = (counters["rx_bytes"], counters["tx_bytes"])
    return found
