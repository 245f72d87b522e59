"""``%container network`` in a real kernel."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nbclient
import pytest
from facilities import only_as_root
from nbformat import v4


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Any:
    only_as_root("networks of containers")
    directory: Path = tmp_path_factory.mktemp("notebook")
    resources = {"metadata": {"path": str(directory)}}
    client = nbclient.NotebookClient(v4.new_notebook(), timeout=120, kernel_name="python3", allow_errors=True, resources=resources)

    def run(source: str) -> Any:
        cell = v4.new_code_cell(source)
        client.nb.cells.append(cell)
        return client.execute_cell(cell, len(client.nb.cells) - 1)

    with client.setup_kernel():
        assert run("%load_ext nbcontainer").outputs is not None
        yield run


def text_of(cell: Any) -> str:
    return "\n".join(
        output.get("text") or output.get("evalue") or output.get("data", {}).get("text/plain", "") for output in cell.outputs
    )


def test_two_cells_on_one_network(run: Any) -> None:
    made = text_of(run("%container network create lab --subnet 10.78.0.0/24"))
    assert made == "lab: 10.78.0.0/24, gateway 10.78.0.1\n"
    server = """
import threading, nbcontainer
ready = threading.Event()
code = "import socket; s = socket.create_server(('', 80)); print('up', flush=True); c, a = s.accept(); c.sendall(b'hello from web'); c.close()"
thread = threading.Thread(target=lambda: nbcontainer.run(code, net="lab", name="web", engine="local", on_event=lambda event: ready.set() if "up" in str(event) else None))
thread.start()
print(ready.wait(60))
"""
    assert text_of(run(server)) == "True\n"
    drawn = run("%container network inspect lab")
    (output,) = drawn.outputs
    assert "container web" in output.data["image/svg+xml"] and "10.78.0.2/24" in output.data["text/plain"]
    asked = run("%%container --engine local --net lab\nimport socket\nprint(socket.create_connection(('web', 80)).recv(100).decode())")
    assert text_of(asked).startswith("hello from web\n")
    run("thread.join()")
    run("from nbcontainer.notebook.completion import complete")
    for line, found in (("%%container --net ", "none host bridge lab"), ("%%container --net bridge,", "bridge,lab"), ("%container network rm ", "lab"), ("%container network rm lab ", "")):
        assert text_of(run(f"print(*complete({line!r}))")) == found + "\n"
    listed = text_of(run("%container network ls")).splitlines()
    assert listed[0].split()[0] == "NAME" and [line.split()[0] for line in listed[1:]] == ["bridge", "lab"]
    assert text_of(run("%container network ls -q --filter name=la")) == "lab\n"
    assert text_of(run("%container network ls --format '{{.Name}} {{.Subnet}}' -f name=lab")) == "lab 10.78.0.0/24\n"
    assert text_of(run("%container network inspect -f '{{(index .IPAM.Config 0).Gateway}}' lab")) == "10.78.0.1\n"
    assert text_of(run("%container network rm lab")) == "lab\n"


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("network fly", "is not one of create, ls"),
        ("network create", "give one NAME"),
        ("network create a b", "give one NAME"),
        ("network create none", "means something else"),
        ("network create x --subnet", "a value is missing"),
        ("network create x --subnet 8.8.8.0/24", "not a private network"),
        ("network rm", "a NAME is missing"),
        ("network rm bridge", "always there"),
        ("network rm nowhere", "there is no network 'nowhere'"),
        ("network inspect brdige", "did you mean bridge?"),
        ("network inspect nowhere", "there is no network 'nowhere'"),
        ("network ls --all", "there is no option --all"),
    ],
)
def test_refusals_are_one_line(run: Any, line: str, complaint: str) -> None:
    (output,) = run(f"%container {line}").outputs
    said = output.get("evalue", "") or "\n".join(output.get("traceback", ())) or output.get("text", "")
    assert complaint in said and "Traceback" not in said and len(said.strip().splitlines()) == 1
