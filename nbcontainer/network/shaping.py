"""``--net-rate`` and ``--net-delay``: queues on both ends of each of a container's veth pairs, so that both directions are held to it.

Linux shapes what leaves an interface: what the container sends is shaped at its own end, where it cannot be changed without
CAP_NET_ADMIN (refused together), and what it receives at the router's.
"""

from __future__ import annotations

import errno
from typing import Any

from pyroute2.netlink.rtnl.tcmsg import sched_netem, sched_tbf, tcmsg

from nbcontainer.errors import HostError, SetupError
from nbcontainer.network.netlink import CREATE, Netlink, NetlinkError, request

_NEW_QUEUE, _DELETE_QUEUE = 36, 37
_REPLACE = 0x100
_ROOT = 0xFFFFFFFF
_BUCKET, _DELAY = 1 << 16, 2 << 16
BURST_SECONDS = 0.01
SMALLEST_BURST_BYTES = 16 << 10
QUEUE_SECONDS = 0.25
"""A queue holds what passes in this time: less makes TCP lose too much, more makes it wait."""
DELAYED_PACKETS = 10_000
_OPTIONS = {"tbf": ("--net-rate", "CONFIG_NET_SCH_TBF"), "netem": ("--net-delay", "CONFIG_NET_SCH_NETEM")}


def shape(netlink: Netlink, index: int, rate_bytes_per_second: int | None, delay_seconds: float | None) -> None:
    """Set the queues of one interface; None: without. Raises HostError where Linux has not got the scheduler."""
    if rate_bytes_per_second is None and delay_seconds is None:
        try:
            netlink.ask(request(tcmsg, _DELETE_QUEUE, index=index, parent=_ROOT))
        except NetlinkError as error:
            if error.errno not in (errno.ENOENT, errno.EINVAL):  # there was none
                raise
        return
    parent = _ROOT
    if delay_seconds is not None:
        options = sched_netem.get_parameters({"delay": round(delay_seconds * 1e6), "limit": DELAYED_PACKETS})
        _set(netlink, "netem", index, parent, _DELAY, options)
        parent = _DELAY | 1
    if rate_bytes_per_second is not None:
        burst = max(SMALLEST_BURST_BYTES, round(rate_bytes_per_second * BURST_SECONDS))
        limit = burst + max(SMALLEST_BURST_BYTES * 4, round(rate_bytes_per_second * QUEUE_SECONDS))
        options = sched_tbf.get_parameters({"rate": rate_bytes_per_second, "burst": burst, "limit": limit})
        _set(netlink, "tbf", index, parent, _BUCKET, options)


def _set(netlink: Netlink, kind: str, index: int, parent: int, handle: int, options: dict[str, Any]) -> None:
    attrs = [("TCA_KIND", kind), ("TCA_OPTIONS", options)]
    try:
        netlink.ask(request(tcmsg, _NEW_QUEUE, CREATE | _REPLACE, index=index, parent=parent, handle=handle, attrs=attrs))
    except NetlinkError as error:
        option, config = _OPTIONS[kind]
        if error.errno == errno.ENOENT:
            raise HostError(
                f"{option}: this Linux has no queue of the kind {kind}", f"sudo modprobe sch_{kind}, or a Linux with {config}"
            ) from None
        raise SetupError(f"limit network ({kind})", error.errno or 0, error.strerror or "") from None
