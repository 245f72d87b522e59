"""What our configuration for SystemdSpawner gives a student, with the real spawner and the real systemd; run by guest/session.py.

JupyterHub itself would take this slow machine a minute: the hub lane starts it with this configuration. Here, a base
class has what the spawner asks of JupyterHub's.
"""

from __future__ import annotations

import asyncio
import pwd
import sys
import textwrap
import time
import types
from collections.abc import Iterator
from importlib import resources
from pathlib import Path
from typing import Any

import psutil
import pytest
from jupyter_client.blocking.client import BlockingKernelClient
from traitlets import Any as AnyTrait
from traitlets import Float, Integer, List
from traitlets.config import Config, LoggingConfigurable

from guest.session import NAME, SPAWNER

pytestmark = pytest.mark.essential
MIB = 1 << 20
MEMORY_BYTES = 320 * MIB
UNIT = Path(f"/sys/fs/cgroup/system.slice/jupyter-{NAME}-singleuser.service")
RUNTIME = Path(f"/run/jupyter-{NAME}-singleuser")
SECONDS = 90.0
# The server is a shell here, and the kernel its child: both are in the unit's cgroup when the first container is made.
SERVER = 'exec >"$HOME/server.log" 2>&1; mkdir -p work && cd work; "{python}" -m ipykernel_launcher -f "{file}" --transport=ipc --ip="$HOME/ipc"; echo the kernel has ended'


class BaseSpawner(LoggingConfigurable):
    """Of JupyterHub's Spawner, what SystemdSpawner asks for; ``mem_limit`` in bytes, as JupyterHub has it when "2G" was read."""

    user = AnyTrait()
    cmd = List()
    environment = AnyTrait()
    ip = "127.0.0.1"
    mem_limit = AnyTrait().tag(config=True)
    cpu_limit = Float(None, allow_none=True).tag(config=True)
    start_timeout = Integer(60)

    def get_args(self) -> list[str]:
        return []

    def get_env(self) -> dict[str, str]:
        return {name: value(self) if callable(value) else value for name, value in self.environment.items()}


@pytest.fixture(scope="module")
def spawner_class() -> Iterator[Any]:
    hub, spawner, utils = (types.ModuleType(name) for name in ("jupyterhub", "jupyterhub.spawner", "jupyterhub.utils"))
    spawner.Spawner = BaseSpawner  # type: ignore[attr-defined]
    spawner.LocalProcessSpawner = BaseSpawner  # type: ignore[attr-defined] # nbcontainer.jupyter.hub, which the configuration imports, derives from it
    utils.random_port = lambda: 8888  # type: ignore[attr-defined]
    with pytest.MonkeyPatch.context() as patch:
        for module in (hub, spawner, utils):
            patch.setitem(sys.modules, module.__name__, module)
        patch.syspath_prepend(str(SPAWNER.parent))
        from systemdspawner import SystemdSpawner

        yield SystemdSpawner


@pytest.fixture(scope="module")
def configuration(spawner_class: Any) -> Config:
    """The example's, as it is; only that this machine has less memory than its limit."""
    config = Config()
    example = (resources.files("nbcontainer.jupyter") / "examples/systemd_config.py").read_text()
    exec(compile(example, "systemd_config.py", "exec"), {"get_config": lambda: config})
    assert config.SystemdSpawner.mem_limit == "2G"
    config.SystemdSpawner.mem_limit = str(MEMORY_BYTES)
    return config


class Kernel:
    """A student's, in the unit."""

    def __init__(self, home: Path, file: Path) -> None:
        deadline = time.monotonic() + SECONDS
        while not file.exists() or not file.read_text().endswith("}"):
            assert time.monotonic() < deadline, (home / "server.log").read_text()
            time.sleep(0.1)
        self._client = BlockingKernelClient(connection_file=str(file))
        self._client.load_connection_file()
        self._client.start_channels()
        self._client.wait_for_ready(timeout=SECONDS)

    def run(self, code: str) -> tuple[str, str]:
        """(status, all text that is shown). Raises TimeoutError."""
        shown: list[str] = []

        def take(message: dict[str, Any]) -> None:
            content = message["content"]
            shown.append(content.get("text") or "\n".join(content.get("traceback", ())) or content.get("data", {}).get("text/plain", ""))

        reply = self._client.execute_interactive(textwrap.dedent(code), output_hook=take, timeout=SECONDS)
        return reply["content"]["status"], "".join(shown)

    def close(self) -> None:
        self._client.stop_channels()


@pytest.fixture(scope="module")
def spawner(spawner_class: Any, configuration: Config) -> Iterator[Any]:
    home = Path(pwd.getpwnam(NAME).pw_dir)
    file = home / "kernel.json"
    command = ["/bin/sh", "-c", SERVER.format(python=sys.executable, file=file)]
    # As SystemdSpawner does it for JupyterHub's variables; there is no login, so no XDG_RUNTIME_DIR but the configuration's.
    environment = {"PATH": "/usr/bin:/bin", "HOME": str(home), "PYTHONPATH": str(Path.cwd()), "IPYTHONDIR": str(home / "ipython")}
    environment = {**configuration.SystemdSpawner.environment, **environment}
    spawner = spawner_class(config=configuration, user=types.SimpleNamespace(name=NAME, id=1), cmd=command, environment=environment)
    asyncio.run(spawner.start())
    yield spawner
    asyncio.run(spawner.stop())


@pytest.fixture(scope="module")
def kernel(spawner: Any) -> Iterator[Kernel]:
    home = Path(pwd.getpwnam(NAME).pw_dir)
    kernel = Kernel(home, home / "kernel.json")
    assert kernel.run("%load_ext nbcontainer\nimport nbcontainer as nbc") == ("ok", "")
    yield kernel
    kernel.close()


