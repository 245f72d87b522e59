"""What one thread leaves for another is bounded, and closed for good: inboxes, transfers, kept files, logs, and what is shown."""

from __future__ import annotations

import json
import os
import resource
import socket
import tempfile
import threading
import time
from pathlib import Path

import pytest
from facilities import only_as_root

from nbcontainer import control, listener
from nbcontainer.cgroups.files import GONE, KeptFiles
from nbcontainer.engine.inbox import MOST_BYTES, Inbox
from nbcontainer.engine.messages import MAX_JSON_LEVELS, read_display
from nbcontainer.engine.transfer import Transfer
from nbcontainer.errors import HostError
from nbcontainer.events import CellError, Event, InputRequest, Output
from nbcontainer.logs import Log
from nbcontainer.state import KernelState, state_directory
from nbcontainer.verbs.shown import Table

LARGE = MOST_BYTES // 4


@pytest.mark.parametrize(
    "said",
    [Output("stdout", "x" * LARGE), CellError("E", "x" * LARGE, ()), CellError("E", "", ("x" * LARGE,)), InputRequest("x" * LARGE, password=False)],
    ids=["text", "error", "traceback", "question"],
)
def test_an_inbox_takes_so_many_bytes_whatever_they_are(said: Event) -> None:
    inbox: Inbox[Event] = Inbox()
    taken = []

    def put() -> None:
        for number in range(6):
            inbox.put(said)
            taken.append(number)

    thread = threading.Thread(target=put)
    thread.start()
    thread.join(0.5)
    assert thread.is_alive() and len(taken) == 4
    assert inbox.next(1) is said
    inbox.close()
    thread.join(20)
    assert not thread.is_alive()


def test_a_transfer_that_is_closed_gives_and_takes_nothing() -> None:
    transfer = Transfer(("x",))
    transfer.put_by(4, lambda fd: os.ftruncate(fd, 4))
    given: list[int] = []
    transfer.give(given.append)
    assert len(given) == 1
    before = len(os.listdir("/proc/self/fd"))
    transfer.close()
    transfer.close()
    transfer.give(given.append)
    assert len(given) == 1
    assert transfer.allow(1 << 20)[0] == -1
    transfer.receive(4, 0, b"late")
    assert transfer.take() is None
    assert len(os.listdir("/proc/self/fd")) == before - 1


def test_files_that_somebody_holds_are_closed_when_nobody_does(tmp_path: Path) -> None:
    files, path = KeptFiles(), str(tmp_path / "tasks")
    Path(path).write_text("0")
    with files.held(), files.held():
        fd = files.open(path)
        files.close()
        assert os.pread(fd, 1, 0) == b"0"
        with pytest.raises(OSError) as gone:
            files.read(path)
        assert gone.value.errno in GONE
    with pytest.raises(OSError):
        os.fstat(fd)
    files.close()


def test_a_line_that_was_written_in_many_pieces() -> None:
    log = Log(on_disk=False)
    for number in range(60_000):
        log.append("stderr" if number % 2 else "stdout", "x")
    log.append("stdout", "\n")
    log.append("stdout", "end")
    assert [(record.stream, len(record.text)) for record in log.lines()] == [("stdout", 30_001), ("stderr", 30_000), ("stdout", 3)]


def test_what_a_container_names_cannot_fool_a_terminal() -> None:
    table = Table(("CMD",), (("evil\x1b[2J\r\nroot \u202e\udc80",),), "a note")
    for shown in (table.as_text(), table._repr_html_()):
        assert "evil\\x1b[2J\\r\\nroot \\u202e\\udc80" in shown and "\x1b" not in shown and "\r" not in shown
    assert len(table.as_text().splitlines()) == 3
    table.as_text().encode()


@pytest.mark.parametrize(("levels", "shown"), [(MAX_JSON_LEVELS - 1, True), (MAX_JSON_LEVELS + 1, False), (900, False)])
def test_displays_are_nested_so_deep_and_no_deeper(levels: int, shown: bool) -> None:
    text = "[" * levels + "]" * levels
    display = read_display({"t": "display", "kind": "display", "parts": {"data application/json": text}})
    assert display is not None
    assert display.data == ({"application/json": json.loads(text)} if shown else {})


def test_a_place_for_state_that_belongs_to_somebody_else_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    only_as_root("it becomes another user")
    with tempfile.TemporaryDirectory() as directory:
        place = Path(directory) / "nbcontainer"
        place.mkdir()
        for path in (place, place.parent):
            path.chmod(0o777)
        monkeypatch.setenv("XDG_RUNTIME_DIR", directory)

        def is_refused() -> bool:
            pid = os.fork()
            if pid == 0:
                os.seteuid(65534)
                try:
                    os._exit(0 if state_directory() == place else 2)
                except HostError as error:
                    os._exit(1 if "belongs to user 0" in str(error) else 2)
            status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
            assert status in (0, 1)
            return status == 1

        assert is_refused()
        os.chown(place, 65534, 65534)
        assert not is_refused()


def test_a_kernel_that_was_out_of_descriptors_is_asked_again(tmp_path: Path) -> None:
    answering = listener.Listener(str(tmp_path), control.serve)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        # Linux has taken a descriptor for the first one already.
        with socket.socket(socket.AF_UNIX) as first, socket.socket(socket.AF_UNIX) as asks:
            asks.settimeout(20)
            resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
            try:
                first.connect(str(tmp_path / listener.NAME))
                asks.connect(str(tmp_path / listener.NAME))
                asks.sendall(b'{"knows": "nobody"}\n')
                time.sleep(3 * listener.AGAIN_SECONDS)
            finally:
                resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
            assert json.loads(asks.recv(4096)) == {"knows": False}
    finally:
        answering.close()


def test_directories_of_sockets_are_nobody_else_s_whatever_the_umask(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("nbcontainer.state.state_directory", lambda: tmp_path)
    (tmp_path / "kernels").mkdir()
    before = os.umask(0)
    try:
        state = KernelState()
        made = Path(state.sockets("control"))
    finally:
        os.umask(before)
    assert [path.stat().st_mode & 0o777 for path in (made, made.parent, made.parent.parent)] == [0o700, 0o711, 0o711]
    state.close()
