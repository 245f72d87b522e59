"""What the router does: networks, the containers on them, and the kernel's requests about both."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import socket
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from nbcontainer.errors import InternalError, NbcontainerError, SetupError, SpecError
from nbcontainer.network import bridging, links, subnets, uplink
from nbcontainer.network.described import NamespaceDescription
from nbcontainer.network.firewall import RouterRules
from nbcontainer.network.forward import Published, listen, not_published
from nbcontainer.network.hostaddresses import HostAddresses
from nbcontainer.network.links import Bridge, Endpoint
from nbcontainer.network.look import look, only, to_json
from nbcontainer.network.members import Member, Network
from nbcontainer.network.netlink import Netlink
from nbcontainer.network.resolver import ADDRESS, Names, Resolver
from nbcontainer.network.shaping import shape
from nbcontainer.network.subnets import Subnets
from nbcontainer.ports import Port

DEFAULT_NETWORK = "bridge"
FIRST_INDEX = 10
Result = TypeVar("Result")


class Router(Names):
    """Answers the kernel's requests, one after the other. Made in the router's namespace."""

    def __init__(self, name: str, rootless: bool, host: Netlink, host_thread: ThreadPoolExecutor) -> None:
        self._name, self._rootless, self._host, self._host_thread = name, rootless, host, host_thread
        self.own_fd = links.own_namespace()
        self.netlink = Netlink()
        self.networks: dict[str, Network] = {}
        self.members: dict[str, Member] = {}
        self.uplink: uplink.Uplink | None = None
        self._subnets = Subnets()
        self._serial = 0
        self._index = FIRST_INDEX
        self._askers: dict[str, Member] = {}
        self._resolver = Resolver(self, self._socket_of_host)
        self.ipv6 = uplink.has_ipv6()
        self.way_out = ""
        self.why_no_way_out = ""
        self._out_index: int | None = None
        self._out_name = ""
        self._rules: RouterRules | None = None
        self._of_host = HostAddresses(host, self._in_host)

    async def start(self) -> None:
        """Raises NbcontainerError or OSError."""
        self.netlink.ask(links.set_up(1), links.add_address(1, ADDRESS, 32))
        self._write_sysctl("ipv4/conf/all/rp_filter", "1")
        for family in ("iptables", "ip6tables", "arptables"):
            # What passes within a bridge is not routed: rules are not asked about it, which would cost time.
            self._write_sysctl(f"bridge/bridge-nf-call-{family}", "0", optional=True)
        await self._resolver.start()
        try:
            self._rules = RouterRules()
        except OSError as error:
            # Then nothing is forwarded at all, so that networks stay apart.
            self.why_no_way_out = f"this Linux has no nftables ({error.strerror})"
            return
        self._write_sysctl("ipv4/ip_forward", "1")
        if self.ipv6:
            self._write_sysctl("ipv6/conf/all/forwarding", "1")
        if not self._rootless:
            await self._make_uplink()

    def _in_host(self, make: Callable[[], Result]) -> Result:
        return self._host_thread.submit(make).result()

    def _write_sysctl(self, name: str, value: str, *, optional: bool = False) -> None:
        path = f"/proc/sys/net/{name}"
        try:
            with open(path, "w", encoding="ascii") as file:
                file.write(value)
        except OSError as error:
            if not (optional and error.errno == errno.ENOENT):
                raise SetupError("router", error.errno or 0, path, "see: nbcontainer doctor") from None

    async def _make_uplink(self) -> None:
        subnet = self._subnets.take(links.routed(self._host))
        forwards = self._in_host(lambda: uplink.forwards("ipv4"))
        try:
            self.uplink = uplink.make_uplink(
                self._name, self._host, self.netlink, self.own_fd, subnet, ipv6=self.ipv6, leads_out=forwards, in_host=self._in_host
            )
        except OSError as error:
            self._subnets.give_back(subnet)
            self.why_no_way_out = f"no link to the host could be made ({error.strerror})"
            return
        if forwards:
            self.way_out, self._out_index = "host", self.uplink.router_index
        else:
            self.why_no_way_out = "this host does not forward packets (net.ipv4.ip_forward is 0)"

    def close(self) -> None:
        """Leave the host as it was at once, not when Linux gets round to it."""
        for member in self.members.values():
            self._unpublish(member)
        if self.uplink is not None:
            with contextlib.suppress(OSError):
                self._host.ask(links.delete(self.uplink.host_index))

    async def set_way_out(self, request: dict[str, Any]) -> dict[str, Any]:
        """The kernel has found one, a link that is here now, or says why there is none."""
        if self._rules is None:
            return {}  # without rules nothing is forwarded
        why, link = str(request["why_not"]), str(request["link"])
        self.why_no_way_out = ", and ".join(filter(None, [self.why_no_way_out, why])) if why else ""
        self.way_out, self._out_name = ("", "") if why else (str(request["name"]), link)
        self._out_index = None if why else uplink.index_of(self.netlink, link)
        self._renew_rules()
        return {}

    # ---- networks

    async def create(self, request: dict[str, Any]) -> dict[str, Any]:
        """A network; the default one may be there already."""
        name = str(request["name"])
        if name in self.networks:
            if request.get("wanted"):
                return self._described(self.networks[name])
            raise SpecError(f"network create: there is a network {name!r} already")
        routes = links.routed(self._host)
        given = request.get("subnet")
        subnet = self._subnets.take_given(subnets.parse_subnet(given), routes) if given else self._subnets.take(routes)
        network = None
        try:
            bridge = Bridge(self._take_index(), f"nbc{self._serial}", subnet.v4, subnet.v6 if self.ipv6 else None, links.default_mtu(self._host))
            self._serial += 1
            network = Network(name, subnet, bridge, bool(request.get("internal")))
            bridging.make(bridge, self.netlink, self._host, self.uplink)
            self.networks[name] = network
            self._renew_rules()
        except OSError as error:
            self.networks.pop(name, None)
            if network is not None:
                bridging.unmake(network.bridge, self.netlink, self._host, self.uplink)
            self._subnets.give_back(subnet)
            uplinks = [(self._host, self.uplink.host_index, self.uplink.name)] if self.uplink is not None else []
            raise links.why_refused("make network", f"network {name}", error, *uplinks) from None
        return self._described(network)

    def _renew_rules(self) -> None:
        if self._rules is None:
            return
        up = self.uplink
        bridges = [network.bridge.index for network in self.networks.values() if not network.internal]
        refused: list[str] = []
        if self._out_name:  # pasta
            self._of_host.watch(self._renew_rules)
            refused = self._of_host.now()
        self._rules.renew(self._out_index, None if up is None else up.router_index, up.host_addresses if up else [], bridges, refused)
        self._of_host.refused = refused

    async def remove(self, request: dict[str, Any]) -> dict[str, Any]:
        network = self._network(request["name"], "network rm")
        if network.endpoints:
            users = ", ".join(min(self.members[container].names, default=container, key=len) for container in network.endpoints)
            raise SpecError(f"network rm: {network.name} is in use by {users}; end them first")
        before = self.networks
        self.networks = {name: other for name, other in before.items() if other is not network}
        try:
            self._renew_rules()
            bridging.remove(network.bridge, self.netlink, self._host, self.uplink)
        except OSError as error:
            self.networks = before
            with contextlib.suppress(OSError):
                self._renew_rules()
            raise SetupError("remove network", error.errno or 0, f"network {network.name} ({error.strerror})") from None
        self._subnets.give_back(network.subnet)
        return {}

    async def list_networks(self, request: dict[str, Any]) -> dict[str, Any]:
        return {"networks": [self._described(network) for network in self.networks.values()]}

    def _network(self, name: str, what: str) -> Network:
        if name not in self.networks:
            from nbcontainer.spelling import hint

            make = f" (%container network create {name} makes it)" if what == "--net" else ""
            raise SpecError(f"{what}: there is no network {name!r}; {hint(name, self.networks)}{make}")
        return self.networks[name]

    def _described(self, network: Network) -> dict[str, Any]:
        bridge = network.bridge
        return {
            "name": network.name,
            "bridge": bridge.name,
            "subnet": str(bridge.v4),
            "subnet_v6": str(bridge.v6) if bridge.v6 is not None else None,
            "gateway": bridge.gateway,
            "internal": network.internal,
            "containers": {container: endpoint.v4 for container, endpoint in network.endpoints.items()},
            "way_out": "" if network.internal else self.way_out,
            "why_no_way_out": "it is internal" if network.internal else self.why_no_way_out,
        }

    async def inspect(self, request: dict[str, Any]) -> dict[str, Any]:
        """Everything about one network, as Linux has it now."""
        network = self._network(request["name"], "network inspect")
        router = look(self.netlink, self.own_fd, f"router (process {os.getpid()})")
        ports = {link.name for link in router.links if link.master == network.bridge.index}
        others = {"lo", uplink.NAME, self._out_name}  # the resolver's address is on lo
        host_fd = self._in_host(links.own_namespace)
        try:
            host = look(self._host, host_fd, "host")
        finally:
            os.close(host_fd)
        kept = {route.link for route in host.routes if route.destination == "default"}
        kept |= {self.uplink.name} if self.uplink is not None else set()
        members = [self.members[container] for container in network.endpoints]
        return {
            "network": self._described(network),
            "host": to_json(only(host, kept)),
            "router": to_json(only(router, {network.bridge.name} | ports | others)),
            "containers": [to_json(self._look_inside(member)) for member in members],
        }

    def _look_inside(self, member: Member) -> NamespaceDescription:
        name = min(member.names - {member.container_id}, default=member.container_id)
        with links.in_namespace(member.namespace_fd, self.own_fd):
            inner = Netlink()
        try:
            return look(inner, member.namespace_fd, f"container {name}", tuple(str(published.port) for published in member.published))
        finally:
            inner.close()

    # ---- containers

    async def attach(self, request: dict[str, Any], pidfd: int) -> dict[str, Any]:
        """Give a container its ends: before any of its code runs."""
        container = str(request["container"])
        networks = [self._network(name, "--net") for name in request["networks"]]
        with links.in_namespace(pidfd, self.own_fd):
            namespace_fd, inner = links.own_namespace(), Netlink()
        endpoints: list[Endpoint] = []
        try:
            for position, network in enumerate(networks):
                endpoint = Endpoint(network.bridge, network.take_host(), self._take_index(), position)
                network.endpoints[container] = endpoint
                endpoints.append(endpoint)
            self.netlink.ask(*(links.make_veth(endpoint, namespace_fd) for endpoint in endpoints))
            # The router of an internal one forwards nothing.
            way_out = next((position for position, network in enumerate(networks) if not network.internal), 0)
            inner.ask(*links.inside(endpoints, way_out))
        except (OSError, NbcontainerError) as error:
            for network in networks:
                network.endpoints.pop(container, None)
            with contextlib.suppress(OSError):
                self.netlink.ask(*(links.delete(endpoint.outer_index) for endpoint in endpoints))
            os.close(namespace_fd)
            if isinstance(error, OSError):
                bridges = [(self.netlink, network.bridge.index, network.bridge.name) for network in networks]
                raise links.why_refused("attach to network", f"network {', '.join(request['networks'])}", error, *bridges) from None
            raise
        finally:
            inner.close()
        member = self.members[container] = Member(container, namespace_fd, tuple(endpoints))
        for endpoint in endpoints:
            self._askers[endpoint.v4] = member
        outside = not all(network.internal for network in networks)
        return {"why_no_way_out": self.why_no_way_out if outside and not self.way_out else ""}

    def _take_index(self) -> int:
        self._index += 1
        return self._index

    async def begin(self, request: dict[str, Any]) -> dict[str, Any]:
        """Its code is about to run: names, and published ports."""
        member = self._member(request)
        member.names = frozenset(str(name).lower() for name in request["names"])
        ports = [Port(*port) for port in request["ports"]]
        try:
            for port in ports:
                listener = await asyncio.wrap_future(self._host_thread.submit(listen, port))
                published = Published(port.at(listener.getsockname()[1]), listener, (member.endpoints[0].v4, port.container_port))
                member.published.append(published)
                published.start()
        except OSError as error:
            self._unpublish(member)
            raise not_published(port, error) from None
        return {"ports": [_port_to_json(published.port) for published in member.published]}

    async def limit(self, request: dict[str, Any]) -> dict[str, Any]:
        """Rate and delay, at both ends of each of its links."""
        member = self._member(request)
        with links.in_namespace(member.namespace_fd, self.own_fd):
            inner = Netlink()
        try:
            for endpoint in member.endpoints:
                shape(self.netlink, endpoint.outer_index, request["rate"], request["delay"])
                shape(inner, endpoint.inner_index, request["rate"], request["delay"])
        finally:
            inner.close()
        return {}

    async def detach(self, request: dict[str, Any]) -> dict[str, Any]:
        """The container has ended: what it received and sent. Its links go with its namespace."""
        member = self.members.pop(str(request["container"]), None)
        if member is None:
            return {"received": 0, "sent": 0}
        self._unpublish(member)
        received, sent = self._counters(member)
        for network in self.networks.values():
            network.endpoints.pop(member.container_id, None)
        for endpoint in member.endpoints:
            self._askers.pop(endpoint.v4, None)
        os.close(member.namespace_fd)
        return {"received": received, "sent": sent}

    def _counters(self, member: Member) -> tuple[int, int]:
        """By the outer ends, which send what the container receives."""
        outer = {endpoint.outer_name for endpoint in member.endpoints}
        received = sent = 0
        with open("/proc/thread-self/net/dev", encoding="ascii") as table:
            for line in table:
                name, colon, numbers = line.partition(":")
                if colon and name.strip() in outer:
                    columns = numbers.split()
                    received, sent = received + int(columns[8]), sent + int(columns[0])
        return received, sent

    def _unpublish(self, member: Member) -> None:
        while member.published:
            member.published.pop().close()

    def _member(self, request: dict[str, Any]) -> Member:
        member = self.members.get(str(request["container"]))
        if member is None:
            raise InternalError("the router does not know this container")
        return member

    # ---- names, for the resolver

    def addresses(self, asker: str, name: str) -> list[str] | None:
        member = self._askers.get(asker)
        found: list[str] = []
        for other in self.members.values() if member is not None else ():
            if name == other.container_id or name in other.names:
                found += self._shared(member, other)
        return found or None

    def _shared(self, member: Member | None, other: Member) -> list[str]:
        own = {endpoint.bridge.index for endpoint in member.endpoints} if member is not None else set()
        shared = [endpoint for endpoint in other.endpoints if endpoint.bridge.index in own]
        return [text for endpoint in shared for text in (endpoint.v4, endpoint.v6) if text]

    def name(self, asker: str, address: str) -> str | None:
        member = self._askers.get(asker)
        for other in self.members.values() if member is not None else ():
            if address in self._shared(member, other):
                return min(other.names - {other.container_id}, default=other.container_id)
        return None

    def has_way_out(self, asker: str) -> bool:
        member = self._askers.get(asker)
        if member is None or not self.way_out:
            return False
        own = {endpoint.bridge.index for endpoint in member.endpoints}
        return any(network.bridge.index in own and not network.internal for network in self.networks.values())

    async def _socket_of_host(self, family: int, kind: int) -> socket.socket:
        def make() -> socket.socket:
            sock = socket.socket(family, kind)
            sock.setblocking(False)
            return sock

        return await asyncio.wrap_future(self._host_thread.submit(make))

    async def answer(self, message: dict[str, Any], fds: list[int]) -> dict[str, Any]:
        """What a request came to, or the error that it raised."""
        try:
            if message["t"] == "attach":
                if not fds:
                    raise OSError(errno.EMFILE, "the router has no more descriptors")
                return {"t": "done", **await self.attach(message, fds[0])}
            return {"t": "done", **await self._requests()[message["t"]](message)}
        except NbcontainerError as error:
            return {"t": "failed", "kind": type(error).__name__, "arguments": list(error.args)}
        except OSError as error:
            return {"t": "failed", "kind": "SetupError", "arguments": [f"network {message['t']}", error.errno or 0, str(error.filename or ""), ""]}

    def _requests(self) -> dict[str, Any]:
        return {"create": self.create, "remove": self.remove, "list": self.list_networks, "inspect": self.inspect, "begin": self.begin, "limit": self.limit, "way_out": self.set_way_out, "detach": self.detach}


def _port_to_json(port: Port) -> list[Any]:
    return [port.host_address, port.host_port, port.container_port, port.protocol]
