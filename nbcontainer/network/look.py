"""Looking at a network namespace: its links, addresses and routes as they are now, for ``network inspect``."""

from __future__ import annotations

import os
from dataclasses import asdict
from typing import Any

from pyroute2.netlink.rtnl.ifaddrmsg import ifaddrmsg
from pyroute2.netlink.rtnl.ifinfmsg import ifinfmsg
from pyroute2.netlink.rtnl.rtmsg import rtmsg
from pyroute2.netlink.rtnl.tcmsg import tcmsg

from nbcontainer.network import links
from nbcontainer.network.described import Link, NamespaceDescription, Route
from nbcontainer.network.netlink import Netlink
from nbcontainer.units import format_size

_GET_QUEUE = 38
_MAIN_TABLE, _UNICAST = 254, 1
_FAMILIES = (2, 10)


def look(netlink: Netlink, namespace_fd: int, title: str, published: tuple[str, ...] = ()) -> NamespaceDescription:
    """Everything in the namespace that ``netlink`` was made in."""
    addresses: dict[int, list[str]] = {}
    for item in netlink.dump(ifaddrmsg, links.GET_ADDRESS):
        addresses.setdefault(item["index"], []).append(f"{item.get_attr('IFA_LOCAL') or item.get_attr('IFA_ADDRESS')}/{item['prefixlen']}")
    queues: dict[int, list[str]] = {}
    for item in netlink.dump(tcmsg, _GET_QUEUE):
        text = _queue(item)
        if text:
            queues.setdefault(item["index"], []).append(text)
    found = tuple(_link(item, addresses, queues) for item in netlink.dump(ifinfmsg, links.GET_LINK))
    names = {link.index: link.name for link in found}
    routes = tuple(_route(item, names) for family in _FAMILIES for item in netlink.dump(rtmsg, links.GET_ROUTE, family=family) if _is_shown(item))
    return NamespaceDescription(title, os.fstat(namespace_fd).st_ino, found, routes, published)


def _link(item: Any, addresses: dict[int, list[str]], queues: dict[int, list[str]]) -> Link:
    index, counters = item["index"], item.get_attr("IFLA_STATS64")
    info = item.get_attr("IFLA_LINKINFO")
    kind = info.get_attr("IFLA_INFO_KIND") if info is not None else ""
    # Link-local addresses, which every interface has, would only be in the way.
    own = tuple(text for text in addresses.get(index, ()) if not text.startswith("fe80:"))
    return Link(
        index, str(item.get_attr("IFLA_IFNAME")), kind or "", item.get_attr("IFLA_LINK"), item.get_attr("IFLA_MASTER"),
        str(item.get_attr("IFLA_ADDRESS") or ""), bool(item["flags"] & links.IFF_UP), int(item.get_attr("IFLA_MTU")), own,
        int(counters["rx_bytes"]), int(counters["tx_bytes"]), tuple(queues.get(index, ())),
    )  # fmt: skip


def _queue(item: Any) -> str:
    kind = item.get_attr("TCA_KIND")
    options = item.get_attr("TCA_OPTIONS")
    if kind == "tbf" and options is not None:
        return f"tbf {format_size(options.get_attr('TCA_TBF_PARMS')['rate'])}/s"
    return "netem" if kind == "netem" else ""


def _is_shown(item: Any) -> bool:
    destination = str(item.get_attr("RTA_DST") or "")
    return item.get_attr("RTA_TABLE") == _MAIN_TABLE and item["type"] == _UNICAST and not destination.startswith(("fe80:", "ff00:"))


def _route(item: Any, names: dict[int, str]) -> Route:
    destination = item.get_attr("RTA_DST")
    where = f"{destination}/{item['dst_len']}" if destination else "default"
    return Route(where, item.get_attr("RTA_GATEWAY"), names.get(item.get_attr("RTA_OIF"), "?"))


def to_json(description: NamespaceDescription) -> dict[str, Any]:
    return asdict(description)


def only(description: NamespaceDescription, kept: set[str]) -> NamespaceDescription:
    """Without the links that are not named, and their routes: those of the host are its own affair."""
    shown = tuple(link for link in description.links if link.name in kept)
    routes = tuple(route for route in description.routes if route.link in kept)
    return NamespaceDescription(description.title, description.inode, shown, routes, description.published)
