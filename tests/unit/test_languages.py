"""Which program runs a cell."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nbcontainer.errors import SpecError
from nbcontainer.languages import program_of


@pytest.mark.parametrize(
    ("code", "given", "program"),
    [
        ("print(1)", (), ()),
        ("# !sh", (), ()),
        ("\n#!/bin/sh", (), ()),
        ("#!/bin/sh\necho", (), ("/bin/sh", "/dev/stdin")),
        ("#! /usr/bin/env -S perl -w\n", (), ("/usr/bin/env", "-S", "perl", "-w", "/dev/stdin")),
        ("#!/bin/sh\necho", ("bash",), ("bash",)),
        ("print(1)", ("Rscript",), ("Rscript", "-")),
        ("print(1)", ("/usr/bin/Rscript", "file.R"), ("/usr/bin/Rscript", "file.R")),
        ("\n", ("Rscript",), ("Rscript",)),
    ],
)
def test_programs(code: str, given: tuple[str, ...], program: tuple[str, ...]) -> None:
    assert program_of(code, given) == program


@given(st.text().map(lambda text: f"#!{text}"))
def test_any_first_line_is_a_program_or_one_error(code: str) -> None:
    try:
        assert program_of(code, ())
    except SpecError as error:
        assert str(error).startswith("#!")
