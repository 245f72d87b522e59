"""Networks among containers of a guest."""

from __future__ import annotations

import threading

import pytest
from facilities import require

import nbcontainer as nbc
from nbcontainer.events import Event, Output


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
    assert made.gateway == "10.79.0.1"
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
    with pytest.raises(nbc.HostError, match="not published"):
        nbc.run("", publish="8080:80", engine="vm")
