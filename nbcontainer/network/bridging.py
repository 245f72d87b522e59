"""A network's bridge and the host's routes to it: made together, and taken away together, or not at all."""

from __future__ import annotations

import contextlib
import errno

from nbcontainer.network import links
from nbcontainer.network.links import Bridge
from nbcontainer.network.netlink import Netlink, NetlinkError
from nbcontainer.network.uplink import Uplink

_GONE = (errno.ENODEV, errno.ESRCH, errno.ENOENT)
"""Somebody else has taken it away."""


def make(bridge: Bridge, router: Netlink, host: Netlink, uplink: Uplink | None) -> None:
    """Raises NetlinkError; then :func:`unmake` has to be called, as Linux makes what follows a refused request all the same."""
    router.ask(*links.make_bridge(bridge))
    if uplink is not None:
        host.ask(*(links.add_route(*route) for route in uplink.routes(bridge.v4, bridge.v6)))


def unmake(bridge: Bridge, router: Netlink, host: Netlink, uplink: Uplink | None) -> None:
    """Whatever there is of it goes."""
    for netlink, request in _deletions(bridge, router, host, uplink):
        with contextlib.suppress(OSError):
            netlink.ask(request)


def remove(bridge: Bridge, router: Netlink, host: Netlink, uplink: Uplink | None) -> None:
    """Raises NetlinkError where Linux refuses; then the network is there as before."""
    try:
        for netlink, request in _deletions(bridge, router, host, uplink):
            try:
                netlink.ask(request)
            except NetlinkError as error:
                if error.errno not in _GONE:
                    raise
    except NetlinkError:
        for route in uplink.routes(bridge.v4, bridge.v6) if uplink is not None else ():
            with contextlib.suppress(OSError):
                host.ask(links.add_route(*route))
        raise


def _deletions(bridge: Bridge, router: Netlink, host: Netlink, uplink: Uplink | None) -> list[tuple[Netlink, bytes]]:
    routes = uplink.routes(bridge.v4, bridge.v6) if uplink is not None else []
    return [*((host, links.delete_route(*route)) for route in routes), (router, links.delete(bridge.index))]
