"""The out-of-memory card says what is known, and nothing else."""

from __future__ import annotations

import pytest

from nbcontainer.cgroups.sampler import SampleSeries
from nbcontainer.events import CellError, Usage
from nbcontainer.lines import nothing_follows, quote_line
from nbcontainer.notebook.card import Peaks, card, rows
from nbcontainer.notebook.figure import title
from nbcontainer.result import Result
from nbcontainer.spec import ContainerSpec, Limits

MIB = 1 << 20


def result(outcome: str = "oom", signal: int | None = 9, peak_mib: int = 64, **more: object) -> Result:
    usage = Usage(memory_peak_bytes=peak_mib * MIB, oom_kills=1 if outcome == "oom" else 0)
    code = None if signal else 0 if outcome == "exited" else 1
    spec = ContainerSpec(limits=Limits(memory_bytes=64 * MIB))
    return Result(outcome, code, signal, more.pop("error", None), [], usage, SampleSeries(), spec, **more)  # type: ignore[arg-type]


def test_only_what_is_known() -> None:
    assert dict(rows(result())) == {
        "limit": "--mem 64 MiB", "peak": "64 MiB", "killed": "the cell's own process", "processes killed": "1",
    }  # fmt: skip


def test_all_that_can_be_known() -> None:
    traceback = ("\x1b[31m----> 3\x1b[0m subprocess.run(['x'], check=True)", "CalledProcessError")
    known = result(signal=None, error=CellError("CalledProcessError", "", traceback), killed=("x (pid 7)",), memory_by_kind={"anon": 60 * MIB, "shmem": 0})
    found = dict(rows(known, 100 * MIB))
    assert found["killed"] == "x (pid 7): a process that the cell had started"
    assert found["line of the cell"] == "3: subprocess.run(['x'], check=True)"
    assert found["made of"] == "60 MiB variables and other anonymous memory"
    assert found["would suffice"].startswith("--mem 112M: ")


def test_the_line_that_ran_is_quoted_where_it_is_known() -> None:
    line = "3: data = bytearray(200_000_000)"
    certain, seen = result(line=line, line_is_certain=True), result(line=line)
    assert dict(rows(certain))["line of the cell"] == dict(rows(seen))["last seen at line"] == line
    assert "line of the cell" not in dict(rows(seen))
    assert f"last seen at line  {line}" in card(seen)["text/plain"]
    assert f"It was at line {line}." in certain.describe()
    assert f"It was last seen at line {line}." in seen.describe() and "It was at" not in seen.describe()
    assert "line" not in result().describe()


def test_a_limit_around_the_container_is_told_apart() -> None:
    """On a server with less memory than the cell's limit, Linux kills the container for the server's."""
    killed = result(peak_mib=20)
    assert dict(rows(killed))["reached"] == "a limit around the notebook, or the machine's memory"
    assert "not for --mem 64 MiB, of which the container had used 20 MiB: a limit around the notebook" in killed.describe()
    assert "Try --mem" not in killed.describe()
    assert title(killed).startswith("killed: out of memory at 20 MiB")
    assert title(result()).startswith("killed: out of memory at 64 MiB")


@pytest.mark.parametrize(
    ("number", "line"),
    [(1, "1: a = 1"), (2, "2: b = '  '"), (3, "3: c"), (4, "4: " + "d" * 100 + "…"), (0, ""), (5, ""), (-1, ""), (10**7, ""), (None, "")],
)
def test_a_line_number_is_looked_up_in_the_code_that_was_sent(number: int | None, line: str) -> None:
    assert quote_line("a = 1\r\n  b = '\x0c\x1b'\rc\n" + "d" * 200, number) == line


def test_names_from_the_container_are_text() -> None:
    markup = card(result(killed=("<script>alert(1)</script> (pid 7)",)))["text/html"]
    assert "<script>" not in markup and "&lt;script&gt;" in markup


def test_peaks_of_runs_that_ended_well_are_remembered() -> None:
    peaks = Peaks()
    peaks.note("code", (), result())
    assert peaks.of("code", ()) is None
    peaks.note("code", (), result("exited", None))
    assert peaks.of("code", ()) == 64 * MIB
    assert peaks.of("code", ("bash",)) is None


@pytest.mark.parametrize(
    ("code", "number", "certain"),
    [
        ("import time\n\ndata = bytearray(9)", 3, True),
        ("data = bytearray(9)\nprint()", 1, False),
        ("data = bytearray(9)\nprint()", 2, True),
        ("kept = []\nwhile True:\n    kept.append(bytearray(9))", 3, True),
        ("kept = []\nwhile True:\n    kept.append(bytearray(9))\n    time.sleep(1)", 4, False),
        ("kept = []\nwhile True: kept.append(bytearray(9)); time.sleep(1)", 2, True),
        ("for i in range(9):\n    kept.append(i)", 2, False),
        ("while more():\n    kept.append(1)", 2, False),
        ("data = [\n    bytearray(9),\n]", 2, False),
        ("def grow():\n    return bytearray(9)\ngrow()", 3, False),
        ("grow = lambda: bytearray(9)\ngrow()", 2, False),
        ("with open('x') as file:\n    data = file.read()", 2, False),
        ("!true\ndata = bytearray(9)", 2, False),
        ("\0", 1, False),
        ("", 1, False),
        ("x = 1", None, False),
    ],
)
def test_a_line_is_certain_only_where_no_other_can_follow(code: str, number: int | None, certain: bool) -> None:
    assert nothing_follows(code, number) is certain
