"""IPython in a terminal: one line that is written over itself, and nothing left of it at the end."""

from __future__ import annotations

import os
import pty
import re
import subprocess
import sys
from pathlib import Path

from facilities import require


def test_a_line_of_progress_that_goes_away(tmp_path: Path) -> None:
    require(os.geteuid() == 0, "the local engine needs root: sudo tests/run --lane notebook")
    code = (
        "from IPython.terminal.interactiveshell import TerminalInteractiveShell\n"
        "shell = TerminalInteractiveShell.instance()\nshell.run_line_magic('load_ext', 'nbcontainer')\n"
        "shell.run_cell_magic('container', '--live --mem 64M', 'import time; time.sleep(0.5); print(42)')\n"
    )
    master, terminal = pty.openpty()
    environment = {**os.environ, "IPYTHONDIR": str(tmp_path)}
    process = subprocess.Popen([sys.executable, "-c", code], stdin=terminal, stdout=terminal, stderr=terminal, env=environment)
    os.close(terminal)
    written = b""
    try:
        while piece := os.read(master, 65536):
            written += piece
    except OSError:
        pass  # EIO: the last writer has gone
    os.close(master)
    assert process.wait(60) == 0, written
    text = written.decode()
    assert re.search(r"\rmemory [\d.]+ [KM]iB of 64 MiB · CPU ", text)
    assert re.search(r"\r +\r42\r\n", text), "the line is wiped before the cell prints"
    assert re.search(r"\r +\r[^·]*$", text), "and at the end"


def test_a_question_is_asked_and_answered_on_a_line_of_its_own(tmp_path: Path) -> None:
    require(os.geteuid() == 0, "the local engine needs root: sudo tests/run --lane notebook")
    cell = "import time, getpass; time.sleep(0.4); n = input('name? '); print('hello', n); y = len(getpass.getpass('word? '))"
    code = (
        "from IPython.terminal.interactiveshell import TerminalInteractiveShell\n"
        "shell = TerminalInteractiveShell.instance()\nshell.run_line_magic('load_ext', 'nbcontainer')\n"
        f"shell.run_cell_magic('container', '--live --mem 64M -o y', {cell!r})\nprint('y is', shell.user_ns['y'])\n"
    )
    master, terminal = pty.openpty()
    environment = {**os.environ, "IPYTHONDIR": str(tmp_path)}
    command = [sys.executable, "-c", code]
    process = subprocess.Popen(command, stdin=terminal, stdout=terminal, stderr=terminal, env=environment, start_new_session=True)
    os.close(terminal)
    written = b""
    answers = [(b"name? ", b"Ada\n"), (b"word? ", b"secret\n")]
    try:
        while piece := os.read(master, 65536):
            written += piece
            if answers and answers[0][0] in written:
                os.write(master, answers.pop(0)[1])
    except OSError:
        pass  # EIO: the last writer has gone
    os.close(master)
    assert process.wait(60) == 0, written
    text = written.decode()
    assert re.search(r"\r +\rname\? ", text), "the line of progress is wiped before the question"
    assert "hello Ada\r\n" in text and "y is 6" in text
    assert "secret" not in text


def test_the_last_expression_is_the_result_of_the_cell(tmp_path: Path) -> None:
    require(os.geteuid() == 0, "the local engine needs root: sudo tests/run --lane notebook")
    cells = ("%load_ext nbcontainer", "%%container --quiet\nprint('a')\n6 * 7", "_ + Out[2]", "%container start lab --mem 64M", "%%container --exec lab --quiet\n_ = 1; (1, 'b')")
    code = f"from IPython.terminal.interactiveshell import TerminalInteractiveShell\nfor cell in {cells!r}: TerminalInteractiveShell.instance().run_cell(cell, store_history=True)\n"
    done = subprocess.run([sys.executable, "-c", code], env={**os.environ, "IPYTHONDIR": str(tmp_path)}, capture_output=True, text=True, timeout=120)
    assert re.sub(r"\x1b\[[0-9;]*m", "", done.stdout) == "a\nOut[2]: 42\nOut[3]: 84\nlab\nOut[5]: (1, 'b')\n", done.stderr
