"""What a Python cell prints without the end of its line: it is shown soon, and a kill does not lose it."""

from __future__ import annotations

from pathlib import Path

import pytest

import nbcontainer as nbc
from nbcontainer.events import Event, Output

PRINT = "import sys, time, os, signal\nprint('step 1', end=' ')\nsys.stderr.write('sure?')\n"
OUT_OF_MEMORY = "data = b'x' * 1_000_000_000"
KILLED = "os.kill(os.getpid(), signal.SIGKILL)"


@pytest.mark.parametrize(
    ("end", "options", "outcome"),
    [
        pytest.param(OUT_OF_MEMORY, {"mem": "64M"}, "oom", marks=pytest.mark.essential),
        (KILLED, {"init": True}, "signalled"),
        ("time.sleep(60)", {"timeout": 0.5}, "timeout"),
        ("os._exit(3)", {}, "exited"),
        ("os.execvp('sleep', ['sleep', '0.3'])", {}, "exited"),
    ],
    ids=["oom", "kill", "timeout", "exit", "exec"],
)
def test_no_end_of_the_process_loses_it(end: str, options: dict[str, object], outcome: str) -> None:
    result = nbc.run(PRINT + end, **options)
    assert (result.outcome, result.stdout, result.stderr) == (outcome, "step 1 ", "sure?")


@pytest.mark.parametrize("init", [False, pytest.param(True, marks=pytest.mark.essential)], ids=["pid 1", "below an init"])
def test_it_is_shown_while_the_cell_runs(tmp_path: Path, init: bool) -> None:
    def on_event(event: Event) -> None:
        if isinstance(event, Output):
            seen.append(event.text)
            (tmp_path / f"seen-{len(seen)}").touch()

    seen: list[str] = []
    code = (
        "import os, time\n"
        "for number in (1, 2, 3):\n"
        "    print('.', end='')\n"
        "    while not os.path.exists(f'/seen/seen-{number}'): time.sleep(0.01)\n"
        "print('done')"
    )
    result = nbc.run(code, volumes=[f"{tmp_path}:/seen"], init=init, timeout=30, on_event=on_event)
    assert (result.outcome, seen) == ("exited", [".", ".", ".", "done\n"])


def test_a_session_shows_it_in_each_cell() -> None:
    with nbc.start() as lab:
        for number in range(3):
            assert lab.run(f"print('cell {number}', end='')").stdout == f"cell {number}"
        assert lab.run(f"import os, signal\nprint('last', end='')\n{KILLED.replace('KILL', 'TERM')}").stdout == "last"


@pytest.mark.parametrize("length", [1, 2045, 2046, 2047, 5000, 20_000])
def test_any_length_comes_once(length: int) -> None:
    code = f"import os\nfor piece in ('a' * {length}, 'b', 'ü' * {length}): print(piece, end='')\nos._exit(0)"
    assert nbc.run(code).stdout == "a" * length + "b" + "ü" * length


def test_processes_do_not_mix_their_lines() -> None:
    code = (
        "import multiprocessing\n"
        "def work(letter):\n    for _ in range(200): print(letter * 40)\n"
        "print('before', end='')\n"
        "processes = [multiprocessing.get_context('fork').Process(target=work, args=(letter,)) for letter in 'ab']\n"
        "for process in processes: process.start()\n"
        "for process in processes: process.join()\n"
        "print('after', end='')"
    )
    result = nbc.run(code)
    assert result.stdout.startswith("before") and result.stdout.endswith("after")
    assert sorted(result.stdout[6:-5].split()) == ["a" * 40] * 200 + ["b" * 40] * 200


def test_a_childs_text_is_its_own() -> None:
    code = (
        "import os\nprint('parent', end='', flush=True)\n"
        "if os.fork() == 0:\n    print('child', end='')\n    os._exit(0)\n"
        "os.wait()\nprint('parent again', end='')\nos._exit(0)"
    )
    assert nbc.run(code).stdout == "parentparent again"


def test_the_streams_are_pythons_otherwise() -> None:
    code = (
        "import io, sys\n"
        "for stream in (sys.stdout, sys.stderr): assert stream.encoding == 'utf-8' and stream.line_buffering and stream.mode == 'w'\n"
        "print(sys.__stdout__ is sys.stdout, sys.stdout.fileno(), sys.stderr.fileno(), isinstance(sys.stdout, io.TextIOWrapper))\n"
        "sys.stdout.buffer.write(b'bytes\\n'); sys.stdout.reconfigure(line_buffering=False)\n"
        "print('\\udcff')\nprint('to', 'the', 'end', file=sys.stdout)\nsys.stdout.close()"
    )
    result = nbc.run(code)
    assert (result.outcome, result.stdout, result.stderr) == ("exited", "True 1 2 True\nbytes\n\\udcff\nto the end\n", "")
