"""Whatever dies, whenever: one typed error or outcome, nothing left, and the next cell runs."""

from __future__ import annotations

import os
import random
import re
import select
import shutil
import signal
import subprocess
import sys
import threading
import time

import footprint
import psutil
import pytest
from facilities import full_run, in_guest, only_as_root, require, rootless

import nbcontainer as nbc
from nbcontainer.engine import local
from nbcontainer.events import Display, Event, Output
from nbcontainer.runtime.protocol import encode
from nbcontainer.state import prune

RUNS = 1000 if full_run() else 150
KILLS = 200 if full_run() else 24


def test_many_runs_in_a_row() -> None:
    for number in range(RUNS):
        result = nbc.run(f"print({number})", mem="128M")
        assert result.stdout == f"{number}\n"


@pytest.mark.essential
def test_the_zygote_killed_at_random_moments() -> None:
    randomness = random.Random(1)
    for _ in range(4 if in_guest() and not full_run() else KILLS // 3):  # a new zygote takes seconds there
        zygote = local.open_local()._client
        timer = threading.Timer(randomness.uniform(0, 0.05), _kill, (zygote.pid,))
        timer.start()
        try:
            result = nbc.run("import time; time.sleep(0.03); print('done')", mem="64M")
            assert result.outcome in ("exited", "signalled")
        except (nbc.InternalError, nbc.SetupError) as error:
            assert "\n" not in str(error)
        timer.join()
        while zygote.alive:
            time.sleep(0.001)
        assert nbc.run("print('next')", mem="64M").stdout == "next\n"


def test_the_cell_process_killed_at_random_moments() -> None:
    randomness = random.Random(2)
    for _ in range(KILLS // 3):
        from nbcontainer.events import Started

        timers: list[threading.Timer] = []

        def strike(event: Event, timers: list[threading.Timer] = timers) -> None:
            if isinstance(event, Started):
                timers.append(threading.Timer(randomness.uniform(0, 0.02), _kill, (event.pid,)))
                timers[0].start()

        result = nbc.run("import time; time.sleep(5)", mem="64M", on_event=strike)
        timers[0].join()
        assert (result.outcome, result.signal) == ("signalled", signal.SIGKILL)


@pytest.mark.essential
def test_kernels_killed_at_random_moments_leave_nothing() -> None:
    """A process of its own plays the kernel; what it leaves must be gone after the next start."""
    code = (
        "import nbcontainer as nbc\nfrom nbcontainer.engine import local\nprint(local.open_local().state.place, flush=True)\n"
        "while True: nbc.run('import time; time.sleep(0.004)', mem='64M')"
    )
    randomness = random.Random(3)
    for _ in range(KILLS // 3 if full_run() else 3):
        kernel = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
        assert kernel.stdout is not None
        place = kernel.stdout.readline().strip()
        time.sleep(1.0 + randomness.uniform(0, 0.3))
        kernel.kill()
        kernel.wait()
        kernel.stdout.close()
        deadline = time.monotonic() + 10
        while footprint.cgroup_directories(place) and time.monotonic() < deadline:
            prune()
        assert footprint.cgroup_directories(place) == []


def test_what_a_kernel_with_another_cgroup_parent_left_is_swept_too(monkeypatch: pytest.MonkeyPatch) -> None:
    parent = f"{os.environ.get('NBCONTAINER_CGROUP_PARENT', '')}/elsewhere-{os.getpid()}"
    if in_guest():
        only_as_root("in the guest, an ordinary user has no place for cgroups besides its own")
    else:
        require(parent.count("/") > 1, "NBCONTAINER_CGROUP_PARENT: a place to make cgroups in")
    code = (
        "import nbcontainer as nbc\nfrom nbcontainer.engine import local\nprint(local.open_local().state.place, flush=True)\n"
        "nbc.run('import time; print(1, flush=True); time.sleep(60)', mem='64M', on_event=lambda event: print(event, flush=True))"
    )
    environment = {**os.environ, "NBCONTAINER_CGROUP_PARENT": parent}
    kernel = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, env=environment)
    assert kernel.stdout is not None
    place = kernel.stdout.readline().strip()
    assert "Started" in kernel.stdout.readline()
    try:
        left = footprint.cgroup_directories(place)
        assert left
        assert all(f"{parent}/{place}" in path for path in left)
        prune()
        assert len(footprint.cgroup_directories(place)) >= len(left)  # it lives
    finally:
        kernel.kill()
        kernel.wait()
        kernel.stdout.close()
    prune()
    assert footprint.cgroup_directories(place) == []
    for path in {path.partition(f"/{place}")[0] for path in left}:
        os.rmdir(path)


def _kill(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        pass


@pytest.mark.parametrize(
    "code",
    [
        "import os; os.write(3, b'garbage that is no frame at all ' * 100)",
        "import os, struct; os.write(3, struct.pack('<I', 0xffffffff))",
        "import os, struct; os.write(3, struct.pack('<I', 100) + b'half');",
        "import os; os.close(3); print('x'); 1 + 1",
        "import os\nfor fd in range(256):\n    try: os.close(fd)\n    except OSError: pass",
        "import os, signal\nfor pid in range(2, 400):\n    try: os.kill(pid, 9)\n    except OSError: pass",
    ],
    ids=["garbage", "huge frame", "half frame", "closed channel", "closes everything", "kills siblings"],
)
def test_a_hostile_cell_harms_only_itself(code: str) -> None:
    result = nbc.run(code, timeout=20)
    assert result.outcome == "exited"
    assert nbc.run("print(1)").stdout == "1\n"


def test_forged_frames_say_nothing_about_the_outcome() -> None:
    failed = {"t": "failed", "step": "rootfs", "errno": "abc", "path": "/etc/evil"}
    forged = [{"t": "error"}, {"t": "display"}, {"t": "unknown"}, {"t": "status", "status": 0}, {"t": "status", "status": 0x137F}, failed]
    frames = b"".join(encode(message) for message in forged) + encode({"t": "error"}, {"ename": "E", "evalue": "v", "traceback": "x"})
    result = nbc.run(f"import os; os.write(3, {frames!r}); os._exit(9)")
    assert (result.outcome, result.exit_code) == ("exited", 9)


@pytest.mark.parametrize("close", ["os.close(3)", "os.closerange(3, 100)"])
def test_an_error_is_not_lost_with_its_channel(close: str) -> None:
    result = nbc.run(f"import os; {close}\nraise ValueError('the error')")
    assert (result.outcome, result.exit_code) == ("exited", 1)
    assert "ValueError: the error" in re.sub(r"\x1b\[[0-9;]*m", "", result.stderr)


def test_displays_that_are_hard_on_memory_are_bounded() -> None:
    code = "from IPython.display import display\nfor _ in range(4): display({'application/json': [[]] * 1_000_000}, raw=True)\n'end'"
    result = nbc.run(code, mem="512M")
    assert [sorted(bundle) for bundle in result.outputs] == [["text/plain"]] * 5
    assert "too many values" in result.outputs[0]["text/plain"]
    assert result.outputs[-1]["text/plain"] == "'end'"


def test_max_output_bounds_displays_too() -> None:
    shown: list[Event] = []
    code = "from IPython.display import display\nfor _ in range(20): display({'text/plain': 'x' * 100_000}, raw=True)\nprint('end')"
    result = nbc.run(code, max_output="1M", on_event=shown.append)
    assert len([event for event in shown if isinstance(event, Display)]) == 10
    assert len(result.outputs) == 20
    assert any(isinstance(event, Output) and "--max-output" in event.text for event in shown)
    assert result.stdout == "end\n"


@pytest.mark.parametrize("code", ["raise ValueError('x' * 100_000_000)", "raise type('ValueError' + 'X' * 80_000_000, (Exception,), {})('x' * 10)"])
def test_an_error_longer_than_a_message_is_still_the_cell_s_error(code: str) -> None:
    result = nbc.run(code, mem="1G")
    assert result.error is not None and result.error.ename.startswith("ValueError") and "xxxxxxxxxx" in result.error.evalue
    assert result.outputs == [] and len(result.error.ename + result.error.evalue) < 30_000


def test_a_question_longer_than_a_message_is_asked() -> None:
    result = nbc.run("print(input('x' * 100_000_000))", mem="1G", timeout=60, on_input=lambda request: str(len(request.prompt) < 20_000))
    assert result.stdout == "True\n", result.describe()


def test_a_long_error_is_cut() -> None:
    error = nbc.run("raise ValueError('x' * 5_000_000)").error
    assert error is not None
    assert len(error.evalue) < 20_000
    assert len("".join(error.traceback)) < 1_000_000


def test_text_that_is_no_unicode_can_be_shown() -> None:
    result = nbc.run("from IPython.display import display\ndisplay({'text/plain': '\\ud800', 'application/json': [float('nan'), 1]}, raw=True)")
    assert result.outputs == [{"text/plain": "?", "application/json": [None, 1]}]
    error = nbc.run("raise ValueError('\\ud800')").error
    assert error is not None
    assert error.evalue == "?"


def test_the_zygote_ends_with_its_kernel_also_when_a_child_of_the_kernel_lives_on() -> None:
    code = (
        "import os, sys, threading, time, nbcontainer as nbc\nfrom nbcontainer.engine import local\n"
        "nbc.run('1', mem='64M')\n"
        "if os.fork() == 0:\n    os.close(1); time.sleep(60); os._exit(0)\n"
        "threading.Thread(target=nbc.run, args=('import time; time.sleep(60)',), kwargs={'mem': '64M'}).start()\n"
        "time.sleep(0.3)\nengine = local.open_local()\nprint(engine._client.pid, engine.state.place, flush=True)\ntime.sleep(60)"
    )
    kernel = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert kernel.stdout is not None
    zygote, place = kernel.stdout.readline().split()
    children = [child.pid for child in psutil.Process(kernel.pid).children() if child.pid != int(zygote)]
    pidfd = os.pidfd_open(int(zygote))
    kernel.kill()
    kernel.wait()
    kernel.stdout.close()
    assert select.select([pidfd], [], [], 10)[0], "the zygote is still there"
    os.close(pidfd)
    from nbcontainer.state import prune

    deadline = time.monotonic() + 10
    while footprint.cgroup_directories(place) and time.monotonic() < deadline:
        prune()
    assert footprint.cgroup_directories(place) == []
    assert len(children) == 1
    os.kill(children[0], signal.SIGKILL)


def test_a_removed_stage_is_a_set_up_error_until_there_is_a_new_zygote() -> None:
    engine = local.open_local()
    zygote = engine._client
    # As the zygote alone sees it: the directory of that name on the host is not touched.
    seen = f"/proc/{zygote.pid}/root{engine._config.stage}"
    if not rootless():
        assert os.stat(seen).st_dev != os.stat(engine._config.stage).st_dev
    assert os.path.isdir(f"{seen}/base/dir")
    with engine._lock:
        engine.drop_spares()
        shutil.rmtree(f"{seen}/base")
        with pytest.raises(nbc.SetupError, match=r"set-up step 'layer' at .*/base/.*: ENOENT"):
            nbc.run("print(1)")
    _kill(zygote.pid)
    while zygote.alive:
        time.sleep(0.001)
    assert nbc.run("print(1)").stdout == "1\n"


def test_too_small_a_disk_is_a_set_up_error() -> None:
    with pytest.raises(nbc.SetupError, match=r"ENOSPC .* give a larger --disk") as caught:
        nbc.run("print(1)", disk="4K")
    assert caught.value.step == "own file"
    assert nbc.run("print(1)").ok
