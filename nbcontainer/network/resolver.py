"""Names of containers: a small DNS server of the router's, which the containers' /etc/resolv.conf names.

Not /etc/hosts, kept current: that would mean writing into the roots of running containers, whose code may have put a link
there; and names that come later could not be seen by programs that read the file once. A resolver has nothing to write, and
knows by the address that asks which networks it may answer for. Other names it passes to the host's own resolvers, where the network has a way out.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import socket
import struct
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Protocol

from nbcontainer.runtime import steps

ADDRESS = steps.RESOLVER
"""On the router's lo, and reached by the default route, so that every container's /etc/resolv.conf is the same."""
PORT = 53
FORWARD_SECONDS = 5.0
MOST_FORWARDS, MOST_OF_ONE = 256, 32
"""Datagrams that wait for the host's resolvers: of all containers, and of one, which must not use up those of the others."""
_HEADER = struct.Struct("!HHHHHH")
_A, _PTR, _AAAA, _ANY, _IN = 1, 12, 28, 255, 1
_RESPONSE, _AUTHORITATIVE, _RECURSION, _RECURSION_DESIRED = 0x8000, 0x0400, 0x0080, 0x0100
_FORMAT_ERROR, _FAILED, _NO_NAME, _NOT_IMPLEMENTED, _REFUSED = 1, 2, 3, 4, 5
_TTL_SECONDS = 1
MOST_STREAMS = 32
"""Connections of one container at a time."""
MakeSocket = Callable[[int, int], Awaitable[socket.socket]]
"""(family, type) → a non-blocking socket in the host's network namespace."""


@dataclass(frozen=True, slots=True)
class Question:
    number: int
    name: str
    """In lower case, without the last dot."""
    kind: int
    recursion_desired: bool
    text: bytes
    """As it was asked, for the answer."""


class Names(Protocol):
    """What the resolver has to know; the router is the one who does."""

    def addresses(self, asker: str, name: str) -> list[str] | None:
        """All addresses of containers with this name in networks of ``asker``; None where there is no such container."""

    def name(self, asker: str, address: str) -> str | None: ...

    def has_way_out(self, asker: str) -> bool: ...


def parse(query: bytes) -> Question | int:
    """One question, or the code of the error to answer with. Raises ValueError where there is nothing to answer to."""
    if len(query) < _HEADER.size or len(query) > 4096:
        raise ValueError("not a query")
    number, flags, questions, _, _, _ = _HEADER.unpack_from(query)
    if flags & _RESPONSE:
        raise ValueError("an answer")
    if flags >> 11 & 15:
        return _NOT_IMPLEMENTED
    if questions != 1:
        return _FORMAT_ERROR
    labels, offset = [], _HEADER.size
    while True:
        if offset >= len(query):
            return _FORMAT_ERROR
        length = query[offset]
        if length > 63:
            return _FORMAT_ERROR  # nothing is before it that a compressed name could refer to
        offset += 1
        if not length:
            break
        labels.append(query[offset : offset + length].decode("latin-1").lower())
        offset += length
    if offset + 4 > len(query):
        return _FORMAT_ERROR
    kind, group = struct.unpack_from("!HH", query, offset)
    if group != _IN:
        return _NOT_IMPLEMENTED
    return Question(number, ".".join(labels), kind, bool(flags & _RECURSION_DESIRED), query[_HEADER.size : offset + 4])


def answer(question: Question, code: int, records: list[tuple[int, bytes]], *, authoritative: bool = True) -> bytes:
    flags = _RESPONSE | _RECURSION | code | (_AUTHORITATIVE if authoritative else 0) | (_RECURSION_DESIRED if question.recursion_desired else 0)
    data = _HEADER.pack(question.number, flags, 1, len(records), 0, 0) + question.text
    for kind, content in records:
        data += struct.pack("!HHHIH", 0xC00C, kind, _IN, _TTL_SECONDS, len(content)) + content
    return data


def _encode_name(name: str) -> bytes:
    return b"".join(bytes([len(label)]) + label.encode("latin-1") for label in name.split(".")) + b"\0"


def _asked_address(name: str) -> str | None:
    """The address that a name for reverse lookups means."""
    with contextlib.suppress(ValueError):
        if name.endswith(".in-addr.arpa"):
            return str(ipaddress.IPv4Address(".".join(reversed(name.removesuffix(".in-addr.arpa").split(".")))))
        if name.endswith(".ip6.arpa"):
            return str(ipaddress.IPv6Address(int("".join(reversed(name.removesuffix(".ip6.arpa").split("."))), 16)))
    return None


def answer_from(names: Names, asker: str, question: Question) -> bytes | None:
    """None where it is not for us to answer."""
    found = names.addresses(asker, question.name)
    if found is not None:
        records = []
        for text in found:
            packed = ipaddress.ip_address(text).packed
            kind = _A if len(packed) == 4 else _AAAA
            if question.kind in (kind, _ANY):
                records.append((kind, packed))
        return answer(question, 0, records)
    if question.kind == _PTR and (address := _asked_address(question.name)):
        name = names.name(asker, address)
        if name is not None:
            return answer(question, 0, [(_PTR, _encode_name(name))])
    return None


