"""The course's notebooks as files: which there are, how they are executed, what is shown below a cell."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import nbclient
import nbformat

COURSE = Path(__file__).resolve().parents[1] / "notebooks"
LANGUAGES = ("en", "zh")
NAMES = sorted(path.stem for path in (COURSE / "en").glob("*.ipynb"))
CELL_SECONDS = 180
_FENCED = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def read(language: str, name: str) -> Any:
    return nbformat.read(COURSE / language / f"{name}.ipynb", as_version=4)


def execute(notebook: Any, directory: Path) -> None:
    """In a kernel of its own that works in ``directory``. Raises CellExecutionError."""
    resources = {"metadata": {"path": str(directory)}}
    client = nbclient.NotebookClient(notebook, timeout=CELL_SECONDS, kernel_name="python3", resources=resources, record_timing=False)
    client.execute()


def tags(cell: Any) -> list[str]:
    return list(cell.metadata.get("tags", []))


def solutions(notebook: Any) -> dict[str, str]:
    """Id of a solution's cell → the code that it proposes."""
    found = {}
    for cell in notebook.cells:
        if "solution" in tags(cell):
            match = _FENCED.search(cell.source)
            assert match is not None, f"{cell.id} has no ```python block"
            found[cell.id] = match[1]
    return found


def with_solutions(notebook: Any, expectations: Mapping[str, str]) -> Any:
    """The notebook as a good student would have run it: after each check, the solution and the same check, which may
    not fail now; and after a cell with expectations, those, as a cell of their own."""
    proposed = solutions(notebook)
    cells: list[Any] = []
    checks: list[Any] = []
    for cell in notebook.cells:
        cells.append(cell)
        if "check" in tags(cell):
            checks.append(cell)
        if cell.id in proposed:
            cells.append(nbformat.v4.new_code_cell(proposed[cell.id], id=f"{cell.id}-code"))
            cells += [nbformat.v4.new_code_cell(check.source, id=f"{check.id}-again") for check in checks]
            checks = []
        if cell.id in expectations:
            cells.append(nbformat.v4.new_code_cell(expectations[cell.id], id=f"{cell.id}-expected"))
    notebook.cells = cells
    return notebook


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
    return re.sub(r"\x1b\[[0-9;]*m", "", text)
