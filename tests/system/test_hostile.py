"""A cell process that writes whatever it likes to its own channel: the kernel lives, and the outcome is the true one."""

from __future__ import annotations

import json
import random
from typing import Any

import psutil
import pytest
from facilities import full_run

import nbcontainer as nbc
from nbcontainer.events import Event, Output

ROUNDS = 40 if full_run() else 6
LINES = 200
KERNEL_GROWTH_BYTES = 256 << 20

# The cell: a child that writes to the channel beside the cell's own prints. Where the kernel has had enough, writing fails.
HOSTILE = """
import json, os, random, struct, sys
randomness = random.Random({seed})

def frame(message, tail=b"", lengths=None):
    body = message if isinstance(message, bytes) else json.dumps(message).encode()
    return struct.pack("<II", *(lengths or (len(body), len(tail)))) + body + tail

def piece():
    kind = randomness.choice({kinds!r})
    if kind == "garbage":
        return randomness.randbytes(randomness.randrange(1, 5000))
    if kind == "half":
        return frame({{"t": "display", "kind": "display"}})[: randomness.randrange(1, 20)]
    if kind == "long":
        return frame(b"", lengths=(randomness.randrange(1 << 32), randomness.randrange(1 << 32)))
    if kind == "large":
        return frame({{"t": "display", "kind": "display", "parts": [["data text/plain", 8 << 20]]}}, b"x" * (8 << 20))
    if kind == "nested":
        return frame(b"[" * 60000)
    if kind == "wrong":
        return frame(randomness.choice([[], 1, {{}}, {{"t": 1}}, {{"t": "x"}}, {{"t": "display"}}, {{"t": "display", "kind": {{}}}}, {{"t": "error"}}]))
    if kind == "parts":
        lengths = [["data text/html", randomness.randrange(-5, 50)], ["data application/json", randomness.choice([1, 1.5, None, "x", 2])]]
        return frame({{"t": "display", "kind": "display", "id": randomness.choice([None, [], "a", 5]), "parts": lengths}}, b"1e999 NaN <script>")
    forged = [
        {{"t": "failed", "step": "exec", "errno": 2, "path": "x"}}, {{"t": "status", "status": 9}}, {{"t": "ready"}}, {{"t": "started"}},
        {{"t": "exited", "status": 9}}, {{"t": "cloned", "pid": 1}}, {{"t": "failed", "step": {{}}, "errno": [], "path": 5, "why": "forged"}},
    ]
    return frame(randomness.choice(forged))

if os.fork() == 0:
    try:
        for _ in range({pieces}):
            data = memoryview(piece())
            while data:
                data = data[os.write(3, data[: randomness.randrange(1, 1 << 17)]):]
    except OSError:
        pass
    os._exit(0)
for number in range({lines}):
    print("line", number)
os.wait()
sys.exit(7)
"""
ALL_KINDS = ["garbage", "half", "long", "large", "nested", "wrong", "parts", "forged"]
WELL_FORMED = ["large", "wrong", "parts", "forged"]


def run_hostile(seed: int, kinds: list[str], pieces: int, **options: Any) -> nbc.Result:
    return nbc.run(HOSTILE.format(seed=seed, kinds=kinds, pieces=pieces, lines=LINES), mem="256M", timeout=120, **options)


@pytest.mark.parametrize("kinds", [ALL_KINDS, WELL_FORMED, ["half"], ["garbage"]], ids=["all", "well-formed", "half", "garbage"])
def test_whatever_a_cell_writes_to_its_channel(kinds: list[str]) -> None:
    randomness = random.Random(4)
    for _ in range(ROUNDS):
        result = run_hostile(randomness.randrange(1 << 30), kinds, 12)
        assert (result.outcome, result.exit_code, result.signal) == ("exited", 7, None), result.describe()
        assert result.stdout == "".join(f"line {number}\n" for number in range(LINES))
        json.dumps(result.outputs, allow_nan=False, ensure_ascii=False).encode()
    assert nbc.run("print('next')", mem="64M").stdout == "next\n"


