"""Networks of containers, as ``docker network`` has them: ``nbcontainer.networks.create("lab")``, then ``run(..., net="lab")``.

A network lives in the kernel that made it, and ends with it. One, ``bridge``, is always there.
"""

from __future__ import annotations

import contextlib
import sys
from typing import TYPE_CHECKING

from nbcontainer.engine import open_engine
from nbcontainer.errors import NbcontainerError, SpecError
from nbcontainer.units import shown

if TYPE_CHECKING:
    from nbcontainer.engine import Networks
    from nbcontainer.network.described import NetworkDescription, NetworkPicture

DEFAULT = "bridge"
RESERVED = (DEFAULT, "none", "host", "default", "all")


def create(name: str, *, subnet: str | None = None, internal: bool = False, engine: str | None = None) -> NetworkDescription:
    """``subnet``: an IPv4 network such as ``10.77.0.0/24``; one that is free is chosen else. ``internal``: without a way out.

    Raises SpecError, HostError or SetupError.
    """
    from nbcontainer.values import NAME

    if NAME.fullmatch(name) is None:
        raise SpecError(f"network create: {shown(name)} is not a name (letters, digits, _ . -, at most 63, a letter or digit first)")
    if name in RESERVED:
        raise SpecError(f"network create: {name} means something else already; choose another name")
    return open_engine(engine).networks.create(name, subnet=subnet, internal=internal)


def ls(*, engine: str | None = None) -> tuple[NetworkDescription, ...]:
    return open_engine(engine).networks.list()


def inspect(name: str = DEFAULT, *, engine: str | None = None) -> NetworkPicture:
    """What is there now: namespaces, links, addresses, routes. It draws itself in a notebook; ``print`` shows it as text."""
    return open_engine(engine).networks.inspect(name)


def rm(name: str, *, engine: str | None = None) -> None:
    """Raises SpecError where containers are on it."""
    if name == DEFAULT:
        raise SpecError(f"network rm: {name} is always there")
    open_engine(engine).networks.remove(name)


def names() -> tuple[str, ...]:
    """Of the networks that this kernel has made; nothing is started for it."""
    found = {DEFAULT}
    for networks in _open():
        with contextlib.suppress(NbcontainerError):
            found.update(networks.names())
    return tuple(sorted(found))


def of_container(container_id: str) -> tuple[NetworkDescription, ...]:
    """Those that a running container is on; nothing is started for it."""
    found: list[NetworkDescription] = []
    for networks in _open():
        with contextlib.suppress(NbcontainerError):
            found += [network for network in (networks.list() if networks.names() else ()) if container_id in network.containers]
    return tuple(found)


def _open() -> list[Networks]:
    """Of the engines that this process has started."""
    modules = [sys.modules.get(f"nbcontainer.engine.{name}") for name in ("local", "vm.engine")]
    engines = [module.ENGINE.current for module in modules if module is not None]
    return [engine.networks for engine in engines if engine is not None]


def prune(*, engine: str | None = None) -> tuple[str, ...]:
    """Remove the networks that no container is on; returns their names."""
    unused = tuple(network.name for network in ls(engine=engine) if not network.containers and network.name != DEFAULT)
    for name in unused:
        rm(name, engine=engine)
    return unused


def as_table(networks: tuple[NetworkDescription, ...]) -> str:
    """With columns as Docker's."""
    from nbcontainer.verbs import connecting

    return connecting.as_table(networks)
