"""Variables into and out of real containers, and lines that a cell asks for."""

from __future__ import annotations

import os
import threading
import time

import pytest

import nbcontainer as nbc
from nbcontainer.events import InputRequest


@pytest.mark.essential
def test_in_and_out() -> None:
    code = "print(x, raw); y = x + 1; z = (1, {2: 3}, {4}, b'q'); text = 'abc'"
    result = nbc.run(code, input={"x": 41, "raw": b"abc"}, output=["y", "z", "text"])
    assert result.ok and result.stdout == "41 b'abc'\n"
    assert result.values == {"y": 42, "z": (1, {2: 3}, {4}, b"q"), "text": "abc"}


@pytest.mark.parametrize("size", [100, 3_000_000], ids=["small", "large"])
def test_arrays_are_copies_that_the_cell_may_change(size: int) -> None:
    import numpy as np

    array = np.arange(size, dtype=np.float64)
    result = nbc.run("a[0] = -1; b = a * 2; mean = a.mean()", mem="512M", input={"a": array}, output="a,b,mean")
    assert result.ok, result.describe()
    assert array[0] == 0 and result.values["a"][0] == -1
    assert (result.values["b"] == result.values["a"] * 2).all()
    assert type(result.values["mean"]) is np.float64
    result.values["b"][0] = 5  # theirs to change, too


def test_what_goes_in_is_not_charged_to_the_container_until_it_is_changed() -> None:
    import numpy as np

    array = np.ones(25_000_000)
    result = nbc.run("print(a[::512].sum())", mem="128M", input={"a": array})
    assert result.ok, result.describe()
    assert result.usage.memory_peak_bytes < 128 << 20 < array.nbytes
    assert nbc.run("a += 1", mem="128M", input={"a": array}).outcome == "oom"


def test_what_comes_out_is_not_charged_to_the_container() -> None:
    result = nbc.run("import numpy as np; a = np.ones(15_000_000)", mem="200M", output=["a"])
    assert result.ok, result.describe()
    assert result.values["a"].sum() == 15_000_000


def test_tables() -> None:
    import pandas as pd

    frame = pd.DataFrame({"n": [1, 2, 3], "text": ["a", "b", None]})
    result = nbc.run("big = df[df.n > 1]; s = df.n * 2", mem="512M", input={"df": frame}, output=["big", "s"])
    assert result.ok, result.describe()
    pd.testing.assert_frame_equal(result.values["big"], frame[frame.n > 1])
    pd.testing.assert_series_equal(result.values["s"], frame.n * 2)


def test_functions_and_objects_go_in() -> None:
    offset = 5
    result = nbc.run("y = f(2)", input={"f": lambda value: value + offset}, output=["y"])
    assert result.values == {"y": 7}


def test_what_cannot_come_out_is_an_error_that_says_so() -> None:
    result = nbc.run("x = 1; f = open", output=["x", "f", "nope"])
    assert result.values == {"x": 1} and not result.ok and set(result.missing) == {"f", "nope"}
    assert result.error is not None and result.error.ename == "VariableError"
    first, second = result.error.evalue.splitlines()
    assert first.startswith("-o f: a builtin_function_or_method cannot come out") or first.startswith("-o f: a function cannot come out")
    assert "NumPy arrays" in first
    assert second == "-o nope: the cell has no variable of that name"


def test_a_failing_cell_gives_what_there_is_and_its_own_error() -> None:
    result = nbc.run("x = 1\n1 / 0\ny = 2", output=["x", "y"])
    assert result.values == {"x": 1}
    assert result.error is not None and result.error.ename == "ZeroDivisionError"


@pytest.mark.essential
def test_more_than_the_container_may_have_does_not_come_out() -> None:
    code = "import numpy as np; big = np.zeros(5 << 30, dtype=np.uint8)"
    result = nbc.run(code, mem="256M", output=["big"])
    assert result.error is not None
    assert result.error.evalue.startswith("-o big: 5 GiB cannot come out: --mem 256 MiB")


@pytest.mark.parametrize(
    "code",
    ["np.broadcast_to(np.uint8(1), (5 << 30,))", "np.zeros(10 << 30, dtype=np.uint8)[::2]", "['x' * (512 << 20)] * 10", "np.lib.stride_tricks.as_strided(np.uint8([1]), (5 << 30,), (0,))"],
)
def test_what_is_large_only_once_it_is_copied_is_refused_before_that(code: str) -> None:
    with nbc.start(mem="768M") as lab:
        result = lab.run(f"import numpy as np; big = {code}", output=["big"])
        assert result.error is not None and result.goes_on
        assert result.error.evalue == "-o big: 5 GiB cannot come out: --mem 768 MiB is the most that can come out of this container; give it --mem 6G, or bring out a smaller part"


