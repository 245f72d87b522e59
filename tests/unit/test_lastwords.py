"""Listening to a kernel that may say anything, and speaking in its place when it is dead."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import zmq
from jupyter_client.session import Session

from nbcontainer.jupyter.lastwords import MOST_CELLS, Iopub, Listener, say

KEY = b"secret"
WAIT_MILLISECONDS = 10_000


@pytest.fixture
def iopub(tmp_path: Path) -> Iopub:
    return Iopub(str(tmp_path / "k-2"), KEY, "hmac-sha256")


class Publisher:
    """A kernel's iopub channel."""

    def __init__(self, iopub: Iopub) -> None:
        self.context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self.socket = self.context.socket(zmq.XPUB)
        self.socket.bind(f"ipc://{iopub.path}")
        self.session = Session(key=KEY)

    def wait_for_listener(self) -> None:
        assert self.socket.poll(WAIT_MILLISECONDS), "nobody listens"
        self.socket.recv()

    def status(self, state: str, message_id: str, kind: str = "execute_request") -> None:
        parent = {"header": {"msg_id": message_id, "msg_type": kind}}
        self.session.send(self.socket, "status", {"execution_state": state}, parent=parent, ident=b"kernel.status")

    def close(self) -> None:
        self.context.destroy(linger=0)


@pytest.fixture
def scene(iopub: Iopub) -> Iterator[tuple[Publisher, Listener]]:
    publisher = Publisher(iopub)
    listener = Listener(iopub)
    publisher.wait_for_listener()
    yield publisher, listener
    listener.close()
    publisher.close()


def drain_until(listener: Listener, name: str) -> None:
    deadline = time.monotonic() + WAIT_MILLISECONDS / 1000
    while name not in listener.cells:
        assert time.monotonic() < deadline, listener.cells
        listener.drain()


def test_cells_that_are_running_are_known(scene: tuple[Publisher, Listener]) -> None:
    publisher, listener = scene
    for state, name, kind in (
        ("busy", "first", "execute_request"), ("busy", "asked", "kernel_info_request"), ("idle", "first", "execute_request"),
        ("busy", "second", "execute_request"), ("starting", "third", "execute_request"), ("busy", "last", "execute_request"),
    ):  # fmt: skip
        publisher.status(state, name, kind)
    drain_until(listener, "last")
    assert list(listener.cells) == ["second", "last"]


def test_nonsense_changes_nothing(scene: tuple[Publisher, Listener]) -> None:
    publisher, listener = scene
    mark, status = b"<IDS|MSG>", b'{"msg_type": "status"}'
    for frames in (
        [b"no mark"], [mark], [mark, b"", status], [mark, b"", status, b"{", b"{}", b"{}"], [mark, b"", status, b"[]", b"{}", b"{}"],
        [mark, b"", status, b'{"msg_type": "execute_request"}', b"{}", b"7"], [mark, b"", b"[" * 20_000 + b'"status"', b"{}", b"{}", b"{}"],
        [mark, b"", status, b'{"msg_type": "execute_request", "msg_id": "' + b"x" * 100_000 + b'"}', b"{}", b'{"execution_state": "busy"}'],
        [mark, b"", status, b"\xff", b"\xff", b"\xff"],
    ):  # fmt: skip
        publisher.socket.send_multipart(frames)
    publisher.status("busy", "last")
    drain_until(listener, "last")
    assert list(listener.cells) == ["last"]


def test_what_is_remembered_is_bounded(scene: tuple[Publisher, Listener]) -> None:
    publisher, listener = scene
    for number in range(3 * MOST_CELLS):
        publisher.status("busy", str(number))
    publisher.status("idle", "0")
    publisher.status("busy", "last")
    drain_until(listener, "last")
    assert len(listener.cells) == MOST_CELLS


def receive_one_each(clients: list[zmq.Socket[bytes]]) -> list[list[bytes]]:
    """As front ends do, all are polled all the time: a subscription goes out again only when its socket is looked at."""
    poller, received = zmq.Poller(), {}
    for client in clients:
        poller.register(client, zmq.POLLIN)
    deadline = time.monotonic() + WAIT_MILLISECONDS / 1000
    while len(received) < len(clients):
        assert time.monotonic() < deadline, f"{len(received)} of {len(clients)} were told"
        for client, _ in poller.poll(100):
            received[client] = client.recv_multipart()
    return list(received.values())


def test_who_listened_to_the_dead_kernel_gets_its_last_words(iopub: Iopub) -> None:
    publisher = Publisher(iopub)
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    clients = [context.socket(zmq.SUB) for _ in range(3)]
    try:
        for client in clients:
            client.subscribe(b"")
            client.connect(f"ipc://{iopub.path}")
            publisher.wait_for_listener() if client is clients[0] else None
        publisher.close()
        cells = [{"msg_id": "cell", "msg_type": "execute_request"}]
        speaker = threading.Thread(target=say, args=(iopub, cells, "OutOfMemory", "why\nand what to do"))
        speaker.start()
        for frames in receive_one_each(clients):
            message: Any = Session(key=KEY).deserialize(Session().feed_identities(frames)[1])
            assert (message["msg_type"], message["parent_header"]["msg_id"]) == ("error", "cell")
            assert message["content"]["ename"] == "OutOfMemory"
            assert message["content"]["traceback"] == ["\x1b[31mOutOfMemory\x1b[39m: why", "and what to do"]
            json.dumps(message["content"])
        speaker.join()
    finally:
        context.destroy(linger=0)
    assert not Path(iopub.path).exists(), "the next kernel makes its own"
