"""Sessions: one Python cell after the other in one container, its state kept; and how each of them can end."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

import nbcontainer
from nbcontainer.containers import CONTAINERS, Container
from nbcontainer.errors import SpecError
from nbcontainer.events import Display, Event, Output, Sample, Started

GONE = "its variables are gone"


@pytest.fixture
def lab() -> Iterator[Container]:
    with nbcontainer.start(mem="128M", name="lab", workspace="none") as container:
        yield container
    assert CONTAINERS.all() == []


@pytest.mark.essential
def test_state_stays_from_cell_to_cell(lab: Container) -> None:
    assert lab.run("x = 41\nimport os\ndef double(n): return 2 * n").ok
    result = lab.run("print(os.getpid(), double(x + 1))")
    assert (result.stdout, result.goes_on, result.note) == ("1 84\n", True, "")
    assert lab.run("x + 1").outputs == [{"text/plain": "42"}]
    assert lab.run("_ + 1").outputs == [{"text/plain": "43"}]
    assert lab.status == "running"


def test_a_cell_that_fails_leaves_the_state(lab: Container) -> None:
    lab.run("x = 1")
    failed = lab.run("x = 2\n1 / 0")
    assert failed.error is not None and failed.error.ename == "ZeroDivisionError" and failed.exit_code == 1
    assert failed.error.traceback[0] and "forkhooks" not in "".join(failed.error.traceback)
    assert lab.run("import sys; sys.exit(3)").exit_code == 3
    assert lab.run("def").error is not None
    assert lab.run("print(x)").stdout == "2\n"


@pytest.mark.essential
def test_interrupting_a_cell_keeps_the_session(lab: Container) -> None:
    lab.run("x = 'kept'")
    interrupted = _interrupt(lab, "import time\ntime.sleep(60)", times=1)
    assert interrupted.outcome == "interrupted" and interrupted.error is not None
    assert interrupted.error.ename == "KeyboardInterrupt" and "goes on" in interrupted.describe()
    assert lab.run("print(x)").stdout == "kept\n"


def test_a_second_interrupt_ends_the_session(lab: Container) -> None:
    stubborn = "import time\nwhile True:\n    try: time.sleep(60)\n    except KeyboardInterrupt: print('no', flush=True)"
    result = _interrupt(lab, stubborn, times=2)
    assert result.outcome == "interrupted" and GONE in result.note and not result.goes_on
    with pytest.raises(SpecError, match="lab has ended"):
        lab.run("1")
    assert lab.status == "exited"


def _interrupt(container: Container, code: str, times: int) -> Any:
    """As the stop button does: SIGINT to this process, while the cell runs."""

    def send() -> None:
        for _ in range(times):
            time.sleep(0.3)  # the second has to find the first one ignored
            os.kill(os.getpid(), signal.SIGINT)

    timer = threading.Thread(target=send)
    result = container.run(code, on_start=lambda run: timer.start())
    timer.join()
    return result


def test_a_timeout_interrupts_and_keeps_the_session(lab: Container) -> None:
    lab.run("x = 5")
    result = lab.run("while True: pass", timeout=0.2)
    assert result.outcome == "timeout" and result.goes_on
    assert lab.run("print(x)").stdout == "5\n"


def test_a_cell_that_ignores_its_timeout_ends_the_session(lab: Container) -> None:
    stubborn = "import time\nwhile True:\n    try: time.sleep(60)\n    except KeyboardInterrupt: pass"
    result = lab.run(stubborn, timeout=0.2)
    assert result.outcome == "timeout" and GONE in result.note


@pytest.mark.essential
def test_out_of_memory_says_that_the_state_is_gone(lab: Container) -> None:
    result = lab.run("data = bytearray(400_000_000)")
    assert result.outcome == "oom" and result.usage.oom_kills == 1 and GONE in result.note
    assert lab.wait() is not None and lab.wait().outcome == "oom"  # type: ignore[union-attr]


def test_a_child_that_is_killed_for_memory_leaves_the_session(lab: Container) -> None:
    # Of the session's processes the child is the largest, and Linux takes that one.
    code = "import subprocess\nx = subprocess.run(['bash', '-c', 'head -c 400000000 /dev/zero | tail; exit ${PIPESTATUS[1]}']).returncode"
    result = lab.run(code)
    assert result.outcome == "exited" and result.usage.oom_kills >= 1 and "killed for memory" in result.note
    assert lab.run("print(x)").stdout == "137\n"


def test_what_a_process_ends_with_is_the_outcome_of_its_cell(lab: Container) -> None:
    result = lab.run("import os; os._exit(7)")
    assert (result.outcome, result.exit_code, result.goes_on) == ("exited", 7, False)
    assert GONE in result.note


def test_usage_and_samples_are_the_cells_own(lab: Container) -> None:
    lab.run("import time\nend = time.process_time() + 0.3\nwhile time.process_time() < end: pass")
    events: list[Event] = []
    quiet = lab.run("time.sleep(0.2)", on_event=events.append)
    assert quiet.usage.cpu_seconds < 0.2 and 0.2 <= quiet.usage.wall_seconds < 10
    assert len(quiet.samples) > 2 and isinstance(events[0], Started) and any(isinstance(event, Sample) for event in events)
    assert quiet.usage.memory_peak_bytes <= 128 << 20


def test_prints_displays_and_threads_keep_their_order(lab: Container) -> None:
    shown: list[str] = []

    def note(event: Event) -> None:
        if isinstance(event, Output):
            shown.append(event.text.strip())
        elif isinstance(event, Display):
            shown.append(str(event.data["text/plain"]))

    lab.run("for i in range(3):\n    print('p', i)\n    display({'text/plain': f'd {i}'}, raw=True)", on_event=note)
    assert shown == ["p 0", "d 0", "p 1", "d 1", "p 2", "d 2"]


def test_what_is_written_between_cells_comes_with_the_next(lab: Container) -> None:
    code = "import threading, time\ndef late():\n    time.sleep(0.1)\n    print('late')\n    display({'text/plain': 'unseen'}, raw=True)\n"
    lab.run(code + "thread = threading.Thread(target=late); thread.start()")
    follow = lab.follow()
    assert next(follow).text == "late\n"
    result = lab.run("thread.join(); print('now')")
    assert result.stdout == "late\nnow\n"
    assert lab.logs() == "late\nnow\n" and lab.logs(tail=1) == "now\n"


def test_threads_that_display_while_cells_come_and_go(lab: Container) -> None:
    lab.run(
        "import threading\nstop = threading.Event()\n"
        "def show():\n    while not stop.is_set(): display({'text/plain': 'x' * 5000}, raw=True)\n"
        "threads = [threading.Thread(target=show) for _ in range(3)]\nfor thread in threads: thread.start()"
    )
    for number in range(50):
        assert lab.run(f"print({number})").stdout == f"{number}\n"
    assert lab.run("stop.set()\nfor thread in threads: thread.join()").ok


def test_one_cell_at_a_time(lab: Container) -> None:
    refused: list[str] = []

    def second(run: object) -> None:
        with pytest.raises(SpecError) as error:
            lab.run("1")
        refused.append(str(error.value))

    lab.run("import time; time.sleep(0.1)", on_start=second)
    assert "running another cell" in refused[0]
    assert lab.run("print(1)").stdout == "1\n"


def test_giving_a_cell_up_interrupts_it(lab: Container) -> None:
    def fail(event: Event) -> None:
        if isinstance(event, Output):
            raise RuntimeError("the reader")

    with pytest.raises(RuntimeError, match="the reader"):
        lab.run("x = 1\nprint(x, flush=True)\nimport time; time.sleep(60)", on_event=fail)
    assert lab.run("print(x)").stdout == "1\n"


@pytest.mark.parametrize(
    ("code", "why"),
    [
        ("import os; os.close(3)", "file descriptor 3, by which the session gets its cells: Bad file descriptor"),
        ("import os, time; os.close(3); time.sleep(600)", "the cell closed file descriptor 3, its channel to the notebook"),
        ("import os; os.write(3, b'garbage' * 100)", "the cell wrote to file descriptor 3, its channel to the notebook, what is no message"),
        ("import os; os.write(3, (5).to_bytes(4, 'little') + b'\\xff\\xff\\xff\\xff')", "what is no message"),
        ("import os; os.write(3, (500).to_bytes(4, 'little') + bytes(4)); os._exit(0)", "it ended in the middle of something that it was showing"),
    ],
)
def test_a_session_that_ruins_its_channel_ends_with_a_clear_outcome(lab: Container, code: str, why: str) -> None:
    result = lab.run(code)
    assert not result.goes_on and GONE in result.note and why in result.note + result.stderr
    with pytest.raises(SpecError, match="has ended"):
        lab.run("1")


def test_forged_ends_are_the_sessions_own_affair(lab: Container) -> None:
    forge = "import os, json\nbody = json.dumps({'t': 'done', 'code': 0}).encode()\n"
    forge += "os.write(3, len(body).to_bytes(4, 'little') + bytes(4) + body)\nimport time; time.sleep(0.2)"
    assert lab.run(forge).goes_on
    # The session says now that it is done more often than it was asked; that shortens its own cells.
    lab.run("1")
    assert nbcontainer.run("print('others are well')", mem="64M", workspace="none").stdout == "others are well\n"


def test_names_are_unique_and_near_ones_are_offered(lab: Container) -> None:
    with pytest.raises(SpecError, match="container lab already"):
        nbcontainer.start(name="lab")
    with pytest.raises(SpecError, match="container lab already"):
        nbcontainer.run("1", name="lab")
    with pytest.raises(SpecError, match="did you mean lab"):
        CONTAINERS.find("lba")
    assert CONTAINERS.find("lab") is lab and CONTAINERS.find(lab.id[:5]) is lab
    lab.remove()
    with pytest.raises(SpecError, match="lab has ended"):
        CONTAINERS.find("lab")


def test_options_of_the_container_are_refused_for_a_cell(lab: Container) -> None:
    with pytest.raises(SpecError, match="--mem: belongs to the container"):
        lab.run("1", mem="1G")
    with pytest.raises(SpecError, match="--env: a session's process is there already"):
        lab.run("1", env={"A": "1"})


def test_controls(lab: Container) -> None:
    limits = lab.update(mem="200M", cpus=0.5)
    assert (limits.memory_bytes, limits.cpus) == (200 << 20, 0.5)
    lab.pause()
    assert lab.status == "paused"
    with pytest.raises(SpecError, match="is paused"):
        lab.run("1")
    lab.resume()
    assert lab.status == "running"
    assert lab.run("print(1)").stdout == "1\n"
    assert "anon" in lab.stats().memory_by_kind
    assert "--mem 200 MiB" in lab.run("import subprocess\nx = bytearray(400_000_000)").describe()


def test_stop_ends_an_idle_session(lab: Container) -> None:
    lab.stop()
    assert lab.wait() is not None and lab.wait().exit_code == 143  # type: ignore[union-attr]


def test_stop_ends_a_busy_session(lab: Container) -> None:
    timer = threading.Timer(0.2, lab.stop, (5,))
    result = lab.run("import time; time.sleep(60)", on_start=lambda run: timer.start())
    timer.join()
    assert not result.goes_on and lab.status == "exited"


def test_kill_ends_a_running_cell(lab: Container) -> None:
    timer = threading.Timer(0.2, lab.kill)
    result = lab.run("import time; time.sleep(60)", on_start=lambda run: timer.start())
    timer.join()
    assert result.outcome == "killed" and GONE in result.note


def test_a_session_that_cannot_start_says_why() -> None:
    with pytest.raises(SpecError, match="--workdir"):
        nbcontainer.start(mem="64M", workdir="/no/such/place")
    assert CONTAINERS.all() == []


def test_several_sessions_at_once() -> None:
    sessions = [nbcontainer.start(mem="64M", workspace="none") for _ in range(4)]
    results: dict[int, str] = {}

    def use(number: int) -> None:
        for turn in range(5):
            sessions[number].run(f"x = {number * 100 + turn}")
            results[number] = sessions[number].run("print(x)").stdout

    threads = [threading.Thread(target=use, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for session in sessions:
        session.remove()
    assert results == {number: f"{number * 100 + 4}\n" for number in range(4)}
