"""Choosing subnets: each in use once on the whole host, and none that the host has a route to already."""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network

from nbcontainer.errors import HostError, SpecError
from nbcontainer.state import SharedNumbers

DEFAULT_POOL = "10.192.0.0/12,172.16.0.0/12,192.168.0.0/16"
POOL_VARIABLE = "NBCONTAINER_NETWORK_POOL"
PREFIX_LENGTH = 22
"""1022 addresses: Linux's bridges have at most 1023 ports."""
_HOST_BITS = 32 - PREFIX_LENGTH


@dataclass(frozen=True, slots=True)
class Subnet:
    """``number``: what is locked for it; None for one that the user gave."""

    v4: IPv4Network
    v6: IPv6Network
    number: int | None


def parse_pool(text: str) -> list[IPv4Network]:
    """Comma-separated networks. Raises HostError: it comes from the environment."""
    try:
        pools = [IPv4Network(part.strip()) for part in text.split(",")]
    except ValueError as error:
        raise HostError(f"{POOL_VARIABLE}: {error}", f"export {POOL_VARIABLE}={DEFAULT_POOL}") from None
    if any(pool.prefixlen > PREFIX_LENGTH for pool in pools):
        raise HostError(f"{POOL_VARIABLE}: {text!r} has a network smaller than /{PREFIX_LENGTH}", f"export {POOL_VARIABLE}={DEFAULT_POOL}")
    return pools


def parse_subnet(text: str) -> IPv4Network:
    """What ``network create --subnet`` takes. Raises SpecError."""
    try:
        subnet = IPv4Network(text)
    except ValueError as error:
        raise SpecError(f"--subnet: {error}; give an IPv4 network such as 10.77.0.0/24") from None
    if not 16 <= subnet.prefixlen <= 29 or not subnet.is_private or subnet.is_loopback or subnet.is_link_local:
        raise SpecError(f"--subnet: {text!r} is not a private network of /16 to /29, such as 10.77.0.0/24")
    return subnet


class Subnets:
    """Takes and gives back. ``prefix``: 48 bits of unique local IPv6 addresses, random as RFC 4193 wants them."""

    def __init__(self) -> None:
        self._pools = parse_pool(os.environ.get(POOL_VARIABLE) or DEFAULT_POOL)
        self._numbers = SharedNumbers("subnets")
        self._prefix = int.from_bytes(b"\xfd" + os.urandom(5), "big")
        self._taken: list[IPv4Network] = []
        self._serial = 0

    def take(self, routes: Sequence[IPv4Network]) -> Subnet:
        """``routes``: where the host sends packets to. Raises HostError where nothing is free."""
        taken = [*routes, *self._taken]
        subnets = (subnet for pool in self._pools for subnet in pool.subnets(new_prefix=PREFIX_LENGTH))
        number = self._numbers.take(int(subnet.network_address) >> _HOST_BITS for subnet in subnets if not _collision(subnet, taken))
        if number is None:
            pools = ", ".join(str(pool) for pool in self._pools)
            raise HostError(
                f"no subnet is free: all /{PREFIX_LENGTH} of {pools} are in use by containers' networks or by routes of this host",
                f"export {POOL_VARIABLE}=10.64.0.0/12 before the notebook starts, or %container network rm some",
            )
        return self._subnet(IPv4Network((number << _HOST_BITS, PREFIX_LENGTH)), number)

    def take_given(self, wanted: IPv4Network, routes: Sequence[IPv4Network]) -> Subnet:
        """Raises SpecError where the host or another network is there."""
        collision = _collision(wanted, [*routes, *self._taken])
        if collision is not None:
            raise SpecError(f"--subnet: {wanted} collides with {collision}, which is in use here; leave it out to have one chosen")
        return self._subnet(wanted, None)

    def _subnet(self, v4: IPv4Network, number: int | None) -> Subnet:
        self._taken.append(v4)
        self._serial += 1
        return Subnet(v4, IPv6Network((self._prefix << 80 | self._serial << 64, 64)), number)

    def give_back(self, subnet: Subnet) -> None:
        self._taken.remove(subnet.v4)
        if subnet.number is not None:
            self._numbers.give_back(subnet.number)


def _collision(subnet: IPv4Network, others: Iterable[IPv4Network]) -> IPv4Network | None:
    return next((other for other in others if subnet.overlaps(other)), None)


def address(subnet: IPv4Network | IPv6Network, host: int) -> str:
    """The address with this number in ``subnet``."""
    return str(ipaddress.ip_address(int(subnet.network_address) + host))
