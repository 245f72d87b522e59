"""Executes the course in a real kernel, as a reader would, and checks that each experiment shows what the text says."""

from __future__ import annotations

import ast
import base64
import os
import platform
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import course
import footprint
import nbformat
import pytest
from course_expectations import EXPECTED
from facilities import full_run, require
from nbclient.exceptions import CellExecutionError

ENGINES = (os.environ["NBCONTAINER_ENGINE"],) if os.environ.get("NBCONTAINER_ENGINE") else ("local", "vm")
LARGEST_BYTES = 400 << 10
ON_THE_VM = ("01-what-is-a-container", "03-namespaces-one-by-one", "14-how-safe-is-it")
"""The essential ones: what each of the locks does, also where the virtual machine is all that there is. ``--full`` has all of them."""
ONLY_AS_ROOT = ("05-cpu", "06-pids-io-network-noisy-neighbours", "10-networks", "11-container-or-virtual-machine")
"""The longest, whose limits, networks and virtual machines have tests of their own as an ordinary user. ``--full`` has them, too."""
PICTURES = {"image/png", "image/svg+xml"}
CHINESE = re.compile("[\u4e00-\u9fff]")
LANGUAGE_OF_CHECKS = ("en", "zh")


@pytest.mark.parametrize("language", course.LANGUAGES)
@pytest.mark.parametrize("name", course.NAMES)
def test_notebooks_are_stored_clean(language: str, name: str) -> None:
    notebook = course.read(language, name)
    nbformat.validate(notebook)
    assert (notebook.nbformat, notebook.nbformat_minor) == (4, 5)
    assert len(notebook.cells) <= 45
    ids = [cell.id for cell in notebook.cells]
    assert len(set(ids)) == len(ids)
    assert set(notebook.metadata) == {"kernelspec", "language_info"}
    assert notebook.metadata.kernelspec.name == "python3"
    for cell in notebook.cells:
        assert set(cell.metadata) <= {"tags"}
    assert (course.COURSE / language / f"{name}.ipynb").stat().st_size <= LARGEST_BYTES


