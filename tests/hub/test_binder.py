"""binder/ as repo2docker would use it, where mybinder.org's pods have nothing: no capability, no namespaces, read-only cgroups."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from facilities import require

from nbcontainer.cgroups import delegate, open_driver
from nbcontainer.linux import seccomp
from nbcontainer.spec import Limits

ROOT = Path(__file__).resolve().parents[2]
BINDER = ROOT / "binder"
HOME = Path(os.environ.get("NBCONTAINER_HUB_HOME", "/nowhere"))
USER_ID = 61235
PLACE = "nbcontainer-binder"
LIMIT_BYTES, BUILD_LIMIT_BYTES = 1 << 30, 4 << 30
BUILD_SECONDS, CELL_SECONDS = 600, 120
REPOSITORY = ("LICENSE", "README.md", "binder", "nbcontainer", "notebooks", "pyproject.toml")
FIRST_NOTEBOOK = "notebooks/en/00-start-here.ipynb"
# Where repo2docker puts things: the environment outside of the home, and the repository as the home.
PREFIX, JOVYAN = "/srv/conda/envs/notebook", "/home/jovyan"
# As somebody does who has clicked on the badge: a server with JupyterLab, its first notebook, cell after cell up to the first in a container.
FIRST_CELLS = f"""
import json, socket, subprocess, time, urllib.request
import nbformat, psutil
from jupyter_client import BlockingKernelClient
from jupyter_core.paths import jupyter_runtime_dir

with socket.socket() as probe:
    probe.bind(("127.0.0.1", 0))
    port = probe.getsockname()[1]
def call(path, body=None):
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(f"http://127.0.0.1:{{port}}/{{path}}", data, {{"Content-Type": "application/json"}})
    return json.load(urllib.request.urlopen(request, timeout=60))
log = open("server.log", "wb")
command = ["jupyter", "lab", "--no-browser", "--ip=127.0.0.1", f"--port={{port}}", "--ServerApp.port_retries=0", "--IdentityProvider.token="]
server = subprocess.Popen([*command, "--ServerApp.disable_check_xsrf=True"], stdout=log, stderr=log)
for attempt in range(600):
    try:
        call("api/status")
        break
    except OSError:
        assert server.poll() is None, open("server.log").read()
        time.sleep(0.1)
kernel = call("api/sessions", {{"path": {FIRST_NOTEBOOK!r}, "name": "", "type": "notebook", "kernel": {{"name": "python3"}}}})["kernel"]["id"]
client = BlockingKernelClient(connection_file=f"{{jupyter_runtime_dir()}}/kernel-{{kernel}}.json")
client.load_connection_file()
client.start_channels()
client.wait_for_ready(timeout=60)
shown = []
def take(message):
    content = message["content"]
    shown.append(content.get("text") or content.get("evalue") or "")
statuses = []
for cell in nbformat.read({FIRST_NOTEBOOK!r}, as_version=4).cells:
    if cell.cell_type == "code":
        shown.clear()
        statuses.append(client.execute_interactive(cell.source, output_hook=take, timeout=120)["content"]["status"])
        if cell.source.startswith("%%container"):
            break
