"""A network as it is told to its users: plain values, no messages of Linux's."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any


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
        return cls(**{field.name: plain[field.name] for field in fields(cls)})
