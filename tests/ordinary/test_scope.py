"""A user who has a systemd manager and no cgroup of its own: containers nest in a transient scope, which ends with the kernel."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import footprint
import psutil
import pytest
from facilities import require, rootless

import nbcontainer as nbc
from nbcontainer.cgroups import open_driver, scope
from nbcontainer.engine import local

pytestmark = pytest.mark.essential
WAIT_SECONDS = 30.0


@pytest.fixture(scope="module", autouse=True)
def manager() -> Iterator[None]:
    """There is one, and no other way."""
    require(rootless() and scope.find_bus() is not None, "an ordinary user with a systemd manager (tests/guest/run.py --session)")
    with pytest.raises(nbc.HostError, match="no permission to make cgroups"):
        open_driver("nbc-test")
    yield


def scopes() -> set[str]:
    done = subprocess.run(["systemctl", "--user", "list-units", "--type=scope", "--plain", "--no-legend", "nbc-*"], capture_output=True, text=True, check=True)
    return {line.split()[0] for line in done.stdout.splitlines()}


def await_end_of(place: str) -> None:
    """Until systemd has removed every scope of a kernel's, and all in it."""
    deadline = time.monotonic() + WAIT_SECONDS
    while [name for name in scopes() if name.startswith(place)] or footprint.cgroup_directories(place):
        assert time.monotonic() < deadline, f"left behind: {scopes()} {footprint.cgroup_directories(place)}"
        time.sleep(0.05)


def test_limits_hold_in_a_scope() -> None:
    result = nbc.run("x = bytearray(200 << 20)", mem="64M", pids=20)
    assert result.outcome == "oom"
    files = "print(open('/sys/fs/cgroup/memory.max').read(), open('/sys/fs/cgroup/pids.max').read(), open('/proc/self/cgroup').read())"
    assert nbc.run(files, mem="64M", pids=20).stdout.split() == [str(64 << 20), "20", "0::/"]
    throttled = nbc.run("import time\nend = time.monotonic() + 1\nwhile time.monotonic() < end: pass", cpus=0.2)
    assert throttled.usage.throttled_seconds > 0


def test_it_nests_in_the_user_s_manager_and_the_kernel_stays_where_it_was() -> None:
    before = Path("/proc/self/cgroup").read_text()
    assert nbc.run("pass").ok
    engine = local.open_local()
    assert f"/user@{os.getuid()}.service/" in engine._driver.directories[0]
    assert f"{engine.state.place}-" in engine._driver.directories[0]
    assert Path("/proc/self/cgroup").read_text() == before
    assert Path(f"/proc/{engine._client.pid}/cgroup").read_text().strip().endswith(".scope/nbcontainer-leaf")


def test_a_limit_that_is_not_delegated_is_refused() -> None:
    with pytest.raises(nbc.HostError, match="the io controller of cgroup v2 is not delegated"):
        nbc.run("pass", io_write="1M")


def test_the_environment_of_a_cell_knows_nothing_of_the_bus() -> None:
    seen = nbc.run("cat /proc/1/environ; env; ls /run; ls /run/user", program=["sh"]).stdout
    assert "PATH=" in seen
    assert not [word for word in ("DBUS", "XDG_RUNTIME_DIR", "INVOCATION_ID", "/run/user", "systemd") if word in seen]


def test_a_killed_zygote_takes_its_scope_along_and_the_next_has_another() -> None:
    assert nbc.run("pass").ok
    engine = local.open_local()
    first = engine._driver.directories
    os.kill(engine._client.pid, signal.SIGKILL)
    while engine._client.alive:
        time.sleep(0.01)
    result = nbc.run("print('next')", mem="64M")
    assert result.stdout == "next\n"
    assert engine._driver.directories != first
    deadline = time.monotonic() + WAIT_SECONDS
    while os.path.exists(os.path.dirname(first[0])):
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.parametrize("end", ["exit", "kill"])
def test_a_scope_ends_with_its_kernel(end: str) -> None:
    code = (
        "import sys, threading, time, nbcontainer as nbc\nfrom nbcontainer.engine import local\nprint(local.open_local().state.place, flush=True)\n"
        "def say(event): print(type(event).__name__, flush=True)\n"
        "nbc.run('import time; time.sleep(300)', mem='64M', on_event=say, timeout=0.5 if sys.argv[1] == 'exit' else None)"
    )
    kernel = subprocess.Popen([sys.executable, "-c", code, end], stdout=subprocess.PIPE, text=True)
    assert kernel.stdout is not None
    place = kernel.stdout.readline().strip()
    assert kernel.stdout.readline() == "Started\n"
    assert [name for name in scopes() if name.startswith(place)]
    processes = [child.pid for child in psutil.Process(kernel.pid).children(recursive=True)]
    assert len(processes) >= 2
    if end == "kill":
        kernel.kill()
    kernel.wait()
    kernel.stdout.close()
    await_end_of(place)
    assert not [pid for pid in processes if psutil.pid_exists(pid) and psutil.Process(pid).ppid() != os.getpid()]
    from nbcontainer.state import prune

    prune()


def test_stopping_the_scope_ends_the_cell_and_the_next_one_runs() -> None:
    engine = local.open_local()
    assert nbc.run("pass").ok
    name = os.path.basename(os.path.dirname(engine._driver.directories[0]))

    def stop(event: nbc.events.Event) -> None:
        if isinstance(event, nbc.events.Started):
            subprocess.run(["systemctl", "--user", "kill", "--signal=KILL", name], check=True)

    with pytest.raises(nbc.NbcontainerError) as failed:
        nbc.run("import time; time.sleep(60)", mem="64M", on_event=stop)
    assert "\n" not in str(failed.value)
    assert nbc.run("print('next')", mem="64M").stdout == "next\n"


def test_doctor_says_where_containers_nest() -> None:
    done = subprocess.run([sys.executable, "-c", "from nbcontainer.cli import main; main()", "doctor"], capture_output=True, text=True, check=False)
    assert "transient scope of your systemd manager" in done.stdout
    assert "for --mem" in done.stdout
    assert not [name for name in scopes() if "trial" in name]
