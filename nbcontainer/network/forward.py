"""Published ports: carried from a socket of the host to a container by a process of ours, connection by connection.

Not by rules of the host's, as Docker does with its userland proxy off: those need root, reach around the host's own firewall,
and do not cover what the host itself connects to on its loopback.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import socket
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from nbcontainer.errors import NbcontainerError, SetupError, SpecError
from nbcontainer.ports import Port

PIECE_BYTES = 1 << 18
CONNECT_SECONDS = 10.0
LINGER_SECONDS = 5.0
"""For what a container has sent when it ends: whoever asked still gets it."""
UDP_IDLE_SECONDS = 60.0
MOST_UDP_CLIENTS = 1024
BACKLOG = 512
MakeListener = Callable[[Port], Awaitable[socket.socket]]


@dataclass(slots=True)
class _Client:
    """Somebody who sends datagrams, and the socket that stands for it in the router."""

    sock: socket.socket
    seconds: float


@dataclass(slots=True, eq=False)
class Published:
    """One port. ``listener``: bound in the host's namespace; ``target``: the container's address and port in the router's."""

    port: Port
    listener: socket.socket
    target: tuple[str, int]
    _accepting: asyncio.Task[None] | None = None
    _connections: set[asyncio.Task[None]] = field(default_factory=set)
    _clients: dict[tuple[str, int], _Client] = field(default_factory=dict)

    def start(self) -> None:
        loop = asyncio.get_running_loop()
        if self.port.protocol == "udp":
            loop.add_reader(self.listener, self._take_datagrams)
        else:
            self._accepting = loop.create_task(self._accept())

    def close(self) -> None:
        """Nobody is let in any more; streams that are open have LINGER_SECONDS to come to their end."""
        loop = asyncio.get_running_loop()
        if self._accepting is not None:
            self._accepting.cancel()
        for connection in self._connections:
            loop.call_later(LINGER_SECONDS, connection.cancel)
        if self.port.protocol == "udp":
            loop.remove_reader(self.listener)
        for client in self._clients.values():
            loop.remove_reader(client.sock)
            client.sock.close()
        self._clients.clear()
        self.listener.close()

    # ---- streams

    async def _accept(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                client, _ = await loop.sock_accept(self.listener)
            except OSError:
                await asyncio.sleep(0.1)  # out of descriptors: some will be closed
                continue
            connection = loop.create_task(self._carry(client))
            self._connections.add(connection)
            connection.add_done_callback(self._connections.discard)

    async def _carry(self, client: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        inner = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        try:
            inner.setblocking(False)
            async with asyncio.timeout(CONNECT_SECONDS):
                await loop.sock_connect(inner, self.target)
            for sock in (client, inner):
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            await asyncio.gather(_pump(client, inner), _pump(inner, client))
        except (OSError, TimeoutError):
            pass  # nobody listens there, or one of them is gone: the other sees its connection end
        finally:
            client.close()
            inner.close()

    # ---- datagrams

    def _take_datagrams(self) -> None:
        for _ in range(64):
            try:
                data, peer = self.listener.recvfrom(65535)
            except BlockingIOError:
                return
            except OSError:
                continue  # what ICMP said about an answer of ours
            client = self._clients.get(peer[:2]) or self._new_client(peer)
            if client is not None:
                client.seconds = time.monotonic()
                with contextlib.suppress(OSError):
                    client.sock.send(data)

    def _new_client(self, peer: tuple[str, int]) -> _Client | None:
        self._forget_idle()
        if len(self._clients) >= MOST_UDP_CLIENTS:
            return None
        try:
            sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        except OSError:
            return None
        sock.setblocking(False)
        sock.connect(self.target)
        client = self._clients[peer[:2]] = _Client(sock, time.monotonic())
        asyncio.get_running_loop().add_reader(sock, self._give_back, sock, peer)
        return client

    def _give_back(self, sock: socket.socket, peer: tuple[str, int]) -> None:
        with contextlib.suppress(OSError):
            self.listener.sendto(sock.recv(65535), peer)

    def _forget_idle(self) -> None:
        before = time.monotonic() - UDP_IDLE_SECONDS
        for peer, client in list(self._clients.items()):
            if client.seconds < before:
                asyncio.get_running_loop().remove_reader(client.sock)
                client.sock.close()
                del self._clients[peer]


async def _pump(source: socket.socket, sink: socket.socket) -> None:
    loop = asyncio.get_running_loop()
    while data := await loop.sock_recv(source, PIECE_BYTES):
        await loop.sock_sendall(sink, data)
    # The other direction goes on: many protocols close one half first.
    sink.shutdown(socket.SHUT_WR)


def listen(port: Port) -> socket.socket:
    """A bound, non-blocking socket in the calling thread's network namespace. Raises OSError."""
    family = socket.AF_INET6 if ":" in port.host_address else socket.AF_INET
    kind = socket.SOCK_DGRAM if port.protocol == "udp" else socket.SOCK_STREAM
    sock = socket.socket(family, kind)
    try:
        sock.setblocking(False)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        if kind == socket.SOCK_STREAM:
            # Else a port that was in use a minute ago is taken. Not for UDP, where it would let two have the same.
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((port.host_address, port.host_port))
        if kind == socket.SOCK_STREAM:
            sock.listen(BACKLOG)
    except OSError:
        sock.close()
        raise
    return sock


def not_published(port: Port, error: OSError) -> NbcontainerError:
    """What an error of :func:`listen` means to whoever asked for the port."""
    place = f"port {port.host_port}/{port.protocol} of {port.host_address}"
    if error.errno == errno.EADDRINUSE:
        return SpecError(f"--publish: {place} is in use on this host; choose another, or -p {port.container_port} for one that is free")
    if error.errno in (errno.EACCES, errno.EPERM):
        allow = f"sudo sysctl -w net.ipv4.ip_unprivileged_port_start={port.host_port}"
        return SpecError(f"--publish: {place} is for root only; choose a port from 1024 on, or: {allow}")
    if error.errno == errno.EADDRNOTAVAIL:
        return SpecError(f"--publish: {port.host_address} is not an address of this host")
    return SetupError("publish", error.errno or 0, place)
