"""Containers of cells that run, used from other threads; programs that are started in a container and not waited for."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

import pytest
from facilities import full_run

import nbcontainer as nbc
from nbcontainer import verbs
from nbcontainer.containers import CONTAINERS
from nbcontainer.errors import SpecError
from nbcontainer.events import Event, Finished, Output
from nbcontainer.logs import IN_MEMORY_BYTES
from nbcontainer.result import Result
from nbcontainer.running import RunningContainer
from nbcontainer.verbs.shown import Document, Table

WAITS = "import time\nprint('ready', flush=True)\ntime.sleep(600)"


@contextmanager
def cell(code: str = WAITS, **options: object) -> Iterator[tuple[RunningContainer, Callable[[], Result]]]:
    """A cell that another thread waits for: its container, and what came of it."""
    results: list[Result] = []

    def run() -> None:
        results.append(nbc.run(code, mem="64M", workspace="none", name="cell", **options))  # type: ignore[arg-type]

    def result() -> Result:
        thread.join(30)
        return results[0]

    thread = threading.Thread(target=run)
    thread.start()
    deadline = time.monotonic() + 60
    while not (CONTAINERS.all() and "ready" in CONTAINERS.all()[0].logs()):
        assert thread.is_alive() and time.monotonic() < deadline
        time.sleep(0.01)
    container = CONTAINERS.find("cell")
    try:
        yield container, result
    finally:
        container.remove(force=True)
        thread.join(30)
    assert CONTAINERS.all() == []


def say(*words: str) -> str:
    answer = verbs.find(words[0]).answer(words[1:])
    if isinstance(answer, str):
        return answer
    return answer.as_text() if isinstance(answer, Table | Document) else "".join(record.text for record in answer)


@pytest.mark.essential
def test_every_verb_works_on_the_container_of_a_cell() -> None:
    with cell() as (container, result):
        assert say("logs", "cell") == "ready\n"
        assert str(container.pid) in say("top", "cell") and "python (nbcontainer)" in say("top", "cell")
        assert '"Name": "cell"' in say("inspect", "cell")
        assert say("inspect", "-f", "{{.State.Status}} {{.HostConfig.NetworkMode}}", "cell") == "running none"
        assert say("ps", "--filter", "network=none", "--filter", "name=^cell$", "--format", "{{.Names}}") == "cell"
        assert "cell" in say("tree", "cell")
        assert say("update", "--mem", "80M", "cell").startswith("cell: memory 80 MiB")
        assert say("pause", "cell") == "cell" and container.status == "paused"
        assert "(Paused)" in say("ps")
        assert say("resume", "cell") == "cell" and "(Paused)" not in say("ps")
        assert say("stats", "--no-stream", "--format", "{{.Name}} {{.NetIO}}", "cell") == "cell 0 B / 0 B"
        assert container.exec(["cat", "/proc/1/comm"]).stdout.startswith("python")
        container.exec(["sh", "-c", "echo x >/tmp/new"])
        assert "A  /tmp/new" in say("diff", "cell")
        with pytest.raises(SpecError, match="cell is running; stop it first"):
            say("rm", "cell")
        assert say("kill", "-s", "INT", "cell") == "cell"
        ended = result()
    assert ended.error is not None and ended.error.ename == "KeyboardInterrupt"
    assert ended.limits.memory_bytes == 80 << 20
    with pytest.raises(SpecError, match=r"logs: cell has ended \(exit code 1\)"):
        say("logs", "cell")


@pytest.mark.parametrize(("verb", "outcome"), [(("kill", "cell"), "killed"), (("stop", "-t", "0.1", "cell"), "killed"), (("rm", "-f", "cell"), "killed")])
def test_it_can_be_ended(verb: tuple[str, ...], outcome: str) -> None:
    with cell() as (_, result):
        assert say(*verb) == "cell"
        assert result().outcome == outcome


def test_its_exit_code_can_be_waited_for() -> None:
    with cell("import sys, time\nprint('ready', flush=True)\ntime.sleep(0.3)\nsys.exit(3)") as (container, result):
        assert say("wait", "cell") == "3"
        assert result().exit_code == 3
        with pytest.raises(SpecError, match="has ended"):
            container.diff()


def test_its_log_can_be_followed_and_keeps_the_end() -> None:
    lines = f"for i in range(40): print(str(i).rjust({IN_MEMORY_BYTES // 10}))\nprint('last')"
    # "ready" is not among what is kept, so the lines wait until it has been seen
    code = f"import os, time\nprint('ready', flush=True)\nwhile not os.path.exists('/tmp/seen'): time.sleep(0.01)\n{lines}"
    with cell(code) as (container, result):
        container.exec(["touch", "/tmp/seen"])
        followed = "".join(record.text for record in container.follow())
        assert len(result().stdout) > 4 * IN_MEMORY_BYTES
        kept = container.logs()
    assert kept.endswith("last\n") and IN_MEMORY_BYTES <= len(kept) <= 3 * IN_MEMORY_BYTES
    assert kept.endswith(followed[-1000:])


def test_two_cells_of_one_name() -> None:
    with cell(), pytest.raises(SpecError, match="there is a container cell already"):
        nbc.run("1", name="cell", mem="64M", workspace="none")


# ---- exec -d


def wait_for(found: Callable[[], object]) -> None:
    deadline = time.monotonic() + 30
    while not found():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.essential
def test_a_detached_program_runs_beside_the_cells() -> None:
    said: list[Event] = []
    with nbc.start(mem="64M", workspace="none") as lab:
        lab.exec_detached(["sh", "-c", "cat; until [ -e /tmp/go ]; do sleep 0.05; done; exit 5"], "typed\n", on_event=said.append)
        assert lab.run("import subprocess\nprint(' sh' in subprocess.run(['ps', '-e'], capture_output=True, text=True).stdout)").stdout == "True\n"
        wait_for(lambda: any(isinstance(event, Output) and event.text == "typed\n" for event in said))
        lab.run("open('/tmp/go', 'w').close()")
        wait_for(lambda: isinstance(said[-1], Finished))
        last = said[-1]
        assert isinstance(last, Finished) and last.exit_code == 5 and last.goes_on
        assert lab.run("1").ok


def test_a_detached_program_ends_with_its_container() -> None:
    said: list[Event] = []
    with nbc.start(mem="64M", workspace="none") as lab:
        lab.exec_detached(["sleep", "600"], on_event=said.append)
    wait_for(lambda: isinstance(said[-1], Finished))
    assert isinstance(said[-1], Finished) and not said[-1].goes_on


def test_what_a_detached_program_cannot_begin_with_is_said_at_once() -> None:
    with nbc.start(mem="64M", workspace="none") as lab:
        with pytest.raises(SpecError, match="'nosuch' is not in the container"):
            lab.exec_detached(["nosuch"])
        with pytest.raises(SpecError, match="--mem: belongs to the container"):
            lab.exec_detached(["true"], mem="1G")
        lab.pause()
        with pytest.raises(SpecError, match="is paused"):
            lab.exec_detached(["true"])
    with pytest.raises(SpecError, match="has ended"):
        lab.exec_detached(["true"])


def test_a_listener_that_fails_ends_its_program_and_not_the_container() -> None:
    def fail(event: Event) -> None:
        if isinstance(event, Output):
            raise RuntimeError("the listener")

    with nbc.start(mem="64M", workspace="none") as lab:
        lab.exec_detached(["sh", "-c", "sleep 0.3; echo said; sleep 600"], on_event=fail)
        wait_for(lambda: len(lab.processes()) == 1)
        assert lab.run("1").ok


# ---- the end, while others are at it


def use(container: RunningContainer, seed: int, refused: list[str], wrong: list[str]) -> None:
    """Anything, until it has ended, and then once more: what does not work says so in a SpecError."""
    chance = random.Random(seed)
    acts: list[Callable[[], object]] = [
        lambda: container.run("x = 1"),
        lambda: container.run("import time; time.sleep(0.05); print('y')"),
        lambda: container.run("import time; time.sleep(0.05)", timeout=0.02),
        lambda: container.exec(["sh", "-c", "echo a; sleep 0.02; echo b"]),
        lambda: container.exec(["sleep", "5"], timeout=0.02),
        lambda: container.exec_detached(["sleep", "1"]),
        container.pause,
        container.resume,
        lambda: container.update(mem=chance.choice(["64M", "80M"])),
        container.stats,
        container.processes,
        container.diff,
        container.logs,
        lambda: container.kill("INT"),
        lambda: container.wait(0.01),
    ]
    while container.status != "exited":
        _try(chance.choice(acts), refused, wrong)
    for act in acts:
        _try(act, refused, wrong)


def _try(act: Callable[[], object], refused: list[str], wrong: list[str]) -> None:
    try:
        act()
    except SpecError as error:
        refused.append(str(error))
    except BaseException:
        wrong.append(traceback.format_exc())


@pytest.mark.parametrize("end", ["kill", "stop", "remove", "killed from outside", "killed from inside"])
def test_whoever_is_late_is_told_so(end: str) -> None:
    refused: list[str] = []
    wrong: list[str] = []
    for round_number in range(20 if full_run() else 2):
        container = nbc.start(mem="64M", workspace="none", keep=round_number % 2 == 1)
        threads = [threading.Thread(target=use, args=(container, seed, refused, wrong)) for seed in range(3)]
        for thread in threads:
            thread.start()
        time.sleep(0.1 + round_number * 0.02)
        if end == "killed from outside":
            os.kill(container.pid or 0, signal.SIGKILL)
        elif end == "killed from inside":
            with contextlib.suppress(SpecError):
                container.exec(["sh", "-c", "kill -9 -1"])
            container.kill() if container.status != "exited" else None
        else:
            # Several interrupts while a cell begins may have ended it before.
            with contextlib.suppress(SpecError):
                {"kill": container.kill, "stop": partial(container.stop, 0.05), "remove": container.remove}[end]()
        for thread in threads:
            thread.join(60)
            assert not thread.is_alive()
        container.remove()
    assert not wrong, f"{len(wrong)} of them, such as:\n{wrong[0]}"
    assert any("ended" in text for text in refused)
