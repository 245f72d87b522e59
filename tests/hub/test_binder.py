"""binder/ as repo2docker would use it, where mybinder.org's pods have nothing: no capability, no namespaces, read-only cgroups."""

from __future__ import annotations

import contextlib
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
LIMIT_BYTES = 1 << 30
BUILD_SECONDS, CELL_SECONDS = 240, 120
FIRST_CELLS = """
import json, psutil
from jupyter_client.manager import start_new_kernel

manager, client = start_new_kernel(kernel_name="python3")
shown = []
def take(message):
    content = message["content"]
    shown.append(content.get("text") or content.get("evalue") or "")
def run(code):
    return client.execute_interactive(code, output_hook=take, timeout=120)["content"]["status"]
statuses = [run("%load_ext nbcontainer"), run("%%container --mem 64M --no-live\\nimport os, socket\\nprint('pid', os.getpid(), socket.gethostname())")]
kernel = psutil.Process(manager.provisioner.pid)
machines = [child.cmdline() for child in kernel.children(recursive=True) if "qemu" in child.name()]
client.stop_channels()
manager.shutdown_kernel()
print(json.dumps({"statuses": statuses, "shown": "".join(shown), "machines": machines}))
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
    """A user without rights, in one cgroup of 1 GiB that it cannot change."""

    home: Path
    entrances: tuple[str, ...]

    def run(self, *command: str, seconds: float) -> subprocess.CompletedProcess[str]:
        environment = {
            "PATH": f"{HOME}/venv/bin:/usr/bin:/bin", "HOME": str(self.home), "LANG": "C.UTF-8", "PYTHONDONTWRITEBYTECODE": "1",
            "TMPDIR": str(self.home / "tmp"),
        }  # fmt: skip
        with _filter() as fd:
            confined = ["bwrap", "--dev-bind", "/", "/", "--ro-bind", "/sys/fs/cgroup", "/sys/fs/cgroup", "--seccomp", str(fd), "--cap-add", "ALL"]
            confined += ["setpriv", f"--reuid={USER_ID}", f"--regid={USER_ID}", "--clear-groups", "--bounding-set=-all", "--no-new-privs"]
            return subprocess.run(
                [sys.executable, "-c", _ENTER, *self.entrances, "--", *confined, *command],
                env=environment, cwd=self.home, pass_fds=(fd,), timeout=seconds, check=False, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
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


@pytest.fixture(scope="module")
def pod() -> Iterator[Pod]:
    require(os.geteuid() == 0, "a user without rights is made by root: sudo tests/run --lane hub")
    require((HOME / "venv/bin/nbcontainer").exists(), "a Python for all users: tests/run --lane hub")
    require(shutil.which("bwrap") and shutil.which("qemu-system-x86_64"), "needs bubblewrap and QEMU: apt install bubblewrap qemu-system-x86")
    home = HOME / "binder"
    shutil.rmtree(home, ignore_errors=True)
    (home / "tmp").mkdir(parents=True)
    shutil.copytree(BINDER, home / "binder")
    shutil.copytree(ROOT / "notebooks", home / "notebooks")
    subprocess.run(["chown", "-R", f"{USER_ID}:{USER_ID}", str(home)], check=True)
    driver = open_driver(PLACE, parent="/")
    entrances = delegate.delegate(driver, "pod", Limits(memory_bytes=LIMIT_BYTES, pids=512), 0, 0)
    try:
        yield Pod(home, entrances)
    finally:
        delegate.remove(driver, "pod")
        delegate.remove_place(driver)
        shutil.rmtree(home, ignore_errors=True)


def test_the_pod_has_no_rights(pod: Pod) -> None:
    """Else the rest would prove nothing."""
    assert "Operation not permitted" in pod.run("unshare", "--user", "true", seconds=30).stdout
    assert "must be superuser" in pod.run("mount", "-t", "tmpfs", "none", str(pod.home / "tmp"), seconds=30).stdout
    status = pod.run("grep", "-E", "^(Cap|NoNewPrivs|Seccomp:)", "/proc/self/status", seconds=30).stdout.split()
    capabilities = dict(zip(status[::2], status[1::2], strict=True))
    assert {capabilities[f"Cap{name}:"] for name in ("Inh", "Prm", "Eff", "Bnd", "Amb")} == {"0" * 16}
    assert (capabilities["NoNewPrivs:"], capabilities["Seccomp:"]) == ("1", "2")
    place = next(path for path in pod.entrances if "/memory/" in path or path.count("/") == 5)
    assert "Read-only file system" in pod.run("mkdir", f"{place}/x", seconds=30).stdout


def test_the_first_cell_does_not_wait_for_a_boot(pod: Pod) -> None:
    built = pod.run(str(pod.home / "binder/postBuild"), seconds=BUILD_SECONDS)
    assert built.returncode == 0, built.stdout
    snapshot = {path: path.stat().st_mtime_ns for path in (pod.home / ".cache/nbcontainer/vm").rglob("*") if path.is_file()}
    done = pod.run("python", "-c", FIRST_CELLS, seconds=CELL_SECONDS)
    assert done.returncode == 0, done.stdout
    told = json.loads(done.stdout.splitlines()[-1])
    assert told["statuses"] == ["ok", "ok"], told
    assert re.search(r"^pid 1 \w+$", told["shown"], re.M), told
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
