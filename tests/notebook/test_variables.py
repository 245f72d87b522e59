"""Variables and questions in real kernels, on three versions of ipykernel."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest
from kernels import VERSIONS, Kernel, kernel


@pytest.fixture(scope="module", params=VERSIONS)
def notebook(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kernel]:
    with kernel(request.param, tmp_path_factory.mktemp("notebook")) as started:
        yield started


def test_in_and_out_as_rpy2_does(notebook: Kernel) -> None:
    notebook.run("import numpy as np, pandas as pd\nx = [1, 2, 3]; df = pd.DataFrame({'a': x})")
    cell = notebook.run("%%container -i x,df -o total -o twice --mem 512M --quiet\ntotal = sum(x); twice = df * 2; x.append(4)\nprint(len(x))")
    assert cell.text == "4\n"
    assert notebook.run("print(total, list(twice.a), x)").text == "6 [2, 4, 6] [1, 2, 3]\n"


def test_the_playground_cell(notebook: Kernel) -> None:
    notebook.run("import threading, math, os.path as where\nlock = threading.Lock(); kept = 1; secret_of_ipython = In\ndef area(r): return math.pi * r * r")
    cell = notebook.run("%%container -i '*' -o result\nkept = 2; result = area(kept); print(where.basename('/a/b'), 'lock' in globals())")
    assert "these stay here, as they cannot be copied: lock (_thread.lock)" in cell.text
    assert "b False" in cell.text
    assert notebook.run("print(kept, round(result, 2))").text == "1 12.57\n"


def test_names_that_are_not_there(notebook: Kernel) -> None:
    notebook.run("frame = 1")
    cell = notebook.run("%%container -i frme\n1")
    assert cell.text == "UsageError: -i: there is no variable 'frme'; did you mean frame?\n" and cell.status == "error"
    missing = notebook.run("%%container -o nothing\n1;")
    assert "VariableError: -o nothing: the cell has no variable of that name" in missing.text and missing.status == "error"
    bad = notebook.run("%%container -o model\nclass Model: pass\nmodel = Model()")
    assert "-o model: a __main__.Model cannot come out of a container" in bad.text and "DataFrames" in bad.text


def test_a_program_gets_its_environment(notebook: Kernel) -> None:
    notebook.run("greeting = 'hello  you'")
    assert notebook.run('%%container -i greeting --quiet bash\necho "$greeting"').text == "hello  you\n"


def test_input_and_getpass(notebook: Kernel) -> None:
    questions = []

    def typed(content: dict[str, object]) -> str:
        questions.append((content["prompt"], content["password"]))
        return f"answer {len(questions)}"

    cell = notebook.run("%%container\nprint('first')\nname = input('name? ')\nimport getpass\nprint(name, getpass.getpass('word? '))", typed)
    assert cell.text == "first\nanswer 1 answer 2\n"
    assert questions == [("name? ", False), ("word? ", True)]


def test_a_front_end_without_input(notebook: Kernel) -> None:
    cell = notebook.run("%%container\ninput('name? ')")
    assert "StdinNotImplementedError: input() was called, but nobody can type here: this front end allows no input" in cell.text
    assert notebook.run("%%container\nprint('alive')").text == "alive\n"


def test_the_stop_button_while_a_cell_waits_for_input(notebook: Kernel) -> None:
    def nobody(content: object) -> None:
        threading.Timer(0.3, notebook.interrupt).start()

    cell = notebook.run("%%container\ninput('name? ')", nobody)
    assert "Container: interrupted" in cell.text or "KeyboardInterrupt" in cell.text
    assert notebook.run("print('alive')").text == "alive\n"


def test_a_timeout_while_a_cell_waits_for_input(notebook: Kernel) -> None:
    cell = notebook.run("%%container --timeout 0.5\ninput('name? ')", lambda content: None)
    assert "Container: timeout" in cell.text
    assert notebook.run("print('alive')").text == "alive\n"
