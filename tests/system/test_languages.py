"""Cells in other languages, by name and by ``#!``."""

from __future__ import annotations

import shutil

import pytest
from facilities import in_guest, require

import nbcontainer as nbc

HELLO = {
    "bash": "echo hello $((6 * 7))",
    "sh": "echo hello $((6 * 7))",
    "perl": 'print "hello ", 6 * 7, "\\n";',
    "node": "console.log('hello', 6 * 7)",
    "Rscript": "cat('hello', 6 * 7, '\\n')",
    "awk": 'BEGIN { print "hello", 6 * 7 }',
    "python3": "print('hello', 6 * 7)",
    "make": "all:\n\t@echo hello 42",
}
MUST_BE_THERE = {"bash", "sh", "perl", "node", "awk", "python3", "Rscript"} - ({"node", "Rscript"} if in_guest() else set())
"""The guest's disk has no room for Node.js and R, each as large as all of Python."""
PACKAGES = {"node": "nodejs", "Rscript": "r-base-core"}


@pytest.mark.parametrize("name", HELLO)
def test_by_name(name: str) -> None:
    path = shutil.which(name)
    if path is None:
        require(name not in MUST_BE_THERE, f"{name}: apt-get install {PACKAGES.get(name, name)}")
        pytest.skip(f"{name} is not installed here")
    result = nbc.run(HELLO[name], program=[name], mem="512M")
    assert result.stdout.split() == ["hello", "42"], result.stderr


@pytest.mark.parametrize(
    "code",
    [
        "#!/bin/sh\necho hello",
        "#!/usr/bin/env perl\nprint 'hello';",
        "#!/usr/bin/env -S bash -e\nfalse || echo hello\nfalse\necho not reached",
        "#!/usr/bin/awk -f\nBEGIN { print \"hello\" }",
        "#!/usr/bin/env python3\nprint('hello')",
    ],
)
def test_by_the_first_line(code: str) -> None:
    assert nbc.run(code, mem="256M").stdout.strip() == "hello"


@pytest.mark.essential
def test_a_program_that_is_not_there_names_the_nearest() -> None:
    with pytest.raises(nbc.SpecError, match=r"PROGRAM: 'bsh' is not in the container; did you mean .*\bbash\b"):
        nbc.run("", program=["bsh"])
    with pytest.raises(nbc.SpecError, match=r"'/bin/bassh' is not in the container; did you mean .*/bin/bash\b"):
        nbc.run("#!/bin/bassh\n")
    with pytest.raises(nbc.SpecError, match="PATH is searched"):
        nbc.run("", program=["qqqqqqqqqqqq"])
