"""A network as it is told to its users: plain values, no messages of Linux's."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any, TypeVar

_TYPES: dict[str, tuple[type, ...]] = {
    "str": (str,),
    "int": (int,),
    "bool": (bool,),
    "str | None": (str, type(None)),
    "int | None": (int, type(None)),
    "dict[str, str]": (dict,),
}
Described = TypeVar("Described")


def checked(described: Described) -> Described:
    """Itself, if its fields are of their types: a description may come from a virtual machine. Raises TypeError."""
    for field in fields(described):  # type: ignore[arg-type]
        value, kind = getattr(described, field.name), str(field.type)
        texts = value if kind == "tuple[str, ...]" else [*value, *value.values()] if kind.startswith("dict") and isinstance(value, dict) else ()
        if (kind in _TYPES and type(value) not in _TYPES[kind]) or any(type(text) is not str for text in texts):
            raise TypeError(f"{field.name} is no {kind}")
    return described


@dataclass(frozen=True, slots=True)
class NetworkDescription:
    """One network of this kernel."""

    name: str
    bridge: str
    """Its interface in the router."""
    subnet: str
    subnet_v6: str | None
    gateway: str
    internal: bool
    containers: dict[str, str]
    """IPv4 address by container id."""
    way_out: str
    """``host`` (forwarded by this host), ``pasta``, or "" where there is none."""
    why_no_way_out: str

    @classmethod
    def from_json(cls, plain: dict[str, Any]) -> NetworkDescription:
        return checked(cls(**{field.name: plain[field.name] for field in fields(cls)}))


@dataclass(frozen=True, slots=True)
class Link:
    """An interface as Linux lists it. ``peer``: the index of a veth pair's other end; ``master``: of the bridge it is a port of."""

    index: int
    name: str
    kind: str
    peer: int | None
    master: int | None
    mac: str
    up: bool
    mtu: int
    addresses: tuple[str, ...]
    received_bytes: int
    sent_bytes: int
    queues: tuple[str, ...]
    """What holds packets back there, in words: ``tbf 1M/s``."""

    @property
    def title(self) -> str:
        """As ``ip link`` writes it: ``2: eth0@if12``."""
        return f"{self.index}: {self.name}" + (f"@if{self.peer}" if self.peer is not None else "")


@dataclass(frozen=True, slots=True)
class Route:
    destination: str
    """``default`` or a network."""
    via: str | None
    link: str

    def __str__(self) -> str:
        return f"{self.destination}{f' via {self.via}' if self.via else ''} dev {self.link}"


@dataclass(frozen=True, slots=True)
class NamespaceDescription:
    """A network namespace. ``inode``: its number, as ``ls -l /proc/PID/ns/net`` shows it; ``title``: whose it is."""

    title: str
    inode: int
    links: tuple[Link, ...]
    routes: tuple[Route, ...]
    published: tuple[str, ...] = ()

    @classmethod
    def from_json(cls, plain: dict[str, Any]) -> NamespaceDescription:
        links = tuple(checked(Link(**{**link, "addresses": tuple(link["addresses"]), "queues": tuple(link["queues"])})) for link in plain["links"])
        routes = tuple(checked(Route(**route)) for route in plain["routes"])
        return checked(cls(plain["title"], plain["inode"], links, routes, tuple(plain["published"])))


@dataclass(frozen=True, slots=True)
class NetworkPicture:
    """A network with everything on it, at one moment. Shows itself as SVG in a notebook, and as text."""

    network: NetworkDescription
    host: NamespaceDescription
    """Only what of the host has to do with it."""
    router: NamespaceDescription
    containers: tuple[NamespaceDescription, ...]

    @classmethod
    def from_json(cls, plain: dict[str, Any]) -> NetworkPicture:
        host, router = NamespaceDescription.from_json(plain["host"]), NamespaceDescription.from_json(plain["router"])
        containers = tuple(NamespaceDescription.from_json(container) for container in plain["containers"])
        return cls(NetworkDescription.from_json(plain["network"]), host, router, containers)

    def __str__(self) -> str:
        from nbcontainer.network.picture import as_text

        return as_text(self)

    __repr__ = __str__

    def _repr_svg_(self) -> str:
        from nbcontainer.network.picture import as_svg

        return as_svg(self)
