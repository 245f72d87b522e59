"""Networks of an ordinary user whose containers have subordinate ids: their user namespaces lie below the router's, with all of the ids."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from facilities import require, rootless

import nbcontainer as nbc
from nbcontainer.engine import local
from nbcontainer.errors import HostError
from nbcontainer.events import Output
from nbcontainer.linux import subordinate

SECONDS = 30.0
SERVE = "import os, socket\nserver = socket.create_server(('', 8000))\nprint('up', flush=True)\nwhile True:\n    client, _ = server.accept(); client.sendall(b'user %d' % os.getuid()); client.close()"
ASK = "import os, socket; sock = socket.create_connection(({host!r}, {port}), timeout=10); print(os.getuid(), sock.recv(100).decode())"


@pytest.fixture(scope="module", autouse=True)
def router() -> Iterator[int]:
    """Its process id; the engine is new, and has the user's subordinate ids."""
    require(rootless(), "an ordinary user")
    try:
        found = subordinate.find()
    except HostError as error:
        require(False, str(error))
        raise
    local.shutdown()
    nbc.run("pass", net="bridge")
    engine = local.open_local()
    assert engine._user_ids is not None and engine._user_ids.found == found
    assert engine.networks._router is not None
    yield engine.networks._router.pid
    local.shutdown()


@contextlib.contextmanager
def serving(name: str, **options: object) -> Iterator[None]:
    ready = threading.Event()
    with nbc.start(SERVE, name=name, on_event=lambda event: ready.set() if isinstance(event, Output) else None, **options):
        assert ready.wait(SECONDS)
        yield


def test_the_router_has_all_ids_as_themselves(router: int) -> None:
    found = subordinate.find()
    maps = [[int(word) for word in line.split()] for line in Path(f"/proc/{router}/uid_map").read_text(encoding="ascii").splitlines()]
    assert [os.geteuid(), os.geteuid(), 1] in maps and [found.first_uid, found.first_uid, found.count] in maps


@pytest.mark.parametrize("user", [None, "nobody", "1000:1001"])
def test_users_of_containers_reach_each_other(user: str | None) -> None:
    number = {None: 0, "nobody": 65534, "1000:1001": 1000}[user]
    with serving("web", net="bridge", publish="18120:8000", **({"user": user} if user else {})):
        for asker in (None, "7"):
            answer = nbc.run(ASK.format(host="web", port=8000), net="bridge", **({"user": asker} if asker else {}))
            assert answer.stdout == f"{asker or 0} user {number}\n", (answer.error, answer.stderr)
        with socket.create_connection(("127.0.0.1", 18120), timeout=SECONDS) as sock:
            assert sock.makefile("rb").read() == b"user %d" % number
    maps = nbc.run("print(open('/proc/self/uid_map').read())", net="bridge").stdout.split("\n")
    assert len([line for line in maps if line]) == 2, "root is the user, all others are subordinate ids, as without a network"


def test_the_way_out() -> None:
    outside = os.environ.get("NBCONTAINER_TEST_OUTSIDE")
    require(outside, "tests/own_network.py, which makes a machine beyond the host")
    answer = nbc.run(ASK.format(host=outside, port=9100), net="bridge", user="nobody")
    assert answer.stdout == "65534 203.0.113.1\n", answer.error


def test_rates_and_several_networks() -> None:
    nbc.networks.create("lab")
    with serving("both", net="lab,bridge", net_rate="10M"):
        assert nbc.run(ASK.format(host="both", port=8000), net="lab").ok
        assert any("tbf 10 MiB/s" in link.queues for container in nbc.networks.inspect("lab").containers for link in container.links)
    nbc.networks.rm("lab")