def upstreams(path: str = "/etc/resolv.conf") -> list[str]:
    """The addresses of the host's resolvers."""
    found = []
    with contextlib.suppress(OSError), open(path, encoding="utf-8", errors="replace") as file:
        for line in file:
            words = line.split()
            if len(words) > 1 and words[0] == "nameserver":
                with contextlib.suppress(ValueError):
                    ipaddress.ip_address(words[1].partition("%")[0])
                    found.append(words[1])
    return found[:3]


class Resolver:
    """Serves UDP and TCP at ADDRESS, which is on an interface of the calling thread's network namespace."""

    def __init__(self, names: Names, make_socket: MakeSocket) -> None:
        self._names, self._make_socket = names, make_socket
        self._tasks: set[asyncio.Task[None]] = set()
        self._streams: Counter[str] = Counter()
        self._datagrams: Counter[str] = Counter()
        self._server: asyncio.Server | None = None
        self._transport: Any = None

    async def start(self) -> None:
        loop = asyncio.get_running_loop()
        self._transport, _ = await loop.create_datagram_endpoint(lambda: _Datagrams(self), (ADDRESS, PORT))
        self._server = await asyncio.start_server(self._serve_stream, ADDRESS, PORT)

    def take_datagram(self, query: bytes, peer: tuple[str, int]) -> None:
        asker = peer[0]
        if len(self._tasks) >= MOST_FORWARDS or self._datagrams[asker] >= MOST_OF_ONE:
            return  # as a resolver that is too busy does

        def done(task: asyncio.Task[None]) -> None:
            self._tasks.discard(task)
            self._datagrams[asker] -= 1

        task = asyncio.get_running_loop().create_task(self._answer_datagram(query, peer))
        self._tasks.add(task)
        self._datagrams[asker] += 1
        task.add_done_callback(done)

    async def _answer_datagram(self, query: bytes, peer: tuple[str, int]) -> None:
        data = await self._resolve(query, peer[0], socket.SOCK_DGRAM)
        if data is not None:
            self._transport.sendto(data, peer)

    async def _serve_stream(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asker = writer.get_extra_info("peername")[0]
        if self._streams[asker] >= MOST_STREAMS:
            writer.close()  # one container must not use up the descriptors of all
            return
        self._streams[asker] += 1
        try:
            async with asyncio.timeout(4 * FORWARD_SECONDS):
                while True:
                    (size,) = struct.unpack("!H", await reader.readexactly(2))
                    data = await self._resolve(await reader.readexactly(size), asker, socket.SOCK_STREAM)
                    if data is None:
                        break
                    writer.write(struct.pack("!H", len(data)) + data)
                    await writer.drain()
        except (OSError, TimeoutError, asyncio.IncompleteReadError):
            pass  # whoever asks may go
        finally:
            self._streams[asker] -= 1
            writer.close()

    async def _resolve(self, query: bytes, asker: str, kind: int) -> bytes | None:
        try:
            question = parse(query)
        except ValueError:
            return None
        if isinstance(question, int):
            return _HEADER.pack(int.from_bytes(query[:2], "big"), _RESPONSE | question, 0, 0, 0, 0)
        known = answer_from(self._names, asker, question)
        if known is not None:
            return known
        # A name without a dot is nobody's out there (RFC 7085), and it may be one of a container that has ended.
        if "." not in question.name or not self._names.has_way_out(asker):
            return answer(question, _NO_NAME, [], authoritative=False)
        for upstream in upstreams():
            with contextlib.suppress(OSError, TimeoutError, asyncio.IncompleteReadError):
                async with asyncio.timeout(FORWARD_SECONDS):
                    return await self._ask(upstream, query, kind)
        return answer(question, _FAILED, [], authoritative=False)

    async def _ask(self, upstream: str, query: bytes, kind: int) -> bytes:
        loop = asyncio.get_running_loop()
        sock = await self._make_socket(socket.AF_INET6 if ":" in upstream else socket.AF_INET, kind)
        try:
            await loop.sock_connect(sock, (upstream, PORT))
            if kind == socket.SOCK_DGRAM:
                await loop.sock_sendall(sock, query)
                while True:
                    data = await loop.sock_recv(sock, 65535)
                    if data[:2] == query[:2]:
                        return data
            await loop.sock_sendall(sock, struct.pack("!H", len(query)) + query)
            (size,) = struct.unpack("!H", await _exactly(sock, 2))
            return await _exactly(sock, size)
        finally:
            sock.close()


async def _exactly(sock: socket.socket, size: int) -> bytes:
    loop, data = asyncio.get_running_loop(), b""
    while len(data) < size:
        piece = await loop.sock_recv(sock, size - len(data))
        if not piece:
            raise OSError("the resolver closed the connection")
        data += piece
    return data


class _Datagrams(asyncio.DatagramProtocol):
    def __init__(self, resolver: Resolver) -> None:
        self._resolver = resolver

    def datagram_received(self, data: bytes, addr: Any) -> None:
        self._resolver.take_datagram(data, addr)

    def error_received(self, exc: Exception) -> None:
        """An answer that could not be delivered: its container has ended."""