def test_systemd_made_the_limits_and_gave_the_subtree_to_the_student(kernel: Kernel) -> None:
    assert (UNIT / "memory.max").read_text().strip() == str(MEMORY_BYTES)
    assert (UNIT / "pids.max").read_text().strip() == "512"
    assert (UNIT / "cpu.max").read_text().split() == ["100000", "100000"]
    uid = pwd.getpwnam(NAME).pw_uid
    owners = {name: (UNIT / name).stat().st_uid for name in ("", "cgroup.procs", "cgroup.subtree_control", "memory.max", "pids.max", "cpu.max")}
    assert owners == {"": uid, "cgroup.procs": uid, "cgroup.subtree_control": uid, "memory.max": 0, "pids.max": 0, "cpu.max": 0}


def test_a_cell_runs_within_its_own_limit_below_the_unit(kernel: Kernel) -> None:
    cell = "%%container --mem 64M --pids 20 --cpus 0.5 --quiet\nimport os\n"
    inside = "print(os.getpid(), *(open(f'/sys/fs/cgroup/{name}').read().split()[0] for name in ('memory.max', 'pids.max', 'cpu.max')))"
    assert kernel.run(cell + inside) == ("ok", f"1 {64 * MIB} 20 50000\n")
    status, shown = kernel.run(cell + "x = bytearray(100 << 20)")
    assert status == "error"
    assert "Out of memory" in shown
    assert "64 MiB" in shown
    places = kernel.run("from nbcontainer.engine import local; print(*local.open_local()._driver.directories); print(open('/proc/self/cgroup').read())")[1]
    containers, own = places.split()
    assert containers.startswith(f"{UNIT}/")
    assert own.startswith(f"0::/system.slice/{UNIT.name}/"), "processes are in a leaf, so that there can be limits beside it"


def test_what_a_first_container_must_write_is_not_in_the_home(kernel: Kernel) -> None:
    assert kernel.run("%%container --mem 64M --quiet\nprint('first')") == ("ok", "first\n")
    code = "import os, nbcontainer.state; print(nbcontainer.state.state_directory(), os.environ['JUPYTER_RUNTIME_DIR'], os.path.exists(os.path.expanduser('~/.local/state/nbcontainer')))"
    assert kernel.run(code) == ("ok", f"{RUNTIME}/nbcontainer {RUNTIME}/jupyter False\n")
    assert (RUNTIME.stat().st_uid, RUNTIME.stat().st_mode & 0o777) == (pwd.getpwnam(NAME).pw_uid, 0o700)


def test_the_student_cannot_widen_what_systemd_allows(kernel: Kernel) -> None:
    code = f"""
        import os
        for path, text in (("{UNIT}/memory.max", "max"), ("{UNIT}/pids.max", "max"), ("{UNIT}/cpu.max", "max"), ("/sys/fs/cgroup/cgroup.procs", str(os.getpid()))):
            try:
                open(path, "w").write(text)
            except OSError as error:
                print(type(error).__name__)"""
    assert kernel.run(code) == ("ok", "PermissionError\n" * 4)


def test_a_cell_that_asks_for_more_than_its_student_has_meets_the_student_s_limit(kernel: Kernel) -> None:
    """Linux takes the container, not the notebook; and systemd does not stop the server for it."""
    code = """
        kept = 41
        result = nbc.run("data = []\\nwhile True: data.append(bytearray(8 << 20))", mem="1G")
        print(result.outcome, result.signal, result.usage.memory_peak_bytes <= {limit})
        print(result.describe())"""
    status, shown = kernel.run(code.format(limit=MEMORY_BYTES))
    assert status == "ok", shown
    assert shown.splitlines()[0] == "oom 9 True"
    assert "not for --mem 1 GiB" in shown, shown
    assert "a limit around the notebook" in shown
    assert int((UNIT / "memory.peak").read_text()) <= MEMORY_BYTES
    assert kernel.run("print(kept + 1)") == ("ok", "42\n")
    assert kernel.run("%%container --mem 64M\nprint('next')") == ("ok", "next\n")


def test_a_second_process_of_the_student_s_has_containers_too(kernel: Kernel) -> None:
    """As another notebook's kernel would: it begins in the leaf, and its containers are beside it."""
    code = """
        import subprocess, sys
        done = subprocess.run([sys.executable, "-c", "import nbcontainer as nbc; print(nbc.run('print(6 * 7)', mem='64M', workspace='none').stdout)"], capture_output=True, text=True)
        print(done.stdout, done.stderr)"""
    assert kernel.run(code) == ("ok", "42\n\n \n")


def test_stopping_the_server_leaves_nothing(spawner: Any, kernel: Kernel) -> None:
    started = kernel.run("background = nbc.start('import time; time.sleep(1000)', mem='64M', workspace='none')\nprint(background.pid > 1)")
    assert started == ("ok", "True\n")
    assert asyncio.run(spawner.poll()) is None
    pids = [int(line) for path in UNIT.rglob("cgroup.procs") for line in path.read_text().split()]
    assert len(pids) >= 4, "shell, kernel, zygote, container"
    asyncio.run(spawner.stop())
    assert asyncio.run(spawner.poll()) == 1
    deadline = time.monotonic() + SECONDS
    while UNIT.exists() or any(map(psutil.pid_exists, pids)):
        assert time.monotonic() < deadline, f"left: {[pid for pid in pids if psutil.pid_exists(pid)]}"
        time.sleep(0.1)
    assert not RUNTIME.exists()
