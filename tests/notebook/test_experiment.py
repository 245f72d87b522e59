"""Experiments in a notebook: a bar while they run, a table and a chart that stay."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nbclient
import pytest
from facilities import require
from nbformat import v4

VIEW = "application/vnd.jupyter.widget-view+json"


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[nbclient.NotebookClient]:
    require(os.geteuid() == 0, "the local engine needs root: sudo tests/run --lane notebook")
    directory = tmp_path_factory.mktemp("notebook")
    client = nbclient.NotebookClient(v4.new_notebook(), timeout=120, kernel_name="python3", resources={"metadata": {"path": str(directory)}})
    with client.setup_kernel():
        run(client, "%load_ext nbcontainer\nimport nbcontainer as nbc")
        yield client


def run(client: nbclient.NotebookClient, source: str) -> list[Any]:
    cell = v4.new_code_cell(source)
    client.nb.cells.append(cell)
    return list(client.execute_cell(cell, len(client.nb.cells) - 1).outputs)


def test_the_bar_becomes_a_line_and_the_table_is_shown(client: nbclient.NotebookClient, tmp_path: Path) -> None:
    bar, table = run(client, "table = nbc.sweep('data = bytearray(40_000_000)', mem=['24M', '96M'])\ntable")
    assert VIEW not in bar["data"], "a saved notebook has no widgets"
    assert bar["data"]["text/plain"].startswith("2 of 2 runs in ")
    assert "<td>24M</td><td>oom</td>" in table["data"]["text/html"]
    assert "96M  exited" in table["data"]["text/plain"]


def test_charts_are_shown_without_pyplot(client: nbclient.NotebookClient) -> None:
    for code in ("table.plot()", "nbc.compare(table)", "table.results[0].plot()"):
        (chart,) = run(client, code)
        assert chart["output_type"] == "execute_result" and chart["data"]["image/png"], code
    (shown,) = run(client, "import sys; print('matplotlib.pyplot' in sys.modules)")
    assert shown["text"] == "False\n"


def test_pyplot_s_own_way_is_left_alone(client: nbclient.NotebookClient) -> None:
    assert run(client, "%unload_ext nbcontainer\n%load_ext nbcontainer") == []
    (chart,) = run(client, "import matplotlib.pyplot as plt\n%matplotlib inline\n_ = plt.plot([1, 2])")
    assert chart["output_type"] == "display_data" and chart["data"]["image/png"]
    (chart,) = run(client, "table.plot()")
    assert chart["data"]["image/png"]
