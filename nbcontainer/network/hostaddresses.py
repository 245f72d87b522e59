"""The host's own addresses, where containers get out by pasta: its connections are the host's, and would reach what listens on them.

Linux tells of each address that comes and goes, so that one that comes while containers run is refused, too.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable

from nbcontainer.network import links
from nbcontainer.network.netlink import RECEIVE_BYTES, ROUTE, Netlink

_IPV4_ADDRESSES, _IPV6_ADDRESSES = 0x10, 0x100
"""RTMGRP_IPV4_IFADDR and RTMGRP_IPV6_IFADDR of rtnetlink."""


class HostAddresses:
    """``in_host`` runs a function in a thread that is in the host's network namespace."""

    def __init__(self, host: Netlink, in_host: Callable[[Callable[[], socket.socket]], socket.socket]) -> None:
        self._host, self._in_host = host, in_host
        self._news: socket.socket | None = None
        self.refused: list[str] = []
        """As of the rules that are in force."""

    def now(self) -> list[str]:
        return links.global_addresses(self._host)

    def watch(self, renew_rules: Callable[[], None]) -> None:
        """Call it whenever they have changed, from now on; once is enough. Where it fails, the router ends, and with it the way out."""
        if self._news is not None:
            return
        news = self._news = self._in_host(_listen)

        def look() -> None:
            try:
                while news.recv(RECEIVE_BYTES):
                    pass
            except OSError:
                pass  # nothing is left, or Linux had more to say than there was room for
            if self.now() != self.refused:
                try:
                    renew_rules()
                except OSError as error:
                    raise SystemExit(f"the host's addresses have changed, and cannot be refused: {error}") from None

        asyncio.get_running_loop().add_reader(news, look)


def _listen() -> socket.socket:
    news = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK, ROUTE)
    news.bind((0, _IPV4_ADDRESSES | _IPV6_ADDRESSES))
    return news
