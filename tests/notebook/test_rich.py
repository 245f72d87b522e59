"""Everything that a cell can show in a notebook, from a container, on three versions of ipykernel."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import pytest
from kernels import VERSIONS, Cell, Kernel, kernel


@pytest.fixture(scope="module", params=VERSIONS)
def notebook(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kernel]:
    with kernel(request.param, tmp_path_factory.mktemp("notebook")) as started:
        yield started


def run(notebook: Kernel, code: str, options: str = "--mem 1G --quiet") -> Cell:
    return notebook.run(f"%%container {options}\n{code}")


def test_plots_just_work(notebook: Kernel) -> None:
    cell = run(notebook, "import matplotlib.pyplot as plt\nprint('a'); plt.plot([1, 2]); plt.show(); print('b')\nplt.plot([3]);")
    assert [output.get("text") or sorted(output["data"]) for output in cell.outputs] == ["a\n", ["image/png", "text/plain"], "b\n", ["image/png", "text/plain"]]
    figure = run(notebook, "from matplotlib.figure import Figure\nf = Figure(); f.subplots(); f")
    assert "image/png" in figure.data[0]


def test_displays_keep_their_types_and_their_order(notebook: Kernel) -> None:
    cell = run(
        notebook,
        "import pandas as pd\nfrom IPython.display import HTML, JSON, Latex, SVG, Image, display\n"
        "print('first'); display(HTML('<b>x</b>'), Latex('$x$'), JSON({'a': 1}), SVG('<svg xmlns=\"http://www.w3.org/2000/svg\"/>'))\n"
        "print('last'); pd.DataFrame({'a': [1, 2]})",
    )
    kinds = [output.get("text") or sorted(set(output["data"]) - {"text/plain"}) for output in cell.outputs]
    assert kinds == ["first\n", ["text/html"], ["text/latex"], ["application/json"], ["text/html"], "last\n", ["text/html"]]
    assert "<table" in cell.data[-1]["text/html"]


def test_a_picture_keeps_its_width(notebook: Kernel) -> None:
    png = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
    cell = run(notebook, f"import base64\nfrom IPython.display import Image\nImage(base64.b64decode('{png}'), width=100)")
    assert cell.outputs[0]["metadata"] == {"image/png": {"width": 100}}


def test_magics_shell_lines_and_await(notebook: Kernel) -> None:
    assert run(notebook, "!echo hi\nfiles = !echo a b\nprint(files)").text.split() == ["hi", "['a", "b']"]
    assert "per loop" in run(notebook, "%timeit -n 2 -r 1 1 + 1").text
    assert "Wall time" in run(notebook, "%%time\nprint('in')").text
    assert run(notebook, "import asyncio\nawait asyncio.sleep(0)\n42").text == "42"
    assert "Signature" in run(notebook, "len?").text


def test_single_lines_that_are_ipython_s_before_they_are_python(notebook: Kernel) -> None:
    assert run(notebook, "pwd").text == "'/workspace'"
    assert "os-release" in run(notebook, "ls -d /etc/os-release\n").text
    assert run(notebook, "exit").status == run(notebook, "quit").status == "ok" and run(notebook, "exit").outputs == []
    assert run(notebook, "ls = 5\nls").text == "5" and run(notebook, "len").text.startswith("<function len") and run(notebook, "_ = None; 6").text == "6"
    assert "NameError" in run(notebook, "nosuch").text and "NameError" in run(notebook, "print(1)\npwd").text


def test_bars_and_warnings(notebook: Kernel) -> None:
    bar = run(notebook, "from tqdm.auto import tqdm\nfor i in tqdm(range(3)): pass")
    assert "100%" in bar.text and "3/3" in bar.text and "\r" in bar.text
    assert "UserWarning: careful" in run(notebook, "import warnings\nwarnings.warn('careful')").text
    assert "<progress" in run(notebook, "from IPython.display import ProgressBar\nfor i in ProgressBar(2): pass").data[0]["text/html"]


def test_widgets_say_why_they_are_text(notebook: Kernel) -> None:
    cell = run(notebook, "import ipywidgets as w\nfrom IPython.display import display\ndisplay(w.IntSlider())")
    assert cell.text.startswith("IntSlider(value=0)\n[a widget talks to its kernel while it is shown")


def test_the_bars_of_tqdm_notebook_move_as_text(notebook: Kernel) -> None:
    cell = run(notebook, "from tqdm.notebook import tqdm, trange\nfor i in tqdm(range(3), desc='steps', display=True): pass\nfor i in trange(2): pass")
    assert "steps: 100%|" in cell.text and "3/3 [" in cell.text and "2/2 [" in cell.text and "widget" not in cell.text
    code = "from tqdm.notebook import tqdm\nimport time\nfor i in tqdm(range(3), mininterval=0): time.sleep(0.02)"
    assert all(f"{n}/3 [" in run(notebook, code).text for n in range(4))
    changed = run(notebook, "from tqdm.notebook import tqdm_notebook as t\nbar = t(total=5, ncols='100%', display=False)\nbar.update(2)\nbar.reset(total=9)\nbar.update(9)\nbar.close()")
    assert "9/9 [" in changed.text
    assert "100%|" in run(notebook, "import pandas\nfrom tqdm.notebook import tqdm\ntqdm.pandas()\npandas.Series([1, 2]).progress_apply(lambda x: x).sum()").text
    frame = run(notebook, "from IPython.display import IFrame, Javascript, display\ndisplay(IFrame('https://example.org', 9, 9), Javascript('1'))")
    assert frame.text.count("--trust-output shows it") == 2


def test_update_and_clear(notebook: Kernel) -> None:
    assert run(notebook, "from IPython.display import clear_output\nfor i in range(3):\n    clear_output(wait=True); print(i)").text == "2\n"
    assert run(notebook, "from IPython.display import display\nh = display('a', display_id=True); print('x'); h.update('b')").text == "'b'\nx\n"


def test_tracebacks_are_coloured_and_the_cell_s_own(notebook: Kernel) -> None:
    cell = run(notebook, "def f(x):\n    return 1 / x\nf(0)")
    assert cell.status == "error" and "\x1b[" in "".join(cell.outputs[-1]["traceback"])
    group = run(notebook, "raise ExceptionGroup('several', [ValueError(1), TypeError(2)])")
    assert "TypeError: 2" in group.text
    assert "nbcontainer" not in cell.text + group.text


def test_a_traceback_ends_where_the_cell_called_what_is_ours(notebook: Kernel) -> None:
    for code in ("def f():\n    return input('x')\nf()", "import asyncio\nawait asyncio.sleep(0)\ninput('x')"):
        cell = run(notebook, code)
        assert "input('x')" in cell.text and "nobody can type here" in cell.text and "questions.py" not in cell.text

    def stop_later(content: Any) -> None:
        time.sleep(1.5)  # longer than the second that a cell has after the stop button, which begins with that
        notebook.interrupt()

    stopped = notebook.run("%%container --quiet --mem 64M\ninput('x')", stop_later)
    assert "----> 1 input('x')" in stopped.text and "KeyboardInterrupt" in stopped.text and "questions.py" not in stopped.text
    closed = run(notebook, "import os; os.close(3)\ndisplay(5)")
    assert "----> 2 display(5)" in closed.text and "Bad file descriptor" in closed.text and "channel.py" not in closed.text


def test_a_repr_that_fails_or_never_ends_is_shown_and_the_cell_goes_on(notebook: Kernel) -> None:
    cell = run(notebook, "class R:\n    def __repr__(self): return repr(self)\nfrom IPython.display import display\ndisplay(R()); print('goes on')")
    assert "RecursionError" in cell.text and cell.text.endswith("goes on\n") and cell.status == "ok"
    half = run(notebook, "class R:\n    def _repr_html_(self): 1 / 0\n    def __repr__(self): return 'text'\nR()")
    assert "ZeroDivisionError" in half.text and half.text.endswith("text") and half.status == "ok"


def test_half_a_gigabyte_is_refused_where_it_is_made(notebook: Kernel) -> None:
    cell = run(notebook, "from IPython.display import HTML\nHTML('x' * 500_000_000)")
    assert cell.text == "[text/html of 476 MiB is not shown: a display has at most 32 MiB; write it to a file in a volume (-v)]"
    assert "not shown" in run(notebook, "'x' * 100_000_000").text


def test_the_debugger_asks_its_reader(notebook: Kernel) -> None:
    lines = iter(["p 6 * 7", "c"])
    cell = notebook.run("%%container --quiet\nx = 1\nbreakpoint()\nprint('after')", lambda content: next(lines))
    assert "42" in cell.text and cell.text.endswith("after\n")


def test_the_last_expression_is_the_result_of_the_cell(notebook: Kernel) -> None:
    cell = run(notebook, "print('before')\n6 * 7")
    assert [output["kind"] for output in cell.outputs] == ["stream", "execute_result"]
    number = cell.outputs[1]["execution_count"]
    assert cell.data == [{"text/plain": "42"}]
    assert notebook.run(f"_ + 1, Out[{number}], _{number}").text == "(43, 42, 42)"
    assert run(notebook, "6 * 7;").outputs == [] and run(notebook, "None").outputs == []
    assert run(notebook, "('a', [1.5, {2: None}])").text == notebook.run("_").text == "('a', [1.5, {2: None}])"
    several = run(notebook, "get_ipython().ast_node_interactivity = 'all'\n1\nprint('between')\nawait __import__('asyncio').sleep(0, 2)")
    assert [output["kind"] for output in several.outputs] == ["stream", "execute_result"] and several.data == [{"text/plain": "2"}]


def test_of_other_results_the_notebook_has_what_is_shown(notebook: Kernel) -> None:
    cell = run(notebook, "import pandas as pd\nfrom IPython.display import display\ndisplay('x')\npd.DataFrame({'a': [1, 2]})")
    assert [output["kind"] for output in cell.outputs] == ["display_data", "execute_result"]
    again = notebook.run("_")
    assert again.outputs[0]["kind"] == "execute_result" and again.data == [cell.data[1]] and "<table" in again.data[0]["text/html"]
    assert "bring that out with -o NAME" in notebook.run("_.describe()").text
    hostile = run(notebook, "class H:\n    def _repr_html_(self): return '<script>1</script><b>x</b>'\nH()")
    assert hostile.data[0]["text/html"] == notebook.run("_.data['text/html']; _").data[0]["text/html"]
    assert hostile.data[0]["text/html"].startswith("<b>x</b><div><small>[a script: not shown")


def test_tracebacks_name_the_notebook_s_cell(notebook: Kernel) -> None:
    number = notebook.run("1").outputs[0]["execution_count"]
    assert f"Cell In[{number + 1}], line 2" in run(notebook, "x = 1\nx / 0").text


def test_a_cell_that_ends_by_a_forged_value_has_none(notebook: Kernel) -> None:
    code = "from nbcontainer.runtime.channel import CHANNEL\nCHANNEL.send({'t': 'display', 'kind': 'result'}, {'data text/plain': 'shown', 'value': VALUE})"
    for value in ("'{'", "'[' * 60_000", "'{\"\\\\0\": [\"npy\", 0]}'", "'1' * 5000", "'1' * 10_000_000"):
        assert run(notebook, code.replace("VALUE", value)).text == "shown"
        assert notebook.run("type(_).__name__").text == "'ContainerValue'"


def test_a_styler_s_colours_and_pictures_of_any_kind_are_shown(notebook: Kernel) -> None:
    styler = run(notebook, "import pandas\npandas.DataFrame({'a': [1, 2]}).style.highlight_max(color='red')").data[0]["text/html"]
    assert "background-color: red" in styler and "not shown" not in styler
    picture = run(notebook, "display({'image/webp': 'UklGRg==', 'text/plain': 'picture'}, raw=True)").data[0]
    assert picture == {"image/webp": "UklGRg==", "text/plain": "picture"}


def test_charts_that_a_script_draws_are_named(notebook: Kernel) -> None:
    code = "display({'application/vnd.vegalite.v5+json': {'mark': 'bar'}, 'text/plain': 'Chart()'}, raw=True)"
    assert run(notebook, code).text == "Chart()\n[a Vega-Lite chart: not shown, as that could run or load something in your browser; --trust-output shows it]"
    trusted = notebook.run(f"%%container --trust-output --no-live\n{code}").data[0]
    assert trusted["application/vnd.vegalite.v5+json"] == {"mark": "bar"}
