"""Published ports, as ``docker run -p`` has them."""

from __future__ import annotations

import dataclasses
import ipaddress
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from nbcontainer.errors import SpecError
from nbcontainer.units import shown

LOOPBACK = "127.0.0.1"
HELP = "[ADDRESS:]HOSTPORT:PORT[/udp], such as 8080:80; ranges are 8000-8009:80-89"
_PUBLISH = re.compile(r"(?:(?:\[(?P<v6>[0-9A-Fa-f:.]+)\]|(?P<v4>[0-9]+(?:[.][0-9]*)+)):)?(?:(?P<host>[0-9]*(?:-[0-9]+)?):)?(?P<port>[0-9]+(?:-[0-9]+)?)(?:/(?P<protocol>[a-zA-Z]+))?")


@dataclass(frozen=True, slots=True)
class Port:
    """One port of the host that leads to one of the container. ``host_port`` 0: one that is free."""

    host_address: str
    host_port: int
    container_port: int
    protocol: Literal["tcp", "udp"]

    @property
    def host(self) -> str:
        """The host's address as it stands before a port."""
        return f"[{self.host_address}]" if ":" in self.host_address else self.host_address

    def __str__(self) -> str:
        return f"{self.host}:{self.host_port}->{self.container_port}/{self.protocol}"

    def at(self, host_port: int) -> Port:
        return dataclasses.replace(self, host_port=host_port)


def chosen(asked: Iterable[Port], published: Iterable[Port]) -> tuple[str, ...]:
    """A note about those that were left to us to choose, if there are any."""
    found = [str(port) for port, wanted in zip(published, asked, strict=True) if not wanted.host_port]
    return (f"Published: {', '.join(found)}",) if found else ()


def parse_ports(texts: Iterable[str]) -> tuple[Port, ...]:
    """Raises SpecError."""
    found: list[Port] = []
    for text in texts:
        found += _parse(text)
    seen: set[tuple[str, int, str]] = set()
    for port in found:
        place = (port.host_address, port.host_port, port.protocol)
        if port.host_port and place in seen:
            raise SpecError(f"--publish: port {port.host_port}/{port.protocol} of {port.host_address} is given twice")
        seen.add(place)
    return tuple(found)


def _parse(text: str) -> list[Port]:
    match = _PUBLISH.fullmatch(text.strip())
    if match is None:
        raise SpecError(f"--publish: {shown(text)} is not {HELP}")
    address = match["v6"] or match["v4"] or LOOPBACK
    try:
        ipaddress.ip_address(address)
    except ValueError:
        raise SpecError(f"--publish: {shown(text)}: {address} is not an address of this host; give an IPv4 or [IPv6] address") from None
    protocol = (match["protocol"] or "tcp").lower()
    if protocol not in ("tcp", "udp"):
        raise SpecError(f"--publish: {shown(text)}: {protocol} is not tcp or udp")
    inner = _range(match["port"], text)
    outer = _range(match["host"], text, lowest=0) if match["host"] else [0] * len(inner)
    if len(outer) != len(inner):
        raise SpecError(f"--publish: {shown(text)} has {len(outer)} ports of the host for {len(inner)} of the container")
    kind: Literal["tcp", "udp"] = "udp" if protocol == "udp" else "tcp"
    return [Port(address, host, port, kind) for host, port in zip(outer, inner, strict=True)]


def _range(text: str, whole: str, *, lowest: int = 1) -> list[int]:
    first, _, last = text.partition("-")
    if len(first) > 5 or len(last) > 5 or not first:
        raise SpecError(f"--publish: {shown(whole)} has a port above 65535, or none; it is {HELP}")
    begin, end = int(first), int(last or first)
    if not lowest <= begin <= end <= 65535:
        raise SpecError(f"--publish: {shown(whole)}: ports are 1 to 65535, the first of a range before the last")
    if end - begin > 1000:
        raise SpecError(f"--publish: {shown(whole)} is more than 1000 ports")
    return list(range(begin, end + 1))


def port_filter(text: str, option: str) -> tuple[range, str]:
    """``80``, ``8000-8009`` and ``53/udp``, as Docker's filters have them: (numbers, protocol). Raises SpecError."""
    found = re.fullmatch(r"(\d{1,5})(?:-(\d{1,5}))?(?:/(tcp|udp))?", text)
    if found is None or not 0 < int(found[1]) <= int(found[2] or found[1]) < 1 << 16:
        raise SpecError(f"{option}={text}: {shown(text)} is not a port such as 80, 8000-8009 or 53/udp")
    return range(int(found[1]), int(found[2] or found[1]) + 1), found[3] or "tcp"
