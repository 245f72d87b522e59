"""The virtual machine's agent and the kernel's end of its stream, with this host's own engine behind it: no machine, the same messages."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from nbcontainer import exchange
from nbcontainer.conduct import conduct
from nbcontainer.engine.local import open_local
from nbcontainer.engine.vm.agent import Agent, Port
from nbcontainer.engine.vm.guest import Guest
from nbcontainer.result import Result
from nbcontainer.validate import make_spec


class Stream:
    """What stands for QEMU: the stream to it, and nothing else."""

    def __init__(self, stream: socket.socket) -> None:
        self.stream, self.pid, self.alive = stream, os.getpid(), True

    def last_words(self) -> str:
        return ""

    def how_it_ended(self) -> str:
        return "ended"

    def end(self) -> None:
        self.alive = False
        self.stream.shutdown(socket.SHUT_RDWR)

    def kill(self) -> None:
        self.stream.close()


class Closed(Exception):
    """The kernel's side has gone away."""


class SocketPort(Port):
    def receive(self) -> list[dict[str, Any]]:
        data = os.read(self._fd, 1 << 18)
        if not data:
            raise Closed
        return list(self._reader.feed(data))


@pytest.fixture
def guest() -> Iterator[Guest]:
    ours, theirs = socket.socketpair()
    agent = Agent(SocketPort(theirs.fileno()), open_local())

    def serve() -> None:
        try:
            agent.serve()
        except Closed:
            pass

    thread = threading.Thread(target=serve)
    thread.start()
    guest = Guest(Stream(ours))  # type: ignore[arg-type]
    yield guest
    guest.close()
    thread.join()
    agent._ports.close()
    theirs.close()


def run(guest: Guest, code: str, given: dict[str, Any], output: list[str], **options: Any) -> Result:
    spec, transfer = exchange.prepare(make_spec({"mem": "256M", **options}), given, output)
    with exchange.closing(transfer):
        return conduct(
            lambda: guest.start(spec, spec, code, lambda ended: None, 0, transfer), None, None, code, transfer=transfer, on_input=lambda request: "typed"
        )


def test_variables_and_questions_cross_in_pieces(guest: Guest) -> None:
    result = run(guest, "print(x, input('name? ')); y = x * 2", {"x": 21}, ["y"])
    assert (result.stdout, result.values) == ("21 typed\n", {"y": 42}), result.describe()
    data = os.urandom(5 << 20)
    assert run(guest, "back = data[::-1]", {"data": data}, ["back"]).values["back"] == data[::-1]


def test_answers_come_from_another_thread_than_what_the_cell_is_sent_otherwise(guest: Guest) -> None:
    code = "from IPython.display import display\nfor _ in range(500):\n    display(1); input(); display(2)\nprint('done')"
    result = run(guest, code, {}, [])
    assert result.stdout.endswith("done\n"), result.describe()


def test_what_does_not_come_out_says_so(guest: Guest) -> None:
    result = run(guest, "big = b'x' * (100 << 20)", {}, ["big"], mem="64M")
    assert result.outcome == "oom" and result.values == {}
    refused = run(guest, "import numpy; big = numpy.zeros(1 << 30, 'u1')", {}, ["big"], mem="128M")
    assert refused.error is not None and "--mem 128 MiB is the most" in refused.error.evalue
    assert "no variable of that name" in str(run(guest, "1", {}, ["nope"]).error)
