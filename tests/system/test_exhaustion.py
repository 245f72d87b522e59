"""What a kernel needs runs out while it works: one typed error, nothing left, and when it is there again the next cell runs."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from facilities import only_as_root

import nbcontainer as nbc
from nbcontainer import cgroups
from nbcontainer.cgroups import files
from nbcontainer.engine import local
from nbcontainer.engine.box import shape_of
from nbcontainer.spec import Limits
from nbcontainer.validate import make_spec

KERNEL = """
import sys, nbcontainer as nbc
from nbcontainer.engine import local
def attempt(**options):
    try:
        return nbc.run("print('ran')", mem="64M", **options).stdout.strip()
    except nbc.NbcontainerError as error:
        assert "\\n" not in str(error)
        return f"{type(error).__name__} {error}"
for line in sys.stdin:
    print(eval(line), flush=True)
local.shutdown()
"""


class Kernel:
    """A process of its own that runs what it is told to, under conditions that must not be this process's."""

    def __init__(self, *wrapper: str) -> None:
        self._process = subprocess.Popen([*wrapper, sys.executable, "-c", KERNEL], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._input, self._output = self._process.stdin, self._process.stdout

    @property
    def pid(self) -> int:
        return self._process.pid

    def __call__(self, expression: str) -> str:
        self._input.write(f"{expression}\n")
        self._input.flush()
        return self._output.readline().strip()

    def end(self) -> int:
        self._input.close()
        self._output.close()
        return self._process.wait(60)


@pytest.fixture
def kernel() -> Iterator[Kernel]:
    kernel = Kernel()
    assert kernel("attempt()") == "ran"
    yield kernel
    assert kernel("attempt()") == "ran"
    assert kernel.end() == 0


def test_no_more_processes_around_the_kernel(kernel: Kernel) -> None:
    only_as_root("a cgroup for a whole kernel")
    driver = cgroups.open_driver(f"nbc-test-{os.getpid()}")
    around = driver.create("kernel", Limits(pids=None))
    everybody = [kernel.pid, *(child.pid for child in psutil.Process(kernel.pid).children())]
    try:
        for directory in {directory for _, directory in around.views()}:
            for pid in everybody:
                files.write_text(f"{directory}/cgroup.procs", str(pid))
        around.set_limits(Limits(pids=around.sample().pids), Limits(pids=None))
        said = [kernel(f"attempt(env=['X={number}'], pids=9)") for number in range(3)]
        # On version 2 a container is born in its own cgroup, and only what the kernel itself wants to start is refused.
        assert all(line == "ran" or line.split()[0] in ("SetupError", "HostError", "InternalError") for line in said), said
        if driver.version == 1:
            assert any("no more processes are allowed here" in line for line in said), said
        around.set_limits(Limits(pids=1000), Limits(pids=1))
        assert kernel("attempt()") == "ran"
        for directory in {directory for _, directory in around.views()}:
            for pid in [kernel.pid, *(child.pid for child in psutil.Process(kernel.pid).children())]:
                files.write_text(f"{os.path.dirname(os.path.dirname(directory))}/cgroup.procs", str(pid))
    finally:
        around.remove()
        driver.remove_place()


def test_no_more_descriptors_in_the_zygote(kernel: Kernel) -> None:
    """It serves all containers: those that run already must not end with it."""
    zygote = int(kernel("local.open_local()._client.pid"))
    kernel("local.open_local().drop_spares()")
    in_use = max(map(int, os.listdir(f"/proc/{zygote}/fd"))) + 1
    soft, hard = resource.prlimit(zygote, resource.RLIMIT_NOFILE)
    for room in range(8):
        resource.prlimit(zygote, resource.RLIMIT_NOFILE, (in_use + room, hard))
        said = kernel(f"attempt(tmpfs=['/x{room}'])")
        assert said == "ran" or said.split()[0] in ("SetupError", "InternalError", "HostError"), said
    resource.prlimit(zygote, resource.RLIMIT_NOFILE, (soft, hard))
    assert kernel("attempt(tmpfs=['/x0'])") == "ran"
    assert int(kernel("local.open_local()._client.pid")) == zygote


def test_no_room_for_state(tmp_path: Path) -> None:
    only_as_root("a file system of one's own")
    script = f'mount -t tmpfs -o size=64k tmpfs {tmp_path} && mkdir -p /run/nbcontainer && mount --bind {tmp_path} /run/nbcontainer && exec "$@"'
    kernel = Kernel("unshare", "--mount", "--propagation", "private", "sh", "-c", script, "sh")
    assert kernel("attempt()") == "ran"
    fill = "__import__('subprocess').run(['sh', '-c', 'head -c 1M /dev/zero > /run/nbcontainer/fill 2>/dev/null'], check=False).returncode"
    assert kernel(fill) != "0"
    slow = "nbc.run(\"import time; time.sleep(0.1); print('ran')\", mem='64M', name='x' * 60).outcome"
    said = [kernel("attempt()"), kernel(slow), kernel("attempt()")]
    assert [line.split()[0] for line in said if line not in ("ran", "exited")] == [], said
    assert kernel("__import__('os').unlink('/run/nbcontainer/fill')") == "None"
    assert kernel("attempt()") == "ran"
    assert kernel.end() == 0


def test_a_place_that_is_removed_between_cells(kernel: Kernel) -> None:
    places = eval(kernel("local.open_local()._driver.directories"))
    kernel("local.open_local().drop_spares()")
    deadline = time.monotonic() + 10
    for place in set(places):
        while os.path.isdir(place):
            try:
                os.rmdir(place)
            except OSError:
                assert time.monotonic() < deadline, place
                kernel("local.open_local().drop_spares()")
    assert kernel("attempt()") == "ran"


def test_a_child_that_a_cell_gives_to_the_zygote_is_waited_for() -> None:
    code = (
        "import ctypes, os, signal\nlibc = ctypes.CDLL(None)\nnumber = {'x86_64': 56, 'aarch64': 220}[os.uname().machine]\n"
        "if libc.syscall(number, 0x8000 | signal.SIGCHLD, 0, 0, 0, 0) == 0: os._exit(0)\nprint('given')"
    )
    result = nbc.run(code, security="unconfined", share="pid", mem="64M")
    assert result.stdout == "given\n", result.stderr
    engine = local.open_local()
    with engine._lock:
        engine.drop_spares()
        engine.make_spares(shape_of(make_spec({"mem": "64M"})), 1)
        engine._wait_ready(engine._spares[0])
    zombies = [child for child in psutil.Process(engine._client.pid).children() if child.status() == psutil.STATUS_ZOMBIE]
    assert zombies == []