machines = [child.cmdline() for child in psutil.Process(server.pid).children(recursive=True) if "qemu" in child.name()]
client.stop_channels()
server.terminate()
server.wait(30)
print(json.dumps({{"statuses": statuses, "shown": "".join(shown), "machines": machines}}))
"""


def test_the_files_are_those_of_repo2docker() -> None:
    assert {path.name for path in BINDER.iterdir()} == {"apt.txt", "requirements.txt", "runtime.txt", "postBuild"}
    assert os.access(BINDER / "postBuild", os.X_OK)
    assert (BINDER / "postBuild").read_text().startswith("#!/bin/bash\n")
    version = re.fullmatch(r"python-(3\.\d+)\n", (BINDER / "runtime.txt").read_text())
    assert version is not None
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert f"Programming Language :: Python :: {version[1]}" in project["classifiers"]
    extras = re.fullmatch(r"\.\[(.*)\]\n", (BINDER / "requirements.txt").read_text())
    assert extras is not None
    assert set(extras[1].split(",")) <= set(project["optional-dependencies"])
    for package in (BINDER / "apt.txt").read_text().split():
        assert re.fullmatch(r"[a-z0-9][a-z0-9.+-]*", package)


def test_the_badge_leads_to_a_notebook_of_this_repository() -> None:
    repository = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["urls"]["Repository"]
    found = re.search(r"\(https://mybinder\.org/v2/gh/([^/]+/[^/]+)/HEAD\?urlpath=lab/tree/(\S+)\)", (ROOT / "README.md").read_text())
    assert found is not None
    assert repository == f"https://github.com/{found[1]}"
    assert (ROOT / found[2]).is_file()


@dataclass(frozen=True)
class Pod:
    """A user without rights, in a cgroup with a limit that it cannot change, with a /srv and a home as repo2docker makes them.

    Of the machine it has /usr and what else belongs to its system, and nobody's files.
    """

    directory: Path
    entrances: tuple[str, ...]

    def run(self, *command: str, seconds: float) -> subprocess.CompletedProcess[str]:
        environment = {"PATH": f"{PREFIX}/bin:/usr/bin:/bin", "HOME": JOVYAN, "LANG": "C.UTF-8", "PYTHONDONTWRITEBYTECODE": "1"}
        environment |= {name: value for name, value in os.environ.items() if name.startswith("PIP_") or name.lower().endswith("_proxy")}
        with _filter() as fd:
            confined = ["bwrap", "--dev-bind", "/", "/", "--ro-bind", "/sys/fs/cgroup", "/sys/fs/cgroup", "--seccomp", str(fd), "--cap-add", "ALL"]
            confined += [word for place in ("/home", "/root", "/var/tmp") for word in ("--perms", "1777", "--tmpfs", place)]
            for name, place in (("srv", "/srv"), ("home", JOVYAN), ("tmp", "/tmp")):
                confined += ["--bind", str(self.directory / name), place]
            confined += ["--chdir", JOVYAN]
            confined += ["setpriv", f"--reuid={USER_ID}", f"--regid={USER_ID}", "--clear-groups", "--bounding-set=-all", "--no-new-privs"]
            return subprocess.run(
                [sys.executable, "-c", _ENTER, *self.entrances, "--", *confined, *command],
                env=environment, pass_fds=(fd,), timeout=seconds, check=False, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            )  # fmt: skip


_ENTER = """
import os, sys
end = sys.argv.index("--")
for directory in sys.argv[1:end]:
    with open(directory + "/cgroup.procs", "w") as file:
        file.write("0")
os.execvp(sys.argv[end + 1], sys.argv[end + 1:])
"""


@contextlib.contextmanager
def _filter() -> Iterator[int]:
    """What Docker forbids, and more: unshare and clone of namespaces, mounts, setns, keys. A file of BPF instructions."""
    fd = os.memfd_create("filter", 0)
    try:
        os.write(fd, seccomp.build(()))
        os.lseek(fd, 0, os.SEEK_SET)
        yield fd
    finally:
        os.close(fd)


@contextlib.contextmanager
def _pod(name: str, memory_bytes: int) -> Iterator[Pod]:
    driver = open_driver(PLACE, parent="/")
    try:
        yield Pod(HOME / "binder", delegate.delegate(driver, name, Limits(memory_bytes=memory_bytes, pids=512), 0, 0))
    finally:
        delegate.remove(driver, name)
        delegate.remove_place(driver)


@pytest.fixture(scope="module")
def built() -> Iterator[None]:
    """What repo2docker does with a repository, in its order: apt.txt, the repository, requirements.txt, postBuild.

    The environment is of this machine's Python instead of runtime.txt's. It is kept until what is to be in it changes; nbcontainer itself is always installed.
    """
    require(os.geteuid() == 0, "a user without rights is made by root: sudo tests/run --lane hub")
    require((HOME / "venv/bin/python").exists(), "a Python for all users: tests/run --lane hub")
    require(shutil.which("bwrap"), "needs bubblewrap: apt install bubblewrap")
    packages = (BINDER / "apt.txt").read_text().split()
    installed = subprocess.run(["dpkg-query", "-W", *packages], capture_output=True, check=False).returncode == 0
    require(installed, f"what binder/apt.txt names: apt install {' '.join(packages)}")
    directory = HOME / "binder"
    wanted = hashlib.sha256((BINDER / "requirements.txt").read_bytes() + (ROOT / "pyproject.toml").read_bytes()).hexdigest()
    stamp = directory / "stamp"
    kept = stamp.exists() and stamp.read_text() == wanted
    for name in ("home", "tmp") if kept else ("home", "tmp", "srv"):
        shutil.rmtree(directory / name, ignore_errors=True)
    for name in ("home", "tmp", "srv/conda/envs"):
        (directory / name).mkdir(parents=True, exist_ok=True)
    for name in REPOSITORY:
        (shutil.copytree if (ROOT / name).is_dir() else shutil.copy2)(ROOT / name, directory / "home" / name)
    subprocess.run(["chown", "-R", f"{USER_ID}:{USER_ID}", str(directory)], check=True)
    with _pod("build", BUILD_LIMIT_BYTES) as pod:
        python = str((HOME / "venv/bin/python").resolve())
        made = () if kept else ((python, "-m", "venv", PREFIX),)
        for command in (*made, ("pip", "install", "--quiet", "--no-cache-dir", "-r", "binder/requirements.txt"), ("binder/postBuild",)):
            done = pod.run(*command, seconds=BUILD_SECONDS)
            assert done.returncode == 0, done.stdout
    stamp.write_text(wanted)
    yield
    for name in ("home", "tmp"):
        shutil.rmtree(directory / name, ignore_errors=True)


@pytest.fixture(scope="module")
def pod(built: None) -> Iterator[Pod]:
    with _pod("pod", LIMIT_BYTES) as pod:
        yield pod


def test_the_pod_has_no_rights(pod: Pod) -> None:
    """Else the rest would prove nothing."""
    assert "Operation not permitted" in pod.run("unshare", "--user", "true", seconds=30).stdout
    assert "must be superuser" in pod.run("mount", "-t", "tmpfs", "none", "/tmp", seconds=30).stdout
    status = pod.run("grep", "-E", "^(Cap|NoNewPrivs|Seccomp:)", "/proc/self/status", seconds=30).stdout.split()
    capabilities = dict(zip(status[::2], status[1::2], strict=True))
    assert {capabilities[f"Cap{name}:"] for name in ("Inh", "Prm", "Eff", "Bnd", "Amb")} == {"0" * 16}
    assert (capabilities["NoNewPrivs:"], capabilities["Seccomp:"]) == ("1", "2")
    place = next(path for path in pod.entrances if "/memory/" in path or path.count("/") == 5)
    assert "Read-only file system" in pod.run("mkdir", f"{place}/x", seconds=30).stdout


def test_what_runs_is_what_binder_s_files_name(pod: Pod) -> None:
    """nbcontainer and its Linux from requirements.txt, outside of the home; QEMU and the static shell from apt.txt."""
    code = """