def test_views_and_texts_come_out_without_a_copy_of_them() -> None:
    code = "import numpy as np\na = np.arange(20 << 20)[::-1]\nb = np.broadcast_to(np.int8(3), (50 << 20,))\nc = 'ä' * (30 << 20)"
    result = nbc.run(code, mem="288M", output=["a", "b", "c"])
    assert result.ok, result.describe()
    assert result.values["a"][0] == (20 << 20) - 1 and result.values["b"].sum() == 150 << 20 and result.values["c"] == "ä" * (30 << 20)


def test_a_cell_that_ends_before_it_has_sent() -> None:
    result = nbc.run("import os; x = 1; os._exit(0)", output=["x"])
    assert not result.ok and "-o x: did not come back" in result.describe()
    killed = nbc.run("import os, signal; x = bytearray(1 << 30)", mem="64M", output=["x"])
    assert killed.outcome == "oom" and killed.values == {}


HOSTILE = """
import os, json, struct, socket
from nbcontainer.runtime.channel import CHANNEL
"""


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("CHANNEL.ask({'t': 'values', 'size': 100}); CHANNEL.tell({'t': 'filled'}); os._exit(0)", "no variables are in there"),
        ("_, fd = CHANNEL.ask({'t': 'values', 'size': 100}); CHANNEL.tell({'t': 'filled'}); os.ftruncate(fd, 0)", "no variables|nothing was written|in there"),
        ("CHANNEL.ask({'t': 'values', 'size': 8 << 20}); os._exit(0)", "before it had sent it"),
        ("_, fd = CHANNEL.ask({'t': 'values', 'size': 8 << 20}); os.ftruncate(fd, 10); CHANNEL.tell({'t': 'filled'}); os._exit(0)", "nothing was written"),
        ("CHANNEL.tell({'t': 'filled'}); os._exit(0)", "before it had sent it"),
        (
            "b = b'nbcvars1' + struct.pack('<Q', 20) + b'{' * 20\n_, fd = CHANNEL.ask({'t': 'values', 'size': 36})\n"
            "os.pwrite(fd, b, 0); CHANNEL.tell({'t': 'filled'}); os._exit(0)",
            "not JSON",
        ),
    ],
    ids=["nothing", "sealed", "unfilled", "cut off", "unannounced", "no json"],
)
def test_hostile_cells_make_one_line(code: str, reason: str) -> None:
    result = nbc.run(HOSTILE + code, mem="128M", output=["x"], root="host")
    assert result.values == {}
    assert "x" in result.missing, result.stderr
    assert any(part in result.missing["x"] for part in reason.split("|")) or result.error is not None, (result.missing, result.error)


@pytest.mark.parametrize("size", ["-1", "1 << 62", "True", "'x'", "None"])
def test_hostile_sizes_are_refused(size: str) -> None:
    code = f"{HOSTILE}\ntry: CHANNEL.ask({{'t': 'values', 'size': {size}}})\nexcept Exception as error: print(type(error).__name__)"
    assert "Refused" in nbc.run(code, mem="128M", output=["x"], root="host").stdout


def test_a_program_gets_texts_in_its_environment() -> None:
    assert nbc.run('echo "$name $n"', program=["sh"], input={"name": "a  b", "n": 3}).stdout == "a  b 3\n"
    with pytest.raises(nbc.SpecError, match=r"-i df: .*texts and numbers only"):
        nbc.run("", program=["sh"], input={"df": [1]})
    with pytest.raises(nbc.SpecError, match="-o x: comes out of Python cells only"):
        nbc.run("", program=["sh"], output="x")


def test_no_descriptor_is_left_in_the_cell_s_hands_by_variables_that_do_not_lie_in_it() -> None:
    code = "print(x); import gc; gc.collect(); import os; print(len(os.listdir('/proc/self/fd')))"
    plain, given = nbc.run("x = 1\n" + code).stdout, nbc.run(code, input={"x": 1}).stdout
    assert plain == given


@pytest.mark.essential
def test_input_and_getpass() -> None:
    asked: list[InputRequest] = []

    def type_it(request: InputRequest) -> str:
        asked.append(request)
        return f"<{len(asked)}>"

    result = nbc.run("print('before'); n = input('name? '); import getpass; print(n, getpass.getpass())", on_input=type_it)
    assert result.stdout == "before\n<1> <2>\n"
    assert asked == [InputRequest("name? ", False), InputRequest("Password: ", True)]


