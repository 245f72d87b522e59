"""How the magic behaves among its kind: completion, help, explanations, configuration, and failures that others see."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import nbclient
import nbformat
import papermill
import pytest
from kernels import VERSIONS, Kernel, kernel
from nbformat import v4


@pytest.fixture(scope="module", params=VERSIONS)
def notebook(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kernel]:
    directory = tmp_path_factory.mktemp("notebook")
    with kernel(request.param, directory) as started:
        started.directory = directory  # type: ignore[attr-defined]
        yield started


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("%%container --cp", "%%container --cpus"),
        ("%%container --unshare pid,u", "%%container --unshare pid,uts"),
        ("%%container --root=sy", "%%container --root=system"),
        ("%%container -i fra", "%%container -i frames"),
        ("%%container -i other,fra", "%%container -i other,frames"),
        ("%%container --mem 64M bas", "%%container --mem 64M bash"),
        ("%container doc", "%container doctor"),
        ("%container exec lab ba", "%container exec lab bash"),
        ("%container kill -s US", "%container kill -s USR1"),
        ("%container volume in", "%container volume inspect"),
        ("%%container --unshare pid,", "%%container --unshare pid,net"),
        ("%%container --cap-drop NET_R", "%%container --cap-drop NET_RAW"),
        ("%%container -v ", "%%container -v ./"),
        ("%container ps --filter status=e", "%container ps --filter status=exited"),
        ("%container ps --format 'table {{.Names}}\\t{{.Stat", "%container ps --format 'table {{.Names}}\\t{{.Status}}"),
    ],
)
def test_tab(notebook: Kernel, code: str, expected: str) -> None:
    notebook.run("frames = 1; other = 2")
    assert expected in notebook.complete(code)


def test_help_is_where_people_look(notebook: Kernel) -> None:
    request = notebook.client.inspect("%%container", 11)
    while True:
        reply = notebook.client.get_shell_msg(timeout=60)
        if reply["parent_header"]["msg_id"] == request:
            break
    text = reply["content"]["data"]["text/plain"]
    assert "--mem, -m, --memory" in text and "{name}" in text
    assert "--mem, -m, --memory" in notebook.run("%%container --help").text


def test_an_explanation_opens_and_closes(notebook: Kernel) -> None:
    bundle = notebook.run("%%container --explain --quiet --mem 64M\npass").data[0]
    assert bundle["text/html"].startswith("<details><summary>") and "pivot_root" in bundle["text/html"]
    assert "pivot_root" in bundle["text/plain"] and "memory" in bundle["text/plain"]
    assert notebook.run("%%container --dry-run\nprint('ran')").data[0]["text/html"].startswith("<details open>")


def test_braces_are_ours_and_dollars_the_shell_s(notebook: Kernel) -> None:
    notebook.run("size = '64M'; word = 'a  b'; i = 'ours'")
    code = "%%container --mem {size} --quiet bash -c 'echo \"{word}\" ${HOME} $0 {not_there}; for i in 1 2; do echo ${i}; done' name\n"
    assert notebook.run(code).text == "a  b /root name {not_there}\n1\n2\n"


def test_the_first_line_chooses_the_language(notebook: Kernel) -> None:
    assert notebook.run("%%container --quiet\n#!/usr/bin/env -S bash -e\necho hello\nfalse\necho not here").text.startswith("hello\n")


def test_configuration_sets_defaults_and_the_line_has_the_last_word(notebook: Kernel) -> None:
    assert notebook.run("%config ContainerMagics.mem = '77M'\n%config ContainerMagics.quiet = True").outputs == []
    code = "import glob; print(open(sorted(glob.glob('/sys/fs/cgroup/**/memory*max', recursive=True) + glob.glob('/sys/fs/cgroup/**/memory.limit_in_bytes', recursive=True))[-1]).read())"
    try:
        assert notebook.run(f"%%container\n{code}").text.strip() == str(77 << 20)
        assert notebook.run(f"%%container --mem 66M\n{code}").text.strip() == str(66 << 20)
    finally:
        notebook.run("%config ContainerMagics.mem = None\n%config ContainerMagics.quiet = None")


def test_a_project_s_file_sets_defaults(notebook: Kernel) -> None:
    path: Path = notebook.directory / "pyproject.toml"  # type: ignore[attr-defined]
    path.write_text('[tool.nbcontainer]\nhostname = "from-the-project"\n')
    try:
        assert notebook.run("%%container --quiet\nimport os; print(os.uname().nodename)").text == "from-the-project\n"
        path.write_text('[tool.nbcontainer]\nhostnam = "x"\n')
        text = notebook.run("%%container\n1").text
        assert text.startswith("UsageError: ") and "pyproject.toml" in text and "did you mean hostname" in text
    finally:
        path.unlink()


FAILING = "%%container\n1 / 0"


def failing(directory: Path) -> Path:
    path = directory / "failing.ipynb"
    nbformat.write(v4.new_notebook(cells=[v4.new_code_cell("%load_ext nbcontainer"), v4.new_code_cell(FAILING), v4.new_code_cell("print('not reached')")]), path)
    return path


def test_nbclient_stops_at_a_failing_cell(tmp_path: Path) -> None:
    book = nbformat.read(failing(tmp_path), 4)
    with pytest.raises(nbclient.exceptions.CellExecutionError, match="ZeroDivisionError"):
        nbclient.NotebookClient(book, timeout=120, kernel_name="python3").execute()


def test_jupyter_execute_fails(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "jupyter", "execute", "--kernel_name=python3", str(failing(tmp_path))]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "PATH": f"{sys.prefix}/bin:{os.environ['PATH']}"})
    assert done.returncode != 0 and "ZeroDivisionError" in done.stderr


def test_papermill_fails(tmp_path: Path) -> None:
    with pytest.raises(papermill.exceptions.PapermillExecutionError, match="division by zero"):
        papermill.execute_notebook(str(failing(tmp_path)), str(tmp_path / "out.ipynb"), kernel_name="python3", progress_bar=False)


def test_saved_notebooks_have_the_results_of_contained_cells(tmp_path: Path) -> None:
    cells = ["%load_ext nbcontainer", "%%container --quiet\nprint('a')\n6 * 7", "_ + 1", "%container start lab", "%%container --exec lab --quiet\nx = [1]\nx", "%%container --exec lab --quiet\n_ + x"]
    nbformat.write(v4.new_notebook(cells=list(map(v4.new_code_cell, cells))), tmp_path / "in.ipynb")
    papermill.execute_notebook(str(tmp_path / "in.ipynb"), str(tmp_path / "out.ipynb"), kernel_name="python3", progress_bar=False)
    saved = nbformat.read(tmp_path / "out.ipynb", 4)
    nbformat.validate(saved)
    results = [(output.execution_count, output.data["text/plain"]) for cell in saved.cells for output in cell.outputs if output.output_type == "execute_result"]
    assert results == [(2, "42"), (3, "43"), (5, "[1]"), (6, "[1, 1]")]
