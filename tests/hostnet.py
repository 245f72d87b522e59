"""The network of the host that tests are on: their own, and what is there, told by pyroute2's own sockets."""

from __future__ import annotations

import os
import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from nbcontainer.linux import syscalls

State = dict[str, list[str]]
_EVERY_FAMILY, _INET = 0, 1


def leave_real_host() -> None:
    """From here on this process, and whatever it starts, is in a network namespace of its own, with nothing but a loopback.

    To be called as root while there is one thread. Nothing that tests do can then touch the machine's own links, addresses, routes or rules.
    """
    assert threading.active_count() == 1
    syscalls.unshare(syscalls.CLONE_NEWNET)
    set_up("lo")


def set_up(name: str) -> None:
    import fcntl

    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        fcntl.ioctl(sock, 0x8914, struct.pack("16sh22x", name.encode(), 1))


def state() -> State:
    """Links, addresses, routes, policy rules and nftables of this thread's namespace, a line each."""
    from pyroute2 import IPRoute
    from pyroute2.nftables.main import NFTables

    found: State = {}
    with IPRoute() as route:
        found["links"] = [f"{link['index']} {link.get_attr('IFLA_IFNAME')} {link['flags']}" for link in route.get_links()]
        found["addresses"] = [f"{item['index']} {item.get_attr('IFA_ADDRESS')}/{item['prefixlen']}" for item in route.get_addr()]
        found["routes"] = [_route(item) for family in (socket.AF_INET, socket.AF_INET6) for item in route.get_routes(family=family)]
        found["rules"] = [str(sorted(map(str, item["attrs"]))) for family in (socket.AF_INET, socket.AF_INET6) for item in route.get_rules(family=family)]
    if os.geteuid() == 0:  # others may not look, and change them even less
        with NFTables(nfgen_family=_EVERY_FAMILY) as tables:
            found["tables"] = [f"{item['nfgen_family']} {item.get_attr('NFTA_TABLE_NAME')}" for item in tables.get_tables()]
            found["nft chains"] = [f"{item['nfgen_family']} {item['attrs']}" for item in tables.get_chains()]
            found["nft rules"] = [f"{item['nfgen_family']} {item['attrs']}" for item in tables.get_rules()]
    found["sysctls"] = [f"{path} {_text(path)}" for path in _SYSCTLS]
    return {kind: sorted(lines) for kind, lines in found.items()}


_SYSCTLS = [f"/proc/sys/net/{name}" for name in ("ipv4/ip_forward", "ipv4/conf/all/rp_filter", "ipv6/conf/all/forwarding", "ipv6/conf/all/accept_ra")]


def _route(item: Any) -> str:
    attrs = {name: value for name, value in item["attrs"] if name in ("RTA_DST", "RTA_GATEWAY", "RTA_OIF", "RTA_TABLE")}
    return f"{item['family']} {item['dst_len']} {attrs}"


def _text(path: str) -> str:
    try:
        with open(path, encoding="ascii") as file:
            return file.read().strip()
    except FileNotFoundError:
        return "there is none"  # without IPv6


@contextmanager
def in_another_namespace() -> Iterator[int]:
    """This thread is in a new network namespace with its loopback up, and comes back; gives its descriptor."""
    own = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    fd = -1
    try:
        syscalls.unshare(syscalls.CLONE_NEWNET)
        fd = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        set_up("lo")
        yield fd
    finally:
        syscalls.setns(own, syscalls.CLONE_NEWNET)
        os.close(own)
        if fd >= 0:
            os.close(fd)


@contextmanager
def foreign_rules() -> Iterator[None]:
    """Somebody else has a table on the host, with a rule in a chain that forwarded packets pass, and a chain that is empty."""
    from pyroute2.nftables.main import NFTables

    marked = [
        {"attrs": [("NFTA_EXPR_NAME", "meta"), ("NFTA_EXPR_DATA", {"attrs": [("NFTA_META_DREG", 1), ("NFTA_META_KEY", 3)]})]},
        {"attrs": [("NFTA_EXPR_NAME", "immediate"), ("NFTA_EXPR_DATA", {"attrs": [("NFTA_IMMEDIATE_DREG", 0), ("NFTA_IMMEDIATE_DATA", _ACCEPT)]})]},
    ]
    with NFTables(nfgen_family=_INET) as tables:
        tables.table("add", name="foreign")
        try:
            tables.chain("add", table="foreign", name="passing", hook="forward", type="filter", priority=5, policy=1)
            tables.chain("add", table="foreign", name="empty")
            tables.rule("add", table="foreign", chain="passing", expressions=(marked,))
            yield
        finally:
            tables.table("del", name="foreign")


_ACCEPT = {"attrs": [("NFTA_DATA_VERDICT", {"attrs": [("NFTA_VERDICT_CODE", 1)]})]}
