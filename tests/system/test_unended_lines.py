"""What a Python cell prints without the end of its line: it is shown soon, and a kill does not lose it."""

from __future__ import annotations

import os
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


MAIN, OTHER = "print('busy', end='')\n", "import threading\nthreading.Thread(target=lambda: print('busy', end='')).start()\n"


@pytest.mark.parametrize("prints", [MAIN, pytest.param(OTHER, marks=pytest.mark.essential)], ids=["main", "another thread"])
def test_it_is_shown_while_the_main_thread_is_in_c(tmp_path: Path, prints: str) -> None:
    """C that does not look at Python's signals: it returns when the text has been shown."""

    def on_event(event: Event) -> None:
        if isinstance(event, Output):
            seen.append(event.text)
            if event.text == "busy":
                (tmp_path / "go").write_bytes(b"x")

    seen: list[str] = []
    os.mkfifo(tmp_path / "go")
    code = f"import ctypes, os\nfd = os.open('/seen/go', os.O_RDWR)\n{prints}ctypes.CDLL(None).read(fd, ctypes.create_string_buffer(1), 1)\nprint(' done')"
    result = nbc.run(code, volumes=[f"{tmp_path}:/seen"], timeout=30, on_event=on_event)
    assert (result.outcome, seen, result.stdout) == ("exited", ["busy", " done\n"], "busy done\n")


def test_what_was_shown_is_left_out_of_the_pipe_and_nothing_else() -> None:
    code = (
        "import os, subprocess, sys, time\n"
        "def child(text): subprocess.run(['sh', '-c', f'sleep 0.3; echo {text}'])\n"
        "print('0', end=''); child('1.0')\n"
        "print('x', end=''); time.sleep(0.3); print('y', end=''); time.sleep(0.3); print()\n"
        "print('.', end=''); time.sleep(0.3); print('.'); print('.', end=''); print('.' * 3000, end=''); time.sleep(0.3)\n"
        "sys.stderr.write('ü'); time.sleep(0.3); sys.stderr.write('ü'); time.sleep(0.3)\n"
        "os.execvp('sh', ['sh', '-c', 'printf ..ü; printf ü >&2'])"
    )
    result = nbc.run(code)
    assert (result.stdout, result.stderr) == ("01.0\nxy\n..\n" + "." * 3001 + "..ü", "üüü")


def test_what_goes_elsewhere_after_it_was_shown_is_not_looked_for_for_ever() -> None:
    code = (
        "import os, sys, time\nprint('.', end=''); time.sleep(0.3)\n"
        "kept = os.dup(1); os.dup2(2, 1); sys.stdout.flush(); os.dup2(kept, 1)\n"
        "print('a'); time.sleep(1.3); print('b'); print('c.'); time.sleep(0.2); print('d', end=''); time.sleep(0.3)"
    )
    result = nbc.run(code)
    assert (result.stdout, result.stderr) == (".a\nb\nc.\nd", ".")


@pytest.mark.parametrize("session", [False, True])
def test_what_c_prints_is_shown_by_lines(session: bool) -> None:
    code = "import ctypes, time\nc = ctypes.CDLL(None)\nc.printf(b'one\\n'); time.sleep(0.2); print('two'); c.printf(b'three')"
    if session:
        with nbc.start() as lab:
            assert lab.run(code).stdout == "one\ntwo\nthree"
    else:
        assert nbc.run(code).stdout == "one\ntwo\nthree"
    assert nbc.run(f"{code}; import os; c.printf(b' lines\\n'); os._exit(0)").stdout == "one\ntwo\nthree lines\n"


def test_threads_lose_and_repeat_nothing() -> None:
    code = (
        "import threading, time\n"
        "def work(letter):\n    for _ in range(300):\n        print(letter, end=''); time.sleep(0.001)\n        if _ % 50 == 0: print()\n"
        "threads = [threading.Thread(target=work, args=(letter,)) for letter in 'abcd']\n"
        "for thread in threads: thread.start()\n"
        "for thread in threads: thread.join()"
    )
    text = nbc.run(code).stdout
    assert {letter: text.count(letter) for letter in "abcd\n"} == {"a": 300, "b": 300, "c": 300, "d": 300, "\n": 24}


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


def test_what_was_written_through_is_not_written_twice() -> None:
    assert nbc.run("import os, sys\nsys.stdout.reconfigure(write_through=True)\nprint('x', end='')\nos._exit(0)").stdout == "x"
    refused = "import sys\nfor wrong in (b'x', 5):\n    try: sys.stdout.write(wrong)\n    except TypeError as error: print(error)\n"
    assert nbc.run(refused).stdout == "write() argument must be str, not bytes\nwrite() argument must be str, not int\n"
    closed = nbc.run("import sys\nsys.stdout.close()\ntry: sys.stdout.write('x')\nexcept ValueError as error: print(error, file=sys.stderr)")
    assert (closed.stdout, closed.stderr) == ("", "I/O operation on closed file.\n")