import nbcontainer
from nbcontainer.engine.vm import kernelimage, qemu, template
print(nbcontainer.__file__, kernelimage.find(None, template.cache_directory()).image, qemu.find().program)"""
    module, linux, program = pod.run("python", "-P", "-c", code, seconds=30).stdout.split()
    assert re.fullmatch(rf"{PREFIX}/lib/python3\.\d+/site-packages/nbcontainer/__init__\.py", module)
    assert linux.startswith(f"{PREFIX}/lib/"), linux
    for name in (Path(program).name, "busybox"):
        owners = subprocess.run(["dpkg-query", "-S", f"*bin/{name}"], capture_output=True, text=True, check=True).stdout.splitlines()
        assert {owner.partition(":")[0] for owner in owners} & set((BINDER / "apt.txt").read_text().split()), owners
    assert pod.run("ls", "-A", "/root", "/var/tmp", seconds=30).stdout == "/root:\n\n/var/tmp:\n"


def test_the_first_cell_does_not_wait_for_a_boot(pod: Pod) -> None:
    """Beside JupyterLab, within the limit; the snapshot is the one that postBuild made."""
    cache = HOME / "binder/home/.cache/nbcontainer/vm"
    snapshot = {path: path.stat().st_mtime_ns for path in cache.rglob("*") if path.is_file()}
    assert snapshot
    done = pod.run("python", "-c", FIRST_CELLS, seconds=CELL_SECONDS)
    assert done.returncode == 0, done.stdout
    told = json.loads(done.stdout.splitlines()[-1])
    assert len(told["statuses"]) >= 2
    assert set(told["statuses"]) == {"ok"}, told
    assert re.search(r"process +1\n.*\['1'\]\n.*\['lo'\]\n", told["shown"]), told
    assert [("-incoming" in command) for command in told["machines"]] == [True], "one guest, restored from the snapshot"
    assert {path: path.stat().st_mtime_ns for path in snapshot if path.exists()} == snapshot, "which was not made again"
    assert peak_bytes(pod) < LIMIT_BYTES, "with room to the limit"
    assert kills(pod) == 0


def _read(pod: Pod, *names: str) -> str:
    """The first of these files that there is."""
    paths = [Path(directory) / name for directory in pod.entrances for name in names]
    paths += [path.parent.parent / path.name for path in paths]  # of v2's leaf, the limited cgroup is above it
    return next(path.read_text() for path in paths if path.exists())


def peak_bytes(pod: Pod) -> int:
    return int(_read(pod, "memory.max_usage_in_bytes", "memory.peak"))


def kills(pod: Pod) -> int:
    fields = dict(line.split() for line in _read(pod, "memory.oom_control", "memory.events").splitlines())
    return int(fields["oom_kill"])
