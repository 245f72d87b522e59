"""Whole kernels in containers on this host, whose cells have no way to containers but a virtual machine."""

from __future__ import annotations

import os
from collections.abc import Iterator
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest
from jupyter_client.manager import KernelManager, start_new_kernel
from jupyter_client.provisioning import KernelProvisionerFactory
from jupyter_core.utils import ensure_event_loop

import nbcontainer
from nbcontainer.engine import local
from nbcontainer.jupyter.kernelspec import install, read_words

READY_SECONDS = 120
RESTORED = """
import psutil
[process] = [child for child in psutil.Process().children(recursive=True) if "qemu" in child.name()]
print("-incoming" in process.cmdline())
"""
CELL = "%%container --mem 64M --no-live {}\nimport os\nprint('pid', os.getpid(), os.uname().release)"


@pytest.fixture
def prefix(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Where kernelspecs are looked for."""
    entry = EntryPoint("nbcontainer", "nbcontainer.jupyter.provisioner:ContainerProvisioner", KernelProvisionerFactory.GROUP_NAME)
    KernelProvisionerFactory.instance().provisioners["nbcontainer"] = entry
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path / "share" / "jupyter"))
    yield tmp_path
    local.shutdown()
    ensure_event_loop().close()  # jupyter_client's


def run_in_kernel(prefix: Path, words: str, *cells: str) -> list[str]:
    """What each of the cells shows, of a kernel in a container that was installed with ``words``."""
    package = Path(nbcontainer.__file__).parent
    here = f"-v {package}:/opt/here/nbcontainer:ro -e PYTHONPATH=/opt/here"  # it may be installed as a path alone, which no container shows
    install(read_words(f"--name contained {words} {here} --prefix {prefix}".split()))
    manager, client = start_new_kernel(READY_SECONDS, "contained", cwd=str(prefix))
    assert isinstance(manager, KernelManager)
    shown = []
    try:
        for cell in ("%load_ext nbcontainer", *cells):
            texts: list[str] = []
            client.execute_interactive(
                cell, timeout=READY_SECONDS, output_hook=lambda message, texts=texts: texts.append(message["content"].get("text") or message["content"].get("evalue") or "")
            )
            shown.append("".join(texts))
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)
    return shown[1:]


def test_cells_of_a_contained_kernel_take_the_virtual_machine(prefix: Path, cache: Path) -> None:
    """Half of a gigabyte is enough; they go on from the host's snapshot, also where it is read-only."""
    files = {path: path.stat().st_mtime_ns for path in cache.rglob("*")}
    refused, ran, restored = run_in_kernel(prefix, f"--mem 512M -v {cache}:/root/.cache/nbcontainer/vm:ro", CELL.format("--engine local"), CELL.format(""), RESTORED)
    assert restored == "True\n", ran
    assert "this is a container of nbcontainer's already" in refused
    assert "--engine vm" in refused
    why, said = ran.splitlines()[:2]
    assert "This runs in a virtual machine" in why, ran
    assert said.startswith("pid 1 ") and os.uname().release not in said
    assert {path: path.stat().st_mtime_ns for path in cache.rglob("*")} == files
