"""Networks among containers of a guest, asked for by the kernel's side."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

from nbcontainer.engine.vm.guest import Guest
from nbcontainer.errors import InternalError
from nbcontainer.network.described import NetworkDescription, NetworkPicture


class GuestNetworks:
    """See :class:`nbcontainer.engine.Networks`. They are those of the guest that a cell without further directories runs in: guests
    with other sets of directories are other machines, and share no network."""

    def __init__(self, guest: Callable[[], Guest], guests: Iterable[Guest]) -> None:
        """``guest``: that one, started where it is not there; ``guests``: all that there are."""
        self._guest, self._guests = guest, guests

    def create(self, name: str, *, subnet: str | None = None, internal: bool = False) -> NetworkDescription:
        guest = self._guest()
        made = _described(guest.ask_networks("create", {"name": name, "subnet": subnet, "internal": internal}))
        guest.networks.add(name)
        return made

    def list(self) -> tuple[NetworkDescription, ...]:
        return tuple(_described(plain) for plain in self._ask("list") or ())

    def inspect(self, name: str) -> NetworkPicture:
        picture: NetworkPicture = _checked(NetworkPicture.from_json, self._ask("inspect", name=name))
        return replace(picture, network=_in_guest(picture.network))

    def remove(self, name: str) -> None:
        guest = self._guest()
        guest.ask_networks("remove", {"name": name})
        guest.networks.discard(name)

    def names(self) -> tuple[str, ...]:
        return tuple({name for guest in self._guests if guest.alive for name in guest.networks})

    def _ask(self, what: str, **arguments: Any) -> Any:
        return self._guest().ask_networks(what, arguments)


def _described(plain: Any) -> NetworkDescription:
    made: NetworkDescription = _checked(NetworkDescription.from_json, plain)
    return _in_guest(made)


def _in_guest(network: NetworkDescription) -> NetworkDescription:
    """What the guest says is missing is nothing that its users could give it."""
    return network if network.internal or network.way_out else replace(network, why_no_way_out="the virtual machine has no network card")


def _checked(read: Callable[[Any], Any], plain: Any) -> Any:
    """Nothing of what comes from the guest is believed but its shape."""
    try:
        return read(plain)
    except (AttributeError, KeyError, TypeError, ValueError):
        raise InternalError("the virtual machine described its networks in an unknown way") from None
