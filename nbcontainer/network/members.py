"""What a router remembers: its networks, and the containers on them."""

from __future__ import annotations

from dataclasses import dataclass, field

from nbcontainer.errors import HostError
from nbcontainer.network.forward import Published
from nbcontainer.network.links import Bridge, Endpoint
from nbcontainer.network.subnets import Subnet


@dataclass(slots=True, eq=False)
class Network:
    """One network, with the containers that are on it."""

    name: str
    subnet: Subnet
    bridge: Bridge
    internal: bool
    endpoints: dict[str, Endpoint] = field(default_factory=dict)
    """By container id."""
    next_host: int = 2

    def take_host(self) -> int:
        """The number of an address that is free, as long after its last use as possible. Raises HostError."""
        used = {endpoint.host for endpoint in self.endpoints.values()}
        size = self.subnet.v4.num_addresses
        for _ in range(size):
            host = self.next_host
            self.next_host = 2 if host + 1 >= size - 1 else host + 1
            if host not in used:
                return host
        raise HostError(f"network {self.name}: all {size - 3} addresses of {self.subnet.v4} are in use", "%container network create ANOTHER")


@dataclass(slots=True, eq=False)
class Member:
    """A container that is attached. ``namespace_fd`` keeps its network namespace until its counters are read."""

    container_id: str
    namespace_fd: int
    endpoints: tuple[Endpoint, ...]
    names: frozenset[str] = frozenset()
    published: list[Published] = field(default_factory=list)
