"""The magic in a real kernel: what a reader sees below the cell."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import nbclient
import nbformat
import pytest
from facilities import require
from nbformat import v4


def plain(text: str) -> str:
    return re.sub(r"\x1b\[[0-9;]*m", "", text)


def shown(cell: Any) -> str:
    parts = []
    for output in cell.outputs:
        if output.output_type == "stream":
            parts.append(output.text)
        elif output.output_type == "error":
            parts.append("\n".join(output.traceback))
        else:
            parts.append(output.data.get("text/plain", ""))
    return plain("\n".join(parts))


class Notebook:
    """Runs cells in one kernel, one after another."""

    def __init__(self, directory: Path) -> None:
        self.client = nbclient.NotebookClient(
            v4.new_notebook(), timeout=120, kernel_name="python3", allow_errors=True, resources={"metadata": {"path": str(directory)}}
        )

    def run(self, source: str) -> Any:
        cell = v4.new_code_cell(source)
        self.client.nb.cells.append(cell)
        return self.client.execute_cell(cell, len(self.client.nb.cells) - 1)


@pytest.fixture(scope="module")
def notebook(tmp_path_factory: pytest.TempPathFactory) -> Any:
    require(os.geteuid() == 0, "the local engine needs root: sudo tests/run --lane notebook")
    directory = tmp_path_factory.mktemp("notebook")
    (directory / "beside.py").write_text("VALUE = 'a module beside the notebook'\n")
    notebook = Notebook(directory)
    with notebook.client.setup_kernel():
        assert notebook.run("%load_ext nbcontainer").outputs == []
        yield notebook


def test_prints_and_the_last_value(notebook: Notebook) -> None:
    cell = notebook.run("%%container --mem 128M\nimport os, beside\nprint('pid', os.getpid(), beside.VALUE)\n6 * 7")
    assert shown(cell) == "pid 1 a module beside the notebook\n\n42"


def test_out_of_memory_is_one_short_error_and_a_chart(notebook: Notebook) -> None:
    cell = notebook.run("%%container --mem 128M\ndata = bytearray(200_000_000)")
    text = shown(cell)
    assert "Container: oom" in text
    assert "Out of memory: Linux killed the cell's own process when the container reached --mem 128 MiB" in text
    assert "--mem 256M" in text
    assert "Traceback" not in text
    chart = next(output for output in cell.outputs if output.get("data", {}).get("image/png"))
    assert "out of memory" in chart.metadata["image/png"]["alt"]


def test_an_exception_shows_the_cell_s_own_traceback(notebook: Notebook) -> None:
    cell = notebook.run("%%container\nx = 1\nx / 0")
    error = next(output for output in cell.outputs if output.output_type == "error")
    text = plain("\n".join(error.traceback))
    assert "ZeroDivisionError: division by zero" in text
    assert "----> 2 x / 0" in text
    assert "nbcontainer" not in text


def test_no_raise_error(notebook: Notebook) -> None:
    cell = notebook.run("%%container --no-raise-error\n1 / 0")
    assert [output.output_type for output in cell.outputs] == ["stream"]
    assert "ZeroDivisionError" in shown(cell)


def test_program_and_variables(notebook: Notebook) -> None:
    cell = notebook.run("%%container --out o --err e --result r --no-raise-error --quiet bash\necho out; echo err >&2; exit 4")
    assert "out" not in shown(cell).split("exit code")[0]
    assert shown(notebook.run("print(repr(o), repr(e), r.outcome, r.exit_code)")) == "'out\\n' 'err\\n' exited 4\n"


def test_variables_on_the_line(notebook: Notebook) -> None:
    notebook.run("size = '64M'")
    cell = notebook.run("%%container --mem {size} bash -c 'echo $0 {undefined}; cat'\nbody")
    assert shown(cell).split() == ["bash", "{undefined}", "body"]


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("%%container --mem 128Q\n1", "UsageError: --mem: '128Q' is not a size such as 64K"),
        ("%%container --meem 1\n1", "UsageError: --meem: there is no such option; did you mean --mem?"),
        ("%%container --image x\n1", "UsageError: --image: is not available yet"),
        ("%%container no-such-program\n1", "UsageError: PROGRAM: 'no-such-program' is not in the container"),
        ("%%container --privileged\n1", "UsageError: --privileged: there is no such option; --cap-add ALL"),
        ("%container fly", "UsageError: fly: there is no such verb"),
        ("%container --mem 64M ls", "UsageError: --mem: a verb comes first, such as: %container run --mem"),
        ("%%container --mem '\n1", "UsageError: No closing quotation"),
    ],
)
def test_bad_lines_are_one_line(notebook: Notebook, source: str, message: str) -> None:
    text = shown(notebook.run(source)).strip()
    assert text.startswith(message)
    assert "\n" not in text


def test_help_ps_prune_doctor_and_run(notebook: Notebook) -> None:
    assert "--mem, -m, --memory SIZE" in shown(notebook.run("%%container --help\n"))
    assert shown(notebook.run("%container help")) == shown(notebook.run("%container --help"))
    assert shown(notebook.run("%container help ps")) == shown(notebook.run("%container ps --help"))
    assert shown(notebook.run("%container run --rm --network none --pids-limit 9 echo hello")) == "hello\n"
    assert shown(notebook.run("%container ps")).startswith("CONTAINER ID")
    assert "MEM USAGE / LIMIT" in shown(notebook.run("%container stats --no-stream"))
    live = notebook.run("table = %container stats").outputs[0].data
    assert "application/vnd.jupyter.widget-view+json" in live and live["text/plain"].startswith("CONTAINER ID")
    assert "removed" in shown(notebook.run("%container prune"))
    assert shown(notebook.run("%container run --mem 64M echo hello")) == "hello\n"
    doctor = notebook.run("%container doctor").outputs[0]
    assert "<table>" in doctor.data["text/html"]


def test_an_empty_cell(notebook: Notebook) -> None:
    assert notebook.run("%%container --mem 64M").outputs == []


def test_explain_and_dry_run(notebook: Notebook) -> None:
    text = shown(notebook.run("%%container --dry-run --mem 64M\nprint('ran')"))
    assert "pivot_root" in text
    assert "\nran" not in text
    assert shown(notebook.run("%%container --explain\nprint('ran')")).endswith("ran\n")


def test_hostile_displays_are_made_harmless(notebook: Notebook) -> None:
    code = (
        "%%container\nfrom IPython.display import HTML, Javascript, SVG, display\n"
        "display(HTML('<b onclick=\"alert(1)\">bold</b><script>alert(1)</script>'))\ndisplay(Javascript('alert(1)'))\n"
        "display(SVG('<svg xmlns=\"http://www.w3.org/2000/svg\" onload=\"alert(1)\"/>'))"
    )
    html = [output.data.get("text/html", "") for output in notebook.run(code).outputs]
    assert html[0].startswith("<b>bold</b><div><small>[a script: not shown")
    assert "alert" not in "".join(html)
    assert html[2].startswith("<img ")


def test_trusted_output_is_shown_as_it_is(notebook: Notebook) -> None:
    code = "%%container --trust-output\nfrom IPython.display import Javascript, display\ndisplay(Javascript('1 + 1'))"
    assert notebook.run(code).outputs[0].data["application/javascript"] == "1 + 1"


def test_update_display_and_clear_output(notebook: Notebook) -> None:
    code = (
        "%%container\nfrom IPython.display import display, clear_output\nprint('gone'); clear_output()\n"
        "handle = display('first', display_id=True)\nhandle.update('second')"
    )
    assert shown(notebook.run(code)) == "'second'"


def test_the_kernel_s_variables_are_untouched(notebook: Notebook) -> None:
    notebook.run("kept = 1")
    notebook.run("%%container\nkept = 2")
    assert shown(notebook.run("print(kept)")) == "1\n"


def test_interrupting_the_kernel_ends_the_cell(notebook: Notebook) -> None:
    code = "import threading, os, signal\nthreading.Timer(0.5, os.kill, (os.getpid(), signal.SIGINT)).start()"
    notebook.run(code)
    text = shown(notebook.run("%%container\nimport time; time.sleep(60)"))
    assert "interrupted" in text
    assert shown(notebook.run("print('alive')")) == "alive\n"


def test_load_ext_is_light() -> None:
    code = (
        "import sys\nfrom IPython.core.interactiveshell import InteractiveShell\nshell = InteractiveShell.instance()\n"
        "before = set(sys.modules)\nshell.run_line_magic('load_ext', 'nbcontainer')\nnew = set(sys.modules) - before\n"
        "print(sorted(m for m in new if m.split('.')[0] in ('matplotlib', 'pyroute2', 'ipywidgets', 'numpy', 'pandas', 'psutil', 'nh3')))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip().splitlines()[-1] == "[]"


def test_saved_outputs_are_valid(notebook: Notebook) -> None:
    nbformat.validate(notebook.client.nb)
