"""The networks of one local engine: made when a container first needs one, gone with the engine."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from nbcontainer.errors import InternalError, NbcontainerError
from nbcontainer.ports import Port, chosen
from nbcontainer.spec import ContainerSpec, Limits
from nbcontainer.validate import check_network_limits

if TYPE_CHECKING:
    from nbcontainer.engine.box import Box
    from nbcontainer.engine.ids import UserIds
    from nbcontainer.network.client import RouterClient, Starter
    from nbcontainer.network.described import NetworkDescription, NetworkPicture
    from nbcontainer.network.pasta import Pasta

DEFAULT_NETWORK = "bridge"


class LocalNetworks:
    """Methods may be called from any thread. ``drop_spares``: ends containers that were made in advance and may be on a network."""

    def __init__(self, place: str, user_ids: UserIds | None, drop_spares: Callable[[], None], start_router: Starter | None = None) -> None:
        """``user_ids``: of an ordinary user's engine; ``start_router``: where it is no program of its own."""
        self._place, self._user_ids, self._drop_spares, self._start_router = place, user_ids, drop_spares, start_router
        self._lock = threading.Lock()
        self._router: RouterClient | None = None
        self._pasta: Pasta | None = None
        self._told = False

    def _open(self) -> RouterClient:
        """The router, started where there is none, with the default network. Raises HostError, SetupError, InternalError."""
        with self._lock:
            if self._router is not None and not self._router.alive:
                self._close(self._router)
                self._router = None
            if self._router is None:
                from nbcontainer.network.client import RouterClient

                router = RouterClient(self._place, self._user_ids is not None, None if self._user_ids is None else self._user_ids.found, self._start_router)
                try:
                    if not router.way_out:
                        self._find_way_out(router)
                    router.ask("create", name=DEFAULT_NETWORK)
                except BaseException:
                    self._close(router)
                    raise
                self._router = router
            elif self._pasta is not None and self._pasta.died:
                self._find_way_out(self._router)
            return self._router

    def _find_way_out(self, router: RouterClient) -> None:
        from nbcontainer.network.pasta import LINK, Pasta

        if self._pasta is not None:
            self._pasta.close()
        self._pasta = Pasta(router.pid, rootless=self._user_ids is not None)
        router.ask("way_out", name="pasta", link=LINK, why_not=self._pasta.why_not)

    def _close(self, router: RouterClient) -> None:
        router.close()
        if self._pasta is not None:
            self._pasta.close()
            self._pasta = None

    # ---- containers

    def user_namespace(self, shape: ContainerSpec) -> int:
        """A descriptor of the one that a container of an ordinary user has to be below; -1 where it need not."""
        return self._open().userns_fd if shape.networks and self._user_ids is not None else -1

    def attach(self, box: Box) -> None:
        """Nothing where it is on no network, or attached already. To be called before any code of its user's runs."""
        if box.attached or not box.shape.networks:
            return
        answer = self._open().ask("attach", [box.process.pidfd], container=box.container_id, networks=list(box.shape.networks))
        box.attached, box.why_no_way_out = True, answer["why_no_way_out"]

    def begin(self, box: Box, spec: ContainerSpec) -> ContainerSpec:
        """Its names and published ports, from now on; returns the spec with the ports that were chosen, and notes."""
        if not spec.networks:
            return spec
        if self._pasta is not None and self._pasta.died:
            self._open()  # the container may have been attached in advance
        names = [name for name in (spec.name, spec.hostname) if name]
        ports = [[port.host_address, port.host_port, port.container_port, port.protocol] for port in spec.ports]
        self.limit(box, spec, spec.limits)
        notes, published = spec.notes, spec.ports
        if names or ports:
            answer = self._open().ask("begin", container=box.container_id, names=names, ports=ports)
            published = tuple(Port(*port) for port in answer["ports"])
        notes = (*notes, *chosen(spec.ports, published))
        if not self._told and box.why_no_way_out:
            self._told = True
            notes = (*notes, f"No way out of these networks: {box.why_no_way_out}.")
        return spec.replace(ports=published, notes=notes)

    def limit(self, box: Box, spec: ContainerSpec, limits: Limits) -> None:
        """Set its rate and delay. Raises SpecError, HostError, SetupError."""
        check_network_limits(spec, limits)
        wanted = limits.net_bytes_per_second, limits.net_delay_seconds
        if wanted != box.network_limits:
            self._open().ask("limit", container=box.container_id, rate=wanted[0], delay=wanted[1])
            box.network_limits = wanted

    def detach(self, box: Box) -> tuple[int, int]:
        """(received, sent) bytes; zeros where it is not attached (any more)."""
        if not box.attached or self._router is None:
            return 0, 0
        box.attached = False
        try:
            answer = self._router.ask("detach", container=box.container_id)
        except InternalError:
            return 0, 0  # the router is gone, and the container's links with it
        return answer["received"], answer["sent"]

    def explain(self, spec: ContainerSpec) -> list[str]:
        lines = [
            f"[router] RTM_NEWLINK(veth, one end in the bridge of {name}, the other as eth{position} in the container's network namespace), its addresses"
            for position, name in enumerate(spec.networks)
        ]
        lines += ["[router] RTM_NEWROUTE(default by the bridge)"] if spec.networks else []
        return lines + [f"[router] bind {port.host_address}:{port.host_port or 'a free port'}/{port.protocol}: carried to port {port.container_port} of the container" for port in spec.ports]

    # ---- networks

    def create(self, name: str, *, subnet: str | None = None, internal: bool = False) -> NetworkDescription:
        """Raises SpecError, HostError, SetupError, InternalError; so do the others."""
        return _described(self._open().ask("create", name=name, subnet=subnet, internal=internal))

    def list(self) -> tuple[NetworkDescription, ...]:
        return tuple(_described(plain) for plain in self._open().ask("list")["networks"])

    def inspect(self, name: str) -> NetworkPicture:
        from nbcontainer.network.described import NetworkPicture

        self._drop_spares()  # they are nobody's yet
        return NetworkPicture.from_json(self._open().ask("inspect", name=name))

    def remove(self, name: str) -> None:
        self._drop_spares()
        self._open().ask("remove", name=name)

    def names(self) -> tuple[str, ...]:
        with self._lock:
            router = self._router
        if router is None or not router.alive:
            return ()
        return tuple(str(plain["name"]) for plain in router.ask("list")["networks"])

    # ---- the end

    def leave_to_parent(self) -> None:
        if self._router is not None:
            self._router.leave_to_parent()

    def close(self) -> None:
        with self._lock:
            router, self._router = self._router, None
        if router is not None:
            with contextlib.suppress(NbcontainerError):
                self._close(router)


def _described(plain: dict[str, Any]) -> NetworkDescription:
    from nbcontainer.network.described import NetworkDescription

    return NetworkDescription.from_json(plain)
