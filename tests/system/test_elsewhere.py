"""Containers of another kernel of the same user: verbs and programs, from this process and from a terminal."""

from __future__ import annotations

import contextlib
import itertools
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import IO

import pytest
from facilities import only_as_root

import nbcontainer as nbc
from nbcontainer import elsewhere, verbs
from nbcontainer.containers import CONTAINERS
from nbcontainer.errors import SpecError
from nbcontainer.events import Output
from nbcontainer.listener import address_in
from nbcontainer.state import control_directory, list_places
from nbcontainer.verbs.shown import Document, Table

KERNEL = """\
import os, sys, threading, nbcontainer as nbc
lab = nbc.start(mem="64M", workspace="none", name="far-lab")
cell = threading.Thread(target=lambda: print(nbc.run("import time; print('from the cell', flush=True); time.sleep(600)", mem="64M", workspace="none", name="far-cell"), flush=True))
cell.start()
nbc.start(program=["sh", "-c", "trap 'echo interrupted; exit 7' INT; i=0; while :; do echo $i; i=$((i+1)); sleep 0.1; done"], mem="64M", workspace="none", name="far-count", keep=True)
while not all(container.id in {record.id for record in nbc.state.list_containers()} for container in nbc.containers.CONTAINERS.all()): pass
while len(nbc.containers.CONTAINERS.all()) < 3: pass
print(os.getpid(), flush=True)
for line in sys.stdin: exec(line)
nbc.engine.shutdown()
"""


@dataclass
class Far:
    pid: int
    place: str
    lines: IO[str]

    def do(self, line: str) -> None:
        self.lines.write(line + "\n")
        self.lines.flush()


@contextlib.contextmanager
def another_kernel() -> Iterator[Far]:
    """It is no child of this process, and neither are its containers."""
    process = subprocess.Popen(
        ["setsid", "--fork", sys.executable, "-c", "import nbcontainer.state, nbcontainer.engine\n" + KERNEL], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
    )  # fmt: skip
    try:
        assert process.stdout is not None
        pid = int(process.stdout.readline())
        # Not by a name: several may have the same.
        (place,) = [place.name for place in list_places() if place.kernel_pid == pid]
        assert process.stdin is not None
        yield Far(pid, place, process.stdin)
    finally:
        process.communicate()  # until the kernel has closed its output
        nbc.state.prune()


@pytest.fixture(scope="module")
def far() -> Iterator[Far]:
    with another_kernel() as kernel:
        yield kernel


def say(*words: str) -> str:
    answer = verbs.find(words[0]).answer(words[1:])
    if isinstance(answer, str):
        return answer
    return answer.as_text() if isinstance(answer, Table | Document) else "".join(record.text for record in answer)


def command(*words: str, **options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "nbcontainer.cli", *words], capture_output=True, text=True, timeout=60, **options)  # type: ignore[call-overload,no-any-return]


@pytest.mark.essential
def test_verbs_are_answered_by_the_kernel_that_has_the_container(far: Far) -> None:
    assert say("logs", "far-cell") == "from the cell\n"
    assert "python" in say("top", "far-lab")
    assert say("pause", "far-lab", "far-cell") == "far-lab\nfar-cell"
    assert say("inspect", "far-lab").count('"Paused": true') == 1
    with pytest.raises(SpecError, match="is paused"):
        elsewhere.execute(far.place, "far-lab", ("true",), "")
    assert say("resume", "far-lab", "far-cell") == "far-lab\nfar-cell"
    assert say("update", "--mem", "80M", "far-cell").startswith("far-cell: memory 80 MiB")
    assert "far-lab" in say("tree", "far-lab") and "far-lab" in say("stats", "far-lab")


def test_containers_of_both_kernels_in_one_line(far: Far) -> None:
    with nbc.start(mem="64M", workspace="none", name="near"):
        assert say("pause", "near", "far-lab") == "near\nfar-lab"
        assert say("resume", "far-lab", "near") == "far-lab\nnear"
        assert [entry in say("inspect", "near", "far-lab") for entry in ('"Name": "near"', '"Name": "far-lab"')] == [True, True]