@pytest.mark.parametrize("language", course.LANGUAGES)
@pytest.mark.parametrize("name", course.NAMES)
def test_notebooks_are_saved_with_what_they_show(language: str, name: str) -> None:
    """Every code cell ran, in order; a check that is not solved says so; nothing tells of the machine that it ran on."""
    code = [cell for cell in course.read(language, name).cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    assert any(cell.outputs for cell in code)
    for cell in code:
        errors = [output for output in cell.outputs if output.output_type == "error"]
        if "check" in course.tags(cell):
            assert [error.ename for error in errors] == ["CheckFailed"], cell.id
        else:
            assert errors == [], cell.id
        shown = course.text_of(cell) + "".join(str(output.get("data", "")) for output in cell.outputs)
        for output in cell.outputs:
            assert not any("widget" in kind for kind in output.get("data", {})), f"{cell.id}: a widget is gone when a notebook is saved"
            if "image/png" in output.get("data", {}):
                assert base64.b64decode(output.data["image/png"])[:4] == b"\x89PNG"
                shown = shown.replace(output.data["image/png"], "")
        for special in ("/work/", "/root/", str(Path(sys.prefix).parent), platform.node(), "/nbcontainer-"):
            assert special not in shown or len(special) < 5, f"{cell.id}: {special}"


@pytest.mark.parametrize("language", course.LANGUAGES)
@pytest.mark.parametrize("name", course.NAMES)
def test_each_notebook_shows_a_picture(language: str, name: str) -> None:
    """A chart or a drawing, from the last time that it ran: GitHub and nbviewer show it to who only reads."""
    outputs = [output for cell in course.read(language, name).cells for output in cell.get("outputs", [])]
    assert any(PICTURES & set(output.get("data", {})) for output in outputs)


def test_the_experiments_of_the_api_are_taught() -> None:
    code = "".join(cell.source for name in course.NAMES for cell in course.read("en", name).cells if cell.cell_type == "code")
    for function in ("sweep", "compare", "compare_isolation", "dashboard"):
        assert f"nbc.{function}(" in code


def _strings(code: str) -> tuple[str, list[str]]:
    """Code without comments and without what its strings say, and what they say. Magics' own lines stay as they are."""
    head = ""
    while code.startswith(("%", "#")):
        line, _, code = code.partition("\n")
        head += line + "\n" if line.startswith("%") else ""
    try:
        tree = ast.parse(code)
    except SyntaxError:  # a shell's script
        texts = re.findall(r'"[^"]*"', code)
        return head + re.sub(r"#.*", "", re.sub(r'"[^"]*"', '""', code)), texts
    texts = []

    class Blank(ast.NodeTransformer):
        def visit_Constant(self, node: ast.Constant) -> ast.Constant:
            if isinstance(node.value, str):
                texts.append(node.value)
                node.value = ""
            return node

        def visit_JoinedStr(self, node: ast.JoinedStr) -> ast.JoinedStr:
            texts.append("".join(part.value for part in node.values if isinstance(part, ast.Constant)))
            node.values = [self.visit(part) for part in node.values if not isinstance(part, ast.Constant)]
            return node

    return head + ast.dump(Blank().visit(tree)), texts


@pytest.mark.parametrize("name", course.NAMES)
def test_both_languages_have_the_same_cells(name: str) -> None:
    """Of the code, only comments and strings may differ, and a string only where the Chinese one is in Chinese."""
    english, chinese = (course.read(language, name).cells for language in course.LANGUAGES)
    assert [(cell.cell_type, cell.id, course.tags(cell)) for cell in english] == [(cell.cell_type, cell.id, course.tags(cell)) for cell in chinese]
    for ours, theirs in zip(english, chinese, strict=True):
        if ours.cell_type == "markdown":
            assert CHINESE.search(theirs.source), theirs.id
            assert not CHINESE.search(ours.source), ours.id
            assert ours.source.count("```") == theirs.source.count("```"), ours.id
            continue
        assert not CHINESE.search(ours.source), ours.id
        (code, texts), (translated, translations) = _strings(ours.source), _strings(theirs.source)
        assert code == translated, ours.id
        for text, translation in zip(texts, translations, strict=True):
            assert text == translation or CHINESE.search(translation) or (text, translation) == LANGUAGE_OF_CHECKS, f"{ours.id}: {translation!r}"


@pytest.mark.parametrize("name", course.NAMES)
def test_bold_text_in_chinese_is_bold(name: str) -> None:
    """Markdown does not end bold text where ** stands between punctuation and a letter, and Chinese has no space there."""
    for cell in course.read("zh", name).cells:
        for line in cell.source.splitlines() if cell.cell_type == "markdown" else []:
            parts = line.split("**")
            for bold, after in zip(parts[1:-1:2], parts[2::2], strict=True):
                assert bold[-1] not in "：。；！？，）" or not after or after[0].isspace(), f"{cell.id}: {line}"


def test_both_languages_have_the_same_notebooks() -> None:
    assert sorted(path.stem for path in (course.COURSE / "zh").glob("*.ipynb")) == course.NAMES
    assert set(EXPECTED) == set(course.NAMES)


@pytest.mark.parametrize("name", course.NAMES)
def test_each_notebook_is_a_lesson(name: str) -> None:
    cells = course.read("en", name).cells
    kinds = [tag for cell in cells for tag in course.tags(cell)]
    assert "prediction" in kinds
    assert kinds.count("exercise") >= 2
    assert kinds.count("exercise") == kinds.count("check") == kinds.count("solution")
    assert "Question" in cells[0].source
    assert "Further reading" in cells[-1].source


def test_a_handout_has_no_solutions(tmp_path: Path) -> None:
    """The README's command for teachers."""
    line = next(line for line in (course.COURSE.parent / "README.md").read_text().splitlines() if line.strip().startswith("jupyter nbconvert"))
    name = next(word for word in line.split() if word.endswith(".ipynb"))
    (tmp_path / name).write_bytes((course.COURSE / "en" / name).read_bytes())
    subprocess.run([sys.executable, "-m", *line.split()], cwd=tmp_path, check=True, capture_output=True)
    cells = nbformat.read(tmp_path / f"{line.split()[-1]}.ipynb", as_version=4).cells
    kept = [cell for cell in course.read("en", name.removesuffix(".ipynb")).cells if "solution" not in course.tags(cell)]
    assert [cell.source for cell in cells] == [cell.source for cell in kept]
    assert not any(cell.get("outputs") for cell in cells)


def test_without_the_extension_the_first_cell_says_what_to_install(tmp_path: Path) -> None:
    loads = [next(cell for cell in course.read(language, name).cells if cell.cell_type == "code") for language in course.LANGUAGES for name in course.NAMES]
    gone = """
import sys

class Gone:
    def find_spec(name, path=None, target=None):
        if name == "nbcontainer":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Gone)"""
    cells = [nbformat.v4.new_code_cell(load.source, metadata={"tags": ["raises-exception"]}) for load in loads]
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(gone), *cells])
    course.execute(notebook, tmp_path)
    for cell in notebook.cells[1:]:
        assert "No module named 'nbcontainer'" in course.text_of(cell)
        assert "pip install nbcontainer" in course.text_of(cell)


def _unsolved(notebook: Any) -> list[str]:
    """Ids of checks that did not fail for the exercise as it is given."""
    return [
        cell.id
        for cell in notebook.cells
        if "check" in course.tags(cell) and [output.ename for output in cell.outputs if output.output_type == "error"] != ["CheckFailed"]
    ]


def _chosen(engine: str, language: str, name: str) -> bool:
    if full_run():
        return True
    if language != "en":
        return False
    if engine == "vm":
        return name in ON_THE_VM
    return os.geteuid() == 0 or name not in ONLY_AS_ROOT


RUNS = [
    (engine, language, name) for engine in ENGINES for language in course.LANGUAGES for name in course.NAMES if _chosen(engine, language, name)
]


@pytest.mark.parametrize(("engine", "language", "name"), RUNS)
def test_each_experiment_shows_what_the_text_says(
    engine: str, language: str, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All cells run; each check fails before, and passes after the solution; the expectations hold."""
    require(Path("/bin/busybox").exists(), "the course needs a static shell: apt install busybox-static")
    monkeypatch.setenv("NBCONTAINER_ENGINE", engine)
    tmp_path.chmod(0o755)
    expected = EXPECTED[name]
    notebook = course.read(language, name)
    unknown = set(expected) - {cell.id for cell in notebook.cells}
    assert not unknown
    first = f"nbc_engine = {engine!r}"
    notebook = course.with_solutions(notebook, {**expected, "load": f"{expected.get('load', '')}\n{first}"})
    try:
        course.execute(notebook, tmp_path)
    except CellExecutionError as error:
        pytest.fail(str(error), pytrace=False)
    assert _unsolved(notebook) == []
    assert footprint.processes() == [], "the kernel has ended, and so must everything that it started"
    assert list(tmp_path.iterdir()) == [], "the notebook cleans up"
