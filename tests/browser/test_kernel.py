"""A whole kernel in a container, in JupyterLab: it runs, and when Linux kills it the reader is told why."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any

import nbformat
import pytest
from servers import Lab

from nbcontainer.jupyter.kernelspec import install, read_words, remove

NAME = "contained.ipynb"
CELLS = (
    "import os, socket; print('pid', os.getpid(), socket.if_nameindex())",
    "data = []\nimport time\nprint('growing', flush=True)\nwhile True: data.append(bytearray(8 << 20)); time.sleep(0.02)",
    "print('after', 6 * 7, 'data' in globals())",
)


@pytest.fixture
def contained(lab: Lab) -> Iterator[str]:
    """A kernelspec of Jupyter's own environment, for the length of a test."""
    install(read_words("--name small --mem 160M --cpus 1 --display-name Small".split()))
    yield "small"
    lab.end_sessions()
    remove("small")


def test_a_kernel_that_linux_killed_says_why(page: Any, lab: Lab, contained: str, keep: Callable[[str], None]) -> None:
    path = lab.write(NAME, *CELLS)
    notebook = nbformat.read(path, as_version=4)
    notebook.metadata["kernelspec"] = {"name": contained, "display_name": "Small", "language": "python"}
    nbformat.write(notebook, path)
    page.goto(lab.url(f"doc/tree/{NAME}"))
    page.get_by_text(re.compile(r"\| Idle$")).wait_for()
    cells = page.locator(".jp-CodeCell")

    def run(index: int) -> None:
        cells.nth(index).locator(".cm-content").click()
        page.keyboard.press("Shift+Enter")

    run(0)
    cells.nth(0).locator(".jp-OutputArea-output", has_text="pid 1 [(1, 'lo')]").wait_for()
    run(1)
    told = cells.nth(1).locator(".jp-OutputArea-output", has_text="OutOfMemory")
    told.wait_for()
    text = told.inner_text()
    assert "Linux killed this kernel when its container reached --mem 160 MiB" in text
    assert "nbcontainer kernel install --kernelspec python3 --name NAME --mem 320M" in text
    # JupyterLab starts it anew, in the next container.
    page.locator(".jp-Dialog button", has_text="Ok").click()
    keep("kernel-out-of-memory")
    page.get_by_text(re.compile(r"\| Idle$")).wait_for()
    run(2)
    cells.nth(2).locator(".jp-OutputArea-output", has_text="after 42 False").wait_for()
    assert "OutOfMemory" in cells.nth(1).inner_text(), "what was said stays"
