"""Cells of a real kernel in the virtual machine: what a notebook shows of them, and programs beside a session."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from facilities import require
from kernels import Kernel, kernel

UNTIL_IT_HAS_ENDED = """
import threading, time
for _ in range(600):
    if not any(thread.name.startswith("nbcontainer-exec-") for thread in threading.enumerate()): break
    time.sleep(0.1)
"""


@pytest.fixture(scope="module")
def notebook(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kernel]:
    with kernel("installed", tmp_path_factory.mktemp("notebook"), engine="vm") as started:
        started.run("%config ContainerMagics.engine = 'vm'\n%config ContainerMagics.workspace = 'none'")
        yield started


@pytest.fixture
def lab(notebook: Kernel) -> Iterator[str]:
    assert notebook.run("%container start lab --mem 96M").text.startswith("lab\n")
    yield "lab"
    assert notebook.run("%container rm -f lab").text == "lab\n"


def wait_for(found: Callable[[], object]) -> None:
    deadline = time.monotonic() + 60
    while not found():
        assert time.monotonic() < deadline
        time.sleep(0.1)


@pytest.mark.essential
def test_the_last_expression_is_the_result_of_the_cell(notebook: Kernel) -> None:
    cell = notebook.run("%%container --mem 64M --quiet\nimport os\nprint(os.uname().release)\n{'a': [1, 2.5, ('b',)]}")
    assert [output["kind"] for output in cell.outputs] == ["stream", "execute_result"]
    number = cell.outputs[1]["execution_count"]
    assert notebook.run(f"_ == Out[{number}] == {{'a': [1, 2.5, ('b',)]}}").text == "True"
    assert f"Cell In[{number + 2}], line 1" in notebook.run("%%container --mem 64M --quiet\n1 / 0").text
    assert notebook.run("import os; os.uname().release").text.strip("'") not in cell.text


@pytest.mark.parametrize("options", ["", "--no-live"])
def test_why_it_is_a_virtual_machine_is_said_before_anything_else(tmp_path: Path, options: str) -> None:
    with kernel("installed", tmp_path, engine="vm") as notebook:
        line = f"%%container --engine auto --workspace none --mem 128M --memory-high 64M {options}\n"
        cell = notebook.run(line + "import os, time\ntime.sleep(1)\nprint('printed', os.uname().release)")
        require(f"printed {os.uname().release}" not in cell.text, "this host can do --memory-high itself")
        why = "This runs in a virtual machine (--engine vm), because"
        assert cell.text.count(why) == 1 and cell.text.index(why) < cell.text.index("printed"), cell.text
        assert why not in notebook.run(line + "print(1)").text


def test_results_of_a_session(notebook: Kernel, lab: str) -> None:
    cell = notebook.run("%%container --exec lab\nclass A:\n    size = 5\n    def __repr__(self): return 'a'\nA()")
    assert cell.outputs[-1]["kind"] == "execute_result" and cell.data == [{"text/plain": "a"}]
    assert notebook.run(f"%%container --exec lab\n_.size + Out[{cell.outputs[-1]['execution_count']}].size").text == "10"
    assert notebook.run("_").text == "10"


def test_programs_beside_a_session(notebook: Kernel, lab: str) -> None:
    assert notebook.run("%container exec lab sh -c 'echo $0; exit 3' there").text.startswith("there\n")
    assert "exit code 3" in notebook.run("%%container --exec lab sh\nexit 3").text
    assert notebook.run("%container exec -d lab sh -c 'echo begun >/tmp/begun; sleep 600'").outputs == []
    wait_for(lambda: notebook.run("%container exec lab cat /tmp/begun").text == "begun\n")
    assert notebook.run("%%container --exec lab\nopen('/tmp/begun').read()").text == r"'begun\n'"
    wait_for(lambda: "sleep 600" in notebook.run("%container exec lab sh -c 'cat /proc/[0-9]*/cmdline | tr \\\\0 \" \"'").text)


def test_what_a_detached_program_writes_comes_below_its_cell(notebook: Kernel, lab: str) -> None:
    cell = notebook.run(f"%container exec -d lab sh -c 'sleep 1; echo late; exit 4'\n{UNTIL_IT_HAS_ENDED}")
    assert "late\n" in cell.text and "sh in lab: ended (exit code 4)" in cell.text
    assert "'nosuch' is not in the container" in notebook.run("%container exec -d lab nosuch").text
    assert "--mem: belongs to the container" in notebook.run("%container exec -d --mem 1G lab true").text


def test_a_detached_program_ends_with_its_container(notebook: Kernel) -> None:
    notebook.run("%container start brief --mem 64M")
    notebook.run("%container exec -d brief sleep 600")
    assert notebook.run("%container rm -f brief").text.startswith("brief\n")
    assert "brief has ended" in notebook.run("%container exec brief true").text
    assert "brief has ended" in notebook.run("%container exec -d brief true").text


def test_python_and_programs_in_a_container_of_a_program(notebook: Kernel) -> None:
    notebook.run("%container run -d --name back --mem 96M sleep 600")
    try:
        assert notebook.run("%%container --exec back --quiet -o y\nimport os\ny = os.getpid() > 1\nopen('/proc/1/comm').read()").text == r"'sleep\n'"
        assert notebook.run("y").text == "True"
        assert "back ended" not in notebook.run("%container exec back true").text
    finally:
        assert notebook.run("%container rm -f back").text.startswith("back\n")


def test_from_a_terminal(notebook: Kernel, lab: str) -> None:
    def command(*words: str) -> tuple[int, str]:
        done = subprocess.run([sys.executable, "-m", "nbcontainer.cli", *words], capture_output=True, text=True, timeout=120)
        return done.returncode, done.stdout + done.stderr

    assert command("exec", "lab", "sh", "-c", "echo here >/tmp/x; cat /tmp/x; exit 4") == (4, "here\n")
    assert command("exec", "-d", "lab", "sh", "-c", "echo there >/tmp/y; sleep 600") == (0, "")
    wait_for(lambda: command("exec", "lab", "cat", "/tmp/y") == (0, "there\n"))
    code, text = command("exec", "lab", "nosuch")
    assert code == 2 and "'nosuch' is not in the container" in text
    assert "lab" in command("ps")[1] and "lab" in command("stats", "--no-stream")[1]
