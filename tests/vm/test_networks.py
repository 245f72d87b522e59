"""Networks among containers of a guest, and ports of theirs that this host publishes."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from facilities import require

import nbcontainer as nbc
from nbcontainer.events import Event, Output
from nbcontainer.state import list_containers


def test_two_containers_of_a_guest_reach_each_other_by_name() -> None:
    try:
        import pyroute2  # noqa: F401
    except ImportError:
        require(False, "pyroute2 is missing")
    ready = threading.Event()
    results: list[nbc.Result] = []
    server = "import socket; s = socket.create_server((\"\", 80)); print(\"up\", flush=True); c, a = s.accept(); c.sendall(b\"hello\"); c.close()"

    def on_event(event: Event) -> None:
        if isinstance(event, Output):
            ready.set()

    made = nbc.networks.create("lab", subnet="10.79.0.0/24", engine="vm")
    assert made.gateway == "10.79.0.1" and "lab" in nbc.networks.names()
    thread = threading.Thread(target=lambda: results.append(nbc.run(server, net="lab", name="web", on_event=on_event, engine="vm", timeout=120)))
    thread.start()
    try:
        assert ready.wait(120)
        picture = nbc.networks.inspect("lab", engine="vm")
        assert [container.title for container in picture.containers] == ["container web"] and "10.79.0.2/24" in str(picture)
        with pytest.raises(nbc.SpecError, match="in use by web"):
            nbc.networks.rm("lab", engine="vm")
        stranger = nbc.run("import socket; socket.create_connection((\"web\", 80), timeout=5)", net="bridge", engine="vm")
        assert stranger.error is not None and stranger.error.ename == "gaierror"
        asked = nbc.run("import socket; print(socket.create_connection((\"web\", 80), timeout=30).recv(9).decode())", net="lab", engine="vm")
        assert asked.stdout == "hello\n", asked.error
    finally:
        thread.join()
    assert results[0].ok and results[0].usage.net_rx_bytes > 0
    nbc.networks.rm("lab", engine="vm")


SERVE = """
import socket, threading
stream, datagrams = socket.create_server(("", 80), backlog=100), socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
datagrams.bind(("", 53))
def echo():
    while True:
        data, peer = datagrams.recvfrom(65535)
        datagrams.sendto(data[::-1], peer)
def answer(client):
    total = 0
    while data := client.recv(1 << 16):
        total += len(data)
    client.sendall(b"{name} had %d" % total)
    client.close()
threading.Thread(target=echo, daemon=True).start()
print("serving", flush=True)
while True:
    threading.Thread(target=answer, args=(stream.accept()[0],), daemon=True).start()
"""


@contextlib.contextmanager
def serving(name: str, *ports: str) -> Iterator[nbc.Container]:
    ready = threading.Event()
    with nbc.start(SERVE.replace("{name}", name), name=name, publish=ports, engine="vm", on_event=lambda event: ready.set() if isinstance(event, Output) else None) as container:
        assert ready.wait(120)
        yield container


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        return int(sock.getsockname()[1])


def ask(port: int, size: int = 10) -> bytes:
    """What the server in the guest says of ``size`` bytes; one half of the connection ends before the other."""
    with socket.create_connection(("127.0.0.1", port), timeout=120) as sock:
        sock.sendall(bytes(size))
        sock.shutdown(socket.SHUT_WR)
        data = b""
        while piece := sock.recv(4096):
            data += piece
        return data


@pytest.mark.essential
def test_published_ports_lead_from_this_host_into_the_guest() -> None:
    """By the channel: the guest has no card."""
    first, second, names = free_port(), free_port(), free_port()
    with serving("one", f"{first}:80", f"{names}:53/udp", "80") as one, serving("two", f"{second}:80"):
        chosen = one.spec.ports[2].host_port
        assert any(f"127.0.0.1:{chosen}->80/tcp" in note for note in one.spec.notes)
        assert ask(first, 2 << 20) == b"one had %d" % (2 << 20)
        with socket.create_connection(("127.0.0.1", first)) as idle, ThreadPoolExecutor(20) as pool:
            idle.sendall(bytes(10))
            answers = list(pool.map(ask, [second, chosen] * 20, range(40)))
        assert answers == [b"%s had %d" % (name, size) for size, name in zip(range(40), [b"two", b"one"] * 20, strict=True)]
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.settimeout(120)
            sock.sendto(b"datagram", ("127.0.0.1", names))
            assert sock.recv(100) == b"margatad"
        assert any(f"127.0.0.1:{first}->80/tcp" in record.ports for record in list_containers())
        with pytest.raises(nbc.SpecError, match=f"port {first}/tcp of 127.0.0.1 is in use on this host"):
            nbc.run("", publish=f"{first}:80", engine="vm")
        with pytest.raises(nbc.SpecError, match="is not an address of this host"):
            nbc.run("", publish="192.0.2.77:18112:80", engine="vm")
    for port in (first, second, chosen):
        with pytest.raises(ConnectionRefusedError):
            ask(port)


def test_published_ports_are_free_when_the_guest_is_gone() -> None:
    port = free_port()
    with serving("lost", f"{port}:80") as lost:
        assert ask(port) == b"lost had 10"
        with socket.create_connection(("127.0.0.1", port), timeout=120) as sock:
            (record,) = [record for record in list_containers() if record.id == lost.id]
            os.kill(record.pid, signal.SIGKILL)
            with contextlib.suppress(ConnectionResetError):
                assert sock.recv(10) == b""
        with pytest.raises(nbc.InternalError):
            lost.wait()
        with pytest.raises(ConnectionRefusedError):
            ask(port)
    socket.create_server(("127.0.0.1", port)).close()
