"""What threads of the kernel do at the same time, and what a hostile cell makes of that: no descriptor is used when it is another
file's already, nobody waits for ever, and nothing grows without a bound."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import threading
from collections.abc import Callable

import pytest

import nbcontainer as nbc
from nbcontainer.containers import CONTAINERS, Container
from nbcontainer.engine import Run
from nbcontainer.engine.localrun import LocalRun
from nbcontainer.engine.single import Single
from nbcontainer.engine.streams import MOST_WAITING_BYTES
from nbcontainer.errors import SpecError
from nbcontainer.events import Event, Output

SECONDS = 60.0


def within_time(what: Callable[[], object]) -> None:
    """``what`` must not wait for ever; if it does, its thread stays, and the test fails."""
    thread = threading.Thread(target=what, daemon=True)
    thread.start()
    thread.join(SECONDS)
    assert not thread.is_alive(), "it waits for ever"


def test_a_signal_after_the_end_reaches_nobody_else() -> None:
    """The number of a pidfd that was closed is soon another process's."""
    runs: list[Run] = []
    nbc.run("pass", mem="64M", workspace="none", on_start=runs.append)
    assert isinstance(runs[0], LocalRun)
    with subprocess.Popen(["sleep", "600"]) as other:
        runs[0]._process.pidfd = fd = os.pidfd_open(other.pid)
        try:
            runs[0].signal(signal.SIGTERM)
            assert select.select([fd], [], [], 0.2) == ([], [], []), "it was ended"
        finally:
            other.kill()
            os.close(fd)


def test_what_was_written_is_looked_at_by_a_descriptor_of_its_own(tmp_path: str) -> None:
    with nbc.start(mem="64M", workspace="none", name="kept", keep=True) as container:
        container.run("open('/new', 'w').close()")
        assert "/new" in [change.path for change in container.diff()]
        container.kill()
        threads = [threading.Thread(target=container.diff) for _ in range(4)]
        for thread in threads:
            thread.start()
        assert "/new" in [change.path for change in container.diff()]
        for thread in threads:
            thread.join()
    with pytest.raises(SpecError, match="ended"):
        container.diff()


ONE_BY_ONE = """
import os, threading, time
def write():
    for number in range(6000):
        os.write(1 + number % 2, b"x")
        time.sleep(0.0001)
thread = threading.Thread(target=write)
thread.start()
"""


def test_many_small_pieces_between_two_cells_of_a_session() -> None:
    with nbc.start(mem="64M", workspace="none", name="drip") as session:
        assert session.run(ONE_BY_ONE).ok
        session.exec(["sleep", "3"])
        results: list[nbc.Result] = []
        within_time(lambda: results.append(session.run("thread.join(); print('on')")))
        assert results[0].stdout.endswith("on\n")


def test_cells_begin_while_the_session_writes() -> None:
    chatter = "import threading, os, time\ndef talk():\n    while True: os.write(1, b'.'); time.sleep(0.0002)\nthreading.Thread(target=talk, daemon=True).start()"
    with nbc.start(mem="64M", workspace="none", name="chatter") as session:
        session.run(chatter)
        for number in range(100):
            assert f"<{number}>" in session.run(f"print('<{number}>')").stdout


QUESTIONS = """
import os, struct
body = b'{"t":"input"}'
frames = (struct.pack("<II", len(body), 0) + body) * 1000
for _ in range(100):
    data = memoryview(frames)
    while data:
        data = data[os.write(3, data):]
"""


def test_answers_that_are_not_read_do_not_pile_up() -> None:
    runs: list[Run] = []
    result = nbc.run(QUESTIONS, mem="64M", workspace="none", on_start=runs.append)
    assert result.outcome == "exited"
    assert isinstance(runs[0], LocalRun)
    assert len(runs[0]._streams._waiting) <= MOST_WAITING_BYTES + 1000


def test_a_cell_s_container_is_ended_by_who_takes_its_events() -> None:
    def end(event: Event) -> None:
        if isinstance(event, Output):
            (container,) = CONTAINERS.all()
            with pytest.raises(SpecError, match="cannot end while"):
                container.wait()
            container.kill()

    results: list[nbc.Result] = []
    code = "import time\nprint('now', flush=True)\ntime.sleep(600)"
    within_time(lambda: results.append(nbc.run(code, mem="64M", workspace="none", on_event=end)))
    assert results[0].outcome == "killed"