def test_what_is_refused_there_is_said_here(far: Far) -> None:
    with pytest.raises(SpecError, match="far-lab is running; stop it first"):
        say("rm", "far-lab")
    with pytest.raises(SpecError, match="--mem: 'x'"):
        say("update", "--mem", "x", "far-lab")
    with pytest.raises(SpecError, match="did you mean far-lab"):
        say("top", "far-lba")
    with pytest.raises(SpecError, match="far-lab belongs to another notebook"):
        CONTAINERS.find("far-lab", "--exec")


@pytest.mark.essential
def test_a_program_in_a_container_of_another_kernel(far: Far) -> None:
    said: list[str] = []
    result = elsewhere.execute(
        far.place, "far-lab", ("sh", "-c", "cat; echo $NAME >&2; exit 5"), "typed\n", env=["NAME=value"],
        on_event=lambda event: said.append(event.text) if isinstance(event, Output) else None,
    )  # fmt: skip
    assert (result.stdout, result.stderr, result.exit_code, result.goes_on) == ("typed\n", "value\n", 5, True)
    assert sorted(said) == ["typed\n", "value\n"] and result.usage.wall_seconds > 0
    with pytest.raises(SpecError, match="'nosuch' is not in the container"):
        elsewhere.execute(far.place, "far-lab", ("nosuch",), "")
    with pytest.raises(SpecError, match="'nosuch' is not in the container"):
        elsewhere.execute_detached(far.place, "far-lab", ("nosuch",), "")
    with pytest.raises(SpecError, match="--mem: belongs to the container"):
        elsewhere.execute(far.place, "far-lab", ("true",), "", mem="1G")


def wait_for(found: Callable[[], object]) -> None:
    deadline = time.monotonic() + 30
    while not found():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_the_stop_button_reaches_it(far: Far) -> None:
    threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGINT)).start()
    result = elsewhere.execute(far.place, "far-lab", ("sleep", "600"), "")
    assert result.outcome == "interrupted" and result.goes_on


def test_it_ends_with_whoever_waits_for_it(far: Far) -> None:
    waiting = subprocess.Popen([sys.executable, "-m", "nbcontainer.cli", "exec", "far-lab", "sleep", "599"])
    wait_for(lambda: "sleep 599" in say("top", "far-lab"))
    waiting.kill()
    waiting.wait()
    wait_for(lambda: "sleep 599" not in say("top", "far-lab"))


def test_a_detached_one_does_not(far: Far) -> None:
    elsewhere.execute_detached(far.place, "far-lab", ("sleep", "598"), "")
    assert "sleep 598" in say("top", "far-lab")


def test_in_a_terminal(far: Far) -> None:
    done = command("exec", "-i", "far-lab", "sh", "-c", "cat; exit 4", input="typed")
    assert (done.returncode, done.stdout, done.stderr) == (4, "typed", "")
    assert command("logs", "far-cell").stdout == "from the cell\n"
    missing = command("exec", "far-lba", "ls")
    assert missing.returncode == 2 and "did you mean far-lab" in missing.stderr
    assert "--env" in command("exec", "--help").stdout
    assert command("exec", "far-lab").stderr == "nbcontainer: exec: a NAME and a PROGRAM are needed, such as: exec lab ps aux\n"


def test_logs_are_followed_and_the_stop_button_of_attach_goes_to_the_container(far: Far) -> None:
    answer = verbs.find("logs").answer(["-f", "far-count"])
    assert isinstance(answer, Iterator)
    lines = "".join(record.text for record in itertools.islice(answer, 8)).split()
    assert lines == [str(number) for number in range(len(lines))] and len(lines) >= 8
    answer.close()  # type: ignore[attr-defined]
    attached = verbs.find("attach").answer(["far-count"])
    assert isinstance(attached, Iterator)
    next(attached)
    threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT)).start()
    assert "interrupted" in "".join(record.text for record in attached)
    assert say("wait", "far-count") == "7" and say("rm", "far-count") == "far-count"