def test_nobody_to_ask_is_an_error_in_the_cell() -> None:
    result = nbc.run("input('x')")
    assert result.error is not None and result.error.ename == "StdinNotImplementedError"
    assert "nobody can type here" in result.error.evalue

    def end(request: InputRequest) -> str:
        raise EOFError

    assert nbc.run("try: input()\nexcept EOFError: print('the end')", on_input=end).stdout == "the end\n"


def test_a_cell_that_waits_for_input_can_be_ended() -> None:
    began = time.monotonic()
    result = nbc.run("input()", on_input=lambda request: None, timeout=0.3)
    assert result.outcome == "timeout"
    timer = threading.Timer(0.3, os.kill, (os.getpid(), 2))
    timer.start()
    assert nbc.run("input()", on_input=lambda request: None).outcome == "interrupted"
    timer.join()
    assert time.monotonic() - began < 60


def test_questions_of_threads_do_not_mix_with_displays() -> None:
    code = (
        "import threading\nfrom IPython.display import display\n"
        "threads = [threading.Thread(target=lambda: [display(i) for i in range(20)]) for _ in range(3)]\n"
        "for t in threads: t.start()\nanswers = [input() for _ in range(10)]\nfor t in threads: t.join()\nprint(answers == ['line'] * 10)"
    )
    result = nbc.run(code, on_input=lambda request: "line")
    assert result.stdout == "True\n" and len(result.outputs) == 60


# ---- in sessions, and in processes of running containers


def test_a_session_s_cells_have_variables_too() -> None:
    import numpy as np

    with nbc.start(mem="512M") as container:
        first = container.run("y = x + 1; big = np.ones(n)", input={"x": 1, "np": np, "n": 1_000_000}, output=["y", "big"])
        assert first.ok and first.values["y"] == 2 and first.values["big"].sum() == 1_000_000
        assert container.run("z = y + x", output=["z"]).values == {"z": 3}
        missing = container.run("1", output=["nope"])
        assert missing.error is not None and "no variable of that name" in missing.error.evalue
        long = container.run("#" * 3_000_000 + "\nw = len(text)", input={"text": "x" * 10}, output=["w"])
        assert long.values == {"w": 10}
        assert container.run("print(input('?'))", on_input=lambda request: "typed").stdout == "typed\n"
        assert container.exec(["sh", "-c", "echo $word"], input={"word": "hello"}).stdout == "hello\n"


def test_a_python_process_beside_a_program_has_variables() -> None:
    with nbc.start("sleep 60", program=["sh"], mem="256M") as container:
        result = container.run("y = x * 2", input={"x": 21}, output=["y"])
        assert result.values == {"y": 42}, result.describe()


MOST_TURNS = 200
"""The file is there for milliseconds: on a busy machine, the cell does not see it each time."""
ATTACK = """\
import os, threading
import numpy as np
SIZE = 16 << 20
x = np.zeros(SIZE, np.uint8)
held, tries, hits = {}, 0, 0
def attack():
    global tries, hits
    while True:
        for name in os.listdir("/proc/self/fd"):
            try:
                found = os.fstat(int(name))
                if found.st_size >= SIZE and found.st_ino not in held: held[found.st_ino] = os.dup(int(name))
            except OSError: continue
        for fd in held.values():
            for spoil in (lambda: os.pwrite(fd, os.urandom(1 << 16), SIZE // 2), lambda: os.ftruncate(fd, 4096), lambda: os.ftruncate(fd, 2 * SIZE)):
                tries += 1
                try: spoil(); hits += 1
                except OSError: pass
threading.Thread(target=attack, daemon=True).start()
"""


def test_a_cell_that_goes_on_writing_while_the_kernel_reads() -> None:
    """What came is the kernel's own, or is refused; the cell has the file still, and can change nothing of it."""
    with nbc.start(mem="512M", workspace="none") as session:
        assert session.run(ATTACK).ok
        for turn in range(MOST_TURNS):
            result = session.run("x = np.zeros(SIZE, np.uint8)", output=["x"])
            came = result.values.get("x")
            assert (came is None) == bool(result.missing)
            if came is not None:
                before = came.copy()
                assert session.run("import time\nbefore = tries\nwhile held and tries < before + 100: time.sleep(0.001)").ok
                assert came.shape == (16 << 20,) and (came == before).all()
                del came
            if turn >= 4 and session.run("print(bool(held))").stdout == "True\n":
                break
        tries, hits = map(int, session.run("print(tries, hits)").stdout.split())
        assert tries > 100
        # An ordinary user's is sealed: it can be written to before that, if at all.
        assert hits > 100 or os.geteuid() != 0
