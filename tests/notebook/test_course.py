"""Executes the course in a real kernel, as a reader would, and checks that each experiment shows what the text says."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import footprint
import nbclient
import nbformat
import pytest
from facilities import require

COURSE = Path(__file__).resolve().parents[2] / "notebooks"
FIRST = COURSE / "en" / "01-what-is-a-container.ipynb"


def plain(text: str) -> str:
    return re.sub(r"\x1b\[[0-9;]*m", "", text)


def text_of(cell: Any) -> str:
    """All that a reader sees below a cell, as plain text."""
    text = ""
    for output in cell.outputs:
        if output.output_type == "stream":
            text += output.text  # one text may come in several messages
        elif output.output_type == "error":
            text += "\n".join(output.traceback) + "\n"
        else:
            text += str(output.data.get("text/plain", "")) + "\n"
    return plain(text)


@pytest.mark.parametrize("path", sorted(COURSE.rglob("*.ipynb")), ids=lambda path: path.stem)
def test_notebooks_are_stored_clean(path: Path) -> None:
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    assert (notebook.nbformat, notebook.nbformat_minor) == (4, 5)
    assert len(notebook.cells) <= 25
    ids = [cell.id for cell in notebook.cells]
    assert len(set(ids)) == len(ids)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            assert cell.outputs == []
            assert cell.execution_count is None


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Cell id → what is shown below it, after the whole notebook ran without an error."""
    require(os.geteuid() == 0, "the course needs root on this engine: sudo tests/run --lane notebook")
    require(Path("/bin/busybox").exists(), "the course needs a static shell: apt install busybox-static")
    directory = tmp_path_factory.mktemp("course")
    notebook = nbformat.read(FIRST, as_version=4)
    nbclient.NotebookClient(notebook, timeout=120, kernel_name="python3", resources={"metadata": {"path": str(directory)}}).execute()
    assert footprint.processes() == [], "the kernel has ended, and so must everything that it started"
    return {cell.id: text_of(cell) for cell in notebook.cells if cell.cell_type == "code"}


def number(pattern: str, text: str) -> float:
    match = re.search(pattern, text)
    assert match is not None, f"no {pattern!r} in {text!r}"
    return float(match[1])


def test_without_locks_it_is_a_process_among_others(first: dict[str, str]) -> None:
    assert number(r"I am process (\d+)", first["no-lock"]) > 1
    assert number(r"I see (\d+) processes", first["no-lock"]) > 1
    assert f"My host is called {os.uname().nodename}" in first["no-lock"]


def test_one_process_has_two_numbers(first: dict[str, str]) -> None:
    assert "I am process 1\n" in first["pid-lock"]
    assert "My parent is process 0 " in first["pid-lock"]
    assert number(r"number (\d+)", first["pid-outside"]) > 1


def test_the_hostname_is_the_containers_own(first: dict[str, str]) -> None:
    assert "is called my-first-container" in first["uts-lock"]
    assert f"still called {os.uname().nodename}" in first["uts-outside"]
    assert os.uname().nodename != "my-first-container"


def test_a_bare_root_shows_exactly_three_files(first: dict[str, str]) -> None:
    lines = first["root-lock"].strip().splitlines()
    assert lines[0] == "/hello.txt /secret.txt /sh"
    assert lines[1] == "hello.txt secret.txt"
    assert lines[2] == "Hello from inside!"
    assert lines[3] == "Up and up, and still here: hello.txt secret.txt sh"


def test_the_host_survives_rm(first: dict[str, str]) -> None:
    assert number(r"before: (\d+)", first["rm-etc"]) > 10
    assert "is there an /etc? False" in first["rm-etc"]
    assert number(r"is there an /etc\? True with (\d+)", first["etc-outside"]) > 10
    assert Path("/etc/passwd").exists()


def test_memory_ends_at_the_limit(first: dict[str, str]) -> None:
    assert "64 MiB" in first["oom"]
    assert "136 MiB" not in first["oom"]
    assert "out of memory" in first["oom"].lower()
    assert "outcome: oom · killed by signal 9" in first["oom-outcome"]
    assert 120 <= number(r"peak: (\d+) MiB", first["oom-outcome"]) <= 128


def test_a_quarter_of_a_cpu_is_a_quarter(first: dict[str, str]) -> None:
    assert "I was busy for one second" in first["cpu"]
    assert 0.1 <= number(r"CPU used:\s+([\d.]+) s", first["cpu-outcome"]) <= 0.5
    # On a busy machine it waits for others too, which is not counted here.
    assert number(r"kept from running:\s+([\d.]+) s", first["cpu-outcome"]) > 0


def test_all_locks_together(first: dict[str, str]) -> None:
    text = first["all"]
    assert number(r"pid:\s+(\d+)", text) == 1
    assert "all pids: ['1']" in text
    assert re.search(r"host:\s+container\n", text)
    assert re.search(r"network:\s+\['lo'\]", text)
    assert re.search(r"home:\s+\[\]", text)
    assert number(r"user:\s+0 inside is (\d+) outside", text) >= 65536
