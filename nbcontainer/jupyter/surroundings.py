"""What a kernel's program needs of the host besides what every ``system`` root shows."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path

from nbcontainer.runtime.skeleton import is_shown, python_directories

OURS = str(Path(__file__).resolve().parents[1])


def volumes_of_program(program: Sequence[str], resource_directory: str) -> list[str]:
    """Directories and files to be seen read-only, each at its own path: the environment that the program is installed
    in (a venv with its base, a conda environment, or else the program alone), and the kernelspec's own files where its
    command names them."""
    wanted = _environment(program[0]) if os.path.isabs(program[0]) else []
    if os.path.realpath(program[0]) == os.path.realpath(sys.executable):
        wanted.append(OURS)  # where it was installed for those who work on it, that is a directory of their own
    if resource_directory and any(resource_directory in word for word in program):
        wanted.append(resource_directory)
    outermost: list[str] = []
    for path in sorted({path for path in wanted if os.path.exists(path) and not _is_there(path)}):
        if not any(path.startswith(other + "/") for other in outermost):
            outermost.append(path)
    return outermost


def _environment(program: str) -> list[str]:
    prefix = os.path.dirname(os.path.dirname(program))
    try:
        with open(f"{prefix}/pyvenv.cfg", encoding="utf-8") as file:
            lines = [line.partition("=") for line in file]
    except OSError:
        return [prefix] if os.path.isdir(f"{prefix}/conda-meta") else [program]
    home = next((value.strip() for key, _, value in lines if key.strip() == "home"), "")
    return [prefix, *([os.path.dirname(home)] if home else [])]


def _is_there(path: str) -> bool:
    """Every ``system`` root shows it."""
    real = os.path.realpath(path)
    return real == "/" or is_shown(real) or any(real == shown or real.startswith(shown + "/") for shown in python_directories())