@pytest.mark.parametrize("end", [Container.kill, Container.stop, Container.remove])
def test_a_container_in_the_background_is_ended_by_its_own_listener(end: Callable[[Container], None]) -> None:
    made: list[Container] = []
    known = threading.Event()

    def listen(event: Event) -> None:
        if isinstance(event, Output):
            began.append(known.wait(SECONDS))
            end(made[0])

    began: list[bool] = []
    script = "trap 'exit 5' TERM\necho now\nwhile :; do sleep 0.1; done"
    with nbc.start(program=["sh"], code=script, mem="64M", workspace="none", on_event=listen) as container:
        made.append(container)
        known.set()
        within_time(container.wait)
        assert began == [True], "it began while what it had said was taken"
        assert container.result is not None
        assert container.result.exit_code == 5 if end is Container.stop else container.result.outcome == "killed"


def test_a_session_that_talks_is_ended_by_who_waits_for_its_cell() -> None:
    """Its thread has said more than anybody reads: it waits for the one that waits for its end."""
    with nbc.start(mem="64M", workspace="none", name="loud") as session:

        ended: list[Event] = []

        def end(event: Event) -> None:
            if isinstance(event, Output) and not ended:
                ended.append(event)
                while session._run._cell.inbox._bytes < 8 << 20:  # type: ignore[attr-defined]
                    threading.Event().wait(0.01)
                session.kill()

        results: list[nbc.Result] = []
        within_time(lambda: results.append(session.run("while True: print('x' * 10000)", on_event=end)))
        assert results[0].outcome == "killed"


def test_a_container_whose_result_cannot_be_made_has_ended_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    with nbc.start(program=["sh"], code="sleep 600", mem="64M", workspace="none") as container:
        monkeypatch.setattr(container._collector, "result", lambda: 1 / 0)
        within_time(container.kill)
        with pytest.raises(ZeroDivisionError):
            container.wait()


def test_programs_begin_while_their_container_ends() -> None:
    """What is sent to the zygote is this container's, or the container has ended."""
    for turn in range(20):
        with nbc.start(mem="64M", workspace="none", name=f"ending-{turn}") as container:
            said: list[object] = []

            def begin(container: Container = container, said: list[object] = said) -> None:
                try:
                    while True:
                        said.append(container.exec(["true"]).exit_code)
                except SpecError as error:
                    said.append(str(error))

            threads = [threading.Thread(target=begin) for _ in range(3)]
            for thread in threads:
                thread.start()
            while not said:
                threading.Event().wait(0.001)
            container.kill()
            for thread in threads:
                thread.join(SECONDS)
                assert not thread.is_alive()
            assert all("ended" in str(word) for word in said if isinstance(word, str)), said


FORKS = """
import os, threading, time
import nbcontainer as nbc
from nbcontainer.engine import local
ready = threading.Event()
def run():
    nbc.run("import time; time.sleep(2)", mem="64M", workspace="none", on_event=lambda event: isinstance(event, nbc.events.Sample) and ready.set())
thread = threading.Thread(target=run)
thread.start()
ready.wait()
pid = os.fork()
if pid == 0:
    try:
        assert len(nbc.run("import time; time.sleep(0.3)", mem="64M", workspace="none").samples) > 3
        local.shutdown()
        os._exit(0)
    finally:
        os._exit(1)
status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
thread.join()
raise SystemExit(status)
"""


def test_a_process_that_the_kernel_forks_has_containers_of_its_own() -> None:
    """Threads are its parent's, and so are the locks that they hold."""
    assert subprocess.run([sys.executable, "-c", FORKS], timeout=SECONDS, check=False).returncode == 0


def test_an_engine_that_another_thread_opens_is_not_waited_for_in_a_forked_process() -> None:
    begun, go_on = threading.Event(), threading.Event()

    class Engine:
        def __init__(self) -> None:
            begun.set()
            go_on.wait(SECONDS)

        def close(self) -> None: ...

    single = Single(Engine)
    thread = threading.Thread(target=single.open)
    thread.start()
    begun.wait(SECONDS)
    pid = os.fork()
    if pid == 0:
        go_on = threading.Event()
        go_on.set()
        signal.alarm(10)
        single.open()
        os._exit(0)
    go_on.set()
    thread.join()
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
