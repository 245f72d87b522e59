"""Connections through the tunnel of the virtual machine's channel, both ends in this process."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import socket
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from nbcontainer.engine.vm import tunnel
from nbcontainer.engine.vm.guestports import GuestPorts
from nbcontainer.engine.vm.hostports import HostPorts, bind
from nbcontainer.errors import SpecError
from nbcontainer.ports import parse_ports
from nbcontainer.runtime.protocol import ProtocolError

SECONDS = 30.0


class Ends:
    """The host's and the guest's, joined; ``largest`` is the most of one stream that was under way."""

    def __init__(self) -> None:
        self.failures: list[str] = []
        self.messages: list[dict[str, Any]] = []
        self.host = HostPorts(lambda message: self.guest.take(self._passed(message)), self.failures.append)
        self.guest = GuestPorts(lambda message: self.host.take(self._passed(message)))
        self.guest.do(lambda: self.guest._addresses.__setitem__(1, "127.0.0.1"))

    def _passed(self, message: dict[str, Any]) -> dict[str, Any]:
        self.messages.append(message)
        plain: dict[str, Any] = json.loads(json.dumps(message))
        return plain


@pytest.fixture
def ends() -> Iterator[Ends]:
    before, threads = len(os.listdir("/proc/self/fd")), threading.active_count()
    found = Ends()
    yield found
    found.host.close()
    found.guest.close()
    assert (found.failures, len(os.listdir("/proc/self/fd")), threading.active_count()) == ([], before, threads)


@contextlib.contextmanager
def published(ends: Ends, kind: int = socket.SOCK_STREAM) -> Iterator[tuple[socket.socket, tuple[str, int]]]:
    """A socket as a container would have it, and the address where the host publishes it."""
    with socket.socket(socket.AF_INET, kind) as inside:
        inside.bind(("127.0.0.1", 0))
        inside.settimeout(SECONDS)
        if kind == socket.SOCK_STREAM:
            inside.listen(200)
        protocol = "tcp" if kind == socket.SOCK_STREAM else "udp"
        (listener,) = listeners = bind(parse_ports([f"{inside.getsockname()[1]}/{protocol}"]))
        ends.host.begin(1, listeners)
        yield inside, ("127.0.0.1", listener.port.host_port)
        ends.host.end(1)
        ends.guest.end(1)


def _send(sock: socket.socket, data: bytes) -> None:
    sock.sendall(data)
    sock.shutdown(socket.SHUT_WR)


def received(sock: socket.socket) -> bytes:
    sock.settimeout(SECONDS)
    data = b""
    while piece := sock.recv(1 << 16):
        data += piece
    return data


def test_streams_carry_both_directions_and_one_may_end_before_the_other(ends: Ends) -> None:
    payload = os.urandom(3 << 20)
    with published(ends) as (inside, address), socket.create_connection(address) as client:
        server, _ = inside.accept()
        thread = threading.Thread(target=_send, args=(client, payload))
        thread.start()
        assert received(server) == payload
        thread.join()
        answer = threading.Thread(target=_send, args=(server, payload[::-1]))
        answer.start()
        assert received(client) == payload[::-1]
        answer.join()
        server.close()


def test_a_stream_that_nobody_reads_fills_its_window_and_holds_up_no_other(ends: Ends) -> None:
    with published(ends) as (inside, address), socket.create_connection(address) as stuck, inside.accept()[0]:
        stuck.settimeout(0.5)
        with contextlib.suppress(TimeoutError):
            while True:
                stuck.send(bytes(1 << 16))
        sent = sum(len(base64.b64decode(message["data"])) for message in ends.messages if message["what"] == "data")
        room = sum(message["bytes"] for message in ends.messages if message["what"] == "room")
        assert sent - room <= tunnel.WINDOW_BYTES
        with socket.create_connection(address) as other:
            server, _ = inside.accept()
            with server:
                other.sendall(b"hello")
                assert server.recv(10) == b"hello"


def test_many_at_once(ends: Ends) -> None:
    count = 150
    with published(ends) as (inside, address), contextlib.ExitStack() as stack:
        clients = [stack.enter_context(socket.create_connection(address)) for _ in range(count)]
        for number, client in enumerate(clients):
            client.sendall(f"{number}\n".encode())
        for _ in range(count):
            server, _ = inside.accept()
            with server, server.makefile("rb") as lines:
                server.sendall(b"you are " + lines.readline())
        assert [received(client) for client in clients] == [f"you are {number}\n".encode() for number in range(count)]


def test_nobody_listens_inside(ends: Ends) -> None:
    with published(ends) as (inside, address):
        inside.close()
        with socket.create_connection(address) as client, contextlib.suppress(ConnectionResetError):
            assert received(client) == b""


def test_what_was_sent_before_the_end_of_the_container_arrives(ends: Ends) -> None:
    with published(ends) as (inside, address), socket.create_connection(address) as client:
        server, _ = inside.accept()
        server.sendall(b"x" * 50_000)
        ends.host.end(1)
        ends.guest.end(1)
        assert received(client) == b"x" * 50_000
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(address)
        server.close()


def test_datagrams_keep_their_borders_and_find_their_way_back(ends: Ends) -> None:
    with published(ends, socket.SOCK_DGRAM) as (inside, address), contextlib.ExitStack() as stack:
        clients = [stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) for _ in range(3)]
        for number, client in enumerate(clients):
            client.settimeout(SECONDS)
            for data in (b"", b"a" * number, bytes(9000)):
                client.sendto(data, address)
                text, peer = inside.recvfrom(65535)
                assert text == data
                inside.sendto(b"to %d" % number, peer)
                assert client.recv(100) == b"to %d" % number


def test_what_cannot_be_believed(ends: Ends) -> None:
    for message in ({"stream": "1", "what": "end"}, {"stream": 1, "what": "data", "data": "%"}, {"stream": 1, "what": "data"}, {"stream": 1, "what": "room", "bytes": True}, {"stream": 1, "what": "fly"}, {"stream": 1, "what": "open"}):
        with pytest.raises(ProtocolError):
            ends.host.take(message)
    ends.host.take({"stream": 99, "what": "data", "data": "YQ=="})  # of one that is over


def test_more_than_there_is_room_for_ends_the_guest() -> None:
    failures: list[str] = []
    opened = threading.Event()
    host = HostPorts(lambda message: opened.set(), failures.append)
    listeners = bind(parse_ports(["80"]))
    host.begin(1, listeners)
    with socket.create_connection(("127.0.0.1", listeners[0].port.host_port)):
        assert opened.wait(SECONDS)
        for _ in range(300):  # more than Linux takes for somebody who does not read
            host.take({"stream": 1, "what": "data", "data": "QUJD" * 20_000})
        host.close()
    assert failures == ["more of a stream than there is room for"]


def test_all_ports_or_none() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        number = taken.getsockname()[1]
        with pytest.raises(SpecError, match=f"port {number}/tcp of 127.0.0.1 is in use"):
            bind(parse_ports(["80", f"{number}:80"]))
    with pytest.raises(SpecError, match="not an address of this host"):
        bind(parse_ports(["192.0.2.77:0:80"]))