def test_those_that_were_kept_are_listed_and_can_be_removed(far: Far) -> None:
    with nbc.start(program=["sh", "-c", "exit 3"], mem="64M", workspace="none", name="near-kept", keep=True) as near:
        near.wait()
        elsewhere.execute_detached(far.place, "far-lab", ("true",), "")
        far.do('nbc.start(program=["sh", "-c", "exit 4; # a long, long, long, long, long command"], mem="64M", workspace="none", name="far-kept", keep=True)')
        wait_for(lambda: "far-kept" in say("ps", "-a") and "far-kept" not in say("ps"))
        rows = [line for line in say("ps", "-a", "--format", "{{.Names}} {{.Status}} {{.Command}}").splitlines() if "kept" in line]
        assert [row.partition(" ago")[0].partition(") ")[0] for row in rows] == ["far-kept Exited (4", "near-kept Exited (3"]
        assert rows[0].endswith("…") and "long command" in say("ps", "-a", "--no-trunc")
        assert command("ps", "-a", "--format", "{{.Names}}").stdout.splitlines()[:2] == ["far-kept", "near-kept"]
        assert say("ps", "--filter", "exited=4", "--format", "{{.Names}} {{.State}}") == "far-kept exited"
    assert say("rm", "far-kept") == "far-kept" and "far-kept" not in say("ps", "-a")


@pytest.mark.parametrize(
    "request_line",
    [
        *("", "nonsense", "[]", "{}", '{"verb": "stop"}', '{"verb": "nosuch", "given": {}}', '{"verb": "stop", "given": 5}', '{"verb": [], "given": {}}'),
        *('{"verb": "stop", "given": {"names": 5}}', '{"verb": "update", "given": {}}', '{"verb": "ps", "given": {"all": 1}}', '{"knows": {}}', '{"knows": 7}'),
        *('{"exec": {}}', '{"exec": {"name": "far-lab"}}', '{"exec": 1}', '{"exec": {"name": 5, "program": ["x"], "code": "", "options": {}, "detached": false}}'),
        '{"exec": {"name": "far-lab", "program": 5, "code": 5, "options": [], "detached": 1}}',
    ],
)
def test_what_is_not_understood_is_refused_in_a_line(far: Far, request_line: str) -> None:
    talk = elsewhere._Talk(far.place, {})
    talk.close()
    talk.socket = socket.socket(socket.AF_UNIX)
    directory_fd = os.open(control_directory(far.place), os.O_PATH)
    talk.socket.connect(address_in(directory_fd))
    os.close(directory_fd)
    talk.socket.sendall(request_line.encode() + b"\n")
    talk.socket.settimeout(30)
    try:
        with pytest.raises(SpecError) as refused:
            assert talk.read() == {"knows": False}
            raise SpecError("not known")
    finally:
        talk.close()
    assert "\n" not in str(refused.value)
    assert "far-lab" in say("ps")


def test_nobody_else_may_ask(far: Far) -> None:
    only_as_root("runs something as another user")
    done = subprocess.run(["ls", control_directory(far.place)], user=65534, group=65534, capture_output=True, text=True)
    assert done.returncode and "Permission denied" in done.stderr


def test_a_kernel_that_is_killed_meanwhile() -> None:
    with another_kernel() as kernel:
        threading.Timer(0.5, os.kill, (kernel.pid, signal.SIGKILL)).start()
        with pytest.raises(SpecError, match="its notebook's kernel has ended"):
            elsewhere.execute(kernel.place, "far-lab", ("sleep", "600"), "")
        with pytest.raises(SpecError, match="its notebook's kernel has ended"):
            elsewhere.call(kernel.place, "top", verbs.find("top").parser().parse_args(["far-lab"]))
