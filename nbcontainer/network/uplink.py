"""The router's way to the host and out: one veth pair, where the kernel is root's.

On the host that is one link (it goes with the router's namespace), its addresses, routes to the containers' networks by it, and
one table of rules (it goes with the router's process). Nothing that was there is changed: not the sysctls either. Whether a
host forwards packets is its administrator's choice, as forwarding also opens ways between its other interfaces; where it does not, pasta is
the way out (see :mod:`nbcontainer.network.pasta`), and the link is for what the host itself asks of containers.
"""

from __future__ import annotations

import errno
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network
from typing import Any

from pyroute2.netlink.rtnl.ifinfmsg import ifinfmsg

from nbcontainer.errors import SetupError
from nbcontainer.network import links
from nbcontainer.network.firewall import HostRules
from nbcontainer.network.netlink import Netlink, request
from nbcontainer.network.subnets import Subnet, address

NAME = "uplink"
"""Of the end in the router."""


@dataclass(frozen=True, slots=True)
class Uplink:
    """Interface indexes of both ends, and their addresses."""

    name: str
    host_index: int
    router_index: int
    subnet: Subnet
    ipv6: bool
    rules: HostRules

    @property
    def host_addresses(self) -> list[str]:
        return _addresses(self.subnet, 1, self.ipv6)

    @property
    def router_addresses(self) -> list[str]:
        return _addresses(self.subnet, 2, self.ipv6)

    def routes(self, v4: IPv4Network, v6: IPv6Network | None) -> list[tuple[int, str, IPv4Network | IPv6Network]]:
        """What the host needs to reach a network: (index, next hop, destination)."""
        router = self.router_addresses
        found: list[tuple[int, str, IPv4Network | IPv6Network]] = [(self.host_index, router[0], v4)]
        if v6 is not None and self.ipv6:
            found.append((self.host_index, router[1], v6))
        return found


def _addresses(subnet: Subnet, host: int, ipv6: bool) -> list[str]:
    return [address(subnet.v4, host), *([address(subnet.v6, host)] if ipv6 else [])]


def make_uplink(name: str, host: Netlink, router: Netlink, router_fd: int, subnet: Subnet, *, ipv6: bool, leads_out: bool, in_host: Any) -> Uplink:
    """``name``: of the host's end, and of the table of rules; ``leads_out``: the default routes are by it; ``in_host``: calls a function in
    the host's network namespace.

    Raises OSError or SetupError; then nothing of it is left.
    """
    peer = ("VETH_INFO_PEER", {"attrs": [("IFLA_IFNAME", NAME), ("IFLA_NET_NS_FD", router_fd)]})
    attrs = [
        ("IFLA_IFNAME", name),
        ("IFLA_LINKINFO", {"attrs": [("IFLA_INFO_KIND", "veth"), ("IFLA_INFO_DATA", {"attrs": [peer]})]}),
    ]
    host.ask(request(ifinfmsg, links.NEW_LINK, links.NEW, attrs=attrs))
    try:
        host_index = index_of(host, name)
        router_index = index_of(router, NAME)
        rules: HostRules = in_host(lambda: HostRules(name, host_index, _addresses(subnet, 2, ipv6)))
        try:
            up = Uplink(name, host_index, router_index, subnet, ipv6, rules)
            _configure(host, host_index, up.host_addresses)
            _configure(router, router_index, up.router_addresses)
            if leads_out:
                router.ask(*(links.add_route(router_index, gateway) for gateway in up.host_addresses))
        except BaseException:
            rules.close()
            raise
    except BaseException:
        host.ask(request(ifinfmsg, links.DELETE_LINK, attrs=[("IFLA_IFNAME", name)]))
        raise
    return up


def _configure(netlink: Netlink, index: int, addresses: list[str]) -> None:
    netlink.ask(*(links.add_address(index, text, 126 if ":" in text else 30) for text in addresses), links.set_up(index))


def index_of(netlink: Netlink, name: str) -> int:
    for link in netlink.dump(ifinfmsg, links.GET_LINK):
        if link.get_attr("IFLA_IFNAME") == name:
            return int(link["index"])
    raise SetupError("uplink", errno.ENODEV, name)


def forwards(family: str) -> bool:
    """Whether this thread's network namespace forwards packets of ``ipv4`` or ``ipv6``."""
    return _read(f"/proc/sys/net/{family}/conf/all/forwarding") == "1"


def has_ipv6() -> bool:
    return _read("/proc/sys/net/ipv6/conf/default/disable_ipv6") == "0"


def _read(path: str) -> str:
    try:
        with open(path, encoding="ascii") as file:
            return file.read().strip()
    except OSError:
        return ""
