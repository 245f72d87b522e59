"""Cells in other languages: which program runs a cell, and what that program needs to take it from standard input."""

from __future__ import annotations

import shlex

from nbcontainer.errors import SpecError

SCRIPT = "/dev/stdin"
_FROM_STANDARD_INPUT = {
    "Rscript": ("-",),
    "R": ("--no-save", "--no-restore", "--no-echo"),
    "awk": ("-f", SCRIPT),
    "gawk": ("-f", SCRIPT),
    "mawk": ("-f", SCRIPT),
    "make": ("-f", "-"),
}
"""Programs that read no script from standard input unless they are told to."""


def program_of(code: str, program: tuple[str, ...], *, bare: bool = False) -> tuple[str, ...]:
    """The program for a cell: the one that was given, or the one that the cell's first line names after ``#!``; () is Python.

    ``bare``: the root has no /dev. Raises SpecError for a ``#!`` with nothing behind it.
    """
    if len(program) == 1 and code.strip():
        return program + _FROM_STANDARD_INPUT.get(program[0].rpartition("/")[2], ())
    if program or not code.startswith("#!"):
        return program
    line = code.partition("\n")[0].removeprefix("#!").strip()
    try:
        words = tuple(shlex.split(line))
    except ValueError as error:
        raise SpecError(f"#!{line}: {error}") from None
    if not words:
        raise SpecError("#!: names no program; write one, such as: #!/bin/sh")
    # As Linux does it: the program gets the script as a file. What needs -f, such as awk, says so in its own line.
    return words if bare else (*words, SCRIPT)
