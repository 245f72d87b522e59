"""Containers of cells that run, used from other threads; programs that are started in a container and not waited for."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

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
    while not (CONTAINERS.all() and "ready" in CONTAINERS.all()[0].logs()):
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
        assert str(container.pid) in say("top", "cell")
        assert '"Name": "cell"' in say("inspect", "cell")
        assert "cell" in say("tree", "cell")
        assert say("update", "--mem", "80M", "cell").startswith("cell: memory 80 MiB")
        assert say("pause", "cell") == "cell" and container.status == "paused"
        assert "(Paused)" in say("ps")
        assert say("resume", "cell") == "cell" and "(Paused)" not in say("ps")
        assert say("stats", "--no-stream", "--format", "{name} {net}", "cell") == "cell 0 B / 0 B"
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
    code = f"print('ready')\nfor i in range(40): print(str(i).rjust({IN_MEMORY_BYTES // 10}))\nprint('last')"
    with cell(code) as (container, result):
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
        assert lab.run("import subprocess\nprint(subprocess.run(['ps', '-e'], capture_output=True, text=True).stdout.count(' sh'))").stdout == "1\n"
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
        lab.exec_detached(["sh", "-c", "echo said; sleep 600"], on_event=fail)
        wait_for(lambda: len(lab.processes()) == 1)
        assert lab.run("1").ok
