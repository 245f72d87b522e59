"""Whatever dies, whenever: one typed error or outcome, nothing left, and the next cell runs."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import threading
import time

import footprint
import pytest
from facilities import full_run

import nbcontainer as nbc
from nbcontainer.engine import local
from nbcontainer.runtime.protocol import HEADER

RUNS = 1000 if full_run() else 150
KILLS = 200 if full_run() else 24


def test_many_runs_in_a_row() -> None:
    for number in range(RUNS):
        result = nbc.run(f"print({number})", mem="128M")
        assert result.stdout == f"{number}\n"


def test_the_zygote_killed_at_random_moments() -> None:
    randomness = random.Random(1)
    for _ in range(KILLS // 3):
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
        from nbcontainer.events import Event, Started

        timers: list[threading.Timer] = []

        def strike(event: Event, timers: list[threading.Timer] = timers) -> None:
            if isinstance(event, Started):
                timers.append(threading.Timer(randomness.uniform(0, 0.02), _kill, (event.pid,)))
                timers[0].start()

        result = nbc.run("import time; time.sleep(5)", mem="64M", on_event=strike)
        timers[0].join()
        assert (result.outcome, result.signal) == ("signalled", signal.SIGKILL)


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
        from nbcontainer.state import prune

        deadline = time.monotonic() + 10
        while footprint.cgroup_directories(place) and time.monotonic() < deadline:
            prune()
        assert footprint.cgroup_directories(place) == []


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
    forged = [{"t": "error", "ename": "E", "evalue": "v", "traceback": [1]}, {"t": "display"}, {"t": "unknown"}, {"t": "status"}]
    frames = b"".join(HEADER.pack(len(body)) + body for body in (json.dumps(frame).encode() for frame in forged))
    result = nbc.run(f"import os; os.write(3, {frames!r}); os._exit(9)")
    assert (result.outcome, result.exit_code) == ("exited", 9)


def test_a_removed_stage_is_a_typed_error_then_works(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(nbc.SpecError):
        nbc.run("", root="/nonexistent")
    assert nbc.run("print(1)").ok


def test_too_small_a_disk_is_a_set_up_error() -> None:
    try:
        result = nbc.run("print(1)", disk="4K")
    except nbc.SetupError as error:
        assert error.step
        assert "--disk" in str(error)
    else:
        assert result.ok
    assert nbc.run("print(1)").ok
