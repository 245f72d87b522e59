"""Talking with Linux about links, addresses, routes and rules, in whatever network namespace a socket was made in.

pyroute2 encodes and decodes the messages. Its sockets are not used: since 0.9 each runs an event loop of its own, and each of
its requests is a round trip, while all that a container needs is two writes here.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from collections.abc import Iterator
from typing import Any

from pyroute2.netlink.nfnetlink import nfgen_msg

ROUTE, NETFILTER = 0, 12
REQUEST, ACK, DUMP = 0x1, 0x4, 0x300
CREATE, EXCLUSIVE, APPEND = 0x400, 0x200, 0x800
_ERROR, _DONE = 2, 3
_SOL_NETLINK, _CAP_ACK, _EXT_ACK, _STRICT = 270, 10, 11, 12
_CAPPED, _HAS_TLVS, _ATTR_MESSAGE = 0x100, 0x200, 1
_BATCH_BEGIN, _BATCH_END, _NFTABLES = 0x10, 0x11, 10
_HEADER = struct.Struct("=IHHII")
RECEIVE_BYTES = 1 << 18
ANSWER_SECONDS = 20.0

Message = Any
"""One of pyroute2's message classes, which are untyped."""


class NetlinkError(OSError):
    """Linux refused request number ``index`` of several; ``words`` is what it said besides the errno, if anything."""

    def __init__(self, index: int, number: int, words: str) -> None:
        super().__init__(number, words or os.strerror(number))
        self.index = index


def request(message: type[Message], kind: int, flags: int = 0, /, *, attrs: list[tuple[str, Any]] | None = None, **fields: Any) -> bytes:
    """One request, encoded; ``flags`` are the header's, ``fields`` those of the fixed part."""
    encoded = message()
    for name, value in fields.items():
        encoded[name] = value
    encoded["attrs"] = attrs or []
    encoded["header"]["type"], encoded["header"]["flags"] = kind, REQUEST | flags
    encoded["header"]["sequence_number"] = 0
    encoded.encode()
    data = bytes(encoded.data)
    return data + bytes(-len(data) % 4)


def rule_request(message: type[Message], kind: int, family: int, *attrs: tuple[str, Any], flags: int = CREATE) -> bytes:
    """A request about nftables, for :meth:`Netlink.transact`."""
    return request(message, _NFTABLES << 8 | kind, flags, nfgen_family=family, version=0, res_id=0, attrs=list(attrs))


class Netlink:
    """A socket to Linux, in the network namespace that the calling thread is in when it is made."""

    def __init__(self, protocol: int = ROUTE) -> None:
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, protocol)
        self._socket.bind((0, 0))
        for option in (_CAP_ACK, _EXT_ACK):
            self._socket.setsockopt(_SOL_NETLINK, option, 1)
        self._socket.settimeout(ANSWER_SECONDS)
        self._sequence = 0

    def close(self) -> None:
        self._socket.close()

    def ask(self, *requests: bytes) -> None:
        """Make all of them in one write. Raises NetlinkError for the first that is refused; those after it are made all the same."""
        self._send([(data, ACK) for data in requests])
        self._await(len(requests))

    def transact(self, *requests: bytes) -> None:
        """Changes of nftables: all of them, or none. Raises NetlinkError."""
        begin, end = (request(nfgen_msg, kind, nfgen_family=0, version=0, res_id=_NFTABLES) for kind in (_BATCH_BEGIN, _BATCH_END))
        self._send([(begin, 0), *((data, ACK) for data in requests), (end, 0)])
        self._await(len(requests), first=1)

    def dump(self, message: type[Message], kind: int, **fields: Any) -> list[Message]:
        """All objects of one kind, decoded."""
        self._send([(request(message, kind, **fields), DUMP)])
        found: list[Message] = []
        while True:
            for number, _, data in self._receive():
                if number == _DONE:
                    return found
                if number == _ERROR:
                    self._raise(0, data)
                decoded = message(data)
                decoded.decode()
                found.append(decoded)

    def _send(self, requests: list[tuple[bytes, int]]) -> None:
        data = bytearray()
        self._first = self._sequence + 1
        for encoded, flags in requests:
            self._sequence += 1
            length, kind, old_flags, _, _ = _HEADER.unpack_from(encoded)
            data += _HEADER.pack(length, kind, old_flags | flags, self._sequence, 0) + encoded[_HEADER.size :]
        self._socket.send(data)

    def _await(self, count: int, *, first: int = 0) -> None:
        """Answers to ``count`` requests, of which ``first`` that need none were sent before."""
        failure: NetlinkError | None = None
        while count:
            try:
                answers = list(self._receive(socket.MSG_DONTWAIT if failure else 0))
            except BlockingIOError:
                break  # a transaction that fails early answers once
            for number, sequence, data in answers:
                if number != _ERROR:
                    continue
                count -= 1
                try:
                    self._raise(sequence - self._first - first, data)
                except NetlinkError as error:
                    failure = failure or error
        if failure is not None:
            raise failure

    def _receive(self, flags: int = 0) -> Iterator[tuple[int, int, bytes]]:
        """(type, sequence number, message) of what comes next; answers to earlier requests are dropped."""
        try:
            data = self._socket.recv(RECEIVE_BYTES, flags)
        except TimeoutError:
            raise NetlinkError(0, errno.ETIMEDOUT, "") from None
        offset = 0
        while offset < len(data):
            length, kind, _, sequence, _ = _HEADER.unpack_from(data, offset)
            if sequence >= self._first:
                yield kind, sequence, data[offset : offset + length]
            offset += length + -length % 4

    def _raise(self, index: int, data: bytes) -> None:
        (code,) = struct.unpack_from("=i", data, _HEADER.size)
        if code:
            raise NetlinkError(index, -code, _words(data))


def _words(data: bytes) -> str:
    """Linux's own explanation in an error message, if there is one."""
    flags = _HEADER.unpack_from(data)[2]
    if not flags & _HAS_TLVS:
        return ""
    (echoed,) = struct.unpack_from("=I", data, _HEADER.size + 4)
    offset = _HEADER.size + 4 + (_HEADER.size if flags & _CAPPED else echoed + -echoed % 4)
    while offset + 4 <= len(data):
        length, kind = struct.unpack_from("=HH", data, offset)
        if kind == _ATTR_MESSAGE:
            return data[offset + 4 : offset + length].rstrip(b"\0").decode("utf-8", "replace")
        offset += max(4, length + -length % 4)
    return ""