def test_a_line_says_why_output_is_missing() -> None:
    garbage = nbc.run("import os\nprint('a'); os.write(3, b'garbage' * 100); print('b')", mem="64M")
    assert (garbage.ok, garbage.stdout) == (True, "a\nb\n")
    assert garbage.note.startswith("the cell wrote to file descriptor 3, its channel to the notebook, what is no message (a frame of ")
    half = nbc.run("import os\nos.write(3, (500).to_bytes(4, 'little') + bytes(4) + b'{'); os._exit(4)", mem="64M")
    assert half.exit_code == 4 and half.note == "it ended in the middle of something that it was showing, which is lost"
    killed = nbc.run("import time; display(1); time.sleep(60)", mem="64M", timeout=0.5)
    assert (killed.outcome, killed.note) == ("timeout", "")


def test_a_container_that_is_killed_in_the_middle_of_a_display_says_so() -> None:
    write = "import os, signal\nwrite = os.write\ndef half(fd, data):\n    write(fd, data[:1_000_000]); END\nos.write = half\ndisplay({'text/plain': 'x' * 3_000_000}, raw=True)"
    ended = nbc.run(write.replace("END", "os._exit(9)"), mem="128M")
    assert (ended.exit_code, ended.outputs) == (9, []) and ended.note == "it ended in the middle of something that it was showing, which is lost"
    killed = nbc.run(write.replace("END", "x = bytearray(200_000_000)"), mem="64M")
    assert killed.outcome == "oom" and "it ended in the middle of something" in killed.describe()


def test_with_an_init_a_forged_status_is_the_cell_s_own_lie() -> None:
    """The status of a cell below an init comes from the container, see protocol; it can be forged, and nothing more."""
    result = run_hostile(1, ["forged"], 30, init=True)
    assert result.outcome in ("exited", "signalled")
    assert result.stdout.endswith(f"line {LINES - 1}\n")


def test_many_large_displays_do_not_fill_the_kernel() -> None:
    before = psutil.Process().memory_info().rss
    result = run_hostile(5, ["large"], 60)
    assert result.exit_code == 7
    assert psutil.Process().memory_info().rss - before < KERNEL_GROWTH_BYTES


STUBBORN = {
    "stopped, below an init": ("import os, signal; print('on', flush=True); os.kill(os.getpid(), signal.SIGSTOP)", {"init": True}),
    "ignores every signal": (
        "import signal, time\nfor number in range(1, 65):\n    try: signal.signal(number, signal.SIG_IGN)\n    except (OSError, ValueError): pass\nprint('on', flush=True)\ntime.sleep(60)",
        {},
    ),
    "traced by its child": (
        "import ctypes, os, time\nlibc = ctypes.CDLL(None)\nchild = os.fork()\nif child == 0:\n"
        "    libc.ptrace(0x4206, 1, 0, 0); libc.ptrace(0x4207, 1, 0, 0); print('on', flush=True); time.sleep(60)\ntime.sleep(60)",
        {},
    ),
    "traces itself all the way down": (
        "import ctypes, os, time\nlibc = ctypes.CDLL(None)\nfor _ in range(5):\n    if os.fork() == 0:\n        libc.ptrace(0x4206, os.getppid(), 0, 0x100000)\n"
        "print('on', flush=True)\ntime.sleep(60)",
        {},
    ),
    "forks for ever": ("import os\nprint('on', flush=True)\nwhile True:\n    try: os.fork()\n    except OSError: pass", {"pids": 64}),
    "writes for ever": ("print('on', flush=True)\nwhile True: print('x' * 1000)", {"max_output": "100K"}),
}


STUBBORN_ENDS = [(name, end) for name in STUBBORN for end in ("timeout", "interrupt", "kill")]


@pytest.mark.parametrize(("name", "end"), STUBBORN_ENDS if full_run() else STUBBORN_ENDS[::4] + STUBBORN_ENDS[1:3])
def test_a_cell_that_does_not_want_to_end_ends(name: str, end: str) -> None:
    code, options = STUBBORN[name]
    runs: list[Any] = []

    def strike(event: Event) -> None:
        if end != "timeout" and isinstance(event, Output) and not struck:
            struck.append(event)
            runs[0].interrupt() if end == "interrupt" else runs[0].kill()

    struck: list[Event] = []
    given = {**options, "timeout": 1.0} if end == "timeout" else options
    result = nbc.run(code, mem="128M", on_start=runs.append, on_event=strike, **given)
    assert result.outcome in {"timeout": ("timeout",), "interrupt": ("interrupted",), "kill": ("killed",)}[end], result.describe()
    assert nbc.run("print('next')", mem="64M").stdout == "next\n"
