"""The line that a cell was at when it was killed for memory: known where it can be, and never believed further than a number."""

from __future__ import annotations

import pytest

import nbcontainer as nbc

GROWS, RESTS = "kept.append(bytearray(4 << 20))", "time.sleep(0.02)"
SLOW = f"import time\nkept = []\nwhile True:\n    {GROWS}\n    {RESTS}"


@pytest.mark.essential
@pytest.mark.parametrize("init", [False, True])
def test_the_line_of_a_kill_is_known(init: bool) -> None:
    for _ in range(3):  # who writes 128 MiB in 50 ms is asked in time where there is CPU time to ask
        result = nbc.run("import time\ntime.sleep(0.1)\n\ndata = bytearray(300 << 20)", mem="128M", init=init)
        assert result.outcome == "oom"
        if result.line:
            break
    assert result.line == "4: data = bytearray(300 << 20)"
    assert "It was at line 4: data = bytearray(300 << 20)." in result.describe() and result.line_is_certain


def test_a_loop_is_seen_at_a_line_and_may_have_gone_on() -> None:
    """It is killed where its memory grows, and asked when that has grown: while it rests."""
    result = nbc.run(SLOW, mem="64M")
    assert result.outcome == "oom" and result.line in (f"4: {GROWS}", f"5: {RESTS}")
    assert not result.line_is_certain and f"It was last seen at line {result.line}." in result.describe()


def test_in_a_function_of_the_cell_and_with_ipython_s_own_syntax() -> None:
    code = f"!true\ndef grow():\n    {SLOW.replace(chr(10), chr(10) + '    ')}\n\ngrow()"
    result = nbc.run(code, mem="96M")
    assert result.outcome == "oom"
    assert result.line in (f"6: {GROWS}", f"7: {RESTS}") and not result.line_is_certain


@pytest.mark.parametrize(
    "before",
    [
        "import os; os.close(4)",
        "import os; os.close(4); assert os.open('/tmp/mine', os.O_CREAT | os.O_RDWR) == 4",
        "import faulthandler, signal; faulthandler.unregister(signal.SIGRTMAX - 2)",
        "import os; os.ftruncate(4, 1 << 40)",
    ],
)
@pytest.mark.parametrize("init", [False, True])
def test_a_cell_that_does_away_with_it_is_killed_without_a_line_and_keeps_its_files(before: str, init: bool) -> None:
    result = nbc.run(f"{before}\n{SLOW}", mem="96M", init=init)
    assert result.outcome == "oom"
    assert result.line in ("", f"5: {GROWS}", f"6: {RESTS}")
    kept = nbc.run("import os; os.close(4); fd = os.open('/tmp/mine', os.O_CREAT | os.O_RDWR)\nx = bytearray(80 << 20); print(fd, os.fstat(fd).st_size)", mem="128M", init=init)
    assert kept.stdout == "4 0\n", kept.describe()


def test_a_cell_can_forge_a_number_and_nothing_else() -> None:
    forged = "import os, signal\nsignal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGRTMAX - 2])\ntext = b'  File \"<ipython-input-1-0123456789ab>\", line {} in <script>\\n' * 100\nlimit = 2\n"
    forged += "import threading\ndef lie():\n    while True: os.pwrite(4, text, 0); os.pwrite(4, text, 8192)\nthreading.Thread(target=lie, daemon=True).start()\n"
    for number, line in (("2", "2: signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGRTMAX - 2])"), ("99", ""), ("99999999999", ""), ("-3", "")):
        result = nbc.run(forged.replace("{}", number) + SLOW, mem="96M")
        assert (result.outcome, result.line) == ("oom", line)


def test_in_a_session_it_is_the_line_of_the_last_cell() -> None:
    for last, line in (
        ("x = 1\nkept = []\nimport time\nwhile True: grow(kept)", "4: while True: grow(kept)"),
        ("!true\nkept = []\nimport time\nwhile True: grow(kept)", ""),
    ):
        with nbc.start(mem="96M") as session:
            assert session.run("import time\ndef grow(kept):\n    kept.append(bytearray(4 << 20)); time.sleep(0.02)").ok
            result = session.run(last)
        assert (result.outcome, result.line, result.line_is_certain) == ("oom", line, bool(line))


def test_a_container_in_the_background_has_its_line() -> None:
    result = nbc.start(SLOW, mem="96M").wait()
    assert result is not None and result.outcome == "oom" and result.line in (f"4: {GROWS}", f"5: {RESTS}")


def test_a_program_has_no_line() -> None:
    assert nbc.run("head -c 300M /dev/zero | tail", program=["bash", "-e", "-o", "pipefail"], mem="64M").line == ""


def test_nothing_is_asked_of_a_cell_that_stays_below_half() -> None:
    """The signal that asks would end this sleep early: the C library's own, which does not go on after it."""
    code = (
        "import ctypes, time\nbegan = time.monotonic()\ndata = bytearray(40 << 20)\nleft = ctypes.CDLL(None).sleep(1)\nprint(left)"
    )
    assert nbc.run(code, mem="128M").stdout == "0\n"
